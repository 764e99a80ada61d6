//! Turn one copy of the frame into what its branch asks for.
//!
//! A copy arrives here as the whole frame. It leaves as ordinary unicast (X2U, RFC 5058 section
//! 6), as an Xcast packet with a shorter list, or as an Xcast packet with the same list and fewer
//! bits. Lists are written from the plan, last destination first, and end where the payload
//! begins; so nothing that is still to be read is ever overwritten.

use crate::{
    checksum::{Sum, sum_words, update},
    maps::{NextHop, NextHopKind, Prune, Settings},
    plan::{DESTINATION_SLOTS, NONE, Plan, bit, fresh, leading_ones},
    view::{Frame, View},
    wire::{
        Be16, Be32, ETH_LEN, FLAG_A, FLAG_D, FLAG_P, FLAG_X, IPV4_LEN, MAX_DESTINATIONS, XCAST_AT,
        bitmap_words, ds_words, eth, header_words, ipv4, transport, xcast,
    },
};

/// What a copy became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ordinary unicast to the one destination that was left.
    Unicast,
    /// Still an Xcast packet.
    Xcast,
}

/// Rewrites the frame for branch `b` of `plan`, to leave by `next_hop`. `None` if the frame has no
/// room for it; it must be dropped then.
#[inline(always)]
pub fn emit(
    frame: &mut impl Frame,
    plan: &mut Plan,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<Form> {
    let to_stack = next_hop.kind == NextHopKind::Stack as u8;
    let single = fresh(&plan.branches[b as usize].len) == 1;
    if single && (to_stack || !plan.has(FLAG_X)) {
        to_unicast(frame, plan, b, next_hop, settings)?;
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
pub fn emit_rest(frame: &mut impl Frame, plan: &mut Plan) -> Option<()> {
    plan.kept = [0; 4];
    for i in 0..MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        if plan.stays(i) {
            plan.kept[i >> 5] |= bit(i);
        }
    }
    write_bitmap(frame.view(), plan)
}

/// Fields of the arriving headers that copies inherit.
struct Inherited {
    identification_and_fragment: Be32,
    ds: u8,
    ttl: u8,
    source: Be32,
    destination: Be32,
}

impl Inherited {
    #[inline(always)]
    fn read(view: View) -> Option<Self> {
        Some(Self {
            identification_and_fragment: view.be32(ETH_LEN + 4)?,
            ds: view.u8(ipv4::DS)?,
            ttl: view.u8(ipv4::TTL)?,
            source: view.be32(ipv4::SOURCE)?,
            destination: view.be32(ipv4::DESTINATION)?,
        })
    }

    /// Writes Ethernet and IPv4 header at the frame's start.
    #[inline(always)]
    fn write(&self, view: View, next_hop: &NextHop, total_len: u16, protocol: u8) -> Option<()> {
        view.at::<XCAST_AT>(0)?;
        let destination = &next_hop.destination_mac;
        let source = &next_hop.source_mac;
        let word = |mac: &[u8; 6], at: usize| u16::from_ne_bytes([mac[at], mac[at + 1]]);
        for at in [0, 2, 4] {
            view.set_be16(
                eth::DESTINATION + at,
                Be16::from_memory(word(destination, at)),
            )?;
            view.set_be16(eth::SOURCE + at, Be16::from_memory(word(source, at)))?;
        }
        view.set_be16(eth::ETHER_TYPE, Be16::new(eth::TYPE_IPV4))?;

        let first = Be32::new(0x4500_0000 | u32::from(self.ds) << 16 | u32::from(total_len));
        let ttl_and_protocol = Be16::new(u16::from(self.ttl) << 8 | u16::from(protocol));
        let sum = Sum::default()
            .add32(first.memory())
            .add32(self.identification_and_fragment.memory())
            .add16(ttl_and_protocol.memory())
            .add32(self.source.memory())
            .add32(self.destination.memory());
        view.set_be32(ETH_LEN, first)?;
        view.set_be32(ETH_LEN + 4, self.identification_and_fragment)?;
        view.set_be16(ipv4::TTL, ttl_and_protocol)?;
        view.set_be16(ipv4::CHECKSUM, Be16::from_memory(sum.checksum()))?;
        view.set_be32(ipv4::SOURCE, self.source)?;
        view.set_be32(ipv4::DESTINATION, self.destination)
    }
}

/// X2U: the Xcast header goes, the one destination takes the group's place.
#[inline(always)]
fn to_unicast(
    frame: &mut impl Frame,
    plan: &mut Plan,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    let i = plan.branches[b as usize].last as usize % DESTINATION_SLOTS;
    let view = frame.view();
    let mut inherited = Inherited::read(view)?;
    inherited.destination = plan.destinations[i].address;
    if plan.has(FLAG_D) {
        inherited.ds = plan.destinations[i].ds & 0xfc | inherited.ds & 0x03;
    }
    if next_hop.kind != NextHopKind::Stack as u8 {
        inherited.ttl = inherited.ttl.wrapping_sub(1);
    }
    let protocol = view.u8(xcast::PROTOCOL)?;
    let port = plan.has(FLAG_P).then_some(plan.destinations[i].port);
    fix_transport(
        view,
        plan,
        protocol,
        settings.group,
        plan.destinations[i].address,
        port,
    )?;

    let header_len = plan.header_len;
    if !frame.adjust_head(i32::from(header_len)) {
        return None;
    }
    inherited.write(
        frame.view(),
        next_hop,
        plan.total_len - header_len,
        protocol,
    )
}

/// Puts the destination and its port into the transport header's checksum, and the port into the
/// header (RFC 5058 section 10.1). The source computed the checksum with the group as destination.
#[inline(always)]
fn fix_transport(
    view: View,
    plan: &Plan,
    protocol: u8,
    group: Be32,
    address: Be32,
    port: Option<Be16>,
) -> Option<()> {
    let checksum_at = match protocol {
        transport::UDP | transport::UDP_LITE | transport::DCCP => 6,
        transport::TCP => 16,
        // No pseudo header (ICMP), or a checksum that is no sum (SCTP).
        _ => return Some(()),
    };
    let header_len = plan.header_len as usize & 0x3ff;
    if (plan.total_len as usize) < IPV4_LEN + header_len + checksum_at + 2 {
        return Some(());
    }
    let at = XCAST_AT + header_len;
    let checksum = view.be16(at + checksum_at)?;
    let mut sum = update(checksum.memory())
        .sub32(group.memory())
        .add32(address.memory());
    if let Some(port) = port {
        sum = sum.sub16(view.be16(at + 2)?.memory()).add16(port.memory());
        view.set_be16(at + 2, port)?;
    }
    let mut fixed = sum.checksum();
    if protocol == transport::UDP {
        if checksum.memory() == 0 {
            return Some(());
        }
        if fixed == 0 {
            fixed = 0xffff;
        }
    }
    view.set_be16(at + checksum_at, Be16::from_memory(fixed))
}

/// Prune by truncation: only the branch's own destinations stay in the list.
#[inline(always)]
fn truncate(
    frame: &mut impl Frame,
    plan: &mut Plan,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    let b = b as usize;
    let count = u32::from(fresh(&plan.branches[b].len));
    let flags = fresh(&plan.flags);
    let words = header_words(count, flags);
    let cut = u32::from(plan.header_len).checked_sub(4 * words)?;

    let view = frame.view();
    let mut inherited = Inherited::read(view)?;
    inherited.ttl = inherited.ttl.wrapping_sub(1);
    if plan.to_own != 0 {
        inherited.destination = settings.group;
    }
    let version_flags = view.u8(xcast::VERSION_FLAGS)?;
    let channel = view.be32(xcast::CHANNEL)?;
    let protocol = view.u8(xcast::PROTOCOL)?;
    if !frame.adjust_head(cut as i32) {
        return None;
    }

    let view = frame.view();
    let total_len = plan.total_len - cut as u16;
    inherited.write(view, next_hop, total_len, settings.protocol)?;
    let first = Be16::new(u16::from(version_flags) << 8 | count as u16);
    let protocol_and_len = Be32::new(u32::from(protocol) << 24 | words << 16);
    view.set_be16(xcast::VERSION_FLAGS, first)?;
    view.set_be32(xcast::CHANNEL, channel)?;
    view.set_be32(xcast::PROTOCOL, protocol_and_len)?;
    let mut sum = Sum::default()
        .add16(first.memory())
        .add32(channel.memory())
        .add32(protocol_and_len.memory());

    for word in 0..4 {
        if word < bitmap_words(count) {
            let bits = Be32::new(leading_ones(count - 32 * word));
            view.set_be32(xcast::BITMAP + 4 * word as usize, bits)?;
            sum = sum.add32(bits.memory());
        }
    }
    // A new view for every list: what the verifier learned about the old one's range would be
    // another difference between cases.
    sum = write_addresses(frame.view(), plan, b, sum)?;
    if plan.has(FLAG_D) {
        sum = write_ds(frame.view(), plan, b, sum)?;
    }
    if plan.has(FLAG_P) {
        sum = write_ports(frame.view(), plan, b, sum)?;
    }
    let view = frame.view();
    view.set_be16(xcast::CHECKSUM, Be16::from_memory(sum.checksum()))
}

/// Where the lists of a header with `count` destinations are: addresses, DS bytes, ports.
#[inline(always)]
fn lists_at(count: u32, flags: u8) -> [usize; 3] {
    let addresses = xcast::BITMAP + 4 * bitmap_words(count) as usize;
    let ds = addresses + 4 * count as usize;
    [addresses, ds, ds + 4 * ds_words(count, flags) as usize]
}

#[inline(always)]
fn write_addresses(view: View, plan: &Plan, b: usize, sum: Sum) -> Option<Sum> {
    let mut sum = sum;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let [list, _, _] = lists_at(count, 0);
        let at = count as usize - 1 - k;
        view.set_be32(list + 4 * at, destination.address)?;
        sum = sum.add32(destination.address.memory());
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}

#[inline(always)]
fn write_ds(view: View, plan: &Plan, b: usize, sum: Sum) -> Option<Sum> {
    let mut sum = sum;
    let count = u32::from(fresh(&plan.branches[b].len));
    let [_, list, _] = lists_at(count, 0);
    // The last word may be padded. Masked, so that the verifier sees an offset that cannot wrap.
    let last = count.wrapping_sub(1) as usize & 0x7f;
    view.set_be32(list + 4 * (last >> 2), Be32::default())?;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let [_, list, _] = lists_at(count, 0);
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
fn write_ports(view: View, plan: &Plan, b: usize, sum: Sum) -> Option<Sum> {
    let mut sum = sum;
    let count = u32::from(fresh(&plan.branches[b].len));
    let [_, _, list] = lists_at(count, fresh(&plan.flags));
    let last = count.wrapping_sub(1) as usize & 0x7f;
    view.set_be32(list + 4 * (last >> 1), Be32::default())?;
    let mut i = fresh(&plan.branches[b].last) as usize;
    for k in 0..MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.branches[b].len));
        if k as u32 >= count {
            break;
        }
        let destination = &plan.destinations[i % DESTINATION_SLOTS];
        let [_, _, list] = lists_at(count, fresh(&plan.flags));
        let at = count as usize - 1 - k;
        view.set_be16(list + 2 * at, destination.port)?;
        sum = sum.add16(destination.port.memory());
        i = fresh(&destination.previous) as usize;
    }
    Some(sum)
}

