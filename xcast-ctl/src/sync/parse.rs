//! Netlink messages into [`KernelEvent`]s.
//!
//! Headers are read by `netlink-packet-route`, and of the attributes only those that matter here, one
//! by one: an attribute that a later kernel adds or lengthens cannot make a link or a route invisible.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, Emitable as _, NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE, NlaBuffer, NlasIterator,
    parse_i32, parse_mac, parse_string, parse_u16, parse_u32,
};
use netlink_packet_route::{
    AddressFamily,
    address::AddressHeader,
    link::{LinkFlags, LinkHeader},
    neighbour::{NeighbourFlags, NeighbourHeader, NeighbourState as KernelNeighbourState},
    route::{RouteFlags, RouteHeader, RouteNextHopFlags, RouteType},
};

use super::{
    event::{
        Address, Hop, KernelEvent, KernelOnly, Link, Neighbour, NeighbourState, NextHopObject,
        NextHopObjectKind, Placement, Route, RouteKind, Via,
    },
    parse_address::{ip, octets},
    parse_rule,
};

/// Message types that `libc` lacks.
pub(super) mod message {
    pub(in crate::sync) const NEW_NEXT_HOP: u16 = 104;
    pub(in crate::sync) const DELETE_NEXT_HOP: u16 = 105;
    pub(in crate::sync) const GET_NEXT_HOP: u16 = 106;
}

/// Attributes that `libc` lacks.
mod attribute {
    /// Within `RTA_METRICS`.
    pub(super) const ROUTE_MTU: u16 = 2;
    pub(super) const ROUTE_EXPIRES: u16 = 23;
    pub(super) const ROUTE_PAD: u16 = 24;
    pub(super) const ROUTE_PREFERENCE: u16 = 20;
    pub(super) const ROUTE_ENCAP_TYPE: u16 = 21;
    pub(super) const ROUTE_ENCAP: u16 = 22;
    pub(super) const ROUTE_TTL_PROPAGATE: u16 = 26;
    pub(super) const ROUTE_NEXT_HOP_ID: u16 = 30;
    /// `NDA_FLAGS_EXT`, since 5.16.
    pub(super) const NEIGHBOUR_FLAGS_EXT: u16 = 15;
    /// `NTF_EXT_MANAGED`.
    pub(super) const NEIGHBOUR_MANAGED: u32 = 1 << 0;
    pub(super) const NEXT_HOP_ID: u16 = 1;
    pub(super) const NEXT_HOP_GROUP: u16 = 2;
    pub(super) const NEXT_HOP_GROUP_TYPE: u16 = 3;
    /// `NEXTHOP_GRP_TYPE_RES`.
    pub(super) const RESILIENT: u16 = 1;
    pub(super) const NEXT_HOP_BLACKHOLE: u16 = 4;
    pub(super) const NEXT_HOP_OIF: u16 = 5;
    pub(super) const NEXT_HOP_GATEWAY: u16 = 6;
    pub(super) const NEXT_HOP_ENCAP_TYPE: u16 = 7;
    pub(super) const NEXT_HOP_FDB: u16 = 11;
    pub(super) const NETCONF_IFINDEX: u16 = 1;
    pub(super) const NETCONF_IGNORE_LINK_DOWN: u16 = 6;
}

/// `NETCONFA_IFINDEX` of `conf.all`.
const NETCONF_ALL: i32 = -1;

type Result<T> = std::result::Result<T, DecodeError>;

