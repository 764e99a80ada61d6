//! The functions that open, copy, change and close sockets.

use std::ffi::{c_int, c_uint, c_void};

use libc::{mmsghdr, msghdr, sockaddr, socklen_t, ssize_t, timespec};
use nix::errno::Errno;

use super::thread::{end_own, original};
use crate::{
    engine::{self, Engine},
    raw::{descriptors_in, inside, is_borrowed, is_inside, is_memory},
    table,
};

/// The socket may be another one now.
fn changed(fd: c_int) {
    if !is_inside() && !table::is_ours(fd) {
        end_own();
        if table::is_used(fd) && !is_borrowed() {
            let _ = inside(|| engine::with(fd, |engine| engine.forget(fd)));
            table::changed(fd);
        }
    }
}

/// The library's own descriptors lie above those that programs use.
fn move_up(fd: c_int) -> c_int {
    const ROOM: c_int = 512;
    let highest = table::LIMIT as c_int - ROOM;
    // SAFETY: descriptors of our own, and a limit that is asked for.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let limit = c_int::try_from(limit.rlim_cur).unwrap_or(c_int::MAX);
        let floor = highest.min(limit - limit / 4).max(3);
        let moved = original_fcntl()(fd, libc::F_DUPFD_CLOEXEC, floor as usize as *mut c_void);
        if moved >= 0 {
            original_close()(fd);
            table::closed(moved);
            table::ours(moved);
            return moved;
        }
    }
    table::ours(fd);
    fd
}

type Close = unsafe extern "C-unwind" fn(c_int) -> c_int;
type Fcntl = unsafe extern "C-unwind" fn(c_int, c_int, *mut c_void) -> c_int;

fn original_close() -> Close {
    original!(close: Close)
}

fn original_fcntl() -> Fcntl {
    original!(fcntl: Fcntl)
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int {
    type Original = unsafe extern "C-unwind" fn(c_int, c_int, c_int) -> c_int;
    let original = original!(socket: Original);
    // SAFETY: the caller's own arguments.
    let fd = unsafe { original(family, kind, protocol) };
    if fd >= 0 {
        if is_inside() {
            return move_up(fd);
        }
        if !is_borrowed() {
            table::closed(fd);
        }
    }
    fd
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    if is_inside() {
        table::closed(fd);
    } else if table::is_ours(fd) {
        // For the program there is no such descriptor.
        Errno::set(Errno::EBADF);
        return -1;
    } else {
        end_own();
        forget(fd);
    }
    // SAFETY: the caller's own argument.
    unsafe { original_close()(fd) }
}

/// The descriptor is closed.
fn forget(fd: c_int) {
    if table::is_known(fd) && !is_borrowed() {
        let _ = inside(|| engine::with(fd, |engine| engine.forget(fd)));
        table::closed(fd);
    }
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    type Original = unsafe extern "C-unwind" fn(c_uint, c_uint, c_int) -> c_int;
    let original = original!(close_range: Original);
    end_own();
    // SAFETY: the program's own ranges, without what is not the program's.
    unsafe {
        if is_inside() || first > last || flags & libc::CLOSE_RANGE_CLOEXEC as c_int != 0 {
            return original(first, last, flags);
        }
        let mut from = first;
        for fd in first..=last.min(table::LIMIT as c_uint - 1) {
            if table::is_ours(fd as c_int) {
                if fd > from && original(from, fd - 1, flags) < 0 {
                    return -1;
                }
                from = fd + 1;
            } else {
                forget(fd as c_int);
            }
        }
        match from <= last {
            true => original(from, last, flags),
            false => 0,
        }
    }
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn closefrom(first: c_int) {
    // SAFETY: it does the same.
    unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) };
}

/// There are two descriptors of a socket now.
fn doubled(fd: c_int, copy: c_int) {
    if copy >= 0 && !is_inside() && !is_borrowed() {
        forget(copy);
        table::doubled(fd);
        table::doubled(copy);
    }
}

