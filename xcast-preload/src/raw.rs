//! What needs `unsafe` below the hooks: the library's own calls into libc, and what a thread notes of
//! itself. Nothing here decides anything.

use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_int, c_long, c_void},
    mem,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering},
};

use nix::errno::Errno;

use crate::address::Address;

thread_local! {
    /// What the thread is at. One place, since every hook looks here.
    static STATE: State = const {
        State {
            work: Cell::new(0),
            socket: Cell::new(-1),
            seat: Cell::new(Seat::None),
        }
    };
}

/// What a thread is at.
struct State {
    /// [`INSIDE`] and [`PENDING`].
    work: Cell<u8>,
    /// The socket of its open group.
    socket: Cell<RawFd>,
    /// To whom locks lean.
    seat: Cell<Seat>,
}

/// Where a thread is among those that locks lean to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Nowhere yet.
    None,
    /// At a place that no other living thread has.
    At(usize),
    /// Nowhere any more.
    Left,
}

/// The thread is at work for the library: its calls of libc are the library's own.
const INSIDE: u8 = 1;
/// The thread may have an open group.
const PENDING: u8 = 2;

/// Whether any thread has ever done work for the library. Until then there is nothing to look for in
/// [`STATE`], which takes a call to find.
static EVER: AtomicBool = AtomicBool::new(false);

/// The process that the library's notes are about.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// A process was made without `fork`. Any thread may be in that one, which has threads of its own if it likes.
static PARTED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    fn dlvsym(handle: *mut c_void, symbol: *const c_char, version: *const c_char) -> *mut c_void;
}

/// Of pthread.h.
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// Whether the thread is at work for the library.
#[inline]
pub fn is_inside() -> bool {
    EVER.load(Ordering::Relaxed) && STATE.with(|state| state.work.get() & INSIDE != 0)
}

/// Whether there can be anything to end.
pub fn has_worked() -> bool {
    EVER.load(Ordering::Relaxed)
}

/// Nothing has been done yet but to begin, which leaves nothing in any thread's state.
pub fn begin() {
    EVER.store(false, Ordering::Relaxed);
}

/// The library's notes are about this process from now on.
pub fn settle() {
    PROCESS.store(process(), Ordering::Relaxed);
    PARTED.store(false, Ordering::Relaxed);
}

fn process() -> c_int {
    // SAFETY: `getpid` has no conditions.
    unsafe { libc::getpid() }
}

/// The thread is about to make a process without `fork`, so that nobody tells the library.
pub fn part() {
    PARTED.store(true, Ordering::Relaxed);
}

/// Whether this is a process that was made without `fork`. The child of a `vfork` works in its parent's
/// memory, but has descriptors of its own: what it closes stays open for the parent. The child of a
/// `clone` has a copy of the memory, in which another thread may have held a lock. The library does
/// nothing in either.
pub fn is_borrowed() -> bool {
    PARTED.load(Ordering::Relaxed) && PROCESS.load(Ordering::Relaxed) != process()
}

/// The thread works for the library from now on.
pub fn stay_inside() {
    EVER.store(true, Ordering::Relaxed);
    STATE.with(|state| state.work.set(INSIDE));
}

/// The thread does not work for the library any more.
pub fn leave() {
    STATE.with(|state| state.work.set(0));
}

/// Whether the calling thread is the process's first one.
pub fn is_main_thread() -> bool {
    // SAFETY: `gettid` has no conditions.
    unsafe { libc::gettid() == process() }
}

/// The socket of which the thread may have an open group, if it is not at work for the library.
#[inline]
pub fn pending() -> Option<RawFd> {
    if !EVER.load(Ordering::Relaxed) {
        return None;
    }
    STATE.with(|state| (state.work.get() == PENDING).then(|| state.socket.get()))
}

/// Notes of which socket the thread may have an open group.
pub fn set_pending(socket: Option<RawFd>) {
    STATE.with(|state| {
        let others = state.work.get() & !PENDING;
        match socket {
            Some(socket) => {
                state.socket.set(socket);
                state.work.set(others | PENDING);
            }
            None => state.work.set(others),
        }
    });
}

