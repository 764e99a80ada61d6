//! A look-up that asks several peers at a time, step by step towards a key.
//!
//! It knows nothing of messages or time. [`Lookup::next`] says whom to ask; answers bring peers that
//! are closer. A round begins as soon as there is somebody closer than all that were asked, or when
//! nobody is left to answer.

use std::collections::BTreeMap;

use crate::ring::{Contact, Position};

/// Most peers that a look-up asks.
const MAX_ASKED: usize = 128;

/// A look-up.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub key: Position,
    parallel: usize,
    /// By how far the key is from them, going clockwise: the closest first. A peer just after the
    /// key is the farthest.
    candidates: BTreeMap<u64, Candidate>,
    waiting: usize,
    asked: usize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    peer: Contact,
    hops: u32,
    was_asked: bool,
}

impl Lookup {
    pub fn new(key: Position, parallel: usize) -> Self {
        Self {
            key,
            parallel,
            candidates: BTreeMap::new(),
            waiting: 0,
            asked: 0,
        }
    }

    /// How many peers were asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Peers that may know more, so many hops away.
    pub fn add(&mut self, peers: impl IntoIterator<Item = Contact>, hops: u32) {
        for peer in peers {
            let distance = peer.position.distance_to(self.key);
            self.candidates.entry(distance).or_insert(Candidate {
                peer,
                hops,
                was_asked: false,
            });
        }
    }

    /// An answer came: how many hops away it is.
    pub fn answered(&mut self, peer: Contact) -> u32 {
        self.waiting = self.waiting.saturating_sub(1);
        let candidate = self.candidates.get(&peer.position.distance_to(self.key));
        candidate.map_or(1, |candidate| candidate.hops)
    }

    /// A peer is silent.
    pub fn silent(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whom to ask now. Nobody if there is somebody to wait for; `None` if there is nobody left.
    pub fn next(&mut self) -> Option<Vec<Contact>> {
        let is_closer = self
            .candidates
            .values()
            .next()
            .is_some_and(|closest| !closest.was_asked);
        if self.waiting > 0 && !is_closer {
            return Some(Vec::new());
        }
        let room = self.parallel.min(MAX_ASKED.saturating_sub(self.asked));
        let mut next = Vec::new();
        // The one just after the key is as good as the one just before it: it may be the owner, or
        // know who is between. One of a round, if it asks several.
        if room > 1
            && let Some(after) = self.candidates.values_mut().next_back()
            && !after.was_asked
            && after.peer.position.distance_to(self.key) > u64::MAX / 2
        {
            after.was_asked = true;
            next.push(after.peer);
        }
        let open = self.candidates.values_mut().filter(|c| !c.was_asked);
        for candidate in open.take(room - next.len()) {
            candidate.was_asked = true;
            next.push(candidate.peer);
        }
        self.waiting += next.len();
        self.asked += next.len();
        (self.waiting > 0).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(position: u64) -> Contact {
        Contact {
            position: Position(position),
            address: ([192, 0, 2, 1], position as u16).into(),
        }
    }

    #[test]
    fn one_at_a_time_goes_closer() {
        let mut lookup = Lookup::new(Position(100), 1);
        lookup.add([peer(10), peer(50)], 1);
        assert_eq!(lookup.next(), Some(vec![peer(50)]));
        assert_eq!(lookup.next(), Some(vec![]));
        assert_eq!(lookup.answered(peer(50)), 1);
        lookup.add([peer(90), peer(20)], 2);
        assert_eq!(lookup.next(), Some(vec![peer(90)]));
        lookup.silent();
        assert_eq!(lookup.next(), Some(vec![peer(20)]));
        lookup.silent();
        assert_eq!(lookup.next(), Some(vec![peer(10)]));
        lookup.silent();
        assert_eq!(lookup.next(), None);
    }

    #[test]
    fn several_at_a_time_ask_the_next_one_too() {
        let mut lookup = Lookup::new(Position(100), 3);
        lookup.add([peer(10), peer(50), peer(70), peer(105)], 1);
        assert_eq!(lookup.next(), Some(vec![peer(105), peer(70), peer(50)]));
        // Somebody closer: no need to wait for the others.
        lookup.answered(peer(50));
        lookup.add([peer(95)], 2);
        assert_eq!(lookup.next(), Some(vec![peer(95), peer(10)]));
    }
}
