//! A routing table by digits, and the way to a key's root.

use std::{collections::BTreeSet, net::SocketAddr, ops::Range};

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

/// Nodes by how many digits they share with this one, and by the digit after that: these two make a slot.
#[derive(Clone, Debug)]
pub(super) struct Table {
    me: Contact,
    /// All nodes with their slots, in the order of these; in a slot the first to come is first.
    nodes: Vec<(u8, Contact)>,
}

/// The slot of a digit at a level.
fn slot(level: usize, digit: usize) -> u8 {
    (16 * level + digit) as u8
}

impl Table {
    pub fn new(me: Contact) -> Self {
        Self {
            me,
            nodes: Vec::new(),
        }
    }

    /// The slot that a node is of; none for this one.
    fn slot_of(&self, node: Contact) -> Option<u8> {
        let level = common(self.me.position, node.position);
        (level < DIGITS).then(|| slot(level, digit(node.position, level)))
    }

    /// Where the nodes of a slot are.
    fn range(&self, slot: u8) -> Range<usize> {
        let begin = self.nodes.partition_point(|(other, _)| *other < slot);
        let rest = self.nodes[begin..].iter();
        begin..begin + rest.take_while(|(other, _)| *other == slot).count()
    }

    /// Where a node would come, if there is room for it and it is not known yet.
    fn place(&self, node: Contact) -> Option<(u8, usize)> {
        let slot = self.slot_of(node)?;
        let range = self.range(slot);
        let nodes = &self.nodes[range.clone()];
        let wants = nodes.len() < MAX_SLOT && nodes.iter().all(|(_, known)| *known != node);
        wants.then_some((slot, range.end))
    }

    /// Whether there is room for a node that is not known yet.
    pub fn wants(&self, node: Contact) -> bool {
        self.place(node).is_some()
    }

    /// Adds a node, if there is room: whether it is new.
    pub fn insert(&mut self, node: Contact) -> bool {
        let place = self.place(node);
        if let Some((slot, at)) = place {
            self.nodes.insert(at, (slot, node));
        }
        place.is_some()
    }

    /// Removes a node: whether its slot is empty now.
    pub fn remove(&mut self, node: Contact) -> bool {
        let Some(slot) = self.slot_of(node) else {
            return false;
        };
        let before = self.range(slot).len();
        self.nodes.retain(|(_, known)| *known != node);
        before > 0 && self.range(slot).is_empty()
    }

    pub fn all(&self) -> impl ExactSizeIterator<Item = Contact> + '_ {
        self.nodes.iter().map(|(_, node)| *node)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// One node for each digit at each level from this one on: together they stand for all nodes that
    /// share so many digits with this one.
    pub fn representatives(&self, level: usize) -> Vec<Contact> {
        let from = self
            .nodes
            .partition_point(|(slot, _)| usize::from(*slot) < 16 * level);
        let slots = self.nodes[from..].chunk_by(|(one, _), (other, _)| one == other);
        slots.map(|nodes| nodes[0].1).collect()
    }

    /// Another node of the slot that this one is of.
    pub fn instead_of(&self, node: Contact) -> Option<Contact> {
        let nodes = &self.nodes[self.range(self.slot_of(node)?)];
        let mut nodes = nodes.iter().map(|(_, known)| *known);
        nodes.find(|known| *known != node)
    }

    /// The next node on the way to a key's root, and the level it goes on from; `None` at the root.
    ///
    /// Where nobody has the key's digit, the next larger digit that somebody has takes its place
    /// (surrogate routing).
    pub fn next_hop(&self, key: Position, level: usize) -> Option<(Contact, usize)> {
        for level in level..DIGITS {
            for step in 0..16 {
                let wanted = (digit(key, level) + step) % 16;
                if wanted == digit(self.me.position, level) {
                    break;
                }
                if let Some(at) = self.range(slot(level, wanted)).next() {
                    return Some((self.nodes[at].1, level + 1));
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
