//! Is this frame ours, and is it well formed?

use crate::{
    checksum::{sum_ipv4, sum_words},
    counter::Counter,
    maps::{ADDRESS_OWN, NEXT_HOP_NEVER, PORT_GROUP_MAC, PORT_TRUSTED, Port, Settings},
    plan::Tables,
    view::View,
    wire::{
        Be32, DEST_COUNT_MASK, ETH_LEN, FIXED_LEN, IPV4_LEN, VERSION, XCAST_AT, eth, header_words,
        ipv4, xcast,
    },
};

/// Why a frame is not forwarded as Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Not an Xcast packet for this router: the kernel gets it as it is.
    Pass,
    /// An Xcast packet for this router that must not go on.
    Drop(Counter),
}

/// What is known of an accepted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Length of the IP packet, in octets; the frame has at least that much.
    pub total_len: u16,
    /// Length of the Xcast header, in octets.
    pub header_len: u16,
    /// NBR_OF_DEST, 1 to 127.
    pub dest_count: u8,
    /// VERSION, A, X, D, P as they arrived.
    pub flags: u8,
    /// TTL as it arrived.
    pub ttl: u8,
    /// The IP destination is not the group: it is one of ours.
    pub to_own: bool,
}

/// Whether a frame on `port` is IPv4 and carries Xcast; everything else costs no more than this.
#[inline(always)]
pub fn is_xcast(view: View, settings: &Settings) -> bool {
    view.at::<XCAST_AT>(0).is_some()
        && matches!(view.be16(eth::ETHER_TYPE), Some(t) if t.value() == eth::TYPE_IPV4)
        && matches!(view.u8(ipv4::PROTOCOL), Some(p) if p == settings.protocol)
}

/// Checks a frame for which [`is_xcast`] holds.
#[inline(always)]
pub fn accept(
    view: View,
    port: &Port,
    settings: &Settings,
    tables: &impl Tables,
) -> Result<Packet, Reject> {
    // The first checks only say whether the packet is meant for us: what fails them passes.
    if !to_our_mac(view, port, settings).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let destination = view.be32(ipv4::DESTINATION).ok_or(Reject::Pass)?;
    let to_own = destination != settings.group;
    if to_own && tables.address_flags(destination) == 0 {
        return Err(Reject::Pass);
    }

    // From here on it is ours, and what is wrong with it is counted.
    let total_len = check_ip_header(view, FIXED_LEN)?;
    let version_flags = view.u8(xcast::VERSION_FLAGS).ok_or(TRUNCATED)?;
    if version_flags >> 4 != VERSION {
        return Err(Reject::Drop(Counter::DropVersion));
    }
    let dest_count = view.u8(xcast::DEST_COUNT).ok_or(TRUNCATED)? & DEST_COUNT_MASK;
    if dest_count == 0 {
        return Err(Reject::Drop(Counter::DropNoDestinations));
    }
    let len_words = view.u8(xcast::LEN_WORDS).ok_or(TRUNCATED)?;
    if u32::from(len_words) != header_words(u32::from(dest_count), version_flags) {
        return Err(Reject::Drop(Counter::DropLength));
    }
    if total_len < IPV4_LEN as u16 + 4 * u16::from(len_words) {
        return Err(TRUNCATED);
    }
    let sum = sum_words(view, XCAST_AT, u32::from(len_words)).ok_or(TRUNCATED)?;
    if sum.fold() != 0xffff {
        return Err(Reject::Drop(Counter::DropChecksum));
    }
    if view.u8(xcast::PROTOCOL).ok_or(TRUNCATED)? == settings.protocol {
        return Err(Reject::Drop(Counter::DropNested));
    }
    check_source(view.be32(ipv4::SOURCE).ok_or(TRUNCATED)?, port, tables)?;

    Ok(Packet {
        total_len,
        header_len: 4 * u16::from(view.fresh_u8(xcast::LEN_WORDS).ok_or(TRUNCATED)?),
        dest_count: view.fresh_u8(xcast::DEST_COUNT).ok_or(TRUNCATED)? & DEST_COUNT_MASK,
        flags: version_flags & 0xf,
        ttl: view.u8(ipv4::TTL).ok_or(TRUNCATED)?,
        to_own,
    })
}

/// The frame ends before something that has to be there.
pub(crate) const TRUNCATED: Reject = Reject::Drop(Counter::DropTruncated);

/// Checks the IPv4 header of a frame that is ours, and that at least `least` octets follow it.
/// Returns the length of the IP packet, in octets.
#[inline(always)]
pub(crate) fn check_ip_header(view: View, least: usize) -> Result<u16, Reject> {
    let version_ihl = view.u8(ipv4::VERSION_IHL).ok_or(TRUNCATED)?;
    if version_ihl >> 4 != 4 || version_ihl & 0xf < 5 {
        return Err(Reject::Drop(Counter::DropIpHeader));
    }
    if version_ihl & 0xf != 5 {
        return Err(Reject::Drop(Counter::DropIpOptions));
    }
    if sum_ipv4(view, ETH_LEN).ok_or(TRUNCATED)?.fold() != 0xffff {
        return Err(Reject::Drop(Counter::DropIpChecksum));
    }
    let fragment = view.be16(ipv4::FRAGMENT).ok_or(TRUNCATED)?.value();
    if fragment & ipv4::FRAGMENT_MASK != 0 {
        return Err(Reject::Drop(Counter::DropFragment));
    }
    let total_len = view.be16(ipv4::TOTAL_LEN).ok_or(TRUNCATED)?.value();
    if (total_len as usize) < IPV4_LEN + least || view.len() < ETH_LEN + total_len as usize {
        return Err(TRUNCATED);
    }
    Ok(total_len)
}

/// Whether the frame's destination MAC is one the port accepts.
#[inline(always)]
fn to_our_mac(view: View, port: &Port, settings: &Settings) -> Option<bool> {
    if port.flags & PORT_TRUSTED != 0 {
        return Some(true);
    }
    if is_to_mac(view, port.mac)? {
        return Some(true);
    }
    // RFC 1112 section 6.4: 01:00:5e and the group's low 23 bits.
    let [_, b, c, d] = settings.group.value().to_be_bytes();
    Some(port.flags & PORT_GROUP_MAC != 0 && is_to_mac(view, [0x01, 0x00, 0x5e, b & 0x7f, c, d])?)
}

/// Whether this is the frame's destination MAC.
#[inline(always)]
pub(crate) fn is_to_mac(view: View, mac: [u8; 6]) -> Option<bool> {
    let high = view.be32(eth::DESTINATION)?.memory();
    let low = view.be16(eth::DESTINATION + 4)?.memory();
    Some(
        high == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]])
            && low == u16::from_ne_bytes([mac[4], mac[5]]),
    )
}

/// Source policy: the special sources are routes of the kind "never", so one look-up tells.
#[inline(always)]
fn check_source(source: Be32, port: &Port, tables: &impl Tables) -> Result<(), Reject> {
    let id = tables.route(source);
    if id == NEXT_HOP_NEVER {
        return Err(Reject::Drop(Counter::DropSource));
    }
    // The hash of own addresses is only asked about what the kernel delivers locally.
    let local = tables
        .next_hop(id)
        .is_some_and(|next_hop| next_hop.reason == Counter::StackLocal as u8);
    if local && port.flags & PORT_TRUSTED == 0 && tables.address_flags(source) & ADDRESS_OWN != 0 {
        return Err(Reject::Drop(Counter::DropSpoofed));
    }
    Ok(())
}
