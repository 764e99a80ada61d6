//! The form of the route map: a flat table of the first 24 bits of an IPv4 address, the first 32 of IPv6, and
//! blocks of 256 entries for what is longer (DIR-24-8).
//!
//! The table is kept in *segments* of 16 bits, one for each value of the bits before that has prefixes
//! longer than those, so that a router with ten routes does not pay for sixteen million entries; the
//! *root* has an entry for each of the others. Where longer prefixes exist, an entry names a *block*
//! for the next 8 bits, and so on. A look-up is two loads for most destinations of IPv4, the first
//! of a pointer that is always in the cache, and no comparison of addresses; a /48 of IPv6 takes two
//! more. An entry is one aligned word: whoever reads while it changes sees the old next hop or the new
//! one.
//!
//! The controller writes, through memory it shares with the programs. Blocks come in *pools*,
//! which are added as routes need them.

use core::ops::Range;

use crate::{
    verifier::{fresh, opaque, store},
    wire::{
        address::Address,
        endian::{Be32, Be128},
    },
};

/// Bits of an IPv4 address that index the root.
pub const ROOT_BITS: u32 = 8;
/// Entries of the root, and segments.
pub const ROOT_ENTRIES: usize = 1 << ROOT_BITS;
/// Bits of an IPv6 address that index the root. Registries hand out /32s in a few dozen /16s.
pub const ROOT_BITS6: u32 = 16;
/// Entries of the root, and segments.
pub const ROOT_ENTRIES6: usize = 1 << ROOT_BITS6;
/// Bits of an address that index a segment.
pub const SEGMENT_BITS: u32 = 16;
/// Entries of a segment: 256 KiB of them.
pub const SEGMENT_ENTRIES: usize = 1 << SEGMENT_BITS;
/// Bits of an address that index a block.
pub const BLOCK_BITS: u32 = 8;
/// Entries of a block.
pub const BLOCK_ENTRIES: usize = 1 << BLOCK_BITS;
/// Blocks of a pool.
pub const POOL_BLOCKS: usize = 1024;
/// Entries of a pool: 1 MiB of them.
pub const POOL_ENTRIES: usize = POOL_BLOCKS * BLOCK_ENTRIES;
/// Most pools.
pub const MAX_POOLS: usize = 4096;

/// An address that a route map is indexed by.
pub trait Key: Address {
    /// How many of its first bits index the map's root.
    const ROOT_BITS: u32;
}

impl Key for Be32 {
    const ROOT_BITS: u32 = ROOT_BITS;
}

impl Key for Be128 {
    const ROOT_BITS: u32 = ROOT_BITS6;
}

/// One entry: the block to go on in, or a next-hop id and the length of the prefix it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(u32);

impl Entry {
    /// No prefix matches; its next-hop id is [`NEXT_HOP_NO_ROUTE`](super::NEXT_HOP_NO_ROUTE).
    pub const NONE: Self = Self(0);
    const BLOCK: u32 = 1 << 31;

    /// The route of a prefix of `prefix_len` bits, with a next-hop id below 2^16.
    #[inline(always)]
    pub const fn route(next_hop: u32, prefix_len: u8) -> Self {
        Self((next_hop & 0xffff) | (prefix_len as u32 + 1) << 16)
    }

    /// Go on in this block.
    #[inline(always)]
    pub const fn to_block(number: u32) -> Self {
        Self(Self::BLOCK | number)
    }

    /// An entry as it lies in memory.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// The entry's word in memory.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The block to go on in.
    #[inline(always)]
    pub const fn block(self) -> Option<u32> {
        if self.0 & Self::BLOCK != 0 {
            Some(self.0 & !Self::BLOCK)
        } else {
            None
        }
    }

    /// The next-hop id, if this is not a block.
    #[inline(always)]
    pub const fn next_hop(self) -> u32 {
        self.0 & 0xffff
    }

    /// Length of the prefix that decided, if this is not a block; `None` if no prefix matches.
    #[inline(always)]
    pub const fn prefix_len(self) -> Option<u8> {
        ((self.0 >> 16) as u8).checked_sub(1)
    }
}

/// Read access to the route map.
pub trait Reader {
    /// The root's entry for an address's first bits.
    fn root(&self, index: u32) -> Option<Entry>;

    /// An entry of the segment for an address's first bits; `None` if there is no such segment.
    fn segment(&self, segment: u32, index: u32) -> Option<Entry>;

    /// An entry of a block.
    fn entry(&self, block: u32, index: u32) -> Option<Entry>;
}

/// Defines a [`Reader`] of the maps of BPF that a program has: the root, the segments and the pools of blocks, by the
/// names of their statics. A macro, since the types of such maps are aya-ebpf's, which is for BPF programs only.
#[macro_export]
macro_rules! route_map {
    ($name:ident: $root:ident, $segments:ident, $blocks:ident) => {
        struct $name;

        impl $crate::maps::lpm::Reader for $name {
            #[inline(always)]
            fn root(&self, index: u32) -> Option<$crate::maps::lpm::Entry> {
                $crate::maps::lpm::read($root.get(0)?, index as usize)
            }

            #[inline(always)]
            fn segment(&self, segment: u32, index: u32) -> Option<$crate::maps::lpm::Entry> {
                $crate::maps::lpm::read($segments.get_value(segment, &0)?, index as usize)
            }

            #[inline(always)]
            fn entry(&self, block: u32, index: u32) -> Option<$crate::maps::lpm::Entry> {
                use $crate::maps::lpm::{BLOCK_ENTRIES, POOL_BLOCKS};
                let pool = $blocks.get_value(block / POOL_BLOCKS as u32, &0)?;
                let first = block % POOL_BLOCKS as u32 * BLOCK_ENTRIES as u32;
                $crate::maps::lpm::read(pool, (first + index) as usize)
            }
        }
    };
}

