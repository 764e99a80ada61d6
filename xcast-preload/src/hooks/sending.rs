//! The functions that send.

use std::{
    cell::RefCell,
    ffi::{c_int, c_uint, c_void},
    net::SocketAddr,
    slice,
};

use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::{
    descriptors::handed_over,
    thread::{LEAVE, end_own, original},
};
use crate::{
    address::Address,
    engine::{self, Engine},
    group::Datagram,
    raw::{self, inside, inside_with_group, is_inside, pending, set_pending, thread},
    statistics::{Counter, count},
    table, timer,
};

/// The flags of a send that an Xcast packet honours.
const FLAGS: c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// Most messages of a call, as in the kernel.
const MAX_MESSAGES: usize = libc::UIO_MAXIOV as usize;

/// Before a send that is not taken: ends the thread's group, and what order needs.
fn make_way(fd: c_int, to: Option<SocketAddr>) {
    end_own();
    if table::is_held(fd) && !is_inside() {
        let _ = inside(|| engine::with(fd, |engine| engine.make_way(thread(), fd, to)));
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

/// Takes a datagram if it is the next one of a list that is sent to again. This is the way of nearly
/// all that is taken: no allocation, no system call, and no lock that others want.
#[inline]
fn follows(fd: c_int, to: &Address, flags: c_int, payload: &[u8]) -> bool {
    if flags & !FLAGS != 0 {
        return false;
    }
    let follow = |thread, seat| engine::follow(thread, seat, fd, to, payload);
    match inside_with_group(fd, follow) {
        Some(Some(taken)) => taken,
        // Somebody else was there since the latest.
        Some(None) => {
            let follow = |engine: &mut Engine| engine.follow(thread(), fd, to, payload);
            inside(|| engine::with_again(fd, follow)).flatten() == Some(true)
        }
        None => false,
    }
}

/// Decides about a datagram of the program that does not [follow](follows).
fn offer(fd: c_int, to: Option<Address>, flags: c_int, payload: &[u8]) -> Fate {
    if is_inside() {
        return Fate::Passes;
    }
    table::count_sends(fd, 1);
    let plain = to.filter(|_| flags & !FLAGS == 0 && !table::is_left_alone(fd));
    let repeats = plain.is_some_and(|to| table::note(fd, payload, to.number()));
    let to = plain.and_then(Address::socket_address);
    let Some(to) = to.filter(|_| repeats) else {
        make_way(fd, to);
        return Fate::Passes;
    };
    if pending().is_some_and(|other| other != fd) {
        end_own();
    }
    // The destructor of the thread is registered here, if the thread does not end already.
    let registered = LEAVE.try_with(|_| ()).is_ok();
    let taken = inside(|| {
        let offer = |engine: &mut Engine| engine.offer(thread(), fd, to, payload);
        let taken = engine::with_again(fd, offer);
        if taken == Some(true) {
            timer::wake();
        }
        taken.unwrap_or(false)
    });
    match taken {
        Some(true) => {
            set_pending(Some(fd));
            if !registered {
                end_own();
            }
            Fate::Taken
        }
        _ => {
            set_pending(None);
            Fate::Watched(to)
        }
    }
}

/// The kernel has answered a datagram that was watched.
fn watched(fd: c_int, to: SocketAddr, taken: bool) {
    if taken {
        let _ = inside(|| engine::with(fd, |engine| engine.taken(fd, to)));
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
    let mut watch = None;
    if len <= 65535 && raw::is_memory(buffer, len) {
        // SAFETY: the caller vouches for address and buffer.
        let (to, payload) = unsafe {
            (
                raw::address(address.cast(), address_len as usize),
                slice::from_raw_parts(buffer.cast::<u8>(), len),
            )
        };
        if to.is_some_and(|to| follows(fd, &to, flags, payload)) {
            return len as ssize_t;
        }
        match offer(fd, to, flags, payload) {
            Fate::Taken => return len as ssize_t,
            Fate::Passes => {}
            Fate::Watched(to) => watch = Some(to),
        }
    } else {
        make_way(fd, None);
    }
    let original = original!(sendto: Original);
    // SAFETY: the caller's own arguments.
    let sent = unsafe { original(fd, buffer, len, flags, address, address_len) };
    if let Some(to) = watch {
        watched(fd, to, sent == len as ssize_t);
    }
    sent
}

/// Whether a program can have an array of so many there, though not more than a call takes.
fn is_array<T>(first: *const T, count: usize) -> bool {
    raw::is_memory(first, size_of::<T>() * count.min(MAX_MESSAGES))
}

/// The message of the program at an address, if the program can have one there.
///
/// # Safety
///
/// It is one that the kernel could read, if it [is memory](raw::is_memory).
unsafe fn message<'a>(message: *const msghdr) -> Option<&'a msghdr> {
    // SAFETY: the caller vouches for it.
    is_array(message, 1).then(|| unsafe { &*message })
}

/// A message of the program, as far as it can be taken: destination and content in one piece. A
/// message in pieces is put together in `pieces`.
///
/// # Safety
///
/// `message` is one that the kernel could read.
unsafe fn content<'a>(message: &'a msghdr, pieces: &'a mut Vec<u8>) -> Option<(Address, &'a [u8])> {
    if message.msg_controllen != 0 {
        return None;
    }
    // SAFETY: the caller vouches for the address, and for each piece.
    unsafe {
        let to = raw::address(message.msg_name, message.msg_namelen as usize)?;
        if message.msg_iovlen > MAX_MESSAGES || !is_array(message.msg_iov, message.msg_iovlen) {
            return None;
        }
        let list = slice::from_raw_parts(message.msg_iov, message.msg_iovlen);
        // The kernel refuses lengths whose sum does not fit: their pieces are not looked at.
        let mut lengths = list.iter().map(|piece| piece.iov_len);
        let len = lengths.try_fold(0_usize, usize::checked_add)?;
        let is_memory = |piece: &iovec| raw::is_memory(piece.iov_base, piece.iov_len);
        if len > 65535 || !list.iter().all(is_memory) {
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
/// `message` is one that the kernel could read.
unsafe fn offer_message(fd: c_int, message: Option<&msghdr>, flags: c_int) -> (Fate, usize) {
    let alone = is_inside() || table::is_left_alone(fd);
    let Some(message) = message.filter(|message| !alone && !message.msg_name.is_null()) else {
        if !is_inside() {
            table::count_sends(fd, 1);
            make_way(fd, None);
        }
        return (Fate::Passes, 0);
    };
    let fate = PIECES.try_with(|pieces| {
        let mut pieces = pieces.try_borrow_mut().ok()?;
        pieces.clear();
        // SAFETY: as above.
        let (to, payload) = unsafe { content(message, &mut pieces) }?;
        let fate = match follows(fd, &to, flags, payload) {
            true => Fate::Taken,
            false => offer(fd, Some(to), flags, payload),
        };
        Some((fate, payload.len()))
    });
    fate.ok().flatten().unwrap_or_else(|| {
        table::count_sends(fd, 1);
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
    let found = unsafe { self::message(message) };
    if let Some(message) = found {
        // SAFETY: as above.
        unsafe { handed_over(message) };
    }
    // SAFETY: as above.
    let (fate, len) = unsafe { offer_message(fd, found, flags) };
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
    if !is_array(messages, count as usize) {
        make_way(fd, None);
        // SAFETY: the caller's own arguments.
        return unsafe { original(fd, messages, count, flags) };
    }
    let first = messages;
    // SAFETY: there are as many messages, which the caller vouches for.
    let list = unsafe { slice::from_raw_parts_mut(first, (count as usize).min(MAX_MESSAGES)) };
    for message in &*list {
        // SAFETY: as above.
        unsafe { handed_over(&message.msg_hdr) };
    }
    if let [message] = list {
        // SAFETY: as above.
        let (fate, len) = unsafe { offer_message(fd, Some(&message.msg_hdr), flags) };
        if matches!(fate, Fate::Taken) {
            message.msg_len = len as c_uint;
            return 1;
        }
        // SAFETY: the caller's own arguments.
        let sent = unsafe { original(fd, first, count, flags) };
        if let Fate::Watched(to) = fate {
            watched(fd, to, sent == 1);
        }
        return sent;
    }
    make_way(fd, None);
    if count > 1 && flags & !FLAGS == 0 && !table::is_left_alone(fd) {
        // SAFETY: the caller vouches for the messages.
        return unsafe { send_many(original, fd, list, flags) };
    }
    table::count_sends(fd, list.len());
    // SAFETY: the caller's own arguments.
    unsafe { original(fd, first, count, flags) }
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
    table::count_sends(fd, messages.len());
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
            to: to.socket_address()?,
            fit: true,
        })
    });
    // A call with anything special in it passes as a whole.
    let mut datagrams: Vec<_> = parts.collect::<Option<_>>()?;
    // What never repeats anything need not be judged.
    let mut repeats = false;
    for datagram in &datagrams {
        repeats |= table::note(fd, datagram.content, Address::from(datagram.to).number());
    }
    if !repeats && !is_repetitive(&datagrams) {
        return None;
    }
    let call = engine::with(fd, |engine| engine.divide(fd, &mut datagrams))??;
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
        let to = unsafe { raw::address(header.msg_name, header.msg_namelen as usize) };
        if let Some(to) = to.and_then(Address::socket_address) {
            let _ = engine::with(fd, |engine| engine.taken(fd, to));
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
        unsafe { raw::address(header.msg_name, header.msg_namelen as usize) }?.socket_address()
    });
    let to: Vec<_> = to.collect();
    let header = messages[*first].msg_hdr;
    // SAFETY: as above.
    if let Some((_, payload)) = unsafe { content(&header, &mut pieces) } {
        for place in places {
            messages[*place].msg_len = payload.len() as c_uint;
        }
        let _ = engine::with(fd, |engine| engine.send(fd, payload, to));
    }
}
