//! A routing table by digits, and the way to a key's root.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::ring::{Contact, Position};

/// Digits of an identifier, of four bits each.
pub(super) const DIGITS: usize = 16;
/// Nodes that are known for each digit at each level, at most.
const MAX_SLOT: usize = 3;

/// The digit of an identifier at a level, the most significant first.
fn digit(id: Position, level: usize) -> usize {
    (id.0 >> (60 - 4 * level) & 0xf) as usize
}

/// How many digits two identifiers begin with alike.
pub(super) fn common(one: Position, other: Position) -> usize {
    (one.0 ^ other.0).leading_zeros() as usize / 4
}

/// Nodes by how many digits they share with this one, and by the digit after that.
#[derive(Clone, Debug)]
pub(super) struct Table {
    me: Contact,
    slots: Vec<[Vec<Contact>; 16]>,
}

impl Table {
    pub fn new(me: Contact) -> Self {
        Self {
            me,
            slots: vec![Default::default(); DIGITS],
        }
    }

    fn slot(&mut self, node: Contact) -> Option<&mut Vec<Contact>> {
        let level = common(self.me.position, node.position);
        let slots = self.slots.get_mut(level)?;
        slots.get_mut(digit(node.position, level))
    }

    /// Whether there is room for a node that is not known yet.
    pub fn wants(&mut self, node: Contact) -> bool {
        let slot = self.slot(node);
        slot.is_some_and(|slot| slot.len() < MAX_SLOT && !slot.contains(&node))
    }

    /// Adds a node, if there is room: whether it is new.
    pub fn insert(&mut self, node: Contact) -> bool {
        let wants = self.wants(node);
        if wants && let Some(slot) = self.slot(node) {
            slot.push(node);
        }
        wants
    }

    /// Removes a node: whether its slot is empty now.
    pub fn remove(&mut self, node: Contact) -> bool {
        let Some(slot) = self.slot(node) else {
            return false;
        };
        let before = slot.len();
        slot.retain(|known| *known != node);
        before > 0 && slot.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = Contact> + '_ {
        self.slots.iter().flatten().flatten().copied()
    }

    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// One node for each digit at each level from this one on: together they stand for all nodes that
    /// share so many digits with this one.
    pub fn representatives(&self, level: usize) -> Vec<Contact> {
        let slots = self.slots.iter().skip(level).flatten();
        slots.filter_map(|slot| slot.first().copied()).collect()
    }

    /// Another node of the slot that this one is of.
    pub fn instead_of(&mut self, node: Contact) -> Option<Contact> {
        let slot = self.slot(node)?;
        slot.iter().find(|known| **known != node).copied()
    }

    /// The next node on the way to a key's root, and the level it goes on from; `None` at the root.
    ///
    /// Where nobody has the key's digit, the next larger digit that somebody has takes its place
    /// (surrogate routing).
    pub fn next_hop(&self, key: Position, level: usize) -> Option<(Contact, usize)> {
        for (level, slots) in self.slots.iter().enumerate().skip(level) {
            for step in 0..16 {
                let wanted = (digit(key, level) + step) % 16;
                if wanted == digit(self.me.position, level) {
                    break;
                }
                if let Some(node) = slots[wanted].first() {
                    return Some((*node, level + 1));
                }
            }
        }
        None
    }
}

/// The root of a key among nodes, by surrogate routing with complete tables.
pub fn root_of(key: Position, nodes: impl IntoIterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let mut left: Vec<Contact> = nodes.into_iter().map(Contact::of).collect();
    for level in 0..DIGITS {
        let there: BTreeSet<usize> = left
            .iter()
            .map(|node| digit(node.position, level))
            .collect();
        let wanted = (0..16).map(|step| (digit(key, level) + step) % 16);
        let taken = wanted.into_iter().find(|digit| there.contains(digit))?;
        left.retain(|node| digit(node.position, level) == taken);
    }
    left.first().map(|node| node.address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// With complete tables every way ends at the same node, and has no loop.
        #[test]
        fn all_ways_lead_to_the_root(count in 1u16..200, key: u64) {
            let address = |at: u16| SocketAddr::from(([10, 0, (at >> 8) as u8, at as u8], 1));
            let nodes: Vec<Contact> = (0..count).map(|at| Contact::of(address(at))).collect();
            let root = root_of(Position(key), nodes.iter().map(|node| node.address));
            for start in nodes.iter().take(20) {
                let (mut at, mut level) = (*start, 0);
                for _ in 0..=DIGITS {
                    let mut table = Table::new(at);
                    for node in &nodes {
                        table.insert(*node);
                    }
                    match table.next_hop(Position(key), level) {
                        Some((next, from)) => (at, level) = (next, from),
                        None => break,
                    }
                }
                prop_assert_eq!(Some(at.address), root);
            }
        }
    }
}
