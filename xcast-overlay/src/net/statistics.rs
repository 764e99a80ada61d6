//! What a driver has done.

use std::{fmt, time::Duration};

use xcast_host::{SenderStatistics, queue::QueueStatistics};

/// What a driver has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Statistics {
    /// Messages of the protocol, each to one receiver or several.
    pub messages: u64,
    /// Their receivers.
    pub receivers: u64,
    /// Of the messages, those that had to be unicast.
    pub unicast_messages: u64,
    /// Datagrams that came in.
    pub received: u64,
    /// Packets that waited because the socket's send buffer was full.
    pub waited: u64,
    /// Receivers that were not sent to. The log has each, at level debug.
    pub failed: u64,
    /// Sum of the times that packets' first messages waited in the queue, in microseconds.
    pub delay_us: u64,
    /// The combining queue. Messages that have a part of its own for each receiver count once for
    /// each.
    pub queue: QueueStatistics,
    /// Packets, by kind and reason.
    pub sender: SenderStatistics,
}

impl Statistics {
    /// Packets that left, of both kinds.
    pub fn packets(&self) -> u64 {
        self.sender.xcast_packets + self.sender.unicast_packets
    }

    /// Messages that the queue combined with others.
    pub fn combined(&self) -> u64 {
        self.queue.whole + self.queue.partial
    }

    /// How long packets waited in the queue, on average.
    pub fn mean_delay(&self) -> Duration {
        let mean = self.delay_us.checked_div(self.queue.packets);
        Duration::from_micros(mean.unwrap_or_default())
    }
}

impl fmt::Display for Statistics {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages to {} receivers left as {} xcast packets and {} datagrams; {} of {} in the \
             queue were combined, which cost {} us on average, {} us at most; {} datagrams came in; \
             {} receivers failed",
            self.messages,
            self.receivers,
            self.sender.xcast_packets,
            self.sender.unicast_packets,
            self.combined(),
            self.queue.pushed,
            self.mean_delay().as_micros(),
            self.queue.longest_delay_us,
            self.received,
            self.failed,
        )
    }
}
