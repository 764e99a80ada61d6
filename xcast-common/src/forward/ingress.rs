//! Is this frame ours, is it well formed, and may its source send it by this port?

use super::tables::Tables;
use crate::{
    family::{
        V4, V6,
        traits::{Family, IP_START},
    },
    maps::{
        address::ADDRESS_OWN,
        counter::Counter,
        next_hop::{EGRESS_ANY, EGRESS_NONE, NEXT_HOP_NEVER, NextHop, NextHopKind, port_bit},
        port::{
            PORT_GROUP_MAC, PORT_MORE_MACS, PORT_TRUSTED, Port, PortMac, SourceMode, source_mode_of,
        },
        settings::{IcmpRequests, Settings},
        tunnel::COOKIE_LEN as TUNNEL_COOKIE_LEN,
    },
    packet::{ASK_WAY_BACK, Packet, Reject, TRUNCATED},
    wire::{
        ETH_LEN, address::Address as _, cookie, endian::Be16, eth, frame::View, in_ip, transport,
        udp,
    },
};

/// Whether a frame carries Xcast of this family, and what [`Family::find`] found before it;
/// everything else costs no more than this.
#[inline(always)]
pub fn is_xcast<F: Family>(view: View<'_>, settings: &Settings) -> Option<u16> {
    if is_family::<F>(view) {
        F::find(view, settings)
    } else {
        None
    }
}

/// Whether a frame has this family's EtherType.
#[inline(always)]
pub fn is_family<F: Family>(view: View<'_>) -> bool {
    matches!(view.be16(eth::ETHER_TYPE), Some(t) if t.value() == F::ETHER_TYPE)
}

/// Checks a frame in which [`is_xcast`] found an Xcast header, but for [what it holds](check_content).
#[inline(always)]
pub fn accept<F: Family>(
    view: View<'_>,
    ext_len: u16,
    port: &Port,
    settings: &Settings,
    tables: &impl Tables<F>,
) -> Result<Packet, Reject> {
    // The first checks only say whether the packet is meant for us: what fails them passes.
    if !to_our_mac::<F>(view, port, settings, tables).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let destination = F::Address::read(view, F::DESTINATION).ok_or(Reject::Pass)?;
    let to_own = destination.difference(F::group(settings)) != 0;
    if to_own && tables.address_flags(destination) == 0 {
        return Err(Reject::Pass);
    }

    // From here on it is ours, and what is wrong with it is counted.
    let packet = F::check(view, ext_len, settings)?;
    let source = F::Address::read(view, F::SOURCE).ok_or(TRUNCATED)?;
    let to_stack = is_to_stack::<F>(source, port, tables);
    let (way_back, ask) = check_source::<F>(source, port, to_stack, tables)?;
    Ok(Packet {
        to_own,
        is_verified: way_back == WayBack::Here || way_back == WayBack::Unknown,
        arrival: port.slot | (ask * ASK_WAY_BACK),
        to_stack: to_stack || ask != 0,
        ..packet
    })
}

/// Why a packet from this source would not be taken where it arrives, if so: natively, or inside UDP without a proof.
///
/// # Errors
///
/// The reason it is counted as.
pub fn takes<F: Family>(
    source: F::Address,
    port: &Port,
    tables: &impl Tables<F>,
) -> Result<(), Reject> {
    let to_stack = is_to_stack::<F>(source, port, tables);
    check_source::<F>(source, port, to_stack, tables).map(|_| ())
}

/// Whether what a source sends to a port goes to the stack, as policy rules or a VRF want it.
#[inline(always)]
fn is_to_stack<F: Family>(source: F::Address, port: &Port, tables: &impl Tables<F>) -> bool {
    let is_ipv6 = F::VERSION == 6;
    port.is_to_stack(is_ipv6) || port.asks_source(is_ipv6) && tables.is_policy_source(source)
}

