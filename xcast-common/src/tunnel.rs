//! Xcast inside UDP: what a program without privileges sends to a router (ADR 6).
//!
//! ```text
//! [Ethernet | IPv4 | UDP | IPv4 | Xcast4 | transport | payload]
//!            '- outer -'  '- one whole Xcast packet, and nothing else
//! ```
//!
//! [`open`] judges the outer headers, and whether their sender may send what is inside; then
//! [`take_out`] makes of the frame the one in which the packet would have arrived natively, and
//! [`ingress`](crate::ingress) checks it like any other. The outer headers leave nothing behind:
//! TTL, DS field and everything else are the inner packet's own.

use crate::{
    counter::Counter,
    ingress::{Reject, TRUNCATED, check_ip_header, is_to_mac},
    maps::{PORT_TRUSTED, Port, Settings},
    plan::Tables,
    view::{Frame, View},
    wire::{Be16, Be32, ETH_LEN, IPV4_LEN, XCAST_AT, eth, ipv4, transport, udp},
};

/// Length of the outer headers, in octets: how much further back the inner packet's fields are.
pub const OUTER_LEN: usize = IPV4_LEN + udp::HEADER_LEN;

/// Where the outer UDP header is in a frame, unless there are IP options.
const UDP_AT: usize = ETH_LEN + IPV4_LEN;

/// What a router knows of those who send Xcast inside UDP.
pub trait Peers {
    /// Whether the configuration lets `peer` send packets whose source is `source`.
    fn may_send(&self, peer: Be32, source: Be32) -> bool;
}

/// Whether a frame is a datagram to the port for Xcast inside UDP, whoever it is for; everything
/// else costs no more than this.
#[inline(always)]
pub fn is_candidate(view: View, settings: &Settings) -> bool {
    settings.udp_port != Be16::new(0)
        && view.at::<XCAST_AT>(0).is_some()
        && matches!(view.be16(eth::ETHER_TYPE), Some(t) if t.value() == eth::TYPE_IPV4)
        && matches!(view.u8(ipv4::PROTOCOL), Some(p) if p == transport::UDP)
        && matches!(destination_port(view), Some(p) if p == settings.udp_port)
}

/// The UDP destination port, found behind options, too.
#[inline(always)]
fn destination_port(view: View) -> Option<Be16> {
    let ip_len = 4 * (view.u8(ipv4::VERSION_IHL)? as usize & 0xf);
    view.be16(ETH_LEN + ip_len + udp::DESTINATION_PORT)
}

/// Judges a frame for which [`is_candidate`] holds: `Ok` if the packet inside may be taken out.
///
/// The outer UDP checksum is not looked at: what is inside has checksums of its own, over each of
/// its headers and over its payload.
#[inline(always)]
pub fn open(
    view: View,
    port: &Port,
    settings: &Settings,
    tables: &(impl Tables + Peers),
) -> Result<(), Reject> {
    // What fails these checks is somebody else's: what comes from this very host, too.
    if port.flags & PORT_TRUSTED != 0 || !is_to_mac(view, port.mac).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let router = view.be32(ipv4::DESTINATION).ok_or(Reject::Pass)?;
    if tables.address_flags(router) == 0 {
        return Err(Reject::Pass);
    }
    // Without a UDP header there is no port, whatever lies in its place.
    let fragment = view.be16(ipv4::FRAGMENT).ok_or(Reject::Pass)?.value();
    if fragment & ipv4::FRAGMENT_OFFSET_MASK != 0 {
        return Err(Reject::Pass);
    }

    // From here on it is ours, and what is wrong with it is counted.
    let total_len = check_ip_header(view, udp::HEADER_LEN)?;
    let udp_len = view.be16(UDP_AT + udp::LENGTH).ok_or(TRUNCATED)?.value();
    if udp_len != total_len - IPV4_LEN as u16 {
        return Err(Reject::Drop(Counter::DropUdpLength));
    }
    const CONTENT: Reject = Reject::Drop(Counter::DropUdpContent);
    if (total_len as usize) < OUTER_LEN + IPV4_LEN
        || view.u8(OUTER_LEN + ipv4::VERSION_IHL).ok_or(CONTENT)? >> 4 != 4
        || view.u8(OUTER_LEN + ipv4::PROTOCOL).ok_or(CONTENT)? != settings.protocol
    {
        return Err(CONTENT);
    }
    let group = view.be32(OUTER_LEN + ipv4::DESTINATION).ok_or(CONTENT)?;
    if group != settings.group && tables.address_flags(group) == 0 {
        return Err(CONTENT);
    }
    let inner_len = view
        .be16(OUTER_LEN + ipv4::TOTAL_LEN)
        .ok_or(CONTENT)?
        .value();
    if inner_len != total_len - OUTER_LEN as u16 {
        return Err(Reject::Drop(Counter::DropUdpLength));
    }
    let peer = view.be32(ipv4::SOURCE).ok_or(TRUNCATED)?;
    let source = view.be32(OUTER_LEN + ipv4::SOURCE).ok_or(CONTENT)?;
    if source != peer && !tables.may_send(peer, source) {
        return Err(Reject::Drop(Counter::DropUdpSource));
    }
    Ok(())
}

/// Takes the outer headers off: the Ethernet header moves to the packet inside. `None` if the
/// frame is too short or cannot be moved.
#[inline(always)]
pub fn take_out(frame: &mut impl Frame) -> Option<()> {
    let view = frame.view();
    view.at::<{ OUTER_LEN + ETH_LEN }>(0)?;
    let destination = view.be32(0)?;
    let between = view.be32(4)?;
    let source = view.be32(8)?;
    let ether_type = view.be16(eth::ETHER_TYPE)?;
    view.set_be32(OUTER_LEN, destination)?;
    view.set_be32(OUTER_LEN + 4, between)?;
    view.set_be32(OUTER_LEN + 8, source)?;
    view.set_be16(OUTER_LEN + eth::ETHER_TYPE, ether_type)?;
    frame.adjust_head(OUTER_LEN as i32).then_some(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::view::Buffer;

    proptest! {
        #[test]
        fn the_ethernet_header_moves_to_what_is_inside(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = Buffer::new(&frame);
            let taken_out = take_out(&mut buffer);
            prop_assert_eq!(taken_out.is_some(), frame.len() >= ETH_LEN + OUTER_LEN);
            if taken_out.is_some() {
                let native: Vec<u8> = [&frame[..ETH_LEN], &frame[ETH_LEN + OUTER_LEN..]].concat();
                prop_assert_eq!(buffer.frame(), native);
            }
        }
    }
}
