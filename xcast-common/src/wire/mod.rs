//! Packet formats.
//!
//! This module has the offsets and numbers that both families need: Ethernet, IP, UDP, transport protocols,
//! and the flags of an Xcast header. The Xcast headers are in [`xcast4`] and [`xcast6`]. Fields are read and
//! written through [`frame`], and stay in network byte order ([`endian`]). [`address`] is what IPv4 and IPv6
//! addresses have in common; [`checksum`] is one's complement arithmetic.

pub mod address;
pub mod checksum;
pub mod cookie;
pub mod endian;
pub mod frame;
pub mod origin;
pub mod xcast4;
pub mod xcast6;

pub use self::endian::{Be16, Be32, Be128};

use network_types::{eth::EthHdr, ip::Ipv4Hdr};

/// Length of an Ethernet header without tags, in octets.
pub const ETH_LEN: usize = EthHdr::LEN;
/// Length of an IPv4 header without options, in octets.
pub const IPV4_LEN: usize = Ipv4Hdr::LEN;

/// Xcast version of RFC 5058.
pub const VERSION: u8 = 1;
/// A: addresses of destinations that left the list are zeroed.
pub const FLAG_A: u8 = 1 << 3;
/// X: the packet must stay an Xcast packet end to end.
pub const FLAG_X: u8 = 1 << 2;
/// D: a DS byte per destination is present.
pub const FLAG_D: u8 = 1 << 1;
/// P: a port per destination is present.
pub const FLAG_P: u8 = 1 << 0;
/// Mask of NBR_OF_DEST in its octet; the eighth bit is R, ignored.
pub const DEST_COUNT_MASK: u8 = 0x7f;

/// Offsets in an Ethernet frame.
pub mod eth {
    /// Destination MAC address, 6 octets.
    pub const DESTINATION: usize = 0;
    /// Source MAC address, 6 octets.
    pub const SOURCE: usize = 6;
    /// In frames for the kernel stack, which never leave the router: the slot of the port that their packet arrived
    /// at, with [`ASK_WAY_BACK`](crate::packet::ASK_WAY_BACK). It is the last octet of the source MAC address.
    pub const ARRIVAL: usize = 11;
    /// EtherType, 2 octets.
    pub const ETHER_TYPE: usize = 12;
    /// EtherType of IPv4.
    pub const TYPE_IPV4: u16 = 0x0800;
    /// EtherType of IPv6.
    pub const TYPE_IPV6: u16 = 0x86dd;
}

/// Offsets in a frame that carries an untagged IPv4 packet.
pub mod ipv4 {
    use super::ETH_LEN;

    /// Version and header length in words.
    pub const VERSION_IHL: usize = ETH_LEN;
    /// DS field.
    pub const DS: usize = ETH_LEN + 1;
    /// Total length, 2 octets.
    pub const TOTAL_LEN: usize = ETH_LEN + 2;
    /// Flags and fragment offset, 2 octets.
    pub const FRAGMENT: usize = ETH_LEN + 6;
    /// Time to live.
    pub const TTL: usize = ETH_LEN + 8;
    /// Protocol.
    pub const PROTOCOL: usize = ETH_LEN + 9;
    /// Header checksum, 2 octets.
    pub const CHECKSUM: usize = ETH_LEN + 10;
    /// Source address, 4 octets.
    pub const SOURCE: usize = ETH_LEN + 12;
    /// Destination address, 4 octets.
    pub const DESTINATION: usize = ETH_LEN + 16;
    /// More fragments, and the fragment offset: anything set means a fragment.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// The fragment offset: anything set means a fragment that is not the first one.
    pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
}

/// Offsets in a frame that carries an untagged IPv6 packet, and numbers of its headers.
pub mod ipv6 {
    use super::ETH_LEN;

    /// Length of the header, in octets.
    pub const LEN: usize = network_types::ip::Ipv6Hdr::LEN;
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub const VERSION_CLASS_FLOW: usize = ETH_LEN;
    /// Length of what follows the header, 2 octets.
    pub const PAYLOAD_LEN: usize = ETH_LEN + 4;
    /// What follows.
    pub const NEXT_HEADER: usize = ETH_LEN + 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = ETH_LEN + 7;
    /// Source address, 16 octets.
    pub const SOURCE: usize = ETH_LEN + 8;
    /// Destination address, 16 octets.
    pub const DESTINATION: usize = ETH_LEN + 24;

    /// Hop-by-hop options.
    pub const HOP_BY_HOP_OPTIONS: u8 = 0;
    /// Routing header.
    pub const ROUTING_HEADER: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT_HEADER: u8 = 44;
    /// Destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Protocol numbers of packets inside packets.
pub mod in_ip {
    /// IPv4 (RFC 2003).
    pub const IPV4: u8 = 4;
    /// IPv6 (RFC 4213, RFC 2473).
    pub const IPV6: u8 = 41;
}

/// Explicit congestion notification (RFC 3168 section 5): the low two bits of the DS field's octet.
pub mod ecn {
    /// Mask of the two bits.
    pub const MASK: u8 = 3;
    /// The transport does not understand it.
    pub const NOT_ECT: u8 = 0;
    /// ECN-capable transport, ECT(1).
    pub const ECT_1: u8 = 1;
    /// ECN-capable transport, ECT(0).
    pub const ECT_0: u8 = 2;
    /// Congestion was experienced.
    pub const CE: u8 = 3;
}

/// Offsets in a UDP header, and its length.
pub mod udp {
    /// Source port, 2 octets.
    pub const SOURCE_PORT: usize = 0;
    /// Destination port, 2 octets.
    pub const DESTINATION_PORT: usize = 2;
    /// Length of header and payload, 2 octets.
    pub const LENGTH: usize = 4;
    /// Checksum, 2 octets.
    pub const CHECKSUM: usize = 6;
    /// Length of the header, in octets.
    pub const HEADER_LEN: usize = 8;
}

/// Transport protocols whose checksum covers the destination address.
pub mod transport {
    /// ICMP: no ports, no pseudo header.
    pub const ICMP: u8 = 1;
    /// TCP: checksum at octet 16.
    pub const TCP: u8 = 6;
    /// UDP: checksum at octet 6, 0 for none.
    pub const UDP: u8 = 17;
    /// ICMPv6: no ports, checksum at octet 2.
    pub const ICMPV6: u8 = 58;
    /// DCCP: checksum at octet 6.
    pub const DCCP: u8 = 33;
    /// UDP-Lite: checksum at octet 6, always present.
    pub const UDP_LITE: u8 = 136;
}
