//! How a driver works.

use std::sync::mpsc::Sender;

use xcast_host::{Settings as SenderSettings, Uplink, envelope::Tag, queue::QueueLimits};

use super::fanout::Fanout;

/// How a driver works. The default has no router: all is unicast.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How messages leave: the uplink to the first router, sizes, probes.
    pub sender: SenderSettings,
    /// How messages are combined. [`QueueLimits::max_delay`] is d_q, to which the runtime's timers
    /// may add 2 ms; with zero, only what the protocol says at one moment is combined.
    pub combining: QueueLimits,
    /// The tag by which this host's part of an envelope is found, if others may send it some.
    pub tag: Option<Tag>,
    /// Receive buffer of the socket in octets, as far as the kernel grants it
    /// (`net.core.rmem_max`). Requests to many bring their answers all at once.
    pub receive_buffer_octets: usize,
    /// Where each message is noted that leaves, if somebody wants to count it: the simulator, which
    /// makes of it what crosses each link.
    pub fanouts: Option<Sender<Fanout>>,
}

impl Settings {
    /// The default settings with this uplink.
    pub fn new(uplink: Uplink) -> Self {
        Self {
            sender: SenderSettings::new(uplink),
            combining: QueueLimits::default(),
            tag: None,
            receive_buffer_octets: 1 << 20,
            fanouts: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(Uplink::Unicast)
    }
}
