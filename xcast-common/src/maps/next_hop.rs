//! Next hops: what becomes of the destinations behind them, and multipath groups of them.

use core::mem::offset_of;

use super::{counter::Counter, port::PORT_FIRST};
use crate::{
    verifier::{fresh, opaque},
    wire::FLAG_X,
};

/// Next-hop ids that routes may use.
pub const MAX_NEXT_HOPS: u32 = 32768;
/// Groups of the ECMP table.
pub const MAX_ECMP_GROUPS: u32 = 1024;
/// Buckets of an ECMP group; a member of weight w gets about w / (sum of weights) of them.
pub const ECMP_BUCKETS: usize = 64;

/// Next-hop id that a destination without any route gets: the kernel stack, counted as
/// `stack_no_route`. The controller fills it in before the first packet.
pub const NEXT_HOP_NO_ROUTE: u32 = 0;
/// Next-hop id of what is good neither as a destination nor as a source: multicast, broadcast,
/// loopback and 0/8.
pub const NEXT_HOP_NEVER: u32 = 1;
/// Next-hop id of what is never a destination but may be a source: link-local and 240/4.
pub const NEXT_HOP_NEVER_DESTINATION: u32 = 2;
/// Next-hop id of the kernel stack for destinations whose way depends on what only the kernel looks at, counted as
/// `stack_policy`. The controller fills it in before the first packet.
pub const NEXT_HOP_STACK_POLICY: u32 = 7;
/// Next-hop id of the kernel stack for destinations whose copy exceeds the egress MTU; one past
/// the ids that routes may use.
pub const NEXT_HOP_STACK_MTU: u32 = MAX_NEXT_HOPS;
/// Next-hop id of the kernel stack for destinations whose routes the route map has no room for.
pub const NEXT_HOP_STACK_ROOM: u32 = MAX_NEXT_HOPS + 1;
/// Next-hop id of the kernel stack for destinations that a port would serve, if a controller lived.
pub const NEXT_HOP_STACK_ORPHAN: u32 = MAX_NEXT_HOPS + 2;
/// Entries of the next-hop map.
pub const NEXT_HOP_ENTRIES: u32 = MAX_NEXT_HOPS + 3;

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
/// Copies leave inside a tunnel to a further router, which speaks Xcast: [`NextHop::group_or_tunnel`],
/// [`NextHop::tunnel_port`] and [`NextHop::tunnel_mtu_bytes`] say how. All else is about the way without the tunnel, which
/// a copy with one destination takes as unicast: outer headers would save nothing.
pub const NEXT_HOP_TUNNEL: u8 = 1 << 2;
/// There is no way without the tunnel.
pub const NEXT_HOP_TUNNEL_ONLY: u8 = 1 << 3;

/// [`NextHop::egress`] of what has no way at all.
pub const EGRESS_NONE: u8 = 0;
/// [`NextHop::egress`] of what is behind an interface that is no port.
pub const EGRESS_OTHER: u8 = 1;
/// [`NextHop::egress`] of what may be behind any port, as far as the controller knows.
pub const EGRESS_ANY: u8 = 0xff;

/// One entry of the next-hop table: one per (port, next-hop IP address), plus one per reason to
/// hand a destination to the stack or to skip it, plus one per ECMP group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
// Aligned as entries of array maps are, so that addresses are read in words.
#[repr(C, align(8))]
pub struct NextHop {
    /// A [`NextHopKind`].
    pub kind: u8,
    /// Port slot; [`PORT_STACK`](super::PORT_STACK) for [`NextHopKind::Stack`].
    pub port: u8,
    /// [`NEXT_HOP_XCAST`], [`NEXT_HOP_ON_LINK`], [`NEXT_HOP_TUNNEL`] and [`NEXT_HOP_TUNNEL_ONLY`].
    pub flags: u8,
    /// [`Counter`] to bump ([`NextHopKind::Stack`], [`NextHopKind::Skip`]).
    pub reason: u8,
    /// Largest IP packet that may leave by the port, in octets ([`NextHopKind::Forward`]).
    pub mtu_bytes: u16,
    /// Index into the ECMP table ([`NextHopKind::Ecmp`]), or into the tunnel table ([`NEXT_HOP_TUNNEL`]).
    pub group_or_tunnel: u16,
    /// Link layer address of the next hop; of `xcast0` for [`NextHopKind::Stack`].
    pub destination_mac: [u8; 6],
    /// Link layer address of the port.
    pub source_mac: [u8; 6],
    /// Slot of the port that what is behind it is behind, also where copies take the stack: the way back to a
    /// source. Else [`EGRESS_NONE`], [`EGRESS_OTHER`] or [`EGRESS_ANY`]. For [`NextHopKind::Ecmp`], see
    /// [`ports`](Self::ports).
    pub egress: u8,
    /// Slot of the port that copies inside the tunnel leave by ([`NEXT_HOP_TUNNEL`]).
    pub tunnel_port: u8,
    /// Largest IP packet that fits into the tunnel, in octets ([`NEXT_HOP_TUNNEL`]).
    pub tunnel_mtu_bytes: u16,
}

impl NextHop {
    /// Hands destinations to the kernel stack, and counts `reason`.
    pub const fn stack(reason: Counter) -> Self {
        Self::fixed(NextHopKind::Stack, reason)
    }

    /// Serves no destination, and counts `reason`.
    pub const fn skip(reason: Counter) -> Self {
        Self::fixed(NextHopKind::Skip, reason)
    }

