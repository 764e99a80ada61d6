//! Round-trip time and time-out of a peer (RFC 6298).

use std::time::Duration;

/// Smoothed round-trip time and its variation.
///
/// Sections 2.2 and 2.3 of RFC 6298 are followed with alpha = 1/8, beta = 1/4 and K = 4. The lower
/// bound of the time-out is the caller's, where the RFC has one second for TCP: here a time-out
/// that is too short costs one request to somebody else, and the late answer still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    /// Time-out for a peer that was never measured (RFC 6298 2.1).
    pub const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
    /// Clock granularity, `G` in RFC 6298.
    const GRANULARITY: Duration = Duration::from_millis(1);

    /// After the first measurement (RFC 6298 2.2).
    pub fn new(measured: Duration) -> Self {
        Self {
            smoothed: measured,
            variation: measured / 2,
        }
    }

    /// After one more measurement (RFC 6298 2.3).
    pub fn update(&mut self, measured: Duration) {
        let deviation = self.smoothed.abs_diff(measured);
        self.variation = self.variation * 3 / 4 + deviation / 4;
        self.smoothed = self.smoothed * 7 / 8 + measured / 8;
    }

    /// The smoothed round-trip time.
    pub fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// How long to wait for an answer, without a lower bound.
    pub fn timeout(&self) -> Duration {
        self.smoothed + (self.variation * 4).max(Self::GRANULARITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_rfc_computes_it() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::new(ms(100));
        assert_eq!(rtt.timeout(), ms(300));
        rtt.update(ms(180));
        assert_eq!(rtt.smoothed(), ms(110));
        // RTTVAR = 3/4 * 50 + 1/4 * |100 - 180| = 57.5
        assert_eq!(rtt.timeout(), ms(340));
    }

    #[test]
    fn a_steady_peer_has_a_timeout_just_above_its_round_trip() {
        let mut rtt = Rtt::new(Duration::from_millis(50));
        for _ in 0..200 {
            rtt.update(Duration::from_millis(50));
        }
        assert!(
            rtt.timeout() < Duration::from_millis(52),
            "{:?}",
            rtt.timeout()
        );
    }
}
