//! What a peer tells its owner.

use std::time::Duration;

use super::news::News;
use crate::ring::{Contact, Position};

/// Names a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub(super) u64);

/// What a [`Peer`](super::Peer) tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has a table, and is known to its neighbours.
    Joined,
    /// The peer has left, and its neighbour has said that it knows.
    Left,
    /// Another peer has come or gone.
    News {
        /// What has happened.
        news: News,
        /// Levels below this one are still to be told by this peer.
        ttl: u8,
    },
    /// A look-up has ended.
    Found {
        /// The look-up.
        lookup: LookupId,
        /// What was looked for.
        key: Position,
        /// Whom it belongs to; `None` if nobody answered.
        owner: Option<Contact>,
        /// How many peers were asked, one after the other.
        hops: u32,
        /// How long it took.
        took: Duration,
    },
}

/// What a peer has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Intervals that have ended.
    pub intervals: u64,
    /// Messages of EDRA: receivers, each once a level.
    pub messages: u64,
    /// Packets by which they left, if a list is one packet.
    pub packets: u64,
    /// Octets of these packets on the link of this peer, and on those of all receivers, with IP, UDP
    /// and Xcast headers. Repetitions and acknowledgements are not in it.
    pub octets: u64,
    /// What the same would be by unicast.
    pub unicast_octets: u64,
    /// Events heard of, each once.
    pub events: u64,
    /// Events heard of once more.
    pub repeated_events: u64,
    /// Events that this peer has seen and reported.
    pub reported: u64,
    /// Messages to peers that turned out to be gone, sent to the next.
    pub redirected: u64,
    /// Comparisons of tables that found a difference.
    pub differences: u64,
    /// Datagrams that are no messages of this overlay.
    pub malformed: u64,
}
