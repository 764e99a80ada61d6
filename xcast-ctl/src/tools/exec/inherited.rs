//! What a program inherits from who starts it, where Rust's runtime changes it for this program: it
//! ignores SIGPIPE, and opens `/dev/null` in place of standard streams that are closed.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// Before the runtime begins.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE: extern "C" fn() = note;

extern "C" fn note() {
    // SAFETY: zeroes are a valid `sigaction`, and the signal is only asked about.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action);
        action.sa_sigaction
    };
    PIPE_IGNORED.store(action == libc::SIG_IGN, Ordering::Relaxed);
    for (fd, closed) in (0..).zip(&CLOSED) {
        // SAFETY: a question about a number.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        closed.store(flags < 0, Ordering::Relaxed);
    }
}

/// Has a program that takes this one's place find all that as it was.
pub(super) fn pass_on(command: &mut Command) {
    let restore = || -> io::Result<()> {
        // SAFETY: nobody uses these streams any more, and to ignore a signal asks nothing of anybody.
        unsafe {
            if PIPE_IGNORED.load(Ordering::Relaxed) {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            }
            for (fd, closed) in (0..).zip(&CLOSED) {
                if closed.load(Ordering::Relaxed) {
                    libc::close(fd);
                }
            }
        }
        Ok(())
    };
    // SAFETY: it makes system calls and nothing else.
    unsafe { command.pre_exec(restore) };
}
