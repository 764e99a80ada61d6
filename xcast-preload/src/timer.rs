//! Ends groups that the program does not end: one thread, which sleeps while there are none.
//!
//! A program can wait in ways that are not hooked: in a system call that it makes without libc, in a
//! function of libc that seldom blocks (`unlink`), or in a loop. The thread is started with the first group of a process, so
//! programs that never send the same to several do not have it.
//!
//! A process whose main thread has called `pthread_exit` ends with the last of its other threads. The thread does
//! not stay without a group then, and the next group starts another one.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use crate::{engine, raw};

/// How often routers are looked after while nothing else is to do, and the longest round.
const IDLE: Duration = Duration::from_secs(1);
/// Rounds without an open group before the thread sleeps.
const ROUNDS: u32 = 20;
/// Rounds without an open group before it ends, if the program's main thread has ended.
const LAST_ROUNDS: u32 = 3;

static STARTED: AtomicBool = AtomicBool::new(false);
static SLEEPS: AtomicBool = AtomicBool::new(false);
/// The program's main thread has ended.
static MAIN_ENDED: AtomicBool = AtomicBool::new(false);
/// The thread, once it runs.
static THREAD: Mutex<Option<Thread>> = Mutex::new(None);

/// The lock of the thread's handle, held.
pub type Held = MutexGuard<'static, Option<Thread>>;

fn handle() -> Held {
    THREAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// There is an open group.
pub fn wake() {
    if !STARTED.load(Ordering::Relaxed) {
        if !STARTED.swap(true, Ordering::AcqRel) {
            start();
        }
    } else if SLEEPS.load(Ordering::Acquire)
        && SLEEPS.swap(false, Ordering::AcqRel)
        && let Some(thread) = &*handle()
    {
        thread.unpark();
    }
}

/// The program's main thread ends, and the process goes on.
pub fn main_ends() {
    MAIN_ENDED.store(true, Ordering::Release);
    if let Some(thread) = &*handle() {
        thread.unpark();
    }
}

/// The handle before a fork, to be dropped in parent and child.
pub fn hold() -> Held {
    handle()
}

/// This process is the child of a fork: it has no such thread, and who has forked is its main thread.
pub fn forked(mut held: Held) {
    *held = None;
    STARTED.store(false, Ordering::Release);
    SLEEPS.store(false, Ordering::Release);
    MAIN_ENDED.store(false, Ordering::Release);
}

fn start() {
    let delay = engine::max_delay();
    if delay.is_zero() {
        return;
    }
    let run = move || {
        raw::stay_inside();
        run(delay);
        // The last thread of a process does what is to be done at its end.
        raw::leave();
    };
    // Without the thread, groups end by what the program calls.
    let _ = raw::without_signals(|| {
        thread::Builder::new()
            .name("xcast".to_owned())
            .stack_size(256 * 1024)
            .spawn(run)
    });
}

fn run(delay: Duration) {
    let round = IDLE.min(delay / 2);
    let look = || {
        let mut open = false;
        engine::with_all(|engine| open |= engine.tick(delay - round));
        open
    };
    *handle() = Some(thread::current());
    let mut empty = 0;
    loop {
        if MAIN_ENDED.load(Ordering::Acquire) && empty >= LAST_ROUNDS {
            *handle() = None;
            STARTED.store(false, Ordering::Release);
            // A group that was opened before that is this thread's to end.
            if !look() || STARTED.swap(true, Ordering::AcqRel) {
                return;
            }
            *handle() = Some(thread::current());
            empty = 0;
        }
        if empty < ROUNDS {
            thread::park_timeout(round);
        } else {
            SLEEPS.store(true, Ordering::Release);
            thread::park_timeout(IDLE);
            if !SLEEPS.swap(false, Ordering::AcqRel) {
                empty = 0;
                thread::sleep(round);
            }
        }
        empty = if look() { 0 } else { (empty + 1).min(ROUNDS) };
    }
}
