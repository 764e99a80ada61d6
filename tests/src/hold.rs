//! A driver that takes its time, or a file system that does: system calls of a program that wait until the test
//! lets them go.
//!
//! The kernel asks the test about each of these calls (`SECCOMP_RET_USER_NOTIF`, Linux 5.5), and carries it out as
//! the program wants it.

use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// bpf(2) with BPF_LINK_CREATE or BPF_LINK_UPDATE: a driver takes an XDP program.
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;

/// The two calls of seccomp_unotify(2).
mod notification {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(respond, b'!', 1, libc::seccomp_notif_resp);
}

/// The gate that calls of a program go through: those by which XDP programs are attached, and those that remove
/// files, by which they are detached.
#[derive(Debug)]
pub struct Gate {
    is_shut: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    /// Has calls wait from now on.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::Relaxed);
    }

    /// Lets them go, and those to come.
    pub fn open(&self) {
        self.is_shut.store(false, Ordering::Relaxed);
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Whoever waits may end.
        self.open();
    }
}

/// Does `work`, and has the processes that it starts go through a gate, which is open.
///
/// # Errors
///
/// The kernel knows no such gates, or `work` fails.
pub fn behind_a_gate<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<(T, Gate)> {
    let gate = Gate {
        is_shut: Arc::default(),
        waiting: Arc::default(),
    };
    // A filter is for the thread that installs it, and for whatever that starts.
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let listener = install().context("install a filter of system calls")?;
            let (is_shut, waiting) = (Arc::clone(&gate.is_shut), Arc::clone(&gate.waiting));
            thread::spawn(move || guard(&listener, &is_shut, &waiting));
            work()
        });
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    Ok((outcome?, gate))
}

/// Answers the kernel until nobody is left who could ask.
fn guard(listener: &OwnedFd, is_shut: &AtomicBool, waiting: &AtomicUsize) {
    let mut held = Vec::new();
    loop {
        if !is_shut.load(Ordering::Relaxed) {
            held.drain(..).for_each(|id| let_go(listener, id));
        }
        waiting.store(held.len(), Ordering::Relaxed);
        match next(listener) {
            Ok(Some(id)) => held.push(id),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// The next call that the kernel asks about, if there is one within a moment.
fn next(listener: &OwnedFd) -> Result<Option<u64>> {
    let mut descriptors = [PollFd::new(
        std::os::fd::AsFd::as_fd(listener),
        PollFlags::POLLIN,
    )];
    poll(
        &mut descriptors,
        PollTimeout::try_from(Duration::from_millis(5))?,
    )?;
    let events = descriptors[0].revents().unwrap_or(PollFlags::empty());
    if events.contains(PollFlags::POLLIN) {
        // SAFETY: zeroes are valid for this struct of integers, and what the kernel requires.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one such struct.
        return match unsafe { notification::receive(listener.as_raw_fd(), &raw mut asked) } {
            Ok(_) => Ok(Some(asked.id)),
            // Whoever asked has ended.
            Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    if events.contains(PollFlags::POLLHUP) {
        bail!("nobody is left");
    }
    Ok(None)
}

fn let_go(listener: &OwnedFd, id: u64) {
    let mut answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: the kernel reads one such struct. One who asked may have ended; that is no error.
    let _ = unsafe { notification::respond(listener.as_raw_fd(), &raw mut answer) };
}

/// Installs the filter for this thread; returns what the kernel asks by.
fn install() -> Result<OwnedFd> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |k, jt, jf| libc::sock_filter {
        code: JUMP_IF_EQUAL,
        jt,
        jf,
        k,
    };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    // The low half, on machines of this byte order.
    let first = offset_of!(libc::seccomp_data, args) as u32;
    let mut filter = [
        statement(LOAD, number),
        jump(libc::SYS_unlinkat as u32, 5, 0),
        jump(SYS_UNLINK, 4, 0),
        jump(libc::SYS_bpf as u32, 0, 4),
        statement(LOAD, first),
        jump(BPF_LINK_CREATE, 1, 0),
        jump(BPF_LINK_UPDATE, 0, 1),
        statement(RETURN, libc::SECCOMP_RET_USER_NOTIF),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter, which is as long as it says.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = Errno::result(listener)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) })
}

/// unlink(2), where the machine has it.
#[cfg(target_arch = "x86_64")]
const SYS_UNLINK: u32 = libc::SYS_unlink as u32;
#[cfg(not(target_arch = "x86_64"))]
const SYS_UNLINK: u32 = libc::SYS_unlinkat as u32;