/// Whether the frame's destination MAC is one the port accepts.
#[inline(always)]
fn to_our_mac<F: Family>(
    view: View<'_>,
    port: &Port,
    settings: &Settings,
    tables: &impl Tables<F>,
) -> Option<bool> {
    if port.flags & PORT_TRUSTED != 0 {
        return Some(true);
    }
    if is_to_port(view, port, tables)? {
        return Some(true);
    }
    Some(port.flags & PORT_GROUP_MAC != 0 && is_to_mac(view, F::group_mac(settings))?)
}

/// Whether the frame is for an address of the port's own, or for a further one.
#[inline(always)]
pub(super) fn is_to_port<F: Family>(
    view: View<'_>,
    port: &Port,
    tables: &impl Tables<F>,
) -> Option<bool> {
    if is_to_mac(view, port.mac)? {
        return Some(true);
    }
    if port.flags & PORT_MORE_MACS == 0 {
        return Some(false);
    }
    let [a, b, c, d] = view.be32(eth::DESTINATION)?.memory().to_ne_bytes();
    let [e, f] = view.be16(eth::DESTINATION + 4)?.memory().to_ne_bytes();
    Some(tables.is_port_mac(PortMac {
        slot: port.slot,
        reserved: 0,
        mac: [a, b, c, d, e, f],
    }))
}

/// Whether this is the frame's destination MAC.
#[inline(always)]
fn is_to_mac(view: View<'_>, mac: [u8; 6]) -> Option<bool> {
    let high = view.be32(eth::DESTINATION)?.memory();
    let low = view.be16(eth::DESTINATION + 4)?.memory();
    Some(
        high == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]])
            && low == u16::from_ne_bytes([mac[4], mac[5]]),
    )
}

/// Where the best route to a packet's source leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayBack {
    /// By the port of arrival.
    Here,
    /// Only the kernel knows.
    Unknown,
    /// By other interfaces only.
    Elsewhere,
    /// Nowhere.
    Nowhere,
    /// The kernel delivers it locally: it is this router.
    Own,
}

/// Where a next hop leads, as seen from the port with this slot. Of a multipath route, any member counts
/// (RFC 3704 section 2.3, and what the kernel does).
#[inline(always)]
fn way_back(next_hop: &NextHop, slot: u8) -> WayBack {
    if next_hop.kind == NextHopKind::Ecmp as u8 {
        return if next_hop.ports() & port_bit(slot) != 0 {
            WayBack::Here
        } else {
            WayBack::Elsewhere
        };
    }
    let egress = next_hop.egress;
    if egress == slot {
        WayBack::Here
    } else if egress == EGRESS_ANY {
        WayBack::Unknown
    } else if egress != EGRESS_NONE {
        WayBack::Elsewhere
    } else if next_hop.kind == NextHopKind::Stack as u8
        && next_hop.reason == Counter::StackLocal as u8
    {
        WayBack::Own
    } else {
        WayBack::Nowhere
    }
}

/// Source policy: what the kernel would not forward a unicast packet from, and what the port does not permit.
///
/// Sources that nobody may have are routes of the kind "never", so one look-up tells. Where a policy rule decides, only
/// the kernel knows the way back: what goes to the stack arrives there by the true port (ADR 13), and meets the kernel's
/// own filter. Where the port asks for more than that may, the second number is 1 and not 0: the kernel is to be asked for
/// the way.
#[inline(always)]
fn check_source<F: Family>(
    source: F::Address,
    port: &Port,
    to_stack: bool,
    tables: &impl Tables<F>,
) -> Result<(WayBack, u8), Reject> {
    let id = tables.route(source);
    if id == NEXT_HOP_NEVER {
        return Err(Reject::Drop(Counter::DropSource));
    }
    if port.flags & PORT_TRUSTED != 0 {
        return Ok((WayBack::Here, 0));
    }
    let way = match tables.next_hop(id) {
        Some(next_hop) => way_back(next_hop, port.slot),
        None => WayBack::Nowhere,
    };
    // Own addresses are routes, too, but for those that a longer or special prefix covers. What the port
    // itself leads to is somebody else.
    let is_own = way == WayBack::Own
        || way != WayBack::Here && tables.address_flags(source) & ADDRESS_OWN != 0;
    if is_own && port.relayed_port == Be16::new(0) {
        return Err(Reject::Drop(Counter::DropSpoofed));
    }
    let mode = port.sources[source_mode_of(F::VERSION)];
    if mode == SourceMode::Closed as u8 {
        return Err(Reject::Drop(Counter::DropNoForwarding));
    }
    if mode == SourceMode::Proven as u8 {
        return Err(Reject::Drop(Counter::DropUnproven));
    }
    let permitted = if mode == SourceMode::Any as u8 {
        true
    } else if mode == SourceMode::Prefixes as u8 {
        tables.may_arrive(port.slot, source)
    } else {
        to_stack
            || way == WayBack::Here
            || way == WayBack::Unknown
            || mode == SourceMode::Loose as u8 && way == WayBack::Elsewhere
            || mode == SourceMode::NotElsewhere as u8 && way == WayBack::Nowhere
    };
    if permitted {
        Ok((
            way,
            (to_stack || way == WayBack::Unknown) as u8 & asks(mode),
        ))
    } else {
        Err(Reject::Drop(Counter::DropReversePath))
    }
}

