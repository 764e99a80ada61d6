//! What an Xcast router must make of a frame.
//!
//! Written from RFC 5058 (sections 9.1 to 9.3, 10.1, 11.2 and 11.5) and the decisions the project
//! documents where the RFC is silent, without a look at the router's code. The router is described
//! by a [`RouterView`]; [`expect`] answers with every frame that must leave, byte for byte, every
//! unicast packet that must reach the kernel's stack, and what must be counted.
//!
//! Speed does not matter here, so that each rule can stand on its own.

mod tunnel;
mod view;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::view::headers_before;
pub use self::{
    tunnel::{Opened, open},
    view::{Port, Prune, RouterView, Target, Udp},
};
use crate::family::{Family, same_prefix};
use crate::packet::{self, Destination, ETHERNET_LEN, IPV4_LEN, Ip, Mac, Xcast, be16, protocol};

/// A frame that must leave by a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// The port.
    pub port: usize,
    /// The frame.
    pub frame: Vec<u8>,
}

/// What a frame must lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The frame is not for the Xcast router and goes on as if there were none.
    pub untouched: bool,
    /// Frames that leave by ports.
    pub branches: Vec<Branch>,
    /// Unicast packets, from the IP header on, handed to the kernel's stack.
    pub stack: Vec<Vec<u8>>,
    /// Counters that go up, by name.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Expected {
    fn count(&mut self, counter: &'static str) {
        *self.counters.entry(counter).or_default() += 1;
    }

    fn dropped(counter: &'static str) -> Self {
        Self {
            counters: [(counter, 1)].into(),
            ..Self::default()
        }
    }
}

/// What is to happen with one entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward {
        port: usize,
        next_hop: IpAddr,
        mac: Mac,
        on_link: bool,
        xcast: bool,
    },
    Stack(&'static str),
    Skip(&'static str),
}

/// Addresses of IPv6 that packets are neither forwarded to nor from (RFC 4291 sections 2.5.2, 2.5.3,
/// 2.5.5.2, 2.5.6 and 2.7).
fn never6(address: Ipv6Addr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.segments()[0] & 0xffc0 == 0xfe80
        || address.to_ipv4_mapped().is_some()
}

impl RouterView {
    fn way(&self, destination: IpAddr) -> Way {
        if self.never(destination) {
            return Way::Skip("skip_never");
        }
        let covers = |&&(prefix, length, _): &&(IpAddr, u8, Target)| {
            same_prefix(prefix, destination, length)
        };
        let best = self
            .routes
            .iter()
            .filter(covers)
            .max_by_key(|route| route.1);
        match best.map(|route| route.2) {
            None => Way::Stack("stack_no_route"),
            Some(Target::Local) => Way::Stack("stack_local"),
            Some(Target::Unreachable) => Way::Stack("stack_unreachable"),
            Some(Target::Blackhole) => Way::Skip("skip_blackhole"),
            Some(Target::OtherInterface) => Way::Stack("stack_no_port"),
            Some(Target::Gateway { mac: None, .. }) => Way::Stack("stack_no_neighbour"),
            Some(Target::Gateway {
                port,
                address,
                mac: Some(mac),
                xcast,
            }) => Way::Forward {
                port,
                next_hop: address,
                mac,
                on_link: false,
                xcast,
            },
            Some(Target::OnLink { port }) => {
                let known =
                    |entry: &&(usize, IpAddr, Mac)| (entry.0, entry.1) == (port, destination);
                match self.neighbours.iter().find(known) {
                    None => Way::Stack("stack_no_neighbour"),
                    Some(&(_, _, mac)) => Way::Forward {
                        port,
                        next_hop: destination,
                        mac,
                        on_link: true,
                        xcast: false,
                    },
                }
            }
        }
    }

    fn never(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ipv4) => {
                let first = ipv4.octets()[0];
                first == 0
                    || first == 127
                    || first >= 224
                    || ipv4.is_link_local()
                    || self.broadcasts.contains(&address)
            }
            IpAddr::V6(ipv6) => never6(ipv6),
        }
    }
}

