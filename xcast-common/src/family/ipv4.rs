//! Xcast4: a header of its own behind the IPv4 header (RFC 5058 section 9.2).

use super::traits::{Family, IP_START, Unicast, common_checksum_at, ethernet};
use crate::{
    maps::{counter::Counter, next_hop::NextHop, settings::Settings},
    packet::{Packet, Reject, TRUNCATED},
    verifier::fresh,
    wire::{
        DEST_COUNT_MASK, ETH_LEN, FLAG_P, IPV4_LEN, VERSION,
        checksum::{Sum, sum_ipv4, sum_words, update},
        ecn,
        endian::{Be16, Be32},
        eth,
        frame::{Frame, View, Window},
        in_ip, ipv4, transport,
        xcast4::{
            self, FIXED_LEN, MAX_DESTINATIONS, MAX_HEADER_LEN, XCAST_AT, ds_words, header_words,
        },
    },
};

/// Most 32-bit words the header's checksum covers.
const MAX_CHECKED_WORDS: u32 = MAX_HEADER_LEN as u32 / 4;

/// Xcast4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

impl Family for V4 {
    type Address = Be32;

    const VERSION: u8 = 4;
    const ETHER_TYPE: u16 = eth::TYPE_IPV4;
    const MAX_DESTINATIONS: usize = MAX_DESTINATIONS;
    const IP_LEN: usize = IPV4_LEN;
    const SOURCE: usize = ipv4::SOURCE;
    const DESTINATION: usize = ipv4::DESTINATION;
    const XCAST_AT: usize = XCAST_AT;
    const CHECKSUM: usize = xcast4::CHECKSUM;
    const BITMAP: usize = xcast4::BITMAP;
    const PORTS_CHECKED: bool = true;
    const PROTOCOL: usize = ipv4::PROTOCOL;
    const IN_IP: u8 = in_ip::IPV4;
    const ICMP: u8 = transport::ICMP;
    const LEN_MASK: usize = 0x3ff;

    #[inline(always)]
    fn group(settings: &Settings) -> Be32 {
        settings.group
    }

    /// RFC 1112 section 6.4: 01:00:5e and the group's low 23 bits.
    #[inline(always)]
    fn group_mac(settings: &Settings) -> [u8; 6] {
        let [_, b, c, d] = settings.group.value().to_be_bytes();
        [0x01, 0x00, 0x5e, b & 0x7f, c, d]
    }

    #[inline(always)]
    fn bitmap_words(count: u32) -> u32 {
        xcast4::bitmap_words(count)
    }

    #[inline(always)]
    fn header_len(count: u32, flags: u8) -> u32 {
        4 * header_words(count, flags)
    }

    #[inline(always)]
    fn checked_words(count: u32, flags: u8) -> u32 {
        header_words(count, flags)
    }

    #[inline(always)]
    fn header_sum(view: View<'_>, words: u32) -> Option<Sum> {
        sum_words::<MAX_CHECKED_WORDS>(view, XCAST_AT, words)
    }

    #[inline(always)]
    fn ports_at(count: u32, flags: u8) -> usize {
        let words = xcast4::bitmap_words(count) + count + ds_words(count, flags);
        xcast4::BITMAP + 4 * words as usize
    }

    #[inline(always)]
    fn traffic_class(view: View<'_>) -> Option<u8> {
        view.u8(ipv4::DS)
    }

    #[inline(always)]
    fn set_ecn(view: View<'_>, bits: u8) -> Option<()> {
        let header = view.window::<XCAST_AT>(0)?;
        let old = Be16::from_memory(header.u16(ipv4::VERSION_IHL));
        let new = Be16::new(old.value() & !u16::from(ecn::MASK) | u16::from(bits & ecn::MASK));
        let sum = update(header.u16(ipv4::CHECKSUM))
            .sub16(old.memory())
            .add16(new.memory());
        header.set_u16(ipv4::VERSION_IHL, new.memory());
        header.set_u16(ipv4::CHECKSUM, sum.checksum());
        Some(())
    }

    #[inline(always)]
    fn find(view: View<'_>, settings: &Settings) -> Option<u16> {
        view.at::<XCAST_AT>(0)?;
        (view.u8(ipv4::PROTOCOL)? == settings.protocol).then_some(0)
    }

