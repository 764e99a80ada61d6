//! Notes on descriptors that threads read and write without a lock, for the quick decision that there
//! is nothing to do. Descriptors beyond the table are left alone.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use crate::habit::Habit;

/// Number of descriptors that are looked after.
pub const LIMIT: usize = 4096;

static HABITS: [AtomicU64; LIMIT] = [const { AtomicU64::new(0) }; LIMIT];
static GENERATIONS: [AtomicU32; LIMIT] = [const { AtomicU32::new(0) }; LIMIT];
static HELD: [AtomicBool; LIMIT] = [const { AtomicBool::new(false) }; LIMIT];
static MARKS: [AtomicU8; LIMIT] = [const { AtomicU8::new(0) }; LIMIT];

/// Its datagrams are left alone until somebody changes the socket.
const UNFIT: u8 = 1;
/// There is a second descriptor of the socket, so it is left alone until it is closed.
const DOUBLED: u8 = 2;
/// The library opened it.
const OURS: u8 = 4;

fn entry<T>(table: &[T; LIMIT], fd: RawFd) -> Option<&T> {
    usize::try_from(fd).ok().and_then(|fd| table.get(fd))
}

fn mark(fd: RawFd, mark: u8) {
    if let Some(marks) = entry(&MARKS, fd) {
        marks.fetch_or(mark, Ordering::Relaxed);
    }
}

fn has(fd: RawFd, mark: u8) -> bool {
    entry(&MARKS, fd).is_some_and(|marks| marks.load(Ordering::Relaxed) & mark != 0)
}

/// Notes a send; says whether it may be one of several.
pub fn note(fd: RawFd, payload: &[u8], destination: u64) -> bool {
    let Some(word) = entry(&HABITS, fd) else {
        return false;
    };
    // Threads that send at once may lose a note: then the habit shows a little later.
    let habit = Habit::from_word(word.load(Ordering::Relaxed)).note(payload, destination);
    word.store(habit.word(), Ordering::Relaxed);
    habit.repeats()
}

/// Notes that so many sends repeated the content of the latest one that was noted.
pub fn repeated(fd: RawFd, times: usize) {
    if let Some(word) = entry(&HABITS, fd) {
        let habit = Habit::from_word(word.load(Ordering::Relaxed)).repeated(times);
        word.store(habit.word(), Ordering::Relaxed);
    }
}

/// A number that is another one after the descriptor has become another one.
pub fn generation(fd: RawFd) -> u32 {
    entry(&GENERATIONS, fd).map_or(0, |generation| generation.load(Ordering::Relaxed))
}

/// Whether anything was sent by it that was looked at.
pub fn is_used(fd: RawFd) -> bool {
    entry(&HABITS, fd).is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

/// Whether anything is noted of it.
pub fn is_known(fd: RawFd) -> bool {
    is_used(fd) || has(fd, u8::MAX)
}

/// Whether the socket's datagrams are to be left alone.
pub fn is_left_alone(fd: RawFd) -> bool {
    entry(&MARKS, fd).is_none_or(|marks| marks.load(Ordering::Relaxed) & (UNFIT | DOUBLED) != 0)
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
    if let Some(marks) = entry(&MARKS, fd) {
        marks.fetch_and(!UNFIT, Ordering::Relaxed);
    }
}

/// The descriptor is another one from now on.
pub fn closed(fd: RawFd) {
    if let (Some(marks), Some(habit)) = (entry(&MARKS, fd), entry(&HABITS, fd)) {
        marks.store(0, Ordering::Relaxed);
        habit.store(0, Ordering::Relaxed);
    }
    if let Some(generation) = entry(&GENERATIONS, fd) {
        generation.fetch_add(1, Ordering::Relaxed);
    }
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
    if let Some(entry) = entry(&HELD, fd) {
        entry.store(held, Ordering::Release);
    }
}

/// Whether a group of the socket is open.
pub fn is_held(fd: RawFd) -> bool {
    entry(&HELD, fd).is_some_and(|held| held.load(Ordering::Acquire))
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
        ours(fd);
        changed(fd);
        assert!(is_ours(fd) && !is_left_alone(fd));
        closed(fd);
        assert!(!is_ours(fd));
    }
}
