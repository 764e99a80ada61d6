//! What nodes of overlays have, know and are asked for: the same here and on a testbed, so that one can be
//! held against the other.

use xcast_overlay::runtime::Random;

/// Things that are looked for.
pub const THINGS: u64 = 20;

/// Operations between the one that stores something and the one that looks for it.
const LATER: u64 = 200;

/// What a node has: each thing is at one of fifty.
#[must_use]
pub fn things(random: &mut Random) -> Vec<u64> {
    (0..THINGS).filter(|_| random.below(50) == 0).collect()
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

/// The neighbours of a node among `count`, in ascending order, in a graph of rings: two in each. A ring
/// leads on by a step of its own: the first from the one that is wanted on by which it reaches all.
#[must_use]
pub fn neighbours(own: usize, count: usize, wanted: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let both = wanted.into_iter().flat_map(|wanted| {
        // Steps that have no divisor with the count in common reach all.
        let step = (wanted..).find(|step| gcd(*step, count) == 1).unwrap_or(1) % count;
        [(own + step) % count, (own + count - step) % count]
    });
    let mut all: Vec<usize> = both.filter(|other| *other != own).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn gcd(one: usize, other: usize) -> usize {
    if other == 0 {
        one
    } else {
        gcd(other, one % other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_reach_all() {
        for count in [2, 3, 12, 30] {
            let mut reached = vec![false; count];
            let mut left = vec![0];
            while let Some(at) = left.pop() {
                if !std::mem::replace(&mut reached[at], true) {
                    left.extend(neighbours(at, count, [count / 2]));
                }
            }
            assert!(reached.iter().all(|is| *is), "{count}");
        }
        // Whoever is a neighbour has one; steps of 1 and of 5.
        assert_eq!(neighbours(0, 12, [0, 2]), [1, 5, 7, 11]);
        assert!(neighbours(7, 12, [0, 2]).contains(&0));
    }

    #[test]
    fn what_is_looked_for_was_stored() {
        assert_eq!([0, 1, 2].map(earlier), [None, None, None]);
        assert_eq!(earlier(100), Some(49));
        assert_eq!(earlier(1000), Some(800));
    }
}