    #[inline(always)]
    fn xcast_len(start: Window<'_, IP_START>, settings: &Settings) -> Option<u32> {
        let len = u16::from_be(start.u16(ipv4::TOTAL_LEN));
        (start.u8(ipv4::PROTOCOL) == settings.protocol).then_some(len.into())
    }

    #[inline(always)]
    fn may_be_nested(_content: View<'_>, _protocol: u8) -> Option<bool> {
        // Its protocol number says so.
        Some(false)
    }

    /// Echo, timestamp (RFC 792), information and address mask request (RFC 950).
    #[inline(always)]
    fn is_icmp_request(kind: u8) -> bool {
        matches!(kind, 8 | 13 | 15 | 17)
    }

    #[inline(always)]
    fn udp_at(view: View<'_>) -> Option<usize> {
        if view.u8(ipv4::PROTOCOL)? != transport::UDP {
            return None;
        }
        // Behind options, too: that it has some is found out later.
        Some(ETH_LEN + 4 * (view.u8(ipv4::VERSION_IHL)? as usize & 0xf))
    }

    #[inline(always)]
    fn is_later_fragment(view: View<'_>) -> Option<bool> {
        Some(view.be16(ipv4::FRAGMENT)?.value() & ipv4::FRAGMENT_OFFSET_MASK != 0)
    }

    #[inline(always)]
    fn total_len(view: View<'_>) -> Option<u32> {
        Some(u32::from(view.be16(ipv4::TOTAL_LEN)?.value()))
    }

    #[inline(always)]
    fn check_ip(view: View<'_>, least: usize) -> Result<u16, Reject> {
        let header = view.window::<XCAST_AT>(0).ok_or(TRUNCATED)?;
        let version_ihl = header.u8(ipv4::VERSION_IHL);
        if version_ihl >> 4 != 4 || version_ihl & 0xf < 5 {
            return Err(Reject::Drop(Counter::DropIpHeader));
        }
        if version_ihl & 0xf != 5 {
            return Err(Reject::Drop(Counter::DropIpOptions));
        }
        if sum_ipv4(header).fold() != 0xffff {
            return Err(Reject::Drop(Counter::DropIpChecksum));
        }
        if header.u16(ipv4::FRAGMENT) & ipv4::FRAGMENT_MASK.to_be() != 0 {
            return Err(Reject::Drop(Counter::DropFragment));
        }
        let total_len = u16::from_be(header.u16(ipv4::TOTAL_LEN));
        if (total_len as usize) < IPV4_LEN + least || view.len() < ETH_LEN + total_len as usize {
            return Err(TRUNCATED);
        }
        Ok(total_len)
    }

    #[inline(always)]
    fn check(view: View<'_>, _ext_len: u16, settings: &Settings) -> Result<Packet, Reject> {
        let total_len = Self::check_ip(view, FIXED_LEN)?;
        let header = view
            .window::<{ XCAST_AT + FIXED_LEN }>(0)
            .ok_or(TRUNCATED)?;
        let version_flags = header.u8(xcast4::VERSION_FLAGS);
        if version_flags >> 4 != VERSION {
            return Err(Reject::Drop(Counter::DropVersion));
        }
        let dest_count = header.u8(xcast4::DEST_COUNT) & DEST_COUNT_MASK;
        if dest_count == 0 {
            return Err(Reject::Drop(Counter::DropNoDestinations));
        }
        let len_words = header.u8(xcast4::LEN_WORDS);
        if u32::from(len_words) != header_words(u32::from(dest_count), version_flags) {
            return Err(Reject::Drop(Counter::DropLength));
        }
        if total_len < IPV4_LEN as u16 + 4 * u16::from(len_words) {
            return Err(TRUNCATED);
        }
        let sum = Self::header_sum(view, u32::from(len_words));
        if sum.ok_or(TRUNCATED)?.fold() != 0xffff {
            return Err(Reject::Drop(Counter::DropChecksum));
        }
        let protocol = header.u8(xcast4::PROTOCOL);
        if protocol == settings.protocol {
            return Err(Reject::Drop(Counter::DropNested));
        }
        Ok(Packet {
            total_len,
            header_len: 4 * u16::from(view.fresh_u8(xcast4::LEN_WORDS).ok_or(TRUNCATED)?),
            ext_len: 0,
            dest_count: view.fresh_u8(xcast4::DEST_COUNT).ok_or(TRUNCATED)? & DEST_COUNT_MASK,
            flags: version_flags & 0xf,
            ttl: header.u8(ipv4::TTL),
            protocol,
            to_own: false,
            is_verified: false,
            arrival: 0,
            to_stack: false,
        })
    }

