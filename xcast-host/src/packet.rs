//! Builds Xcast packets around UDP (RFC 5058 sections 9.2, 9.3 and 11), of IPv4 or IPv6.
//!
//! Every checksum is filled in here, because a network card asked to do it would look for UDP where
//! the Xcast header is.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Deref,
};

use thiserror::Error;
use xcast_common::wire::{
    FLAG_A, FLAG_D, FLAG_P, FLAG_X, IPV4_LEN, VERSION,
    checksum::Sum,
    ipv6, transport,
    xcast4::{MAX_DESTINATIONS, header_words},
    xcast6,
};

use crate::code_points::CodePoints;

/// Length of a UDP header, in octets.
pub const UDP_LEN: usize = 8;

/// Most destinations of an Xcast6 packet that has a DS byte for each.
const MAX_DESTINATIONS_WITH_DS: usize = 118;

/// Largest DSCP: it has six bits.
pub const MAX_DSCP: u8 = 63;

/// One entry of the destination list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where the payload is to go.
    pub address: IpAddr,
    /// To which UDP port.
    pub port: u16,
    /// With which DSCP; [`Template::dscp`] unless given.
    pub dscp: Option<u8>,
}

/// What the packets of a source have in common: everything but destinations and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Numbers that mark a packet as Xcast.
    pub code_points: CodePoints,
    /// IP source; its family is the packet's.
    pub source: IpAddr,
    /// IP destination: the group, or an address of a router.
    pub to: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP of the packet itself, 0 to 63.
    pub dscp: u8,
    /// CHANNEL IDENTIFIER; 0 for none.
    pub channel: u32,
    /// X: it must stay an Xcast packet end to end.
    pub x: bool,
    /// A: routers zero the addresses of destinations that left the list.
    pub anonymous: bool,
    /// UDP source port.
    pub source_port: u16,
    /// Lists ports (P) even if all entries have the same one, which the UDP header could carry.
    pub port_list: bool,
}

/// Why there is no such packet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The list is empty or has more entries than NBR_OF_DEST can express.
    #[error(
        "{0} destinations: an xcast packet names 1 to {MAX_DESTINATIONS}; split a longer list over \
         several packets"
    )]
    Destinations(usize),
    /// The list does not fit a routing header of IPv6.
    #[error(
        "{count} destinations: the length field of an xcast6 header (HdrExtLen) has room for 1 to \
         {most} {}; split a longer list over several packets",
        if *.most < xcast6::MAX_DESTINATIONS { "with a DSCP each" } else { "of them" }
    )]
    Destinations6 {
        /// How many there are.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// An address is not of the packet's family.
    #[error(
        "{0} does not go together with the source {1}: a packet has addresses of one family, so send \
         those of IPv4 and of IPv6 in packets of their own"
    )]
    Family(IpAddr, IpAddr),
    /// The network has no code points of Xcast6.
    #[error("no code points of xcast6: name the group, the routing type and the ports option")]
    NoIpv6,
    /// The DSCP has more than six bits.
    #[error("DSCP {0}: it has six bits, 0 to {MAX_DSCP}")]
    Dscp(u8),
    /// The IP length field cannot express it.
    #[error("packet of {0} octets: a packet has at most 65535, so shorten the payload")]
    TooLong(usize),
}