/// The event a message announces; `None` if it is not about anything forwarding needs.
///
/// `dump` says that the message answers a dump request; otherwise its flags tell what changed.
pub(super) fn event(
    message_type: u16,
    flags: u16,
    dump: bool,
    payload: &[u8],
) -> Result<Option<KernelEvent>> {
    match message_type {
        // Bridges report what becomes of their ports as links of their own family.
        libc::RTM_NEWLINK if payload.first() == Some(&(libc::AF_BRIDGE as u8)) => {
            Ok(Some(KernelEvent::SettingsChanged))
        }
        libc::RTM_NEWLINK => Ok(link(payload)?.map(KernelEvent::Link)),
        libc::RTM_DELLINK => removed_link(payload),
        libc::RTM_NEWADDR => Ok(address(payload)?.map(KernelEvent::Address)),
        libc::RTM_DELADDR => Ok(address(payload)?.map(KernelEvent::AddressRemoved)),
        libc::RTM_NEWNEIGH => Ok(neighbour(payload)?.map(KernelEvent::Neighbour)),
        libc::RTM_DELNEIGH => {
            Ok(
                neighbour(payload)?.map(|neighbour| KernelEvent::NeighbourRemoved {
                    ifindex: neighbour.ifindex,
                    address: neighbour.address,
                }),
            )
        }
        message::NEW_NEXT_HOP => Ok(next_hop_object(payload)?.map(KernelEvent::NextHopObject)),
        message::DELETE_NEXT_HOP => removed_next_hop_object(payload),
        libc::RTM_NEWROUTE => Ok(route(payload)?.map(|route| KernelEvent::Route {
            route,
            placement: placement(flags, dump),
        })),
        libc::RTM_DELROUTE => Ok(route(payload)?.map(KernelEvent::RouteRemoved)),
        libc::RTM_NEWNETCONF => {
            let known = net_conf(payload)?;
            // A dump tells them all.
            Ok(known.or((!dump).then_some(KernelEvent::SettingsChanged)))
        }
        libc::RTM_NEWRULE => Ok(parse_rule::rule(payload)?.map(|rule| KernelEvent::Rule {
            rule,
            is_dumped: dump,
        })),
        libc::RTM_DELRULE => Ok(parse_rule::rule(payload)?.map(KernelEvent::RuleRemoved)),
        _ => Ok(None),
    }
}

fn placement(flags: u16, dump: bool) -> Placement {
    if dump {
        Placement::Dump
    } else if flags & NLM_F_REPLACE != 0 {
        Placement::Replace
    } else if flags & NLM_F_APPEND != 0 {
        Placement::Last
    } else if flags & NLM_F_EXCL != 0 {
        Placement::Only
    } else {
        Placement::First
    }
}

/// A message's body after its header of `header_len` octets, attribute by attribute.
fn attributes(payload: &[u8], header_len: usize) -> NlasIterator<&[u8]> {
    NlasIterator::new(payload.get(header_len..).unwrap_or_default())
}

fn link(payload: &[u8]) -> Result<Option<Link>> {
    let header = LinkHeader::parse(payload)?;
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let carrier = LinkFlags::Running | LinkFlags::LowerUp;
    let (mut name, mut mac, mut mtu_bytes) = (None, None, None);
    let (mut in_vrf, mut alt_names) = (false, Vec::new());
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFLA_IFNAME => name = Some(parse_string(attribute.value())?),
            libc::IFLA_ADDRESS => mac = parse_mac(attribute.value()).ok(),
            libc::IFLA_MTU => mtu_bytes = Some(parse_u32(attribute.value())?),
            libc::IFLA_PROP_LIST => alt_names = names(attribute.value())?,
            libc::IFLA_LINKINFO => in_vrf = is_vrf_member(attribute.value())?,
            _ => {}
        }
    }
    // Drivers also send fragments of link messages, with news of their own.
    let (Some(name), Some(mtu_bytes)) = (name, mtu_bytes) else {
        return Ok(None);
    };
    Ok(Some(Link {
        ifindex: header.index,
        name,
        alt_names,
        mac,
        mtu_bytes,
        in_vrf,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.intersects(carrier),
    }))
}

/// Alternative names, of an `IFLA_PROP_LIST`.
fn names(properties: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for property in NlasIterator::new(properties) {
        let property = property?;
        if property.kind() == libc::IFLA_ALT_IFNAME {
            names.push(parse_string(property.value())?);
        }
    }
    Ok(names)
}

