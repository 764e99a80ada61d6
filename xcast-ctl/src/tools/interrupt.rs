//! Interrupts as something to wait for, so that a tool can say what it has done before it ends.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// SIGINT and SIGTERM, which no longer end the process.
#[derive(Debug)]
pub(super) struct Interrupt(SignalFd);

impl Interrupt {
    /// From now on interrupts have to be asked for.
    pub(super) fn new() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(
            &signals,
            SfdFlags::SFD_NONBLOCK,
        )?))
    }

    /// Whether the user has interrupted since it was last asked.
    pub(super) fn happened(&self) -> io::Result<bool> {
        Ok(self.0.read_signal()?.is_some())
    }

    /// Sleeps until `deadline`, or until the user interrupts. True if he did.
    pub(super) fn before(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            if self.happened()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, rounded_up(left))?;
        }
    }

    /// Waits until there is something to read, or the user interrupts. True if he did.
    pub(super) fn before_input(&self, input: BorrowedFd<'_>) -> io::Result<bool> {
        let mut polled = [self.0.as_fd(), input].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut polled, PollTimeout::NONE)?;
        self.happened()
    }
}

/// So as not to spin through the last millisecond.
pub(super) fn rounded_up(left: Duration) -> PollTimeout {
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
