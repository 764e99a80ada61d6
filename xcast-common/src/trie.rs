//! The form of the route map: a flat table of the first 24 bits of an address, and blocks of 256
//! entries for what is longer (DIR-24-8).
//!
//! The table is kept in *segments*, one for each value of the first octet that has prefixes longer
//! than that, so that a router with ten routes does not pay for sixteen million entries; the *root*
//! has an entry for each of the others. Where prefixes longer than 24 bits exist, an entry names a
//! *block* for the next 8 bits, and so on. A look-up is two loads for most destinations, the first
//! of a pointer that is always in the cache, and no comparison of addresses. An entry is one
//! aligned word: whoever reads while it changes sees the old next hop or the new one.
//!
//! The controller writes, through memory it shares with the programs. Blocks come in *pools*,
//! which are added as routes need them.

use crate::address::Address;

/// Bits of an address that index the root.
pub const ROOT_BITS: u32 = 8;
/// Entries of the root, and segments.
pub const ROOT_ENTRIES: usize = 1 << ROOT_BITS;
/// Bits of an address that index a segment.
pub const SEGMENT_BITS: u32 = 16;
/// Entries of a segment: 256 KiB of them.
pub const SEGMENT_ENTRIES: usize = 1 << SEGMENT_BITS;
/// Octets of an address that the first step looks at; each further step looks at one.
pub const FIRST_OCTETS: u32 = (ROOT_BITS + SEGMENT_BITS) / 8;
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

/// One entry: the block to go on in, or a next-hop id and the length of the prefix it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(u32);

impl Entry {
    /// No prefix matches; its next-hop id is [`NEXT_HOP_NO_ROUTE`](crate::maps::NEXT_HOP_NO_ROUTE).
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
    /// The root's entry for an address's first 8 bits.
    fn root(&self, index: u32) -> Option<Entry>;

    /// An entry of the segment for an address's first 8 bits; `None` if there is no such segment.
    fn segment(&self, segment: u32, index: u32) -> Option<Entry>;

    /// An entry of a block.
    fn entry(&self, block: u32, index: u32) -> Option<Entry>;
}

/// Next-hop id of the longest prefix that matches; 0 if none does.
#[inline(always)]
pub fn lookup<A: Address>(map: &impl Reader, address: A) -> u32 {
    let mut entry = first(map, address);
    for octet in FIRST_OCTETS..A::LEN as u32 {
        let Some(block) = entry.block() else {
            break;
        };
        entry = map
            .entry(block, octet_of(address, octet))
            .unwrap_or(Entry::NONE);
    }
    entry.next_hop()
}

/// The first step of a look-up: the entry of an address's first 24 bits.
///
/// Nothing in here depends on what the entry says. Steps for several addresses in a row overlap, and
/// the loads they wait for go on at the same time.
#[inline(always)]
pub fn first<A: Address>(map: &impl Reader, address: A) -> Entry {
    let bits = (address.octets_from(0) >> 32) as u32;
    let octet = bits >> 24;
    let entry = match map.segment(octet, bits >> 8 & 0xffff) {
        Some(entry) => Some(entry),
        None => map.root(octet),
    };
    entry.unwrap_or(Entry::NONE)
}

/// A further step of a look-up, for addresses in a row: the entry that the last step's leads to, by the
/// address's next octet, or the same entry if that was the end.
///
/// Which it is decides no branch. The processor could only guess, and a wrong guess would be noticed
/// when the entry has come from memory, and end all loads for addresses behind it.
#[inline(always)]
pub fn next<A: Address>(map: &impl Reader, entry: Entry, address: A, octet: u32) -> Entry {
    let go_on = opaque((entry.0 as i32 >> 31) as u32);
    // Block 0 is always there; what it says does not count here.
    let block = entry.0 & !Entry::BLOCK & go_on;
    let found = map.entry(block, octet_of(address, octet));
    Entry(found.unwrap_or(Entry::NONE).0 & go_on | entry.0 & !go_on)
}

#[inline(always)]
fn octet_of<A: Address>(address: A, octet: u32) -> u32 {
    (address.octets_from(octet) >> 56) as u32
}

/// The same number, about which the compiler knows nothing: it turns a mask it can see through into
/// the branch it stands for.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = u64::from(number);
        // SAFETY: does nothing.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack)) };
        number as u32
    };
    number
}
