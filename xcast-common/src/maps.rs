//! The types that cross the border between the BPF programs and user space.
//!
//! Every type here is `repr(C)` with explicit padding. Addresses and ports inside packets are kept
//! in network byte order, as [`Be32`] and [`Be16`].

use crate::wire::{Be16, Be32};

/// Number of port slots: up to 64 interfaces and the two ends of the router's own veth pair.
pub const MAX_PORTS: usize = 72;
/// Slot of `xcast0-dp`: a copy that leaves by it arrives on `xcast0`, in the kernel stack.
pub const PORT_STACK: u8 = 0;
/// Slot of `xcast0`: a copy that leaves by it arrives on `xcast0-dp` and is forwarded once more.
pub const PORT_RECIRCULATE: u8 = 1;
/// First slot for a real interface.
pub const PORT_FIRST: u8 = 2;
/// Number of real interfaces that can be ports.
pub const MAX_REAL_PORTS: usize = 64;

/// Next-hop ids that routes may use.
pub const MAX_NEXT_HOPS: u32 = 32768;
/// Groups of the ECMP table.
pub const MAX_ECMP_GROUPS: u32 = 1024;
/// Buckets of an ECMP group; a member of weight w gets about w / (sum of weights) of them.
pub const ECMP_BUCKETS: usize = 64;
/// Own and anycast addresses.
pub const MAX_OWN_ADDRESSES: u32 = 8192;
/// Prefixes that peers may send from inside UDP, of all peers together.
pub const MAX_UDP_SOURCES: u32 = 1024;
/// Exact subsets of ports that can be installed at once.
pub const MAX_SUBSETS: u32 = 4096;

/// Next-hop id that a destination without any route gets: the kernel stack, counted as
/// `stack_no_route`. The controller fills it in before the first packet.
pub const NEXT_HOP_NO_ROUTE: u32 = 0;
/// Next-hop id of what is good neither as a destination nor as a source: multicast, broadcast,
/// loopback and 0/8.
pub const NEXT_HOP_NEVER: u32 = 1;
/// Next-hop id of what is never a destination but may be a source: link-local and 240/4.
pub const NEXT_HOP_NEVER_DESTINATION: u32 = 2;
/// Next-hop id of the kernel stack for destinations whose copy exceeds the egress MTU; one past
/// the ids that routes may use.
pub const NEXT_HOP_STACK_MTU: u32 = MAX_NEXT_HOPS;
/// Entries of the next-hop map.
pub const NEXT_HOP_ENTRIES: u32 = MAX_NEXT_HOPS + 1;

/// What happens to destinations behind a next hop. The discriminants are the map's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum NextHopKind {
    /// Unused entry: destinations are skipped and counted as `skip_next_hop`.
    #[default]
    Unused = 0,
    /// Send by a port to a link layer address.
    Forward = 1,
    /// Convert to unicast and hand to the kernel stack; [`NextHop::reason`] counts.
    Stack = 2,
    /// Never serve; [`NextHop::reason`] counts.
    Skip = 3,
    /// Choose a member of an ECMP group by flow.
    Ecmp = 4,
}

/// The gateway understands Xcast: its destinations share a copy.
pub const NEXT_HOP_XCAST: u8 = 1 << 0;
/// The next hop is the destination itself, on a link of this router: every list entry leaves as
/// its own packet.
pub const NEXT_HOP_ON_LINK: u8 = 1 << 1;

/// One entry of the next-hop table: one per (port, next-hop IP address), plus one per reason to
/// hand a destination to the stack or to skip it, plus one per ECMP group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NextHop {
    /// A [`NextHopKind`].
    pub kind: u8,
    /// Port slot; [`PORT_STACK`] for [`NextHopKind::Stack`].
    pub port: u8,
    /// [`NEXT_HOP_XCAST`] and [`NEXT_HOP_ON_LINK`].
    pub flags: u8,
    /// [`Counter`](crate::counter::Counter) to bump ([`NextHopKind::Stack`], [`NextHopKind::Skip`]).
    pub reason: u8,
    /// Largest IP packet that may leave by the port, in octets ([`NextHopKind::Forward`]).
    pub mtu_bytes: u16,
    /// Index into the ECMP table ([`NextHopKind::Ecmp`]).
    pub ecmp_group: u16,
    /// Link layer address of the next hop; of `xcast0` for [`NextHopKind::Stack`].
    pub destination_mac: [u8; 6],
    /// Link layer address of the port.
    pub source_mac: [u8; 6],
    /// Explicit padding to a multiple of eight, which array maps round up to anyway.
    pub reserved: [u8; 4],
}

/// One ECMP group: next-hop ids by hash bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EcmpGroup {
    /// Next-hop id of each bucket; never an id of kind [`NextHopKind::Ecmp`].
    pub buckets: [u32; ECMP_BUCKETS],
}

/// The port's configuration says that frames to the group's MAC address are accepted.
pub const PORT_GROUP_MAC: u8 = 1 << 0;
/// The port is `xcast0-dp`: any destination MAC is accepted, own addresses may be sources.
pub const PORT_TRUSTED: u8 = 1 << 1;

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    /// Slot, the key of the per-port counters and device maps.
    pub slot: u8,
    /// [`PORT_GROUP_MAC`] and [`PORT_TRUSTED`].
    pub flags: u8,
    /// The interface's own link layer address.
    pub mac: [u8; 6],
    /// The interface's index; 0 in an unused entry of the port table.
    pub ifindex: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// Entries of the port table, where interfaces are found by index: an array, since a look-up in a
