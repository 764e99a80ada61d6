//! What a node of Gia tells.

use std::net::SocketAddr;

/// Number of a search of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first walker that found something has told of it.
    Found {
        /// Of which search.
        search: SearchId,
        /// Who has it.
        holders: Vec<SocketAddr>,
        /// How far the walker went.
        hops: u16,
    },
    /// No walker has found anything in time.
    NotFound {
        /// Of which search.
        search: SearchId,
    },
}

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets with walkers that start.
    pub starts: u64,
    /// Walkers in them.
    pub walkers: u64,
    /// Packets with later steps of walkers.
    pub steps: u64,
    /// Walkers in them.
    pub step_receivers: u64,
    /// Beats, and messages with keys: packets.
    pub upkeep: u64,
    /// Receivers of these.
    pub upkeep_receivers: u64,
    /// Queries that were worked on.
    pub worked_on: u64,
    /// Queries that waited for a token.
    pub waited: u64,
    /// Of these, those that waited in vain, or had no room.
    pub given_up: u64,
    /// Queries that came without a good token.
    pub overdrawn: u64,
    /// Queries beyond the capacity: they were dropped.
    pub overload: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// A node's place.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Status {
    /// Its neighbours, and what they can do.
    pub neighbours: Vec<(SocketAddr, u32)>,
    /// How content it is with them, from 0 to 1.
    pub satisfaction: f64,
    /// What it has done.
    pub counters: Counters,
}
