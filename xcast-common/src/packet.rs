//! What is known of an accepted packet, and why a frame is none.

use crate::{
    maps::{counter::Counter, port::MAX_PORTS},
    wire::{cookie, endian::Be16},
};

/// What is known of an accepted packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Length of the IP packet, in octets; the frame has at least that much.
    pub total_len: u16,
    /// Length of the Xcast header, in octets; of Xcast6, routing header and ports.
    pub header_len: u16,
    /// Length of the headers between the IP header and the Xcast header, in octets.
    pub ext_len: u16,
    /// NBR_OF_DEST, at least 1.
    pub dest_count: u8,
    /// A, X, D and P; of Xcast6, P if there are ports.
    pub flags: u8,
    /// TTL or hop limit as it arrived.
    pub ttl: u8,
    /// Protocol of what follows the Xcast header.
    pub protocol: u8,
    /// The IP destination is not the group: it is one of ours.
    pub to_own: bool,
    /// Slot of the port that the packet arrived at, before any rounds through `xcast0`; with [`ASK_WAY_BACK`], if that
    /// applies.
    pub arrival: u8,
    /// As far as the router knows, its source is behind the port of arrival: what answers the source goes to the sender.
    pub is_verified: bool,
    /// The way that it takes depends on what only the kernel looks at.
    pub to_stack: bool,
}

/// In [`Packet::arrival`], and in the octet of a frame that it becomes: the port takes only sources that there is a way
/// back to, and only the kernel knows that way. It is asked where copies are handed to it, as all of them are.
pub const ASK_WAY_BACK: u8 = 1 << 7;

impl Packet {
    /// Slot of the port that the packet arrived at.
    #[inline(always)]
    pub const fn arrival_slot(&self) -> u8 {
        self.arrival & !ASK_WAY_BACK
    }
}

const _: () = assert!(MAX_PORTS <= ASK_WAY_BACK as usize);

/// Why a frame is not forwarded as Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Not an Xcast packet for this router: the kernel gets it as it is.
    Pass,
    /// An Xcast packet for this router that must not go on.
    Drop(Counter),
}

/// The frame ends before something that has to be there.
pub(crate) const TRUNCATED: Reject = Reject::Drop(Counter::DropTruncated);

/// What is known of a datagram with an Xcast packet inside that may be taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Opened {
    /// [`OPENED_PERMITTED`] and [`OPENED_COOKIE`].
    pub flags: u8,
    /// Explicit padding.
    pub reserved: u8,
    /// The relayed port that the packet inside has to come from; 0 if its source is the sender's own, or one that it is
    /// permitted.
    pub relayed_port: Be16,
    /// Explicit padding.
    pub padding: u32,
    /// Whose budget pays for the packet, where its sender has proven its address: of that address the first octets, as a number. 0 if
    /// the packet's own source pays.
    pub payer: u64,
}

/// The way back to the source does not count: the sender has proven its address, or is named in the configuration, or the
/// packet came through a tunnel.
pub const OPENED_PERMITTED: u8 = 1 << 0;
/// There is a cookie before the packet. The flag is the cookie's length in octets.
pub const OPENED_COOKIE: u8 = cookie::LEN as u8;
const _: () = assert!(OPENED_COOKIE.is_power_of_two() && OPENED_COOKIE != OPENED_PERMITTED);

impl Opened {
    /// What came by itself, through a tunnel or not.
    #[inline(always)]
    pub const fn native(is_tunnelled: bool) -> Self {
        Self {
            flags: is_tunnelled as u8 * OPENED_PERMITTED,
            reserved: 0,
            relayed_port: Be16::new(0),
            padding: 0,
            payer: 0,
        }
    }

    /// Octets between the UDP header and the packet: 0 or those of a cookie.
    #[inline(always)]
    pub const fn cookie_len(&self) -> usize {
        (self.flags & OPENED_COOKIE) as usize
    }

    /// 1 if the way back to the source does not count, or 0.
    #[inline(always)]
    pub const fn permitted(&self) -> u8 {
        self.flags & OPENED_PERMITTED
    }
}
