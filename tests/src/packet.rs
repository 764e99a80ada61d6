//! Frames, field by field: builders that can also build wrong ones, and a parser.
//!
//! Written from RFC 791, 8200, 768, 9293, 792, 4443 and RFC 5058 sections 9.2 and 9.3, on plain byte vectors, and on
//! purpose without any of the router's own code: what the tests expect must not share the router's
//! mistakes. A field that depends on others (lengths, checksums, counts) is an `Option`: `None` is
//! the right value, `Some` is put into the packet as it stands.

use std::net::{IpAddr, Ipv4Addr};

use crate::family::Family;

/// A link layer address.
pub type Mac = [u8; 6];

/// EtherType of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;

/// IP protocol numbers with a meaning to an Xcast router.
pub mod protocol {
    /// Hop-by-hop options (IPv6).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// Routing header (IPv6).
    pub const ROUTING: u8 = 43;
    /// Fragment header (IPv6).
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Destination options (IPv6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// One's complement sum of `bytes` as 16-bit words, an odd last octet padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let total = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .fold(0u64, |total, word| total + u64::from(word));
    fold(total)
}

/// Adds the carries of a one's complement sum back into its low 16 bits.
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The Internet checksum of `bytes` (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The checksum of a transport packet with its pseudo header; `segment` holds zero, or the checksum
/// to be verified (then the answer is 0), where the checksum goes.
pub fn transport_checksum(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    // The fields of RFC 8200 section 8.1 have other places than those of RFC 768, and the same sum.
    let mut bytes = [octets(source.into()), octets(destination.into())].concat();
    bytes.extend([0, protocol]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    checksum(&bytes)
}

/// The octets of an address.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The link layer address a multicast group is sent to (RFC 1112 section 6.4, RFC 2464 section 7).
pub fn group_mac(group: impl Into<IpAddr>) -> Mac {
    match group.into() {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// An Ethernet frame.
pub fn ethernet(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination[..],
        &source,
        &ether_type.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// An IP header: of IPv4, or of IPv6 with the headers that come before what is carried. Which one
/// follows from the source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Version and header length in words; of IPv6 only the version counts.
    pub version_ihl: Option<u8>,
    /// DS field, or traffic class: DSCP and ECN.
    pub ds: u8,
    /// Flow label of IPv6, 20 bits.
    pub flow_label: u32,
    /// Total length; of IPv6 with the header, too.
    pub total_len: Option<u16>,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset; of IPv6, anything puts a fragment header before all others.
    pub fragment: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum of IPv4.
    pub checksum: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Options, a multiple of four octets; of IPv6, in a hop-by-hop options header.
    pub options: Vec<u8>,
    /// Headers of IPv6 before the payload: their number, and what follows their first octet.
    pub before: Vec<(u8, Vec<u8>)>,
}

impl Ip {
    /// A plain header: TTL 64, nothing else set.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8) -> Self {
        Self {
            version_ihl: None,
            ds: 0,
            flow_label: 0,
            total_len: None,
            identification: 0,
            fragment: 0,
            ttl: 64,
            protocol,
            checksum: None,
            source: source.into(),
            destination: destination.into(),
            options: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The packet with this header and `payload`.
    pub fn emit(&self, payload: &[u8]) -> Vec<u8> {
        match self.family() {
            Family::Ipv4 => self.emit_ipv4(payload),
            Family::Ipv6 => self.emit_ipv6(payload),
        }
    }

    fn emit_ipv4(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = IPV4_LEN + self.options.len();
        let ihl = 0x40 | (header_len / 4) as u8;
        let total_len = (header_len + payload.len()) as u16;
        let mut bytes = vec![self.version_ihl.unwrap_or(ihl), self.ds];
        bytes.extend(self.total_len.unwrap_or(total_len).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        bytes.extend(&self.options);
        let checksum = self.checksum.unwrap_or(checksum(&bytes));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// RFC 8200 sections 3 and 4.
    fn emit_ipv6(&self, payload: &[u8]) -> Vec<u8> {
        let mut before = self.before.clone();
        if self.fragment != 0 {
            let [a, b] = self.identification.to_be_bytes();
            let [c, d] = self.fragment.to_be_bytes();
            before.insert(0, (protocol::FRAGMENT, vec![0, c, d, 0, 0, a, b]));
        }
        if !self.options.is_empty() {
            let mut header = vec![0];
            header.extend(&self.options);
            // The rest is Pad1.
            header.resize((header.len() + 1).next_multiple_of(8) - 1, 0);
            header[0] = ((header.len() + 1) / 8 - 1) as u8;
            before.insert(0, (protocol::HOP_BY_HOP, header));
        }
        let numbers = before.iter().map(|(number, _)| *number);
        let numbers: Vec<u8> = numbers.chain([self.protocol]).collect();
        let chain: Vec<u8> = (before.iter().zip(&numbers[1..]))
            .flat_map(|((_, rest), next)| [&[*next][..], rest].concat())
            .collect();
        let payload_len = match self.total_len {
            Some(len) => len.saturating_sub(40),
            None => (chain.len() + payload.len()) as u16,
        };
        let version = self.version_ihl.unwrap_or(0x60) >> 4;
        let first =
            u32::from(version) << 28 | u32::from(self.ds) << 20 | self.flow_label & 0xf_ffff;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(payload_len.to_be_bytes());
        bytes.extend([numbers[0], self.ttl]);
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        bytes.extend(chain);
        bytes.extend(payload);
        bytes
    }

    /// Reads the header at the start of `bytes`, with every field as it stands, and what follows it
    /// up to the total length. `None` where `bytes` ends too early.
    pub fn parse(family: Family, bytes: &[u8]) -> Option<(Self, &[u8])> {
        match family {
            Family::Ipv4 => Self::parse_ipv4(bytes),
            Family::Ipv6 => Self::parse_ipv6(bytes),
        }
    }

    fn parse_ipv4(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let header_len = usize::from(bytes.first()? & 0x0f) * 4;
        let total_len = be16(bytes, 2)?;
        let header = Self {
            version_ihl: Some(bytes[0]),
            ds: bytes[1],
            flow_label: 0,
            total_len: Some(total_len),
            identification: be16(bytes, 4)?,
            fragment: be16(bytes, 6)?,
            ttl: *bytes.get(8)?,
            protocol: *bytes.get(9)?,
            checksum: Some(be16(bytes, 10)?),
            source: address(bytes, 12)?,
            destination: address(bytes, 16)?,
            options: bytes.get(IPV4_LEN..header_len)?.to_vec(),
            before: Vec::new(),
        };
        Some((header, bytes.get(header_len..usize::from(total_len))?))
    }

    /// What follows begins behind all hop-by-hop options, destination options and fragment headers
    /// that come before something else.
    fn parse_ipv6(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let first = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
        let total_len = usize::from(be16(bytes, 4)?) + 40;
        let mut rest = bytes.get(40..total_len)?;
        let mut next = *bytes.get(6)?;
        let mut before = Vec::new();
        while [
            protocol::HOP_BY_HOP,
            protocol::DESTINATION_OPTIONS,
            protocol::FRAGMENT,
        ]
        .contains(&next)
        {
            let len = match next {
                protocol::FRAGMENT => 8,
                _ => 8 * (usize::from(*rest.get(1)?) + 1),
            };
            before.push((next, rest.get(1..len)?.to_vec()));
            next = rest[0];
            rest = &rest[len..];
        }
        let header = Self {
            version_ihl: Some(bytes[0]),
            ds: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            total_len: u16::try_from(total_len).ok(),
            identification: 0,
            fragment: 0,
            ttl: *bytes.get(7)?,
            protocol: next,
            checksum: None,
            source: address6(bytes, 8)?,
            destination: address6(bytes, 24)?,
            options: Vec::new(),
            before,
        };
        Some((header, rest))
    }
}

/// One entry of the destination list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its bit in the bitmap: only then it counts.
    pub valid: bool,
    /// Address.
    pub address: IpAddr,
    /// DS byte, there if D is set.
    pub ds: u8,
    /// Port, there if P is set.
    pub port: u16,
}

impl Destination {
    /// A valid entry without DS byte and port.
    pub fn new(address: impl Into<IpAddr>) -> Self {
        Self {
            valid: true,
            address: address.into(),
            ds: 0,
            port: 0,
        }
    }

    /// The same with a port.
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The same with a DS byte.
    pub fn ds(self, ds: u8) -> Self {
        Self { ds, ..self }
    }

    /// The same with its bit cleared.
    pub fn cleared(self) -> Self {
        Self {
            valid: false,
            ..self
        }
    }
}

/// An Xcast4 header (RFC 5058 section 9.2.2), or the headers of Xcast6 (section 9.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xcast {
    /// Version, 1.
    pub version: u8,
    /// Anonymity bit.
    pub a: bool,
    /// Xcast bit: stay an Xcast packet.
    pub x: bool,
    /// A DS byte per destination is present.
    pub d: bool,
    /// A port per destination is present.
    pub p: bool,
    /// Reserved bit in front of NBR_OF_DEST.
    pub r: bool,
    /// NBR_OF_DEST.
    pub count: Option<u8>,
    /// Header checksum.
    pub checksum: Option<u16>,
    /// Channel identifier; of Xcast4 its low 32 bits.
    pub channel: u128,
    /// Protocol of what follows.
    pub protocol: u8,
    /// LENGTH, in words; of Xcast6, HdrExtLen of the routing header.
    pub len_words: Option<u8>,
    /// RESV; of Xcast6, its lowest bit is the one where Xcast4 has P.
    pub reserved: u16,
    /// Routing type of Xcast6.
    pub routing_type: u8,
    /// Segments left of Xcast6.
    pub segments_left: u8,
    /// Type of the option of Xcast6 that lists ports.
    pub ports_option: u8,
    /// Length of that option.
    pub ports_len: Option<u8>,
    /// The destination list.
    pub destinations: Vec<Destination>,
    /// Bits set in the bitmap beyond the last destination.
    pub stray_bits: bool,
    /// What unused octets after DS bytes and ports are filled with.
    pub padding: u8,
}

impl Xcast {
    /// A header without flags.
    pub fn new(protocol: u8, destinations: Vec<Destination>) -> Self {
        Self {
            version: 1,
            a: false,
            x: false,
            d: false,
            p: false,
            r: false,
            count: None,
            checksum: None,
            channel: 0,
            protocol,
            len_words: None,
            reserved: 0,
            routing_type: 253,
            segments_left: 0,
            ports_option: 0x5e,
            ports_len: None,
            destinations,
            stray_bits: false,
            padding: 0,
        }
    }

    /// The header's octets.
    pub fn emit(&self, family: Family) -> Vec<u8> {
        match family {
            Family::Ipv4 => self.emit_ipv4(),
            Family::Ipv6 => self.emit_ipv6(),
        }
    }

    fn emit_ipv6(&self) -> Vec<u8> {
        let count = self.destinations.len();
        let ports = self.p.then(|| {
            let mut header = vec![self.protocol, 0, self.ports_option];
            header.push(self.ports_len.unwrap_or(2 * count as u8));
            header.extend(self.destinations.iter().flat_map(|d| d.port.to_be_bytes()));
            self.pad(&mut header, 8);
            header[1] = (header.len() / 8 - 1) as u8;
            header
        });
        let next = match self.p {
            true => protocol::DESTINATION_OPTIONS,
            false => self.protocol,
        };
        let flags = [self.a, self.x, self.d, self.reserved & 1 != 0];
        let flags = flags.iter().fold(0, |bits, &set| bits << 1 | u8::from(set));
        let mut bytes = vec![next, 0, self.routing_type, self.segments_left];
        bytes.extend([
            self.version << 4 | flags,
            self.count.unwrap_or(count as u8) | u8::from(self.r) << 7,
            0,
            0,
        ]);
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.bitmap(8));
        for destination in &self.destinations {
            bytes.extend(octets(destination.address));
        }
        if self.d {
            bytes.extend(self.destinations.iter().map(|destination| destination.ds));
            self.pad(&mut bytes, 8);
        }
        bytes[1] = self.len_words.unwrap_or((bytes.len() / 8 - 1) as u8);
        let checksum = self.checksum.unwrap_or(checksum(&bytes));
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(ports.unwrap_or_default());
        bytes
    }

    /// The bitmap, in units of so many octets.
    fn bitmap(&self, unit: usize) -> Vec<u8> {
        let mut bitmap = vec![0; self.destinations.len().div_ceil(8 * unit) * unit];
        for bit in 0..bitmap.len() * 8 {
            let set = match self.destinations.get(bit) {
                Some(destination) => destination.valid,
                None => self.stray_bits,
            };
            bitmap[bit / 8] |= u8::from(set) << (7 - bit % 8);
        }
        bitmap
    }

    fn emit_ipv4(&self) -> Vec<u8> {
        let count = self.destinations.len();
        let flags = [self.a, self.x, self.d, self.p];
        let flags = flags.iter().fold(0, |bits, &set| bits << 1 | u8::from(set));
        let mut bytes = vec![
            self.version << 4 | flags,
            self.count.unwrap_or(count as u8) | u8::from(self.r) << 7,
            0,
            0,
        ];
        bytes.extend((self.channel as u32).to_be_bytes());
        bytes.extend([self.protocol, 0]);
        bytes.extend(self.reserved.to_be_bytes());

        bytes.extend(self.bitmap(4));
        for destination in &self.destinations {
            bytes.extend(octets(destination.address));
        }
        if self.d {
            bytes.extend(self.destinations.iter().map(|destination| destination.ds));
            self.pad(&mut bytes, 4);
        }
        if self.p {
            for destination in &self.destinations {
                bytes.extend(destination.port.to_be_bytes());
            }
            self.pad(&mut bytes, 4);
        }
        bytes[9] = self.len_words.unwrap_or((bytes.len() / 4) as u8);
        let checksum = self.checksum.unwrap_or(checksum(&bytes));
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn pad(&self, bytes: &mut Vec<u8>, unit: usize) {
        while !bytes.len().is_multiple_of(unit) {
            bytes.push(self.padding);
        }
    }

    /// Reads the header at the start of `bytes`, with every field as it stands, and what follows.
    /// The places of the variable fields follow from NBR_OF_DEST and the flags, not from LENGTH.
    /// `None` where `bytes` ends too early.
    pub fn parse(family: Family, bytes: &[u8]) -> Option<(Self, &[u8])> {
        match family {
            Family::Ipv4 => Self::parse_ipv4(bytes),
            Family::Ipv6 => Self::parse_ipv6(bytes),
        }
    }

    fn parse_ipv6(bytes: &[u8]) -> Option<(Self, &[u8])> {
        const PORTS_OPTION: u8 = 0x5e;
        let flags = *bytes.get(4)?;
        let count = usize::from(*bytes.get(5)? & 0x7f);
        let d = flags & 2 != 0;
        let addresses_at = 24 + count.div_ceil(64) * 8;
        let ds_at = addresses_at + 16 * count;
        let end = ds_at + if d { count.next_multiple_of(8) } else { 0 };
        let mut rest = bytes.get(end..)?;
        let bit = |index: usize| bytes[24 + index / 8] >> (7 - index % 8) & 1 == 1;
        let mut destinations: Vec<_> = (0..count)
            .map(|index| {
                Some(Destination {
                    valid: bit(index),
                    address: address6(bytes, addresses_at + 16 * index)?,
                    ds: if d { bytes[ds_at + index] } else { 0 },
                    port: 0,
                })
            })
            .collect::<Option<_>>()?;
        let mut protocol = bytes[0];
        let mut ports_len = None;
        if protocol == protocol::DESTINATION_OPTIONS && *rest.get(2)? == PORTS_OPTION {
            protocol = rest[0];
            ports_len = Some(*rest.get(3)?);
            for (index, destination) in destinations.iter_mut().enumerate() {
                destination.port = be16(rest, 4 + 2 * index)?;
            }
            rest = rest.get((4 + 2 * count).next_multiple_of(8)..)?;
        }
        let header = Self {
            version: flags >> 4,
            a: flags & 8 != 0,
            x: flags & 4 != 0,
            d,
            p: ports_len.is_some(),
            r: bytes[5] & 0x80 != 0,
            count: Some(count as u8),
            checksum: Some(be16(bytes, 6)?),
            channel: u128::from_be_bytes(bytes.get(8..24)?.try_into().ok()?),
            protocol,
            len_words: Some(bytes[1]),
            reserved: u16::from(flags & 1),
            routing_type: bytes[2],
            segments_left: bytes[3],
            ports_option: PORTS_OPTION,
            ports_len,
            stray_bits: (count..count.div_ceil(64) * 64).any(bit),
            destinations,
            padding: 0,
        };
        Some((header, rest))
    }

    fn parse_ipv4(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let flags = *bytes.first()?;
        let [a, x, d, p] = [3, 2, 1, 0].map(|bit| flags >> bit & 1 == 1);
        let count = usize::from(*bytes.get(1)? & 0x7f);
        let addresses_at = 12 + count.div_ceil(32) * 4;
        let ds_at = addresses_at + 4 * count;
        let ports_at = ds_at + if d { count.next_multiple_of(4) } else { 0 };
        let end = ports_at + if p { 2 * count.next_multiple_of(2) } else { 0 };
        let rest = bytes.get(end..)?;

        let bit = |index: usize| bytes[12 + index / 8] >> (7 - index % 8) & 1 == 1;
        let destinations = (0..count)
            .map(|index| {
                Some(Destination {
                    valid: bit(index),
                    address: address(bytes, addresses_at + 4 * index)?,
                    ds: if d { bytes[ds_at + index] } else { 0 },
                    port: if p {
                        be16(bytes, ports_at + 2 * index)?
                    } else {
                        0
                    },
                })
            })
            .collect::<Option<_>>()?;
        let header = Self {
            version: flags >> 4,
            a,
            x,
            d,
            p,
            r: bytes[1] & 0x80 != 0,
            count: Some(count as u8),
            checksum: Some(be16(bytes, 2)?),
            channel: u32::from_be_bytes(bytes[4..8].try_into().ok()?).into(),
            protocol: bytes[8],
            len_words: Some(bytes[9]),
            reserved: be16(bytes, 10)?,
            routing_type: 0,
            segments_left: 0,
            ports_option: 0,
            ports_len: None,
            destinations,
            stray_bits: (count..count.div_ceil(32) * 32).any(bit),
            padding: 0,
        };
        Some((header, rest))
    }
}

/// An Xcast packet in its frame, as a sender makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC.
    pub destination_mac: Mac,
    /// Source MAC.
    pub source_mac: Mac,
    /// IP header.
    pub ip: Ip,
    /// Xcast header.
    pub xcast: Xcast,
    /// Transport header and payload.
    pub segment: Vec<u8>,
}

impl Packet {
    /// The packet of the other family that stands for this one, see [`Family::address`]. A transport
    /// checksum is as right or wrong as it was.
    pub fn in_family(&self, family: Family) -> Self {
        let mut packet = self.clone();
        if family == self.ip.family() {
            return packet;
        }
        let convert = |address: IpAddr| match address {
            IpAddr::V4(address) => family.address(address),
            IpAddr::V6(_) => address,
        };
        let (old, new) = (self.ip.destination, convert(self.ip.destination));
        let source = (self.ip.source, convert(self.ip.source));
        packet.ip.source = source.1;
        packet.ip.destination = new;
        // Don't fragment: always, in IPv6.
        packet.ip.fragment &= 0x3fff;
        packet.ip.flow_label = u32::from(self.ip.identification);
        // Xcast4's protocol number.
        if self.ip.protocol == 253 {
            packet.ip.protocol = protocol::ROUTING;
        }
        if self.destination_mac == group_mac(Ipv4Addr::new(224, 0, 0, 254)) {
            packet.destination_mac = group_mac(convert(Ipv4Addr::new(224, 0, 0, 254).into()));
        }
        if self.xcast.protocol == 253 {
            packet.xcast.protocol = protocol::ROUTING;
        }
        // As many as fit into a routing header.
        let most = if self.xcast.d { 118 } else { 125 };
        packet.xcast.destinations.truncate(most);
        for destination in &mut packet.xcast.destinations {
            destination.address = convert(destination.address);
        }
        let checksum_at = match self.xcast.protocol {
            protocol::TCP => 16,
            protocol::UDP | protocol::UDP_LITE | protocol::DCCP => 6,
            _ => return packet,
        };
        // The source made it for the group, whatever the IP destination is.
        let group = Ipv4Addr::new(224, 0, 0, 254).into();
        let (group, new_group) = match old == group {
            true => (old, new),
            false => (group, convert(group)),
        };
        let Some(checksum) = be16(&packet.segment, checksum_at) else {
            return packet;
        };
        if self.xcast.protocol == protocol::UDP && checksum == 0 {
            return packet;
        }
        let total = |addresses: [IpAddr; 2]| {
            let octets = addresses.map(octets).concat();
            u64::from(sum(&octets))
        };
        let terms = [
            u64::from(!checksum),
            u64::from(!(total([source.0, group]) as u16)),
            total([source.1, new_group]),
        ];
        let fixed = !fold(terms.iter().sum());
        packet.segment[checksum_at..checksum_at + 2].copy_from_slice(&fixed.to_be_bytes());
        packet
    }

    /// The frame, in the family that the test is for.
    pub fn frame(&self) -> Vec<u8> {
        let family = match self.ip.family() {
            Family::Ipv4 => Family::under_test(),
            Family::Ipv6 => Family::Ipv6,
        };
        self.in_family(family).emit()
    }

    fn emit(&self) -> Vec<u8> {
        let family = self.ip.family();
        let payload = [self.xcast.emit(family), self.segment.clone()].concat();
        ethernet(
            self.destination_mac,
            self.source_mac,
            family.ether_type(),
            &self.ip.emit(&payload),
        )
    }
}

/// Something inside UDP in its frame, as a sender makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Destination MAC.
    pub destination_mac: Mac,
    /// Source MAC.
    pub source_mac: Mac,
    /// IP header.
    pub ip: Ip,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// UDP length.
    pub len: Option<u16>,
    /// UDP checksum.
    pub checksum: Option<u16>,
    /// What is inside.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The IP packet of a frame as the payload of a datagram from the same source, and by the same
    /// way, to a router.
    pub fn around(packet: &Packet, router: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            destination_mac: packet.destination_mac,
            source_mac: packet.source_mac,
            ip: Ip::new(packet.ip.source, router, protocol::UDP),
            source_port: 40_000,
            port,
            len: None,
            checksum: None,
            payload: packet.frame()[ETHERNET_LEN..].to_vec(),
        }
    }

    /// The frame, in the family that the test is for.
    pub fn frame(&self) -> Vec<u8> {
        let family = Family::under_test();
        let convert = |address: IpAddr| match address {
            IpAddr::V4(address) => family.address(address),
            IpAddr::V6(_) => address,
        };
        let ip = Ip {
            source: convert(self.ip.source),
            destination: convert(self.ip.destination),
            fragment: match family {
                Family::Ipv4 => self.ip.fragment,
                Family::Ipv6 => self.ip.fragment & 0x3fff,
            },
            ..self.ip.clone()
        };
        let from = (ip.source, self.source_port);
        let to = (ip.destination, self.port);
        let mut datagram = udp(from, to, &self.payload, self.checksum);
        if let Some(len) = self.len {
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let packet = ip.emit(&datagram);
        ethernet(
            self.destination_mac,
            self.source_mac,
            ip.family().ether_type(),
            &packet,
        )
    }
}

/// A UDP packet; `None` for the right checksum.
pub fn udp(
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    payload: &[u8],
    checksum: Option<u16>,
) -> Vec<u8> {
    udp_like(protocol::UDP, source, destination, payload, checksum)
}

/// A packet with UDP's header layout: UDP, or UDP-Lite covering everything.
pub fn udp_like(
    protocol: u8,
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    payload: &[u8],
    checksum: Option<u16>,
) -> Vec<u8> {
    let mut bytes = ports(source.1, destination.1);
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let right = match transport_checksum(source.0, destination.0, protocol, &bytes) {
        0 => 0xffff,
        value => value,
    };
    bytes[6..8].copy_from_slice(&checksum.unwrap_or(right).to_be_bytes());
    bytes
}

/// A TCP segment without options; `None` for the right checksum.
pub fn tcp(
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    sequence: u32,
    payload: &[u8],
    checksum: Option<u16>,
) -> Vec<u8> {
    let mut bytes = ports(source.1, destination.1);
    bytes.extend(sequence.to_be_bytes());
    // Acknowledgement 0; header of five words; PSH; window 0x2000; checksum; no urgent data.
    bytes.extend([0, 0, 0, 0, 0x50, 0x08, 0x20, 0x00, 0, 0, 0, 0]);
    bytes.extend(payload);
    let right = transport_checksum(source.0, destination.0, protocol::TCP, &bytes);
    bytes[16..18].copy_from_slice(&checksum.unwrap_or(right).to_be_bytes());
    bytes
}

/// A DCCP-Request packet with the right checksum over everything (RFC 4340 sections 5.1, 9.1).
pub fn dccp(
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = ports(source.1, destination.1);
    bytes.extend([5, 0, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    bytes.extend(payload);
    let right = transport_checksum(source.0, destination.0, protocol::DCCP, &bytes);
    bytes[6..8].copy_from_slice(&right.to_be_bytes());
    bytes
}

/// An ICMP echo request.
pub fn icmp_echo(identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(payload);
    let right = checksum(&bytes);
    bytes[2..4].copy_from_slice(&right.to_be_bytes());
    bytes
}

/// An ICMPv6 echo request to `destination` (RFC 4443 section 4.1).
pub fn icmpv6_echo(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![128, 0, 0, 0, 0, 7];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(payload);
    let right = transport_checksum(source, destination, protocol::ICMPV6, &bytes);
    bytes[2..4].copy_from_slice(&right.to_be_bytes());
    bytes
}

/// An ARP packet for Ethernet and IPv4 (RFC 826); operation 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender.0);
    bytes.extend(sender.1.octets());
    bytes.extend(target.0);
    bytes.extend(target.1.octets());
    bytes
}

/// The big-endian 16-bit number at `at`.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The IPv4 address at `at`.
pub fn address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// The IPv6 address at `at`.
pub fn address6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// `bytes` as lines of sixteen hexadecimal octets, for messages of failed tests.
pub fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| {
        let octets: Vec<_> = chunk.iter().map(|octet| format!("{octet:02x}")).collect();
        octets.join(" ")
    };
    let lines: Vec<_> = bytes.chunks(16).map(line).collect();
    lines.join("\n")
}

/// The octets written in hexadecimal in `text`; spaces, line ends and comments from `#` to the end
/// of the line are ignored.
///
/// # Panics
///
/// Where `text` has anything else.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().chars())
        .filter(|character| !character.is_whitespace())
        .map(|character| match character.to_digit(16) {
            Some(digit) => digit,
            None => panic!("{character:?} is not a hexadecimal digit"),
        })
        .collect();
    assert!(digits.len().is_multiple_of(2), "half an octet at the end");
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);

    #[test]
    fn checksum_of_rfc_1071() {
        // RFC 1071 section 3: the sum of these octets is ddf2.
        assert_eq!(sum(&unhex("00 01 f2 03 f4 f5 f6 f7")), 0xddf2);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }

    #[test]
    fn xcast_header_by_hand() {
        let destinations = vec![
            Destination::new([10u8, 1, 0, 7]).port(5001).ds(0xb8),
            Destination::new([10u8, 1, 1, 7])
                .port(5002)
                .ds(0x28)
                .cleared(),
            Destination::new([10u8, 1, 2, 7]).port(5003).ds(0x00),
        ];
        let header = Xcast {
            a: true,
            d: true,
            p: true,
            channel: 0x01020304,
            ..Xcast::new(protocol::UDP, destinations)
        };
        // Sum: 1b03 + 0102 + 0304 + 110a + a000 + 0a01 + 0007 + 0a01 + 0107 + 0a01 + 0207 + b828
        //    + 1389 + 138a + 138b = 1e3f1 -> e3f2, its complement 1c0d.
        let expected = unhex(
            "1b 03 1c 0d  # version 1, A D P; 3 destinations; checksum
             01 02 03 04  # channel
             11 0a 00 00  # UDP, 10 words
             a0 00 00 00  # first and third
             0a 01 00 07
             0a 01 01 07
             0a 01 02 07
             b8 28 00 00
             13 89 13 8a
             13 8b 00 00",
        );
        let emitted = header.emit(Family::Ipv4);
        assert_eq!(hex(&emitted), hex(&expected));
        let (parsed, rest) = Xcast::parse(Family::Ipv4, &emitted).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.emit(Family::Ipv4), emitted);
        assert_eq!(parsed.destinations, header.destinations);
    }

    #[test]
    fn xcast6_headers_by_hand() {
        let address = |last| [0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, last];
        let destinations = vec![
            Destination::new(address(1)).port(5001).ds(0xb8),
            Destination::new(address(2)).port(5002).ds(0x28).cleared(),
            Destination::new(address(3)).port(5003).ds(0x00),
        ];
        let header = Xcast {
            a: true,
            d: true,
            p: true,
            channel: 0x01020304,
            ..Xcast::new(protocol::UDP, destinations)
        };
        // Sum: 3c0a + fd00 + 1a03 + 0102 + 0304 + a000 + 3 * (2001 + 0db8) + 1 + 2 + 3 + b828
        //    = 3386c -> 386f, its complement c790.
        let expected = unhex(
            "3c 0a fd 00  # destination options follow; 11 units; routing type 253
             1a 03 c7 90  # version 1, A D; 3 destinations; checksum
             00 00 00 00 00 00 00 00 00 00 00 00 01 02 03 04  # channel
             a0 00 00 00 00 00 00 00                          # first and third
             20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01
             20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02
             20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 03
             b8 28 00 00 00 00 00 00
             11 01 5e 06  # UDP follows; 2 units; ports, 6 octets
             13 89 13 8a
             13 8b 00 00 00 00 00 00",
        );
        let emitted = header.emit(Family::Ipv6);
        assert_eq!(hex(&emitted), hex(&expected));
        let (parsed, rest) = Xcast::parse(Family::Ipv6, &emitted).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.emit(Family::Ipv6), emitted);
        assert_eq!(parsed.destinations, header.destinations);
    }

