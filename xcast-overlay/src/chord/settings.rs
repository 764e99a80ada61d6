//! Settings of a peer of Chord or of EpiChord.

use std::{net::SocketAddr, time::Duration};

use crate::runtime::{Pace, Policy};

/// Settings of a peer of Chord or of EpiChord.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the overlay: peers of others are not heard.
    pub overlay: String,
    /// Where this peer is. All peers of an overlay are of one family.
    pub address: SocketAddr,
    /// How many successors are known.
    pub successors: usize,
    /// How often the successor is asked for its neighbours; the actual time varies by a fifth.
    pub stabilise: Duration,
    /// How often the routing state is looked after; the actual time varies by a fifth.
    pub upkeep: Duration,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one peer.
    pub pace: Pace,
}

impl Settings {
    /// With the usual bounds, and the upkeep of this overlay.
    pub(crate) fn new(
        overlay: &str,
        address: SocketAddr,
        successors: usize,
        upkeep: Duration,
    ) -> Self {
        Self {
            overlay: overlay.into(),
            address,
            successors,
            stabilise: Duration::from_secs(30),
            upkeep,
            policy: Policy {
                retries: 1,
                transaction_octets: crate::wire::TRANSACTION_OCTETS,
                ..Policy::default()
            },
            pace: Pace::new(100, Duration::from_millis(20)),
        }
    }
}
