//! Xcast6: a routing header, and the ports in a destination options header behind it (RFC 5058
//! section 9.3). Offsets are in [`wire::xcast6`](crate::wire::xcast6).

use super::traits::{Family, IP_START, Unicast, common_checksum_at, ethernet};
use crate::{
    maps::{counter::Counter, next_hop::NextHop, settings::Settings},
    packet::{Packet, Reject, TRUNCATED},
    verifier::fresh,
    wire::{
        DEST_COUNT_MASK, ETH_LEN, FLAG_D, FLAG_P, VERSION,
        address::Address as _,
        checksum::{Sum, sum_words},
        ecn,
        endian::{Be16, Be128},
        eth,
        frame::{Frame, View, Window},
        in_ip, ipv6, transport,
        xcast6::{self, FIXED_LEN, MAX_DESTINATIONS, MAX_HEADER_LEN, XCAST_AT},
    },
};

/// Most 32-bit words the header's checksum covers.
const MAX_CHECKED_WORDS: u32 = MAX_HEADER_LEN / 4;

/// Xcast6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

/// Headers that may come before the routing header, at most.
const MAX_EXT_HEADERS: usize = 4;
/// Their length in octets, as a mask: a multiple of eight.
const EXT_LEN_MASK: usize = 0x7f8;
/// In [`Packet::ext_len`]: one of the headers is that of a fragment.
const IS_FRAGMENT: u16 = 1;

/// Whether a header is a routing header, or one that may come before it in a packet that is taken for Xcast6.
#[inline(always)]
fn is_before_routing(header: u8) -> bool {
    // One question instead of three, each with an answer of its own.
    const HEADERS: u64 =
        1 << ipv6::ROUTING_HEADER | 1 << ipv6::HOP_BY_HOP_OPTIONS | 1 << ipv6::DESTINATION_OPTIONS;
    header < u64::BITS as u8 && HEADERS >> header & 1 != 0
}

impl Family for V6 {
    type Address = Be128;

    const VERSION: u8 = 6;
    const ETHER_TYPE: u16 = eth::TYPE_IPV6;
    const MAX_DESTINATIONS: usize = MAX_DESTINATIONS;
    const IP_LEN: usize = ipv6::LEN;
    const SOURCE: usize = ipv6::SOURCE;
    const DESTINATION: usize = ipv6::DESTINATION;
    const XCAST_AT: usize = XCAST_AT;
    const CHECKSUM: usize = xcast6::CHECKSUM;
    const BITMAP: usize = xcast6::BITMAP;
    const PORTS_CHECKED: bool = false;
    const PROTOCOL: usize = ipv6::NEXT_HEADER;
    const IN_IP: u8 = in_ip::IPV6;
    const ICMP: u8 = transport::ICMPV6;
    const LEN_MASK: usize = 0xff8;

    #[inline(always)]
    fn group(settings: &Settings) -> Be128 {
        settings.group6
    }

    /// RFC 2464 section 7: 33:33 and the group's low 32 bits.
    #[inline(always)]
    fn group_mac(settings: &Settings) -> [u8; 6] {
        let [a, b, c, d] = settings.group6.low32().to_be_bytes();
        [0x33, 0x33, a, b, c, d]
    }

    #[inline(always)]
    fn bitmap_words(count: u32) -> u32 {
        (count + 63) >> 6 << 1
    }

    #[inline(always)]
    fn header_len(count: u32, flags: u8) -> u32 {
        let ports = match flags & FLAG_P {
            0 => 0,
            _ => xcast6::ports_units(count),
        };
        8 * (xcast6::routing_units(count, flags) + ports)
    }

    #[inline(always)]
    fn checked_words(count: u32, flags: u8) -> u32 {
        2 * xcast6::routing_units(count, flags)
    }

    #[inline(always)]
    fn header_sum(view: View<'_>, words: u32) -> Option<Sum> {
        sum_words::<MAX_CHECKED_WORDS>(view, XCAST_AT, words)
    }

    #[inline(always)]
    fn ports_at(count: u32, flags: u8) -> usize {
        XCAST_AT + 8 * xcast6::routing_units(count, flags) as usize + xcast6::ports::LIST
    }

    #[inline(always)]
    fn traffic_class(view: View<'_>) -> Option<u8> {
        Some((view.be16(ipv6::VERSION_CLASS_FLOW)?.value() >> 4) as u8)
    }

