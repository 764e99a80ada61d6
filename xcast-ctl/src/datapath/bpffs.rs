//! A place in the BPF file system that outlives this process.
//!
//! The file system is at /sys/fs/bpf. But `ip netns exec` gives each process a /sys of its own, which is gone with the
//! process, and with it all that was pinned there. So the place is the /sys/fs/bpf of the outermost mount namespace that
//! can be reached through this process's ancestors. A directory that was opened there can be used from here.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        stat::{Mode, mkdirat},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::{AccessFlags, access},
};

use crate::kernel;

/// Where the file system is mounted.
const MOUNT_POINT: &str = "/sys/fs/bpf";
/// How directories are opened.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// Opens a directory at the top of the BPF file system, after making it and mounting that where they are missing.
///
/// # Errors
///
/// No BPF file system outlives this process: what was tried last is the error. Needs CAP_SYS_ADMIN where it has to be
/// mounted, or is in another mount namespace.
pub(super) fn directory(name: &str) -> io::Result<OwnedFd> {
    match outermost(|| open_here(name, true)) {
        Some(found) => Ok(found),
        // Whoever mounted it here did not do so for this process alone.
        None => open_here(name, false),
    }
}

/// Opens the directory that [`directory`] would, if it is there.
pub(super) fn existing(name: &str) -> Option<OwnedFd> {
    outermost(|| open_existing(name)).or_else(|| open_existing(name).ok())
}

/// What `work` comes to in the outermost mount namespace of an ancestor in which it does not fail.
fn outermost<T: Send>(work: impl Fn() -> io::Result<T> + Sync) -> Option<T> {
    let own = mount_namespace("self").ok();
    kernel::ancestors().iter().find_map(|ancestor| {
        let namespace = mount_namespace(ancestor).ok()?;
        let elsewhere = own.as_deref() != Some(&*namespace);
        in_thread(elsewhere.then_some(&**ancestor), &work).ok()
    })
}

/// Where a directory that outlives this process would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// In a file system that is mounted.
    There,
    /// In one that this process would mount.
    ToBeMounted,
    /// Nowhere, and why.
    Nowhere(String),
}

/// Finds what [`directory`] would, without making or mounting anything.
pub(crate) fn look() -> Place {
    let found = outermost(|| look_here(kernel::may_mount()));
    let found = found.map_or_else(|| look_here(false), Ok);
    found.unwrap_or_else(|error| Place::Nowhere(format!("{MOUNT_POINT}: {error}")))
}

fn look_here(may_mount: bool) -> io::Result<Place> {
    if statfs(MOUNT_POINT)?.filesystem_type() != BPF_FS_MAGIC {
        return match may_mount {
            true => Ok(Place::ToBeMounted),
            false => Err(io::Error::other("there is no BPF file system")),
        };
    }
    // Also of one that is mounted read-only, this is an error.
    access(MOUNT_POINT, AccessFlags::W_OK)?;
    Ok(Place::There)
}

/// What identifies a process's mount namespace.
fn mount_namespace(process: &str) -> io::Result<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/mnt"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// Does something in the mount namespace of a process, or in the own one. A thread does it, since entering a
/// namespace is for good.
fn in_thread<T: Send>(
    process: Option<&str>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = process
        .map(|process| File::open(format!("/proc/{process}/ns/mnt")))
        .transpose()?;
    let work = || {
        if let Some(namespace) = namespace {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
        }
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_| io::ErrorKind::Other.into())
            .flatten()
    })
}

fn open_existing(name: &str) -> io::Result<OwnedFd> {
    if statfs(MOUNT_POINT)?.filesystem_type() != BPF_FS_MAGIC {
        return Err(io::ErrorKind::NotFound.into());
    }
    open_in(&open(MOUNT_POINT, DIRECTORY, Mode::empty())?, name)
}

fn open_in(top: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = DIRECTORY | OFlag::O_NOFOLLOW;
    Ok(openat(top, name, flags, Mode::empty())?)
}

fn open_here(name: &str, may_mount: bool) -> io::Result<OwnedFd> {
    if statfs(MOUNT_POINT)?.filesystem_type() != BPF_FS_MAGIC {
        if !may_mount {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (kind, no_options) = (Some("bpf"), None::<&Path>);
        mount(kind, MOUNT_POINT, kind, MsFlags::empty(), no_options)?;
    }
    let top = open(MOUNT_POINT, DIRECTORY, Mode::empty())?;
    match mkdirat(&top, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_in(&top, name)
}
