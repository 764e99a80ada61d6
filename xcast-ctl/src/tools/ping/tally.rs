//! What became of the requests to each destination.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::tools::icmp::Fault;

/// What became of the requests to one destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    /// Answers that say that a request did not arrive.
    pub(super) errors: u64,
    /// What the last of them said, and who sent it.
    pub(super) last_error: Option<String>,
    /// When each request left that is not answered yet, by sequence number.
    pub(super) open: HashMap<u16, Instant>,
    pub(super) times: Times,
}

/// Round-trip times so far, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    count: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

/// A summary of round-trip times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct RoundTrip {
    pub(super) min_ms: f64,
    pub(super) avg_ms: f64,
    pub(super) max_ms: f64,
    pub(super) mdev_ms: f64,
}

impl Times {
    fn add(&mut self, seconds: f64) {
        self.min = if self.count == 0.0 {
            seconds
        } else {
            self.min.min(seconds)
        };
        self.max = self.max.max(seconds);
        self.count += 1.0;
        self.sum += seconds;
        self.squares += seconds * seconds;
    }

    /// Least, mean, greatest, and standard deviation, in milliseconds.
    pub(super) fn in_ms(&self) -> Option<RoundTrip> {
        let mean = self.sum / self.count;
        let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        (self.count > 0.0).then(|| RoundTrip {
            min_ms: ms(self.min),
            avg_ms: ms(mean),
            max_ms: ms(self.max),
            mdev_ms: ms((self.squares / self.count - mean * mean).max(0.0).sqrt()),
        })
    }
}

impl Tally {
    /// Counts a request that leaves.
    pub(super) fn ask(&mut self, sequence: u16, now: Instant) {
        self.sent += 1;
        self.open.insert(sequence, now);
    }

    /// Counts a reply and returns its round-trip time; `None` if the request was answered before.
    pub(super) fn reply(&mut self, sequence: u16, now: Instant) -> Option<Duration> {
        let Some(since) = self.open.remove(&sequence) else {
            self.duplicates += 1;
            return None;
        };
        let time = now.saturating_duration_since(since);
        self.received += 1;
        self.times.add(time.as_secs_f64());
        Some(time)
    }

    /// The request that an answer without a sequence number is about: the last one that is open.
    pub(super) fn latest(&self) -> u16 {
        let latest = self.open.iter().max_by_key(|(_, since)| **since);
        latest.map_or(0, |(sequence, _)| *sequence)
    }

    /// Counts an answer that says why a request did not arrive, and returns it in words.
    pub(super) fn error(&mut self, sequence: u16, from: IpAddr, fault: Fault) -> String {
        self.open.remove(&sequence);
        self.errors += 1;
        let text = format!("{} (from {from})", describe(fault));
        self.last_error = Some(text.clone());
        text
    }
}

/// What an ICMP error says.
fn describe(fault: Fault) -> String {
    match fault {
        Fault::TimeExceeded => "time to live exceeded".to_owned(),
        Fault::Unreachable(0) => "network unreachable".to_owned(),
        Fault::Unreachable(1) => "host unreachable".to_owned(),
        Fault::Unreachable(4) => "longer than the MTU of a link on the path".to_owned(),
        Fault::Unreachable(9 | 10 | 13) => "administratively prohibited".to_owned(),
        Fault::Unreachable(code) => format!("unreachable, code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_duplicates_and_errors() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let mut tally = Tally::default();
        for sequence in 1..=4 {
            tally.ask(sequence, start);
        }
        assert_eq!(tally.reply(1, later(2)), Some(Duration::from_millis(2)));
        assert_eq!(tally.reply(2, later(4)), Some(Duration::from_millis(4)));
        assert_eq!(tally.reply(2, later(5)), None);
        let router = IpAddr::from([10, 0, 0, 1]);
        let text = tally.error(3, router, Fault::Unreachable(1));
        assert_eq!(text, "host unreachable (from 10.0.0.1)");
        assert_eq!(
            (tally.sent, tally.received, tally.duplicates, tally.errors),
            (4, 2, 1, 1)
        );
        assert_eq!(tally.open.len(), 1);
        let times = tally.times.in_ms().unwrap();
        assert_eq!((times.min_ms, times.avg_ms, times.max_ms), (2.0, 3.0, 4.0));
        assert_eq!(times.mdev_ms, 1.0);
        assert_eq!(Times::default().in_ms(), None);
    }
}
