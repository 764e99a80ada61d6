//! Frames, field by field: builders that can also build wrong ones, and a parser.
//!
//! Written from RFC 791, 768, 9293, 792 and RFC 5058 section 9.2, on plain byte vectors, and on
//! purpose without any of the router's own code: what the tests expect must not share the router's
//! mistakes. A field that depends on others (lengths, checksums, counts) is an `Option`: `None` is
//! the right value, `Some` is put into the packet as it stands.

use std::net::Ipv4Addr;

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
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
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
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    let mut bytes = Vec::with_capacity(12 + segment.len());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend([0, protocol]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    checksum(&bytes)
}

/// The link layer address a multicast group is sent to (RFC 1112 section 6.4).
pub fn group_mac(group: Ipv4Addr) -> Mac {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
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

/// An IPv4 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: Option<u8>,
    /// DS field: DSCP and ECN.
    pub ds: u8,
    /// Total length.
    pub total_len: Option<u16>,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: Option<u16>,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Options, a multiple of four octets.
    pub options: Vec<u8>,
}

impl Ipv4 {
    /// A plain header: TTL 64, nothing else set.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            version_ihl: None,
            ds: 0,
            total_len: None,
            identification: 0,
            fragment: 0,
            ttl: 64,
            protocol,
            checksum: None,
            source,
            destination,
            options: Vec::new(),
        }
    }

    /// The packet with this header and `payload`.
    pub fn emit(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = IPV4_LEN + self.options.len();
        let ihl = 0x40 | (header_len / 4) as u8;
        let total_len = (header_len + payload.len()) as u16;
        let mut bytes = vec![self.version_ihl.unwrap_or(ihl), self.ds];
        bytes.extend(self.total_len.unwrap_or(total_len).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let checksum = self.checksum.unwrap_or(checksum(&bytes));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Reads the header at the start of `bytes`, with every field as it stands, and what follows it
    /// up to the total length. `None` where `bytes` ends too early.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let header_len = usize::from(bytes.first()? & 0x0f) * 4;
        let total_len = be16(bytes, 2)?;
        let header = Self {
            version_ihl: Some(bytes[0]),
            ds: bytes[1],
            total_len: Some(total_len),
            identification: be16(bytes, 4)?,
            fragment: be16(bytes, 6)?,
            ttl: *bytes.get(8)?,
            protocol: *bytes.get(9)?,
            checksum: Some(be16(bytes, 10)?),
            source: address(bytes, 12)?,
            destination: address(bytes, 16)?,
            options: bytes.get(IPV4_LEN..header_len)?.to_vec(),
        };
        Some((header, bytes.get(header_len..usize::from(total_len))?))
    }
}

/// One entry of the destination list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its bit in the bitmap: only then it counts.
    pub valid: bool,
    /// Address.
    pub address: Ipv4Addr,
    /// DS byte, there if D is set.
    pub ds: u8,
    /// Port, there if P is set.
    pub port: u16,
}

