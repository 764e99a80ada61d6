//! What a router must make of Xcast inside UDP, before it becomes an ordinary packet.

use std::net::IpAddr;

use super::view::{RouterView, Udp, headers_before};
use crate::family::{Family, same_prefix};
use crate::packet::{self, ETHER_TYPE_IPV4, ETHERNET_LEN, IPV4_LEN, be16, protocol};

/// Length of a UDP header.
const UDP_LEN: usize = 8;

/// Length of a cookie.
const COOKIE_LEN: usize = 16;
/// Stands for a counter where a datagram is a source's question, which is for the router's kernel.
const QUESTION: &str = "question";

/// What is to become of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is none for the Xcast router.
    Untouched,
    /// Dropped and counted.
    Dropped(&'static str),
    /// The frame that goes on in its place.
    Frame(Vec<u8>),
}

/// Opens a frame that arrives by `port`.
pub fn open(view: &RouterView, port: usize, frame: &[u8]) -> Opened {
    let Some(udp) = &view.udp else {
        return Opened::Untouched;
    };
    let bytes = frame.get(ETHERNET_LEN..).unwrap_or_default();
    if view.family() == Family::Ipv6 {
        return open_ipv6(view, udp, port, frame);
    }
    let header_len = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
    let to_port = frame.starts_with(&view.ports[port].mac)
        && be16(frame, 12) == Some(ETHER_TYPE_IPV4)
        && bytes.get(9) == Some(&protocol::UDP)
        && be16(bytes, header_len + 2) == Some(udp.port);
    let to_router = packet::address(bytes, 16).is_some_and(|to| is_ours(view, to));
    let begins = be16(bytes, 6).is_some_and(|fragment| fragment & 0x1fff == 0);
    if !(to_port && to_router && begins) {
        return Opened::Untouched;
    }
    match take_out(view, udp, bytes) {
        Ok(inner) => Opened::Frame([&frame[..ETHERNET_LEN], inner].concat()),
        Err(QUESTION) => Opened::Untouched,
        Err(reason) => Opened::Dropped(reason),
    }
}

fn take_out<'a>(view: &RouterView, udp: &Udp, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
    // RFC 791.
    match (bytes[0] >> 4, bytes[0] & 0x0f) {
        (4, 5) => {}
        (4, 6..) => return Err("drop_ip_options"),
        _ => return Err("drop_ip_header"),
    }
    if packet::sum(&bytes[..IPV4_LEN]) != 0xffff {
        return Err("drop_ip_checksum");
    }
    if be16(bytes, 6).is_some_and(|fragment| fragment & 0x3fff != 0) {
        return Err("drop_fragment");
    }
    let total_len = usize::from(be16(bytes, 2).unwrap_or(0));
    if total_len < IPV4_LEN + UDP_LEN || bytes.len() < total_len {
        return Err("drop_truncated");
    }
    // RFC 768.
    let datagram = &bytes[IPV4_LEN..total_len];
    if be16(datagram, 4).map(usize::from) != Some(datagram.len()) {
        return Err("drop_udp_length");
    }
    let inner = &datagram[UDP_LEN..];
    judge_first_octet(inner)?;
    let to_us = |to| to == view.group || is_ours(view, to);
    let is_xcast = inner.len() >= IPV4_LEN
        && inner[0] >> 4 == 4
        && inner[9] == view.protocol
        && packet::address(inner, 16).is_some_and(to_us);
    if !is_xcast {
        return Err("drop_udp_content");
    }
    if be16(inner, 2).map(usize::from) != Some(inner.len()) {
        return Err("drop_udp_length");
    }
    let (peer, source) = (packet::address(bytes, 12), packet::address(inner, 12));
    let (Some(peer), Some(source)) = (peer, source) else {
        return Err("drop_truncated");
    };
    let covers = |&(prefix, len): &(IpAddr, u8)| same_prefix(prefix, source, len);
    let mut prefixes = udp.peers.get(&peer).into_iter().flatten();
    if source != peer && !prefixes.any(covers) {
        return Err("drop_udp_source");
    }
    Ok(inner)
}

/// IPv6: no options and no checksum of the header, and UDP has to follow it directly.
fn open_ipv6(view: &RouterView, udp: &Udp, port: usize, frame: &[u8]) -> Opened {
    let bytes = frame.get(ETHERNET_LEN..).unwrap_or_default();
    let to_port = frame.starts_with(&view.ports[port].mac)
        && be16(frame, 12) == Some(Family::Ipv6.ether_type())
        && bytes.get(6) == Some(&protocol::UDP)
        && be16(bytes, 42) == Some(udp.port);
    if !to_port || !packet::address6(bytes, 24).is_some_and(|to| is_ours(view, to)) {
        return Opened::Untouched;
    }
    match take_out_ipv6(view, udp, bytes) {
        Ok(inner) => Opened::Frame([&frame[..ETHERNET_LEN], inner].concat()),
        Err(QUESTION) => Opened::Untouched,
        Err(reason) => Opened::Dropped(reason),
    }
}

fn take_out_ipv6<'a>(
    view: &RouterView,
    udp: &Udp,
    bytes: &'a [u8],
) -> Result<&'a [u8], &'static str> {
    if bytes[0] >> 4 != 6 {
        return Err("drop_ip_header");
    }
    let payload_len = be16(bytes, 4).map_or(0, usize::from);
    let datagram = bytes.get(40..40 + payload_len);
    let datagram = datagram.filter(|datagram| datagram.len() >= UDP_LEN);
    let datagram = datagram.ok_or("drop_truncated")?;
    if be16(datagram, 4).map(usize::from) != Some(datagram.len()) {
        return Err("drop_udp_length");
    }
    let inner = &datagram[UDP_LEN..];
    judge_first_octet(inner)?;
    let to_us = |to| to == view.group || is_ours(view, to);
    let is_xcast = inner.len() >= 40
        && inner[0] >> 4 == 6
        && headers_before(view, inner).is_some()
        && packet::address6(inner, 24).is_some_and(to_us);
    if !is_xcast {
        return Err("drop_udp_content");
    }
    if be16(inner, 4).map(|len| 40 + usize::from(len)) != Some(inner.len()) {
        return Err("drop_udp_length");
    }
    let (Some(peer), Some(source)) = (packet::address6(bytes, 8), packet::address6(inner, 8))
    else {
        return Err("drop_truncated");
    };
    let covers = |&(prefix, len): &(IpAddr, u8)| same_prefix(prefix, source, len);
    let mut prefixes = udp.peers.get(&peer).into_iter().flatten();
    if source != peer && !prefixes.any(covers) {
        return Err("drop_udp_source");
    }
    Ok(inner)
}

/// Questions of sources pass, and none of these tests has a cookie that is right.
fn judge_first_octet(payload: &[u8]) -> Result<(), &'static str> {
    match payload.first() {
        Some(2) => Err(QUESTION),
        Some(1) if payload.len() > COOKIE_LEN => Err("drop_cookie"),
        _ => Ok(()),
    }
}

fn is_ours(view: &RouterView, address: IpAddr) -> bool {
    view.own.contains(&address) || view.anycast.contains(&address)
}