/// Does some work like [`inside`], if the thread may have an open group of this socket. The work calls
/// nothing, and does not panic; it is given the thread's [number](thread)
/// and seat.
#[inline]
pub fn inside_with_group<T>(socket: RawFd, work: impl FnOnce(usize, Seat) -> T) -> Option<T> {
    if !EVER.load(Ordering::Relaxed) {
        return None;
    }
    STATE.with(|state| {
        if state.work.get() != PENDING || state.socket.get() != socket {
            return None;
        }
        state.work.set(PENDING | INSIDE);
        let result = work(ptr::from_ref(state).addr(), state.seat.get());
        state.work.set(PENDING);
        Some(result)
    })
}

/// Does some work of the library, during which the thread's calls of libc are the library's own. The
/// program does not notice: `errno` stays, the thread is not cancelled in between, and a panic ends
/// the work and not the program. `None` if the thread was inside already (a signal handler that
/// interrupted the library), or if the process [is borrowed](is_borrowed).
pub fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    if is_inside() || is_borrowed() {
        return None;
    }
    EVER.store(true, Ordering::Relaxed);
    STATE.with(|state| state.work.set(state.work.get() | INSIDE));
    let errno = Errno::last_raw();
    let mut state = 0;
    // SAFETY: `state` is a valid place for the state until now. Without this a thread could be
    // unwound from a system call of ours, with locks held.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut state) };
    let result = catch_unwind(AssertUnwindSafe(work)).ok();
    // SAFETY: a null pointer means that the old state is not asked for.
    unsafe { pthread_setcancelstate(state, ptr::null_mut()) };
    Errno::set_raw(errno);
    STATE.with(|state| state.work.set(state.work.get() & !INSIDE));
    result
}

/// Of linux/membarrier.h.
const PRIVATE_EXPEDITED: c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: c_int = 1 << 4;

/// Whether the process may use [`barrier`], from now on.
pub fn register_barrier() -> bool {
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 }
}

/// Has all threads of the process pass a memory barrier before this returns. Returns whether they have: a filter
/// of system calls may refuse it from some time on.
pub fn barrier() -> bool {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) == 0 }
}

/// The calling thread's seat.
pub fn seat() -> Seat {
    STATE.with(|state| state.seat.get())
}

/// Gives the calling thread a seat.
pub fn set_seat(seat: Seat) {
    STATE.with(|state| state.seat.set(seat));
}

/// A number for the calling thread that no other living thread has.
pub fn thread() -> usize {
    STATE.with(|place| ptr::from_ref(place).addr())
}

/// The function of this name, which ends in NUL, that the program would have without this library.
#[inline]
pub fn original(found: &AtomicPtr<c_void>, name: &'static str) -> *mut c_void {
    let known = found.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    find(found, name)
}

#[cold]
fn find(found: &AtomicPtr<c_void>, name: &'static str) -> *mut c_void {
    let symbol = name.as_ptr().cast::<c_char>();
    // SAFETY: name and version end in NUL.
    let address = unsafe {
        let versioned =
            newer(name).map(|version| dlvsym(libc::RTLD_NEXT, symbol, version.as_ptr()));
        match versioned.filter(|address| !address.is_null()) {
            Some(address) => address,
            None => libc::dlsym(libc::RTLD_NEXT, symbol),
        }
    };
    if address.is_null() {
        // The program has looked whether its libc has it, and has found this library's.
        return missing as *mut c_void;
    }
    found.store(address, Ordering::Relaxed);
    address
}

/// The version of functions of which glibc has an older one that does something else: before glibc 2.36,
/// `dlsym` finds that one.
fn newer(name: &str) -> Option<&'static CStr> {
    match name.trim_end_matches('\0') {
        "pthread_cond_wait" | "pthread_cond_timedwait" => Some(c"GLIBC_2.3.2"),
        "posix_spawn" | "posix_spawnp" => Some(c"GLIBC_2.15"),
        "quick_exit" => Some(c"GLIBC_2.24"),
        _ => None,
    }
}

/// In place of a function that this libc does not have.
extern "C" fn missing() -> c_long {
    Errno::set(Errno::ENOSYS);
    -1
}

/// A descriptor of the program, borrowed for as long as the library knows of it: `close` and the like
/// are hooked, so it is forgotten before the program closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub RawFd);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open, see above; where a program closes it without libc, calls on it fail,
        // or `inode` tells that it is another file.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// The value of a socket option that is a `c_int`, or the length of one that is a list; `None` if the
