//! Budgets of messages and octets.

use std::time::{Duration, Instant};

/// A budget of messages: so many at once, and one more in each interval.
///
/// The virtual scheduling form of the generic cell rate algorithm (ITU-T I.371): one time says it
/// all.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    burst: u32,
    /// When all that was allowed so far would have been sent at the steady rate.
    paid: Option<Instant>,
}

impl Pace {
    /// `burst` messages at once, then one in each `interval`.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            interval,
            burst,
            paid: None,
        }
    }

    /// Most messages that leave within any span of time.
    pub fn most_in(&self, span: Duration) -> u128 {
        u128::from(self.burst) + span.as_nanos() / self.interval.as_nanos().max(1)
    }

    /// Takes one message out of the budget if it may leave within `max_wait`: the time at which it
    /// may.
    pub fn reserve(&mut self, now: Instant, max_wait: Duration) -> Option<Instant> {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        let ahead = self.interval * self.burst.saturating_sub(1);
        let at = paid.checked_sub(ahead).map_or(now, |at| at.max(now));
        if at > now + max_wait {
            return None;
        }
        self.paid = Some(paid + self.interval);
        Some(at)
    }
}

/// A budget of octets: so many at once, and so many a second.
#[derive(Clone, Copy, Debug)]
pub struct OctetPace {
    octets_per_second: u32,
    burst_octets: u32,
    left: u32,
    last: Option<Instant>,
}

impl OctetPace {
    /// `burst_octets` at once, then `octets_per_second`.
    pub const fn new(octets_per_second: u32, burst_octets: u32) -> Self {
        Self {
            octets_per_second,
            burst_octets,
            left: burst_octets,
            last: None,
        }
    }

    /// Takes octets out of the budget, if they are there.
    pub fn take(&mut self, now: Instant, octets: usize) -> bool {
        if let Some(last) = self.last {
            let earned = now.saturating_duration_since(last).as_micros()
                * u128::from(self.octets_per_second)
                / 1_000_000;
            // Without a whole octet the time is not used up, so that it adds up.
            if earned > 0 {
                let left = u128::from(self.left) + earned;
                self.left = u32::try_from(left)
                    .unwrap_or(u32::MAX)
                    .min(self.burst_octets);
                self.last = Some(now);
            }
        } else {
            self.last = Some(now);
        }
        match u32::try_from(octets)
            .ok()
            .and_then(|octets| self.left.checked_sub(octets))
        {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However requests come, no window of ten seconds has more messages than promised.
        #[test]
        fn no_window_has_more_than_promised(gaps_ms in prop::collection::vec(0u64..800, 1..400)) {
            let mut pace = Pace::new(20, Duration::from_millis(500));
            let window = Duration::from_secs(10);
            let mut now = Instant::now();
            let mut sent: Vec<Instant> = Vec::new();
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                sent.extend(pace.reserve(now, Duration::from_secs(3)));
            }
            prop_assert!(sent.is_sorted());
            for (at, first) in sent.iter().enumerate() {
                let within = sent[at..].iter().filter(|time| **time < *first + window).count();
                prop_assert!((within as u128) <= pace.most_in(window), "{within} messages");
            }
        }
    }

    #[test]
    fn octets_come_back_with_time() {
        let start = Instant::now();
        let mut pace = OctetPace::new(1000, 500);
        assert!(pace.take(start, 500));
        assert!(!pace.take(start, 1));
        assert!(!pace.take(start + Duration::from_millis(99), 100));
        assert!(pace.take(start + Duration::from_millis(100), 100));
        assert!(!pace.take(start + Duration::from_secs(100), 501));
    }
}
