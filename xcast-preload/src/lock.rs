//! A lock that leans to a thread: the one that took it last and is likely to take it next. That thread
//! gets at what is behind it without an atomic operation that other processors have to hear of, which
//! would be most of what a datagram costs that is taken.
//!
//! The thread says that it is [busy](BUSY) and looks whether the lock still leans to it. Whoever else
//! wants the lock makes it stand upright first, has the kernel see to it that every thread of the
//! process notices (membarrier(2)), and then looks whether that thread is busy. So one of the two sees
//! the other. Where the kernel does not offer that, the lock never leans; where a filter refuses it later, locks
//! that lean are waited for, and none leans from then on.

use std::{
    cell::UnsafeCell,
    hint,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence},
    thread,
    time::{Duration, Instant},
};

use crate::raw::{self, Seat};

/// How often something is tried before the thread sleeps in between.
const SPINS: u32 = 100;
const PAUSE: Duration = Duration::from_micros(50);
/// How long a thread that leans is waited for at a time: a signal may have stopped it where it is.
const BUSY_FOR: Duration = Duration::from_millis(1);
/// Within this time every processor has written what it was about to write.
const SETTLED: Duration = Duration::from_millis(1);

/// Most threads that locks lean to.
const SEATS: usize = 256;

/// Whether locks may lean.
static MAY_LEAN: AtomicBool = AtomicBool::new(false);
/// Which seats are taken by threads.
static TAKEN: [AtomicBool; SEATS] = [const { AtomicBool::new(false) }; SEATS];
/// Whether the thread of a seat is at a value, or about to look whether it may be. Only that thread says
/// so.
static BUSY: [Line; SEATS] = [const { Line(AtomicBool::new(false)) }; SEATS];

/// What no other processor writes near to.
#[repr(align(64))]
struct Line(AtomicBool);

/// Asks the kernel for what leaning needs.
pub fn prepare() {
    MAY_LEAN.store(raw::register_barrier(), Ordering::Relaxed);
}

/// The calling thread's seat. Takes one if there is any.
fn sit_down() -> Seat {
    if raw::seat() == Seat::None {
        let free = TAKEN
            .iter()
            .position(|taken| !taken.swap(true, Ordering::AcqRel));
        raw::set_seat(free.map_or(Seat::None, Seat::At));
    }
    raw::seat()
}

/// The thread ends, and so will never sit again.
pub fn stand_up() {
    if let Seat::At(seat) = raw::seat() {
        TAKEN[seat].store(false, Ordering::Release);
    }
    raw::set_seat(Seat::Left);
}

/// In the child of a fork: no other thread is there.
pub fn forked() {
    for (seat, (taken, busy)) in TAKEN.iter().zip(&BUSY).enumerate() {
        taken.store(raw::seat() == Seat::At(seat), Ordering::Relaxed);
        busy.0.store(false, Ordering::Relaxed);
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let mut tries = 0;
    while !done() {
        tries += 1;
        match tries {
            ..SPINS => hint::spin_loop(),
            _ => thread::sleep(PAUSE),
        }
    }
}

/// A value that one thread uses at a time.
#[derive(Debug)]
pub struct Lock<T> {
    held: AtomicBool,
    /// The seat of the thread that it leans to, or [`UPRIGHT`]. Only who holds it changes that.
    leans: AtomicUsize,
    value: UnsafeCell<T>,
}

const UPRIGHT: usize = usize::MAX;

// SAFETY: one thread at a time has the value, see `try_lock` and `lean`.
unsafe impl<T: Send> Sync for Lock<T> {}

/// A lock that is held.
#[derive(Debug)]
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// It leans to nobody.
    pub const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            leans: AtomicUsize::new(UPRIGHT),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until nobody else has it. Threads have it for as long as it takes to send a packet.
    pub fn lock(&self) -> Guard<'_, T> {
        let mut guard = None;
        wait_until(|| {
            guard = self.try_lock();
            guard.is_some()
        });
        guard.expect("it was waited for")
    }

    /// Waits until then at most. Who has it may be stopped by a signal until the calling thread goes on.
    pub fn lock_until(&self, deadline: Instant) -> Option<Guard<'_, T>> {
        let mut guard = None;
        wait_until(|| {
            guard = self.try_lock();
            guard.is_some() || Instant::now() >= deadline
        });
        guard
    }

    /// The lock, unless somebody else holds it, or leans on it for long.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        if self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        let leans = self.leans.load(Ordering::Relaxed);
        if let Some(busy) = BUSY.get(leans)
            && raw::seat() != Seat::At(leans)
        {
            self.leans.store(UPRIGHT, Ordering::Relaxed);
            if !raw::barrier() {
                // A filter has come. What leans is waited for in another way, and nothing will lean any more.
                MAY_LEAN.store(false, Ordering::Relaxed);
                thread::sleep(SETTLED);
            }
            // By now the thread is seen to be busy, or it sees that the lock is upright.
            let mut free = false;
            let deadline = Instant::now() + BUSY_FOR;
            wait_until(|| {
                free = !busy.0.load(Ordering::Acquire);
                free || Instant::now() >= deadline
            });
            if !free {
                // It may be at the value, so whoever comes next has to look, too.
                self.leans.store(leans, Ordering::Relaxed);
                self.held.store(false, Ordering::Release);
                return None;
            }
        }
        Some(Guard(self))
    }

    /// Does some work with the value if the lock leans to this thread, whose seat this is. The work does
    /// not panic, and uses no lock.
    #[inline]
    pub fn lean<R>(&self, seat: Seat, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let Seat::At(seat) = seat else { return None };
        let busy = &BUSY.get(seat)?.0;
        busy.store(true, Ordering::Relaxed);
        // Whoever makes it stand upright has this processor pass a barrier here or elsewhere, see above.
        compiler_fence(Ordering::SeqCst);
        let result = (self.leans.load(Ordering::Relaxed) == seat).then(|| {
            // SAFETY: it leans to this thread, which is not at the value already, and nobody else gets
            // at it before this thread is seen not to be busy.
            work(unsafe { &mut *self.value.get() })
        });
        busy.store(false, Ordering::Release);
        result
    }
}