impl Template {
    /// The flags of the Xcast header. P and D are set where the list needs them: P only where
    /// ports differ, since one port fits the UDP header.
    pub fn flags(&self, entries: &[Entry]) -> u8 {
        let mut flags = list_flags(entries);
        for (set, flag) in [
            (self.anonymous, FLAG_A),
            (self.x, FLAG_X),
            (self.port_list, FLAG_P),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// Writes the packet from its IP header on, complete with checksums, into `packet`, whose
    /// former content is lost and whose memory is used again.
    ///
    /// # Errors
    ///
    /// See [`PacketError`]; `packet` is then left as it was.
    pub fn emit(
        &self,
        entries: &[Entry],
        payload: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), PacketError> {
        let flags = self.checked_flags(entries)?;
        let length = self.packet_len(entries.len(), flags, payload.len());
        let total_len = u16::try_from(length).map_err(|_| PacketError::TooLong(length))?;

        packet.clear();
        packet.reserve(length);
        self.emit_headers(entries, flags, transport::UDP, total_len, packet);
        // The destination is the group, whatever the IP destination is. The port is the one that all
        // entries share, or 0 where each has its own.
        let port = match flags & FLAG_P {
            0 => entries[0].port,
            _ => 0,
        };
        let group = self.code_points.group_for(self.source);
        self.emit_udp(group, port, payload, packet);
        Ok(())
    }

    /// Writes another payload into the latest packet that [`emit`](Self::emit) wrote into `packet` from
    /// this template, whose list stays. The first `headers` octets of it are those before UDP.
    ///
    /// # Errors
    ///
    /// [`PacketError::TooLong`]; `packet` is then left as it was.
    pub(crate) fn emit_again(
        &self,
        headers: usize,
        payload: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), PacketError> {
        let length = headers + UDP_LEN + payload.len();
        let total_len = u16::try_from(length).map_err(|_| PacketError::TooLong(length))?;
        packet.truncate(headers + UDP_LEN);
        if self.source.is_ipv4() {
            packet[2..4].copy_from_slice(&total_len.to_be_bytes());
            packet[10..12].fill(0);
            store_checksum(&mut packet[..IPV4_LEN], 10);
        } else {
            let payload_len = total_len - ipv6::LEN as u16;
            packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        }
        let group = self.code_points.group_for(self.source);
        self.finish_udp(group, headers, payload, packet);
        Ok(())
    }

    /// Writes the ordinary UDP datagram that serves one destination by unicast, like
    /// [`emit`](Self::emit). A kernel sends the same; this is for
    /// simulators.
    ///
    /// # Errors
    ///
    /// See [`PacketError`]; `packet` is then left as it was.
    pub fn emit_datagram(
        &self,
        entry: &Entry,
        payload: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), PacketError> {
        let ipv6 = self.source.is_ipv6();
        let dscp = entry.dscp.unwrap_or(self.dscp);
        if entry.address.is_ipv6() != ipv6 {
            return Err(PacketError::Family(entry.address, self.source));
        }
        if dscp > MAX_DSCP {
            return Err(PacketError::Dscp(dscp));
        }
        let length = datagram_overhead(ipv6) + payload.len();
        let total_len = u16::try_from(length).map_err(|_| PacketError::TooLong(length))?;

        packet.clear();
        packet.reserve(length);
        match ipv6 {
            false => self.emit_ip(entry.address, dscp, transport::UDP, total_len, packet),
            true => self.emit_ipv6(entry.address, dscp, transport::UDP, total_len, packet),
        }
        self.emit_udp(entry.address, entry.port, payload, packet);
        Ok(())
    }

    /// Writes a packet with a finished segment of another protocol, ICMP for one, from its IP header
    /// on into `packet`, like [`emit`](Self::emit). Ports are ignored, and the segment's checksum is
    /// the caller's: where it covers the IP destination, that is the group, whatever [`Template::to`]
    /// is (see [`icmpv6_checksum`]).
    ///
    /// # Errors
    ///
    /// See [`PacketError`]; `packet` is then left as it was.
    pub fn emit_segment(
        &self,
        entries: &[Entry],
        protocol: u8,
        segment: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), PacketError> {
        let flags = self.checked_flags(entries)? & !FLAG_P;
        let length = self.packet_len(entries.len(), flags, segment.len()) - UDP_LEN;
        let total_len = u16::try_from(length).map_err(|_| PacketError::TooLong(length))?;

        packet.clear();
        packet.reserve(length);
        self.emit_headers(entries, flags, protocol, total_len, packet);
        packet.extend_from_slice(segment);
        Ok(())
    }

    /// The flags, if there can be such a packet.
    fn checked_flags(&self, entries: &[Entry]) -> Result<u8, PacketError> {
        let count = entries.len();
        let addresses = entries.iter().map(|entry| entry.address);
        let mut others = addresses.chain([self.to]);
        if let Some(other) = others.find(|other| other.is_ipv6() != self.source.is_ipv6()) {
            return Err(PacketError::Family(other, self.source));
        }
        if self.source.is_ipv4() {
            if !(1..=MAX_DESTINATIONS).contains(&count) {
                return Err(PacketError::Destinations(count));
            }
        } else {
            if self.code_points.ipv6.is_none() {
                return Err(PacketError::NoIpv6);
            }
            let most = max_destinations(true, self.flags(entries));
            if !(1..=most).contains(&count) {
                return Err(PacketError::Destinations6 { count, most });
            }
        }
        let dscps = entries.iter().filter_map(|entry| entry.dscp);
        if let Some(dscp) = dscps.chain([self.dscp]).find(|dscp| *dscp > MAX_DSCP) {
            return Err(PacketError::Dscp(dscp));
        }
        Ok(self.flags(entries))
    }

    /// The packet as a vector of its own; see [`emit`](Self::emit).
    ///
    /// # Errors
    ///
    /// See [`PacketError`].
    pub fn build(&self, entries: &[Entry], payload: &[u8]) -> Result<Vec<u8>, PacketError> {
        let mut packet = Vec::new();
        self.emit(entries, payload, &mut packet)?;
        Ok(packet)
    }

    /// Length from the IP header on of a packet with `count` destinations, in octets.
    pub fn packet_len(&self, count: usize, flags: u8, payload: usize) -> usize {
        packet_len(self.source.is_ipv6(), count, flags, payload)
    }

    /// Everything before the transport header.
    fn emit_headers(
        &self,
        entries: &[Entry],
        flags: u8,
        protocol: u8,
        total_len: u16,
        packet: &mut Vec<u8>,
    ) {
        if self.source.is_ipv4() {
            self.emit_ip(
                self.to,
                self.dscp,
                self.code_points.protocol,
                total_len,
                packet,
            );
            self.emit_xcast(entries, flags, protocol, packet);
        } else {
            self.emit_ipv6(self.to, self.dscp, ipv6::ROUTING_HEADER, total_len, packet);
            self.emit_xcast6(entries, flags, protocol, packet);
        }
    }

    fn emit_ipv6(&self, to: IpAddr, dscp: u8, next: u8, total_len: u16, packet: &mut Vec<u8>) {
        let payload_len = total_len - ipv6::LEN as u16;
        packet.extend_from_slice(&(6 << 28 | u32::from(dscp) << 22).to_be_bytes());
        packet.extend_from_slice(&payload_len.to_be_bytes());
        packet.extend_from_slice(&[next, self.ttl]);
        packet.extend_from_slice(&octets(self.source));
        packet.extend_from_slice(&octets(to));
    }

    /// RFC 5058 section 9.3.2.
    fn emit_xcast6(&self, entries: &[Entry], flags: u8, protocol: u8, packet: &mut Vec<u8>) {
        let start = packet.len();
        // Checked by the caller: at most 125 destinations, and code points are there.
        let count = entries.len() as u8;
        let Some(code_points) = self.code_points.ipv6 else {
            return;
        };
        let units = xcast6::routing_units(u32::from(count), flags) - 1;
        let next = match flags & FLAG_P {
            0 => protocol,
            _ => ipv6::DESTINATION_OPTIONS,
        };
        packet.extend_from_slice(&[next, units as u8, code_points.routing_type, 0]);
        packet.extend_from_slice(&[VERSION << 4 | flags & !FLAG_P, count, 0, 0]);
        packet.extend_from_slice(&u128::from(self.channel).to_be_bytes());
        for chunk in entries.chunks(64) {
            packet.extend_from_slice(&(u64::MAX << (64 - chunk.len())).to_be_bytes());
        }
        for entry in entries {
            packet.extend_from_slice(&octets(entry.address));
        }
        if flags & FLAG_D != 0 {
            packet.extend(self.ds_bytes(entries));
            pad(start, 8, packet);
        }
        store_checksum(&mut packet[start..], 6);
        if flags & FLAG_P != 0 {
            let start = packet.len();
            let units = xcast6::ports_units(u32::from(count)) - 1;
            packet.extend_from_slice(&[protocol, units as u8, code_points.ports_option, 2 * count]);
            for entry in entries {
                packet.extend_from_slice(&entry.port.to_be_bytes());
            }
            pad(start, 8, packet);
        }
    }

    fn ds_bytes(&self, entries: &[Entry]) -> impl Iterator<Item = u8> {
        entries
            .iter()
            .map(|entry| entry.dscp.unwrap_or(self.dscp) << 2)
    }

    fn emit_ip(&self, to: IpAddr, dscp: u8, protocol: u8, total_len: u16, packet: &mut Vec<u8>) {
        let [len_high, len_low] = total_len.to_be_bytes();
        let mut header = [0; IPV4_LEN];
        header[..4].copy_from_slice(&[0x45, dscp << 2, len_high, len_low]);
        // No identification is needed: routers refuse fragments of Xcast packets, so that DF says
        // what will happen anyway.
        header[6] = 0x40;
        header[8] = self.ttl;
        header[9] = protocol;
        header[12..16].copy_from_slice(&octets(self.source));
        header[16..].copy_from_slice(&octets(to));
        store_checksum(&mut header, 10);
        packet.extend_from_slice(&header);
    }

    /// RFC 5058 section 9.2.2.
    fn emit_xcast(&self, entries: &[Entry], flags: u8, protocol: u8, packet: &mut Vec<u8>) {
        let start = packet.len();
        // Checked by the caller: at most 127 destinations, so at most 230 words.
        let count = entries.len() as u8;
        let len_words = header_words(u32::from(count), flags) as u8;

        packet.extend_from_slice(&[VERSION << 4 | flags, count, 0, 0]);
        packet.extend_from_slice(&self.channel.to_be_bytes());
        packet.extend_from_slice(&[protocol, len_words, 0, 0]);
        for chunk in entries.chunks(32) {
            packet.extend_from_slice(&(u32::MAX << (32 - chunk.len())).to_be_bytes());
        }
        for (octets, entry) in grow(packet, entries.len()).iter_mut().zip(entries) {
            if let IpAddr::V4(address) = entry.address {
                *octets = address.octets();
            }
        }
        if flags & FLAG_D != 0 {
            packet.extend(self.ds_bytes(entries));
            pad(start, 4, packet);
        }
        if flags & FLAG_P != 0 {
            for (octets, entry) in grow(packet, entries.len()).iter_mut().zip(entries) {
                *octets = entry.port.to_be_bytes();
            }
            pad(start, 4, packet);
        }
        store_checksum(&mut packet[start..], 2);
    }

    /// UDP, with a checksum for the destination `to`.
    fn emit_udp(&self, to: IpAddr, port: u16, payload: &[u8], packet: &mut Vec<u8>) {
        let start = packet.len();
        for field in [self.source_port, port, 0, 0] {
            packet.extend_from_slice(&field.to_be_bytes());
        }
        self.finish_udp(to, start, payload, packet);
    }

    /// Completes the UDP header at `start`, which ends the packet and has its ports: length, payload
    /// and checksum.
    fn finish_udp(&self, to: IpAddr, start: usize, payload: &[u8], packet: &mut Vec<u8>) {
        // The IP packet, which is longer, was checked to fit 16 bits.
        let udp_len = ((UDP_LEN + payload.len()) as u16).to_be_bytes();
        packet[start + 4..start + 6].copy_from_slice(&udp_len);
        packet[start + 6..start + 8].fill(0);
        packet.extend_from_slice(payload);

        // The order of a pseudo header's fields does not matter to its sum, and neither does whether
        // a length has 16 bits or 32.
        let rest = [0, transport::UDP, udp_len[0], udp_len[1]];
        let pseudo_header = [&*octets(self.source), &*octets(to), &rest]
            .into_iter()
            .fold(Sum::default(), sum);
        let datagram = &mut packet[start..];
        let checksum = match sum(pseudo_header, datagram).checksum() {
            // 0 would say that there is no checksum (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// The flags that a list alone asks for: P where ports differ, D where an entry has a DSCP.
pub(crate) fn list_flags(entries: &[Entry]) -> u8 {
    let Some((first, rest)) = entries.split_first() else {
        return 0;
    };
    let mut ports_differ = false;
    let mut with_dscp = first.dscp.is_some();
    for entry in rest {
        ports_differ |= entry.port != first.port;
        with_dscp |= entry.dscp.is_some();
    }
    (u8::from(ports_differ) * FLAG_P) | (u8::from(with_dscp) * FLAG_D)
}

/// Most destinations of one packet with these flags: 127, or for IPv6 125, and 118 with a DSCP each.
pub fn max_destinations(ipv6: bool, flags: u8) -> usize {
    match (ipv6, flags & FLAG_D) {
        (false, _) => MAX_DESTINATIONS,
        (true, 0) => xcast6::MAX_DESTINATIONS,
        (true, _) => MAX_DESTINATIONS_WITH_DS,
    }
}

/// Length from the IP header on of a packet with `count` destinations, in octets.
pub fn packet_len(ipv6: bool, count: usize, flags: u8, payload: usize) -> usize {
    let count = count as u32;
    let headers = match ipv6 {
        false => 4 * header_words(count, flags),
        true => {
            let ports = match flags & FLAG_P {
                0 => 0,
                _ => xcast6::ports_units(count),
            };
            8 * (xcast6::routing_units(count, flags) + ports)
        }
    };
    datagram_overhead(ipv6) + headers as usize + payload
}

/// What is in front of the payload of an ordinary datagram, in octets.
pub fn datagram_overhead(ipv6: bool) -> usize {
    UDP_LEN + if ipv6 { ipv6::LEN } else { IPV4_LEN }
}

/// The octets of an address, in network byte order.
fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(address) => Octets::V4(address.octets()),
        IpAddr::V6(address) => Octets::V6(address.octets()),
    }
}

/// The octets of an address, without an allocation.
enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}

/// Adds octets, the last ones padded with zeroes to eight.
fn sum(sum: Sum, octets: &[u8]) -> Sum {
    let (chunks, rest) = octets.as_chunks();
    let mut sum = chunks
        .iter()
        .fold(sum, |sum, chunk| sum.add64(u64::from_ne_bytes(*chunk)));
    if !rest.is_empty() {
        let mut chunk = [0; 8];
        chunk[..rest.len()].copy_from_slice(rest);
        sum = sum.add64(u64::from_ne_bytes(chunk));
    }
    sum
}

/// The internet checksum of octets whose checksum field is zero, as the field holds it (RFC 1071).
pub fn internet_checksum(octets: &[u8]) -> [u8; 2] {
    sum(Sum::default(), octets).checksum().to_ne_bytes()
}

/// The checksum of an ICMPv6 message whose checksum field is zero, as the field holds it (RFC 4443
/// section 2.3).
pub fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let mut pseudo_header = [source.octets(), destination.octets()].concat();
    pseudo_header.extend_from_slice(&(message.len() as u32).to_be_bytes());
    pseudo_header.extend_from_slice(&[0, 0, 0, transport::ICMPV6]);
    sum(sum(Sum::default(), &pseudo_header), message)
        .checksum()
        .to_ne_bytes()
}

fn store_checksum(header: &mut [u8], at: usize) {
    let checksum = sum(Sum::default(), header).checksum();
    header[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
}

/// Room for `count` fields of `N` octets at the end: faster than to append each.
fn grow<const N: usize>(packet: &mut Vec<u8>, count: usize) -> &mut [[u8; N]] {
    let start = packet.len();
    packet.resize(start + N * count, 0);
    packet[start..].as_chunks_mut().0
}

/// Pads the header that begins at `start` to a multiple of so many octets.
fn pad(start: usize, unit: usize, packet: &mut Vec<u8>) {
    packet.resize(start + (packet.len() - start).next_multiple_of(unit), 0);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::code_points::Ipv6CodePoints;

    fn template() -> Template {
        Template {
            code_points: CodePoints {
                protocol: 253,
                group: Ipv4Addr::new(224, 0, 0, 254),
                ipv6: None,
            },
            source: Ipv4Addr::new(10, 0, 0, 1).into(),
            to: Ipv4Addr::new(224, 0, 0, 254).into(),
            ttl: 64,
            dscp: 0,
            channel: 0,
            x: false,
            anonymous: false,
            source_port: 4000,
            port_list: false,
        }
    }

    fn entry(address: &str, port: u16, dscp: Option<u8>) -> Entry {
        Entry {
            address: address.parse().unwrap(),
            port,
            dscp,
        }
    }

    /// Written out by hand from RFC 5058 section 9.2, sums and all.
    #[test]
    fn two_ports_byte_for_byte() {
        let entries = [entry("10.1.0.2", 5000, None), entry("10.2.0.2", 6000, None)];
        let template = Template {
            channel: 0x0102_0304,
            ..template()
        };
        let expected = [
            // IP: 4 5, DS, 20 + 28 + 8 + 3 = 59, identification, DF, TTL, protocol, checksum
            0x45, 0x00, 0x00, 0x3b, 0x00, 0x00, 0x40, 0x00, 0x40, 0xfd, 0x4e, 0xc7, //
            10, 0, 0, 1, 224, 0, 0, 254, //
            // Xcast: version 1 and P, 2 destinations, checksum, channel, UDP, 7 words, RESV
            0x11, 0x02, 0xda, 0xf0, 0x01, 0x02, 0x03, 0x04, 0x11, 0x07, 0x00, 0x00, //
            0xc0, 0x00, 0x00, 0x00, // bitmap
            10, 1, 0, 2, 10, 2, 0, 2, // addresses
            0x13, 0x88, 0x17, 0x70, // ports
            // UDP: 4000, port 0 because of P, 11 octets, checksum
            0x0f, 0xa0, 0x00, 0x00, 0x00, 0x0b, 0x7b, 0xcf, b'h', b'i', b'!',
        ];
        assert_eq!(template.build(&entries, b"hi!").unwrap(), expected);
    }

    #[test]
    fn another_payload_for_the_same_list() {
        let ipv6 = Ipv6CodePoints {
            group: "ff02::114".parse().unwrap(),
            routing_type: 253,
            ports_option: 0x5e,
        };
        let code_points = template().code_points.with_ipv6(ipv6).unwrap();
        let template6 = Template {
            code_points,
            source: "fd00::1".parse().unwrap(),
            to: ipv6.group.into(),
            ..template()
        };
        let ports = [[5000, 5000], [5000, 6000]];
        let cases = ports.map(|[one, other]| {
            let ipv4 = [entry("10.1.0.2", one, None), entry("10.2.0.2", other, None)];
            let ipv6 = [entry("fd00::2", one, None), entry("fd00::3", other, None)];
            [(template(), ipv4), (template6.clone(), ipv6)]
        });
        for (template, entries) in cases.into_iter().flatten() {
            let mut packet = template.build(&entries, b"first").unwrap();
            let headers = packet.len() - UDP_LEN - 5;
            for payload in [&b"a second one, longer"[..], b"", b"3"] {
                template.emit_again(headers, payload, &mut packet).unwrap();
                assert_eq!(packet, template.build(&entries, payload).unwrap());
            }
        }
    }

    fn folded(parts: &[&[u8]]) -> u16 {
        // All parts but the last have an even length.
        let octets = parts.concat();
        let sum: u32 = octets
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn checksums_hold_for_any_number_of_destinations_and_any_flags() {
        for count in [1, 2, 3, 31, 32, 33, 64, 65, 127] {
            for flags in 0..16 {
                let template = Template {
                    to: Ipv4Addr::new(10, 0, 0, 254).into(),
                    anonymous: flags & FLAG_A != 0,
                    x: flags & FLAG_X != 0,
                    port_list: flags & FLAG_P != 0,
                    ..template()
                };
                let entries: Vec<_> = (0..count)
                    .map(|i| Entry {
                        address: Ipv4Addr::new(10, 9, 0, i).into(),
                        port: 7000,
                        dscp: (flags & FLAG_D != 0).then_some(i % 64),
                    })
                    .collect();
                let bytes = template.build(&entries, b"hi!").unwrap();
                let header_len = usize::from(bytes[29]) * 4;
                let (xcast, udp) = bytes[20..].split_at(header_len);
                assert_eq!(xcast[0], 0x10 | flags);
                assert_eq!(xcast[1], count);
                assert_eq!(
                    bytes.len(),
                    usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))
                );
                assert_eq!(folded(&[&bytes[..20]]), 0xffff);
                assert_eq!(folded(&[xcast]), 0xffff);
                // The group is the destination although the packet goes to a router's address.
                let length = (udp.len() as u16).to_be_bytes();
                let pseudo = [10, 0, 0, 1, 224, 0, 0, 254, 0, 17, length[0], length[1]];
                assert_eq!(folded(&[&pseudo, udp]), 0xffff);
                let bits: u32 = xcast[12..]
                    .chunks(4)
                    .take(usize::from(count).div_ceil(32))
                    .map(|word| word.iter().map(|octet| octet.count_ones()).sum::<u32>())
                    .sum();
                assert_eq!(bits, u32::from(count));
                let port = u16::from_be_bytes([udp[2], udp[3]]);
                assert_eq!(port, if flags & FLAG_P != 0 { 0 } else { 7000 });
            }
        }
    }

    #[test]
    fn ds_bytes_follow_the_addresses() {
        let entries = [
            entry("10.1.0.2", 5000, Some(46)),
            entry("10.2.0.2", 5000, None),
        ];
        let template = Template {
            dscp: 10,
            ..template()
        };
        let bytes = template.build(&entries, b"hi!").unwrap();
        assert_eq!(bytes[1], 10 << 2);
        assert_eq!(bytes[20], 0x12, "D and not P: the ports are equal");
        assert_eq!(bytes[44..48], [46 << 2, 10 << 2, 0, 0]);
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused() {
        let template = template();
        let build = |entries: &[Entry], len| template.build(entries, &vec![0; len]);
        let one = entry("10.1.0.2", 5000, None);
        assert_eq!(build(&[], 3), Err(PacketError::Destinations(0)));
        assert_eq!(build(&[one; 128], 3), Err(PacketError::Destinations(128)));
        assert!(build(&[one; 127], 3).is_ok());
        let odd = entry("10.1.0.2", 1, Some(64));
        assert_eq!(build(&[odd], 3), Err(PacketError::Dscp(64)));
        let most = 65535 - 20 - 20 - 8;
        assert_eq!(build(&[one], most).unwrap().len(), 65535);
        assert_eq!(build(&[one], most + 1), Err(PacketError::TooLong(65536)));
    }

    fn template6() -> Template {
        let ipv6 = Ipv6CodePoints {
            group: "ff02::114".parse().unwrap(),
            routing_type: 253,
            ports_option: 0x5e,
        };
        let code_points = CodePoints {
            ipv6: Some(ipv6),
            ..template().code_points
        };
        Template {
            code_points,
            source: "2001:db8::1".parse().unwrap(),
            to: ipv6.group.into(),
            ..template()
        }
    }

    /// Written out by hand from RFC 5058 section 9.3, sums and all.
    #[test]
    fn two_ports_of_ipv6_byte_for_byte() {
        let entries = [
            entry("2001:db8::2", 5000, None),
            entry("2001:db8::3", 6000, None),
        ];
        let bytes = template6().build(&entries, b"hi!").unwrap();
        let (ip, rest) = bytes.split_at(40);
        // 64 octets of routing header, 8 of ports, 11 of UDP.
        assert_eq!(ip[..8], [0x60, 0, 0, 0, 0, 64 + 8 + 11, 43, 64]);
        let (routing, rest) = rest.split_at(64);
        assert_eq!(routing[..6], [60, 7, 253, 0, 0x10, 2]);
        assert_eq!(folded(&[routing]), 0xffff);
        assert_eq!(routing[8..24], [0; 16], "no channel");
        assert_eq!(routing[24..32], [0xc0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(routing[47], 2);
        assert_eq!(routing[63], 3);
        let (ports, udp) = rest.split_at(8);
        assert_eq!(ports, [17, 0, 0x5e, 4, 0x13, 0x88, 0x17, 0x70]);
        assert_eq!(udp[..6], [0x0f, 0xa0, 0, 0, 0, 11]);
        // RFC 8200 section 8.1.
        let pseudo = [&ip[8..40], &[0, 0, 0, 11, 0, 0, 0, 17]].concat();
        assert_eq!(folded(&[&pseudo, udp]), 0xffff);
    }

    #[test]
    fn lists_of_ipv6_that_do_not_fit_are_refused() {
        let one = entry("2001:db8::2", 5000, None);
        let with_dscp = entry("2001:db8::2", 5000, Some(1));
        let build = |entries: &[Entry]| template6().build(entries, b"hi!");
        assert!(build(&[one; 125]).is_ok() && build(&[with_dscp; 118]).is_ok());
        for (entries, most) in [(vec![one; 126], 125), (vec![with_dscp; 119], 118)] {
            let error = build(&entries).unwrap_err();
            let count = entries.len();
            assert_eq!(error, PacketError::Destinations6 { count, most });
            assert!(error.to_string().contains("HdrExtLen"));
        }
        let other = entry("10.0.0.1", 5000, None);
        let error = build(&[one, other]).unwrap_err();
        assert_eq!(
            error,
            PacketError::Family(other.address, template6().source)
        );
        let without = Template {
            code_points: template().code_points,
            ..template6()
        };
        assert_eq!(without.build(&[one], b""), Err(PacketError::NoIpv6));
    }

    /// Fields and sums of a datagram, by hand from RFC 791, 8200 and 768.
    #[test]
    fn a_datagram_is_ordinary_udp() {
        let mut bytes = Vec::new();
        let to = entry("10.1.0.2", 5000, Some(46));
        template().emit_datagram(&to, b"hi!", &mut bytes).unwrap();
        assert_eq!(bytes[..4], [0x45, 46 << 2, 0, 31]);
        assert_eq!((bytes[8], bytes[9]), (64, 17));
        assert_eq!(bytes[12..20], [10, 0, 0, 1, 10, 1, 0, 2]);
        assert_eq!(bytes[20..26], [0x0f, 0xa0, 0x13, 0x88, 0, 11]);
        assert_eq!(folded(&[&bytes[..20]]), 0xffff);
        let pseudo = [10, 0, 0, 1, 10, 1, 0, 2, 0, 17, 0, 11];
        assert_eq!(folded(&[&pseudo, &bytes[20..]]), 0xffff);

        let to = entry("fd00::2", 5000, None);
        template6().emit_datagram(&to, b"hi!", &mut bytes).unwrap();
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 11, 17, 64]);
        assert_eq!(bytes[24..40], *octets("fd00::2".parse().unwrap()));
        assert_eq!(bytes[40..46], [0x0f, 0xa0, 0x13, 0x88, 0, 11]);
        assert_eq!(
            folded(&[&bytes[8..40], &[0, 0, 0, 11, 0, 0, 0, 17], &bytes[40..]]),
            0xffff
        );
        assert_eq!(&bytes[48..], b"hi!");

        let before = bytes.clone();
        let mut refused = |entry, len| {
            let refused = template6().emit_datagram(&entry, &vec![0; len], &mut bytes);
            assert_eq!(bytes, before);
            refused.unwrap_err()
        };
        let ipv4 = entry("10.1.0.2", 5000, None);
        assert!(matches!(refused(ipv4, 3), PacketError::Family(..)));
        assert_eq!(refused(to, 65488), PacketError::TooLong(65536));
        let odd = entry("fd00::2", 5000, Some(64));
        assert_eq!(refused(odd, 3), PacketError::Dscp(64));
    }
}
