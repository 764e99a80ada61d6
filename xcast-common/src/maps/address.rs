//! This router's own addresses, and whose packets may come inside UDP.

use crate::wire::{
    address::Address,
    endian::{Be32, Be128},
};

/// Own and anycast addresses.
pub const MAX_OWN_ADDRESSES: u32 = 8192;
/// One of this router's own addresses.
pub const ADDRESS_OWN: u32 = 1 << 0;
/// A configured anycast address (RFC 5058 section 11.5).
pub const ADDRESS_ANYCAST: u32 = 1 << 1;
/// Prefixes that peers may send from inside UDP, of all peers together.
pub const MAX_UDP_SOURCES: u32 = 1024;

/// Sources that policy rules decide about, of each family.
pub const MAX_POLICY_SOURCES: u32 = 1024;

/// Key of the map of what peers may send inside UDP besides their own packets: the bits of the
/// peer's address and then the source's, of which a prefix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PeerSource<A> {
    /// Source address of the datagram.
    pub peer: A,
    /// Source address of the packet inside.
    pub source: A,
}

/// Sources that ports are restricted to, of all ports together, by family.
pub const MAX_PORT_SOURCES: u32 = 1024;

/// Key of the map of what may arrive by a port that has a list of sources: the bits of the slot and then the
/// source's, of which a prefix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
// Packed, so that there is no padding between the two.
#[repr(C, packed(4))]
pub struct PortSource<A> {
    /// Slot of the port.
    pub slot: u32,
    /// Source address.
    pub source: A,
}

impl<A: Address> PortSource<A> {
    /// Bits of the key in front of the source's own prefix.
    pub const SLOT_BITS: u32 = u32::BITS;
    /// Bits of the whole key.
    pub const BITS: u32 = Self::SLOT_BITS + 8 * A::LEN as u32;
}

impl<A: Address> PeerSource<A> {
    /// Bits of the key in front of the source's own prefix.
    pub const PEER_BITS: u32 = 8 * A::LEN as u32;
    /// Bits of the whole key.
    pub const BITS: u32 = 2 * Self::PEER_BITS;
}

const _: () = {
    assert!(size_of::<PeerSource<Be32>>() == 8);
    assert!(size_of::<PeerSource<Be128>>() == 32);
    assert!(size_of::<PortSource<Be32>>() == 8);
    assert!(size_of::<PortSource<Be128>>() == 20);
};
