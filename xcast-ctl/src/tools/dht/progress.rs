//! Progress on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// A line on standard error that is written anew once a second, if that is a terminal.
pub(super) struct Line {
    wanted: bool,
    shown: Instant,
    written: bool,
}

impl Line {
    /// Nothing is shown in the first second.
    pub(super) fn new() -> Self {
        Self {
            wanted: io::stderr().is_terminal(),
            shown: Instant::now(),
            written: false,
        }
    }

    /// Shows this, unless something was shown within a second.
    pub(super) fn show(&mut self, text: &str) {
        if self.wanted && self.shown.elapsed() >= Duration::from_secs(1) {
            self.shown = Instant::now();
            self.written = true;
            // A terminal that went away is no reason to stop.
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
        }
    }

    /// Leaves nothing behind.
    pub(super) fn clear(&mut self) {
        if self.written {
            self.written = false;
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
