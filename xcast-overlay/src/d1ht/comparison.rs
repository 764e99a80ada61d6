//! Comparing tables with the successor, a stretch at a time.
//!
//! A peer names a stretch of the ring and the sum of the positions that it knows there. If the
//! successor's is another, it answers with its peers of the stretch. Who is in one of both tables
//! only is asked, all by one packet, whether it is there: who answers is in, who does not is out.

use std::{collections::BTreeSet, time::Instant};

use super::{
    message::Message,
    peer::{Peer, Tag},
};
use crate::{
    krpc::Family,
    ring::{Contact, Position},
};

impl Peer {
    fn stretch_peers(&self) -> usize {
        match self.family {
            Family::Ipv4 => 128,
            Family::Ipv6 => 48,
        }
    }

    fn stretch(&self, first: Position, last: Position) -> impl Iterator<Item = Contact> + '_ {
        let length = first.distance_to(last);
        self.table
            .from(first)
            .take_while(move |peer| first.distance_to(peer.position) <= length)
    }

    /// Asks the successor whether it knows the same peers of the next stretch.
    pub(super) fn ask_to_compare(&mut self, now: Instant) {
        let successor = self.table.ahead(self.me.position, 1);
        let Some(successor) = successor.filter(|successor| *successor != self.me) else {
            return;
        };
        let first = self.compared;
        let count = self.stretch_peers().min(self.table.len());
        let Some(end) = self.table.ahead(first, count) else {
            return;
        };
        // Up to before the next stretch, so that no place on the ring is left out.
        let last = end.position.ahead(u64::MAX);
        self.compared = end.position;
        let sum = sum(self.stretch(first, last));
        let to = vec![(successor.address, Tag::Compare { first, last })];
        self.ask(now, to, &Message::Compare { first, last, sum });
    }

    /// What to answer to a peer that compares.
    pub(super) fn compare(&self, first: Position, last: Position, expected: u64) -> Message {
        // A stretch that is much longer than one's own is not compared to its end, however long it is.
        let most = 2 * self.stretch_peers();
        let mut peers: Vec<Contact> = self.stretch(first, last).take(most + 1).collect();
        if peers.len() <= most && sum(peers.iter().copied()) == expected {
            return Message::Acknowledged;
        }
        // Of a table that has far more, so many as fit: the rest will be found next time.
        peers.truncate(self.stretch_peers() * 5 / 4);
        let are_last = true;
        Message::Peers { are_last, peers }
    }

    /// The successor's peers of a stretch are others.
    pub(super) fn compared(
        &mut self,
        now: Instant,
        first: Position,
        last: Position,
        peers: &[Contact],
    ) {
        self.counters.differences += 1;
        let theirs: BTreeSet<Contact> = peers.iter().copied().collect();
        let ours: BTreeSet<Contact> = self.stretch(first, last).collect();
        let doubtful = theirs.symmetric_difference(&ours);
        let to: Vec<_> = doubtful
            .filter(|peer| **peer != self.me && Family::of(&peer.address) == self.family)
            .map(|peer| (peer.address, Tag::Check))
            .collect();
        self.ask(now, to, &Message::Ping);
    }
}

fn sum(peers: impl Iterator<Item = Contact>) -> u64 {
    peers.fold(0, |sum, peer| sum.wrapping_add(peer.position.0))
}
