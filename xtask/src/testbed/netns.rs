//! Network namespaces: entering them, and the processes in them.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    panic,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";
/// How long processes have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// The file that stands for a named namespace.
pub fn path(namespace: &str) -> PathBuf {
    Path::new(DIRECTORY).join(namespace)
}

/// The names of all namespaces, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(DIRECTORY)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Runs a closure inside a namespace, on a thread of its own: sockets opened and processes started
/// there stay in the namespace.
///
/// `/proc/thread-self/net` and `/proc/sys/net` are the namespace's, but `/sys` is not.
///
/// # Errors
///
/// The namespace does not exist or may not be entered.
///
/// # Panics
///
/// When the closure does.
pub fn enter<T: Send>(namespace: &str, closure: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path(namespace))
        .with_context(|| format!("failed to open namespace {namespace}"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok::<_, nix::Error>(closure())
        });
        inside
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
    .with_context(|| format!("failed to enter namespace {namespace}"))
}

/// Whether any process is running in the namespace.
pub fn occupied(namespace: &str) -> bool {
    !processes(&[namespace.to_owned()]).is_empty()
}

/// Ends all processes in the namespaces, but never this one: politely first.
pub(super) fn end_processes(namespaces: &[String]) {
    let started = Instant::now();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut running = processes(namespaces);
        for &pid in &running {
            // It may have ended by itself meanwhile.
            let _ = kill(pid, signal);
        }
        while !running.is_empty() && (signal == Signal::SIGKILL || started.elapsed() < GRACE) {
            if started.elapsed() > 2 * GRACE {
                return;
            }
            thread::sleep(Duration::from_millis(10));
            running = processes(namespaces);
        }
    }
}

/// The processes whose main thread is in one of the namespaces.
fn processes(namespaces: &[String]) -> Vec<Pid> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let namespaces: Vec<_> = namespaces
        .iter()
        .filter_map(|name| identity(&path(name)))
        .collect();
    if namespaces.is_empty() {
        return Vec::new();
    }
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != process::id())
        .filter(|pid| {
            identity(&Path::new("/proc").join(format!("{pid}/ns/net")))
                .is_some_and(|id| namespaces.contains(&id))
        })
        .filter_map(|pid| i32::try_from(pid).ok().map(Pid::from_raw))
        .collect()
}
