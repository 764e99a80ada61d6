//! Where the fields of an Xcast4 packet are: Ethernet, IPv4, and the header of RFC 5058 section
//! 9.2.2.
//!
//! ```text
//!  0               1               2               3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |VERSION|A|X|D|P|R| NBR_OF_DEST |          CHECKSUM             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       CHANNEL IDENTIFIER                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |    PROT ID    |    LENGTH     |             RESV              |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | BITMAP: 32 bits per 32 destinations begun                     |
//! | NBR_OF_DEST addresses, 4 octets each                          |
//! | D: NBR_OF_DEST DS bytes, padded to 4 octets                   |
//! | P: NBR_OF_DEST ports, 2 octets each, padded to 4 octets       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The RFC draws neither the place of the DS bytes nor their padding; directly after the addresses
//! and padded like the ports is this project's reading.

use network_types::{eth::EthHdr, ip::Ipv4Hdr};

/// A 16-bit field as it lies in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Be16(u16);

/// A 32-bit field as it lies in a packet; an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Be32(u32);

macro_rules! big_endian {
    ($name:ident, $native:ty) => {
        impl $name {
            /// From a number.
            #[inline(always)]
            pub const fn new(value: $native) -> Self {
                Self(value.to_be())
            }

            /// From the field's memory, read as a native integer.
            #[inline(always)]
            pub const fn from_memory(raw: $native) -> Self {
                Self(raw)
            }

            /// The field's memory, read as a native integer: what one's complement sums add up.
            #[inline(always)]
            pub const fn memory(self) -> $native {
                self.0
            }

            /// The number the field stands for.
            #[inline(always)]
            pub const fn value(self) -> $native {
                <$native>::from_be(self.0)
            }
        }
    };
}

big_endian!(Be16, u16);
big_endian!(Be32, u32);

impl From<core::net::Ipv4Addr> for Be32 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self::new(address.to_bits())
    }
}

impl From<Be32> for core::net::Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from_bits(address.value())
    }
}

/// Length of an Ethernet header without tags, in octets.
pub const ETH_LEN: usize = EthHdr::LEN;
/// Length of an IPv4 header without options, in octets.
pub const IPV4_LEN: usize = Ipv4Hdr::LEN;
/// Where the Xcast header starts in a frame.
pub const XCAST_AT: usize = ETH_LEN + IPV4_LEN;
/// Length of the Xcast header's fixed part, in octets.
pub const FIXED_LEN: usize = 12;
/// Most destinations a header can name (NBR_OF_DEST has seven bits).
pub const MAX_DESTINATIONS: usize = 127;
/// Longest Xcast header: 127 destinations with DS bytes and ports, in octets.
pub const MAX_HEADER_LEN: usize =
    4 * header_words(MAX_DESTINATIONS as u32, FLAG_D | FLAG_P) as usize;

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

/// Offsets in a frame that carries an Xcast4 packet.
pub mod xcast {
    use super::XCAST_AT;

    /// VERSION, A, X, D, P.
    pub const VERSION_FLAGS: usize = XCAST_AT;
    /// R, NBR_OF_DEST.
    pub const DEST_COUNT: usize = XCAST_AT + 1;
    /// CHECKSUM over the Xcast header, 2 octets.
    pub const CHECKSUM: usize = XCAST_AT + 2;
    /// CHANNEL IDENTIFIER, 4 octets.
    pub const CHANNEL: usize = XCAST_AT + 4;
    /// PROT ID: protocol of what follows.
    pub const PROTOCOL: usize = XCAST_AT + 8;
    /// LENGTH of the Xcast header, in 4-octet words.
    pub const LEN_WORDS: usize = XCAST_AT + 9;
    /// RESV, 2 octets.
    pub const RESERVED: usize = XCAST_AT + 10;
    /// BITMAP, one word per 32 destinations begun; the most significant bit of the first word
    /// belongs to the first destination.
    pub const BITMAP: usize = XCAST_AT + 12;
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

/// Offsets in a frame that carries an Xcast6 packet, with nothing between the IPv6 header and the
/// routing header (RFC 5058 section 9.3.2).
///
/// ```text
///  0               1               2               3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Next Header  |  HdrExtLen    | Routing Type  | Segments Left |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |VERSION|A|X|D| R | NBR_OF_DEST |          CHECKSUM             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                CHANNEL IDENTIFIER, 16 octets                  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | BITMAP: 64 bits per 64 destinations begun                     |
/// | NBR_OF_DEST addresses, 16 octets each                         |
/// | D: NBR_OF_DEST DS bytes, padded to 8 octets                   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// There is no P bit: ports are there if the next header is a destination options header whose first
/// option is that for ports.
pub mod xcast6 {
    use super::{ETH_LEN, FLAG_D, ipv6};

