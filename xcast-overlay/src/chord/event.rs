//! What a peer of a ring overlay tells its owner.

use std::time::Duration;

use crate::ring::{Contact, Position};

/// Names a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub(crate) u64);

/// What a peer of a ring overlay tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has a place on the ring.
    Joined,
    /// A neighbour knows that the peer leaves.
    Left,
    /// A look-up has ended.
    Found {
        /// The look-up.
        lookup: LookupId,
        /// What was looked for.
        key: Position,
        /// Whom it belongs to; `None` if nobody knew.
        owner: Option<Contact>,
        /// How many peers, one after the other, led to who knew: 0 if the peer itself did.
        hops: u32,
        /// How many peers were asked in all; 0 where that cannot be known.
        asked: u32,
        /// How long it took.
        took: Duration,
    },
}