/// An entry, read once: the controller may change it at any moment.
#[inline(always)]
pub fn read<const N: usize>(words: &[u32; N], index: usize) -> Option<Entry> {
    let word = words.get(index)?;
    // SAFETY: a valid reference.
    Some(Entry(unsafe { core::ptr::from_ref(word).read_volatile() }))
}

/// The octets of an address that further steps look at, one each.
#[inline(always)]
pub const fn further_octets<A: Key>() -> Range<u32> {
    (A::ROOT_BITS + SEGMENT_BITS) / 8..A::LEN as u32
}

/// Next-hop id of the longest prefix that matches; 0 if none does.
#[inline(always)]
pub fn lookup<A: Key>(map: &impl Reader, address: A) -> u32 {
    let mut entry = first(map, address);
    for octet in further_octets::<A>() {
        let Some(block) = entry.block() else {
            break;
        };
        entry = map
            .entry(block, octet_of(address, octet))
            .unwrap_or(Entry::NONE);
    }
    entry.next_hop()
}

/// The first step of a look-up: the entry of an address's first bits in the flat table.
///
/// Nothing in here depends on what the entry says. Steps for several addresses in a row overlap, and
/// the loads they wait for go on at the same time.
#[inline(always)]
pub fn first<A: Key>(map: &impl Reader, address: A) -> Entry {
    let bits = address.octets_from(0);
    let root = (bits >> (64 - A::ROOT_BITS)) as u32;
    let index = bits >> (64 - A::ROOT_BITS - SEGMENT_BITS) & (SEGMENT_ENTRIES as u64 - 1);
    let entry = match map.segment(root, index as u32) {
        Some(entry) => Some(entry),
        None => map.root(root),
    };
    entry.unwrap_or(Entry::NONE)
}

/// Look-ups of several addresses that go on step by step, all of them at a time.
///
/// A step decides by no branch whether an address is at its end. The processor could only guess, and a wrong
/// guess would be noticed when the entry has come from memory, and end the loads for all addresses
/// behind it.
#[repr(C)]
pub struct LookUps<const N: usize> {
    /// What each address has come to.
    entries: [Entry; N],
    /// The addresses that are not at their end, after a further step.
    unfinished: [u8; N],
    /// How many of those count, from the first.
    left: u32,
    /// The same for the step at hand, so far.
    going_on: u32,
}

// An address's number is an octet.
const _: () = assert!(size_of::<LookUps<256>>() == 5 * 256 + 8);

impl<const N: usize> LookUps<N> {
    /// The entry that an address has come to.
    #[inline(always)]
    pub fn entry(&self, number: usize) -> Entry {
        fresh(&self.entries[number])
    }

    /// Sets what an address has come to, after its first step.
    #[inline(always)]
    pub fn set(&mut self, number: usize, entry: Entry) {
        store(&mut self.entries[number], entry);
    }

    /// The next step of all look-ups, by this octet: of the first `all`, if it is the one after the first,
    /// else of those that are not at their end. Whether any is still not. `all` is asked for again and again.
    #[inline(always)]
    pub fn step<A: Key>(
        &mut self,
        map: &impl Reader,
        octet: u32,
        all: impl Fn() -> usize,
        address: impl Fn(usize) -> A,
    ) -> bool {
        const { assert!(N.is_power_of_two() && N >= 4) };
        store(&mut self.going_on, 0);
        if octet == further_octets::<A>().start {
            // Four at a time: without a loop between them, more of their loads wait at the same time.
            for four in 0..N / 4 {
                if 4 * four + 4 > all() {
                    break;
                }
                for number in 4 * four..4 * four + 4 {
                    self.step_of(number, map, octet, address(number));
                }
            }
            for rest in 0..3 {
                let count = all();
                let number = count & (N - 4) | rest;
                if count == N || number >= count {
                    break;
                }
                self.step_of(number, map, octet, address(number));
            }
        } else {
            for place in 0..N {
                if place >= fresh(&self.left) as usize {
                    break;
                }
                let number = fresh(&self.unfinished[place]) as usize % N;
                self.step_of(number, map, octet, address(number));
            }
        }
        let left = fresh(&self.going_on);
        store(&mut self.left, left);
        left != 0
    }

    /// The next step of one look-up.
    #[inline(always)]
    fn step_of<A: Key>(&mut self, number: usize, map: &impl Reader, octet: u32, address: A) {
        let entry = next(map, self.entry(number), address, octet);
        self.set(number, entry);
        // Never behind the place that was read last, so what is still to be read stays.
        let going_on = fresh(&self.going_on);
        store(&mut self.unfinished[going_on as usize % N], number as u8);
        store(&mut self.going_on, going_on + (entry.0 >> 31));
    }
}

/// The entry that another leads to by the address's next octet; the same entry if it is the last.
#[inline(always)]
fn next<A: Key>(map: &impl Reader, entry: Entry, address: A, octet: u32) -> Entry {
    let word = u64::from(entry.0);
    // All ones if it is a block.
    let go_on = opaque(word >> 31).wrapping_neg();
    // Block 0 is always there; what it says does not count here.
    let block = word & go_on & !u64::from(Entry::BLOCK);
    let found = map.entry(block as u32, octet_of(address, octet));
    let found = u64::from(found.unwrap_or(Entry::NONE).0);
    Entry((found & go_on | word & !go_on) as u32)
}

#[inline(always)]
fn octet_of<A: Key>(address: A, octet: u32) -> u32 {
    (address.octets_from(octet) >> 56) as u32
}
