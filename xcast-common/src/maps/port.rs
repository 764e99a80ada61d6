//! Ports: the interfaces that packets arrive at and copies leave by.

use crate::wire::endian::Be16;

/// Number of port slots: up to 64 interfaces and the two ends of the router's own veth pair.
pub const MAX_PORTS: usize = 72;
/// Slot of `xcast0-dp`: a copy that leaves by it arrives on `xcast0`, in the kernel stack.
pub const PORT_STACK: u8 = 0;
/// Slot of `xcast0`: a copy that leaves by it arrives on `xcast0-dp` and is forwarded once more.
pub const PORT_RECIRCULATE: u8 = 1;
/// First slot for a real interface: where a [group](super::SLOT_GROUPS) of slots begins.
pub const PORT_FIRST: u8 = 8;
/// Number of real interfaces that can be ports.
pub const MAX_REAL_PORTS: usize = 64;

/// The port's configuration says that frames to the group's MAC address are accepted.
pub const PORT_GROUP_MAC: u8 = 1 << 0;
/// The port is `xcast0-dp`: any destination MAC is accepted, own addresses may be sources.
pub const PORT_TRUSTED: u8 = 1 << 1;

/// How the sources of packets that arrive by a port are checked, beside what no source may be. The discriminants are
/// the map's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SourceMode {
    /// Not at all.
    #[default]
    Any = 0,
    /// There is a route back, by whatever interface (RFC 3704 section 2.4).
    Loose = 1,
    /// A best route back leaves by this port (RFC 3704 section 2.2).
    Strict = 2,
    /// The source is in a prefix that the configuration lists.
    Prefixes = 3,
    /// Nothing is forwarded from this port.
    Closed = 8,
    /// No best route back leaves elsewhere: as [`Strict`](Self::Strict), but what there is no route to passes, as it
    /// does by unicast where there is no filter. Nobody can be made the victim of answers to such a source.
    NotElsewhere = 4,
    /// Only those that have proven that they receive at their address: inside UDP, with a
    /// [cookie](crate::wire::cookie), or by a peer that the configuration names.
    Proven = 5,
}

/// Which of a port's [`SourceMode`]s is for which IP version.
#[inline(always)]
pub const fn source_mode_of(ip_version: u8) -> usize {
    (ip_version == 6) as usize
}
/// A policy rule, or a VRF, decides about what arrives by the port over IPv4: every destination that unicast could
/// reach goes to the kernel stack.
pub const PORT_TO_STACK: u8 = 1 << 4;
/// The same for IPv6.
pub const PORT_TO_STACK6: u8 = 1 << 5;
/// Policy rules decide about some sources of IPv4: the map of these is asked about each packet.
pub const PORT_ASK_SOURCE: u8 = 1 << 6;
/// The same for IPv6.
pub const PORT_ASK_SOURCE6: u8 = 1 << 7;

/// The port belongs to a VRF: the way back to a source is looked for as from the port itself.
pub const PORT_IN_VRF: u8 = 1 << 3;

/// There are [`PortMac`]s of the port: other addresses by which it receives.
pub const PORT_MORE_MACS: u8 = 1 << 2;

/// Further link layer addresses of all ports: of virtual routers (VRRP), of a bridge or a bond.
pub const MAX_PORT_MACS: u32 = 1024;

/// A further link layer address of a port: a key of 8 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct PortMac {
    /// Slot of the port.
    pub slot: u8,
    /// Explicit padding.
    pub reserved: u8,
    /// The address.
    pub mac: [u8; 6],
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    /// Slot, the key of the per-port counters and device maps.
    pub slot: u8,
    /// [`PORT_GROUP_MAC`], [`PORT_TRUSTED`], [`PORT_MORE_MACS`], and what policy rules say: [`PORT_TO_STACK`] and so on.
    pub flags: u8,
    /// The interface's own link layer address.
    pub mac: [u8; 6],
    /// The interface's index; 0 in an unused entry of the port table.
    pub ifindex: u32,
    /// A [`SourceMode`] for IPv4 and one for IPv6.
    pub sources: [u8; 2],
    /// In the table 0. For a packet whose sender may use a relayed port of this router, that port: the packet's source
    /// is to be this router's own address and this UDP port.
    pub relayed_port: Be16,
    /// What a packet costs its source, in nanoseconds of its budget; 0 for nothing. See
    /// [`forward::limits`](crate::forward::limits).
    pub packet_ns: u32,
    /// What each copy costs it.
    pub copy_ns: u32,
    /// Index of the interface that receives by it, in the kernel's eyes: of the bridge or the bond that it belongs to, or
    /// its own.
    pub receiver: u32,
}

impl Port {
    /// The port for a packet that was taken out of UDP, if `permitted` is 1 and not 0: the way
    /// back does not count. Without a branch, which the verifier would follow to the end of the program.
    #[inline(always)]
    pub fn for_permitted(self, ip_version: u8, permitted: u8) -> Self {
        let mut port = self;
        // All bits if it is 0, and those of one mode if it is 1.
        let kept = permitted.wrapping_sub(1) | SourceMode::Closed as u8;
        port.sources[source_mode_of(ip_version)] &= kept;
        port
    }
}

impl Port {
    /// Whether everything of a family that arrives here goes to the stack.
    #[inline(always)]
    pub const fn is_to_stack(&self, is_ipv6: bool) -> bool {
        let flag = if is_ipv6 {
            PORT_TO_STACK6
        } else {
            PORT_TO_STACK
        };
        self.flags & flag != 0
    }

    /// Whether that depends on the source.
    #[inline(always)]
    pub const fn asks_source(&self, is_ipv6: bool) -> bool {
        let flag = if is_ipv6 {
            PORT_ASK_SOURCE6
        } else {
            PORT_ASK_SOURCE
        };
        self.flags & flag != 0
    }
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

const _: () = {
    assert!(size_of::<Port>() == 28);
    assert!(size_of::<PortMac>() == 8);
    assert!(MAX_PORTS.is_multiple_of(8) && PORT_FIRST.is_multiple_of(8));
    assert!(PORT_FIRST as usize + MAX_REAL_PORTS <= MAX_PORTS);
};
