//! Xcast inside UDP: what a program without privileges sends to a router (ADR 6).
//!
//! ```text
//! [Ethernet | IP | UDP | cookie | IP | Xcast | transport | payload]
//!            '- outer'  '        '- one whole Xcast packet of the same family, and nothing else
//!                       '- of sources that prove their address, or nothing (ADR 21)
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
    packet::{OPENED_COOKIE, OPENED_PERMITTED, Opened, Reject, TRUNCATED},
    wire::{
        ETH_LEN,
        address::Address as _,
        cookie,
        endian::Be16,
        eth,
        frame::{Frame, View},
        origin, udp,
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

/// Judges a frame for which [`is_candidate`] holds: `Ok` if the packet inside may be taken out. It says what is before
/// it, and whether its source need not be behind the port of arrival: because the sender has proven its address by a
/// [`cookie`], or because the configuration lets it use a source that is not its own.
///
/// Questions of sources are for the controller, and pass.
///
/// The outer UDP checksum is not looked at: what is inside has checksums of its own, over its
/// Xcast header and over its payload.
#[inline(always)]
pub fn check<F: Family>(
    view: View<'_>,
    port: &Port,
    settings: &Settings,
    tables: &(impl Tables<F> + UdpSenders<F>),
) -> Result<Opened, Reject> {
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
    let peer = F::Address::read(view, F::SOURCE).ok_or(TRUNCATED)?;
    let mut opened = Opened::default();
    match view.u8(ETH_LEN + outer_len::<F>()) {
        Some(cookie::QUESTION) if udp_len > udp::HEADER_LEN as u16 => return Err(Reject::Pass),
        Some(cookie::KIND) if udp_len as usize > udp::HEADER_LEN + cookie::LEN => {
            opened = check_cookie::<F>(view, peer, tables)?;
        }
        _ => {}
    }
    let ahead = outer_len::<F>() + opened.cookie_len();
    let inner = view.skip(ahead);
    if (total_len as usize) < ahead + F::IP_LEN
        || inner.u8(ETH_LEN).ok_or(CONTENT)? >> 4 != F::VERSION
    {
        return Err(CONTENT);
    }
    let ext_len = F::find(inner, settings).ok_or(CONTENT)?;
    let group = F::Address::read(inner, F::DESTINATION).ok_or(CONTENT)?;
    if group.difference(F::group(settings)) != 0 && tables.address_flags(group) == 0 {
        return Err(CONTENT);
    }
    let inner_len = F::total_len(inner).ok_or(CONTENT)?;
    if inner_len != u32::from(total_len) - ahead as u32 {
        return Err(Reject::Drop(Counter::DropUdpLength));
    }
    let source = F::Address::read(inner, F::SOURCE).ok_or(CONTENT)?;
    // From a relayed port, packets are this router's own: from the address where the sender found it.
    let own = if opened.relayed_port == Be16::new(0) {
        peer
    } else {
        router
    };
    if source.difference(own) != 0 {
        if opened.relayed_port != Be16::new(0) || !tables.may_send(peer, source) {
            return Err(Reject::Drop(Counter::DropUdpSource));
        }
        opened.flags |= OPENED_PERMITTED;
    }
    // From the port of Xcast inside UDP, messages are in envelopes that say who the source is.
    if opened.relayed_port != Be16::new(0)
        && opened.relayed_port == settings.udp_port
        && !names::<F>(view, inner, ext_len, peer, settings).unwrap_or(false)
    {
        return Err(Reject::Drop(Counter::DropUdpSource));
    }
    Ok(opened)
}

/// Whether the datagram inside is an envelope with the origin that the outer headers have; `None` if the frame ends before.
#[inline(always)]
fn names<F: Family>(
    view: View<'_>,
    inner: View<'_>,
    ext_len: u16,
    peer: F::Address,
    settings: &Settings,
) -> Option<bool> {
    const MAGIC: u32 = u32::from_ne_bytes(origin::MAGIC);
    const FORM: u16 = u16::from_ne_bytes([origin::FORM, 0]);
    let port = view.be16(ETH_LEN + F::IP_LEN + udp::SOURCE_PORT)?;
    let (high, low) = peer.mapped().memory();
    let envelope = F::behind(inner, ext_len, settings)?
        .window::<{ origin::LEN }>(F::XCAST_AT + udp::HEADER_LEN)?;
    let address = envelope.u64(origin::ADDRESS) ^ high | envelope.u64(origin::ADDRESS + 8) ^ low;
    let head = u64::from(envelope.u32(0) ^ MAGIC) | u64::from(envelope.u16(4) ^ FORM);
    let named_port = u64::from(envelope.u16(origin::PORT) ^ port.memory());
    Some(address | head | named_port == 0)
}

/// Checks the cookie in front of a packet.
#[inline(always)]
fn check_cookie<F: Family>(
    view: View<'_>,
    peer: F::Address,
    tables: &impl UdpSenders<F>,
) -> Result<Opened, Reject> {
    let udp_at = ETH_LEN + F::IP_LEN;
    let port = view.be16(udp_at + udp::SOURCE_PORT).ok_or(TRUNCATED)?;
    let window = view
        .window::<{ cookie::LEN }>(ETH_LEN + outer_len::<F>())
        .ok_or(TRUNCATED)?;
    let relayed_port = Be16::from_memory(window.u16(cookie::RELAYED_PORT));
    let epoch = u32::from_be(window.u32(cookie::EPOCH));
    let hash = u64::from_be(window.u64(cookie::HASH));
    let bound = cookie::bound(port.value(), relayed_port.value(), epoch);
    if !tables.is_cookie(peer, bound, hash) {
        return Err(Reject::Drop(Counter::DropCookie));
    }
    Ok(Opened {
        flags: OPENED_COOKIE | OPENED_PERMITTED,
        reserved: 0,
        relayed_port,
        padding: 0,
        payer: peer.octets_from(0),
    })
}

/// Takes the outer headers off, with the cookie behind them: the Ethernet header moves to the packet inside. `None` if
/// the frame is too short or cannot be moved.
#[inline(always)]
pub fn decapsulate<F: Family>(frame: &mut impl Frame, opened: Opened) -> Option<()> {
    let view = frame.view();
    let ahead = outer_len::<F>() + opened.cookie_len();
    let inner = view.skip(ahead);
    inner.at::<ETH_LEN>(0)?;
    let destination = view.be32(0)?;
    let between = view.be32(4)?;
    let source = view.be32(8)?;
    let ether_type = view.be16(eth::ETHER_TYPE)?;
    inner.set_be32(0, destination)?;
    inner.set_be32(4, between)?;
    inner.set_be32(8, source)?;
    inner.set_be16(eth::ETHER_TYPE, ether_type)?;
    frame.adjust_head(ahead as i32).then_some(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{family::V4, host::Buffer};

    proptest! {
        #[test]
        fn the_ethernet_header_moves_to_what_is_inside(
            frame in prop::collection::vec(any::<u8>(), 0..100),
            has_cookie: bool,
        ) {
            let mut buffer = Buffer::new(&frame);
            let opened = Opened {
                flags: if has_cookie { OPENED_COOKIE } else { 0 },
                ..Opened::default()
            };
            let outer_len = outer_len::<V4>() + opened.cookie_len();
            let taken_out = decapsulate::<V4>(&mut buffer, opened);
            prop_assert_eq!(taken_out.is_some(), frame.len() >= ETH_LEN + outer_len);
            if taken_out.is_some() {
                let native: Vec<u8> = [&frame[..ETH_LEN], &frame[ETH_LEN + outer_len..]].concat();
                prop_assert_eq!(buffer.frame(), native);
            }
        }
    }
}
