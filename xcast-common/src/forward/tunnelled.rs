//! What arrives through a tunnel from another router (ADR 17).
//!
//! [`is_candidate`] is asked about every frame. [`open`] takes the outer headers off what a configured peer sent, with
//! the right cookie, and leaves everything else as it is. What comes out is a frame as if the packet had arrived
//! natively, except for a [seal](is_sealed) in place of the Ethernet source address: its source need not be behind the
//! port of arrival. [`ingress`](super::ingress) checks it like any other.

use super::{
    ingress::{is_family, is_to_port},
    tables::{Tables, TunnelPeers},
};
use crate::{
    family::{V4, V6, traits::Family},
    maps::{
        counter::{Counter, Tally},
        port::{PORT_TRUSTED, Port},
        settings::Settings,
        tunnel::{COOKIE_LEN, TunnelPeer},
    },
    packet::Reject,
    wire::{
        ETH_LEN,
        address::Address as _,
        ecn,
        endian::Be16,
        eth,
        frame::{Frame, View},
        in_ip, transport, udp,
    },
};

/// Longest packet in a tunnel, as a mask: a bound that the verifier sees, and more than a linear frame has.
const MAX_LEN: usize = 0xfff;
/// Longest outer headers, as a mask.
const MAX_OUTER_LEN: usize = 0x3f;

/// Whether a frame may have come through a tunnel; everything else costs no more than this. Never true for a frame that
/// came out of one.
#[inline(always)]
pub fn is_candidate(view: View<'_>, settings: &Settings) -> bool {
    settings.tunnels != 0
        && (outer_len::<V4>(view, settings).is_some() || outer_len::<V6>(view, settings).is_some())
}

/// Length of the outer headers, in octets, if a frame may have come through a tunnel with outer headers of a family.
#[inline(always)]
fn outer_len<O: Family>(view: View<'_>, settings: &Settings) -> Option<usize> {
    if !is_family::<O>(view) {
        return None;
    }
    match view.u8(O::PROTOCOL)? {
        in_ip::IPV4 | in_ip::IPV6 => Some(O::IP_LEN),
        transport::UDP if settings.udp_port != Be16::default() => {
            let len = O::IP_LEN + udp::HEADER_LEN;
            let datagram = view
                .skip(O::IP_LEN)
                .window::<{ ETH_LEN + udp::HEADER_LEN }>(0)?;
            if datagram.u16(ETH_LEN + udp::DESTINATION_PORT) != settings.udp_port.memory() {
                return None;
            }
            // Xcast inside UDP that is no router's has no cookie (ADR 6).
            let inner_len = packet_len(view.skip(len))?;
            let datagram_len = u16::from_be(datagram.u16(ETH_LEN + udp::LENGTH));
            let expected = inner_len + (udp::HEADER_LEN + COOKIE_LEN) as u32;
            (u32::from(datagram_len) == expected).then_some(len)
        }
        _ => None,
    }
}

/// Length of the IP packet at the start of a view, in octets.
#[inline(always)]
fn packet_len(view: View<'_>) -> Option<u32> {
    match view.u8(ETH_LEN)? >> 4 {
        V4::VERSION => V4::total_len(view),
        V6::VERSION => V6::total_len(view),
        _ => None,
    }
}

/// Takes the outer headers off a frame for which [`is_candidate`] holds. Returns the IP version of what was inside.
///
/// # Errors
///
/// [`Reject::Pass`] for what is no configured peer's, is refused for its cookie, or is no Xcast packet. The frame is as
/// it was.
#[inline(always)]
pub fn open(
    frame: &mut impl Frame,
    port: &Port,
    settings: &Settings,
    tables: &(impl Tables<V4> + Tables<V6> + TunnelPeers),
    counters: Tally<'_>,
) -> Result<u8, Reject> {
    if port.flags & PORT_TRUSTED != 0 {
        return Err(Reject::Pass);
    }
    if is_family::<V4>(frame.view()) {
        open_outer::<V4>(frame, port, settings, tables, counters)
    } else {
        open_outer::<V6>(frame, port, settings, tables, counters)
    }
}

#[inline(always)]
fn open_outer<O: Family>(
    frame: &mut impl Frame,
    port: &Port,
    settings: &Settings,
    tables: &(impl Tables<O> + TunnelPeers),
    counters: Tally<'_>,
) -> Result<u8, Reject> {
    let view = frame.view();
    let outer_len = outer_len::<O>(view, settings).ok_or(Reject::Pass)?;
    if !is_to_port(view, port, tables).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let inner = view.skip(outer_len & MAX_OUTER_LEN);
    let version = inner.u8(ETH_LEN).ok_or(Reject::Pass)? >> 4;
    match version {
        V4::VERSION => open_inner::<O, V4>(frame, outer_len, settings, tables, counters),
        V6::VERSION => open_inner::<O, V6>(frame, outer_len, settings, tables, counters),
        _ => Err(Reject::Pass),
    }
}

