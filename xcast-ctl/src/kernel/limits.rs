//! What the kernel grants this process: file descriptors and capabilities.

use std::{fs, io};

use anyhow::{Context as _, Result, bail};

/// Capabilities that a router needs, with their numbers in linux/capability.h.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Stands for CAP_BPF and CAP_PERFMON, which were parts of it before Linux 5.8; permits to mount.
const CAP_SYS_ADMIN: u32 = 21;

/// The capabilities that a router needs and this process does not have: to load programs, to let the verifier follow
/// pointers in them as for root, and to attach them.
pub(crate) fn missing_capabilities() -> Result<Vec<&'static str>> {
    Ok(missing(effective()?))
}

/// Whether this process may mount file systems.
pub(crate) fn may_mount() -> bool {
    effective().is_ok_and(|effective| effective >> CAP_SYS_ADMIN & 1 == 1)
}

/// The capabilities of this thread in effect, a bit for each (capabilities(7)).
fn effective() -> Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .context("cannot read this process's capabilities")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.context("the kernel does not tell this process's capabilities")?;
    u64::from_str_radix(effective.trim(), 16).context("cannot read this process's capabilities")
}

fn missing(effective: u64) -> Vec<&'static str> {
    let bit = |number: u32| effective >> number & 1 == 1;
    let has = |number: u32| bit(number) || number >= 38 && bit(CAP_SYS_ADMIN);
    NEEDED
        .into_iter()
        .filter(|(number, _)| !has(*number))
        .map(|(_, name)| name)
        .collect()
}

/// Raises the limit of open files as far as this process may.
///
/// # Errors
///
/// Also then there are fewer than `needed`.
pub(crate) fn raise_open_files(needed: u64) -> Result<()> {
    let limit = open_files().context("cannot ask for the limit of open files")?;
    let mut raised = limit;
    // Root may raise the hard limit as well.
    raised.rlim_max = limit.rlim_max.max(needed);
    raised.rlim_cur = raised.rlim_max;
    if set_open_files(raised).is_ok() {
        return Ok(());
    }
    let most = limit.rlim_max;
    if most < needed {
        bail!(
            "this router needs {needed} file descriptors and may open {most}: raise the limit with \
             ulimit -n {needed}, or LimitNOFILE={needed} in the service's unit"
        );
    }
    raised.rlim_max = most;
    raised.rlim_cur = most;
    set_open_files(raised).context("cannot raise the limit of open files")
}

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one `rlimit`, and `limit` is one.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 {
        Ok(limit)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_open_files(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: the kernel reads one `rlimit`, and `limit` is one.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_by_name() {
        let bits = |numbers: &[u32]| numbers.iter().map(|number| 1_u64 << number).sum();
        assert_eq!(missing(bits(&[12, 38, 39])), [""; 0]);
        assert_eq!(missing(bits(&[12, CAP_SYS_ADMIN])), [""; 0]);
        assert_eq!(missing(bits(&[12, 39])), ["CAP_PERFMON"]);
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
    }

    #[test]
    fn more_files_than_any_kernel_has_are_too_many() {
        let error = raise_open_files(1 << 40).unwrap_err().to_string();
        assert!(error.contains("file descriptors"), "{error}");
    }
}
