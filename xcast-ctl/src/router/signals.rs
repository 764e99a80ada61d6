//! The signals that a router handles, and those that it does not let end it.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end or stop a process, and that nobody sends to ask for that: timers and input of others,
/// the power supply, limits of processor time and of file size, and a terminal that wants to be left alone.
const IGNORED: [libc::c_int; 13] = [
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    // Raised where the log's file may not grow any more.
    libc::SIGXFSZ,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// What signals ask for.
pub(super) enum Asked {
    /// That the router ends.
    End,
    /// That it reads its configuration again.
    Reload,
}

/// The signals that a router handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Handles them from now on, and has the kernel discard the others that would end or stop the process.
    pub(super) fn handle() -> Result<Self> {
        for number in IGNORED
            .into_iter()
            .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
        {
            // SAFETY: no handler runs; nothing here waits for these signals.
            unsafe { libc::signal(number, libc::SIG_IGN) };
        }
        let handle = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }

    /// Waits for one that asks for something.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
