//! The route map: a trie whose visible half lies in memory shared with the programs.
//!
//! [`Trie`] decides which entry has to say what, [`Shared`] is where the entries are. A change of a
//! route is a few stores; no system call, no lock, and no wait for readers.

mod memory;
mod trie;

use std::os::fd::{BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;
use xcast_common::trie::ROOT_BITS;

pub use self::{
    memory::Shared,
    trie::{Full, Memory, Prefix, Trie},
};

/// The route map of the running programs.
pub struct RouteMap {
    trie: Trie<Shared, ROOT_BITS>,
}

impl RouteMap {
    /// Takes over the programs' maps, which must not have been written before.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be mapped, or the first segment made.
    pub fn new(root: BorrowedFd<'_>, segments: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            trie: Trie::new(Shared::new(root, segments)?),
        })
    }

    /// Adds or changes a route; `None` as the next hop removes it.
    ///
    /// # Errors
    ///
    /// [`Full`] if memory runs out; the prefix keeps what covers it then.
    pub fn set(&mut self, prefix: Ipv4Net, next_hop: Option<u32>) -> Result<(), Full> {
        match next_hop {
            Some(id) => self.trie.insert(prefix.into(), id),
            None => {
                self.trie.remove(prefix.into());
                Ok(())
            }
        }
    }

    /// Memory shared with the programs, in octets.
    pub fn shared_bytes(&self) -> usize {
        self.trie.memory().bytes()
    }
}
