//! The route map: a trie whose visible half lies in memory shared with the programs.
//!
//! [`Trie`] decides which entry has to say what, [`Shared`] is where the entries are, and `overflow` sees to it
//! that what does not fit goes to the stack. A change of a
//! route is a few stores; no system call, no lock, and no wait for readers, except where the first
//! bits of an address get their segment.

#[cfg(test)]
mod heap;
mod overflow;
mod remover;
mod shared;
mod trie;

use std::net::IpAddr;

use ipnet::IpNet;
use xcast_common::maps::NEXT_HOP_STACK_ROOM;

use self::overflow::Overflow;
pub use self::{
    shared::{Maps, Shared},
    trie::{Full, Memory, NoRoom, Prefix, Table, Trie},
};

/// The route map of the running programs for one family.
pub struct RouteMap {
    routes: Overflow<Shared>,
}

impl RouteMap {
    /// Takes over the programs' maps, which must not have been written before; `root_bits` as the
    /// [family's addresses](xcast_common::maps::lpm::Key::ROOT_BITS) have it.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be mapped, or the first pool made.
    pub fn new(maps: Maps<'_>, root_bits: u32) -> std::io::Result<Self> {
        Ok(Self {
            routes: Overflow::new(Trie::new(Shared::new(maps, 1 << root_bits)?, root_bits)),
        })
    }

    /// Adds or changes a route of the map's family; `None` as the next hop removes it. Where it is
    /// the first one in its segment, the programs see it after [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`Full`] if memory runs out. Destinations around there go to the stack then, until the route is set again with
    /// success, or removed.
    pub fn set(&mut self, prefix: IpNet, next_hop: Option<u32>) -> Result<(), Full> {
        match next_hop {
            Some(id) => self.routes.insert(prefix.into(), id),
            None => {
                self.routes.remove(prefix.into());
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
        self.routes.memory_mut().publish()
    }

    /// Memory shared with the programs, in octets.
    pub fn shared_bytes(&self) -> usize {
        self.routes.trie().memory().bytes()
    }

    /// Whether an address of the map's family goes to the stack for want of room.
    pub fn lacks_room(&self, address: IpAddr) -> bool {
        let bits = Prefix::from(IpNet::from(address)).bits;
        self.routes.trie().lookup(bits) == NEXT_HOP_STACK_ROOM
    }
}
