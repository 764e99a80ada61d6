//! The last pass: where a branch's destinations cannot share a copy, one for each.

use super::{
    decision::{DESTINATION_SLOTS, NONE, PORT_NOWHERE, PORT_SPLIT, Plan},
    work::{SEEN_SLOTS, Work},
};
use crate::{
    family::traits::Family,
    forward::tables::Tables,
    maps::{
        counter::{Counter, Tally},
        settings::Settings,
    },
    verifier::{fresh, store},
    wire::{FLAG_P, address::Address as _, endian::Be16},
};

/// What leaves of a product the bits that are a slot: the highest, which have seen all others.
const SEEN_SHIFT: u32 = u64::BITS - SEEN_SLOTS.ilog2();
/// Probes before the duplicate check gives up on an entry, which a repeat of it then survives. The
/// hash is keyed; for some entry of a list of 127 different ones the odds are 10^-4, for a list of
/// 40 below 10^-7.
const SEEN_PROBES: usize = 4;

/// Pass 4: gives each destination of a split branch a copy of its own, unless the same address and
/// port had one already.
#[inline(always)]
pub(super) fn split<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    settings: &Settings,
    tables: &impl Tables<F>,
    counters: Tally<'_>,
) {
    store(&mut plan.split_from, fresh(&plan.branch_count));
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.packet.dest_count) as usize {
            break;
        }
        let b = fresh(&plan.branch_of[i]);
        if b == NONE || fresh(&plan.branches[b as usize].port) != PORT_SPLIT {
            continue;
        }
        if is_repeat(plan, i, settings, work) {
            counters.bump(Counter::SkipDuplicate);
            plan.skip(i);
            continue;
        }
        let id = fresh(&plan.branches[b as usize].next_hop);
        let own = plan.open(i, id, id);
        let port = match tables.next_hop(u32::from(id)) {
            Some(next_hop) => next_hop.port,
            None => PORT_NOWHERE,
        };
        plan.schedule(own, port);
    }
}

/// Whether a destination before `i` that came from splitting has the same address and port;
/// remembers `i` if not.
#[inline(always)]
fn is_repeat<F: Family>(plan: &Plan<F>, i: usize, settings: &Settings, work: &mut Work) -> bool {
    let destination = &plan.destinations[i];
    let port = u64::from(port_of(plan, i).memory());
    // Multiplying by secret odd numbers and keeping the high bits is universal hashing.
    let hash = destination.address.hash(settings.hash_key);
    let hash =
        hash.wrapping_add(port.wrapping_mul(settings.hash_key.rotate_left(42) | 1)) >> SEEN_SHIFT;
    for probe in 0..SEEN_PROBES {
        let slot = (hash as usize + probe) % SEEN_SLOTS;
        let j = fresh(&work.seen[slot]) as usize % DESTINATION_SLOTS;
        // Only what this very packet wrote there counts.
        let b = fresh(&plan.branch_of[j]);
        if j >= i
            || fresh(&work.seen_at[j]) as usize != slot
            || b == NONE
            || b < fresh(&plan.split_from)
        {
            store(&mut work.seen[slot], i as u8);
            store(&mut work.seen_at[i], slot as u16);
            return false;
        }
        let earlier = &plan.destinations[j];
        let other = u64::from(port_of(plan, j).memory());
        if earlier.address.difference(destination.address) | (other ^ port) == 0 {
            return true;
        }
    }
    false
}

/// The port of destination `i`; 0 if the packet has none.
#[inline(always)]
fn port_of<F: Family>(plan: &Plan<F>, i: usize) -> Be16 {
    if plan.has(FLAG_P) {
        plan.destinations[i].port
    } else {
        Be16::default()
    }
}
