//! Waiting for a socket.

use std::{io, os::fd::BorrowedFd};

use ::tokio::io::{Interest, unix::AsyncFd};

/// Waits until a file can be read or written. It is registered for this one wait only, since senders
/// hardly ever wait.
pub(super) async fn ready(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    // SAFETY: what is borrowed stays open, and the same file, for as long as it is borrowed.
    let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    fd.ready(interest).await?.retain_ready();
    Ok(())
}