    #[inline(always)]
    fn set_ecn(view: View<'_>, bits: u8) -> Option<()> {
        let octet = view.u8(ipv6::VERSION_CLASS_FLOW + 1)?;
        let octet = octet & !(ecn::MASK << 4) | (bits & ecn::MASK) << 4;
        view.set_u8(ipv6::VERSION_CLASS_FLOW + 1, octet)
    }

    #[inline(always)]
    fn find(view: View<'_>, settings: &Settings) -> Option<u16> {
        view.at::<XCAST_AT>(0)?;
        if settings.ipv6 == 0 {
            return None;
        }
        let mut next = view.u8(ipv6::NEXT_HEADER)?;
        let mut ext_len = 0;
        let mut fragment = 0;
        for _ in 0..=MAX_EXT_HEADERS {
            let header = view.skip(ext_len & EXT_LEN_MASK);
            let len = match next {
                ipv6::ROUTING_HEADER => {
                    let is_xcast = header.u8(xcast6::ROUTING_TYPE)? == settings.routing_type;
                    return is_xcast.then_some(ext_len as u16 | fragment);
                }
                ipv6::HOP_BY_HOP_OPTIONS | ipv6::DESTINATION_OPTIONS => {
                    8 * (header.u8(xcast6::LEN_UNITS)? as usize + 1)
                }
                ipv6::FRAGMENT_HEADER => {
                    fragment = IS_FRAGMENT;
                    8
                }
                _ => return None,
            };
            next = header.u8(xcast6::NEXT_HEADER)?;
            ext_len += len;
            if ext_len > EXT_LEN_MASK {
                return None;
            }
        }
        None
    }

    /// The headers that may come before the Xcast header, and that itself: anything else cannot be Xcast6.
    #[inline(always)]
    fn xcast_len(start: Window<'_, IP_START>, settings: &Settings) -> Option<u32> {
        let len = ipv6::LEN as u32 + u32::from(u16::from_be(start.u16(ipv6::PAYLOAD_LEN)));
        let may_be = is_before_routing(start.u8(ipv6::NEXT_HEADER)) && settings.ipv6 != 0;
        may_be.then_some(len)
    }

    /// Options, with another header behind them that may be a routing header.
    #[inline(always)]
    fn may_be_nested(content: View<'_>, protocol: u8) -> Option<bool> {
        let is_options =
            protocol == ipv6::HOP_BY_HOP_OPTIONS || protocol == ipv6::DESTINATION_OPTIONS;
        Some(is_options && is_before_routing(content.u8(ETH_LEN)?))
    }

    /// Echo request (RFC 4443) and node information query (RFC 4620).
    #[inline(always)]
    fn is_icmp_request(kind: u8) -> bool {
        matches!(kind, 128 | 139)
    }

    #[inline(always)]
    fn udp_at(view: View<'_>) -> Option<usize> {
        (view.u8(ipv6::NEXT_HEADER)? == transport::UDP).then_some(XCAST_AT)
    }

    #[inline(always)]
    fn is_later_fragment(_view: View<'_>) -> Option<bool> {
        // Its header would come before that of UDP.
        Some(false)
    }

    #[inline(always)]
    fn total_len(view: View<'_>) -> Option<u32> {
        Some(ipv6::LEN as u32 + u32::from(view.be16(ipv6::PAYLOAD_LEN)?.value()))
    }

    #[inline(always)]
    fn check_ip(view: View<'_>, least: usize) -> Result<u16, Reject> {
        if view.u8(ipv6::VERSION_CLASS_FLOW).ok_or(TRUNCATED)? >> 4 != 6 {
            return Err(Reject::Drop(Counter::DropIpHeader));
        }
        let payload_len = view.be16(ipv6::PAYLOAD_LEN).ok_or(TRUNCATED)?.value() as usize;
        let total_len = ipv6::LEN + payload_len;
        if payload_len < least || view.len() < ETH_LEN + total_len || total_len > 0xffff {
            return Err(TRUNCATED);
        }
        Ok(total_len as u16)
    }