/// Whether a segment holds a whole packet which may be Xcast, in a form that routers take it out of: copies of it would be
/// opened and multiplied once more.
fn holds_xcast(view: &RouterView, protocol: u8, segment: &[u8]) -> bool {
    match protocol {
        // IP in IP, as in a tunnel.
        4 | 41 => begins_with_xcast(view, segment).is_some(),
        // Another routing header may come behind options: a copy would begin with those.
        protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS if view.family() == Family::Ipv6 => {
            segment.first().is_some_and(|&next| leads_to_routing(next))
        }
        protocol::UDP => {
            let Some(payload) = segment.get(8..) else {
                return false;
            };
            // A cookie of sources begins with 1.
            let ahead = if payload.first() == Some(&1) { 16 } else { 0 };
            let inside = payload.get(ahead..).unwrap_or_default();
            let Some((family, len)) = begins_with_xcast(view, inside) else {
                return false;
            };
            let stated = be16(segment, 4).map(usize::from);
            // In a tunnel, there is a cookie behind it.
            stated == Some(8 + ahead + len + 8)
                || stated == Some(8 + ahead + len) && family == view.family()
        }
        _ => false,
    }
}

/// Family and length of a packet that may be Xcast.
fn begins_with_xcast(view: &RouterView, bytes: &[u8]) -> Option<(Family, usize)> {
    let len = |at| be16(bytes, at).map(usize::from);
    match bytes.first()? >> 4 {
        4 if bytes.get(9) == Some(&view.protocol) => Some((Family::Ipv4, len(2)?)),
        6 if leads_to_routing(*bytes.get(6)?) => Some((Family::Ipv6, 40 + len(4)?)),
        _ => None,
    }
}

/// Hop-by-hop options, routing header, destination options.
fn leads_to_routing(header: u8) -> bool {
    matches!(header, 0 | 43 | 60)
}

/// What the router must make of `frame`, arriving by `port`.
pub fn expect(view: &RouterView, port: usize, frame: &[u8]) -> Expected {
    match open(view, port, frame) {
        Opened::Untouched => expect_native(view, port, frame),
        Opened::Dropped(reason) => Expected::dropped(reason),
        Opened::Frame(inside) => {
            let mut expected = expect_native(view, port, &inside);
            expected.count("decapsulated");
            expected
        }
    }
}

fn expect_native(view: &RouterView, port: usize, frame: &[u8]) -> Expected {
    let arrival = match Arrival::accept(view, port, frame) {
        Ok(arrival) => arrival,
        Err(verdict) => return verdict,
    };
    let mut expected = Expected::default();
    expected.count("received");
    let x = arrival.xcast.x;

    // Copies in the making: the next hop, and which entries of the list it is for.
    let mut groups: Vec<(Way, Vec<usize>)> = Vec::new();
    let mut to_stack: Vec<usize> = Vec::new();
    for (index, destination) in arrival.xcast.destinations.iter().enumerate() {
        if !destination.valid {
            continue;
        }
        let way = view.way(destination.address);
        match way {
            Way::Skip(reason) => expected.count(reason),
            Way::Stack(reason) if x && reason != "stack_local" => expected.count("skip_x_stack"),
            Way::Stack(reason) => {
                if arrival.repeats(&to_stack, index) {
                    expected.count("skip_duplicate");
                } else {
                    expected.count(reason);
                    to_stack.push(index);
                }
            }
            // Whatever else may be wrong with it, it cannot leave.
            Way::Forward { .. } if arrival.ip.ttl <= 1 => expected.count("skip_ttl"),
            Way::Forward { on_link, xcast, .. } => {
                if x && !on_link && !xcast {
                    expected.count("skip_x_incapable");
                    continue;
                }
                let same: Vec<usize> = groups
                    .iter()
                    .filter(|group| group.0 == way)
                    .flat_map(|group| group.1.iter().copied())
                    .collect();
                if !xcast && arrival.repeats(&same, index) {
                    expected.count("skip_duplicate");
                    continue;
                }
                match groups.iter_mut().find(|group| xcast && group.0 == way) {
                    Some(group) => group.1.push(index),
                    None => groups.push((way, vec![index])),
                }
            }
        }
    }

    for (way, indices) in groups {
        let Way::Forward {
            port,
            next_hop: _,
            mac,
            ..
        } = way
        else {
            continue;
        };
        let unicast = !x && indices.len() == 1;
        let packet = if unicast {
            arrival.unicast(indices[0], arrival.ip.ttl - 1)
        } else {
            arrival.branch(view, &indices)
        };
        if packet.len() > view.ports[port].mtu {
            for index in indices {
                if x {
                    expected.count("skip_x_mtu");
                } else if arrival.repeats(&to_stack, index) {
                    expected.count("skip_duplicate");
                } else {
                    expected.count("stack_mtu");
                    to_stack.push(index);
                }
            }
            continue;
        }
        expected.count("planned");
        expected.count("sent");
        if unicast {
            expected.count("x2u");
        }
        let ether_type = view.family().ether_type();
        let frame = packet::ethernet(mac, view.ports[port].mac, ether_type, &packet);
        expected.branches.push(Branch { port, frame });
    }
    for index in to_stack {
        expected.stack.push(arrival.unicast(index, arrival.ip.ttl));
        for counter in ["planned", "sent", "x2u"] {
            expected.count(counter);
        }
    }
    expected
}

