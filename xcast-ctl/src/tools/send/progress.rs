//! Progress on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Shows the number of packets once a second, if standard error is a terminal.
pub(super) struct Progress {
    wanted: bool,
    shown: Instant,
    start: Instant,
    all: Option<u64>,
    written: bool,
}

impl Progress {
    /// `all` is the number of packets there will be, if it is known.
    pub(super) fn new(start: Instant, all: Option<u64>) -> Self {
        Self {
            wanted: io::stderr().is_terminal(),
            shown: start,
            start,
            all,
            written: false,
        }
    }

    pub(super) fn show(&mut self, packets: u64) {
        if !self.wanted || self.shown.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.shown = Instant::now();
        self.written = true;
        let rate = packets as f64 / self.start.elapsed().as_secs_f64();
        let of = self
            .all
            .map_or_else(String::new, |all| format!(" of {all}"));
        // A terminal that went away is no reason to stop.
        let _ = write!(io::stderr(), "\r{packets}{of} packets, {rate:.0}/s\x1b[K");
    }

    pub(super) fn clear(&self) {
        if self.written {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
