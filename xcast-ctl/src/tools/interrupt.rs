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
        Ok(self.wait(None, Some(deadline))? == Woken::Interrupted)
    }

    /// Waits until there is something to read, the deadline has passed, or the user interrupts.
    pub(super) fn wait(
        &self,
        input: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<Woken> {
        loop {
            if self.happened()? {
                return Ok(Woken::Interrupted);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Deadline);
            }
            let fds = [self.0.as_fd()].into_iter().chain(input);
            let mut polled: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut polled, left.map_or(PollTimeout::NONE, rounded_up))?;
            let signalled = polled[0].any().unwrap_or(false);
            // The end of a file and an error are something to read, too.
            if !signalled && polled.get(1).and_then(PollFd::any).unwrap_or(false) {
                return Ok(Woken::Ready);
            }
        }
    }
}

/// What ended the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is something to read.
    Ready,
    /// The deadline has passed.
    Deadline,
    /// The user interrupted.
    Interrupted,
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_ends_the_waiting() {
        let interrupt = Interrupt::new().unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wait = |deadline| interrupt.wait(Some(receiver.as_fd()), deadline).unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(wait(soon()), Woken::Deadline);
        let to = receiver.local_addr().unwrap();
        receiver.send_to(b"hi", to).unwrap();
        assert_eq!(wait(None), Woken::Ready);
        // To this thread, whose signals are blocked.
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        assert_eq!(wait(None), Woken::Interrupted);
        assert!(!interrupt.before(Instant::now()).unwrap());
    }
}
