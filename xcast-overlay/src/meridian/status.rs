//! What a node of Meridian tells.

use std::{net::SocketAddr, time::Duration};

/// Number of a query of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A query has ended.
    Found {
        /// Which one.
        query: QueryId,
        /// The best node that was found; `None` for this node, if it does not know its address.
        best: Option<SocketAddr>,
        /// The [distance](super::Goal::distance) of that node from the goal: the round trip to a single
        /// target.
        distance: Duration,
        /// How often the query was passed on.
        hops: u8,
        /// Targets that were probed for it, each once for each node that did.
        probes: u32,
    },
    /// A query came to nothing: the targets cannot be reached, or the answer was lost.
    NotFound {
        /// Which one.
        query: QueryId,
    },
}

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Gossip messages, each one packet.
    pub gossips: u64,
    /// Their receivers.
    pub gossip_receivers: u64,
    /// Messages that ask for round trips, each one packet: to new nodes, and to targets.
    pub probes: u64,
    /// Their receivers: this many round trips were measured.
    pub probe_receivers: u64,
    /// Messages that ask the members of rings about targets, each one packet.
    pub ring_asks: u64,
    /// Their receivers.
    pub ring_ask_receivers: u64,
    /// Messages that ask the members of one ring about each other, each one packet.
    pub choices: u64,
    /// Their receivers.
    pub choice_receivers: u64,
    /// Queries taken on for others, and own ones.
    pub queries: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// What a node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Status {
    /// Primary and secondary members of each ring, the innermost first.
    pub rings: Vec<(usize, usize)>,
    /// What it has done.
    pub counters: Counters,
}
