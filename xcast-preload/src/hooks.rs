//! What a program calls in place of libc's functions of the same names.
//!
//! Every hook does its part and then calls the function that the program meant, if the program's
//! datagram has not been taken. The library's own calls arrive here as well, and pass
//! ([`raw::is_inside`]).
//!
//! A thread can be cancelled in the functions behind these. glibc unwinds it through the hooks then,
//! so they are `C-unwind`, and nothing is alive in them that would have to be dropped.

use std::{
    cell::RefCell,
    ffi::{CString, c_char, c_int, c_long, c_uint, c_void},
    net::SocketAddr,
    slice,
    sync::{
        MutexGuard, OnceLock,
        atomic::{AtomicI32, AtomicPtr, Ordering},
    },
};

use libc::{
    epoll_event, fd_set, mmsghdr, msghdr, nfds_t, off_t, pid_t, pollfd, pthread_t, sigset_t,
    size_t, sockaddr, socklen_t, ssize_t, timespec, timeval,
};
use nix::errno::Errno;

use crate::{
    engine::{self, Engine},
    group::Datagram,
    raw::{self, inside, is_inside, is_pending, set_pending, socket_address, thread},
    settings::Settings,
    statistics::{self, Counter, count},
    table, timer,
};

/// The flags of a send that an Xcast packet honours.
const FLAGS: c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// Most messages of a call, as in the kernel.
const MAX_MESSAGES: usize = libc::UIO_MAXIOV as usize;

/// The function that the program meant.
macro_rules! original {
    ($name:ident: $type:ty) => {{
        static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
        let address = raw::original(&FOUND, concat!(stringify!($name), "\0"));
        // SAFETY: the name's function in libc has this type.
        unsafe { std::mem::transmute::<*mut c_void, $type>(address) }
    }};
}

// ---------------------------------------------------------------------------------------------
// Start, end, and fork.

/// Where statistics go, if anywhere, and whether as JSON.
static STATISTICS: OnceLock<Option<(CString, bool)>> = OnceLock::new();

/// The process that the library's notes are about. The child of a `vfork` works in its parent's
/// memory, but has descriptors of its own: what it closes stays open for the parent.
static PROCESS: AtomicI32 = AtomicI32::new(0);

fn process() -> c_int {
    // SAFETY: `getpid` has no conditions.
    unsafe { libc::getpid() }
}

/// Whether this is the child of a `vfork`.
fn is_borrowed() -> bool {
    PROCESS.load(Ordering::Relaxed) != process()
}

