//! What the programs tell user space, by ring buffers.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;
use xcast_common::maps::{FanoutKey, counter::NAMES};

use super::{error::DatapathError, object::typed};

/// Pause between two looks at the log of dropped packets, in milliseconds.
const DROP_LOG_PAUSE_MS: u16 = 100;
/// Reports taken from the ring in one go.
const MISSES_AT_ONCE: usize = 1024;

/// Subsets of ports that traffic asked for and that have no device map.
pub struct Misses(AsyncFd<RingBuf<MapData>>);

impl Misses {
    /// Must be called within a tokio runtime.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let ring = poll_on(typed(ebpf, "MISSES")?).map_err(|source| DatapathError::System {
            what: "cannot poll the BPF ring `MISSES`",
            source,
        })?;
        Ok(Self(ring))
    }

    /// Waits for subsets, and takes all that were reported since the last time. Nothing is lost if
    /// this is cancelled.
    ///
    /// # Errors
    ///
    /// The ring cannot be polled.
    pub async fn next(&mut self) -> io::Result<Vec<FanoutKey>> {
        let mut guard = self.0.readable_mut().await?;
        let (keys, is_empty) = drain(guard.get_inner_mut());
        if is_empty {
            guard.clear_ready();
        }
        Ok(keys)
    }
}

/// The subsets in the ring, each once and so many at most, and whether those were all.
fn drain(ring: &mut RingBuf<MapData>) -> (Vec<FanoutKey>, bool) {
    let mut keys = HashSet::new();
    for _ in 0..MISSES_AT_ONCE {
        let Some(item) = ring.next() else {
            return (keys.into_iter().collect(), true);
        };
        let mut key = FanoutKey::EMPTY;
        if let Some(copies) = item.first_chunk() {
            key.copies = *copies;
            keys.insert(key);
        } else {
            debug!("a subset of {} octets was reported", item.len());
        }
    }
    (keys.into_iter().collect(), false)
}

/// The programs' log of dropped packets, for debugging. Off by default: a counter by reason and
/// port costs next to nothing, a line for each packet does not.
pub struct DropLog(EbpfLogger<Names>);

/// The log is followed as long as this is there.
#[derive(Debug)]
pub struct Following(Arc<AtomicBool>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl DropLog {
    /// `None` unless debugging is on.
    pub(super) fn open(ebpf: &mut Ebpf) -> Option<Self> {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return None;
        }
        let log = EbpfLogger::init_with_logger(ebpf, Names)
            .inspect_err(|error| debug!("no log of dropped packets: {error}"))
            .ok()?;
        Some(Self(log))
    }

    /// Writes what the programs log to this process's log, in a thread of its own: packets may come
    /// faster than they can be told, and the event loop has other things to do.
    pub fn follow(self) -> Following {
        let wanted = Arc::new(AtomicBool::new(true));
        let following = Following(Arc::clone(&wanted));
        let mut log = self.0;
        let follow = move || {
            while wanted.load(Ordering::Relaxed) {
                let mut ring = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ring, PollTimeout::from(DROP_LOG_PAUSE_MS)).is_ok() {
                    log.flush();
                }
                // What comes meanwhile fills the ring, and the rest is counted only.
                thread::sleep(Duration::from_millis(DROP_LOG_PAUSE_MS.into()));
            }
        };
        if let Err(error) = thread::Builder::new()
            .name("drop-log".to_owned())
            .spawn(follow)
        {
            debug!("no log of dropped packets: {error}");
        }
        following
    }
}

/// Has the runtime wait for a BPF ring.
fn poll_on<T: AsFd + AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: rings own their file descriptor, always name the same one, and are owned by the
    // `AsyncFd` from here on: it is deregistered before it is closed.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}

/// Turns the programs' numbers into names.
struct Names;

impl Log for Names {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let numbers = line.split_once(' ');
        let parsed = numbers.and_then(|(slot, reason)| {
            let reason: usize = reason.trim().parse().ok()?;
            Some((slot.to_owned(), *NAMES.get(reason)?))
        });
        match parsed {
            Some((slot, reason)) => debug!("packet dropped at port slot {slot}: {reason}"),
            None => debug!("the programs say: {line}"),
        }
    }

    fn flush(&self) {}
}