/// socket has no such option.
pub fn option(fd: RawFd, level: c_int, name: c_int) -> Option<Value> {
    let mut buffer = [0_u8; 64];
    let mut len = buffer.len() as libc::socklen_t;
    // SAFETY: address and length of the buffer are those of the array.
    let answer =
        unsafe { libc::getsockopt(fd, level, name, buffer.as_mut_ptr().cast(), &raw mut len) };
    let mut octets = [0; 4];
    octets.copy_from_slice(&buffer[..4]);
    (answer == 0).then(|| Value {
        number: c_int::from_ne_bytes(octets),
        len: len as usize,
    })
}

/// What a socket option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// As a number.
    pub number: c_int,
    /// Its length, in octets.
    pub len: usize,
}

/// Addresses that programs have, from the first that the kernel lets them map.
const MEMORY: Range<usize> = 1 << 16..1 << if cfg!(target_arch = "x86_64") { 47 } else { 48 };

/// Whether a program can have so many octets there. What it cannot have is the kernel's to refuse.
#[inline]
pub fn is_memory<T>(address: *const T, len: usize) -> bool {
    let end = address.addr().checked_add(len);
    address.addr() >= MEMORY.start && end.is_some_and(|end| end <= MEMORY.end)
}

/// Reads a socket address of the program; `None` if it is none of IPv4 or IPv6, or if the kernel would
/// refuse it for its length.
///
/// # Safety
///
/// `len` octets can be read at `address`, or it [is no memory](is_memory).
#[inline]
pub unsafe fn address(address: *const c_void, len: usize) -> Option<Address> {
    let lengths = size_of::<libc::sockaddr_in>()..=size_of::<libc::sockaddr_storage>();
    if !lengths.contains(&len) || !is_memory(address, len) {
        return None;
    }
    // SAFETY: there are as many octets; they need not be aligned.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    // SAFETY: as above, and any octets are of this type.
    let head = unsafe { address.cast::<[u8; 8]>().read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET => Some(Address::v4(head)),
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: address and scope of a `sockaddr_in6` follow.
            let (ipv6, scope) = unsafe {
                let ipv6 = address.byte_add(mem::offset_of!(libc::sockaddr_in6, sin6_addr));
                let scope = address.byte_add(mem::offset_of!(libc::sockaddr_in6, sin6_scope_id));
                (
                    ipv6.cast::<[u64; 2]>().read_unaligned(),
                    scope.cast::<u32>().read_unaligned(),
                )
            };
            Some(Address { head, ipv6, scope })
        }
        _ => None,
    }
}

/// The descriptors that a message hands over (`SCM_RIGHTS`).
///
/// # Safety
///
/// Its control data can be read, for as long as the descriptors are.
pub unsafe fn descriptors_in(message: &libc::msghdr) -> impl Iterator<Item = RawFd> {
    // SAFETY: the caller vouches for the control data.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    let control = std::iter::from_fn(move || {
        // SAFETY: null, or a header within the control data.
        let control = unsafe { next.as_ref() }?;
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(message, control) };
        Some(control)
    });
    let rights = control.filter(|control| {
        (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
    });
    rights.flat_map(|control| {
        // SAFETY: it begins behind the header, and is as long as the header says.
        let (data, header) = unsafe { (libc::CMSG_DATA(control), libc::CMSG_LEN(0)) };
        let len = control.cmsg_len.saturating_sub(header as usize);
        let data = data.cast::<RawFd>();
        // SAFETY: as above; it need not be aligned.
        (0..len / size_of::<RawFd>()).map(move |place| unsafe { data.add(place).read_unaligned() })
    })
}

/// Opens a file to append to, writes, and closes it; standard error for `-`. Nothing but system calls,
/// so that a signal handler can do it.
pub fn append(path: &CStr, octets: &[u8]) {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the path ends in NUL, and the octets are there. Whether they could be written does not
    // matter to the program.
    unsafe {
        if path == c"-" {
            libc::write(2, octets.as_ptr().cast(), octets.len());
            return;
        }
        let fd = libc::open(path.as_ptr(), flags, 0o644);
        if fd >= 0 {
            libc::write(fd, octets.as_ptr().cast(), octets.len());
            libc::close(fd);
        }
    }
}

/// Has a function called when this signal arrives.
pub fn on_signal(signal: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: zeroes are a valid `sigaction`; the handler only does what a handler may.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
    }
}

/// Runs a function with all signals blocked: threads that it starts leave the program's signals to the
/// program's threads.
pub fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are valid places; the old one is filled in before it is used.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        result
    }
}
