//! A copy's list stays, with fewer bits.

use crate::{
    family::traits::Family,
    forward::plan::{DESTINATION_SLOTS, NONE, Plan, addresses_at, bit, ds_at},
    maps::{next_hop::NextHop, settings::Settings},
    verifier::fresh,
    wire::{
        FLAG_A, FLAG_D, FLAG_P,
        address::Address as _,
        endian::{Be16, Be32},
        frame::{Frame, View},
    },
};

/// Prune by bitmap: the list stays, the bits of other branches' destinations go; with A set their
/// entries are zeroed too.
#[inline(always)]
pub(super) fn clear_bits<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    F::pass_on(frame.view(), &plan.packet, next_hop, settings)?;
    plan.kept = [0; 4];
    mark(plan, b);
    let ext_len = plan.ext_len();
    if plan.has(FLAG_A) {
        anonymise(F::xcast(frame.view(), ext_len), plan)?;
    }
    write_bitmap(F::xcast(frame.view(), ext_len), plan)
}

/// Sets the bits of a branch's destinations in `plan.kept`.
#[inline(always)]
fn mark<F: Family>(plan: &mut Plan<F>, b: u8) {
    let mut i = plan.branches[b as usize].last;
    for _ in 0..F::MAX_DESTINATIONS {
        if i == NONE {
            break;
        }
        let index = i as usize % DESTINATION_SLOTS;
        plan.kept[index >> 5] |= bit(index);
        i = fresh(&plan.destinations[index].previous);
    }
}

/// A: zeroes address, DS byte and port of every destination that is not kept.
#[inline(always)]
fn anonymise<F: Family>(view: View<'_>, plan: &Plan<F>) -> Option<()> {
    for i in 0..F::MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.packet.dest_count));
        if i >= count as usize {
            break;
        }
        if plan.kept[i >> 5] & bit(i) != 0 {
            continue;
        }
        let flags = fresh(&plan.packet.flags);
        let list = addresses_at::<F>(count as u8);
        F::Address::default().write(view, list + F::Address::LEN * i)?;
        if flags & FLAG_D != 0 {
            view.set_u8(ds_at::<F>(count as u8) + i, 0)?;
        }
        if flags & FLAG_P != 0 {
            view.set_be16(F::ports_at(count, flags) + 2 * i, Be16::default())?;
        }
    }
    Some(())
}

/// Writes `plan.kept` as the bitmap, zeroes reserved fields and padding, and recomputes the
/// header's checksum.
#[inline(always)]
pub(super) fn write_bitmap<F: Family>(view: View<'_>, plan: &Plan<F>) -> Option<()> {
    let count = fresh(&plan.packet.dest_count);
    let flags = fresh(&plan.packet.flags);
    for word in 0..4 {
        if (word as u32) < F::bitmap_words(u32::from(count)) {
            view.set_be32(F::BITMAP + 4 * word, Be32::new(plan.kept[word]))?;
        }
    }
    F::tidy(view, count, flags)?;
    let words = F::checked_words(u32::from(count), flags);
    let sum = F::header_sum(view, words)?;
    view.set_be16(F::CHECKSUM, Be16::from_memory(sum.checksum()))
}
