//! Building Xcast packets around UDP, and the two ways to send them past the kernel's own sockets.
//!
//! Nothing here depends on the datapath: the builder follows RFC 5058 sections 9.2 and 11, and
//! fills in every checksum itself, because a network card asked to do it would look for UDP where
//! the Xcast header is.

use std::{io, net::Ipv4Addr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;
use xcast_common::{
    checksum::Sum,
    wire::{self, FLAG_A, FLAG_D, FLAG_P, FLAG_X, MAX_DESTINATIONS, VERSION, transport},
};

use crate::config::CodePoints;

/// Length of a UDP header, in octets.
const UDP_LEN: usize = 8;

/// One entry of the destination list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the payload is to go.
    pub address: Ipv4Addr,
    /// To which UDP port.
    pub port: u16,
    /// With which DSCP; [`Packet::dscp`] unless given.
    pub dscp: Option<u8>,
}

/// An Xcast4 packet that carries a UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Numbers that mark it as Xcast.
    pub code_points: CodePoints,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination: the group, or an address of a router.
    pub to: Ipv4Addr,
    /// Time to live.
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
    /// The destination list, 1 to 127 entries.
    pub entries: Vec<Entry>,
    /// P also where all entries have one port, which the UDP header could carry.
    pub port_list: bool,
    /// What receivers are to get.
    pub payload: Vec<u8>,
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
    /// The DSCP has more than six bits.
    #[error("DSCP {0}: it has six bits, 0 to 63")]
    Dscp(u8),
    /// The IP length field cannot express it.
    #[error("packet of {0} octets: an IPv4 packet has at most 65535, so shorten the payload")]
    TooLong(usize),
}

