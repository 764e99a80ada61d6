//! What is known of an accepted packet, and why a frame is none.

use crate::maps::counter::Counter;

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
    /// Slot of the port that the packet arrived at, before any rounds through `xcast0`.
    pub arrival: u8,
    /// The way that it takes depends on what only the kernel looks at.
    pub to_stack: bool,
}

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