/// Prune by bitmap: the list stays, the bits of other branches' destinations go; with A set their
/// entries are zeroed too.
#[inline(always)]
fn clear_bits(
    frame: &mut impl Frame,
    plan: &mut Plan,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
) -> Option<()> {
    let view = frame.view();
    let mut inherited = Inherited::read(view)?;
    inherited.ttl = inherited.ttl.wrapping_sub(1);
    if plan.to_own != 0 {
        inherited.destination = settings.group;
    }
    inherited.write(view, next_hop, plan.total_len, settings.protocol)?;
    plan.kept = [0; 4];
    mark(plan, b);
    if plan.has(FLAG_A) {
        anonymise(view, plan)?;
    }
    write_bitmap(view, plan)
}

/// Sets the bits of a branch's destinations in `plan.kept`.
#[inline(always)]
fn mark(plan: &mut Plan, b: u8) {
    let mut i = plan.branches[b as usize].last;
    for _ in 0..MAX_DESTINATIONS {
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
fn anonymise(view: View, plan: &Plan) -> Option<()> {
    for i in 0..MAX_DESTINATIONS {
        let count = u32::from(fresh(&plan.dest_count));
        if i >= count as usize {
            break;
        }
        if plan.kept[i >> 5] & bit(i) != 0 {
            continue;
        }
        let flags = fresh(&plan.flags);
        let list = xcast::BITMAP + 4 * bitmap_words(count) as usize;
        let after = list + 4 * count as usize;
        view.set_be32(list + 4 * i, Be32::default())?;
        if flags & FLAG_D != 0 {
            view.set_u8(after + i, 0)?;
        }
        if flags & FLAG_P != 0 {
            let ports = after + 4 * ds_words(count, flags) as usize;
            view.set_be16(ports + 2 * i, Be16::default())?;
        }
    }
    Some(())
}

/// Writes `plan.kept` as the bitmap, zeroes reserved fields and padding, and recomputes the
/// header's checksum.
#[inline(always)]
fn write_bitmap(view: View, plan: &Plan) -> Option<()> {
    let count = fresh(&plan.dest_count);
    let flags = fresh(&plan.flags);
    let list = xcast::BITMAP + 4 * bitmap_words(u32::from(count)) as usize;
    let after = list + 4 * count as usize;
    let ports = after + 4 * ds_words(u32::from(count), flags) as usize;
    for at in 0..3 {
        if after + count as usize + at < ports {
            view.set_u8(after + count as usize + at, 0)?;
        }
    }
    if flags & FLAG_P != 0 && count & 1 != 0 {
        view.set_be16(ports + 2 * count as usize, Be16::default())?;
    }
    for word in 0..4 {
        if (word as u32) < bitmap_words(u32::from(count)) {
            view.set_be32(xcast::BITMAP + 4 * word, Be32::new(plan.kept[word]))?;
        }
    }
    view.set_u8(xcast::DEST_COUNT, count)?;
    view.set_be16(xcast::RESERVED, Be16::default())?;
    view.set_be16(xcast::CHECKSUM, Be16::default())?;
    let words = u32::from(plan.header_len) / 4;
    let sum = sum_words(view, XCAST_AT, words)?;
    view.set_be16(xcast::CHECKSUM, Be16::from_memory(sum.checksum()))
}