impl Packet {
    /// The flags of the Xcast header. P and D are set where the list needs them.
    pub fn flags(&self) -> u8 {
        let ports_differ = self
            .entries
            .windows(2)
            .any(|pair| pair[0].port != pair[1].port);
        let mut flags = 0;
        for (set, flag) in [
            (self.anonymous, FLAG_A),
            (self.x, FLAG_X),
            (
                self.entries.iter().any(|entry| entry.dscp.is_some()),
                FLAG_D,
            ),
            (self.port_list || ports_differ, FLAG_P),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// The packet from the IP header on, complete with checksums.
    ///
    /// # Errors
    ///
    /// See [`PacketError`].
    pub fn build(&self) -> Result<Vec<u8>, PacketError> {
        if !(1..=MAX_DESTINATIONS).contains(&self.entries.len()) {
            return Err(PacketError::Destinations(self.entries.len()));
        }
        let dscps = self.entries.iter().filter_map(|entry| entry.dscp);
        if let Some(dscp) = dscps.chain([self.dscp]).find(|dscp| *dscp > 63) {
            return Err(PacketError::Dscp(dscp));
        }
        let xcast = self.xcast_header();
        let length = wire::IPV4_LEN + xcast.len() + UDP_LEN + self.payload.len();
        let total_len = u16::try_from(length).map_err(|_| PacketError::TooLong(length))?;

        let mut packet = self.ip_header(total_len);
        packet.extend(xcast);
        packet.extend(self.udp_datagram());
        Ok(packet)
    }

    fn ip_header(&self, total_len: u16) -> Vec<u8> {
        let mut header = vec![0x45, self.dscp << 2];
        header.extend(total_len.to_be_bytes());
        // No identification is needed: routers refuse fragments of Xcast packets, so that DF says
        // what will happen anyway.
        header.extend([0, 0, 0x40, 0]);
        header.extend([self.ttl, self.code_points.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.to.octets());
        store_checksum(&mut header, 10);
        header
    }

    /// RFC 5058 section 9.2.2.
    fn xcast_header(&self) -> Vec<u8> {
        let flags = self.flags();
        // Checked by the caller: at most 127 destinations, so at most 230 words.
        let count = self.entries.len() as u8;
        let len_words = wire::header_words(u32::from(count), flags) as u8;

        let mut header = vec![VERSION << 4 | flags, count, 0, 0];
        header.extend(self.channel.to_be_bytes());
        header.extend([transport::UDP, len_words, 0, 0]);
        for chunk in self.entries.chunks(32) {
            header.extend((u32::MAX << (32 - chunk.len())).to_be_bytes());
        }
        for entry in &self.entries {
            header.extend(entry.address.octets());
        }
        if flags & FLAG_D != 0 {
            header.extend(
                self.entries
                    .iter()
                    .map(|entry| entry.dscp.unwrap_or(self.dscp) << 2),
            );
            header.resize(header.len().next_multiple_of(4), 0);
        }
        if flags & FLAG_P != 0 {
            for entry in &self.entries {
                header.extend(entry.port.to_be_bytes());
            }
            header.resize(header.len().next_multiple_of(4), 0);
        }
        store_checksum(&mut header, 2);
        header
    }

    /// UDP as the source sends it: the destination is the group, whatever the IP destination is,
    /// and the port is the one all entries share, or 0 where each has its own.
    fn udp_datagram(&self) -> Vec<u8> {
        let port = match self.flags() & FLAG_P {
            0 => self.entries[0].port,
            _ => 0,
        };
        // The IP packet, 40 octets longer at least, was checked to fit 16 bits.
        let udp_len = (UDP_LEN + self.payload.len()) as u16;
        let mut datagram = Vec::with_capacity(usize::from(udp_len));
        for field in [self.source_port, port, udp_len, 0] {
            datagram.extend(field.to_be_bytes());
        }
        datagram.extend(&self.payload);

        let mut pseudo_header = Vec::new();
        pseudo_header.extend(self.source.octets());
        pseudo_header.extend(self.code_points.group.octets());
        pseudo_header.extend([0, transport::UDP]);
        pseudo_header.extend(udp_len.to_be_bytes());
        let checksum = match sum(sum(Sum::default(), &pseudo_header), &datagram).checksum() {
            // 0 would say that there is no checksum (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_ne_bytes());
        datagram
    }
}

/// Adds octets, the last one padded with a zero if they are odd in number.
fn sum(sum: Sum, octets: &[u8]) -> Sum {
    octets.chunks(2).fold(sum, |sum, pair| {
        sum.add16(u16::from_ne_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    })
}

fn store_checksum(header: &mut [u8], at: usize) {
    let checksum = sum(Sum::default(), header).checksum();
    header[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
}

/// A way for packets to leave this host. Both need CAP_NET_RAW.
#[derive(Debug)]
pub enum Way {
    /// To their IP destination, by the kernel's routes: it also resolves the next hop's address.
    Route {
        /// A raw IP socket.
        socket: Socket,
        /// IP destination of the packets.
        to: Ipv4Addr,
    },
    /// In a frame of our own making, whatever their IP destination is.
    Frame {
        /// A packet socket.
        socket: Socket,
        /// Interface to send by.
        address: SockAddr,
        /// The Ethernet header.
        header: [u8; wire::ETH_LEN],
    },
}

impl Way {
    /// Sends to `to`, by `interface` only if one is given.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW, or if there is no such interface.
    pub fn route(to: Ipv4Addr, interface: Option<&str>) -> io::Result<Self> {
        // IPPROTO_RAW: packets are given with their IP header, and none are received.
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        socket.bind_device(interface.map(str::as_bytes))?;
        Ok(Self::Route { socket, to })
    }

    /// Sends from one link layer address to another, by the interface with index `ifindex`.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn frame(ifindex: u32, source: [u8; 6], destination: [u8; 6]) -> io::Result<Self> {
        // Protocol 0: nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let ethertype = wire::eth::TYPE_IPV4.to_be_bytes();
        let mut header = [0; wire::ETH_LEN];
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&ethertype);
        Ok(Self::Frame {
            socket,
            address: link_address(ifindex),
            header,
        })
    }

    /// Sends one packet, given from its IP header on.
    ///
    /// # Errors
    ///
    /// What the kernel says, with the remedy where it is known.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Route { socket, to } => {
                let to = std::net::SocketAddrV4::new(*to, 0);
                socket.send_to(packet, &to.into())?;
            }
            Self::Frame {
                socket,
                address,
                header,
            } => {
                socket.send_to(&[header, packet].concat(), address)?;
            }
        }
        Ok(())
    }
}

/// The address of an interface, for packet sockets.
fn link_address(ifindex: u32) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than any socket address and aligned for each; its zeroes are a
    // valid `sockaddr_ll`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = wire::eth::TYPE_IPV4.to_be();
    address.sll_ifindex = ifindex as i32;
    // SAFETY: the storage was just made a `sockaddr_ll`, whose length this is.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(entries: &[(&str, u16, Option<u8>)]) -> Packet {
        Packet {
            code_points: CodePoints {
                protocol: 253,
                group: Ipv4Addr::new(224, 0, 0, 254),
            },
            source: Ipv4Addr::new(10, 0, 0, 1),
            to: Ipv4Addr::new(224, 0, 0, 254),
            ttl: 64,
            dscp: 0,
            channel: 0,
            x: false,
            anonymous: false,
            source_port: 4000,
            entries: entries
                .iter()
                .map(|&(address, port, dscp)| Entry {
                    address: address.parse().unwrap(),
                    port,
                    dscp,
                })
                .collect(),
            port_list: false,
            payload: b"hi!".to_vec(),
        }
    }

    /// Written out by hand from RFC 5058 section 9.2, sums and all.
    #[test]
    fn two_ports_byte_for_byte() {
        let mut packet = packet(&[("10.1.0.2", 5000, None), ("10.2.0.2", 6000, None)]);
        packet.channel = 0x0102_0304;
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
        assert_eq!(packet.build().unwrap(), expected);
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
                let mut packet = packet(&[]);
                packet.to = Ipv4Addr::new(10, 0, 0, 254);
                packet.anonymous = flags & FLAG_A != 0;
                packet.x = flags & FLAG_X != 0;
                packet.port_list = flags & FLAG_P != 0;
                packet.entries = (0..count)
                    .map(|i| Entry {
                        address: Ipv4Addr::new(10, 9, 0, i),
                        port: 7000,
                        dscp: (flags & FLAG_D != 0).then_some(i % 64),
                    })
                    .collect();
                let bytes = packet.build().unwrap();
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
        let mut packet = packet(&[("10.1.0.2", 5000, Some(46)), ("10.2.0.2", 5000, None)]);
        packet.dscp = 10;
        let bytes = packet.build().unwrap();
        assert_eq!(bytes[1], 10 << 2);
        assert_eq!(bytes[20], 0x12, "D and not P: the ports are equal");
        assert_eq!(bytes[44..48], [46 << 2, 10 << 2, 0, 0]);
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused() {
        assert_eq!(packet(&[]).build(), Err(PacketError::Destinations(0)));
        let entry = ("10.1.0.2", 5000, None);
        assert_eq!(
            packet(&[entry; 128]).build(),
            Err(PacketError::Destinations(128))
        );
        assert!(packet(&[entry; 127]).build().is_ok());
        assert_eq!(
            packet(&[("10.1.0.2", 1, Some(64))]).build(),
            Err(PacketError::Dscp(64))
        );
        let mut long = packet(&[entry]);
        long.payload = vec![0; 65535 - 20 - 20 - 8];
        assert_eq!(long.build().unwrap().len(), 65535);
        long.payload.push(0);
        assert_eq!(long.build(), Err(PacketError::TooLong(65536)));
    }
}
