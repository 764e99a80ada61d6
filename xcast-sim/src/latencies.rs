//! Round trips that somebody has measured between hosts of the Internet.

use std::time::Duration;

/// 490 hosts of PlanetLab (`data/README.md` has source and licence).
const PLANETLAB: &str = include_str!("../data/PlanetLab490.txt");

/// Round trips between hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    hosts: usize,
    /// Of the second host to the first, of the third to the first and the second, and so on: in tenths of a
    /// millisecond.
    tenths_ms: Vec<u32>,
}

/// Why a text has no round trips.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LatenciesError {
    /// A line has not one number for each host before it.
    #[error(
        "line {line} has {found} round trips: it is of host {host}, and has one to each of the {host} before it"
    )]
    Count {
        /// Which, from 1.
        line: usize,
        /// Whose line it is, from 0.
        host: usize,
        /// How many it has.
        found: usize,
    },
    /// Something is no round trip.
    #[error(
        "line {line} has \"{word}\": a round trip is a number of tenths of a millisecond, from 1 to 600000"
    )]
    Number {
        /// Which, from 1.
        line: usize,
        /// What it has.
        word: String,
    },
    /// There are none.
    #[error("there are no round trips: at least two hosts are needed")]
    Empty,
}

impl Latencies {
    /// Reads them: line i has the round trips of host i to those before it, from host 1 on, in tenths of a
    /// millisecond. Lines that begin with `#`, and empty ones, are skipped.
    ///
    /// # Errors
    ///
    /// See [`LatenciesError`].
    pub fn read(text: &str) -> Result<Self, LatenciesError> {
        let mut all = Self {
            hosts: 1,
            tenths_ms: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            let before = all.tenths_ms.len();
            for word in line.split_whitespace() {
                let tenths: Option<u32> = word.parse().ok();
                let tenths = tenths.filter(|tenths| (1..=600_000).contains(tenths));
                all.tenths_ms
                    .push(tenths.ok_or_else(|| LatenciesError::Number {
                        line: number,
                        word: word.to_owned(),
                    })?);
            }
            let found = all.tenths_ms.len() - before;
            if found != all.hosts {
                return Err(LatenciesError::Count {
                    line: number,
                    host: all.hosts,
                    found,
                });
            }
            all.hosts += 1;
        }
        if all.hosts < 2 {
            return Err(LatenciesError::Empty);
        }
        Ok(all)
    }

    /// Those between 490 hosts of PlanetLab, measured for *Network Latency Estimation for Personal Devices* (Zhu,
    /// Liu, Niu, Li, Zhao, IEEE/ACM Transactions on Networking 25, 2017).
    ///
    /// # Panics
    ///
    /// The file in this crate is not what it was; a test reads it.
    #[must_use]
    pub fn planetlab() -> Self {
        Self::read(PLANETLAB).expect("the crate's file is well-formed")
    }

    /// How many hosts.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// The round trip between two hosts; none from a host to itself.
    ///
    /// # Panics
    ///
    /// There is no such host.
    #[must_use]
    pub fn rtt(&self, one: usize, other: usize) -> Duration {
        assert!(
            one.max(other) < self.hosts,
            "there are {} hosts",
            self.hosts
        );
        let (low, high) = (one.min(other), one.max(other));
        if low == high {
            return Duration::ZERO;
        }
        let tenths = self.tenths_ms[high * (high - 1) / 2 + low];
        Duration::from_micros(100 * u64::from(tenths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_and_wrong_ones_refused() {
        let read = Latencies::read("# three\n12\n\n3 4\n").expect("well-formed");
        assert_eq!(read.hosts(), 3);
        let ms = |one, other| read.rtt(one, other).as_secs_f64() * 1e3;
        assert_eq!(
            [ms(0, 1), ms(1, 0), ms(2, 0), ms(1, 2), ms(1, 1)],
            [1.2, 1.2, 0.3, 0.4, 0.0]
        );
        for (text, expected) in [
            ("", "there are no round trips"),
            ("1\n2 3 4", "line 2 has 3 round trips"),
            ("1\n2 x", "line 2 has \"x\""),
            ("0", "line 1 has \"0\""),
            ("-1", "line 1 has \"-1\""),
        ] {
            let error = Latencies::read(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn planetlab_is_there() {
        let all = Latencies::planetlab();
        assert_eq!(all.hosts(), 490);
        let mut rtts: Vec<Duration> = (1..490)
            .flat_map(|high| (0..high).map(move |low| (high, low)))
            .map(|(high, low)| all.rtt(high, low))
            .collect();
        rtts.sort_unstable();
        // What the source says of itself: half of all are below 135 ms.
        assert_eq!(rtts[rtts.len() / 2], Duration::from_millis(135));
    }
}
