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
