//! Notes on descriptors that threads read and write without a lock, for the quick decision that there
//! is nothing to do. Descriptors beyond the table are left alone.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use crate::{
    habit::Habit,
    statistics::{Counter, count},
};

/// Number of descriptors that are looked after.
pub const LIMIT: usize = 4096;

/// What is noted of a descriptor: together, since what a program sends pushes memory out of caches.
#[repr(align(32))]
struct Entry {
    habit: AtomicU64,
    /// Messages that were sent by it and are not counted yet.
    sends: AtomicU64,
    generation: AtomicU32,
    /// [`FORKS`] when it was opened.
    forks: AtomicU32,
    held: AtomicBool,
    marks: AtomicU8,
}

static ENTRIES: [Entry; LIMIT] = [const {
    Entry {
        habit: AtomicU64::new(0),
        sends: AtomicU64::new(0),
        generation: AtomicU32::new(0),
        forks: AtomicU32::new(0),
        held: AtomicBool::new(false),
        marks: AtomicU8::new(0),
    }
}; LIMIT];

/// How often this process has forked, and those that it comes from.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Its datagrams are left alone until somebody changes the socket.
const UNFIT: u8 = 1;
/// There is a second descriptor of the socket, so it is left alone until it is closed.
const DOUBLED: u8 = 2;
/// The library opened it.
const OURS: u8 = 4;

fn entry(fd: RawFd) -> Option<&'static Entry> {
    usize::try_from(fd).ok().and_then(|fd| ENTRIES.get(fd))
}

fn mark(fd: RawFd, mark: u8) {
    if let Some(entry) = entry(fd) {
        entry.marks.fetch_or(mark, Ordering::Relaxed);
    }
}

fn has(fd: RawFd, mark: u8) -> bool {
    entry(fd).is_some_and(|entry| entry.marks.load(Ordering::Relaxed) & mark != 0)
}

/// Notes a send; says whether it may be one of several.
pub fn note(fd: RawFd, payload: &[u8], destination: u64) -> bool {
    let Some(entry) = entry(fd) else {
        return false;
    };
    // Threads that send at once may lose a note: then the habit shows a little later.
    let habit = Habit::from_word(entry.habit.load(Ordering::Relaxed)).note(payload, destination);
    entry.habit.store(habit.word(), Ordering::Relaxed);
    habit.repeats()
}

/// Notes that so many sends repeated the content of the latest one that was noted.
pub fn repeated(fd: RawFd, times: usize) {
    if let Some(Entry { habit, .. }) = entry(fd) {
        let repeated = Habit::from_word(habit.load(Ordering::Relaxed)).repeated(times);
        habit.store(repeated.word(), Ordering::Relaxed);
    }
}

/// Counts so many messages of the program.
pub fn count_sends(fd: RawFd, by: usize) {
    match entry(fd) {
        // Threads that send at once may lose some. To be exact would cost each send more than all else
        // that is noted of it.
        Some(Entry { sends, .. }) => {
            let before = sends.load(Ordering::Relaxed);
            sends.store(before + by as u64, Ordering::Relaxed);
        }
        None => count(Counter::Sends, by),
    }
}

/// Has all messages of the program counted that are not yet. A signal handler may call this.
pub fn sum_up() {
    for Entry { sends, .. } in &ENTRIES {
        if sends.load(Ordering::Relaxed) > 0 {
            count(Counter::Sends, sends.swap(0, Ordering::Relaxed) as usize);
        }
    }
}

/// A number that is another one after the descriptor has become another one.
pub fn generation(fd: RawFd) -> u32 {
    entry(fd).map_or(0, |entry| entry.generation.load(Ordering::Relaxed))
}

/// Whether anything was sent by it that was looked at.
pub fn is_used(fd: RawFd) -> bool {
    entry(fd).is_some_and(|entry| entry.habit.load(Ordering::Relaxed) != 0)
}

/// Whether anything is noted of it.
pub fn is_known(fd: RawFd) -> bool {
    is_used(fd) || has(fd, u8::MAX)
}

/// Whether the socket's datagrams are to be left alone.
pub fn is_left_alone(fd: RawFd) -> bool {
    entry(fd).is_none_or(|entry| entry.marks.load(Ordering::Relaxed) & (UNFIT | DOUBLED) != 0)
}

/// Leaves the socket alone until it is [`changed`].
pub fn unfit(fd: RawFd) {
    mark(fd, UNFIT);
}

/// Leaves the socket alone until it is [`closed`].
pub fn doubled(fd: RawFd) {
    mark(fd, DOUBLED);
}

/// Somebody has changed the socket, or may have.
pub fn changed(fd: RawFd) {
    if let Some(entry) = entry(fd) {
        entry.marks.fetch_and(!UNFIT, Ordering::Relaxed);
    }
}

/// The descriptor is another one from now on.
pub fn closed(fd: RawFd) {
    if let Some(entry) = entry(fd) {
        entry.marks.store(0, Ordering::Relaxed);
        entry.habit.store(0, Ordering::Relaxed);
        entry.generation.fetch_add(1, Ordering::Relaxed);
        entry
            .forks
            .store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Parent and child have the same sockets from now on.
pub fn forks() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Whether another process may have the socket by a fork.
pub fn is_inherited(fd: RawFd) -> bool {
    let forks = FORKS.load(Ordering::Relaxed);
    entry(fd).is_some_and(|entry| entry.forks.load(Ordering::Relaxed) != forks)
}

/// The library has opened it.
pub fn ours(fd: RawFd) {
    mark(fd, OURS);
}

/// Whether the library has opened it.
pub fn is_ours(fd: RawFd) -> bool {
    has(fd, OURS)
}

/// Says whether a group of the socket is open.
pub fn hold(fd: RawFd, held: bool) {
    if let Some(entry) = entry(fd) {
        entry.held.store(held, Ordering::Release);
    }
}

/// Whether a group of the socket is open.
pub fn is_held(fd: RawFd) -> bool {
    entry(fd).is_some_and(|entry| entry.held.load(Ordering::Acquire))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_last_as_long_as_they_should() {
        let fd = LIMIT as RawFd - 1;
        assert!(!is_left_alone(fd) && is_left_alone(LIMIT as RawFd) && is_left_alone(-1));
        unfit(fd);
        assert!(is_left_alone(fd));
        changed(fd);
        assert!(!is_left_alone(fd));
        doubled(fd);
        changed(fd);
        assert!(is_left_alone(fd));
        let before = generation(fd);
        closed(fd);
        assert!(!is_left_alone(fd));
        assert_ne!(generation(fd), before);
        forks();
        assert!(is_inherited(fd));
        closed(fd);
        assert!(!is_inherited(fd));
        ours(fd);
        changed(fd);
        assert!(is_ours(fd) && !is_left_alone(fd));
        closed(fd);
        assert!(!is_ours(fd));
    }
}
