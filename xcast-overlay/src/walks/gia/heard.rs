//! Nodes that were heard of, as candidates for neighbours.

use std::{collections::HashMap, net::SocketAddr};

use foldhash::fast::RandomState;

use super::message::Known;
use crate::runtime::Random;

/// Most that are remembered.
const MAX: usize = 128;

/// Nodes that were heard of, and their capacities. Where it is full, a new one takes the place of any.
#[derive(Debug, Default)]
pub(super) struct Heard {
    all: Vec<Known>,
    /// Where each is: never gone through, since its order is not the same in each run.
    places: HashMap<SocketAddr, usize, RandomState>,
}

impl Heard {
    /// Notes a node: what was heard of its capacity last.
    pub fn insert(&mut self, address: SocketAddr, capacity: u32, random: &mut Random) {
        *self.place_of(address, random) = capacity;
    }

    /// Notes a node that somebody named: of what was heard of its capacity, the largest counts.
    pub fn named(&mut self, address: SocketAddr, capacity: u32, random: &mut Random) {
        let known = self.place_of(address, random);
        *known = (*known).max(capacity);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Known> + '_ {
        self.all.iter().copied()
    }

    fn place_of(&mut self, address: SocketAddr, random: &mut Random) -> &mut u32 {
        let at = match self.places.get(&address) {
            Some(at) => *at,
            None if self.all.len() < MAX => {
                self.all.push((address, 0));
                self.all.len() - 1
            }
            None => {
                let at = random.below(MAX);
                let (gone, _) = std::mem::replace(&mut self.all[at], (address, 0));
                self.places.remove(&gone);
                at
            }
        };
        self.places.insert(address, at);
        &mut self.all[at].1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn never_more_than_there_is_room_for() {
        let (mut heard, mut random) = (Heard::default(), Random::from_number(1));
        let address = |number: u16| SocketAddr::from(([198, 51, 100, 1], number));
        for number in 0..1000 {
            heard.insert(address(number), 1, &mut random);
            heard.named(address(number), 10, &mut random);
            heard.named(address(number), 5, &mut random);
            assert!(heard.iter().any(|known| known == (address(number), 10)));
            assert_eq!(heard.iter().count(), usize::from(number + 1).min(MAX));
        }
        // Each stands there once, and whose capacity is told is believed itself.
        let all: BTreeSet<_> = heard.iter().map(|(address, _)| address).collect();
        assert_eq!(all.len(), MAX);
        for address in all {
            heard.insert(address, 3, &mut random);
        }
        assert!(heard.iter().all(|(_, capacity)| capacity == 3));
    }
}