/// Whether a link is a member of a VRF, by its `IFLA_LINKINFO`.
fn is_vrf_member(info: &[u8]) -> Result<bool> {
    for attribute in NlasIterator::new(info) {
        let attribute = attribute?;
        if attribute.kind() == libc::IFLA_INFO_SLAVE_KIND {
            return Ok(attribute.value().trim_ascii_end().strip_suffix(b"\0") == Some(b"vrf"));
        }
    }
    Ok(false)
}

fn removed_link(payload: &[u8]) -> Result<Option<KernelEvent>> {
    let header = LinkHeader::parse(payload)?;
    let whole = header.interface_family == AddressFamily::Unspec;
    Ok(whole.then_some(KernelEvent::LinkRemoved {
        ifindex: header.index,
    }))
}

fn address(payload: &[u8]) -> Result<Option<Address>> {
    let header = AddressHeader::parse(payload)?;
    if !is_ip(header.family) {
        return Ok(None);
    }
    // On a point-to-point link, IFA_ADDRESS is the peer's.
    let (mut local, mut address) = (None, None);
    for attribute in attributes(payload, size_of::<libc::ifaddrmsg>()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFA_LOCAL => local = Some(ip(&attribute)?),
            libc::IFA_ADDRESS => address = Some(ip(&attribute)?),
            _ => {}
        }
    }
    Ok(address.or(local).map(|peer| Address {
        ifindex: header.index,
        address: local.unwrap_or(peer),
        peer,
        prefix_len: header.prefix_len,
    }))
}

fn neighbour(payload: &[u8]) -> Result<Option<Neighbour>> {
    let header = NeighbourHeader::parse(payload)?;
    // Addresses this host answers for are no neighbours.
    if !is_ip(header.family) || header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    let state = match header.state {
        KernelNeighbourState::Incomplete => NeighbourState::Incomplete,
        KernelNeighbourState::Reachable => NeighbourState::Reachable,
        KernelNeighbourState::Stale => NeighbourState::Stale,
        KernelNeighbourState::Delay => NeighbourState::Delay,
        KernelNeighbourState::Probe => NeighbourState::Probe,
        KernelNeighbourState::Failed => NeighbourState::Failed,
        KernelNeighbourState::Noarp => NeighbourState::NoArp,
        KernelNeighbourState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    };
    let (mut address, mut mac) = (None, None);
    let mut managed = header.flags.contains(NeighbourFlags::ExtLearned);
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::NDA_DST => address = Some(ip(&attribute)?),
            libc::NDA_LLADDR => mac = parse_mac(attribute.value()).ok(),
            attribute::NEIGHBOUR_FLAGS_EXT => {
                managed |= parse_u32(attribute.value())? & attribute::NEIGHBOUR_MANAGED != 0;
            }
            _ => {}
        }
    }
    Ok(address.map(|address| Neighbour {
        ifindex: header.ifindex,
        address,
        mac,
        state,
        managed,
    }))
}

/// Length of `struct nhmsg`, in octets.
const NEXT_HOP_HEADER_LEN: usize = 8;

fn next_hop_object(payload: &[u8]) -> Result<Option<NextHopObject>> {
    let (mut id, mut kind, mut ifindex, mut fdb) = (None, None, None, false);
    let (mut via, mut resilient) = (Via::Link, false);
    for attribute in attributes(payload, NEXT_HOP_HEADER_LEN) {
        let attribute = attribute?;
        match attribute.kind() {
            attribute::NEXT_HOP_ID => id = Some(parse_u32(attribute.value())?),
            attribute::NEXT_HOP_GROUP => {
                kind = Some(NextHopObjectKind::Group(group(attribute.value())?));
            }
            attribute::NEXT_HOP_GROUP_TYPE => {
                resilient = parse_u16(attribute.value())? == attribute::RESILIENT;
            }
            attribute::NEXT_HOP_BLACKHOLE => kind = Some(NextHopObjectKind::Blackhole),
            attribute::NEXT_HOP_OIF => ifindex = Some(parse_u32(attribute.value())?),
            attribute::NEXT_HOP_GATEWAY => match ip(&attribute) {
                Ok(gateway) if via == Via::Link => via = Via::Gateway(gateway),
                _ => via = Via::Kernel,
            },
            attribute::NEXT_HOP_ENCAP_TYPE => via = Via::Kernel,
            attribute::NEXT_HOP_FDB => fdb = true,
            _ => {}
        }
    }
    let kind = kind.or(ifindex.map(|ifindex| {
        NextHopObjectKind::Hop(Hop {
            ifindex,
            via,
            weight: 1,
        })
    }));
    let kind = match kind {
        Some(NextHopObjectKind::Group(members)) if resilient => {
            Some(NextHopObjectKind::ResilientGroup(members))
        }
        kind => kind,
    };
    // Objects for bridges' forwarding tables have no place in routes.
    let (Some(id), Some(kind), false) = (id, kind, fdb) else {
        return Ok(None);
    };
    Ok(Some(NextHopObject { id, kind }))
}

