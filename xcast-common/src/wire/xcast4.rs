//! Where the fields of an Xcast4 header are (RFC 5058 section 9.2.2): offsets in a frame that carries an
//! untagged Xcast4 packet, and lengths.
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

use super::{ETH_LEN, FLAG_D, FLAG_P, IPV4_LEN};

/// Where the Xcast header starts in a frame.
pub const XCAST_AT: usize = ETH_LEN + IPV4_LEN;
/// Length of the Xcast header's fixed part, in octets.
pub const FIXED_LEN: usize = 12;
/// Most destinations a header can name (NBR_OF_DEST has seven bits).
pub const MAX_DESTINATIONS: usize = 127;
/// Longest Xcast header: 127 destinations with DS bytes and ports, in octets.
pub const MAX_HEADER_LEN: usize =
    4 * header_words(MAX_DESTINATIONS as u32, FLAG_D | FLAG_P) as usize;

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
