//! What may be combined, and how much may wait.

use std::time::Duration;

/// By which criteria messages are combined, and how much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Longest time a message waits for others (d_q). Longer finds more partners. Default: 5 ms.
    pub max_delay: Duration,
    /// Largest payload to combine into, in octets; a longer message leaves at once, alone.
    /// Default: 1200.
    pub max_payload: usize,
    /// Most destinations to combine for, in one packet or, where they are of both families, in
    /// two; of IPv6 it is 125 at most. A longer list leaves at once, alone. Default: 127.
    pub max_destinations: usize,
    /// Largest packet to combine into, with its IP, Xcast and UDP headers, in octets. Default:
    /// 1472, which leaves room for an outer UDP header within 1500.
    pub max_packet: usize,
    /// Most packets that a message is compared with. Default: 8.
    pub budget: usize,
    /// How much a message must share with a packet to join it: octets of shared segments, in percent
    /// of all octets of segments that the packet would then have. So it also bounds what a receiver
    /// is sent for others. 100 combines only messages of the same segments. Default: 50.
    pub min_overlap_percent: u8,
    /// Most messages that may wait. Default: 65,536.
    pub max_messages: usize,
    /// Most octets that may wait, counted as they were pushed, and some for each destination.
    /// Default: 16 MiB.
    pub max_octets: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_delay: Duration::from_millis(5),
            max_payload: 1200,
            max_destinations: 127,
            max_packet: 1472,
            budget: 8,
            min_overlap_percent: 50,
            max_messages: 1 << 16,
            max_octets: 16 << 20,
        }
    }
}
