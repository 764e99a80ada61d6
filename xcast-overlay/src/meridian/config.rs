//! Settings of a node of Meridian.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use crate::runtime::{Pace, Policy};

/// Settings of a [`Node`](super::Node). [`Config::new`] has those of the paper where it names them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// Nodes by way of which to join.
    pub seeds: Vec<SocketAddr>,
    /// Number of rings. Ring i has nodes with round trips up to alpha s^i; the last has all others.
    /// Default: 10.
    pub rings: usize,
    /// alpha: the innermost ring's radius. Default: 1 ms.
    pub alpha: Duration,
    /// s: how much larger each ring is than the one inside. Default: 2.
    pub s: f64,
    /// k: primary members of a ring, those that are asked. Default: 16.
    pub primary: usize,
    /// l: secondary members of a ring, which may replace them. Default: 4.
    pub secondary: usize,
    /// beta: the share of the distance within which ring members are asked, and to which the
    /// distance must shrink for a query to be passed on. Default: 0.5.
    pub beta: f64,
    /// How often a node gossips. Default: 30 s.
    pub gossip: Duration,
    /// How often during the first minute, so that rings fill soon. Default: 5 s.
    pub first_gossip: Duration,
    /// How often the members of each ring are chosen anew. Default: 60 s.
    pub replacement: Duration,
    /// How long a measured round trip is taken for true. Default: 60 s.
    pub fresh: Duration,
    /// Most hops of a query. Default: 20.
    pub max_hops: u8,
    /// How others are asked.
    pub policy: Policy,
    /// Budget of messages to one node.
    pub pace: Pace,
}

impl Config {
    /// The usual settings.
    pub fn new(name: impl Into<Bytes>, seeds: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            seeds,
            rings: 10,
            alpha: Duration::from_millis(1),
            s: 2.0,
            primary: 16,
            secondary: 4,
            beta: 0.5,
            gossip: Duration::from_secs(30),
            first_gossip: Duration::from_secs(5),
            replacement: Duration::from_secs(60),
            fresh: Duration::from_secs(60),
            max_hops: 20,
            policy: Policy {
                retries: 1,
                ..Policy::default()
            },
            pace: Pace::new(64, Duration::from_millis(100)),
        }
    }
}
