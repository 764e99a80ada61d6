//! What the programs tell user space, by ring buffers.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;
use xcast_common::{counter::NAMES, maps::SubsetKey};

use super::{error::DatapathError, object::typed};

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
    pub async fn next(&mut self) -> io::Result<Vec<SubsetKey>> {
        let mut guard = self.0.readable_mut().await?;
        let keys = drain(guard.get_inner_mut());
        guard.clear_ready();
        Ok(keys)
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<SubsetKey> {
    let mut keys = Vec::new();
    while let Some(item) = ring.next() {
        let mut key = SubsetKey::EMPTY;
        if let Some(copies) = item.first_chunk() {
            key.copies = *copies;
            if !keys.contains(&key) {
                keys.push(key);
            }
        } else {
            debug!("a subset of {} octets was reported", item.len());
        }
    }
    keys
}

/// The programs' log of dropped packets, for debugging. Off by default: a counter by reason and
/// port costs next to nothing, a line for each packet does not.
pub struct DropLog(AsyncFd<EbpfLogger<Names>>);

impl DropLog {
    /// Must be called within a tokio runtime. `None` unless debugging is on.
    pub(super) fn open(ebpf: &mut Ebpf) -> Option<Self> {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return None;
        }
        let unavailable =
            |error: &dyn std::fmt::Display| debug!("no log of dropped packets: {error}");
        let log = EbpfLogger::init_with_logger(ebpf, Names)
            .inspect_err(|error| unavailable(error))
            .ok()?;
        let log = poll_on(log).inspect_err(|error| unavailable(error)).ok()?;
        Some(Self(log))
    }

    /// Writes what the programs log to this process's log, for as long as there is anything.
    pub async fn follow(mut self) {
        while let Ok(mut guard) = self.0.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
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