thread_local! {
    /// The engine's lock while the process forks.
    static FORKING: RefCell<Option<MutexGuard<'static, Option<Engine>>>> = const { RefCell::new(None) };
    /// Ends the thread's group when the thread ends.
    static LEAVE: Leave = const { Leave };
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        end_own();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINI: extern "C" fn() = fini;

extern "C" fn init() {
    PROCESS.store(process(), Ordering::Relaxed);
    let _ = inside(|| {
        let settings = match Settings::read(|name| std::env::var(name).ok()) {
            Ok(settings) => settings,
            Err(error) => {
                let line = format!("xcast: {error}; nothing is done\n");
                return raw::append(c"-", line.as_bytes());
            }
        };
        let path = settings.statistics.as_ref();
        let path = path.and_then(|path| CString::new(path.as_os_str().as_encoded_bytes()).ok());
        let _ = STATISTICS.set(path.map(|path| (path, settings.json)));
        if let Some(signal) = settings.signal {
            raw::on_signal(signal, show_on_signal);
        }
        engine::start(settings);
        // SAFETY: the functions stay where they are, since this library is never unloaded.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    });
}

extern "C" fn fini() {
    let _ = inside(engine::finish);
    if !is_borrowed() {
        show_statistics();
    }
}

/// Shows what was counted, if that is wanted and there is anything. A signal handler may call this.
fn show_statistics() {
    let anything = statistics::value(Counter::Sends) > 0;
    if let Some(Some((path, json))) = STATISTICS.get()
        && anything
    {
        // SAFETY: `getpid` has no conditions.
        let process = unsafe { libc::getpid() };
        raw::append(
            path,
            statistics::line(process.unsigned_abs(), *json).octets(),
        );
    }
}

extern "C" fn show_on_signal(_: c_int) {
    let errno = Errno::last_raw();
    show_statistics();
    Errno::set_raw(errno);
}

unsafe extern "C" fn before_fork() {
    let guard = inside(engine::hold);
    set_pending(false);
    let _ = FORKING.try_with(|forking| *forking.borrow_mut() = guard);
}

unsafe extern "C" fn after_fork() {
    let _ = FORKING.try_with(|forking| forking.borrow_mut().take());
}

unsafe extern "C" fn in_child() {
    let guard = FORKING.try_with(|forking| forking.borrow_mut().take());
    let guard = guard.ok().flatten();
    PROCESS.store(process(), Ordering::Relaxed);
    let _ = inside(|| {
        if let Some(mut guard) = guard {
            guard.iter_mut().for_each(Engine::forked);
        }
        timer::forked();
        statistics::reset();
    });
}

// ---------------------------------------------------------------------------------------------
// Sending.

/// Ends the thread's group.
fn end_own() {
    if is_pending() {
        set_pending(false);
        let _ = inside(|| engine::with(|engine| engine.end_thread(thread())));
    }
}

/// Before a send that is not taken: ends the thread's group, and what order needs.
fn make_way(fd: c_int, to: Option<SocketAddr>) {
    if is_pending() || (table::is_held(fd) && !is_inside()) {
        set_pending(false);
        let _ = inside(|| engine::with(|engine| engine.make_way(thread(), fd, to)));
    }
}

/// What becomes of a datagram.
enum Fate {
    /// It has been taken. The program is told so.
    Taken,
    /// It passes.
    Passes,
    /// It passes, and the engine is to be told if the kernel takes it.
    Watched(SocketAddr),
}

/// Decides about a datagram of the program.
fn offer(fd: c_int, to: Option<SocketAddr>, flags: c_int, payload: &[u8]) -> Fate {
    if is_inside() {
        return Fate::Passes;
    }
    count(Counter::Sends, 1);
    let to = to.filter(|_| flags & !FLAGS == 0 && !table::is_left_alone(fd));
    let Some(to) = to.filter(|to| table::note(fd, payload, destination(*to))) else {
        make_way(fd, to);
        return Fate::Passes;
    };
    let taken = inside(|| {
        let taken = engine::with(|engine| engine.offer(thread(), fd, to, payload));
        if taken == Some(true) {
            timer::wake();
        }
        taken.unwrap_or(false)
    });
    match taken {
        Some(true) => {
            // The destructor of the thread is registered here, if the thread does not end already.
            let registered = LEAVE.try_with(|_| ()).is_ok();
            set_pending(true);
            if !registered {
                end_own();
            }
            Fate::Taken
        }
        _ => {
            set_pending(false);
            Fate::Watched(to)
        }
    }
}

/// A number for a destination: its port, and the end of its address.
fn destination(to: SocketAddr) -> u64 {
    let end = match to {
        SocketAddr::V4(to) => u64::from(to.ip().to_bits()),
        SocketAddr::V6(to) => to.ip().to_bits() as u64,
    };
    end ^ u64::from(to.port()) << 48
}

/// The kernel has answered a datagram that was watched.
fn watched(fd: c_int, to: SocketAddr, taken: bool) {
    if taken {
        let _ = inside(|| engine::with(|engine| engine.taken(fd, to)));
    }
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sendto(
    fd: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    type Original = unsafe extern "C-unwind" fn(
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t;
    let original = original!(sendto: Original);
    let mut watch = None;
    if !buffer.is_null() && len <= 65535 {
        // SAFETY: the caller vouches for address and buffer.
        let (to, payload) = unsafe {
            (
                socket_address(address.cast(), address_len as usize),
                slice::from_raw_parts(buffer.cast::<u8>(), len),
            )
        };
        match offer(fd, to, flags, payload) {
            Fate::Taken => return len as ssize_t,
            Fate::Passes => {}
            Fate::Watched(to) => watch = Some(to),
        }
    } else {
        make_way(fd, None);
    }
    // SAFETY: the caller's own arguments.
    let sent = unsafe { original(fd, buffer, len, flags, address, address_len) };
    if let Some(to) = watch {
        watched(fd, to, sent == len as ssize_t);
    }
    sent
}

/// A message of the program, as far as it can be taken: destination and content in one piece. A
/// message in pieces is put together in `pieces`.
///
/// # Safety
///
/// `message` is one that the kernel could read.
unsafe fn content<'a>(
    message: &'a msghdr,
    pieces: &'a mut Vec<u8>,
) -> Option<(SocketAddr, &'a [u8])> {
    if message.msg_controllen != 0 && !message.msg_control.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for the address, and for each piece.
    unsafe {
        let to = socket_address(message.msg_name, message.msg_namelen as usize)?;
        if message.msg_iov.is_null() || message.msg_iovlen > MAX_MESSAGES {
            return None;
        }
        let list = slice::from_raw_parts(message.msg_iov, message.msg_iovlen);
        let len = list.iter().map(|piece| piece.iov_len).sum::<usize>();
        if len > 65535 || list.iter().any(|piece| piece.iov_base.is_null()) {
            return None;
        }
        if let [piece] = list {
            return Some((
                to,
                slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len),
            ));
        }
        for piece in list {
            pieces.extend_from_slice(slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len));
        }
        Some((to, pieces))
    }
}

thread_local! {
    /// Where messages in pieces are put together.
    static PIECES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Decides about a message of the program, and says how long it is.
///
/// # Safety
///
/// `message` is null or one that the kernel could read.
unsafe fn offer_message(fd: c_int, message: *const msghdr, flags: c_int) -> (Fate, usize) {
    // SAFETY: the caller vouches for it.
    let message = unsafe { message.as_ref() };
    let alone = is_inside() || table::is_left_alone(fd);
    let Some(message) = message.filter(|message| !alone && !message.msg_name.is_null()) else {
        if !is_inside() {
            make_way(fd, None);
        }
        return (Fate::Passes, 0);
    };
    let fate = PIECES.try_with(|pieces| {
        let mut pieces = pieces.try_borrow_mut().ok()?;
        pieces.clear();
        // SAFETY: as above.
        let (to, payload) = unsafe { content(message, &mut pieces) }?;
        Some((offer(fd, Some(to), flags, payload), payload.len()))
    });
    fate.ok().flatten().unwrap_or_else(|| {
        count(Counter::Sends, 1);
        count(Counter::Call, 1);
        make_way(fd, None);
        (Fate::Passes, 0)
    })
}

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sendmsg(
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    type Original = unsafe extern "C-unwind" fn(c_int, *const msghdr, c_int) -> ssize_t;
    let original = original!(sendmsg: Original);
    // SAFETY: the caller vouches for the message.
    let (fate, len) = unsafe { offer_message(fd, message, flags) };
    if matches!(fate, Fate::Taken) {
        return len as ssize_t;
    }
    // SAFETY: the caller's own arguments.
    let sent = unsafe { original(fd, message, flags) };
    if let Fate::Watched(to) = fate {
        watched(fd, to, sent == len as ssize_t);
    }
    sent
}

type SendMany = unsafe extern "C-unwind" fn(c_int, *mut mmsghdr, c_uint, c_int) -> c_int;

/// # Safety
///
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sendmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let original = original!(sendmmsg: SendMany);
    if is_inside() {
        // SAFETY: the library's own arguments.
        return unsafe { original(fd, messages, count, flags) };
    }
    if count == 1 && !messages.is_null() {
        // SAFETY: there is one message, which the caller vouches for.
        let (fate, len) = unsafe { offer_message(fd, &raw const (*messages).msg_hdr, flags) };
        if matches!(fate, Fate::Taken) {
            // SAFETY: as above.
            unsafe { (*messages).msg_len = len as c_uint };
            return 1;
        }
        // SAFETY: the caller's own arguments.
        let sent = unsafe { original(fd, messages, count, flags) };
        if let Fate::Watched(to) = fate {
            watched(fd, to, sent == 1);
        }
        return sent;
    }
    make_way(fd, None);
    let possible = !messages.is_null() && flags & !FLAGS == 0 && !table::is_left_alone(fd);
    if possible && count > 1 {
        // SAFETY: there are as many messages.
        let messages =
            unsafe { slice::from_raw_parts_mut(messages, (count as usize).min(MAX_MESSAGES)) };
        // SAFETY: the caller vouches for the messages.
        return unsafe { send_many(original, fd, messages, flags) };
    }
    // SAFETY: the caller's own arguments.
    unsafe { original(fd, messages, count, flags) }
}

/// What is to be done with a call of many messages.
struct Plan {
    /// Groups of messages that share packets, by their places.
    groups: Vec<Vec<usize>>,
    /// The others, as they are handed to the kernel, and their places.
    single: Vec<mmsghdr>,
    places: Vec<usize>,
    /// All of them.
    count: usize,
}

/// # Safety
///
/// The messages are such that the kernel could read them.
unsafe fn send_many(
    original: SendMany,
    fd: c_int,
    messages: &mut [mmsghdr],
    flags: c_int,
) -> c_int {
    count(Counter::Sends, messages.len());
    // SAFETY: the caller vouches for the messages.
    let plan = inside(|| unsafe { plan(fd, messages) }).flatten();
    let Some(plan) = plan else {
        let count = messages.len() as c_uint;
        // SAFETY: the caller's own arguments.
        let sent = unsafe { original(fd, messages.as_mut_ptr(), count, flags) };
        let taken = usize::try_from(sent).unwrap_or(0).min(messages.len());
        // SAFETY: the caller vouches for the messages.
        let _ = inside(|| unsafe { note_taken(fd, &messages[..taken]) });
        return sent;
    };
    // Single ones first: they wait, or fail, as they would have. A plan is not dropped if the thread
    // is cancelled here, which loses memory and nothing else.
    let plan = std::mem::ManuallyDrop::new(plan);
    let mut sent = 0;
    if !plan.single.is_empty() {
        let list = plan.single.as_ptr().cast_mut();
        // SAFETY: copies of the caller's own, with pointers to its memory.
        sent = unsafe { original(fd, list, plan.single.len() as c_uint, flags) };
    }
    let mut plan = std::mem::ManuallyDrop::into_inner(plan);
    let failed = inside(|| {
        let done = usize::try_from(sent).unwrap_or(0);
        // Messages before the first that was not sent count as sent; others have not been.
        let end = plan.places.get(done).copied().unwrap_or(plan.count);
        for (copy, place) in plan.single.iter().zip(&plan.places).take(done) {
            messages[*place].msg_len = copy.msg_len;
        }
        // SAFETY: the caller vouches for the messages.
        unsafe { note_taken(fd, &plan.single[..done.min(plan.single.len())]) };
        for group in &mut plan.groups {
            group.retain(|place| *place < end);
            // SAFETY: as above.
            unsafe { send_group(fd, messages, group) };
        }
        let failed = end == 0;
        // The answer: how many messages were sent.
        plan.count = end;
        let count = plan.count;
        drop(plan);
        (failed, count)
    });
    match failed {
        Some((false, count)) => count as c_int,
        _ => sent,
    }
}

/// # Safety
///
/// The messages are such that the kernel could read them.
unsafe fn plan(fd: c_int, messages: &[mmsghdr]) -> Option<Plan> {
    let mut pieces = vec![Vec::new(); messages.len()];
    let parts = messages.iter().zip(&mut pieces).map(|(message, pieces)| {
        // SAFETY: the caller vouches for the message.
        let (to, content) = unsafe { content(&message.msg_hdr, pieces) }?;
        Some(Datagram {
            content,
            to,
            fit: true,
        })
    });
    // A call with anything special in it passes as a whole.
    let mut datagrams: Vec<_> = parts.collect::<Option<_>>()?;
    // What never repeats anything need not be judged.
    let mut repeats = false;
    for datagram in &datagrams {
        repeats |= table::note(fd, datagram.content, destination(datagram.to));
    }
    if !repeats && !is_repetitive(&datagrams) {
        return None;
    }
    let call = engine::with(|engine| engine.divide(fd, &mut datagrams))??;
    let single = call.single.iter().map(|place| messages[*place]).collect();
    Some(Plan {
        groups: call.groups,
        single,
        places: call.single,
        count: messages.len(),
    })
}

/// Whether the first content of a call is in it again: clients after clients, each with the same.
fn is_repetitive(datagrams: &[Datagram<'_>]) -> bool {
    let mut datagrams = datagrams.iter();
    datagrams
        .next()
        .is_some_and(|first| datagrams.any(|other| other.content == first.content))
}

/// # Safety
///
/// The messages are such that the kernel could read them.
unsafe fn note_taken(fd: c_int, messages: &[mmsghdr]) {
    for message in messages {
        let header = &message.msg_hdr;
        // SAFETY: the caller vouches for the message.
        let to = unsafe { socket_address(header.msg_name, header.msg_namelen as usize) };
        if let Some(to) = to {
            let _ = engine::with(|engine| engine.taken(fd, to));
        }
    }
}

/// Sends those messages of a call that share a packet.
///
/// # Safety
///
/// The messages are such that the kernel could read them.
unsafe fn send_group(fd: c_int, messages: &mut [mmsghdr], places: &[usize]) {
    let Some(first) = places.first() else { return };
    let mut pieces = Vec::new();
    let to = places.iter().filter_map(|place| {
        let header = &messages[*place].msg_hdr;
        // SAFETY: the caller vouches for the message.
        unsafe { socket_address(header.msg_name, header.msg_namelen as usize) }
    });
    let to: Vec<_> = to.collect();
    let header = messages[*first].msg_hdr;
    // SAFETY: as above.
    if let Some((_, payload)) = unsafe { content(&header, &mut pieces) } {
        for place in places {
            messages[*place].msg_len = payload.len() as c_uint;
        }
        let _ = engine::with(|engine| engine.send(fd, payload, to));
    }
}

// ---------------------------------------------------------------------------------------------
// Descriptors.

/// The socket may be another one now.
fn changed(fd: c_int) {
    if !is_inside() && !table::is_ours(fd) {
        end_own();
        if table::is_used(fd) && !is_borrowed() {
            let _ = inside(|| engine::with(|engine| engine.forget(fd)));
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
        table::closed(fd);
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
        let _ = inside(|| engine::with(|engine| engine.forget(fd)));
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

/// A number that the program wants to be its own.
fn give_way(fd: c_int) {
    if table::is_ours(fd) && !is_inside() && !is_borrowed() {
        let _ = inside(|| engine::with(Engine::forget_all));
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

// ---------------------------------------------------------------------------------------------
// Calls that may block, that others see, or that may end the process.

/// The thread's group ends first.
macro_rules! ends {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $answer {
            type Original = unsafe extern "C-unwind" fn($($type),*) -> $answer;
            let original = original!($name: Original);
            end_own();
            // SAFETY: the caller's own arguments.
            unsafe { original($($argument),*) }
        }
    )*};
}

ends! {
    send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t;
    writev(fd: c_int, list: *const libc::iovec, count: c_int) -> ssize_t;
    sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t;

    recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    recvfrom(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int;
    read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t;
    readv(fd: c_int, list: *const libc::iovec, count: c_int) -> ssize_t;
    accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int;
    accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;

    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int;
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    select(count: c_int, readable: *mut fd_set, writable: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int;
    pselect(count: c_int, readable: *mut fd_set, writable: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_wait(fd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int;
    epoll_pwait(fd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2(fd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int;

    nanosleep(time: *const timespec, left: *mut timespec) -> c_int;
    clock_nanosleep(clock: c_int, flags: c_int, time: *const timespec, left: *mut timespec) -> c_int;
    usleep(time: c_uint) -> c_int;
    sleep(time: c_uint) -> c_uint;
    pause() -> c_int;
    sched_yield() -> c_int;
    sigsuspend(mask: *const sigset_t) -> c_int;
    sigwait(set: *const sigset_t, signal: *mut c_int) -> c_int;
    sigwaitinfo(set: *const sigset_t, information: *mut c_void) -> c_int;
    sigtimedwait(set: *const sigset_t, information: *mut c_void, timeout: *const timespec) -> c_int;
    wait(status: *mut c_int) -> pid_t;
    waitpid(process: pid_t, status: *mut c_int, options: c_int) -> pid_t;
    wait4(process: pid_t, status: *mut c_int, options: c_int, usage: *mut c_void) -> pid_t;
    waitid(kind: c_uint, id: c_uint, information: *mut c_void, options: c_int) -> c_int;
    pthread_join(other: pthread_t, value: *mut *mut c_void) -> c_int;
    pthread_cond_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int;
    pthread_cond_timedwait(condition: *mut c_void, mutex: *mut c_void, time: *const timespec) -> c_int;
    pthread_cond_clockwait(condition: *mut c_void, mutex: *mut c_void, clock: c_int, time: *const timespec) -> c_int;
    sem_wait(semaphore: *mut c_void) -> c_int;
    sem_timedwait(semaphore: *mut c_void, time: *const timespec) -> c_int;
    sem_clockwait(semaphore: *mut c_void, clock: c_int, time: *const timespec) -> c_int;

    fgets(buffer: *mut c_char, len: c_int, file: *mut c_void) -> *mut c_char;
    fread(buffer: *mut c_void, size: size_t, count: size_t, file: *mut c_void) -> size_t;
    getline(line: *mut *mut c_char, len: *mut size_t, file: *mut c_void) -> ssize_t;
    getdelim(line: *mut *mut c_char, len: *mut size_t, end: c_int, file: *mut c_void) -> ssize_t;

    // What programs with _FORTIFY_SOURCE call instead.
    __recv_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t;
    __recvfrom_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t;
    __read_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t) -> ssize_t;
    __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int;
    __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int;
    __fgets_chk(buffer: *mut c_char, size: size_t, len: c_int, file: *mut c_void) -> *mut c_char;
    __fread_chk(buffer: *mut c_void, size: size_t, each: size_t, count: size_t, file: *mut c_void) -> size_t;

    // Rust's standard library waits by this. As in libc it passes on six arguments, used or not.
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;

    kill(process: pid_t, signal: c_int) -> c_int;
    raise(signal: c_int) -> c_int;
    pthread_kill(other: pthread_t, signal: c_int) -> c_int;
    abort() -> !;
    execv(path: *const c_char, arguments: *const *const c_char) -> c_int;
    execve(path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    execvp(file: *const c_char, arguments: *const *const c_char) -> c_int;
    execvpe(file: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    fexecve(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
}

/// Functions that end the process without asking anybody.
macro_rules! exits {
    ($($name:ident),*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(status: c_int) -> ! {
            type Original = unsafe extern "C-unwind" fn(c_int) -> !;
            let original = original!($name: Original);
            fini();
            // SAFETY: the caller's own argument.
            unsafe { original(status) }
        }
    )*};
}

exits!(_exit, _Exit, quick_exit);
