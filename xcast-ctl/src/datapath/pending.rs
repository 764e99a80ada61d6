//! Fan-outs that traffic asked for and that have no device map yet.
//!
//! Anybody who can send packets can ask, with ever new sets of ports; so this is bounded. What is asked
//! for most often comes first, then what was asked for last: a stream asks with each of its packets, and a
//! flood of different sets asks for each of them once.

use std::collections::HashMap;

use xcast_common::maps::FanoutKey;

/// Fan-outs that may wait.
const CAPACITY: usize = 1024;

/// The fan-outs that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// How often each was asked for, and when last.
    asked: HashMap<FanoutKey, (u32, u64)>,
    /// Counts what is asked for.
    clock: u64,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Takes note of fan-outs that are wanted.
    pub(super) fn ask(&mut self, keys: impl IntoIterator<Item = FanoutKey>) {
        for key in keys {
            self.clock += 1;
            let (times, last) = self.asked.entry(key).or_default();
            *times = times.saturating_add(1);
            *last = self.clock;
            if self.asked.len() >= 2 * CAPACITY {
                let first = self.first(CAPACITY);
                self.asked.retain(|key, _| first.contains_key(key));
            }
        }
    }

    /// Takes out those that come first, so many at most.
    pub(super) fn take(&mut self, most: usize) -> Vec<FanoutKey> {
        let first = self.first(most);
        for key in first.keys() {
            self.asked.remove(key);
        }
        first.into_keys().collect()
    }

    fn first(&self, most: usize) -> HashMap<FanoutKey, (u32, u64)> {
        let mut all: Vec<_> = self.asked.iter().map(|(key, rank)| (*key, *rank)).collect();
        if all.len() > most {
            all.select_nth_unstable_by(most, |(_, one), (_, other)| other.cmp(one));
            all.truncate(most);
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> FanoutKey {
        let mut key = FanoutKey::EMPTY;
        key.copies[..4].copy_from_slice(&number.to_ne_bytes());
        key
    }

    #[test]
    fn what_is_asked_for_again_comes_before_a_flood() {
        let mut pending = Pending::default();
        pending.ask((0..50_000).map(key));
        pending.ask([key(1_000_000); 3]);
        pending.ask((50_000..100_000).map(key));
        assert!(pending.asked.len() < 2 * CAPACITY);
        assert_eq!(pending.take(1), [key(1_000_000)]);
        // Then the newest.
        assert_eq!(pending.take(1), [key(99_999)]);
    }

    #[test]
    fn everything_is_taken_once() {
        let mut pending = Pending::default();
        pending.ask([key(1), key(2), key(1)]);
        let mut taken = pending.take(10);
        taken.sort_by_key(|key| key.copies);
        assert_eq!(taken, [key(1), key(2)]);
        assert!(pending.is_empty());
    }
}
