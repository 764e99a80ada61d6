//! How segments that are not in use any more go.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tracing::warn;

use crate::datapath::bpf;

/// Takes segments out of the programs' map, in a thread of its own: for each one, the kernel waits for its readers
/// (some 10 ms).
pub(super) struct Remover {
    jobs: Arc<Jobs>,
}

#[derive(Default)]
struct Jobs {
    state: Mutex<JobState>,
    changed: Condvar,
}

#[derive(Default)]
struct JobState {
    waiting: VecDeque<u32>,
    /// The one being taken out.
    under_way: Option<u32>,
    /// Taken out, and not asked for yet.
    removed: Vec<u32>,
    ended: bool,
}

impl Remover {
    /// The thread ends with the handle.
    pub(super) fn start(segments: OwnedFd) -> io::Result<Self> {
        let jobs = Arc::new(Jobs::default());
        let done = Arc::clone(&jobs);
        thread::Builder::new()
            .name("segments".to_owned())
            .spawn(move || done.carry_out(&segments))?;
        Ok(Self { jobs })
    }

    /// One that takes nothing out.
    #[cfg(test)]
    pub(super) fn idle() -> Self {
        Self {
            jobs: Arc::default(),
        }
    }

    pub(super) fn remove(&self, number: u32) {
        self.jobs.lock().waiting.push_back(number);
        self.jobs.changed.notify_all();
    }

    /// Has a segment stay: true if it is still in the programs' map. If it is just being taken out, waits for the
    /// end of that.
    pub(super) fn cancel(&self, number: u32) -> bool {
        let mut state = self.jobs.lock();
        if let Some(at) = state.waiting.iter().position(|&other| other == number) {
            state.waiting.remove(at);
            return true;
        }
        while state.under_way == Some(number) {
            state = self.jobs.wait(state);
        }
        state.removed.retain(|&other| other != number);
        false
    }

    /// Those that have been taken out since this was last asked.
    pub(super) fn removed(&self) -> Vec<u32> {
        std::mem::take(&mut self.jobs.lock().removed)
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.jobs.lock().ended = true;
        self.jobs.changed.notify_all();
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, JobState>) -> MutexGuard<'a, JobState> {
        let state = self.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, segments: &OwnedFd) {
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && !state.ended {
                state = self.wait(state);
            }
            if state.ended {
                return;
            }
            let Some(number) = state.waiting.pop_front() else {
                continue;
            };
            state.under_way = Some(number);
            drop(state);
            let result = bpf::map_delete(segments.as_fd(), number);
            let mut state = self.lock();
            state.under_way = None;
            match result {
                Ok(()) => state.removed.push(number),
                // What stays in the map goes on saying what the root says.
                Err(error) => warn!("cannot take a segment out of a route map: {error}"),
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}
