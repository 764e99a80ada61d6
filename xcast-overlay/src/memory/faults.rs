//! What goes wrong on the way, and what was sent.

use std::time::Duration;

/// What happens to datagrams on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of a thousand messages, so many are lost on the sender's first link: for all receivers, if
    /// they share a packet.
    pub first_link_loss: usize,
    /// Of a thousand datagrams, so many are lost after that.
    pub loss: usize,
    /// Of a thousand datagrams, so many arrive twice.
    pub duplicates: usize,
    /// Of a thousand datagrams, so many are cut at a random place.
    pub truncated: usize,
    /// How much longer than usual a datagram may take, so that order is lost.
    pub jitter: Duration,
}

/// Everything at once, in doses that protocols have to live with.
pub const ROUGH: Faults = Faults {
    first_link_loss: 10,
    loss: 20,
    duplicates: 20,
    truncated: 5,
    jitter: Duration::from_millis(40),
};

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages to lists that may share a packet.
    pub shared: u64,
    /// Their receivers.
    pub shared_receivers: u64,
    /// Datagrams by unicast.
    pub unicast: u64,
    /// Octets of all datagrams, each counted once for each receiver.
    pub octets: u64,
    /// The longest datagram in octets.
    pub longest_octets: usize,
}

impl Sent {
    /// Packets that leave: one for each list that may share one, else one for each receiver.
    pub fn packets(&self) -> u64 {
        self.shared + self.unicast
    }

    /// Their receivers, which are the packets without Xcast.
    pub fn receivers(&self) -> u64 {
        self.shared_receivers + self.unicast
    }
}
