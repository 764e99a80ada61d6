//! Where content is: the latest batch that has something of this hash.
//!
//! Earlier batches with the same hash are chained from there, each content and segment knowing the
//! batch before its own. Where a batch in the middle has left, the chain ends: then some earlier
//! partner is not found, which costs an opportunity and nothing else.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Serial numbers of batches by hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Index(HashMap<u64, u64, RandomState>);

impl Index {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn newest(&self, hash: u64) -> Option<u64> {
        self.0.get(&hash).copied()
    }

    /// Returns the batch that was the newest.
    pub fn insert(&mut self, hash: u64, serial: u64) -> Option<u64> {
        // A chain must not lead back to itself, even if two things in a batch have one hash.
        self.0.insert(hash, serial).filter(|older| *older != serial)
    }

    /// Takes a batch out, and puts an older one in its place, which must still be waiting.
    pub fn remove(&mut self, hash: u64, serial: u64, older: Option<u64>) {
        if self.newest(hash) != Some(serial) {
            return;
        }
        match older {
            Some(older) => self.0.insert(hash, older),
            None => self.0.remove(&hash),
        };
    }
}