/// An Xcast packet that was accepted.
struct Arrival {
    group: IpAddr,
    ip: Ip,
    xcast: Xcast,
    segment: Vec<u8>,
}

impl Arrival {
    fn accept(view: &RouterView, port: usize, frame: &[u8]) -> Result<Self, Expected> {
        let dropped = |counter| Err(Expected::dropped(counter));
        let untouched = || Expected {
            untouched: true,
            ..Expected::default()
        };
        // For us? Only then may anything be dropped.
        let own = &view.ports[port];
        let to_port = frame.starts_with(&own.mac);
        let to_group = own.group_mac && frame.starts_with(&packet::group_mac(view.group));
        let family = view.family();
        let is_family = be16(frame, 12) == Some(family.ether_type());
        if !is_family || !(to_port || to_group) {
            return Err(untouched());
        }
        let bytes = &frame[ETHERNET_LEN..];
        let destination = match family {
            Family::Ipv4 => packet::address(bytes, 16),
            Family::Ipv6 => packet::address6(bytes, 24),
        };
        let Some(destination) = destination else {
            return Err(untouched());
        };
        let accepted = destination == view.group
            || view.own.contains(&destination)
            || view.anycast.contains(&destination);
        if !accepted {
            return Err(untouched());
        }
        match family {
            Family::Ipv4 if bytes[9] != view.protocol => return Err(untouched()),
            Family::Ipv4 => {}
            Family::Ipv6 => {
                return Self::accept_ipv6(view, bytes).map_err(|drop| match drop {
                    Some(counter) => Expected::dropped(counter),
                    None => untouched(),
                });
            }
        }

        // RFC 791.
        if bytes[0] >> 4 != 4 || bytes[0] & 0x0f < 5 {
            return dropped("drop_ip_header");
        }
        if bytes[0] & 0x0f > 5 {
            return dropped("drop_ip_options");
        }
        if packet::sum(&bytes[..IPV4_LEN]) != 0xffff {
            return dropped("drop_ip_checksum");
        }
        if be16(bytes, 6).is_some_and(|fragment| fragment & 0x3fff != 0) {
            return dropped("drop_fragment");
        }
        let Some((ip, payload)) = Ip::parse(Family::Ipv4, bytes) else {
            return dropped("drop_truncated");
        };
        let IpAddr::V4(source) = ip.source else {
            return Err(untouched());
        };
        if source.is_multicast()
            || source.is_broadcast()
            || source.is_loopback()
            || source.is_unspecified()
            || view.broadcasts.contains(&ip.source)
        {
            return dropped("drop_source");
        }
        if view.own.contains(&ip.source) {
            return dropped("drop_spoofed");
        }

        // RFC 5058 section 9.2.2.
        if payload.len() < 12 {
            return dropped("drop_truncated");
        }
        if payload[0] >> 4 != 1 {
            return dropped("drop_version");
        }
        if payload[1] & 0x7f == 0 {
            return dropped("drop_no_destinations");
        }
        let (d, p, count) = (
            payload[0] >> 1 & 1,
            payload[0] & 1,
            usize::from(payload[1] & 0x7f),
        );
        let words = 3
            + count.div_ceil(32)
            + count
            + usize::from(d) * count.div_ceil(4)
            + usize::from(p) * count.div_ceil(2);
        if usize::from(payload[9]) != words {
            return dropped("drop_length");
        }
        let Some((xcast, segment)) = Xcast::parse(Family::Ipv4, payload) else {
            return dropped("drop_truncated");
        };
        if packet::sum(&payload[..4 * words]) != 0xffff {
            return dropped("drop_checksum");
        }
        if xcast.protocol == view.protocol {
            return dropped("drop_nested");
        }
        if holds_xcast(view, xcast.protocol, segment) {
            return dropped("drop_nested");
        }
        Ok(Self {
            group: view.group,
            segment: segment.to_vec(),
            ip,
            xcast,
        })
    }

