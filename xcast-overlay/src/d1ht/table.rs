//! All peers, in the order of the ring.

use std::{net::SocketAddr, sync::Arc};

use crate::ring::{Contact, Position};

/// Changes that are kept apart from the common part, at least.
const MIN_CHANGES: usize = 512;

/// A full routing table.
///
/// It consists of a part that never changes, and of what has changed since. Peers of a simulation
/// share the first: n tables of n entries would be n x n entries. Of 10^4 peers that would be
/// 4 GB; shared, it is 400 kB, and the changes. A table whose changes are many becomes one of its
/// own.
#[derive(Clone, Debug, Default)]
pub struct Table {
    base: Arc<[Contact]>,
    /// In the order of their positions, each once.
    changes: Vec<Change>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    position: Position,
    /// A peer that is not in the base; `None` for one of the base that is gone.
    added: Option<SocketAddr>,
    /// How many of the base are before it.
    before: usize,
    /// How many more entries the table has than the base, up to this change, this included.
    balance: isize,
}

impl Table {
    /// A table that has these peers, and shares them.
    ///
    /// They have to be in the order of their positions, each once.
    pub fn of_shared(peers: Arc<[Contact]>) -> Self {
        debug_assert!(peers.is_sorted_by(|a, b| a.position < b.position));
        Self {
            len: peers.len(),
            base: peers,
            changes: Vec::new(),
        }
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries differ from what is shared.
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The peer at a position.
    pub fn get(&self, position: Position) -> Option<Contact> {
        let at = self.rank(position);
        let found = (at < self.len).then(|| self.at(at)).flatten();
        found.filter(|found| found.position == position)
    }

    /// Adds a peer: whether it is new.
    pub fn insert(&mut self, peer: Contact) -> bool {
        let before = self.base.partition_point(|b| b.position < peer.position);
        let in_base = self
            .base
            .get(before)
            .filter(|b| b.position == peer.position);
        match self.find(peer.position) {
            Ok(at) if self.changes[at].added.is_some() => return false,
            Ok(at) => {
                self.changes.remove(at);
                self.rebalance(at);
            }
            Err(_) if in_base.is_some() => return false,
            Err(at) => self.change(at, peer.position, Some(peer.address), before),
        }
        self.len += 1;
        self.compact();
        true
    }

    /// Removes the peer at a position: whether there was one.
    pub fn remove(&mut self, position: Position) -> bool {
        let before = self.base.partition_point(|b| b.position < position);
        let in_base = self.base.get(before).filter(|b| b.position == position);
        match self.find(position) {
            Ok(at) if self.changes[at].added.is_none() => return false,
            Ok(at) => {
                self.changes.remove(at);
                self.rebalance(at);
            }
            Err(_) if in_base.is_none() => return false,
            Err(at) => self.change(at, position, None, before),
        }
        self.len -= 1;
        self.compact();
        true
    }

    /// How many peers are before a position.
    pub fn rank(&self, position: Position) -> usize {
        let at = self.changes.partition_point(|c| c.position < position);
        let in_base = self.base.partition_point(|b| b.position < position);
        in_base.saturating_add_signed(self.balance_before(at))
    }

    /// The peer with so many before it.
    pub fn at(&self, rank: usize) -> Option<Contact> {
        // Where a change stands among the peers.
        let rank_of = |at: usize, change: &Change| {
            change.before.saturating_add_signed(self.balance_before(at))
        };
        let (mut low, mut high) = (0, self.changes.len());
        while low < high {
            let middle = low.midpoint(high);
            if rank_of(middle, &self.changes[middle]) <= rank {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if let Some(at) = low.checked_sub(1)
            && let change = self.changes[at]
            && let Some(address) = change.added
            && rank_of(at, &change) == rank
        {
            let position = change.position;
            return Some(Contact { position, address });
        }
        let in_base = rank.checked_add_signed(-self.balance_before(low))?;
        self.base.get(in_base).copied()
    }

    /// The first peer at or after a position, which is the one that keys there belong to.
    pub fn successor(&self, position: Position) -> Option<Contact> {
        self.ahead(position, 0)
    }

    /// The peer `steps` after the first one at or after a position, on and on around the ring.
    pub fn ahead(&self, position: Position, steps: usize) -> Option<Contact> {
        let rank = self.rank(position) + steps;
        self.at(rank.checked_rem(self.len)?)
    }

    /// The last peer before a position.
    pub fn predecessor(&self, position: Position) -> Option<Contact> {
        let rank = self.rank(position) + self.len.checked_sub(1)?;
        self.at(rank % self.len)
    }

    /// All peers, from the first one at or after a position, once around the ring.
    pub fn from(&self, position: Position) -> impl Iterator<Item = Contact> + '_ {
        let first = self.rank(position);
        (0..self.len).filter_map(move |step| self.at((first + step) % self.len))
    }

    fn find(&self, position: Position) -> Result<usize, usize> {
        self.changes
            .binary_search_by_key(&position, |change| change.position)
    }

    fn balance_before(&self, at: usize) -> isize {
        at.checked_sub(1).map_or(0, |at| self.changes[at].balance)
    }

    fn change(&mut self, at: usize, position: Position, added: Option<SocketAddr>, before: usize) {
        let change = Change {
            position,
            added,
            before,
            balance: 0,
        };
        self.changes.insert(at, change);
        self.rebalance(at);
    }

    fn rebalance(&mut self, from: usize) {
        let mut balance = self.balance_before(from);
        for change in &mut self.changes[from..] {
            balance += if change.added.is_some() { 1 } else { -1 };
            change.balance = balance;
        }
    }

    fn compact(&mut self) {
        if self.changes.len() > MIN_CHANGES.max(self.base.len() / 4) {
            let all = self.from(Position(0)).collect();
            self.base = all;
            self.changes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn contact(position: u64) -> Contact {
        Contact {
            position: Position(position),
            address: ([192, 0, 2, 1], 1000 + position as u16).into(),
        }
    }

    proptest! {
        /// Whatever is inserted and removed: the table is what an ordered map says.
        #[test]
        fn as_an_ordered_map(
            shared in prop::collection::btree_set(0u64..60, 0..40),
            steps in prop::collection::vec((any::<bool>(), 0u64..60), 0..80),
            asked in 0u64..70,
        ) {
            let base: Arc<[Contact]> = shared.iter().copied().map(contact).collect();
            let mut table = Table::of_shared(base);
            let mut map: BTreeMap<u64, Contact> =
                shared.iter().map(|at| (*at, contact(*at))).collect();
            for (add, at) in steps {
                if add {
                    let new = map.insert(at, contact(at)).is_none();
                    prop_assert_eq!(table.insert(contact(at)), new);
                } else {
                    prop_assert_eq!(table.remove(Position(at)), map.remove(&at).is_some());
                }
                prop_assert_eq!(table.len(), map.len());
                let all: Vec<Contact> = map.values().copied().collect();
                let listed: Vec<Contact> = table.from(Position(0)).collect();
                prop_assert_eq!(&listed, &all);
                for (rank, peer) in all.iter().enumerate() {
                    prop_assert_eq!(table.rank(peer.position), rank);
                    prop_assert_eq!(table.at(rank), Some(*peer));
                    prop_assert_eq!(table.get(peer.position), Some(*peer));
                }
                prop_assert_eq!(table.at(all.len()), None);
                let position = Position(asked);
                let after = map.range(asked..).next().or(map.iter().next()).map(|(_, c)| *c);
                prop_assert_eq!(table.successor(position), after);
                let before = map.range(..asked).next_back().or(map.iter().next_back());
                prop_assert_eq!(table.predecessor(position), before.map(|(_, c)| *c));
            }
        }
    }

    #[test]
    fn many_changes_become_a_table_of_its_own() {
        let mut table = Table::default();
        for at in 0..2000 {
            assert!(table.insert(contact(at * 7 % 2003)));
        }
        assert!(table.changes() <= MIN_CHANGES);
        assert_eq!(table.len(), 2000);
    }
}