fn removed_next_hop_object(payload: &[u8]) -> Result<Option<KernelEvent>> {
    for attribute in attributes(payload, NEXT_HOP_HEADER_LEN) {
        let attribute = attribute?;
        if attribute.kind() == attribute::NEXT_HOP_ID {
            let id = parse_u32(attribute.value())?;
            return Ok(Some(KernelEvent::NextHopObjectRemoved { id }));
        }
    }
    Ok(None)
}

/// The members of a nexthop group: `struct nexthop_grp` each, with a weight one lower than it means,
/// whose high octet kernels before 6.12 leave zero.
fn group(value: &[u8]) -> Result<Vec<(u32, u32)>> {
    let (members, []) = value.as_chunks::<8>() else {
        return Err("nexthop group is not a list of members".into());
    };
    let member = |member: &[u8; 8]| {
        let [a, b, c, d, low, high, _, _] = *member;
        let weight = u32::from(u16::from_le_bytes([low, high])) + 1;
        (u32::from_ne_bytes([a, b, c, d]), weight)
    };
    Ok(members.iter().map(member).collect())
}

fn route(payload: &[u8]) -> Result<Option<Route>> {
    let header = RouteHeader::parse(payload)?;
    // What the kernel learned about single destinations (RTM_F_CLONED) is not a route.
    if !is_ip(header.address_family) || header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let is_ipv6 = header.address_family == AddressFamily::Inet6;
    let mut hop = HopAttributes::default();
    let mut multipath = None;
    let mut route = Route {
        prefix: IpNet::default(),
        table: header.table.into(),
        tos: header.tos,
        source: None,
        metric: 0,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local => RouteKind::Local,
            // Of IPv6, the subnet-router address of each subnet of a router.
            RouteType::Anycast if is_ipv6 => RouteKind::Local,
            RouteType::Broadcast => RouteKind::Broadcast,
            RouteType::Multicast => RouteKind::Multicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::Prohibit => RouteKind::Prohibit,
            RouteType::Throw => RouteKind::Throw,
            _ => RouteKind::Other,
        },
        protocol: header.protocol.into(),
        preferred_source: None,
        mtu_bytes: None,
        preference: 0,
        kernel_only: None,
        hops: Vec::new(),
        object: None,
        dead: Vec::new(),
    };
    let unknown = header.flags.bits() & !KNOWN_ROUTE_FLAGS;
    if unknown != 0 {
        route.kernel_only = Some(KernelOnly::Flags(unknown));
    }
    let mut destination = match is_ipv6 {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::RTA_DST => destination = ip(&attribute)?,
            libc::RTA_OIF => hop.ifindex = Some(parse_u32(attribute.value())?),
            libc::RTA_PRIORITY => route.metric = parse_u32(attribute.value())?,
            libc::RTA_TABLE => route.table = parse_u32(attribute.value())?,
            libc::RTA_PREFSRC => route.preferred_source = Some(ip(&attribute)?),
            libc::RTA_METRICS => route.mtu_bytes = route_mtu(attribute.value())?,
            libc::RTA_MULTIPATH => multipath = Some(hops(attribute.value(), &mut route)?),
            libc::RTA_SRC => {
                let source = IpNet::new(ip(&attribute)?, header.source_prefix_length);
                let source = source.map_err(|_| "source prefix is longer than an address")?;
                route.source = Some(source.trunc());
            }
            attribute::ROUTE_PREFERENCE => {
                route.preference = match attribute.value() {
                    [1] => 1,
                    [3] => -1,
                    _ => 0,
                };
            }
            attribute::ROUTE_EXPIRES => route.kernel_only = Some(KernelOnly::Lifetime),
            libc::RTA_CACHEINFO if has_lifetime(attribute.value()) => {
                route.kernel_only = Some(KernelOnly::Lifetime);
            }
            attribute::ROUTE_NEXT_HOP_ID => route.object = Some(parse_u32(attribute.value())?),
            // What says who may use it, or what it counts for, does not change where it goes.
            libc::RTA_CACHEINFO | libc::RTA_FLOW | attribute::ROUTE_PAD => {}
            _ => {
                if !hop.take(&attribute)? {
                    route.kernel_only = Some(KernelOnly::Attribute(attribute.kind()));
                }
            }
        }
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length);
    let prefix = prefix.map_err(|_| "prefix is longer than an address")?;
    route.prefix = prefix.trunc();
    if is_ipv6 && route.kind == RouteKind::Unreachable && route.metric == u32::MAX {
        // The kernel's own word for no route.
        return Ok(None);
    }
    route.hops = multipath.unwrap_or_else(|| hop.hop(1).into_iter().collect());
    if is_ipv6 {
        // Source addresses are those of whichever next hop is named first, and do not matter to what
        // happens to its route.
        route.preferred_source = None;
    }
    Ok(Some(route))
}

