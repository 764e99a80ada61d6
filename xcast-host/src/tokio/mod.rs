//! Sender and receiver for tokio, and a sender that combines messages.

mod combining;
mod receiver;
mod sender;

use std::{io, os::fd::BorrowedFd};

use ::tokio::io::{Interest, unix::AsyncFd};

pub use self::{
    combining::{CombiningSender, Report},
    receiver::Receiver,
    sender::Sender,
};

/// Waits until a file can be read or written. It is registered for this one wait only, since senders
/// hardly ever wait.
async fn ready(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    // SAFETY: what is borrowed stays open, and the same file, for as long as it is borrowed.
    let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    fd.ready(interest).await?.retain_ready();
    Ok(())
}
