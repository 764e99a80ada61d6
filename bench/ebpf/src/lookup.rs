//! BPF programs that look up routes, for test runs: each run looks up a row of addresses.
//!
//! [`nothing`] only reads the addresses, for the difference; the others look them up in the router's
//! own route map, in the kernel's LPM trie, and in the flattest map there is, a table of all 24-bit
//! prefixes.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the program macros drop the entry points' documentation"
)]

#[expect(dead_code, reason = "some of it is for other programs and user space")]
mod shared;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP},
    btf_maps::{Array, ArrayOfMaps, LpmTrie, lpm_trie::Key},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use xcast_common::{
    maps::lpm::{
        self, Entry, LookUps, MAX_POOLS, POOL_ENTRIES, ROOT_ENTRIES, ROOT_ENTRIES6,
        SEGMENT_ENTRIES, further_octets,
    },
    route_map,
    wire::{Be32, Be128},
};

use crate::shared::{MAX_RUNS, ROWS, RUN_ADDRESSES, Tally};

/// BPF_F_MMAPABLE.
const MMAPABLE: usize = 1 << 10;

/// The addresses, in the host's byte order; written by the benchmark.
#[btf_map]
pub static LOOKED_UP: Array<[u32; RUN_ADDRESSES], MAX_RUNS, MMAPABLE> = Array::new();

/// The first halves of addresses of IPv6, likewise.
#[btf_map]
pub static LOOKED_UP6: Array<[u64; RUN_ADDRESSES], MAX_RUNS, MMAPABLE> = Array::new();

/// What was found so far for each address of the row at hand; the program's own.
#[btf_map]
pub static FOUND: Array<LookUps<RUN_ADDRESSES>, 1> = Array::new();

/// How to go on.
#[btf_map]
pub static TALLY: Array<Tally, 1> = Array::new();

/// The route map's root, as the router has it.
#[btf_map]
pub static ROUTE_ROOT: Array<[u32; ROOT_ENTRIES], 1, MMAPABLE> = Array::new();

/// The route map's segments, as the router has them.
#[btf_map]
pub static ROUTE_SEGMENTS: ArrayOfMaps<Array<[u32; SEGMENT_ENTRIES], 1, MMAPABLE>, ROOT_ENTRIES> =
    ArrayOfMaps::new();

/// The route map's blocks, as the router has them.
#[btf_map]
pub static ROUTE_BLOCKS: ArrayOfMaps<Array<[u32; POOL_ENTRIES], 1, MMAPABLE>, MAX_POOLS> =
    ArrayOfMaps::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_ROOT6: Array<[u32; ROOT_ENTRIES6], 1, MMAPABLE> = Array::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_SEGMENTS6: ArrayOfMaps<Array<[u32; SEGMENT_ENTRIES], 1, MMAPABLE>, ROOT_ENTRIES6> =
    ArrayOfMaps::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_BLOCKS6: ArrayOfMaps<Array<[u32; POOL_ENTRIES], 1, MMAPABLE>, MAX_POOLS> =
    ArrayOfMaps::new();

/// The kernel's trie.
#[btf_map]
pub static LPM: LpmTrie<[u8; 4], u32, 4_000_000> = LpmTrie::new();

/// The same for IPv6.
#[btf_map]
pub static LPM6: LpmTrie<[u8; 16], u32, 4_000_000> = LpmTrie::new();

/// Next hop by an address's first 24 bits; rows of 256, since elements are padded to eight octets.
#[btf_map]
pub static FLAT: Array<[u32; 256], ROWS, MMAPABLE> = Array::new();

#[xdp]
pub fn nothing(_ctx: XdpContext) -> u32 {
    all(|address| address & 1)
}

/// As the router does it for the destinations of a packet: the first step for four at a time, and further ones
/// for those that need them, if any does.
#[xdp]
pub fn xcast(_ctx: XdpContext) -> u32 {
    let Some((tally, addresses, look_ups)) = row_at_hand(|at| LOOKED_UP.get(at)) else {
        return XDP_ABORTED;
    };
    let first = |address| lpm::first(&Routes4, Be32::new(address));
    if begin(addresses, look_ups, first) {
        for octet in further_octets::<Be32>() {
            if step(octet) == 0 {
                break;
            }
        }
    }
    finish(tally, look_ups)
}

/// One further step for the row at hand; 0 if it was the last. The kernel verifies it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step(octet: u32) -> u32 {
    let Some((_, addresses, look_ups)) = row_at_hand(|at| LOOKED_UP.get(at)) else {
        return 0;
    };
    let address = move |number: usize| Be32::new(addresses[number % RUN_ADDRESSES]);
    look_ups.step(&Routes4, octet & 0xf, || RUN_ADDRESSES, address) as u32
}

#[xdp]
pub fn lpm_trie(_ctx: XdpContext) -> u32 {
    all(|address| {
        LPM.get(&Key::new(32, address.to_be_bytes()))
            .copied()
            .unwrap_or(0)
    })
}

#[xdp]
pub fn flat(_ctx: XdpContext) -> u32 {
    all(|address| {
        let row = FLAT.get(address >> 16);
        row.map_or(0, |row| {
            read(row, (address >> 8 & 0xff) as usize).unwrap_or(0)
        })
    })
}