/// Flags of a route (`RTM_F_*`, and `RTNH_F_*` of its next hop) that are known, and say nothing more about where it
/// goes than is followed here. Hardware that forwards by itself (offload, trap) goes the same way.
const KNOWN_ROUTE_FLAGS: u32 = 0x2000_fb5f;
/// The same of a next hop (`RTNH_F_*`): dead, pervasive, on link, offload, link down, trap; not unresolved.
const KNOWN_NEXT_HOP_FLAGS: u8 = 0x5f;

/// Whether a `struct rta_cacheinfo` says that the route ends by itself.
fn has_lifetime(cache_info: &[u8]) -> bool {
    /// Where `rta_expires` is.
    const EXPIRES: usize = 8;
    let expires = cache_info.get(EXPIRES..).and_then(<[u8]>::first_chunk::<4>);
    expires.is_some_and(|expires| *expires != [0; 4])
}

fn route_mtu(metrics: &[u8]) -> Result<Option<u32>> {
    for metric in NlasIterator::new(metrics) {
        let metric = metric?;
        if metric.kind() == attribute::ROUTE_MTU {
            return parse_u32(metric.value()).map(Some);
        }
    }
    Ok(None)
}

/// The next hops of a multipath route: `struct rtnexthop` each, followed by attributes. Interfaces of
/// those that are not in use are added to the dead ones of `route`.
fn hops(mut value: &[u8], route: &mut Route) -> Result<Vec<Hop>> {
    /// Length of `struct rtnexthop`, in octets.
    const HEADER_LEN: usize = 8;
    let mut hops = Vec::new();
    while let [a, b, flags, weight, c, d, e, f, ..] = *value {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let body = value.get(HEADER_LEN..len);
        let body = body.ok_or("next hop of a multipath route ends early")?;
        let ifindex = u32::from_ne_bytes([c, d, e, f]);
        if RouteNextHopFlags::from_bits_retain(flags).contains(RouteNextHopFlags::Dead) {
            route.dead.push(ifindex);
        }
        let unknown = flags & !KNOWN_NEXT_HOP_FLAGS;
        if unknown != 0 {
            route.kernel_only = Some(KernelOnly::Flags(unknown.into()));
        }
        let mut hop = HopAttributes {
            ifindex: Some(ifindex),
            via: None,
        };
        for attribute in NlasIterator::new(body) {
            let attribute = attribute?;
            if attribute.kind() != libc::RTA_FLOW && !hop.take(&attribute)? {
                route.kernel_only = Some(KernelOnly::Attribute(attribute.kind()));
            }
        }
        hops.extend(hop.hop(u32::from(weight) + 1));
        value = value.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

/// What the attributes of a route or of one of its next hops say about the way.
#[derive(Default)]
struct HopAttributes {
    ifindex: Option<u32>,
    via: Option<Via>,
}

impl HopAttributes {
    /// Takes an attribute in; whether it is known.
    fn take(&mut self, attribute: &NlaBuffer<&[u8]>) -> Result<bool> {
        match attribute.kind() {
            libc::RTA_GATEWAY if self.via.is_none() => {
                self.via = Some(Via::Gateway(ip(attribute)?));
            }
            libc::RTA_VIA => {
                self.via = Some(via(attribute.value()).map_or(Via::Kernel, Via::Gateway));
            }
            attribute::ROUTE_ENCAP_TYPE if parse_u16(attribute.value())? != 0 => {
                self.via = Some(Via::Kernel);
            }
            // The encapsulation's own, if there is one.
            libc::RTA_GATEWAY
            | attribute::ROUTE_ENCAP_TYPE
            | attribute::ROUTE_ENCAP
            | attribute::ROUTE_TTL_PROPAGATE => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn hop(&self, weight: u32) -> Option<Hop> {
        Some(Hop {
            ifindex: self.ifindex?,
            via: self.via.unwrap_or(Via::Link),
            weight,
        })
    }
}

fn net_conf(payload: &[u8]) -> Result<Option<KernelEvent>> {
    /// Length of `struct netconfmsg`, in octets, with the padding that follows.
    const HEADER_LEN: usize = 4;
    let ipv6 = match payload.first().copied().map(AddressFamily::from) {
        Some(AddressFamily::Inet) => false,
        Some(AddressFamily::Inet6) => true,
        _ => return Ok(None),
    };
    let (mut ifindex, mut ignore) = (None, None);
    for attribute in attributes(payload, HEADER_LEN) {
        let attribute = attribute?;
        match attribute.kind() {
            attribute::NETCONF_IFINDEX => ifindex = Some(parse_i32(attribute.value())?),
            attribute::NETCONF_IGNORE_LINK_DOWN => {
                ignore = Some(parse_i32(attribute.value())? != 0);
            }
            _ => {}
        }
    }
    let ifindex = match ifindex {
        // Of IPv6, it only sets that of each interface, which is announced.
        Some(NETCONF_ALL) if ipv6 => return Ok(None),
        Some(NETCONF_ALL) => None,
        // `conf.default` is for interfaces yet to come.
        Some(ifindex) if ifindex > 0 => Some(ifindex.unsigned_abs()),
        _ => return Ok(None),
    };
    Ok(ignore.map(|ignore| KernelEvent::IgnoreLinkDown {
        ipv6,
        ifindex,
        ignore,
    }))
}

/// `struct rtvia`: a gateway of another family than the route's.
fn via(value: &[u8]) -> Option<IpAddr> {
    octets(value.get(2..)?)
}

fn is_ip(family: AddressFamily) -> bool {
    matches!(family, AddressFamily::Inet | AddressFamily::Inet6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INET: u8 = libc::AF_INET as u8;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = (4 + value.len()) as u16;
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(header: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
        [header, &attributes.concat()].concat()
    }

    fn parsed(message_type: u16, message: &[u8]) -> Option<KernelEvent> {
        event(message_type, 0, false, message).unwrap()
    }

    #[test]
    fn nexthop_objects() {
        let object = |family, attributes: &[Vec<u8>]| {
            let header = [family, 0, 0, 0, 0, 0, 0, 0];
            let id = attribute(attribute::NEXT_HOP_ID, &7_u32.to_ne_bytes());
            let attributes = [&[id], attributes].concat();
            match parsed(message::NEW_NEXT_HOP, &message(&header, &attributes)) {
                Some(KernelEvent::NextHopObject(object)) => Some((object.id, object.kind)),
                None => None,
                event => panic!("{event:?}"),
            }
        };
        let out = attribute(attribute::NEXT_HOP_OIF, &3_u32.to_ne_bytes());
        let gateway = attribute(attribute::NEXT_HOP_GATEWAY, &[10, 0, 0, 1]);
        let gateway6 = attribute(attribute::NEXT_HOP_GATEWAY, &[0xfe; 16]);
        let hop = |via| {
            let hop = Hop {
                ifindex: 3,
                via,
                weight: 1,
            };
            Some((7, NextHopObjectKind::Hop(hop)))
        };
        let via = Via::Gateway(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(object(INET, &[out.clone(), gateway]), hop(via));
        assert_eq!(object(INET, std::slice::from_ref(&out)), hop(Via::Link));
        let inet6 = libc::AF_INET6 as u8;
        let via = Via::Gateway(IpAddr::from([0xfe; 16]));
        assert_eq!(object(inet6, &[out.clone(), gateway6]), hop(via));
        let fdb = attribute(attribute::NEXT_HOP_FDB, &[]);
        assert_eq!(object(INET, &[out, fdb]), None);
        let blackhole = attribute(attribute::NEXT_HOP_BLACKHOLE, &[]);
        assert_eq!(
            object(INET, &[blackhole]),
            Some((7, NextHopObjectKind::Blackhole))
        );

        let mut members = [0; 16];
        members[..5].copy_from_slice(&[&1_u32.to_ne_bytes()[..], &[2]].concat());
        members[8..14].copy_from_slice(&[&2_u32.to_ne_bytes()[..], &[0, 1]].concat());
        let group = attribute(attribute::NEXT_HOP_GROUP, &members);
        let weights = vec![(1, 3), (2, 257)];
        let resilient = attribute(attribute::NEXT_HOP_GROUP_TYPE, &1_u16.to_ne_bytes());
        assert_eq!(
            object(0, &[group.clone(), resilient]),
            Some((7, NextHopObjectKind::ResilientGroup(weights.clone())))
        );
        let group = object(0, &[group]);
        assert_eq!(group, Some((7, NextHopObjectKind::Group(weights))));
    }

    #[test]
    fn routes_that_are_none() {
        let route = |family, flags: u32| {
            let header = [&[family, 8, 0, 0, 254, 4, 0, 1][..], &flags.to_ne_bytes()].concat();
            parsed(libc::RTM_NEWROUTE, &message(&header, &[]))
        };
        assert!(route(INET, 0).is_some());
        assert_eq!(route(INET, libc::RTM_F_CLONED), None);
        assert_eq!(route(libc::AF_MPLS as u8, 0), None);
    }

    #[test]
    fn a_fragment_of_a_link_message_says_nothing() {
        let name = attribute(libc::IFLA_IFNAME, b"wlan0\0");
        assert_eq!(parsed(libc::RTM_NEWLINK, &message(&[0; 16], &[name])), None);
        let bridge_port = [&[libc::AF_BRIDGE as u8][..], &[0; 15]].concat();
        assert_eq!(parsed(libc::RTM_DELLINK, &bridge_port), None);
        let changed = parsed(libc::RTM_NEWLINK, &bridge_port);
        assert_eq!(changed, Some(KernelEvent::SettingsChanged));
    }

    proptest! {
        #[test]
        fn prop_no_message_is_too_strange(
            message_type in prop_oneof![16_u16..33, 80_u16..82, 104_u16..107],
            family in prop_oneof![Just(INET), any::<u8>()],
            header in prop::collection::vec(any::<u8>(), 0..16),
            attributes in prop::collection::vec(
                (0_u16..32, prop::collection::vec(any::<u8>(), 0..40)),
                0..6,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            let attributes: Vec<_> = attributes
                .iter()
                .map(|(kind, value)| attribute(*kind, value))
                .collect();
            let mut message = message(&[&[family], &header[..]].concat(), &attributes);
            event(message_type, 0, false, &message).ok();
            message.truncate(cut.index(message.len()));
            event(message_type, 0, true, &message).ok();
        }
    }
}