/// 1 if a mode asks for a way back, whatever the kernel's own filter does; 0 otherwise.
#[inline(always)]
const fn asks(mode: u8) -> u8 {
    const ASKING: u8 = 1 << SourceMode::Strict as u8 | 1 << SourceMode::Loose as u8;
    ASKING >> (mode & 7) & 1
}

/// What is known of what follows an Xcast header, for [`check_content`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its protocol.
    pub protocol: u8,
    /// For how many destinations it is.
    pub dest_count: u8,
    /// [`Packet::is_verified`].
    pub is_verified: bool,
    /// The UDP port that it has to come from; 0 for any.
    pub relayed_port: Be16,
}

impl Content {
    /// That of an accepted packet, with the relayed port of its sender.
    #[inline(always)]
    pub fn of(packet: &Packet, relayed_port: Be16) -> Self {
        Self {
            protocol: packet.protocol,
            dest_count: packet.dest_count,
            is_verified: packet.is_verified,
            relayed_port,
        }
    }

    /// Where it is in an accepted packet, in octets behind where a frame has its IP header.
    #[inline(always)]
    pub fn at<F: Family>(packet: &Packet) -> u32 {
        F::IP_LEN as u32 + u32::from(packet.ext_len) + u32::from(packet.header_len)
    }
}

/// The reason to drop an accepted packet for what follows its Xcast header, if there is one. What must not be multiplied: requests
/// that all destinations answer to one source, unless that has proven to be the sender (RFC 5058 section 14), and packets
/// that the next routers would multiply once more. What the router's own host sends is not asked about.
///
/// The view is that in which the content would have a frame's Ethernet header before it. What ends before there is anything
/// to see is what it is.
#[inline(always)]
pub fn check_content<F: Family>(
    view: View<'_>,
    content: Content,
    settings: &Settings,
) -> Option<Counter> {
    let Content {
        protocol,
        relayed_port,
        ..
    } = content;
    if relayed_port != Be16::new(0)
        && (protocol != transport::UDP
            || view.be16(ETH_LEN + udp::SOURCE_PORT) != Some(relayed_port))
    {
        return Some(Counter::DropUdpSource);
    }
    if protocol == F::ICMP {
        let may_multiply = settings.icmp_requests == IcmpRequests::Forward as u8
            || settings.icmp_requests == IcmpRequests::Verified as u8 && content.is_verified
            || content.dest_count == 1;
        let is_request = matches!(view.u8(ETH_LEN), Some(kind) if F::is_icmp_request(kind));
        return (is_request && !may_multiply).then_some(Counter::DropIcmpRequest);
    }
    let is_opened = match protocol {
        transport::UDP => is_opened::<F>(view, settings) == Some(true),
        in_ip::IPV4 | in_ip::IPV6 => xcast_in(view, settings).is_some(),
        _ => F::may_be_nested(view, protocol) == Some(true),
    };
    is_opened.then_some(Counter::DropNested)
}

