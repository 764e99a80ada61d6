//! Where a test runs: what the datapath remembers is each CPU's own, and the CPU that sends a frame into a veth pair also
//! serves it.

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread on the CPU that it is on.
///
/// # Errors
///
/// Where the kernel refuses it.
pub fn stay() -> Result<()> {
    let mut one = CpuSet::new();
    one.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// Does something on one CPU.
///
/// # Errors
///
/// Those of `work`, and where the kernel refuses it.
///
/// # Panics
///
/// If `work` does.
pub fn on_one<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| stay().and_then(|()| work()));
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
