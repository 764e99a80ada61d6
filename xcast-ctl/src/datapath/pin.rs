//! What a router has pinned, so that it outlives the process.
//!
//! Each router has a directory in the BPF file system, named after its network namespace and its own interface.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};

use super::{bpf, bpffs};
use crate::kernel;

/// Directory of all routers.
const ROOT: &str = "xcast";

/// What the names of pinned links begin with; the interface's index follows.
const LINK: &str = "link-";

/// A router's directory.
pub struct Pins {
    /// The directory of all routers, in whichever mount namespace.
    root: OwnedFd,
    namespace: String,
    router: String,
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
        let pins = Self {
            root,
            namespace,
            // The file system takes no dots; interfaces' names have no colons.
            router: interface.replace('.', ":"),
        };
        pins.sweep();
        fs::create_dir_all(pins.directory()).context("cannot make a directory for pins")?;
        Ok(pins)
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

    /// Removes what belongs to network namespaces that are gone: their interfaces are, too.
    fn sweep(&self) {
        for namespace in entries(&self.all()) {
            for router in entries(&namespace) {
                let mut links = entries(&router)
                    .into_iter()
                    .filter(|path| link_to(path).is_some())
                    .peekable();
                // One that has no links yet may be about to get them.
                if links.peek().is_some() && links.all(|link| is_dead(&link)) {
                    remove(&router);
                }
            }
            let _ = fs::remove_dir(namespace);
        }
    }

    fn all(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
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