/// hash map costs several times more and every copy needs one.
pub const PORT_TABLE_ENTRIES: u32 = 1024;
/// Places in the table where an interface may be.
pub const PORT_PLACES: u32 = 8;

/// The places where the port with this interface index may be, in the order in which to try them.
#[inline(always)]
pub fn port_place(ifindex: u32, attempt: u32) -> u32 {
    // Fibonacci hashing scatters neighbouring indices.
    (ifindex.wrapping_mul(0x9e37_79b1) >> 22).wrapping_add(attempt) % PORT_TABLE_ENTRIES
}

/// One of this router's own addresses.
pub const ADDRESS_OWN: u32 = 1 << 0;
/// A configured anycast address (RFC 5058 section 11.5).
pub const ADDRESS_ANYCAST: u32 = 1 << 1;

/// How a copy's list is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Prune {
    /// Only the copy's own destinations stay in its list.
    #[default]
    Truncate = 0,
    /// The list stays; bits of other branches' destinations are cleared.
    Bitmap = 1,
}

/// What the programs know from the start: constants to them, set while they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// The All-Xcast-Routers group.
    pub group: Be32,
    /// IPv4 protocol number of Xcast.
    pub protocol: u8,
    /// A [`Prune`].
    pub prune: u8,
    /// UDP port at which Xcast inside UDP is taken; 0 for none.
    pub udp_port: Be16,
    /// Secret of the duplicate check's hash, random per load.
    pub hash_key: u64,
}

/// Key of the map of what peers may send inside UDP besides their own packets: as 64 bits, the
/// peer's address and then the source's, of which a prefix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PeerSource {
    /// Source address of the datagram.
    pub peer: Be32,
    /// Source address of the packet inside.
    pub source: Be32,
}

impl PeerSource {
    /// Bits of the key in front of the source's own prefix.
    pub const PEER_BITS: u32 = 32;
    /// Bits of the whole key.
    pub const BITS: u32 = 64;
}

/// How many copies leave by each port: the exact set a device map is installed for.
///
/// Copies on the same port are interchangeable, so order does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Aligned, so that it is written and compared in words.
#[repr(C, align(8))]
pub struct SubsetKey {
    /// Copies per port slot.
    pub copies: [u8; MAX_PORTS],
}

impl SubsetKey {
    /// No copy at all.
    pub const EMPTY: Self = Self {
        copies: [0; MAX_PORTS],
    };

    /// Number of copies in all.
    pub fn total(&self) -> u32 {
        self.copies.iter().map(|&n| u32::from(n)).sum()
    }
}

impl Default for SubsetKey {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Where the device map of an exact subset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Subset {
    /// Index into the map of device maps.
    pub index: u32,
    /// When the subset was last used, in units of 2^10 jiffies; for least-recently-used reuse.
    pub last_used: u32,
}

/// What travels in front of a frame from the ingress program to the device-map program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Metadata {
    /// [`METADATA_MAGIC`].
    pub magic: u32,
    /// Serial number of the plan, per CPU; see [`Plan::nonce`](crate::plan::Plan::nonce).
    pub nonce: u32,
}

/// Counters of one port, indexed by [`Counter`](crate::counter::Counter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// The counts; those past [`counter::COUNT`](crate::counter::COUNT) stay zero. A power of two,
    /// so that an index from a map can be masked instead of checked.
    pub counts: [u64; 64],
}

impl PortCounters {
    /// Counts one.
    #[inline(always)]
    pub fn bump(&mut self, counter: crate::counter::Counter) {
        self.bump_index(counter as u8);
    }

    /// Counts one, for a counter that was stored as its index.
    #[inline(always)]
    pub fn bump_index(&mut self, index: u8) {
        self.add_index(index, 1);
    }

    /// Counts several, for a counter that was stored as its index.
    #[inline(always)]
    pub fn add_index(&mut self, index: u8, count: u64) {
        self.counts[index as usize & 63] += count;
    }
}

impl Default for PortCounters {
    fn default() -> Self {
        Self { counts: [0; 64] }
    }
}

/// Tells our metadata from that of others ("XCST").
pub const METADATA_MAGIC: u32 = u32::from_be_bytes(*b"XCST");

const _: () = {
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<Port>() == 16);
    assert!(size_of::<Settings>() == 16);
    assert!(size_of::<PeerSource>() == 8);
    assert!(size_of::<SubsetKey>() == MAX_PORTS);
    assert!(size_of::<Subset>() == 8);
    assert!(size_of::<Metadata>() == 8);
    assert!(crate::counter::COUNT <= 64);
    assert!(PORT_FIRST as usize + MAX_REAL_PORTS <= MAX_PORTS);
};

#[cfg(feature = "user")]
mod user {
    use super::{EcmpGroup, NextHop, PeerSource, Port, PortCounters, Settings, Subset, SubsetKey};
    use crate::wire::{Be16, Be32};

    macro_rules! pod {
        ($($ty:ty),+) => {
            $(
                // SAFETY: `repr(C)` or `repr(transparent)` integers and arrays of them, without
                // implicit padding (sizes asserted above): every bit pattern is a value.
                unsafe impl aya::Pod for $ty {}
            )+
        };
    }

    pod!(
        Be16,
        Be32,
        EcmpGroup,
        NextHop,
        PeerSource,
        Port,
        PortCounters,
        Settings,
        Subset,
        SubsetKey
    );
}
