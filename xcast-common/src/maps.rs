//! The types that cross the border between the BPF programs and user space.
//!
//! Every type here is `repr(C)` with explicit padding. Addresses and ports inside packets are kept
//! in network byte order, as [`Be32`] and [`Be16`].

use core::mem::offset_of;

use crate::{
    address::{Address, Be128},
    wire::{Be16, Be32},
};

/// Number of port slots: up to 64 interfaces and the two ends of the router's own veth pair.
pub const MAX_PORTS: usize = 72;
/// Slot of `xcast0-dp`: a copy that leaves by it arrives on `xcast0`, in the kernel stack.
pub const PORT_STACK: u8 = 0;
/// Slot of `xcast0`: a copy that leaves by it arrives on `xcast0-dp` and is forwarded once more.
pub const PORT_RECIRCULATE: u8 = 1;
/// First slot for a real interface: where a [group](SUBSET_GROUPS) of slots begins.
pub const PORT_FIRST: u8 = 8;
/// Groups of eight slots, whose copies are one word of a [`SubsetKey`].
pub const SUBSET_GROUPS: usize = MAX_PORTS / 8;
/// Usual sets of a group: each set of its slots, alone and with the way round.
pub const GROUP_SETS: usize = 512;
/// Most copies by one port that are a usual set.
pub const MAX_REPEATS: u32 = 8;
/// Where the device maps of several copies by one port begin, behind those of usual sets of ports.
const REPEATS: u32 = (SUBSET_GROUPS * GROUP_SETS) as u32;
/// Usual sets in all; there is a device map for each.
pub const USUAL_SETS: usize = REPEATS as usize + MAX_PORTS * MAX_REPEATS as usize;
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
// Aligned as entries of array maps are, so that addresses are read in words.
#[repr(C, align(8))]
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

impl NextHop {
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
    /// Secret that tells frames on their way to become copies from all others, random per load; see
    /// [`mark`](crate::mark), which uses its low 48 bits.
    pub mark: u64,
    /// The All-Xcast-Routers group of IPv6.
    pub group6: Be128,
    /// Routing type of Xcast6's routing header.
    pub routing_type: u8,
    /// Type of the option that lists ports.
    pub ports_option: u8,
    /// 1 if Xcast6 is forwarded.
    pub ipv6: u8,
    /// Explicit padding.
    pub reserved: [u8; 5],
}

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

impl<A: Address> PeerSource<A> {
    /// Bits of the key in front of the source's own prefix.
    pub const PEER_BITS: u32 = 8 * A::LEN as u32;
    /// Bits of the whole key.
    pub const BITS: u32 = 2 * Self::PEER_BITS;
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

    /// Forgets all copies.
    #[inline(always)]
    pub fn clear(&mut self) {
        let start = core::ptr::from_mut(self).cast::<u64>();
        for group in 0..SUBSET_GROUPS {
            // Word by word, and so that LLVM sees no `memset` in it, which on BPF takes octet by octet.
            // SAFETY: aligned and long enough, by the assertions below.
            unsafe { start.add(group).write_volatile(0) };
        }
    }

    /// Copies of the slots in a group, one octet each, that of the first slot lowest.
    #[inline(always)]
    pub fn group(&self, group: usize) -> u64 {
        // Read as the word it is: LLVM would take the octets one by one.
        // SAFETY: aligned and long enough, by the assertions below; any bits are a number.
        let word = unsafe {
            core::ptr::from_ref(self)
                .cast::<u64>()
                .add(group)
                .read_volatile()
        };
        u64::from_le(word)
    }

