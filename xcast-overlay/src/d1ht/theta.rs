//! How long an interval is.

use std::time::Duration;

/// How a peer finds the length of its intervals, Theta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Theta {
    /// It is given.
    Fixed(Duration),
    /// It follows from what the peer observes.
    Observed {
        /// The share of table entries that may be stale: 0.01 in D1HT.
        stale: f64,
        /// How long peers stay on average, until the peer has observed something else.
        session: Duration,
        /// Bounds.
        min: Duration,
        /// Bounds.
        max: Duration,
    },
}

impl Theta {
    /// As in D1HT, where peers stay for 174 minutes (Saroiu et al. saw that of Gnutella's).
    pub const USUAL: Self = Self::Observed {
        stale: 0.01,
        session: Duration::from_secs(174 * 60),
        min: Duration::from_millis(500),
        max: Duration::from_secs(60),
    };
}

/// rho = ceil(log2 n): how many levels a ring of n peers has.
pub fn levels(peers: usize) -> u32 {
    peers.next_power_of_two().trailing_zeros()
}

/// Theta = 4 f S / (16 + 3 rho), for a share f of stale entries and sessions of S on average.
pub fn theta(stale: f64, session: Duration, peers: usize) -> Duration {
    session.mul_f64(4.0 * stale / (16.0 + 3.0 * f64::from(levels(peers))))
}

/// How many messages of EDRA a peer sends in an interval, on average, if `events` happen in it.
///
/// M(0) is always sent; M(l) if there is an event with a TTL above l. A peer has such of one event
/// if its distance from the peer that reports it is a multiple of 2^(l+1): one in 2^(l+1) peers
/// has. With Poisson events it is therefore 1 + sum over l >= 1 of 1 - exp(-events / 2^(l+1)).
///
/// D1HT's own estimate takes twice the events: see [`estimated_messages`].
pub fn expected_messages(peers: usize, events: f64) -> f64 {
    messages(peers, |level| events / f64::powi(2.0, level + 1))
}

/// D1HT's estimate of the same, 1 + sum of 1 - (1 - 2 r Theta / n)^k with k = 2^(rho-l-1).
///
/// In it `events` are r Theta, joins and leaves together. It is an upper bound: for few events it
/// would have every peer hear of each event twice, where the protocol tells it once.
pub fn estimated_messages(peers: usize, events: f64) -> f64 {
    let rho = levels(peers) as i32;
    messages(peers, |level| {
        2.0 * events / peers as f64 * f64::powi(2.0, rho - level - 1)
    })
}

fn messages(peers: usize, mean: impl Fn(i32) -> f64) -> f64 {
    1.0 + (1..levels(peers) as i32)
        .map(|level| 1.0 - (-mean(level)).exp())
        .sum::<f64>()
}

/// What a peer has seen of the others' comings and goings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    theta: Theta,
    /// Events a second and peer.
    rate: f64,
}

/// How much one interval counts, against all before.
const WEIGHT: f64 = 1.0 / 64.0;

impl Observed {
    pub fn new(theta: Theta) -> Self {
        let rate = match theta {
            Theta::Fixed(_) => 0.0,
            Theta::Observed { session, .. } => 2.0 / session.as_secs_f64(),
        };
        Self { theta, rate }
    }

    /// The length of the next interval in a ring of so many peers.
    pub fn theta(&self, peers: usize) -> Duration {
        match self.theta {
            Theta::Fixed(theta) => theta,
            Theta::Observed {
                stale, min, max, ..
            } => {
                // Each peer comes and goes once a session.
                let session = Duration::try_from_secs_f64(2.0 / self.rate).unwrap_or(max * 1000);
                theta(stale, session, peers).clamp(min, max)
            }
        }
    }

    /// So many events were heard of in an interval.
    pub fn interval(&mut self, events: usize, peers: usize, interval: Duration) {
        let seen = events as f64 / (peers.max(1) as f64 * interval.as_secs_f64().max(1e-3));
        self.rate += WEIGHT * (seen - self.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At f = 1 %: n, events an interval, the paper's estimate of messages, and octets a second for
    /// sessions of 169 minutes, with its sizes (messages of 40 octets, acknowledgements of 36, events
    /// of 4).
    #[test]
    fn the_published_figures_follow_from_the_formulas() {
        for (peers, events, messages, kbit) in [
            (1_000, 1.7, 2.36, 0.17),
            (10_000, 13.8, 5.83, 0.57),
            (100_000, 119.0, 8.62, 1.5),
            (1_000_000, 1053.0, 11.44, 7.6),
        ] {
            let session = Duration::from_secs(169 * 60);
            let theta = theta(0.01, session, peers).as_secs_f64();
            let seen = 2.0 * peers as f64 / session.as_secs_f64() * theta;
            assert!(
                (seen / events - 1.0).abs() < 0.03,
                "{seen} events of {peers}"
            );
            let estimated = estimated_messages(peers, seen);
            assert!(
                (estimated / messages - 1.0).abs() < 0.03,
                "{estimated} of {peers}"
            );
            let bits = (estimated * 608.0 + seen * 32.0) / theta / 1000.0;
            assert!((bits / kbit - 1.0).abs() < 0.03, "{bits} kbit/s of {peers}");
            assert!(expected_messages(peers, seen) < estimated);
        }
    }

    #[test]
    fn rho_is_the_logarithm_rounded_up() {
        let rho: Vec<u32> = [1, 2, 3, 4, 5, 1000, 1024, 1025].map(levels).to_vec();
        assert_eq!(rho, [0, 1, 2, 2, 3, 10, 10, 11]);
    }

    #[test]
    fn what_is_observed_replaces_what_was_supposed() {
        let mut observed = Observed::new(Theta::USUAL);
        let before = observed.theta(1000);
        // Sessions of an hour.
        for _ in 0..500 {
            observed.interval(1, 1000, Duration::from_secs_f64(1.8));
        }
        let after = observed.theta(1000);
        let hour = theta(0.01, Duration::from_secs(3600), 1000);
        assert!(
            before > after && after.abs_diff(hour) < hour / 10,
            "{after:?}"
        );
    }
}
