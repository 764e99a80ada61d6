//! Xcast inside UDP: what a program without privileges sends to a router (ADR 6).
//!
//! ```text
//! [Ethernet | IP | UDP | IP | Xcast | transport | payload]
//!            '- outer'  '- one whole Xcast packet of the same family, and nothing else
//! ```
//!
//! [`check`] judges the outer headers, and whether their sender may send what is inside; then
//! [`decapsulate`] makes of the frame the one in which the packet would have arrived natively, and
//! [`ingress`](super::ingress) checks it like any other. The outer headers leave nothing behind:
//! TTL, DS field and everything else are the inner packet's own.

use super::{
    ingress::{is_family, is_to_port},
    tables::{Tables, UdpSenders},
};
use crate::{
    family::traits::Family,
    maps::{
        counter::Counter,
        port::{PORT_TRUSTED, Port},
        settings::Settings,
    },
    packet::{Reject, TRUNCATED},
    wire::{
        ETH_LEN,
        address::Address as _,
        endian::Be16,
        eth,
        frame::{Frame, View},
        udp,
    },
};

/// Length of the outer headers, in octets: how much further back the inner packet's fields are.
pub const fn outer_len<F: Family>() -> usize {
    F::IP_LEN + udp::HEADER_LEN
}

/// Whether a frame is a datagram to the port for Xcast inside UDP, whoever it is for; everything
/// else costs no more than this.
#[inline(always)]
pub fn is_candidate<F: Family>(view: View<'_>, settings: &Settings) -> bool {
    settings.udp_port != Be16::new(0)
        && view.at::<34>(0).is_some()
        && is_family::<F>(view)
        && matches!(destination_port::<F>(view), Some(p) if p == settings.udp_port)
}

#[inline(always)]
fn destination_port<F: Family>(view: View<'_>) -> Option<Be16> {
    view.be16(F::udp_at(view)? + udp::DESTINATION_PORT)
}

/// Judges a frame for which [`is_candidate`] holds: `Ok` if the packet inside may be taken out. It says whether the
/// configuration lets the sender use a source that is not its own: that need not be behind the port of arrival.
///
/// The outer UDP checksum is not looked at: what is inside has checksums of its own, over its
/// Xcast header and over its payload.
#[inline(always)]
pub fn check<F: Family>(
    view: View<'_>,
    port: &Port,
    settings: &Settings,
    tables: &(impl Tables<F> + UdpSenders<F>),
) -> Result<bool, Reject> {
    // What fails these checks is somebody else's: what comes from this very host, too.
    if port.flags & PORT_TRUSTED != 0 || !is_to_port(view, port, tables).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let router = F::Address::read(view, F::DESTINATION).ok_or(Reject::Pass)?;
    if tables.address_flags(router) == 0 {
        return Err(Reject::Pass);
    }
    // Without a UDP header there is no port, whatever is in its place.
    if F::is_later_fragment(view).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }

    // From here on it is ours, and what is wrong with it is counted.
    let total_len = F::check_ip(view, udp::HEADER_LEN)?;
    let udp_at = ETH_LEN + F::IP_LEN;
    let udp_len = view.be16(udp_at + udp::LENGTH).ok_or(TRUNCATED)?.value();
    if udp_len != total_len - F::IP_LEN as u16 {
        return Err(Reject::Drop(Counter::DropUdpLength));
    }
    const CONTENT: Reject = Reject::Drop(Counter::DropUdpContent);
    let inner = view.skip(outer_len::<F>());
    if (total_len as usize) < outer_len::<F>() + F::IP_LEN
        || inner.u8(ETH_LEN).ok_or(CONTENT)? >> 4 != F::VERSION
        || F::find(inner, settings).is_none()
    {
        return Err(CONTENT);
    }
    let group = F::Address::read(inner, F::DESTINATION).ok_or(CONTENT)?;
    if group.difference(F::group(settings)) != 0 && tables.address_flags(group) == 0 {
        return Err(CONTENT);
    }
    let inner_len = F::total_len(inner).ok_or(CONTENT)?;
    if inner_len != u32::from(total_len) - outer_len::<F>() as u32 {
        return Err(Reject::Drop(Counter::DropUdpLength));
    }
    let peer = F::Address::read(view, F::SOURCE).ok_or(TRUNCATED)?;
    let source = F::Address::read(inner, F::SOURCE).ok_or(CONTENT)?;
    let is_others = source.difference(peer) != 0;
    if is_others && !tables.may_send(peer, source) {
        return Err(Reject::Drop(Counter::DropUdpSource));
    }
    Ok(is_others)
}

/// Takes the outer headers off: the Ethernet header moves to the packet inside. `None` if the
/// frame is too short or cannot be moved.
#[inline(always)]
pub fn decapsulate<F: Family>(frame: &mut impl Frame) -> Option<()> {
    let view = frame.view();
    let inner = view.skip(outer_len::<F>());
    inner.at::<ETH_LEN>(0)?;
    let destination = view.be32(0)?;
    let between = view.be32(4)?;
    let source = view.be32(8)?;
    let ether_type = view.be16(eth::ETHER_TYPE)?;
    inner.set_be32(0, destination)?;
    inner.set_be32(4, between)?;
    inner.set_be32(8, source)?;
    inner.set_be16(eth::ETHER_TYPE, ether_type)?;
    frame.adjust_head(outer_len::<F>() as i32).then_some(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{family::V4, host::Buffer};

    proptest! {
        #[test]
        fn the_ethernet_header_moves_to_what_is_inside(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = Buffer::new(&frame);
            let outer_len = outer_len::<V4>();
            let taken_out = decapsulate::<V4>(&mut buffer);
            prop_assert_eq!(taken_out.is_some(), frame.len() >= ETH_LEN + outer_len);
            if taken_out.is_some() {
                let native: Vec<u8> = [&frame[..ETH_LEN], &frame[ETH_LEN + outer_len..]].concat();
                prop_assert_eq!(buffer.frame(), native);
            }
        }
    }
}
