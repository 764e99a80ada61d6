//! What a router has pinned, so that it outlives the process.
//!
//! Each router has a directory in the BPF file system, named after its network namespace and its own interface. A router
//! that runs has a lock on it. One that nobody has a lock on, and that holds no program that runs, is abandoned: whoever opens
//! a directory of its own removes it.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::links::{FdLink, PinnedLink};

use super::{bpf, bpffs};
use crate::kernel;

/// Directory of all routers.
const ROOT: &str = "xcast";

/// What the names of pinned links begin with; the interface's index follows.
const LINK: &str = "link-";

/// Attempts to make a router's directory while others remove abandoned ones.
const ATTEMPTS: u32 = 20;

/// A router's directory.
pub struct Pins {
    /// The directory of all routers, in whichever mount namespace.
    root: OwnedFd,
    namespace: String,
    router: String,
    /// Open, and locked, so that nobody takes it for abandoned.
    lock: Option<File>,
}

impl Pins {
    /// Opens the directory of the router that owns `interface` in this thread's network namespace, and makes it where it is
    /// missing.
    ///
    /// # Errors
    ///
    /// There is no BPF file system that outlives this process.
    pub fn open(interface: &str) -> Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")
            .context("cannot tell the network namespace")?
            .ino()
            .to_string();
        let root = bpffs::directory(ROOT)
            .context("no BPF file system can be reached that outlives this process")?;
        let mut pins = Self {
            // The file system takes no dots; interfaces' names have no colons.
            router: interface.replace('.', ":"),
            namespace,
            root,
            lock: None,
        };
        remove_abandoned_in(&pins.all());
        for _ in 0..ATTEMPTS {
            pins.lock = pins.make().context("cannot make a directory for pins")?;
            if pins.lock.is_some() {
                return Ok(pins);
            }
        }
        bail!("the directory for pins is removed again and again");
    }

    /// Makes the directory, and locks it; nothing if somebody removes it meanwhile.
    fn make(&self) -> io::Result<Option<File>> {
        let directory = self.directory();
        match fs::create_dir_all(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            made => made?,
        }
        let lock = match File::open(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        lock.lock_shared()?;
        let is_it = fs::metadata(&directory).is_ok_and(|found| {
            lock.metadata()
                .is_ok_and(|locked| found.ino() == locked.ino())
        });
        Ok(is_it.then_some(lock))
    }

    /// The path of a pin.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Removes a pin, if it is there.
    pub(super) fn remove(&self, name: &str) {
        // What is not there need not be removed; nothing else can be in the way.
        let _ = fs::remove_file(self.path(name));
    }

    /// Removes all pins, and keeps the directory.
    pub(super) fn empty(&self) {
        for pin in entries(&self.directory()) {
            let _ = fs::remove_file(pin);
        }
    }

    /// Removes all pins: the programs are detached, unless this process holds on to them. The directory goes, too.
    pub fn clear(&self) {
        remove(&self.directory());
        // Only goes if it is empty.
        let _ = fs::remove_dir(self.all().join(&self.namespace));
    }

    fn all(&self) -> PathBuf {
        path_of(&self.root)
    }

    fn directory(&self) -> PathBuf {
        self.all().join(&self.namespace).join(&self.router)
    }

    /// The path of the link to an interface.
    pub(super) fn link_name(ifindex: u32) -> String {
        format!("{LINK}{ifindex}")
    }

    /// The interfaces to which links are pinned.
    pub(super) fn linked(&self) -> Vec<u32> {
        let pins = entries(&self.directory());
        pins.iter().filter_map(|path| link_to(path)).collect()
    }

    /// The pinned link to an interface, if its program runs there.
    pub(super) fn live_link(&self, ifindex: u32) -> Result<Option<FdLink>> {
        let path = self.path(&Self::link_name(ifindex));
        let Ok(link) = PinnedLink::from_pin(path) else {
            return Ok(None);
        };
        let link = FdLink::from(link);
        let program = link.info().context("cannot ask about a link")?.program_id();
        // Not only the index: that of a namespace that is gone may have been given again.
        let runs = kernel::links()?
            .iter()
            .any(|link| link.ifindex == ifindex && link.xdp_program == Some(program));
        Ok(runs.then_some(link))
    }

    /// Whether any program that is pinned here runs in this network namespace. If not, all that is here is of no use to
    /// anyone.
    pub fn are_live(&self) -> Result<bool> {
        for ifindex in self.linked() {
            if self.live_link(ifindex)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The ports of other routers in this thread's network namespace than the one that owns `interface`: what is pinned, or is
/// attached still, is theirs.
pub(crate) fn ports_of_others(interface: &str) -> HashSet<u32> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map(|found| found.ino().to_string());
    let (Ok(namespace), Some(root)) = (namespace, bpffs::existing(ROOT)) else {
        return HashSet::new();
    };
    let own = interface.replace('.', ":");
    let routers = entries(&path_of(&root).join(namespace)).into_iter();
    let others = routers.filter(|router| router.file_name() != Some(OsStr::new(&own)));
    let pins = others.flat_map(|router| entries(&router));
    let alive = pins.filter(|pin| !is_dead(pin));
    alive.filter_map(|pin| link_to(&pin)).collect()
}

/// What is pinned and of no use to anybody: of network namespaces that are gone, and with them their interfaces, or of
/// routers that ended before they forwarded. By the names of the directories.
pub(crate) fn abandoned() -> Vec<String> {
    let Some(root) = bpffs::existing(ROOT) else {
        return Vec::new();
    };
    let routers = routers(&path_of(&root)).into_iter();
    let found = routers.filter(|router| lock_abandoned(router).is_some());
    found.map(|router| name_of(&router)).collect()
}

/// Removes what is [`abandoned`]; returns the names of what was.
pub(crate) fn remove_abandoned() -> Vec<String> {
    match bpffs::existing(ROOT) {
        Some(root) => remove_abandoned_in(&path_of(&root)),
        None => Vec::new(),
    }
}

fn remove_abandoned_in(all: &Path) -> Vec<String> {
    let mut removed = Vec::new();
    for router in routers(all) {
        // Locked until it is gone.
        if let Some(_lock) = lock_abandoned(&router) {
            remove(&router);
            removed.push(name_of(&router));
        }
        // Only goes if it is empty.
        router.parent().map(fs::remove_dir);
    }
    removed
}

/// The directories of all routers.
fn routers(all: &Path) -> Vec<PathBuf> {
    let namespaces = entries(all).into_iter();
    namespaces
        .flat_map(|namespace| entries(&namespace))
        .collect()
}

/// A lock on a router's directory, if that is abandoned: no router has one, and no program that is pinned there runs anywhere.
fn lock_abandoned(router: &Path) -> Option<File> {
    let lock = File::open(router).ok()?;
    lock.try_lock().ok()?;
    let pins = entries(router);
    let mut links = pins.iter().filter(|path| link_to(path).is_some());
    links.all(|link| is_dead(link)).then_some(lock)
}

/// "NAMESPACE/ROUTER".
fn name_of(router: &Path) -> String {
    let mut parts = router
        .components()
        .rev()
        .take(2)
        .map(|part| part.as_os_str());
    let (router, namespace) = (parts.next(), parts.next());
    let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    format!("{}/{}", text(namespace), text(router).replace(':', "."))
}

fn path_of(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// The interface that a pin is the link to, by its name.
fn link_to(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(LINK)?.parse().ok()
}

/// Whether a link's interface is gone.
fn is_dead(path: &Path) -> bool {
    bpf::linked_interface(path).is_ok_and(|ifindex| ifindex == 0)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes a directory of pins.
fn remove(directory: &Path) {
    for pin in entries(directory) {
        let _ = fs::remove_file(pin);
    }
    let _ = fs::remove_dir(directory);
}