    #[inline(always)]
    fn check(view: View<'_>, ext_len: u16, settings: &Settings) -> Result<Packet, Reject> {
        if view.u8(ipv6::VERSION_CLASS_FLOW).ok_or(TRUNCATED)? >> 4 != 6 {
            return Err(Reject::Drop(Counter::DropIpHeader));
        }
        if ext_len & IS_FRAGMENT != 0 {
            return Err(Reject::Drop(Counter::DropFragment));
        }
        let ext_len = ext_len as usize & EXT_LEN_MASK;
        let total_len = Self::check_ip(view, ext_len + FIXED_LEN)?;
        let rest = total_len as usize - ipv6::LEN - ext_len;

        let header = view.skip(ext_len);
        if header.u8(xcast6::SEGMENTS_LEFT).ok_or(TRUNCATED)? != 0 {
            return Err(Reject::Drop(Counter::DropSegmentsLeft));
        }
        let version_flags = header.u8(xcast6::VERSION_FLAGS).ok_or(TRUNCATED)?;
        if version_flags >> 4 != VERSION {
            return Err(Reject::Drop(Counter::DropVersion));
        }
        let dest_count = header.u8(xcast6::DEST_COUNT).ok_or(TRUNCATED)? & DEST_COUNT_MASK;
        if dest_count == 0 {
            return Err(Reject::Drop(Counter::DropNoDestinations));
        }
        let units = u32::from(header.u8(xcast6::LEN_UNITS).ok_or(TRUNCATED)?) + 1;
        if units != xcast6::routing_units(u32::from(dest_count), version_flags) {
            return Err(Reject::Drop(Counter::DropLength));
        }
        let routing_len = 8 * units as usize;
        if rest < routing_len {
            return Err(TRUNCATED);
        }
        let sum = Self::header_sum(header, 2 * units);
        if sum.ok_or(TRUNCATED)?.fold() != 0xffff {
            return Err(Reject::Drop(Counter::DropChecksum));
        }

        let mut protocol = header.u8(xcast6::NEXT_HEADER).ok_or(TRUNCATED)?;
        let mut flags = version_flags & !FLAG_P & 0xf;
        let mut header_len = routing_len;
        if protocol == ipv6::DESTINATION_OPTIONS {
            if rest < routing_len + 8 {
                return Err(TRUNCATED);
            }
            let ports = header.skip(routing_len & Self::LEN_MASK);
            let ports = ports.window::<{ XCAST_AT + 8 }>(0).ok_or(TRUNCATED)?;
            if ports.u8(XCAST_AT + xcast6::ports::OPTION_TYPE) == settings.ports_option {
                let units = xcast6::ports_units(u32::from(dest_count));
                let stated = ports.u8(XCAST_AT + xcast6::ports::LEN_UNITS);
                let octets = ports.u8(XCAST_AT + xcast6::ports::OPTION_LEN);
                if u32::from(stated) + 1 != units || octets != 2 * dest_count {
                    return Err(Reject::Drop(Counter::DropLength));
                }
                header_len += 8 * units as usize;
                if rest < header_len {
                    return Err(TRUNCATED);
                }
                protocol = ports.u8(XCAST_AT);
                flags |= FLAG_P;
            }
        }
        match protocol {
            ipv6::FRAGMENT_HEADER => return Err(Reject::Drop(Counter::DropFragment)),
            ipv6::ROUTING_HEADER => return Err(Reject::Drop(Counter::DropNested)),
            _ => {}
        }
        Ok(Packet {
            total_len,
            header_len: header_len as u16,
            ext_len: ext_len as u16,
            dest_count: header.fresh_u8(xcast6::DEST_COUNT).ok_or(TRUNCATED)? & DEST_COUNT_MASK,
            flags,
            ttl: view.u8(ipv6::HOP_LIMIT).ok_or(TRUNCATED)?,
            protocol,
            to_own: false,
            is_verified: false,
            arrival: 0,
            to_stack: false,
        })
    }

