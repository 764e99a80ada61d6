//! What nodes of overlays have, know and are asked for: the same here and on a testbed, so that one can be
//! held against the other.

use std::time::Duration;

use xcast_overlay::runtime::Random;

use crate::random::hash;

/// Things that are looked for.
pub const THINGS: u64 = 20;

/// Operations between the one that stores something and the one that looks for it.
const LATER: u64 = 200;

/// What the node with this number has: of fifty that follow each other one has each thing, and of ten in a
/// network of less than a hundred, so that nothing is at nobody.
#[must_use]
pub fn things(number: usize, count: usize) -> Vec<u64> {
    let of = if count < 100 { 10 } else { 50 };
    let (group, own) = ((number / of) as u64, (number % of) as u64);
    (0..THINGS)
        .filter(|thing| hash(&[group, *thing]) % of as u64 == own)
        .collect()
}

/// The time to the next of events that come at random, so many a second.
pub(super) fn wait(random: &mut Random, rate: f64) -> Duration {
    let unit = (random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
    Duration::from_secs_f64(-unit.ln() / rate)
}

/// What a node of Gia can work on, in messages a second.
#[must_use]
pub fn capacity(random: &mut Random) -> u32 {
    [10, 100, 100, 1000][random.below(4)]
}

/// The number of the operation that stored what this one looks for, if there was one.
#[must_use]
pub fn earlier(serial: u64) -> Option<u64> {
    let then = serial.checked_sub(LATER.min(serial / 2 + 1))?;
    (then > 0).then_some(then)
}

/// The neighbours of a node among `count`, in ascending order, in a graph of rings: two in each ring, which goes
/// through all nodes in an order that its number gives. So walks soon are anywhere, unlike in a lattice.
#[must_use]
pub fn neighbours(own: usize, count: usize, rings: impl IntoIterator<Item = u64>) -> Vec<usize> {
    let both = rings.into_iter().flat_map(|ring| {
        let order = Order { ring, count };
        let at = order.place_of(own);
        [at + 1, at + count - 1].map(|place| order.node_at(place % count))
    });
    let mut all: Vec<usize> = both.filter(|other| *other != own).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// An order of the first `count` numbers, each of which is found without the others: a Feistel network of
/// numbers of twice as many bits as are needed for half of one, gone through until one is small enough
/// (Black and Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002).
struct Order {
    ring: u64,
    count: usize,
}

const ROUNDS: [u64; 4] = [0, 1, 2, 3];

impl Order {
    fn place_of(&self, node: usize) -> usize {
        let through = |number| {
            let rounds = ROUNDS.into_iter();
            rounds.fold(number, |(left, right), round| {
                (right, left ^ self.mixed(right, round))
            })
        };
        self.walk(node, through)
    }

    fn node_at(&self, place: usize) -> usize {
        let back = |number| {
            let rounds = ROUNDS.into_iter().rev();
            rounds.fold(number, |(left, right), round| {
                (right ^ self.mixed(left, round), left)
            })
        };
        self.walk(place, back)
    }

    fn walk(&self, start: usize, step: impl Fn((u64, u64)) -> (u64, u64)) -> usize {
        let (bits, mut at) = (self.half_bits(), start as u64);
        loop {
            let (left, right) = step((at >> bits, at & ((1 << bits) - 1)));
            at = left << bits | right;
            if at < self.count as u64 {
                return at as usize;
            }
        }
    }

    fn half_bits(&self) -> u32 {
        (usize::BITS - self.count.leading_zeros()).div_ceil(2)
    }

    fn mixed(&self, half: u64, round: u64) -> u64 {
        hash(&[self.ring, round, half]) & ((1 << self.half_bits()) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ring_goes_through_all_nodes() {
        for count in [2, 3, 12, 30, 1000] {
            for ring in 0..3 {
                let order = Order { ring, count };
                let mut nodes: Vec<usize> = (0..count).map(|at| order.node_at(at)).collect();
                assert!(
                    nodes
                        .iter()
                        .enumerate()
                        .all(|(at, node)| order.place_of(*node) == at)
                );
                nodes.sort_unstable();
                assert!(nodes.into_iter().eq(0..count));
            }
        }
        // Whoever is a neighbour has one.
        for own in 0..50 {
            let all = neighbours(own, 50, [1, 2]);
            assert!((2..=4).contains(&all.len()) && all.is_sorted());
            assert!(
                all.iter()
                    .all(|other| neighbours(*other, 50, [1, 2]).contains(&own))
            );
        }
    }

    /// Of a thousand nodes with four neighbours each, most are within seven hops: in a lattice 113 would be.
    #[test]
    fn walks_are_soon_anywhere() {
        let (mut reached, mut last) = (std::collections::BTreeSet::from([0]), vec![0]);
        for _ in 0..7 {
            let next = last.iter().flat_map(|at| neighbours(*at, 1000, [1, 2]));
            let next: Vec<usize> = next.collect();
            last = next.into_iter().filter(|at| reached.insert(*at)).collect();
        }
        assert!(reached.len() > 900, "{}", reached.len());
    }

    #[test]
    fn each_thing_is_somewhere() {
        for (count, each) in [(60, 6), (300, 6), (1000, 20)] {
            let all: Vec<u64> = (0..count)
                .flat_map(|number| things(number, count))
                .collect();
            for thing in 0..THINGS {
                assert_eq!(all.iter().filter(|at| **at == thing).count(), each);
            }
        }
    }

    #[test]
    fn what_is_looked_for_was_stored() {
        assert_eq!([0, 1, 2].map(earlier), [None, None, None]);
        assert_eq!(earlier(100), Some(49));
        assert_eq!(earlier(1000), Some(800));
    }
}
