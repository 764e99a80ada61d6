//! The route map: a trie whose visible half lies in memory shared with the programs.
//!
//! [`Trie`] decides which entry has to say what, [`Shared`] is where the entries are. A change of a
//! route is a few stores; no system call, no lock, and no wait for readers, except where the first
//! bits of an address get their segment.

mod shared;
mod trie;

use ipnet::IpNet;

pub use self::{
    shared::{Maps, Shared},
    trie::{Full, Memory, Prefix, Table, Trie},
};

/// The route map of the running programs for one family.
pub struct RouteMap {
    trie: Trie<Shared>,
}

impl RouteMap {
    /// Takes over the programs' maps, which must not have been written before; `root_bits` as the
    /// [family's addresses](xcast_common::address::Address::ROOT_BITS) have it.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be mapped, or the first pool made.
    pub fn new(maps: Maps<'_>, root_bits: u32) -> std::io::Result<Self> {
        Ok(Self {
            trie: Trie::new(Shared::new(maps, 1 << root_bits)?, root_bits),
        })
    }

    /// Adds or changes a route of the map's family; `None` as the next hop removes it. Where it is
    /// the first one in its segment, the programs see it after [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`Full`] if memory runs out; the prefix keeps what covers it then.
    pub fn set(&mut self, prefix: IpNet, next_hop: Option<u32>) -> Result<(), Full> {
        match next_hop {
            Some(id) => self.trie.insert(prefix.into(), id),
            None => {
                self.trie.remove(prefix.into());
                Ok(())
            }
        }
    }

    /// Makes sure that the programs see all changes.
    ///
    /// # Errors
    ///
    /// Fails if a segment cannot be put into the programs' map; the next call tries again.
    pub fn publish(&mut self) -> std::io::Result<()> {
        self.trie.memory_mut().publish()
    }

    /// Memory shared with the programs, in octets.
    pub fn shared_bytes(&self) -> usize {
        self.trie.memory().bytes()
    }
}