    #[inline(always)]
    fn xcast(view: View<'_>, ext_len: u16) -> View<'_> {
        view.skip(ext_len as usize & EXT_LEN_MASK)
    }

    #[inline(always)]
    fn behind<'a>(view: View<'a>, ext_len: u16, settings: &Settings) -> Option<View<'a>> {
        let header = Self::xcast(view, ext_len);
        let routing_len = 8 * (header.u8(xcast6::LEN_UNITS)? as usize + 1);
        let behind = header.skip(routing_len & Self::LEN_MASK);
        let next = header.u8(xcast6::NEXT_HEADER)?;
        let ports = behind.window::<{ XCAST_AT + 8 }>(0)?;
        // Without a branch, which the verifier would follow to the end of the program.
        let has_ports = (next == ipv6::DESTINATION_OPTIONS)
            & (ports.u8(XCAST_AT + xcast6::ports::OPTION_TYPE) == settings.ports_option);
        let ports_len = 8 * (ports.u8(XCAST_AT + xcast6::ports::LEN_UNITS) as usize + 1);
        Some(behind.skip((has_ports as usize * ports_len) & Self::LEN_MASK))
    }

    #[inline(always)]
    fn flow(view: View<'_>, ext_len: u16) -> Option<u64> {
        // The flow label is the source's own hash of what makes a flow (RFC 6437).
        let label = view.be32(ipv6::VERSION_CLASS_FLOW)?.value() & 0xf_ffff;
        let mut flow = u64::from(label) << 32;
        let header = Self::xcast(view, ext_len);
        for at in [0, 8] {
            flow ^= view.be64_memory(ipv6::SOURCE + at)?.rotate_left(at as u32);
            flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            flow ^= header.be64_memory(xcast6::CHANNEL + at)?;
        }
        Some(flow)
    }

    #[inline(always)]
    fn pseudo_checksum_at(protocol: u8) -> Option<usize> {
        match protocol {
            transport::ICMPV6 => Some(2),
            _ => common_checksum_at(protocol),
        }
    }

    #[inline(always)]
    fn strip(frame: &mut impl Frame, packet: &Packet) -> Option<Sum> {
        let cut = (Self::ext_len(packet) as usize & EXT_LEN_MASK)
            + (packet.header_len as usize & Self::LEN_MASK);
        let view = frame.view();
        shift_ip_header(view, view.skip(cut))?;
        if !frame.adjust_head(cut as i32) {
            return None;
        }
        let window = frame.view().window::<XCAST_AT>(0)?;
        shorten_payload(window, cut);
        window.set_u8(ipv6::NEXT_HEADER, packet.protocol);
        lower_hop_limit(window);
        Some(Sum::default())
    }

    #[inline(always)]
    fn readdress(
        view: View<'_>,
        _sum: Sum,
        next_hop: &NextHop,
        unicast: Unicast<Self>,
    ) -> Option<()> {
        let window = view.window::<XCAST_AT>(0)?;
        ethernet(window, next_hop, Self::ETHER_TYPE);
        if let Some(ds) = unicast.ds {
            // The DS field is split over two octets.
            let first = window.u8(ipv6::VERSION_CLASS_FLOW);
            let second = window.u8(ipv6::VERSION_CLASS_FLOW + 1);
            window.set_u8(ipv6::VERSION_CLASS_FLOW, first & 0xf0 | ds >> 4);
            let low = ds << 4 & 0xc0 | second & 0x3f;
            window.set_u8(ipv6::VERSION_CLASS_FLOW + 1, low);
        }
        if unicast.is_local {
            let hop_limit = window.u8(ipv6::HOP_LIMIT).wrapping_add(1);
            window.set_u8(ipv6::HOP_LIMIT, hop_limit);
        }
        unicast.address.write(view, ipv6::DESTINATION)
    }

    #[inline(always)]
    fn shorten(
        frame: &mut impl Frame,
        packet: &Packet,
        next_hop: &NextHop,
        settings: &Settings,
        count: u32,
        cut: u32,
    ) -> Option<Sum> {
        let cut = cut as usize & Self::LEN_MASK;
        let view = frame.view();
        let header = Self::xcast(view, Self::ext_len(packet));
        let to = header.skip(cut);
        shift(header, to, XCAST_AT + 16)?;
        shift(header, to, XCAST_AT + 8)?;
        shift(header, to, XCAST_AT)?;
        for word in 0..EXT_LEN_MASK / 8 {
            let ext_len = Self::ext_len(packet) as usize & EXT_LEN_MASK;
            if 8 * word >= ext_len {
                break;
            }
            let at = ext_len.wrapping_sub(8 * (word + 1)) & EXT_LEN_MASK;
            let from = view.skip(at);
            shift(from, from.skip(cut), XCAST_AT)?;
        }
        shift_ip_header(view, view.skip(cut))?;
        if !frame.adjust_head(cut as i32) {
            return None;
        }

        let view = frame.view();
        Self::pass_on(view, packet, next_hop, settings)?;
        shorten_payload(view.window(0)?, cut);
        let header = Self::xcast(view, Self::ext_len(packet));
        let flags = fresh(&packet.flags);
        let units = xcast6::routing_units(count, flags);
        header.set_u8(xcast6::LEN_UNITS, (units - 1) as u8)?;
        header.set_u8(xcast6::VERSION_FLAGS, VERSION << 4 | flags & !FLAG_P)?;
        header.set_u8(xcast6::DEST_COUNT, count as u8)?;
        header.set_be16(xcast6::CHECKSUM, Be16::default())?;
        let sum = Sum::default()
            .add64(header.be64_memory(XCAST_AT)?)
            .add64(header.be64_memory(XCAST_AT + 8)?)
            .add64(header.be64_memory(XCAST_AT + 16)?);
        Some(sum)
    }

    #[inline(always)]
    fn pass_on(
        view: View<'_>,
        packet: &Packet,
        next_hop: &NextHop,
        settings: &Settings,
    ) -> Option<()> {
        let window = view.window::<XCAST_AT>(0)?;
        ethernet(window, next_hop, Self::ETHER_TYPE);
        lower_hop_limit(window);
        if packet.to_own {
            settings.group6.write(view, ipv6::DESTINATION)?;
        }
        Some(())
    }

    #[inline(always)]
    fn pad_ds(view: View<'_>, list: usize, count: u32) -> Option<()> {
        let last = count.wrapping_sub(1) as usize & 0x7f;
        view.set_be64_memory(list + 8 * (last >> 3), 0)
    }

    #[inline(always)]
    fn begin_ports(view: View<'_>, packet: &Packet, settings: &Settings, count: u32) -> Option<()> {
        let units = xcast6::ports_units(count) & 0x3f;
        let at = Self::ports_at(count, fresh(&packet.flags)) - xcast6::ports::LIST;
        view.set_be64_memory(at + 8 * (units.wrapping_sub(1) as usize & 0x3f), 0)?;
        view.set_u8(at, packet.protocol)?;
        view.set_u8(at + xcast6::ports::LEN_UNITS, units.wrapping_sub(1) as u8)?;
        view.set_u8(at + xcast6::ports::OPTION_TYPE, settings.ports_option)?;
        view.set_u8(at + xcast6::ports::OPTION_LEN, 2 * count as u8)
    }

    #[inline(always)]
    fn tidy(view: View<'_>, count: u8, flags: u8) -> Option<()> {
        let destinations = u32::from(count);
        let ds = xcast6::BITMAP
            + 4 * Self::bitmap_words(destinations) as usize
            + Be128::LEN * count as usize;
        let routing_end = XCAST_AT + 8 * xcast6::routing_units(destinations, flags) as usize;
        for at in 0..7 {
            let octet = ds + count as usize + at;
            if flags & FLAG_D != 0 && octet < routing_end {
                view.set_u8(octet, 0)?;
            }
        }
        if flags & FLAG_P != 0 {
            let after = routing_end + xcast6::ports::LIST + 2 * count as usize;
            let end = routing_end + 8 * xcast6::ports_units(destinations) as usize;
            for at in 0..3 {
                if after + 2 * at < end {
                    view.set_be16(after + 2 * at, Be16::default())?;
                }
            }
        }
        view.set_u8(xcast6::VERSION_FLAGS, VERSION << 4 | flags & !FLAG_P)?;
        view.set_u8(xcast6::DEST_COUNT, count)?;
        view.set_be16(xcast6::CHECKSUM, Be16::default())
    }
}

