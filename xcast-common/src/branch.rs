//! Turn one copy of the frame into what its branch asks for.
//!
//! A copy arrives here as the whole frame. It leaves as ordinary unicast (X2U, RFC 5058 section
//! 6), as an Xcast packet with a shorter list, or as an Xcast packet with the same list and fewer
//! bits. Lists are written from the plan, last destination first, and end where the payload
//! begins; so nothing that is still to be read is ever overwritten.

use crate::{
    address::Address as _,
    checksum::{Sum, sum_words, update},
    family::{Family, Unicast, V4, V6},
    maps::{NextHop, NextHopKind, Prune, Settings},
    plan::{DESTINATION_SLOTS, NONE, Plan, addresses_at, bit, ds_at, fresh, leading_ones},
    view::{Frame, View},
    wire::{Be16, Be32, FLAG_A, FLAG_D, FLAG_P, FLAG_X, transport},
};

/// Bits of where a checksum is behind an IP header, in octets: a bound that the verifier sees.
const CHECKSUM_AT_MASK: usize = 0x1f;

/// What a copy became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ordinary unicast to the one destination that was left.
    Unicast,
    /// Still an Xcast packet.
    Xcast,
}

/// What [`unwrap`] leaves to be finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwrapped {
    /// The sum that the IP header's checksum is of, without the destination; as memory. Anything for IPv6.
    pub ip_sum: u16,
    /// The same for the checksum of the transport header; 0 if there is none to be changed. As a sum of what is not
    /// all zeros, it is not 0 otherwise.
    pub transport_sum: u16,
}

/// Rewrites the frame for branch `b` of `plan`, to leave by `next_hop`. `None` if the frame has no room for it; it must
/// be dropped then. `unwrapped` if that was done before the frame was copied.
#[inline(always)]
pub fn emit<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
    unwrapped: Option<Unwrapped>,
) -> Option<Form> {
    let to_stack = next_hop.kind == NextHopKind::Stack as u8;
    let single = fresh(&plan.branches[b as usize].len) == 1;
    if single && (to_stack || !plan.has(FLAG_X)) {
        let unwrapped = match unwrapped {
            Some(unwrapped) => unwrapped,
            None => unwrap(frame, plan, settings)?,
        };
        readdress(frame.view(), plan, b, next_hop, unwrapped)?;
        return Some(Form::Unicast);
    }
    if settings.prune == Prune::Bitmap as u8 {
        clear_bits(frame, plan, b, next_hop, settings)?;
    } else {
        truncate(frame, plan, b, next_hop, settings)?;
    }
    Some(Form::Xcast)
}

/// Rewrites the frame into what is left when the branches that [leave](Plan::leave) in this round have
/// been served: an Xcast packet for the others' destinations, to be forwarded by this router once more.
/// The IP header stays as it is.
#[inline(always)]
pub fn emit_rest<F: Family>(frame: &mut impl Frame, plan: &mut Plan<F>) -> Option<()> {
    plan.kept = [0; 4];
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        if plan.stays(i) {
            plan.kept[i >> 5] |= bit(i);
        }
    }
    write_bitmap(F::xcast(frame.view(), plan.before()), plan)
}

/// The half of X2U that all unicast copies of a packet share: the Xcast header goes, and checksums are begun. Where
/// there is no other copy, this is done once, before the frame is copied.
#[inline(always)]
pub fn unwrap<F: Family>(
    frame: &mut impl Frame,
    plan: &Plan<F>,
    settings: &Settings,
) -> Option<Unwrapped> {
    let ip_sum = F::unwrap(frame, plan)?.fold();
    let mut transport_sum = 0;
    let checksum_at = fresh(&plan.checksum_at) as usize & CHECKSUM_AT_MASK;
    if checksum_at != 0 {
        let field = frame.view().skip(checksum_at).window::<2>(F::XCAST_AT)?;
        let checksum = field.u16(0);
        // A datagram whose source computed none has none.
        if checksum != 0 || plan.protocol != transport::UDP {
            // The source computed it with the group as destination.
            transport_sum = F::group(settings).take_from(update(checksum)).fold();
        }
    }
    Some(Unwrapped {
        ip_sum,
        transport_sum,
    })
}

/// The other half: the one destination takes the group's place.
#[inline(always)]
fn readdress<F: Family>(
    view: View,
    plan: &Plan<F>,
    b: u8,
    next_hop: &NextHop,
    unwrapped: Unwrapped,
) -> Option<()> {
    let i = plan.branches[b as usize].last as usize % DESTINATION_SLOTS;
    let address = plan.destinations[i].address;
    let port = plan.has(FLAG_P).then_some(plan.destinations[i].port);
    fix_transport(view, plan, address, port, unwrapped.transport_sum)?;
    let unicast = Unicast {
        address,
        ds: plan.has(FLAG_D).then_some(plan.destinations[i].ds),
        is_local: next_hop.kind == NextHopKind::Stack as u8,
    };
    let ip_sum = Sum::default().add16(unwrapped.ip_sum);
    F::readdress(view, ip_sum, next_hop, unicast)
}

