//! Settings of a peer.

use std::{net::SocketAddr, time::Duration};

use super::{grouping::Grouping, theta::Theta};
use crate::runtime::{Pace, Policy};

/// Settings of a peer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: peers of others are not heard.
    pub overlay: String,
    /// Where this peer is. All peers of an overlay are of one family.
    pub address: SocketAddr,
    /// The overlay's usual port: events about peers there are two octets shorter.
    pub usual_port: u16,
    /// Length of intervals.
    pub theta: Theta,
    /// Which messages of an interval share a packet.
    pub grouping: Grouping,
    /// Longest datagram in octets: longer lists of events take several.
    pub max_datagram_octets: usize,
    /// Most peers that are known.
    pub max_peers: usize,
    /// After how many intervals a part of the table is compared with that of the successor; `None`
    /// for never. D1HT has nothing of the kind: it repairs what went wrong in spite of
    /// acknowledgements, for example if many peers died at once.
    pub compare_intervals: Option<u32>,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one peer.
    pub pace: Pace,
}

impl Config {
    /// With the usual bounds.
    pub fn new(overlay: impl Into<String>, address: SocketAddr) -> Self {
        Self {
            overlay: overlay.into(),
            address,
            usual_port: address.port(),
            theta: Theta::USUAL,
            grouping: Grouping::USUAL,
            max_datagram_octets: 1200,
            max_peers: 2_000_000,
            compare_intervals: Some(16),
            policy: Policy {
                retries: 3,
                transaction_octets: crate::wire::TRANSACTION_OCTETS,
                ..Policy::default()
            },
            pace: Pace::new(100, Duration::from_millis(20)),
        }
    }
}