    #[inline(always)]
    fn ext_len(_packet: &Packet) -> u16 {
        0
    }

    #[inline(always)]
    fn xcast(view: View<'_>, _ext_len: u16) -> View<'_> {
        view
    }

    #[inline(always)]
    fn behind<'a>(view: View<'a>, _ext_len: u16, _settings: &Settings) -> Option<View<'a>> {
        let header_len = 4 * view.u8(xcast4::LEN_WORDS)? as usize;
        Some(view.skip(header_len & Self::LEN_MASK))
    }

    #[inline(always)]
    fn flow(view: View<'_>, _ext_len: u16) -> Option<u64> {
        let source = u64::from(view.be32(ipv4::SOURCE)?.memory());
        Some(source << 32 | u64::from(view.be32(xcast4::CHANNEL)?.memory()))
    }

    #[inline(always)]
    fn pseudo_checksum_at(protocol: u8) -> Option<usize> {
        common_checksum_at(protocol)
    }

    #[inline(always)]
    fn strip(frame: &mut impl Frame, packet: &Packet) -> Option<Sum> {
        let cut = packet.header_len;
        let inherited = Inherited::read(frame.view())?.lowered().shortened(cut);
        if !frame.adjust_head(i32::from(cut)) {
            return None;
        }
        let window = frame.view().window(0)?;
        Some(inherited.write_all_but_destination(window, packet.protocol))
    }

    #[inline(always)]
    fn readdress(
        view: View<'_>,
        sum: Sum,
        next_hop: &NextHop,
        unicast: Unicast<Self>,
    ) -> Option<()> {
        let window = view.window::<XCAST_AT>(0)?;
        ethernet(window, next_hop, Self::ETHER_TYPE);
        let mut sum = sum.add32(unicast.address.memory());
        window.set_u32(ipv4::DESTINATION, unicast.address.memory());
        if let Some(ds) = unicast.ds {
            let old = Be16::from_memory(window.u16(ipv4::VERSION_IHL));
            let new = Be16::new(old.value() & 0xff03 | u16::from(ds & 0xfc));
            sum = sum.sub16(old.memory()).add16(new.memory());
            window.set_u16(ipv4::VERSION_IHL, new.memory());
        }
        if unicast.is_local {
            // By the difference: a TTL of 0 wrapped around.
            let old = Be16::from_memory(window.u16(ipv4::TTL));
            let new = Be16::new(old.value().wrapping_add(0x100));
            sum = sum.sub16(old.memory()).add16(new.memory());
            window.set_u16(ipv4::TTL, new.memory());
        }
        window.set_u16(ipv4::CHECKSUM, !sum.fold_few());
        Some(())
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
        let view = frame.view();
        let inherited = Inherited::read(view)?
            .passed_on(packet, settings)
            .shortened(cut as u16);
        let version_flags = view.u8(xcast4::VERSION_FLAGS)?;
        let channel = view.be32(xcast4::CHANNEL)?;
        if !frame.adjust_head(cut as i32) {
            return None;
        }

        let view = frame.view();
        let window = view.window(0)?;
        ethernet(window, next_hop, Self::ETHER_TYPE);
        inherited.write(window, settings.protocol);
        let words = header_words(count, version_flags);
        let first = Be16::new(u16::from(version_flags) << 8 | count as u16);
        let protocol_and_len = Be32::new(u32::from(packet.protocol) << 24 | words << 16);
        view.set_be16(xcast4::VERSION_FLAGS, first)?;
        view.set_be32(xcast4::CHANNEL, channel)?;
        view.set_be32(xcast4::PROTOCOL, protocol_and_len)?;
        let sum = Sum::default()
            .add16(first.memory())
            .add32(channel.memory())
            .add32(protocol_and_len.memory());
        Some(sum)
    }

    #[inline(always)]
    fn pass_on(
        view: View<'_>,
        packet: &Packet,
        next_hop: &NextHop,
        settings: &Settings,
    ) -> Option<()> {
        let inherited = Inherited::read(view)?.passed_on(packet, settings);
        let window = view.window(0)?;
        ethernet(window, next_hop, Self::ETHER_TYPE);
        inherited.write(window, settings.protocol);
        Some(())
    }

    #[inline(always)]
    fn pad_ds(view: View<'_>, list: usize, count: u32) -> Option<()> {
        // Masked, so that the verifier sees an offset that cannot wrap.
        let last = count.wrapping_sub(1) as usize & 0x7f;
        view.set_be32(list + 4 * (last >> 2), Be32::default())
    }

    #[inline(always)]
    fn begin_ports(
        view: View<'_>,
        packet: &Packet,
        _settings: &Settings,
        count: u32,
    ) -> Option<()> {
        let last = count.wrapping_sub(1) as usize & 0x7f;
        let list = Self::ports_at(count, fresh(&packet.flags));
        view.set_be32(list + 4 * (last >> 1), Be32::default())
    }

    #[inline(always)]
    fn tidy(view: View<'_>, count: u8, flags: u8) -> Option<()> {
        let list = xcast4::BITMAP + 4 * xcast4::bitmap_words(u32::from(count)) as usize;
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
        view.set_u8(xcast4::DEST_COUNT, count)?;
        view.set_be16(xcast4::RESERVED, Be16::default())?;
        view.set_be16(xcast4::CHECKSUM, Be16::default())
    }
}