    /// A multipath group, with the ports that its members leave by; see [`port_bit`].
    pub const fn ecmp(group: u16, ports: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = ports.to_ne_bytes();
        Self {
            group_or_tunnel: group,
            destination_mac: [a, b, c, d, e, f],
            source_mac: [g, h, 0, 0, 0, 0],
            reason: 0,
            ..Self::fixed(NextHopKind::Ecmp, Counter::SkipNextHop)
        }
    }

    /// The ports that the members of a multipath group leave by: they are where other entries have link layer
    /// addresses.
    #[inline(always)]
    pub fn ports(&self) -> u64 {
        self.addresses().0
    }

    const fn fixed(kind: NextHopKind, reason: Counter) -> Self {
        let egress = match (kind, reason) {
            (NextHopKind::Stack, Counter::StackLocal)
            | (NextHopKind::Stack, Counter::StackNoRoute)
            | (NextHopKind::Stack, Counter::StackUnreachable) => EGRESS_NONE,
            (NextHopKind::Stack, _) => EGRESS_ANY,
            _ => EGRESS_NONE,
        };
        Self {
            kind: kind as u8,
            port: 0,
            flags: 0,
            reason: reason as u8,
            mtu_bytes: 0,
            group_or_tunnel: 0,
            destination_mac: [0; 6],
            source_mac: [0; 6],
            egress,
            tunnel_port: 0,
            tunnel_mtu_bytes: 0,
        }
    }

    /// Copies the entry, in words: left to itself, the compiler calls `memcpy`, which goes octet by octet in BPF.
    #[inline(always)]
    pub fn copy_to(&self, place: &mut Self) {
        const WORDS: usize = size_of::<NextHop>() / 8;
        let (from, to) = (
            core::ptr::from_ref(self).cast::<u64>(),
            core::ptr::from_mut(place).cast::<u64>(),
        );
        for word in 0..WORDS {
            // SAFETY: within both entries, and aligned; the bits of an entry are those of an entry. Volatile, so that
            // it stays what it is.
            unsafe { to.add(word).write_volatile(from.add(word).read()) };
        }
    }

    /// Both link layer addresses as they begin a frame, in memory: eight octets and four.
    #[inline(always)]
    pub fn addresses(&self) -> (u64, u32) {
        let start = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: both are within the entry, and aligned, by the assertions below; any bits are a number.
        unsafe {
            (
                start
                    .add(offset_of!(Self, destination_mac))
                    .cast::<u64>()
                    .read(),
                start
                    .add(offset_of!(Self, source_mac) + 2)
                    .cast::<u32>()
                    .read(),
            )
        }
    }
}

/// Whether a copy leaves inside a tunnel, as a number that nobody can see through: what depends on it is arithmetic, for
/// each comparison in a loop counts to the verifier.
#[derive(Clone, Copy, Debug)]
pub struct InTunnel(u32);

impl InTunnel {
    /// 1 if it does, 0 if it does not.
    #[inline(always)]
    pub fn bit(self) -> u32 {
        self.0
    }

    /// Whether it does.
    #[inline(always)]
    pub fn holds(self) -> bool {
        self.0 != 0
    }
}

impl NextHop {
    /// Whether a copy with so many destinations of a packet with these flags leaves inside a tunnel.
    #[inline(always)]
    pub fn in_tunnel(&self, destinations: u8, packet_flags: u8) -> InTunnel {
        let flags = u32::from(fresh(&self.flags));
        let is_tunnel = flags >> NEXT_HOP_TUNNEL.trailing_zeros();
        let is_only_way = flags >> NEXT_HOP_TUNNEL_ONLY.trailing_zeros();
        let are_several = 1_u32.wrapping_sub(destinations.into()) >> 31;
        let is_to_stay = u32::from(packet_flags) >> FLAG_X.trailing_zeros();
        let bit = is_tunnel & (is_only_way | are_several | is_to_stay) & 1;
        InTunnel(opaque(bit.into()) as u32)
    }

    /// What becomes of such a copy: a [`NextHopKind`].
    #[inline(always)]
    pub fn kind_for(&self, in_tunnel: InTunnel) -> u8 {
        let mask = in_tunnel.0.wrapping_neg() as u8;
        self.kind & !mask | NextHopKind::Forward as u8 & mask
    }

    /// The port that such a copy leaves by.
    #[inline(always)]
    pub fn port_for(&self, in_tunnel: InTunnel) -> u8 {
        let mask = in_tunnel.0.wrapping_neg() as u8;
        fresh(&self.port) & !mask | fresh(&self.tunnel_port) & mask
    }

    /// Length of the largest such copy, in octets.
    #[inline(always)]
    pub fn mtu_for(&self, in_tunnel: InTunnel) -> u16 {
        let mask = in_tunnel.0.wrapping_neg() as u16;
        self.mtu_bytes & !mask | self.tunnel_mtu_bytes & mask
    }
}

/// The bit of a real port's slot in a set of ports.
#[inline(always)]
pub const fn port_bit(slot: u8) -> u64 {
    1 << (slot.wrapping_sub(PORT_FIRST) & 63)
}

/// One ECMP group: next-hop ids by hash bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EcmpGroup {
    /// Next-hop id of each bucket; never an id of kind [`NextHopKind::Ecmp`].
    pub buckets: [u32; ECMP_BUCKETS],
}

const _: () = {
    assert!(size_of::<NextHop>() == 24 && offset_of!(NextHop, tunnel_mtu_bytes) == 22);
    assert!(offset_of!(NextHop, destination_mac) == 8 && offset_of!(NextHop, source_mac) == 14);
};
