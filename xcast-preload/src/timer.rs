//! Ends groups that the program does not end: one thread, which sleeps while there are none.
//!
//! A program can wait in ways that are not hooked: in a system call of its own making, in an input
//! function of libc, or in a loop. The thread is started with the first group of a process, so
//! programs that never send the same to several do not have it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{engine, raw};

/// How often routers are looked after while nothing else is to do.
const IDLE: Duration = Duration::from_secs(1);
/// Rounds without an open group before the thread sleeps.
const ROUNDS: u32 = 20;

static STARTED: AtomicBool = AtomicBool::new(false);
static SLEEPS: AtomicBool = AtomicBool::new(false);

/// There is an open group.
pub fn wake() {
    if !STARTED.load(Ordering::Relaxed) {
        if !STARTED.swap(true, Ordering::AcqRel) {
            start();
        }
    } else if SLEEPS.load(Ordering::Acquire)
        && SLEEPS.swap(false, Ordering::AcqRel)
        && let Some(thread) = engine::with(|engine| engine.timer.clone()).flatten()
    {
        thread.unpark();
    }
}

/// This process is the child of a fork: it has no such thread.
pub fn forked() {
    STARTED.store(false, Ordering::Release);
    SLEEPS.store(false, Ordering::Release);
}

fn start() {
    let delay = engine::with(|engine| engine.max_delay());
    let Some(delay) = delay.filter(|delay| !delay.is_zero()) else {
        return;
    };
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
    engine::with(|engine| engine.timer = Some(thread::current()));
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
        match engine::with(|engine| engine.tick(round)) {
            Some(true) => empty = 0,
            Some(false) => empty = (empty + 1).min(ROUNDS),
            None => return,
        }
    }
}
