//! Chord's fingers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{message::Entry, neighbours::Neighbours, routes::Routes};
use crate::ring::{Contact, Position};

/// For each power of two the first peer that is at least so far ahead.
#[derive(Clone, Debug, Default)]
pub struct Fingers {
    me: Position,
    fingers: BTreeMap<usize, Contact>,
}

impl Fingers {
    pub(super) fn new(me: Position) -> Self {
        Self {
            me,
            fingers: BTreeMap::new(),
        }
    }
}

fn entry(peer: Contact) -> Entry {
    Entry {
        peer,
        alive_s: 0,
        since_s: 0,
    }
}

impl Routes for Fingers {
    fn parallel(&self) -> usize {
        1
    }

    fn want(&self) -> u8 {
        1
    }

    fn learn(&mut self, _now: Instant, _entry: Entry) {}

    fn failed(&mut self, peer: Contact) {
        self.fingers.retain(|_, finger| *finger != peer);
    }

    fn closest(
        &self,
        _now: Instant,
        neighbours: &Neighbours,
        key: Position,
        count: usize,
    ) -> Vec<Entry> {
        let known = self.fingers.values().chain(neighbours.successors());
        let preceding: BTreeSet<(u64, Contact)> = known
            .filter(|peer| peer.position != key && peer.position.is_within(self.me, key))
            .map(|peer| (peer.position.distance_to(key), *peer))
            .collect();
        let closest = preceding.into_iter().take(count);
        closest.map(|(_, peer)| entry(peer)).collect()
    }

    fn sample(&self, _now: Instant, count: usize) -> Vec<Entry> {
        let distinct: BTreeSet<Contact> = self.fingers.values().copied().collect();
        distinct.into_iter().take(count).map(entry).collect()
    }

    fn upkeep(&mut self, _now: Instant, neighbours: &Neighbours) -> Vec<(usize, Position)> {
        let Some(successor) = neighbours.successor() else {
            return Vec::new();
        };
        // Fingers that are not the successor itself.
        let near = self.me.distance_to(successor.position);
        (0..64)
            .filter(|bit| 1u64 << bit > near)
            .map(|bit| (bit, self.me.ahead(1 << bit)))
            .collect()
    }

    fn looked_up(&mut self, number: usize, owner: Contact) {
        self.fingers.insert(number, owner);
    }

    fn next_after(&self, position: Position) -> Option<Contact> {
        let ahead = |peer: &&Contact| position.distance_to(peer.position);
        self.fingers.values().min_by_key(ahead).copied()
    }

    fn len(&self) -> usize {
        let distinct: BTreeSet<&Contact> = self.fingers.values().collect();
        distinct.len()
    }
}
