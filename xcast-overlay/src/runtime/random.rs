//! Random numbers from a seed that the caller gives.

use std::time::Duration;

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// Where all random numbers of a protocol come from.
///
/// The same seed gives the same numbers, in every version of this crate's dependencies: a run can
/// be repeated octet for octet. The generator is a cipher (ChaCha), because peers see
/// transaction identifiers and must not foretell the next one from them.
#[derive(Clone, Debug)]
pub struct Random(ChaCha12Rng);

impl Random {
    /// A generator of this seed. A node on a network takes the seed from the kernel
    /// (`getrandom(2)`).
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// A generator numbered `number`, for tests and simulations: far fewer than 2^256 of them.
    pub fn from_number(number: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(number))
    }

    /// Random octets.
    pub fn octets<const N: usize>(&mut self) -> [u8; N] {
        let mut octets = [0; N];
        self.0.fill_bytes(&mut octets);
        octets
    }

    /// A number below `bound`, each as likely as the other to within 2^-32 or better; 0 for a
    /// bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Multiply and shift (Lemire 2019), without the rejection that would make it exact.
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A time that is between `(1 - part)` and `(1 + part)` of `period`.
    ///
    /// Periodic actions take it so that nodes that were started together do not act together.
    pub fn jitter(&mut self, period: Duration, part: f64) -> Duration {
        let unit = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        period.mul_f64(1.0 + part * (2.0 * unit - 1.0))
    }

    /// Moves `count` random elements to the front of `list`.
    pub fn choose<T>(&mut self, list: &mut [T], count: usize) {
        for at in 0..count.min(list.len()) {
            let other = at + self.below(list.len() - at);
            list.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value is part of what a seed means: if it changes, recorded runs no longer repeat.
    #[test]
    fn the_stream_stays_the_same() {
        let mut random = Random::from_number(7);
        assert_eq!(random.octets::<8>(), [190, 251, 168, 106, 233, 224, 194, 7]);
    }

    #[test]
    fn numbers_stay_below_the_bound() {
        let mut random = Random::from_number(1);
        assert_eq!(random.below(0), 0);
        let mut seen = [0; 7];
        for _ in 0..7000 {
            seen[random.below(7)] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let mut random = Random::from_number(1);
        let period = Duration::from_secs(100);
        for _ in 0..1000 {
            let jittered = random.jitter(period, 0.2);
            assert!((80..=120).contains(&jittered.as_secs()), "{jittered:?}");
        }
    }
}