impl<T> Guard<'_, T> {
    /// The lock leans to the thread that holds it, from now on.
    pub fn lean(&self) {
        if MAY_LEAN.load(Ordering::Relaxed)
            && let Seat::At(seat) = sit_down()
        {
            self.0.leans.store(seat, Ordering::Relaxed);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: nobody else gets at it while the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each thread leans on the lock again and again, and takes it in between.
    #[test]
    fn one_thread_at_a_time() {
        const ROUNDS: u32 = 3000;
        prepare();
        assert!(MAY_LEAN.load(Ordering::Relaxed));
        // All the same, unless somebody else is at them.
        static LOCK: Lock<[u32; 64]> = Lock::new([0; 64]);
        let count = |value: &mut [u32; 64]| {
            let all = value[0];
            for number in value {
                assert_eq!(*hint::black_box(&mut *number), all);
                *number += 1;
            }
        };
        let leans = move || {
            let mut sum = 0;
            for _ in 0..ROUNDS {
                let mut guard = LOCK.lock();
                count(&mut guard);
                guard.lean();
                drop(guard);
                let leant = (0..200).map_while(|_| LOCK.lean(raw::seat(), count));
                sum += 1 + leant.count() as u32;
            }
            stand_up();
            sum
        };
        let threads = [(); 2].map(|()| thread::spawn(leans));
        let mut sum = 0;
        while !threads.iter().all(thread::JoinHandle::is_finished) {
            count(&mut LOCK.lock());
            sum += 1;
        }
        sum += threads.map(|it| it.join().unwrap()).iter().sum::<u32>();
        assert_eq!(*LOCK.lock(), [sum; 64]);
    }

    /// A thread that is stopped while it leans is not waited for for ever, and keeps others out all the time.
    #[test]
    fn who_leans_for_long_keeps_others_out() {
        prepare();
        static LOCK: Lock<u32> = Lock::new(0);
        static STAYS: AtomicBool = AtomicBool::new(true);
        let leans = || {
            LOCK.lock().lean();
            LOCK.lean(raw::seat(), |value| {
                *value = 1;
                while STAYS.load(Ordering::Acquire) {
                    thread::sleep(PAUSE);
                }
                *value = 2;
            });
            stand_up();
        };
        let thread = thread::spawn(leans);
        let is_there = || BUSY.iter().any(|busy| busy.0.load(Ordering::Acquire));
        wait_until(|| LOCK.leans.load(Ordering::Relaxed) != UPRIGHT && is_there());
        for _ in 0..3 {
            assert!(LOCK.try_lock().is_none());
            assert!(LOCK.lock_until(Instant::now()).is_none());
        }
        STAYS.store(false, Ordering::Release);
        assert_eq!(*LOCK.lock(), 2);
        thread.join().unwrap();
    }

    #[test]
    fn a_lock_stands_upright_for_others() {
        prepare();
        static LOCK: Lock<u32> = Lock::new(0);
        LOCK.lock().lean();
        assert_eq!(LOCK.lean(raw::seat(), |value| *value), Some(0));
        // Oneself does not push it over.
        *LOCK.lock() += 1;
        assert_eq!(LOCK.lean(raw::seat(), |value| *value), Some(1));
        let other = || {
            *LOCK.lock() += 1;
            stand_up();
        };
        thread::spawn(other).join().unwrap();
        assert_eq!(LOCK.lean(raw::seat(), |value| *value), None);
        let guard = LOCK.lock();
        assert_eq!(*guard, 2);
        assert!(LOCK.try_lock().is_none());
    }
}
