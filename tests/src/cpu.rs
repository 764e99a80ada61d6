//! Where a test runs: what the datapath remembers is each CPU's own, and the CPU that sends a frame into a veth pair also
//! serves it.

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread on one of the CPUs that it may use.
///
/// # Errors
///
/// Where the kernel refuses it.
pub fn stay() -> Result<()> {
    let this = Pid::from_raw(0);
    let may = sched_getaffinity(this)?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::count()).rfind(|cpu| may.is_set(*cpu) == Ok(true));
    one.set(last.unwrap_or(0))?;
    Ok(sched_setaffinity(this, &one)?)
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
