//! A budget of octets.

use std::time::{Duration, Instant};

/// So many octets a second, and so many at once if nothing was sent for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    octets_per_second: u32,
    burst_octets: u32,
    /// In thousand millionths of an octet: what a nanosecond earns is whole.
    left: u128,
    last: Instant,
}

const NANO: u128 = 1_000_000_000;

impl Budget {
    pub fn new(now: Instant, octets_per_second: u32, burst_octets: u32) -> Self {
        Self {
            octets_per_second,
            burst_octets,
            left: u128::from(burst_octets) * NANO,
            last: now,
        }
    }

    /// Octets that may be sent at most at once.
    pub fn burst(&self) -> usize {
        self.burst_octets as usize
    }

    /// Octets that may be sent now.
    pub fn available(&mut self, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.last).as_nanos()
            * u128::from(self.octets_per_second);
        self.left = (self.left + earned).min(u128::from(self.burst_octets) * NANO);
        self.last = self.last.max(now);
        (self.left / NANO) as usize
    }

    /// Takes octets out of the budget, if they are there.
    pub fn take(&mut self, now: Instant, octets: usize) -> bool {
        let is_there = self.available(now) >= octets;
        if is_there {
            self.left -= octets as u128 * NANO;
        }
        is_there
    }

    /// When so many octets will be there, if ever.
    pub fn when(&self, octets: usize) -> Option<Instant> {
        let needed = (octets as u128 * NANO).saturating_sub(self.left);
        let rate = u128::from(self.octets_per_second);
        if octets > self.burst_octets as usize || rate == 0 {
            return None;
        }
        let nanos = u64::try_from(needed.div_ceil(rate)).ok()?;
        Some(self.last + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is asked for and when: no span of time has more than rate x time + burst, and
        /// what is promised for a time is there then.
        #[test]
        fn never_more_than_rate_times_time_and_burst(
            rate in 1u32..100,
            burst in 1u32..6000,
            steps in prop::collection::vec((0u64..20_000, 0usize..800), 1..200),
        ) {
            let began = Instant::now();
            let mut now = began;
            let mut budget = Budget::new(now, rate, burst);
            let mut taken: Vec<(Duration, usize)> = Vec::new();
            for (wait, octets) in steps {
                now += Duration::from_millis(wait);
                if budget.take(now, octets) {
                    taken.push((now - began, octets));
                } else if let Some(when) = budget.when(octets) {
                    prop_assert!(when > now);
                    prop_assert!(budget.clone().take(when, octets));
                    prop_assert!(!budget.clone().take(when - Duration::from_nanos(1), octets));
                } else {
                    prop_assert!(octets > burst as usize);
                }
            }
            for (first, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (at, octets) in &taken[first..] {
                    sum += octets;
                    let most = (*at - *from).as_secs_f64() * f64::from(rate) + f64::from(burst);
                    prop_assert!(sum as f64 <= most + 1e-3, "{} of {}", sum, most);
                }
            }
        }
    }
}
