//! Random numbers from a seed, the same on every machine and with every version of any crate.
//!
//! The stream is PCG XSL RR 128/64 (O'Neill 2014). What is made of it is written out here, because
//! distributions of general crates may change from one release to the next.

use rand_pcg::{
    Pcg64,
    rand_core::{Rng as _, SeedableRng as _},
};

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(Pcg64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Pcg64::seed_from_u64(seed))
    }

    /// A stream for one purpose of a seed, so that more draws for one do not change another.
    #[must_use]
    pub fn for_purpose(seed: u64, purpose: &str) -> Self {
        let words = purpose.bytes().map(u64::from);
        Self::new(words.fold(hash(&[seed]), |sum, word| hash(&[sum, word])))
    }

    /// All 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, each equally likely (Lemire 2019).
    ///
    /// # Panics
    ///
    /// `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "no number is below 0");
        let bound = bound as u64;
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// A number from 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Puts the items into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    /// `count` different numbers below `bound`, in random order (Floyd's algorithm, shuffled).
    ///
    /// # Panics
    ///
    /// `count` is above `bound`.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        assert!(count <= bound, "there are no {count} numbers below {bound}");
        let mut chosen = std::collections::HashSet::with_capacity(count);
        let mut numbers = Vec::with_capacity(count);
        for last in bound - count..bound {
            let number = self.below(last + 1);
            let number = if chosen.contains(&number) {
                last
            } else {
                number
            };
            chosen.insert(number);
            numbers.push(number);
        }
        self.shuffle(&mut numbers);
        numbers
    }
}

/// A hash that is the same on every machine: the finalizer of `SplitMix64` (Steele 2014) over each
/// word.
#[must_use]
pub fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| {
        let mut value = (sum ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded once: another version of a crate that changed these would change every result.
    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut random = Random::new(1);
        let bits: Vec<_> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(bits, RECORDED);
        assert_eq!(Random::new(3).distinct(5, 1000), DISTINCT);
    }
    const RECORDED: [u64; 3] = [
        15_492_934_433_077_865_799,
        319_104_231_195_455_319,
        2_101_115_697_694_094_752,
    ];
    const DISTINCT: [usize; 5] = [111, 424, 225, 546, 835];

    #[test]
    fn numbers_are_in_range_and_even() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[random.below(6)] += 1;
        }
        // Six standard deviations of a binomial count: 6 * sqrt(60000 * 1/6 * 5/6) = 548.
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 548),
            "{counts:?}"
        );
        let mean = (0..10_000).map(|_| random.unit()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn distinct_numbers_are_distinct() {
        let mut random = Random::new(3);
        for bound in 1..40 {
            let mut all = random.distinct(bound, bound);
            all.sort_unstable();
            assert_eq!(all, (0..bound).collect::<Vec<_>>());
        }
    }

    #[test]
    fn purposes_have_streams_of_their_own() {
        let first = Random::for_purpose(1, "topology").bits();
        assert_ne!(first, Random::for_purpose(1, "hosts").bits());
        assert_eq!(first, Random::for_purpose(1, "topology").bits());
    }
}