#[inline(always)]
fn open_inner<O: Family, I: Family>(
    frame: &mut impl Frame,
    outer_len: usize,
    settings: &Settings,
    tables: &impl TunnelPeers,
    counters: Tally<'_>,
) -> Result<u8, Reject> {
    const PASS: Reject = Reject::Pass;
    let outer_len = outer_len & MAX_OUTER_LEN;
    let view = frame.view();
    let inner = view.skip(outer_len);
    // What fails these checks is somebody else's.
    let protocol = view.u8(O::PROTOCOL).ok_or(PASS)?;
    if protocol != transport::UDP && protocol != I::IN_IP || I::find(inner, settings).is_none() {
        return Err(PASS);
    }
    let group = I::Address::read(inner, I::DESTINATION).ok_or(PASS)?;
    let inner_len = I::total_len(inner).ok_or(PASS)?;
    let expected_len = inner_len + (outer_len + COOKIE_LEN) as u32;
    let outer_total_len = O::total_len(view).ok_or(PASS)?;
    if group.difference(I::group(settings)) != 0 || outer_total_len != expected_len {
        return Err(PASS);
    }
    let peer = TunnelPeer {
        source: O::Address::read(view, O::SOURCE).ok_or(PASS)?.mapped(),
        destination: O::Address::read(view, O::DESTINATION).ok_or(PASS)?.mapped(),
    };
    let [new, old] = tables.tunnel_cookies(&peer).ok_or(PASS)?.cookies;
    let behind = inner.skip(inner_len as usize & MAX_LEN);
    let cookie = behind.window::<COOKIE_LEN>(ETH_LEN).ok_or(PASS)?.u64(0);
    if cookie != new && cookie != old {
        counters.bump(Counter::TunnelRefused);
        return Err(PASS);
    }

    // From here on it is ours, and what is wrong with it is counted.
    O::check_ip(view, outer_len - O::IP_LEN)?;
    let outer_class = O::traffic_class(view).ok_or(PASS)?;
    let inner_class = I::traffic_class(inner).ok_or(PASS)?;
    let bits = combine_ecn(outer_class & ecn::MASK, inner_class & ecn::MASK)
        .ok_or(Reject::Drop(Counter::DropTunnelEcn))?;
    if bits != inner_class & ecn::MASK {
        I::set_ecn(inner, bits).ok_or(PASS)?;
    }
    take_out::<I>(frame, outer_len, settings).ok_or(Reject::Drop(Counter::DropNoRoom))?;
    counters.bump(Counter::TunnelReceived);
    Ok(I::VERSION)
}

/// What a packet's ECN field becomes when it leaves a tunnel (RFC 6040 section 4.2); `None` if it has to be dropped.
#[inline(always)]
fn combine_ecn(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (ecn::CE, ecn::NOT_ECT) => None,
        (ecn::CE, _) => Some(ecn::CE),
        (ecn::ECT_1, ecn::ECT_0) => Some(ecn::ECT_1),
        _ => Some(inner),
    }
}

/// Takes the outer headers off, and seals the frame. The cookie is left at its end, as padding.
#[inline(always)]
fn take_out<I: Family>(
    frame: &mut impl Frame,
    outer_len: usize,
    settings: &Settings,
) -> Option<()> {
    let view = frame.view();
    let inner = view.skip(outer_len & MAX_OUTER_LEN);
    let destination = (
        view.be32(eth::DESTINATION)?,
        view.be16(eth::DESTINATION + 4)?,
    );
    let header = inner.window::<ETH_LEN>(0)?;
    header.set_u32(eth::DESTINATION, destination.0.memory());
    header.set_u16(eth::DESTINATION + 4, destination.1.memory());
    let seal = seal(settings);
    header.set_u16(eth::SOURCE, seal.0);
    header.set_u32(eth::SOURCE + 2, seal.1);
    header.set_u16(eth::ETHER_TYPE, I::ETHER_TYPE.to_be());
    frame.adjust_head(outer_len as i32).then_some(())
}

/// Whether a frame came out of a tunnel: only the programs know what is in place of its source address then.
#[inline(always)]
pub fn is_sealed(view: View<'_>, settings: &Settings) -> bool {
    // One window, and one comparison: of two options, LLVM compares what is not there.
    let Some(header) = view.window::<ETH_LEN>(0) else {
        return false;
    };
    let (first, rest) = seal(settings);
    let differs = u32::from(header.u16(eth::SOURCE) ^ first) | header.u32(eth::SOURCE + 2) ^ rest;
    settings.tunnels != 0 && differs == 0
}

/// Other bits than those that a [mark](super::mark) begins with.
#[inline(always)]
fn seal(settings: &Settings) -> (u16, u32) {
    let bits = settings.mark.rotate_left(24) ^ 0x5ea1;
    (bits as u16, (bits >> 16) as u32)
}
