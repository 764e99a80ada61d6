//! Reading the list of a frame.

use super::decision::{DESTINATION_SLOTS, Plan};
use crate::{
    family::traits::Family,
    verifier::fresh,
    wire::{
        FLAG_D, FLAG_P,
        address::Address as _,
        endian::Be16,
        frame::{Frame, View},
    },
};

/// Hands on each word of the bitmap, with its number and that of all destinations.
#[inline(always)]
pub(super) fn each_bitmap_word<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    mut visit: impl FnMut(&mut Plan<F>, usize, u32, u32),
) -> Option<()> {
    let view = F::xcast(frame.view(), plan.ext_len());
    for word in 0..4 {
        let count = u32::from(fresh(&plan.packet.dest_count));
        if word < F::bitmap_words(count) as usize {
            visit(plan, word, count, view.be32(F::BITMAP + 4 * word)?.value());
        }
    }
    Some(())
}

/// Hands on each address of the list, with its number. Four at a time, so that what is begun with them overlaps.
#[inline(always)]
pub(super) fn each_address<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    mut visit: impl FnMut(&mut Plan<F>, usize, F::Address),
) -> Option<()> {
    let ext_len = plan.ext_len();
    let view = F::xcast(frame.view(), ext_len);
    for four in 0..DESTINATION_SLOTS / 4 {
        let count = fresh(&plan.packet.dest_count);
        if 4 * four + 4 > count as usize {
            break;
        }
        let at = addresses_at::<F>(count) + F::Address::LEN * 4 * four;
        let addresses = F::Address::read4(view, at)?;
        for (n, address) in addresses.into_iter().enumerate() {
            visit(plan, 4 * four + n, address);
        }
    }
    let view = F::xcast(frame.view(), ext_len);
    for n in 0..3 {
        let count = fresh(&plan.packet.dest_count);
        let i = count as usize & (DESTINATION_SLOTS - 4) | n;
        if i >= count as usize {
            break;
        }
        let address = F::Address::read(view, addresses_at::<F>(count) + F::Address::LEN * i)?;
        visit(plan, i, address);
    }
    Some(())
}

/// The same for the DS bytes, if there are any.
#[inline(always)]
pub(super) fn each_ds<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    visit: impl FnMut(&mut Plan<F>, usize, u8),
) -> Option<()> {
    let read = |_: &Plan<F>, view: View<'_>, count, i| view.u8(ds_at::<F>(count) + i);
    each_with(FLAG_D, frame, plan, read, visit)
}

/// The same for the ports, if there are any.
#[inline(always)]
pub(super) fn each_port<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    visit: impl FnMut(&mut Plan<F>, usize, Be16),
) -> Option<()> {
    let read = |plan: &Plan<F>, view: View<'_>, count, i| {
        view.be16(F::ports_at(u32::from(count), fresh(&plan.packet.flags)) + 2 * i)
    };
    each_with(FLAG_P, frame, plan, read, visit)
}

/// Hands on what each destination of a list with a flag has besides its address; `read` is also given the list's view
/// and length, and the destination's number.
#[inline(always)]
fn each_with<F: Family, T>(
    flag: u8,
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    read: impl Fn(&Plan<F>, View<'_>, u8, usize) -> Option<T>,
    mut visit: impl FnMut(&mut Plan<F>, usize, T),
) -> Option<()> {
    if !plan.has(flag) {
        return Some(());
    }
    let view = F::xcast(frame.view(), plan.ext_len());
    for i in 0..F::MAX_DESTINATIONS {
        let count = fresh(&plan.packet.dest_count);
        if i >= count as usize {
            break;
        }
        let value = read(plan, view, count, i)?;
        visit(plan, i, value);
    }
    Some(())
}

/// Where the addresses of a list with `count` entries start.
#[inline(always)]
pub(in crate::forward) fn addresses_at<F: Family>(count: u8) -> usize {
    F::BITMAP + 4 * F::bitmap_words(u32::from(count)) as usize
}

/// Where the DS bytes of a list with `count` entries start.
#[inline(always)]
pub(in crate::forward) fn ds_at<F: Family>(count: u8) -> usize {
    addresses_at::<F>(count) + F::Address::LEN * count as usize
}

/// Bit of destination `i` in its bitmap word.
#[inline(always)]
pub(in crate::forward) fn bit(i: usize) -> u32 {
    0x8000_0000 >> (i & 31)
}

/// A word whose first `count` bits are set.
#[inline(always)]
pub(in crate::forward) fn leading_ones(count: u32) -> u32 {
    if count >= 32 {
        u32::MAX
    } else {
        !(u32::MAX >> count)
    }
}