    /// RFC 5058 section 9.3, RFC 8200 section 4: `Err(None)` is for a packet that does not concern
    /// Xcast, otherwise it names the counter.
    fn accept_ipv6(view: &RouterView, bytes: &[u8]) -> Result<Self, Option<&'static str>> {
        let (before, is_fragment) = headers_before(view, bytes).ok_or(None)?;
        if bytes[0] >> 4 != 6 {
            return Err(Some("drop_ip_header"));
        }
        if is_fragment {
            return Err(Some("drop_fragment"));
        }
        let payload_len = be16(bytes, 4).map_or(0, usize::from);
        let payload = bytes.get(40..40 + payload_len);
        let payload = payload.ok_or(Some("drop_truncated"))?;
        let header = payload.get(before..).filter(|header| header.len() >= 24);
        let header = header.ok_or(Some("drop_truncated"))?;
        if header[3] != 0 {
            return Err(Some("drop_segments_left"));
        }
        if header[4] >> 4 != 1 {
            return Err(Some("drop_version"));
        }
        let count = usize::from(header[5] & 0x7f);
        if count == 0 {
            return Err(Some("drop_no_destinations"));
        }
        let ds_len = match header[4] & 2 {
            0 => 0,
            _ => count.next_multiple_of(8),
        };
        let routing_len = 24 + 8 * count.div_ceil(64) + 16 * count + ds_len;
        if (usize::from(header[1]) + 1) * 8 != routing_len {
            return Err(Some("drop_length"));
        }
        let routing = header.get(..routing_len).ok_or(Some("drop_truncated"))?;
        if packet::sum(routing) != 0xffff {
            return Err(Some("drop_checksum"));
        }
        if header[0] == protocol::DESTINATION_OPTIONS {
            let ports = &header[routing_len..];
            if ports.len() < 8 {
                return Err(Some("drop_truncated"));
            }
            if ports[2] == view.ports_option {
                let len = (4 + 2 * count).next_multiple_of(8);
                if usize::from(ports[3]) != 2 * count || (usize::from(ports[1]) + 1) * 8 != len {
                    return Err(Some("drop_length"));
                }
                if ports.len() < len {
                    return Err(Some("drop_truncated"));
                }
            }
        }
        let (ip, _) = Ip::parse(Family::Ipv6, bytes).ok_or(Some("drop_truncated"))?;
        let parsed = Xcast::parse(Family::Ipv6, header);
        let (xcast, segment) = parsed.ok_or(Some("drop_truncated"))?;
        match xcast.protocol {
            protocol::FRAGMENT => return Err(Some("drop_fragment")),
            protocol::ROUTING => return Err(Some("drop_nested")),
            _ => {}
        }
        if matches!(ip.source, IpAddr::V6(source) if never6(source)) {
            return Err(Some("drop_source"));
        }
        if view.own.contains(&ip.source) {
            return Err(Some("drop_spoofed"));
        }
        if holds_xcast(view, xcast.protocol, segment) {
            return Err(Some("drop_nested"));
        }
        Ok(Self {
            group: view.group,
            segment: segment.to_vec(),
            ip,
            xcast,
        })
    }

    /// The address of a destination that was taken out.
    fn unspecified(&self) -> IpAddr {
        match self.group {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Whether entry `index` names an address and port that one of `earlier` already names.
    fn repeats(&self, earlier: &[usize], index: usize) -> bool {
        let key = |index: usize| {
            let destination = &self.xcast.destinations[index];
            (destination.address, destination.port)
        };
        earlier.iter().any(|&other| key(other) == key(index))
    }

    /// The copy that stays an Xcast packet, for the entries `indices`.
    fn branch(&self, view: &RouterView, indices: &[usize]) -> Vec<u8> {
        let list = &self.xcast.destinations;
        let destinations = match view.prune {
            Prune::Truncate => indices.iter().map(|&index| list[index]).collect(),
            Prune::Bitmap => (0..list.len())
                .map(|index| match indices.contains(&index) {
                    true => list[index],
                    false if self.xcast.a => Destination::new(self.unspecified()).cleared(),
                    false => list[index].cleared(),
                })
                .collect(),
        };
        let xcast = Xcast {
            r: false,
            reserved: 0,
            padding: 0,
            stray_bits: false,
            count: None,
            checksum: None,
            len_words: None,
            ports_len: None,
            destinations,
            ..self.xcast.clone()
        };
        let ip = Ip {
            total_len: None,
            checksum: None,
            ttl: self.ip.ttl - 1,
            destination: self.group,
            ..self.ip.clone()
        };
        ip.emit(&[xcast.emit(view.family()), self.segment.clone()].concat())
    }

    /// X2U: the ordinary unicast packet for entry `index`.
    fn unicast(&self, index: usize, ttl: u8) -> Vec<u8> {
        let destination = &self.xcast.destinations[index];
        let ds = match self.xcast.d {
            true => destination.ds & 0xfc | self.ip.ds & 0x03,
            false => self.ip.ds,
        };
        let ip = Ip {
            total_len: None,
            checksum: None,
            ds,
            ttl,
            protocol: self.xcast.protocol,
            destination: destination.address,
            before: Vec::new(),
            ..self.ip.clone()
        };
        ip.emit(&self.unicast_segment(destination))
    }

    /// The transport packet with the destination's port, its checksum corrected by RFC 5058
    /// section 10.1.
    fn unicast_segment(&self, destination: &Destination) -> Vec<u8> {
        let mut segment = self.segment.clone();
        let checksum_at = match self.xcast.protocol {
            protocol::TCP => 16,
            protocol::UDP | protocol::UDP_LITE | protocol::DCCP => 6,
            protocol::ICMPV6 if self.group.is_ipv6() => 2,
            _ => return segment,
        };
        let (Some(old_checksum), Some(old_port)) = (be16(&segment, checksum_at), be16(&segment, 2))
        else {
            return segment;
        };
        let has_ports = self.xcast.protocol != protocol::ICMPV6;
        let new_port = if self.xcast.p && has_ports {
            destination.port
        } else {
            old_port
        };
        if has_ports {
            segment[2..4].copy_from_slice(&new_port.to_be_bytes());
        }
        let is_udp = self.xcast.protocol == protocol::UDP;
        if is_udp && old_checksum == 0 {
            return segment;
        }
        // Checksum' = ~ (~Checksum + ~daH + ~daL + daH' + daL' + ~dp + dp')
        let mut terms = vec![!old_checksum];
        terms.extend(words(self.group).iter().map(|word| !word));
        terms.extend(words(destination.address));
        if has_ports {
            terms.extend([!old_port, new_port]);
        }
        let mut checksum = !packet::fold(terms.iter().map(|&term| u64::from(term)).sum());
        if is_udp && checksum == 0 {
            checksum = 0xffff;
        }
        segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

/// An address as 16-bit words.
fn words(address: IpAddr) -> Vec<u16> {
    let octets = packet::octets(address);
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair[1]]);
    octets.chunks(2).map(word).collect()
}

#[cfg(test)]
mod tests;
