//! Whom a peer knows besides its neighbours.

use std::time::Instant;

use super::{message::Entry, neighbours::Neighbours};
use crate::ring::{Contact, Position};

/// A peer's routing state: what makes the difference between overlays.
pub(crate) trait Routes {
    /// How many peers a look-up asks at once.
    fn parallel(&self) -> usize;

    /// How many peers an answer is to name.
    fn want(&self) -> u8;

    /// A peer was heard of, itself or through somebody's entry.
    fn learn(&mut self, now: Instant, entry: Entry);

    /// A peer is gone.
    fn failed(&mut self, peer: Contact);

    /// The peers that are best asked for a key, for answers and for own look-ups.
    fn closest(
        &self,
        now: Instant,
        neighbours: &Neighbours,
        key: Position,
        count: usize,
    ) -> Vec<Entry>;

    /// All, or a part of them, for a newcomer.
    fn sample(&self, now: Instant, count: usize) -> Vec<Entry>;

    /// Does what is due: the keys that are to be looked up, each with a number that
    /// [`looked_up`](Self::looked_up) gets.
    fn upkeep(&mut self, now: Instant, neighbours: &Neighbours) -> Vec<(usize, Position)>;

    /// A key of the upkeep belongs to this peer.
    fn looked_up(&mut self, number: usize, owner: Contact);

    /// The next peer clockwise that is known, if there are no successors.
    fn next_after(&self, position: Position) -> Option<Contact>;

    /// How many are known.
    fn len(&self) -> usize;
}
