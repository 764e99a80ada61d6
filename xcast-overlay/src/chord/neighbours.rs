//! Who is next on the ring.

use std::time::{Duration, Instant};

use crate::ring::{Contact, Position};

/// A peer's successors and its predecessor, as Chord keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    me: Contact,
    max_successors: usize,
    /// In the order of the ring, from this peer on.
    successors: Vec<Contact>,
    predecessor: Option<(Contact, Instant)>,
}

impl Neighbours {
    pub fn new(me: Contact, max_successors: usize) -> Self {
        Self {
            me,
            max_successors,
            successors: Vec::new(),
            predecessor: None,
        }
    }

    pub fn successor(&self) -> Option<Contact> {
        self.successors.first().copied()
    }

    pub fn successors(&self) -> &[Contact] {
        &self.successors
    }

    pub fn predecessor(&self) -> Option<Contact> {
        self.predecessor.map(|(peer, _)| peer)
    }

    /// Whether a peer is the predecessor, or one of the successors.
    pub fn is_one(&self, peer: Contact) -> bool {
        self.predecessor() == Some(peer) || self.successors.contains(&peer)
    }

    /// Whose a key is, if that is this peer's or its successor's. Alone, all keys are one's own.
    pub fn owner(&self, key: Position) -> Option<Contact> {
        let me = self.me.position;
        match (self.predecessor(), self.successor()) {
            (Some(predecessor), _) if key.is_within(predecessor.position, me) => Some(self.me),
            (None, None) => Some(self.me),
            (_, Some(successor)) if key.is_within(me, successor.position) => Some(successor),
            _ => None,
        }
    }

    /// A peer has sent something itself, so it is there. Whether the next on the ring is another
    /// one now.
    pub fn heard(&mut self, peer: Contact) -> bool {
        let is_next = self.is_next(peer);
        if is_next {
            self.successors.insert(0, peer);
            self.successors.truncate(self.max_successors);
        }
        is_next
    }

    /// A peer takes this one for its successor: Chord's notify. Nobody else is taken for the
    /// predecessor: a newcomer that only knows its successor would claim the whole ring.
    pub fn notified(&mut self, now: Instant, peer: Contact) {
        let is_closer = self.predecessor().is_none_or(|predecessor| {
            peer == predecessor
                || peer
                    .position
                    .is_within(predecessor.position, self.me.position)
        });
        if is_closer && peer != self.me {
            self.predecessor = Some((peer, now));
        }
    }

    /// Whether a peer would be the next one, if it is there.
    pub fn is_next(&self, peer: Contact) -> bool {
        peer != self.me
            && self.successor().is_none_or(|next| {
                peer != next && peer.position.is_within(self.me.position, next.position)
            })
    }

    /// The successor has told its neighbours: one that is closer and should be asked next, if there
    /// is any.
    pub fn told(
        &mut self,
        successor: Contact,
        predecessor: Option<Contact>,
        successors: &[Contact],
    ) -> Option<Contact> {
        if self.successor() == Some(successor) {
            self.successors.truncate(1);
            for peer in successors {
                if *peer == self.me || self.successors.len() == self.max_successors {
                    break;
                }
                self.successors.push(*peer);
            }
        }
        predecessor.filter(|peer| {
            *peer != successor
                && *peer != self.me
                && peer
                    .position
                    .is_within(self.me.position, successor.position)
        })
    }

    /// A peer is gone: whether it was the next on the ring.
    pub fn failed(&mut self, peer: Contact) -> bool {
        let was_next = self.successor() == Some(peer);
        self.successors.retain(|successor| *successor != peer);
        if self.predecessor() == Some(peer) {
            self.predecessor = None;
        }
        was_next
    }

    /// Forgets a predecessor that was not heard of for so long.
    pub fn expire(&mut self, now: Instant, after: Duration) {
        self.predecessor = self.predecessor.filter(|(_, heard)| now - *heard < after);
    }

    /// Without any successor: begins with this one, which may be far.
    pub fn begin(&mut self, successor: Contact) {
        if self.successors.is_empty() && successor != self.me {
            self.successors.push(successor);
        }
    }
}
