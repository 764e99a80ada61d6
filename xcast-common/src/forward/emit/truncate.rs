//! A copy's list becomes shorter: only the branch's own destinations stay.

use crate::{
    family::traits::Family,
    forward::plan::{DESTINATION_SLOTS, Destination, Plan, addresses_at, ds_at, leading_ones},
    maps::{next_hop::NextHop, settings::Settings},
    verifier::fresh,
    wire::{
        FLAG_D, FLAG_P,
        address::Address as _,
        checksum::Sum,
        endian::{Be16, Be32},
        frame::{Frame, View},
    },
};

/// Prune by truncation: only the branch's own destinations stay in the list.
#[inline(always)]
pub(super) fn truncate<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    let b = b as usize;
    let count = u32::from(fresh(&plan.branches[b].len));
    let flags = fresh(&plan.packet.flags);
    let cut = u32::from(plan.packet.header_len).checked_sub(F::header_len(count, flags))?;
    let mut sum = F::shorten(frame, &plan.packet, next_hop, settings, count, cut)?;

    let ext_len = plan.ext_len();
    let view = F::xcast(frame.view(), ext_len);
    for word in 0..4 {
        if word < F::bitmap_words(count) {
            let bits = Be32::new(leading_ones(count.saturating_sub(32 * word)));
            view.set_be32(F::BITMAP + 4 * word as usize, bits)?;
            sum = sum.add32(bits.memory());
        }
    }
    // A new view for every list: what the verifier learned about the old one's range would be
    // another difference between cases.
    sum = write_addresses(F::xcast(frame.view(), ext_len), plan, b, sum)?;
    if plan.has(FLAG_D) {
        sum = write_ds(F::xcast(frame.view(), ext_len), plan, b, sum)?;
    }
    if plan.has(FLAG_P) {
        sum = write_ports(F::xcast(frame.view(), ext_len), plan, b, settings, sum)?;
    }
    let view = F::xcast(frame.view(), ext_len);
    view.set_be16(F::CHECKSUM, Be16::from_memory(sum.checksum()))
}

#[inline(always)]
fn write_addresses<F: Family>(view: View<'_>, plan: &Plan<F>, b: usize, sum: Sum) -> Option<Sum> {
    write_each(plan, b, sum, |destination, count, at, sum| {
        let list = addresses_at::<F>(count);
        destination
            .address
            .write(view, list + F::Address::LEN * at)?;
        Some(destination.address.add_to(sum))
    })
}

#[inline(always)]
fn write_ds<F: Family>(view: View<'_>, plan: &Plan<F>, b: usize, sum: Sum) -> Option<Sum> {
    let count = u32::from(fresh(&plan.branches[b].len));
    F::pad_ds(view, ds_at::<F>(count as u8), count)?;
    write_each(plan, b, sum, |destination, count, at, sum| {
        view.set_u8(ds_at::<F>(count) + at, destination.ds)?;
        // In memory an octet at an odd place is the other half of its 16-bit word.
        let shift = 8 * (at & 1) as u32;
        Some(sum.add32(u32::from(u16::from_ne_bytes([destination.ds, 0])) << shift))
    })
}

#[inline(always)]
fn write_ports<F: Family>(
    view: View<'_>,
    plan: &Plan<F>,
    b: usize,
    settings: &Settings,
    sum: Sum,
) -> Option<Sum> {
    let count = u32::from(fresh(&plan.branches[b].len));
    F::begin_ports(view, &plan.packet, settings, count)?;
    write_each(plan, b, sum, |destination, count, at, sum| {
        let list = F::ports_at(u32::from(count), fresh(&plan.packet.flags));
        view.set_be16(list + 2 * at, destination.port)?;
        Some(match F::PORTS_CHECKED {
            true => sum.add16(destination.port.memory()),
            false => sum,
        })
    })
}

/// Writes what `write` writes of each of a branch's destinations, the last one first, and sums it up. `write` is given the
/// length of the list, and the destination's place in it.
#[inline(always)]
fn write_each<F: Family>(
    plan: &Plan<F>,
    b: usize,
    sum: Sum,
    write: impl Fn(&Destination<F>, u8, usize, Sum) -> Option<Sum>,
) -> Option<Sum> {
    let mut sum = sum;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..F::MAX_DESTINATIONS {
        let count = fresh(&plan.branches[b].len);
        if k as u32 >= u32::from(count) {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        sum = write(destination, count, count as usize - 1 - k, sum)?;
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}