/// Descriptors are sent or received in a message (`SCM_RIGHTS`): their sockets have others somewhere.
///
/// # Safety
///
/// `message` is one that the kernel could read, or has filled in.
pub(super) unsafe fn handed_over(message: &msghdr) {
    if message.msg_controllen == 0
        || !is_memory(message.msg_control, message.msg_controllen)
        || is_inside()
        || is_borrowed()
    {
        return;
    }
    // SAFETY: the caller vouches for the message.
    unsafe { descriptors_in(message) }.for_each(|fd| {
        forget(fd);
        table::doubled(fd);
    });
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    type Original = unsafe extern "C-unwind" fn(c_int, *mut msghdr, c_int) -> ssize_t;
    let original = original!(recvmsg: Original);
    end_own();
    // SAFETY: the caller's own arguments; the kernel has filled in the message.
    unsafe {
        let answer = original(fd, message, flags);
        if answer >= 0 {
            handed_over(&*message);
        }
        answer
    }
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    type Original =
        unsafe extern "C-unwind" fn(c_int, *mut mmsghdr, c_uint, c_int, *mut timespec) -> c_int;
    let original = original!(recvmmsg: Original);
    end_own();
    // SAFETY: the caller's own arguments; the kernel has filled in as many messages.
    unsafe {
        let answer = original(fd, messages, count, flags, timeout);
        for place in 0..usize::try_from(answer).unwrap_or(0) {
            handed_over(&(*messages.add(place)).msg_hdr);
        }
        answer
    }
}

/// A number that the program wants to be its own.
fn give_way(fd: c_int) {
    if table::is_ours(fd) && !is_inside() && !is_borrowed() {
        let _ = inside(|| engine::with_all(Engine::forget_all));
    }
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup(fd: c_int) -> c_int {
    changed(fd);
    type Original = unsafe extern "C-unwind" fn(c_int) -> c_int;
    let original = original!(dup: Original);
    // SAFETY: the caller's own arguments.
    let copy = unsafe { original(fd) };
    doubled(fd, copy);
    copy
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup2(fd: c_int, to: c_int) -> c_int {
    give_way(to);
    changed(fd);
    changed(to);
    type Original = unsafe extern "C-unwind" fn(c_int, c_int) -> c_int;
    let original = original!(dup2: Original);
    // SAFETY: the caller's own arguments.
    let copy = unsafe { original(fd, to) };
    if fd != to {
        doubled(fd, copy);
    }
    copy
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    give_way(to);
    changed(fd);
    changed(to);
    type Original = unsafe extern "C-unwind" fn(c_int, c_int, c_int) -> c_int;
    let original = original!(dup3: Original);
    // SAFETY: the caller's own arguments.
    let copy = unsafe { original(fd, to, flags) };
    doubled(fd, copy);
    copy
}

macro_rules! fcntls {
    ($($name:ident),*) => {$(
        /// The third argument is passed in the same place whether it is variadic or not.
        ///
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(
            fd: c_int,
            command: c_int,
            argument: *mut c_void,
        ) -> c_int {
            let copies = matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
            if copies {
                changed(fd);
            } else if matches!(command, libc::F_SETLKW | libc::F_OFD_SETLKW) {
                end_own();
            }
            let original = original!($name: Fcntl);
            // SAFETY: the caller's own arguments.
            let answer = unsafe { original(fd, command, argument) };
            if copies {
                doubled(fd, answer);
            }
            answer
        }
    )*};
}

fcntls!(fcntl, fcntl64);

/// Functions that change a socket, the first argument.
macro_rules! changes {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fd: c_int, $($argument: $type),*) -> c_int {
            type Original = unsafe extern "C-unwind" fn(c_int, $($type),*) -> c_int;
            let original = original!($name: Original);
            changed(fd);
            // SAFETY: the caller's own arguments.
            let answer = unsafe { original(fd, $($argument),*) };
            changed(fd);
            answer
        }
    )*};
}

changes! {
    bind(address: *const sockaddr, len: socklen_t);
    connect(address: *const sockaddr, len: socklen_t);
    setsockopt(level: c_int, name: c_int, value: *const c_void, len: socklen_t);
    shutdown(how: c_int);
}