/// Puts the destination and its port into the transport header's checksum, and the port into the
/// header (RFC 5058 section 10.1).
#[inline(always)]
fn fix_transport<F: Family>(
    view: View,
    plan: &Plan<F>,
    address: F::Address,
    port: Option<Be16>,
    begun: u16,
) -> Option<()> {
    let checksum_at = fresh(&plan.checksum_at) as usize & CHECKSUM_AT_MASK;
    if checksum_at == 0 {
        return Some(());
    }
    let mut sum = address.add_to(Sum::default().add16(begun));
    if let Some(port) = port
        && plan.protocol != transport::ICMPV6
    {
        let old = view.be16(F::XCAST_AT + 2)?;
        sum = sum.sub16(old.memory()).add16(port.memory());
        view.set_be16(F::XCAST_AT + 2, port)?;
    }
    if begun == 0 {
        return Some(());
    }
    let mut fixed = !sum.fold_few();
    if plan.protocol == transport::UDP && fixed == 0 {
        fixed = 0xffff;
    }
    let field = view.skip(checksum_at).window::<2>(F::XCAST_AT)?;
    field.set_u16(0, fixed);
    Some(())
}

/// Prune by truncation: only the branch's own destinations stay in the list.
#[inline(always)]
fn truncate<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    let b = b as usize;
    let count = u32::from(fresh(&plan.branches[b].len));
    let flags = fresh(&plan.flags);
    let cut = u32::from(plan.header_len).checked_sub(F::header_len(count, flags))?;
    let mut sum = F::shorten(frame, plan, next_hop, settings, count, cut)?;

    let before = plan.before();
    let view = F::xcast(frame.view(), before);
    for word in 0..4 {
        if word < F::bitmap_words(count) {
            let bits = Be32::new(leading_ones(count.saturating_sub(32 * word)));
            view.set_be32(F::BITMAP + 4 * word as usize, bits)?;
            sum = sum.add32(bits.memory());
        }
    }
    // A new view for every list: what the verifier learned about the old one's range would be
    // another difference between cases.
    sum = write_addresses(F::xcast(frame.view(), before), plan, b, sum)?;
    if plan.has(FLAG_D) {
        sum = write_ds(F::xcast(frame.view(), before), plan, b, sum)?;
    }
    if plan.has(FLAG_P) {
        sum = write_ports(F::xcast(frame.view(), before), plan, b, settings, sum)?;
    }
    let view = F::xcast(frame.view(), before);
    view.set_be16(F::CHECKSUM, Be16::from_memory(sum.checksum()))
}

#[inline(always)]
fn write_addresses<F: Family>(view: View, plan: &Plan<F>, b: usize, sum: Sum) -> Option<Sum> {
    let mut sum = sum;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..F::MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let list = addresses_at::<F>(count as u8);
        let at = count as usize - 1 - k;
        destination
            .address
            .write(view, list + F::Address::LEN * at)?;
        sum = destination.address.add_to(sum);
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}

#[inline(always)]
fn write_ds<F: Family>(view: View, plan: &Plan<F>, b: usize, sum: Sum) -> Option<Sum> {
    let mut sum = sum;
    let count = u32::from(fresh(&plan.branches[b].len));
    F::pad_ds(view, ds_at::<F>(count as u8), count)?;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..F::MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let list = ds_at::<F>(count as u8);
        let at = count as usize - 1 - k;
        view.set_u8(list + at, destination.ds)?;
        // In memory an octet at an odd place is the other half of its 16-bit word.
        let shift = 8 * (at & 1) as u32;
        sum = sum.add32(u32::from(u16::from_ne_bytes([destination.ds, 0])) << shift);
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}

#[inline(always)]
fn write_ports<F: Family>(
    view: View,
    plan: &Plan<F>,
    b: usize,
    settings: &Settings,
    sum: Sum,
) -> Option<Sum> {
    let mut sum = sum;
    let count = u32::from(fresh(&plan.branches[b].len));
    F::begin_ports(view, plan, settings, count)?;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..F::MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let list = F::ports_at(count, fresh(&plan.flags));
        let at = count as usize - 1 - k;
        view.set_be16(list + 2 * at, destination.port)?;
        if F::PORTS_CHECKED {
            sum = sum.add16(destination.port.memory());
        }
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}

/// Prune by bitmap: the list stays, the bits of other branches' destinations go; with A set their
/// entries are zeroed too.
#[inline(always)]
fn clear_bits<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    F::pass_on(frame.view(), plan, next_hop, settings)?;
    plan.kept = [0; 4];
    mark(plan, b);
    let before = plan.before();
    if plan.has(FLAG_A) {
        anonymise(F::xcast(frame.view(), before), plan)?;
    }
    write_bitmap(F::xcast(frame.view(), before), plan)
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
fn anonymise<F: Family>(view: View, plan: &Plan<F>) -> Option<()> {
    for i in 0..F::MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.dest_count));
        if i >= count as usize {
            break;
        }
        if plan.kept[i >> 5] & bit(i) != 0 {
            continue;
        }
        let flags = fresh(&plan.flags);
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
fn write_bitmap<F: Family>(view: View, plan: &Plan<F>) -> Option<()> {
    let count = fresh(&plan.dest_count);
    let flags = fresh(&plan.flags);
    for word in 0..4 {
        if (word as u32) < F::bitmap_words(u32::from(count)) {
            view.set_be32(F::BITMAP + 4 * word, Be32::new(plan.kept[word]))?;
        }
    }
    F::tidy(view, count, flags)?;
    let words = F::checked_words(u32::from(count), flags);
    let sum = match F::PORTS_CHECKED {
        true => sum_words::<{ V4::MAX_CHECKED_WORDS }>(view, F::XCAST_AT, words)?,
        false => sum_words::<{ V6::MAX_CHECKED_WORDS }>(view, F::XCAST_AT, words)?,
    };
    view.set_be16(F::CHECKSUM, Be16::from_memory(sum.checksum()))
}
