//! Tokens between two neighbours: who has none must not send a query.
//!
//! What is told is how many there were *in all*, so a message that is lost, comes twice or out of
//! order does no harm: the largest number counts. The spender uses each number once; the giver takes
//! each number once, and none that it has not given. The spender tells how many are gone, so that the
//! giver gives no more to whoever has enough: that is for others.

use std::collections::BTreeSet;

/// So many numbers may be on their way, at least, before the oldest can no longer be used.
const WINDOW: u32 = 1024;
/// How many times as many may be on their way as were given at once.
const GRANTS: u32 = 4;
/// Most tokens that a neighbour can save until there are new ones.
const MAX_SAVED: u32 = 32;

/// How many tokens a neighbour keeps that sends nothing, so that it can begin at once: all together
/// as many as the giver works on in a second, or one each.
pub(super) fn most_saved(capacity: u32, degree: usize) -> u32 {
    let degree = u32::try_from(degree).unwrap_or(u32::MAX);
    (capacity / degree.max(1)).clamp(1, MAX_SAVED)
}

/// What a neighbour has given to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Purse {
    given: u32,
    spent: u32,
}

impl Purse {
    /// The neighbour has said how many it has given in all. Of those from before, only so many are
    /// saved; what is new can all be used.
    pub fn told(&mut self, given: u32, most_saved: u32) {
        self.spent = self.spent.max(self.given.saturating_sub(most_saved));
        self.given = self.given.max(given);
    }

    /// How many are gone, in all.
    pub fn spent(&self) -> u32 {
        self.spent
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
    /// Most that were given at once.
    largest: u32,
    fraction: f64,
    /// Numbers up to this are no longer there, as far as is known: sent with a query, or not saved.
    spent: u32,
    /// Queries that came since the last time that some were given.
    used: u32,
    /// Numbers up to this are void.
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
        let whole = whole as u32;
        self.largest = self.largest.max(whole);
        self.given = self.given.saturating_add(whole);
        self.used = 0;
    }

    /// The neighbour has said how many are spent in all.
    pub fn heard(&mut self, spent: u32) {
        self.spent = self.spent.max(spent.min(self.given));
    }

    /// How many more the neighbour can use: twice what it has used since the last time, so that it
    /// gets more while it wants more, and those that it may save; less what it has.
    pub fn wanted(&self, most_saved: u32) -> f64 {
        let left = f64::from(self.given - self.spent) + self.fraction;
        (2.0 * f64::from(self.used) + f64::from(most_saved) - left).max(0.0)
    }

    /// How many there were in all.
    pub fn given(&self) -> u32 {
        self.given
    }

    /// A query came with this number: whether it is good.
    pub fn take(&mut self, number: u32) -> bool {
        // Of those that are no longer there, only the latest may still be on their way.
        let window = WINDOW.max(self.largest.saturating_mul(GRANTS));
        self.void = self.void.max(self.spent.saturating_sub(window));
        self.taken = self.taken.split_off(&(self.void + 1));
        let is_good = number > self.void && number <= self.given && self.taken.insert(number);
        if is_good {
            self.heard(number);
            self.used += 1;
        }
        is_good
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
            purse.told(grant.given(), MAX_SAVED);
            let spent: Vec<u32> = std::iter::from_fn(|| purse.spend()).collect();
            assert!((2500..=2501).contains(&spent.len()), "{}", spent.len());
            assert!(spent.into_iter().all(|number| grant.take(number)));
        }
        // Of what is not spent, only some is saved.
        for _ in 0..5 {
            grant.give(100.0);
            purse.told(grant.given(), MAX_SAVED);
        }
        assert_eq!(purse.left(), 100 + MAX_SAVED);
    }

    /// A large grant can be used also when little is given after it.
    #[test]
    fn a_small_grant_does_not_make_a_large_one_void() {
        let (mut grant, mut purse) = (Grant::default(), Purse::default());
        grant.give(5000.0);
        purse.told(grant.given(), MAX_SAVED);
        grant.give(1.0);
        let spent = std::iter::from_fn(|| purse.spend());
        assert!(spent.into_iter().all(|number| grant.take(number)));
    }

    /// What is given up unused is no sign that more is wanted; what is used is.
    #[test]
    fn who_uses_none_wants_none() {
        let (mut grant, mut purse) = (Grant::default(), Purse::default());
        let beat = |grant: &mut Grant, purse: &mut Purse| {
            grant.heard(purse.spent());
            let wanted = grant.wanted(4);
            grant.give(wanted);
            purse.told(grant.given(), 4);
            wanted
        };
        assert_eq!(beat(&mut grant, &mut purse), 4.0);
        assert_eq!(beat(&mut grant, &mut purse), 0.0);
        for wanted in [12.0, 28.0, 60.0] {
            while let Some(number) = purse.spend() {
                assert!(grant.take(number));
            }
            assert_eq!(beat(&mut grant, &mut purse), wanted);
        }
        // Now it is idle: what it has left is not saved, and it gets no more.
        for _ in 0..5 {
            assert_eq!(beat(&mut grant, &mut purse), 0.0);
        }
        assert_eq!(purse.left(), 4);
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
                        purse.told(given, MAX_SAVED);
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
