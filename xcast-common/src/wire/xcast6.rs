//! Offsets in a frame that carries an Xcast6 packet, with nothing between the IPv6 header and the
//! routing header (RFC 5058 section 9.3.2).
//!
//! ```text
//!  0               1               2               3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Header  |  HdrExtLen    | Routing Type  | Segments Left |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |VERSION|A|X|D| R | NBR_OF_DEST |          CHECKSUM             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                CHANNEL IDENTIFIER, 16 octets                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | BITMAP: 64 bits per 64 destinations begun                     |
//! | NBR_OF_DEST addresses, 16 octets each                         |
//! | D: NBR_OF_DEST DS bytes, padded to 8 octets                   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! There is no P bit: ports are there if the next header is a destination options header whose first
//! option is that for ports.

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