#[xdp]
pub fn nothing6(_ctx: XdpContext) -> u32 {
    all6(|address| address as u32 & 1)
}

/// As [`xcast`].
#[xdp]
pub fn xcast6(_ctx: XdpContext) -> u32 {
    let Some((tally, addresses, look_ups)) = row_at_hand(|at| LOOKED_UP6.get(at)) else {
        return XDP_ABORTED;
    };
    let first = |address| lpm::first(&Routes6, whole(address));
    if begin(addresses, look_ups, first) {
        for octet in further_octets::<Be128>() {
            if step6(octet) == 0 {
                break;
            }
        }
    }
    finish(tally, look_ups)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step6(octet: u32) -> u32 {
    let Some((_, addresses, look_ups)) = row_at_hand(|at| LOOKED_UP6.get(at)) else {
        return 0;
    };
    let address = move |number: usize| whole(addresses[number % RUN_ADDRESSES]);
    look_ups.step(&Routes6, octet & 0xf, || RUN_ADDRESSES, address) as u32
}

/// The row of addresses that is to be looked up, and what was found so far.
#[inline(always)]
fn row_at_hand<A>(
    rows: impl Fn(u32) -> Option<&'static [A; RUN_ADDRESSES]>,
) -> Option<(
    &'static mut Tally,
    &'static [A; RUN_ADDRESSES],
    &'static mut LookUps<RUN_ADDRESSES>,
)> {
    let tally = TALLY.get_ptr_mut(0)?;
    let look_ups = FOUND.get_ptr_mut(0)?;
    // SAFETY: only one run at a time uses these maps, and only one function of it at a time.
    let (tally, look_ups) = unsafe { (&mut *tally, &mut *look_ups) };
    let addresses = rows(tally.next & (tally.runs - 1))?;
    Some((tally, addresses, look_ups))
}

/// The first step for a row; whether any address needs another.
#[inline(always)]
fn begin<A: Copy>(
    addresses: &[A; RUN_ADDRESSES],
    look_ups: &mut LookUps<RUN_ADDRESSES>,
    first: impl Fn(A) -> Entry,
) -> bool {
    let mut words = 0;
    for (four, addresses) in addresses.as_chunks::<4>().0.iter().enumerate() {
        for (n, address) in addresses.iter().enumerate() {
            let entry = first(*address);
            words |= entry.word();
            look_ups.set(4 * four + n, entry);
        }
    }
    Entry::from_word(words).block().is_some()
}

/// Adds up what was found for a row, and goes on to the next.
#[inline(always)]
fn finish(tally: &mut Tally, look_ups: &LookUps<RUN_ADDRESSES>) -> u32 {
    let mut sum = 0;
    for number in 0..RUN_ADDRESSES {
        sum += u64::from(look_ups.entry(number).next_hop());
    }
    tally.sum += sum;
    tally.next += 1;
    XDP_DROP
}

#[xdp]
pub fn lpm_trie6(_ctx: XdpContext) -> u32 {
    all6(|address| {
        LPM6.get(&Key::new(128, octets(address)))
            .copied()
            .unwrap_or(0)
    })
}

/// The address that begins with these 64 bits.
#[inline(always)]
fn whole(address: u64) -> Be128 {
    Be128::new(u128::from(address) << 64)
}

/// The same, octet by octet.
#[inline(always)]
fn octets(address: u64) -> [u8; 16] {
    (u128::from(address) << 64).to_be_bytes()
}

/// Looks up a row of addresses.
#[inline(always)]
fn all(lookup: impl Fn(u32) -> u32) -> u32 {
    row(|at| LOOKED_UP.get(at), lookup)
}

/// Looks up a row of addresses of IPv6.
#[inline(always)]
fn all6(lookup: impl Fn(u64) -> u32) -> u32 {
    row(|at| LOOKED_UP6.get(at), lookup)
}

#[inline(always)]
fn row<A: Copy + 'static>(
    rows: impl Fn(u32) -> Option<&'static [A; RUN_ADDRESSES]>,
    lookup: impl Fn(A) -> u32,
) -> u32 {
    let Some(tally) = TALLY.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: only one run at a time uses this map.
    let tally = unsafe { &mut *tally };
    let Some(row) = rows(tally.next & (tally.runs - 1)) else {
        return XDP_ABORTED;
    };
    tally.next += 1;
    let mut sum = 0_u64;
    for &address in row {
        sum += u64::from(lookup(address));
    }
    tally.sum += sum;
    XDP_DROP
}

route_map!(Routes4: ROUTE_ROOT, ROUTE_SEGMENTS, ROUTE_BLOCKS);
route_map!(Routes6: ROUTE_ROOT6, ROUTE_SEGMENTS6, ROUTE_BLOCKS6);

#[inline(always)]
fn read<const N: usize>(words: &[u32; N], index: usize) -> Option<u32> {
    let word = words.get(index)?;
    // SAFETY: a valid reference; the controller may change the word at any moment.
    Some(unsafe { core::ptr::from_ref(word).read_volatile() })
}

/// As the router's own programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