/// Fields of the arriving IPv4 header that copies inherit, as they lie in memory, and its length in octets.
struct Inherited {
    total_len: u16,
    identification_and_fragment: u32,
    ds: u8,
    ttl: u8,
    source: u32,
    destination: u32,
}

impl Inherited {
    #[inline(always)]
    fn read(view: View<'_>) -> Option<Self> {
        let window = view.window::<XCAST_AT>(0)?;
        Some(Self {
            total_len: u16::from_be(window.u16(ipv4::TOTAL_LEN)),
            identification_and_fragment: window.u32(ETH_LEN + 4),
            ds: window.u8(ipv4::DS),
            ttl: window.u8(ipv4::TTL),
            source: window.u32(ipv4::SOURCE),
            destination: window.u32(ipv4::DESTINATION),
        })
    }

    /// One router further.
    #[inline(always)]
    fn lowered(mut self) -> Self {
        self.ttl = self.ttl.wrapping_sub(1);
        self
    }

    /// Without so many octets.
    #[inline(always)]
    fn shortened(mut self, octets: u16) -> Self {
        self.total_len = self.total_len.wrapping_sub(octets);
        self
    }

    /// As a copy has them that stays an Xcast packet.
    #[inline(always)]
    fn passed_on(self, packet: &Packet, settings: &Settings) -> Self {
        let mut lowered = self.lowered();
        if packet.to_own {
            lowered.destination = settings.group.memory();
        }
        lowered
    }

    /// Writes an IPv4 header.
    #[inline(always)]
    fn write(&self, window: Window<'_, XCAST_AT>, protocol: u8) {
        let sum = self
            .write_all_but_destination(window, protocol)
            .add32(self.destination);
        window.set_u16(ipv4::CHECKSUM, sum.checksum());
        window.set_u32(ipv4::DESTINATION, self.destination);
    }

    /// Writes everything but the destination and the checksum, which goes with it; returns the sum so far.
    #[inline(always)]
    fn write_all_but_destination(&self, window: Window<'_, XCAST_AT>, protocol: u8) -> Sum {
        let first = Be32::new(0x4500_0000 | u32::from(self.ds) << 16 | u32::from(self.total_len));
        let ttl_and_protocol = Be16::new(u16::from(self.ttl) << 8 | u16::from(protocol));
        window.set_u32(ETH_LEN, first.memory());
        window.set_u32(ETH_LEN + 4, self.identification_and_fragment);
        window.set_u16(ipv4::TTL, ttl_and_protocol.memory());
        window.set_u32(ipv4::SOURCE, self.source);
        Sum::default()
            .add32(first.memory())
            .add32(self.identification_and_fragment)
            .add16(ttl_and_protocol.memory())
            .add32(self.source)
    }
}
