//! Settings of a peer.

use std::{net::SocketAddr, time::Duration};

use crate::{
    chord::message::Entry,
    krpc::Family,
    runtime::{Pace, Policy},
};

/// Settings of a peer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: peers of others are not heard.
    pub overlay: String,
    /// Where this peer is. All peers of an overlay are of one family.
    pub address: SocketAddr,
    /// The budget, r: octets a second, with IP, UDP and Xcast headers.
    pub octets_per_second: u32,
    /// Octets that may be sent at once after a silence; an eighth of them only between neighbours on the ring. Longer packets
    /// than this are never sent.
    pub burst_octets: u32,
    /// Whether requests to several peers are one packet, and count as one. If not, they leave as
    /// unicast datagrams, and count as such.
    pub combine: bool,
    /// How many peers a look-up or an exploration asks at once: at least, and at most.
    pub parallel: (usize, usize),
    /// How many successors are known.
    pub successors: usize,
    /// How many entries an answer has.
    pub learnt: usize,
    /// An entry is used while its peer is there with more than this probability.
    pub alive: f64,
    /// Most peers that are known.
    pub max_peers: usize,
    /// How often the successor is asked for its neighbours; the actual time varies by a fifth.
    pub stabilise: Duration,
    /// How often the parallelism is adapted.
    pub adapt: Duration,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one peer.
    pub pace: Pace,
}

impl Config {
    /// With the usual constants, and a budget of so many octets a second.
    pub fn new(overlay: &str, address: SocketAddr, octets_per_second: u32) -> Self {
        let burst_octets = octets_per_second.saturating_mul(100);
        // A look-up with the entries that its answer brings, by the paper's reckoning.
        let entries = 5 * Entry::octets(Family::of(&address)) as u32;
        let most = (burst_octets / (40 + entries)).clamp(1, 6);
        Self {
            overlay: overlay.into(),
            address,
            octets_per_second,
            burst_octets,
            combine: true,
            parallel: (1, most as usize),
            successors: 16,
            learnt: 5,
            alive: 0.9,
            max_peers: 10_000,
            stabilise: Duration::from_secs(144),
            adapt: Duration::from_secs(5),
            policy: Policy {
                retries: 1,
                transaction_octets: crate::wire::TRANSACTION_OCTETS,
                ..Policy::default()
            },
            pace: Pace::new(100, Duration::from_millis(20)),
        }
    }
}