    #[test]
    fn ipv6_by_hand() {
        let ip = Ip {
            ds: 0xb9,
            flow_label: 0x12345,
            options: vec![1, 4, 0, 0, 0, 0],
            before: vec![(60, vec![0, 1, 4, 0, 0, 0, 0])],
            ..Ip::new(
                [0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, 9],
                [0xff02_u16, 0, 0, 0, 0, 0, 0, 0x114],
                protocol::ROUTING,
            )
        };
        let expected = unhex(
            "6b 91 23 45 00 13 00 40
             20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 09
             ff 02 00 00 00 00 00 00 00 00 00 00 00 00 01 14
             3c 00 01 04 00 00 00 00  # hop-by-hop options
             2b 00 01 04 00 00 00 00  # destination options, then a routing header
             61 62 63",
        );
        let packet = ip.emit(b"abc");
        assert_eq!(hex(&packet), hex(&expected));
        let (parsed, payload) = Ip::parse(Family::Ipv6, &packet).unwrap();
        assert_eq!(
            (parsed.emit(payload), payload),
            (packet.clone(), &b"abc"[..])
        );
    }

    #[test]
    fn ipv4_and_udp_by_hand() {
        let ip = Ip {
            ds: 0x2e << 2 | 1,
            identification: 0x1234,
            fragment: 0x4000,
            ..Ip::new(SOURCE, GROUP, protocol::UDP)
        };
        let packet = ip.emit(&udp((SOURCE, 4000), (GROUP, 5000), b"hello", None));
        // Header: 45b9 + 0021 + 1234 + 4000 + 4011 + 0a00 + 0009 + e000 + 00fe = 1c326 -> c327.
        // UDP: 0a00 + 0009 + e000 + 00fe + 0011 + 000d + 0fa0 + 1388 + 000d
        //    + 6865 + 6c6c + 6f00 = 2522b -> 522d.
        let expected = unhex(
            "45 b9 00 21 12 34 40 00 40 11 3c d8 0a 00 00 09 e0 00 00 fe
             0f a0 13 88 00 0d ad d2 68 65 6c 6c 6f",
        );
        assert_eq!(hex(&packet), hex(&expected));
        let (parsed, payload) = Ip::parse(Family::Ipv4, &packet).unwrap();
        assert_eq!(parsed.emit(payload), packet);
        assert_eq!(transport_checksum(SOURCE, GROUP, protocol::UDP, payload), 0);
    }

    #[test]
    fn transports_verify() {
        let source = (SOURCE, 1);
        let destination = (GROUP, 2);
        for (number, segment) in [
            (protocol::UDP, udp(source, destination, b"abc", None)),
            (
                protocol::UDP_LITE,
                udp_like(protocol::UDP_LITE, source, destination, b"abc", None),
            ),
            (protocol::TCP, tcp(source, destination, 7, b"abc", None)),
            (protocol::DCCP, dccp(source, destination, b"abc")),
        ] {
            assert_eq!(transport_checksum(SOURCE, GROUP, number, &segment), 0);
        }
        assert_eq!(checksum(&icmp_echo(1, 2, b"abc")), 0);
    }

    #[test]
    fn group_mac_of_a_high_group() {
        assert_eq!(group_mac([239, 129, 2, 3]), [0x01, 0x00, 0x5e, 1, 2, 3]);
    }
}