/// Whether a datagram is one of those that routers take a packet out of. Those are an Xcast packet by itself or behind a
/// cookie of sources ([`tunnel`](super::tunnel)), and one in a tunnel, with that one's cookie behind it
/// ([`tunnelled`](super::tunnelled)). Whether a cookie is right does not count: another router may know it. `None` if the frame
/// ends before.
#[inline(always)]
fn is_opened<F: Family>(datagram: View<'_>, settings: &Settings) -> Option<bool> {
    let header = datagram.window::<{ ETH_LEN + udp::HEADER_LEN + 1 }>(0)?;
    let datagram_len = u16::from_be(header.u16(ETH_LEN + udp::LENGTH));
    let has_cookie = header.u8(ETH_LEN + udp::HEADER_LEN) == cookie::KIND;
    let ahead = udp::HEADER_LEN + (has_cookie as usize * cookie::LEN);
    let (version, len) = xcast_in(datagram.skip(ahead), settings)?;
    // It is all that there is, or it is not taken for one.
    let behind = u32::from(datagram_len).wrapping_sub(len + ahead as u32);
    Some(behind == 0 && version == F::VERSION || behind == TUNNEL_COOKIE_LEN as u32)
}

/// IP version and length in octets of what may be an Xcast packet; `None` if it is none, or the frame ends before.
#[inline(always)]
fn xcast_in(view: View<'_>, settings: &Settings) -> Option<(u8, u32)> {
    let start = view.window::<IP_START>(0)?;
    match start.u8(ETH_LEN) >> 4 {
        V4::VERSION => Some((V4::VERSION, V4::xcast_len(start, settings)?)),
        V6::VERSION => Some((V6::VERSION, V6::xcast_len(start, settings)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::MemoryTables,
        maps::{
            next_hop::{EGRESS_OTHER, NEXT_HOP_NEVER_DESTINATION},
            port::PORT_FIRST,
        },
        wire::endian::Be32,
    };

    const HERE: u8 = PORT_FIRST;
    const THERE: u8 = PORT_FIRST + 5;

    /// A router with a route for each case: addresses and what is said of a source there, by mode.
    fn tables() -> MemoryTables {
        let by = |egress| NextHop {
            egress,
            ..NextHop::stack(Counter::StackNoNeighbour)
        };
        let entries = [
            NextHop::stack(Counter::StackNoRoute),
            NextHop::skip(Counter::SkipNever),
            NextHop::skip(Counter::SkipNever),
            NextHop::stack(Counter::StackLocal),
            by(HERE),
            by(THERE),
            by(EGRESS_OTHER),
            NextHop::stack(Counter::StackNoPort),
            NextHop::ecmp(0, port_bit(HERE) | port_bit(THERE)),
            NextHop::ecmp(0, port_bit(THERE)),
            NextHop::skip(Counter::SkipBlackhole),
        ];
        let mut tables = MemoryTables::default();
        for (id, entry) in (0..).zip(entries) {
            tables.set_next_hop(id, entry);
            if id != 0 {
                tables.set_route([10, id as u8, 0, 0].into(), 16, Some(id));
            }
        }
        let link_local = [169, 254, 88, 1].into();
        tables.set_route(
            [169, 254, 0, 0].into(),
            16,
            Some(NEXT_HOP_NEVER_DESTINATION),
        );
        tables.set_address(link_local, ADDRESS_OWN);
        tables.allow_on_port(HERE, [10, 6, 0, 0].into(), 16);
        tables
    }

    fn check(source: [u8; 4], mode: SourceMode) -> Option<Counter> {
        check_on_its_way(source, mode, false)
    }

    fn check_on_its_way(source: [u8; 4], mode: SourceMode, to_stack: bool) -> Option<Counter> {
        match outcome(source, mode, to_stack) {
            Ok(_) => None,
            Err(Reject::Drop(counter)) => Some(counter),
            Err(Reject::Pass) => panic!("passed"),
        }
    }

    fn outcome(source: [u8; 4], mode: SourceMode, to_stack: bool) -> Result<(WayBack, u8), Reject> {
        let port = Port {
            slot: HERE,
            sources: [mode as u8; 2],
            ..Port::default()
        };
        let source = Be32::from(std::net::Ipv4Addr::from(source));
        check_source::<V4>(source, &port, to_stack, &tables())
    }

    #[test]
    fn each_mode_has_its_sources() {
        use SourceMode::{Any, Closed, Loose, NotElsewhere, Prefixes, Strict};
        // What is behind: whether the source passes with `Loose`, and with `Strict`.
        let cases = [
            ("no route", [8, 8, 8, 8], false, false),
            ("link-local", [169, 254, 1, 1], false, false),
            ("this port", [10, 4, 0, 1], true, true),
            ("another port", [10, 5, 0, 1], true, false),
            ("no port", [10, 6, 0, 1], true, false),
            ("unknown", [10, 7, 0, 1], true, true),
            ("multipath", [10, 8, 0, 1], true, true),
            ("multipath elsewhere", [10, 9, 0, 1], true, false),
            ("blackhole", [10, 10, 0, 1], false, false),
        ];
        for (what, source, loose, strict) in cases {
            let refused = |passes: bool| (!passes).then_some(Counter::DropReversePath);
            assert_eq!(check(source, Any), None, "{what}");
            assert_eq!(check(source, Loose), refused(loose), "{what}");
            assert_eq!(check(source, Strict), refused(strict), "{what}");
            assert_eq!(
                check(source, NotElsewhere),
                refused(strict || !loose),
                "{what}"
            );
            let listed = source[..2] == [10, 6];
            assert_eq!(check(source, Prefixes), refused(listed), "{what}");
            assert_eq!(check(source, Closed), Some(Counter::DropNoForwarding));
        }
    }

    #[test]
    fn the_way_back_of_what_goes_to_the_stack_is_for_the_kernel_to_judge() {
        use SourceMode::{Closed, Loose, NotElsewhere, Prefixes, Strict};
        let to_stack = |source, mode| check_on_its_way(source, mode, true);
        for mode in [Loose, Strict, NotElsewhere] {
            assert_eq!(to_stack([8, 8, 8, 8], mode), None);
            assert_eq!(to_stack([10, 5, 0, 1], mode), None);
            assert_eq!(to_stack([10, 1, 0, 1], mode), Some(Counter::DropSource));
            assert_eq!(to_stack([10, 3, 0, 1], mode), Some(Counter::DropSpoofed));
        }
        let refused = Some(Counter::DropReversePath);
        assert_eq!(to_stack([10, 5, 0, 1], Prefixes), refused);
        assert_eq!(to_stack([10, 6, 0, 1], Prefixes), None);
        let closed = Some(Counter::DropNoForwarding);
        assert_eq!(to_stack([10, 4, 0, 1], Closed), closed);
    }

    #[test]
    fn the_kernel_is_asked_for_ways_that_only_it_knows() {
        use SourceMode::{Any, Loose, NotElsewhere, Prefixes, Strict};
        let asked = |source, mode, to_stack| outcome(source, mode, to_stack).unwrap().1 == 1;
        for mode in [Strict, Loose] {
            assert!(asked([10, 5, 0, 1], mode, true) && asked([10, 7, 0, 1], mode, false));
            assert!(!asked([10, 4, 0, 1], mode, false));
        }
        // The kernel's own filter is all that they ask for.
        assert!(!asked([10, 5, 0, 1], Any, true) && !asked([10, 5, 0, 1], NotElsewhere, true));
        assert!(!asked([10, 6, 0, 1], Prefixes, true));
    }

    #[test]
    fn no_mode_lets_own_and_special_addresses_in() {
        for mode in [SourceMode::Any, SourceMode::Loose, SourceMode::Strict] {
            assert_eq!(check([10, 1, 0, 1], mode), Some(Counter::DropSource));
            assert_eq!(check([10, 3, 0, 1], mode), Some(Counter::DropSpoofed));
            assert_eq!(check([169, 254, 88, 1], mode), Some(Counter::DropSpoofed));
        }
    }
}
