//! The [`Family`] trait, and what its two implementations share.

use crate::{
    maps::{lpm::Key, next_hop::NextHop, settings::Settings},
    packet::{Packet, Reject},
    verifier::fresh,
    wire::{
        ETH_LEN, IPV4_LEN,
        checksum::Sum,
        eth,
        frame::{Frame, View, Window},
    },
};

/// So much of a frame tells what comes behind the IP header of either family, in octets.
pub const IP_START: usize = ETH_LEN + IPV4_LEN;

/// Xcast4 or Xcast6.
///
/// Offsets are octets from the frame's start. What lies in or behind the Xcast header is found in
/// the view that [`xcast`](Self::xcast) gives, which is shifted by the IPv6 headers that come before
/// it, so that these offsets are constants, too.
pub trait Family: Sized + 'static {
    /// Its addresses.
    type Address: Key;

    /// IP version.
    const VERSION: u8;
    /// EtherType.
    const ETHER_TYPE: u16;
    /// Most destinations that a header can name.
    const MAX_DESTINATIONS: usize;
    /// Length of the IP header, in octets.
    const IP_LEN: usize;
    /// Where the source address is.
    const SOURCE: usize;
    /// Where the destination address is.
    const DESTINATION: usize;
    /// Where the Xcast header is.
    const XCAST_AT: usize;
    /// Where its checksum is.
    const CHECKSUM: usize;
    /// Where its bitmap is.
    const BITMAP: usize;
    /// Whether the checksum covers the list of ports.
    const PORTS_CHECKED: bool;
    /// Where the IP header says what follows it.
    const PROTOCOL: usize;
    /// What an IP header says if a packet of this family follows it.
    const IN_IP: u8;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Longest Xcast header and headers before it, rounded up to a mask.
    const LEN_MASK: usize;

    /// The All-Xcast-Routers group.
    fn group(settings: &Settings) -> Self::Address;

    /// The group's link layer address.
    fn group_mac(settings: &Settings) -> [u8; 6];

    /// 32-bit words of bitmap for `count` destinations.
    fn bitmap_words(count: u32) -> u32;

    /// Length of the Xcast header with `count` destinations and `flags`, in octets.
    fn header_len(count: u32, flags: u8) -> u32;

    /// How many 32-bit words of it the checksum covers.
    fn checked_words(count: u32, flags: u8) -> u32;

    /// The one's complement sum over all that the checksum covers, the first `words` 32-bit words of the header;
    /// `None` if the frame ends before.
    fn header_sum(view: View<'_>, words: u32) -> Option<Sum>;

    /// Where the ports are.
    fn ports_at(count: u32, flags: u8) -> usize;

    /// The octet with the DS field and ECN.
    fn traffic_class(view: View<'_>) -> Option<u8>;

    /// Sets the two bits of ECN, and puts the header's checksum right.
    fn set_ecn(view: View<'_>, ecn: u8) -> Option<()>;

    /// Whether the IP packet in a frame carries Xcast, and how many octets of other headers come
    /// before the Xcast header; its lowest bit: one of them is that of a fragment.
    fn find(view: View<'_>, settings: &Settings) -> Option<u16>;

    /// Length in octets of the packet that starts so, if what its IP header says comes next may be Xcast.
    fn xcast_len(start: Window<'_, IP_START>, settings: &Settings) -> Option<u32>;

    /// Whether what follows an Xcast header may be other headers with a second Xcast header behind them: a copy would be an Xcast
    /// packet again. In the view, that begins where a frame has its IP header; `None` if the frame ends before.
    fn may_be_nested(content: View<'_>, protocol: u8) -> Option<bool>;

    /// Whether an ICMP message of this type is one that hosts answer.
    fn is_icmp_request(kind: u8) -> bool;

    /// Where the UDP header is, if the IP packet in a frame is a datagram.
    fn udp_at(view: View<'_>) -> Option<usize>;

    /// Whether it is a fragment without the headers.
    fn is_later_fragment(view: View<'_>) -> Option<bool>;

    /// The IP packet's length as its header has it, in octets.
    fn total_len(view: View<'_>) -> Option<u32>;

    /// Checks the IP header of a frame that is ours, and that at least `least` octets follow it.
    /// Returns the length of the IP packet, in octets.
    fn check_ip(view: View<'_>, least: usize) -> Result<u16, Reject>;

    /// Checks IP and Xcast headers of a frame that is ours; `ext_len` is what [`find`](Self::find)
    /// found.
    fn check(view: View<'_>, ext_len: u16, settings: &Settings) -> Result<Packet, Reject>;

    /// Length of the headers between the IP header and the Xcast header, in octets, of an accepted packet.
    #[inline(always)]
    fn ext_len(packet: &Packet) -> u16 {
        fresh(&packet.ext_len)
    }

    /// A frame's view for what lies in and behind the Xcast header.
    fn xcast(view: View<'_>, ext_len: u16) -> View<'_>;

    /// The view in which what follows the Xcast header is at [`XCAST_AT`](Self::XCAST_AT), as the headers of a packet have it that is
    /// not checked yet. `None` if the frame ends before.
    fn behind<'a>(view: View<'a>, ext_len: u16, settings: &Settings) -> Option<View<'a>>;

    /// What makes a flow, as far as the IP and Xcast headers know.
    fn flow(view: View<'_>, ext_len: u16) -> Option<u64>;

    /// Where a protocol has its checksum, if that covers the destination address.
    fn pseudo_checksum_at(protocol: u8) -> Option<usize>;

    /// Where the checksum is that covers an X2U copy's destination, in octets behind the IP header; 0 if
    /// there is none: no pseudo header, a checksum that is no sum (SCTP), or a packet that ends before.
    #[inline(always)]
    fn checksum_at(packet: &Packet) -> u8 {
        let transport_len = u32::from(packet.total_len)
            - u32::from(packet.header_len)
            - u32::from(packet.ext_len)
            - Self::IP_LEN as u32;
        match Self::pseudo_checksum_at(packet.protocol) {
            Some(at) if transport_len >= at as u32 + 2 => at as u8,
            _ => 0,
        }
    }

    /// First half of X2U, common to all copies: removes everything between the IP header and
    /// the transport header. What is left has its own lengths, and a TTL or hop limit that went down; its
    /// destination and its header's checksum are undefined, and there is no Ethernet header in front of it yet.
    /// Returns the sum of the IP header without its destination and checksum; undefined where the header has
    /// no checksum.
    fn strip(frame: &mut impl Frame, packet: &Packet) -> Option<Sum>;

    /// Second half of X2U: gives such a frame its destination, its checksum and an Ethernet header.
    fn readdress(
        view: View<'_>,
        sum: Sum,
        next_hop: &NextHop,
        unicast: Unicast<Self>,
    ) -> Option<()>;

    /// Makes the Xcast header shorter by `cut` octets and writes everything up to the bitmap, for
    /// `count` destinations and without a checksum. Returns the sum of the Xcast header so far.
    fn shorten(
        frame: &mut impl Frame,
        packet: &Packet,
        next_hop: &NextHop,
        settings: &Settings,
        count: u32,
        cut: u32,
    ) -> Option<Sum>;

    /// Writes Ethernet and IP header of a copy that keeps its length.
    fn pass_on(
        view: View<'_>,
        packet: &Packet,
        next_hop: &NextHop,
        settings: &Settings,
    ) -> Option<()>;

    /// Zeroes the last DS bytes' padding.
    fn pad_ds(view: View<'_>, list: usize, count: u32) -> Option<()>;

    /// Writes what the ports lie in, but the ports.
    fn begin_ports(view: View<'_>, packet: &Packet, settings: &Settings, count: u32) -> Option<()>;

    /// Zeroes an Xcast header's checksum, and its reserved fields and padding as they arrived.
    fn tidy(view: View<'_>, count: u8, flags: u8) -> Option<()>;
}

/// What an X2U copy's IP header gets.
pub struct Unicast<F: Family> {
    /// The destination.
    pub address: F::Address,
    /// Its own DS byte, if it has one.
    pub ds: Option<u8>,
    /// It leaves by no port: TTL or hop limit is as it was.
    pub is_local: bool,
}

/// Where a transport protocol that both families carry has its checksum, in octets from its header's start.
#[inline(always)]
pub(super) fn common_checksum_at(protocol: u8) -> Option<usize> {
    use crate::wire::transport::{DCCP, TCP, UDP, UDP_LITE};
    match protocol {
        UDP | UDP_LITE | DCCP => Some(6),
        TCP => Some(16),
        _ => None,
    }
}

/// Writes an Ethernet header at the start of a window.
#[inline(always)]
pub(super) fn ethernet<const N: usize>(window: Window<'_, N>, next_hop: &NextHop, ether_type: u16) {
    let (first, last) = next_hop.addresses();
    window.set_u64(eth::DESTINATION, first);
    window.set_u32(eth::DESTINATION + 8, last);
    window.set_u16(eth::ETHER_TYPE, ether_type.to_be());
}
