//! One line on standard error that says what is going on.

use std::io::{self, IsTerminal as _, Write as _};

/// Shows progress: on a terminal in place, else as lines, each different one once.
#[derive(Debug)]
pub struct Progress {
    in_place: bool,
    section: String,
    last: String,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Self {
        Self {
            in_place: io::stderr().is_terminal(),
            section: String::new(),
            last: String::new(),
        }
    }

    /// Begins a part of the work.
    pub fn section(&mut self, name: &str) {
        name.clone_into(&mut self.section);
        if !self.in_place {
            self.write(&format!("{name}\n"));
        }
    }

    /// Says what is being done; too detailed for anything but a terminal.
    pub fn show(&mut self, what: &str) {
        if self.in_place && self.last != what {
            self.write(&format!("\r\x1b[K{}: {what}", self.section));
            what.clone_into(&mut self.last);
        }
    }

    /// Clears the line, so that results can be printed.
    pub fn clear(&mut self) {
        if self.in_place {
            self.write("\r\x1b[K");
            self.last.clear();
        }
    }

    fn write(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // Nobody is there to tell if standard error is gone.
        let _ = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
