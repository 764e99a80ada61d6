//! What becomes of routes that do not fit: their destinations go to the kernel's stack, which has all routes.
//!
//! Without its route, a destination would follow the next shorter prefix, another way than the kernel's. So the
//! shortest part of the map that could not be divided further, a *cover*, leads to the stack as a whole, whatever its own
//! route says, until there is room.

use std::collections::{BTreeMap, btree_map};

use xcast_common::maps::NEXT_HOP_STACK_ROOM;

use super::trie::{Full, Memory, Prefix, Trie};

/// A route map in which nothing follows a wrong route, even if it is full.
pub struct Overflow<M> {
    trie: Trie<M>,
    /// By the prefix that leads to the stack.
    covers: BTreeMap<Prefix, Cover>,
    /// Routes that do not fit, with the cover of each.
    waiting: BTreeMap<Prefix, Prefix>,
}

/// A prefix that leads to the stack.
struct Cover {
    /// The next hop that its own route has.
    route: Option<u32>,
    /// Routes in it that do not fit.
    waiting: usize,
}

impl<M: Memory> Overflow<M> {
    /// Takes over a trie without routes.
    pub fn new(trie: Trie<M>) -> Self {
        Self {
            trie,
            covers: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The trie, with the covers as routes.
    pub fn trie(&self) -> &Trie<M> {
        &self.trie
    }

    /// The memory that readers see.
    pub fn memory_mut(&mut self) -> &mut M {
        self.trie.memory_mut()
    }

    /// Adds a route or changes its next hop.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no room for it. Its destinations lead to the stack then, until it is added again with
    /// success, or removed.
    pub fn insert(&mut self, prefix: Prefix, next_hop: u32) -> Result<(), Full> {
        if let Some(cover) = self.covers.get_mut(&prefix) {
            cover.route = Some(next_hop);
        } else if let Err(no_room) = self.trie.insert(prefix, next_hop) {
            self.wait(prefix, no_room.around);
            return Err(no_room.source);
        }
        self.settle(prefix);
        Ok(())
    }

    /// Removes a route, if there is one.
    pub fn remove(&mut self, prefix: Prefix) {
        if let Some(cover) = self.covers.get_mut(&prefix) {
            cover.route = None;
        } else {
            self.trie.remove(prefix);
        }
        self.settle(prefix);
    }

    /// A route does not fit, and what is around it leads to the stack.
    fn wait(&mut self, prefix: Prefix, around: Prefix) {
        // The new cover first: nothing is without one meanwhile.
        let cover = self.cover(around);
        self.settle(prefix);
        self.waiting.insert(prefix, cover);
    }

    /// Has a prefix lead to the stack for one route more; returns the prefix that does, which may be shorter.
    fn cover(&mut self, mut prefix: Prefix) -> Prefix {
        loop {
            if let Some(cover) = self.covers.get_mut(&prefix) {
                cover.waiting += 1;
                return prefix;
            }
            let route = self.trie.get(prefix);
            match self.trie.insert(prefix, NEXT_HOP_STACK_ROOM) {
                Ok(()) => {
                    self.covers.insert(prefix, Cover { route, waiting: 1 });
                    return prefix;
                }
                // Shorter each time; the root's entries are always there.
                Err(no_room) => prefix = no_room.around,
            }
        }
    }

    /// A route does not wait for room any more. If it was the last one in its cover, that has its own route again.
    fn settle(&mut self, prefix: Prefix) {
        let Some(around) = self.waiting.remove(&prefix) else {
            return;
        };
        let btree_map::Entry::Occupied(mut entry) = self.covers.entry(around) else {
            return;
        };
        entry.get_mut().waiting -= 1;
        if entry.get().waiting > 0 {
            return;
        }
        match entry.remove().route {
            // There is room for it: the cover was there.
            Some(next_hop) => drop(self.trie.insert(around, next_hop)),
            None => drop(self.trie.remove(around)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xcast_common::maps::{NEXT_HOP_NO_ROUTE, lpm::ROOT_BITS};

    use super::*;
    use crate::datapath::routes::heap::Heap;

    fn prefix(address: u32, len: u8) -> Prefix {
        let bits = u128::from(address) << 96;
        Prefix { bits, len: 128 }.leading(len)
    }

    /// Addresses that meet often: few values in each octet.
    fn crowded() -> impl Strategy<Value = u32> {
        let octet = || prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(255)];
        (octet(), octet(), octet(), octet())
            .prop_map(|(a, b, c, d)| u32::from_be_bytes([a, b, c, d]))
    }

    fn wanted(routes: &BTreeMap<Prefix, u32>, address: u32) -> u32 {
        (0..=32)
            .rev()
            .find_map(|len| routes.get(&prefix(address, len)).copied())
            .unwrap_or(NEXT_HOP_NO_ROUTE)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever does not fit: every address has the next hop it should have, or the stack.
        #[test]
        fn nothing_follows_a_wrong_route(
            steps in proptest::collection::vec((crowded(), 0u8..=32, 0u32..4), 1..80),
            limit in 0usize..4,
        ) {
            let trie = Trie::new(Heap::new(limit, ROOT_BITS), ROOT_BITS);
            let mut map = Overflow::new(trie);
            let mut routes = BTreeMap::new();
            let mut refused = BTreeMap::new();
            let mut probes = Vec::new();
            for (address, len, next_hop) in steps {
                let route = prefix(address, len);
                probes.push(address);
                refused.remove(&route);
                if next_hop == 0 {
                    map.remove(route);
                    routes.remove(&route);
                } else {
                    if map.insert(route, next_hop).is_err() {
                        refused.insert(route, next_hop);
                    }
                    routes.insert(route, next_hop);
                }
                prop_assert_eq!(map.waiting.len(), refused.len());
                prop_assert_eq!(map.covers.is_empty(), refused.is_empty());
                for &probe in probes.iter().rev().take(12) {
                    let found = map.trie().lookup(u128::from(probe) << 96);
                    let right = wanted(&routes, probe);
                    let covered = found == NEXT_HOP_STACK_ROOM && !refused.is_empty();
                    prop_assert!(found == right || covered, "{:#x}: {} for {}", probe, found, right);
                }
                for route in refused.keys() {
                    let found = map.trie().lookup(route.bits);
                    prop_assert!(found != NEXT_HOP_NO_ROUTE);
                }
            }
            // With room for all of them, each one has what it should have.
            map.memory_mut().limit = usize::MAX;
            for (&route, &next_hop) in &refused {
                prop_assert!(map.insert(route, next_hop).is_ok());
            }
            prop_assert!(map.covers.is_empty() && map.waiting.is_empty());
            for &probe in &probes {
                let found = map.trie().lookup(u128::from(probe) << 96);
                prop_assert_eq!(found, wanted(&routes, probe));
            }
            for &route in routes.keys() {
                map.remove(route);
            }
            prop_assert!(map.trie().is_empty());
            prop_assert_eq!(map.trie().blocks(), 0);
            prop_assert!(map.trie().memory().segments.is_empty());
        }
    }
}