impl Destination {
    /// A valid entry without DS byte and port.
    pub fn new(address: impl Into<Ipv4Addr>) -> Self {
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

/// An Xcast4 header (RFC 5058 section 9.2.2).
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
    /// Channel identifier.
    pub channel: u32,
    /// Protocol of what follows.
    pub protocol: u8,
    /// LENGTH, in words.
    pub len_words: Option<u8>,
    /// RESV.
    pub reserved: u16,
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
            destinations,
            stray_bits: false,
            padding: 0,
        }
    }

    /// The header's octets.
    pub fn emit(&self) -> Vec<u8> {
        let count = self.destinations.len();
        let flags = [self.a, self.x, self.d, self.p];
        let flags = flags.iter().fold(0, |bits, &set| bits << 1 | u8::from(set));
        let mut bytes = vec![
            self.version << 4 | flags,
            self.count.unwrap_or(count as u8) | u8::from(self.r) << 7,
            0,
            0,
        ];
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend([self.protocol, 0]);
        bytes.extend(self.reserved.to_be_bytes());

        let mut bitmap = vec![0; count.div_ceil(32) * 4];
        for bit in 0..bitmap.len() * 8 {
            let set = match self.destinations.get(bit) {
                Some(destination) => destination.valid,
                None => self.stray_bits,
            };
            bitmap[bit / 8] |= u8::from(set) << (7 - bit % 8);
        }
        bytes.extend(bitmap);
        for destination in &self.destinations {
            bytes.extend(destination.address.octets());
        }
        if self.d {
            bytes.extend(self.destinations.iter().map(|destination| destination.ds));
            self.pad(&mut bytes);
        }
        if self.p {
            for destination in &self.destinations {
                bytes.extend(destination.port.to_be_bytes());
            }
            self.pad(&mut bytes);
        }
        bytes[9] = self.len_words.unwrap_or((bytes.len() / 4) as u8);
        let checksum = self.checksum.unwrap_or(checksum(&bytes));
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn pad(&self, bytes: &mut Vec<u8>) {
        while !bytes.len().is_multiple_of(4) {
            bytes.push(self.padding);
        }
    }

    /// Reads the header at the start of `bytes`, with every field as it stands, and what follows.
    /// The places of the variable fields follow from NBR_OF_DEST and the flags, not from LENGTH.
    /// `None` where `bytes` ends too early.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
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
            channel: u32::from_be_bytes(bytes[4..8].try_into().ok()?),
            protocol: bytes[8],
            len_words: Some(bytes[9]),
            reserved: be16(bytes, 10)?,
            destinations,
            stray_bits: (count..count.div_ceil(32) * 32).any(bit),
            padding: 0,
        };
        Some((header, rest))
    }
}

/// An Xcast4 packet in its frame, as a sender makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC.
    pub destination_mac: Mac,
    /// Source MAC.
    pub source_mac: Mac,
    /// IPv4 header.
    pub ip: Ipv4,
    /// Xcast4 header.
    pub xcast: Xcast,
    /// Transport header and payload.
    pub segment: Vec<u8>,
}

impl Packet {
    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let payload = [self.xcast.emit(), self.segment.clone()].concat();
        ethernet(
            self.destination_mac,
            self.source_mac,
            ETHER_TYPE_IPV4,
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
    /// IPv4 header.
    pub ip: Ipv4,
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
    pub fn around(packet: &Packet, router: Ipv4Addr, port: u16) -> Self {
        Self {
            destination_mac: packet.destination_mac,
            source_mac: packet.source_mac,
            ip: Ipv4::new(packet.ip.source, router, protocol::UDP),
            source_port: 40_000,
            port,
            len: None,
            checksum: None,
            payload: packet.frame()[ETHERNET_LEN..].to_vec(),
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let from = (self.ip.source, self.source_port);
        let to = (self.ip.destination, self.port);
        let mut datagram = udp(from, to, &self.payload, self.checksum);
        if let Some(len) = self.len {
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let packet = self.ip.emit(&datagram);
        ethernet(
            self.destination_mac,
            self.source_mac,
            ETHER_TYPE_IPV4,
            &packet,
        )
    }
}

/// A UDP packet; `None` for the right checksum.
pub fn udp(
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    payload: &[u8],
    checksum: Option<u16>,
) -> Vec<u8> {
    udp_like(protocol::UDP, source, destination, payload, checksum)
}

/// A packet with UDP's header layout: UDP, or UDP-Lite covering everything.
pub fn udp_like(
    protocol: u8,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
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
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
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
pub fn dccp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
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
pub fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
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
            Destination::new([10, 1, 0, 7]).port(5001).ds(0xb8),
            Destination::new([10, 1, 1, 7])
                .port(5002)
                .ds(0x28)
                .cleared(),
            Destination::new([10, 1, 2, 7]).port(5003).ds(0x00),
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
        let emitted = header.emit();
        assert_eq!(hex(&emitted), hex(&expected));
        let (parsed, rest) = Xcast::parse(&emitted).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.emit(), emitted);
        assert_eq!(parsed.destinations, header.destinations);
    }

    #[test]
    fn ipv4_and_udp_by_hand() {
        let ip = Ipv4 {
            ds: 0x2e << 2 | 1,
            identification: 0x1234,
            fragment: 0x4000,
            ..Ipv4::new(SOURCE, GROUP, protocol::UDP)
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
        let (parsed, payload) = Ipv4::parse(&packet).unwrap();
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
        assert_eq!(
            group_mac([239, 129, 2, 3].into()),
            [0x01, 0x00, 0x5e, 1, 2, 3]
        );
    }
}