    /// The usual set with most of these copies, or an empty one if there are no copies at all.
    #[inline(always)]
    pub fn usual(&self) -> UsualSet {
        let mut last = 0;
        let mut copies = 0;
        let mut groups = 0;
        for group in 0..SUBSET_GROUPS {
            let word = self.group(group);
            if word != 0 {
                last = group as u32;
                copies = word;
                groups += 1;
            }
        }
        // At most 127 in each octet, so nothing is carried from one to the next.
        let wanted = (copies + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101;
        let mut repeats = 1;
        if copies != wanted && wanted & wanted.wrapping_sub(1) == 0 {
            // The only octet that is not zero.
            repeats = (copies.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32;
        }
        UsualSet {
            group: last,
            // Octet k of the one factor times octet 7 - k of the other: all meet in the highest.
            slots: (wanted.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32,
            repeats,
            is_all: groups == 1 && (copies == wanted || repeats > 1 && repeats <= MAX_REPEATS),
        }
    }

    /// Number of copies in all.
    pub fn total(&self) -> u32 {
        self.copies.iter().map(|&n| u32::from(n)).sum()
    }
}

/// Slots of one group, one copy each, or one slot with several: sets so usual that there are device maps
/// of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsualSet {
    /// The group of slots.
    pub group: u32,
    /// A bit for each slot of it, the first slot's lowest.
    pub slots: u32,
    /// Copies by its slot, if it has only one; else 1.
    pub repeats: u32,
    /// It has all copies that were asked for.
    pub is_all: bool,
}

impl UsualSet {
    /// Where its device map is.
    #[inline(always)]
    pub fn index(self) -> u32 {
        if self.repeats == 1 {
            return self.group * GROUP_SETS as u32 + (self.slots & 0xff);
        }
        // Whose bit is set, in binary.
        let bit = ((self.slots & 0xf0 != 0) as u32) << 2
            | ((self.slots & 0xcc != 0) as u32) << 1
            | (self.slots & 0xaa != 0) as u32;
        REPEATS + (8 * self.group + bit) * MAX_REPEATS + self.repeats.wrapping_sub(1) % MAX_REPEATS
    }

    /// Where the device map is that has one copy for each slot, and the way round for the rest.
    #[inline(always)]
    pub fn index_with_rest(self) -> u32 {
        self.group * GROUP_SETS as u32 + 256 + (self.slots & 0xff)
    }

    /// The slots of the set of one copy each with this index within its group.
    pub fn slots_of(group: u32, index: u32) -> impl Iterator<Item = usize> {
        let slots = (0..8).filter(move |slot| index & 1 << slot != 0);
        slots.map(move |slot| 8 * group as usize + slot)
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

const _: () = {
    assert!(size_of::<NextHop>() == 24);
    assert!(offset_of!(NextHop, destination_mac) == 8 && offset_of!(NextHop, source_mac) == 14);
    assert!(size_of::<Port>() == 16);
    assert!(size_of::<Settings>() == 48);
    assert!(size_of::<PeerSource<Be32>>() == 8);
    assert!(size_of::<PeerSource<Be128>>() == 32);
    assert!(size_of::<SubsetKey>() == MAX_PORTS && align_of::<SubsetKey>() == 8);
    assert!(MAX_PORTS.is_multiple_of(8) && PORT_FIRST.is_multiple_of(8));
    assert!(size_of::<Subset>() == 8);
    assert!(crate::counter::COUNT <= 64);
    assert!(PORT_FIRST as usize + MAX_REAL_PORTS <= MAX_PORTS);
};

#[cfg(feature = "user")]
mod user {
    use super::{EcmpGroup, NextHop, PeerSource, Port, PortCounters, Settings, Subset, SubsetKey};
    use crate::{
        address::Be128,
        wire::{Be16, Be32},
    };

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
        Be128,
        EcmpGroup,
        NextHop,
        PeerSource<Be32>,
        PeerSource<Be128>,
        Port,
        PortCounters,
        Settings,
        Subset,
        SubsetKey
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset(copies: &[(usize, u8)]) -> SubsetKey {
        let mut key = SubsetKey::EMPTY;
        for &(slot, count) in copies {
            key.copies[slot] = count;
        }
        key
    }

    #[test]
    fn usual_sets() {
        let usual = |copies| subset(copies).usual();
        let set = |group, slots, repeats, is_all| UsualSet {
            group,
            slots,
            repeats,
            is_all,
        };
        assert_eq!(
            usual(&[(8, 1), (11, 1), (15, 1)]),
            set(1, 0b1000_1001, 1, true)
        );
        assert_eq!(usual(&[(8, 2), (9, 1)]), set(1, 0b11, 1, false));
        assert_eq!(
            usual(&[(8, 1), (70, 127), (71, 1)]),
            set(8, 0b1100_0000, 1, false)
        );
        assert_eq!(usual(&[(0, 1), (8, 1)]), set(1, 1, 1, false));
        assert_eq!(usual(&[(0, 1), (1, 1)]), set(0, 0b11, 1, true));
        assert_eq!(usual(&[(8, 1), (71, 8)]), set(8, 0x80, 8, false));
        assert_eq!(usual(&[(71, 9)]), set(8, 0x80, 9, false));
        assert_eq!(usual(&[(71, 8)]), set(8, 0x80, 8, true));
        assert_eq!(set(8, 0x80, 8, true).index() as usize, USUAL_SETS - 1);
        let index = set(1, 0b1000_0101, 1, true).index();
        for index in [index, set(1, 0b1000_0101, 3, false).index_with_rest()] {
            assert!(UsualSet::slots_of(1, index - GROUP_SETS as u32).eq([8, 10, 15]));
        }
    }

    #[test]
    fn usual_sets_have_indices_of_their_own() {
        let mut indices = std::collections::HashSet::new();
        for group in 0..SUBSET_GROUPS as u32 {
            for slots in 0..256_u32 {
                let most = if slots.count_ones() == 1 {
                    MAX_REPEATS
                } else {
                    1
                };
                for repeats in 1..=most {
                    let set = UsualSet {
                        group,
                        slots,
                        repeats,
                        is_all: true,
                    };
                    assert!(indices.insert(set.index()));
                }
            }
            assert!(indices.iter().all(|index| (*index as usize) < USUAL_SETS));
        }
    }
}
