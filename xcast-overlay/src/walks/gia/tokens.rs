//! Tokens between two neighbours: who has none must not send a query.
//!
//! What is told is how many there were *in all*, so a message that is lost, comes twice or out of
//! order does no harm: the largest number counts. The spender uses each number once; the giver takes
//! each number once, and none that it has not given.

use std::collections::BTreeSet;

/// So many numbers may be out, at least, before the oldest can no longer be used.
const WINDOW: u32 = 1024;
/// How many times as many may be out as were given at once: some are on their way, or lost.
const GRANTS: u32 = 4;
/// Most tokens that a neighbour can save until there are new ones.
const MAX_SAVED: u32 = 32;

/// What a neighbour has given to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Purse {
    given: u32,
    spent: u32,
}

impl Purse {
    /// The neighbour has said how many it has given in all.
    pub fn told(&mut self, given: u32) {
        if given > self.given {
            // Of those from before, only some are saved; what is new can all be used.
            self.spent = self.spent.max(self.given.saturating_sub(MAX_SAVED));
            self.given = given;
        }
    }

    pub fn left(&self) -> u32 {
        self.given - self.spent
    }

    /// Takes one out: its number.
    pub fn spend(&mut self) -> Option<u32> {
        if self.left() == 0 {
            return None;
        }
        self.spent += 1;
        Some(self.spent)
    }
}

/// What this node has given to a neighbour.
#[derive(Clone, Debug, Default)]
pub(super) struct Grant {
    given: u32,
    /// How many were given the last time.
    latest: u32,
    fraction: f64,
    /// Numbers up to this are void, also when more may be out later.
    void: u32,
    /// Those above that were used.
    taken: BTreeSet<u32>,
}

impl Grant {
    /// Gives some more, parts of a token too.
    pub fn give(&mut self, tokens: f64) {
        self.fraction += tokens;
        let whole = self.fraction.floor();
        self.fraction -= whole;
        self.latest = whole as u32;
        self.given = self.given.saturating_add(self.latest);
    }

    /// How many there were in all.
    pub fn given(&self) -> u32 {
        self.given
    }

    /// A query came with this number: whether it is good.
    pub fn take(&mut self, number: u32) -> bool {
        // What was not used for long is void.
        let window = WINDOW.max(self.latest.saturating_mul(GRANTS));
        self.void = self.void.max(self.given.saturating_sub(window));
        self.taken = self.taken.split_off(&(self.void + 1));
        number > self.void && number <= self.given && self.taken.insert(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that is given in a beat can be spent in it, however much that is.
    #[test]
    fn a_large_grant_can_be_spent() {
        let (mut grant, mut purse) = (Grant::default(), Purse::default());
        for _ in 0..5 {
            grant.give(2500.5);
            purse.told(grant.given());
            let spent: Vec<u32> = std::iter::from_fn(|| purse.spend()).collect();
            assert!((2500..=2501).contains(&spent.len()), "{}", spent.len());
            assert!(spent.into_iter().all(|number| grant.take(number)));
        }
        // Of what is not spent, only some is saved.
        for _ in 0..5 {
            grant.give(100.0);
            purse.told(grant.given());
        }
        assert_eq!(purse.left(), 100 + MAX_SAVED);
    }

    proptest! {
        /// However messages are lost, doubled and late, no more is spent than was given, and nothing
        /// that is spent is refused, unless it is too old.
        #[test]
        fn never_overdrawn(steps in prop::collection::vec((0u8..4, 0usize..20), 1..500)) {
            let (mut grant, mut purse) = (Grant::default(), Purse::default());
            let (mut told, mut queries) = (vec![0], vec![]);
            let (mut spent, mut taken) = (0u32, 0u32);
            for (what, which) in steps {
                match what {
                    0 => {
                        grant.give(which as f64 * 30.0);
                        told.push(grant.given());
                    }
                    // Any message that was ever sent may come now.
                    1 => {
                        let given = told[told.len().saturating_sub(which + 1)];
                        let new = given.saturating_sub(purse.given);
                        purse.told(given);
                        // What is new, and what was saved.
                        prop_assert!(purse.left() >= new && purse.left() <= MAX_SAVED + new || new == 0);
                    }
                    2 => if let Some(number) = purse.spend() {
                        spent += 1;
                        queries.push(number);
                    },
                    _ => if let Some(number) = queries.get(queries.len().saturating_sub(which + 1)) {
                        taken += u32::from(grant.take(*number));
                    },
                }
                prop_assert!(spent <= grant.given() && taken <= spent);
            }
            let mut numbers = queries.clone();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), queries.len());
            prop_assert!(!grant.take(grant.given() + 1));
        }
    }
}