    /// Where the routing header starts.
    pub const XCAST_AT: usize = ETH_LEN + ipv6::LEN;
    /// Length of its fixed part, in octets.
    pub const FIXED_LEN: usize = 24;
    /// Most destinations: HdrExtLen has room for no more. With DS bytes, 118.
    pub const MAX_DESTINATIONS: usize = 125;
    /// Longest routing header, in octets.
    pub const MAX_HEADER_LEN: u32 = 8 * 256;

    /// What follows the routing header.
    pub const NEXT_HEADER: usize = XCAST_AT;
    /// HdrExtLen: its length in units of 8 octets, the first unit not counted.
    pub const LEN_UNITS: usize = XCAST_AT + 1;
    /// Routing type.
    pub const ROUTING_TYPE: usize = XCAST_AT + 2;
    /// Segments left: always 0, so that whoever does not know the type ignores the header.
    pub const SEGMENTS_LEFT: usize = XCAST_AT + 3;
    /// VERSION, A, X, D, and a reserved bit.
    pub const VERSION_FLAGS: usize = XCAST_AT + 4;
    /// A reserved bit, NBR_OF_DEST.
    pub const DEST_COUNT: usize = XCAST_AT + 5;
    /// CHECKSUM over the routing header, 2 octets.
    pub const CHECKSUM: usize = XCAST_AT + 6;
    /// CHANNEL IDENTIFIER, 16 octets.
    pub const CHANNEL: usize = XCAST_AT + 8;
    /// BITMAP; the most significant bit of the first octet belongs to the first destination.
    pub const BITMAP: usize = XCAST_AT + FIXED_LEN;

    /// Offsets in the destination options header that lists ports.
    pub mod ports {
        /// HdrExtLen.
        pub const LEN_UNITS: usize = 1;
        /// Type of the option.
        pub const OPTION_TYPE: usize = 2;
        /// Length of the ports, in octets.
        pub const OPTION_LEN: usize = 3;
        /// The ports, 2 octets each; then zeros, which are options that pad.
        pub const LIST: usize = 4;
    }

    /// Length of a routing header with `count` destinations, in units of 8 octets. Only D counts in
    /// `flags`.
    #[inline(always)]
    pub const fn routing_units(count: u32, flags: u8) -> u32 {
        let ds = if flags & FLAG_D != 0 {
            (count + 7) >> 3
        } else {
            0
        };
        FIXED_LEN as u32 / 8 + ((count + 63) >> 6) + 2 * count + ds
    }

    /// Length of the header that lists `count` ports, in units of 8 octets.
    #[inline(always)]
    pub const fn ports_units(count: u32) -> u32 {
        (ports::LIST as u32 + 2 * count + 7) >> 3
    }

    const _: () = {
        assert!(routing_units(MAX_DESTINATIONS as u32, 0) <= 256);
        assert!(routing_units(MAX_DESTINATIONS as u32 + 1, 0) > 256);
        assert!(routing_units(118, FLAG_D) <= 256 && routing_units(119, FLAG_D) > 256);
    };
}

/// Offsets in a UDP header, and its length.
pub mod udp {
    /// Destination port, 2 octets.
    pub const DESTINATION_PORT: usize = 2;
    /// Length of header and payload, 2 octets.
    pub const LENGTH: usize = 4;
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

/// Words of bitmap for `count` destinations.
#[inline(always)]
pub const fn bitmap_words(count: u32) -> u32 {
    count.div_ceil(32)
}

/// Words of DS bytes for `count` destinations, if `flags` has D.
#[inline(always)]
pub const fn ds_words(count: u32, flags: u8) -> u32 {
    if flags & FLAG_D != 0 {
        (count + 3) >> 2
    } else {
        0
    }
}

/// Words of ports for `count` destinations, if `flags` has P.
#[inline(always)]
pub const fn port_words(count: u32, flags: u8) -> u32 {
    if flags & FLAG_P != 0 {
        (count + 1) >> 1
    } else {
        0
    }
}

/// LENGTH of a header with `count` destinations and `flags`, in 4-octet words.
#[inline(always)]
pub const fn header_words(count: u32, flags: u8) -> u32 {
    FIXED_LEN as u32 / 4
        + bitmap_words(count)
        + count
        + ds_words(count, flags)
        + port_words(count, flags)
}

const _: () = assert!(MAX_HEADER_LEN == 920);
