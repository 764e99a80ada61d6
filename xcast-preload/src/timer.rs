//! Ends groups that the program does not end: one thread, which sleeps while there are none.
//!
//! A program can wait in ways that are not hooked: in a system call that it makes without libc, in a
//! function of libc that seldom blocks (`unlink`), or in a loop. The thread is started with the first group of a process, so
//! programs that never send the same to several do not have it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use crate::{engine, raw};

/// How often routers are looked after while nothing else is to do.
const IDLE: Duration = Duration::from_secs(1);
/// Rounds without an open group before the thread sleeps.
const ROUNDS: u32 = 20;

static STARTED: AtomicBool = AtomicBool::new(false);
static SLEEPS: AtomicBool = AtomicBool::new(false);
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

/// The handle before a fork, to be dropped in parent and child.
pub fn hold() -> Held {
    handle()
}

/// This process is the child of a fork: it has no such thread.
pub fn forked(mut held: Held) {
    *held = None;
    STARTED.store(false, Ordering::Release);
    SLEEPS.store(false, Ordering::Release);
}

fn start() {
    let delay = engine::max_delay();
    if delay.is_zero() {
        return;
    }
    let run = move || {
        raw::stay_inside();
        run(delay / 2);
    };
    // Without the thread, groups end by what the program calls.
    let _ = raw::without_signals(|| {
        thread::Builder::new()
            .name("xcast".to_owned())
            .stack_size(256 * 1024)
            .spawn(run)
    });
}

fn run(round: Duration) {
    *handle() = Some(thread::current());
    let mut empty = 0;
    loop {
        if empty < ROUNDS {
            thread::sleep(round);
        } else {
            SLEEPS.store(true, Ordering::Release);
            thread::park_timeout(IDLE);
            if !SLEEPS.swap(false, Ordering::AcqRel) {
                empty = 0;
                thread::sleep(round);
            }
        }
        let mut open = false;
        engine::with_all(|engine| open |= engine.tick(round));
        empty = if open { 0 } else { (empty + 1).min(ROUNDS) };
    }
}