/// Copies the IPv6 header to the same place of another view, which may begin within it: the last
/// octets first. Without a loop, from which LLVM would make one comparison of lengths.
#[inline(always)]
fn shift_ip_header(from: View<'_>, to: View<'_>) -> Option<()> {
    shift(from, to, ETH_LEN + 32)?;
    shift(from, to, ETH_LEN + 24)?;
    shift(from, to, ETH_LEN + 16)?;
    shift(from, to, ETH_LEN + 8)?;
    shift(from, to, ETH_LEN)
}

/// Copies the eight octets at `at` to the same place of another view.
#[inline(always)]
fn shift(from: View<'_>, to: View<'_>, at: usize) -> Option<()> {
    to.set_be64_memory(at, from.be64_memory(at)?)
}

#[inline(always)]
fn shorten_payload(window: Window<'_, XCAST_AT>, octets: usize) {
    let len = u16::from_be(window.u16(ipv6::PAYLOAD_LEN)).wrapping_sub(octets as u16);
    window.set_u16(ipv6::PAYLOAD_LEN, len.to_be());
}

#[inline(always)]
fn lower_hop_limit(window: Window<'_, XCAST_AT>) {
    window.set_u8(ipv6::HOP_LIMIT, window.u8(ipv6::HOP_LIMIT).wrapping_sub(1));
}
