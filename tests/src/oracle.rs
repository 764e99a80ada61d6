//! What an Xcast router must make of a frame.
//!
//! Written from RFC 5058 (sections 9.1, 9.2, 10.1, 11.2 and 11.5) and the decisions the project
//! documents where the RFC is silent, without a look at the router's code. The router is described
//! by a [`RouterView`]; [`expect`] answers with every frame that must leave, byte for byte, every
//! unicast packet that must reach the kernel's stack, and what must be counted.
//!
//! Speed does not matter here, so that each rule can stand on its own.

mod tunnel;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub use self::tunnel::{Opened, Udp, open};
use crate::packet::{
    self, Destination, ETHER_TYPE_IPV4, ETHERNET_LEN, IPV4_LEN, Ipv4, Mac, Xcast, be16, protocol,
};

/// How a copy's list is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Only the copy's own destinations remain.
    Truncate,
    /// The list remains, the bits of the others are cleared.
    Bitmap,
}

/// An interface of the router.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its own link layer address.
    pub mac: Mac,
    /// Largest IP packet it may send.
    pub mtu: usize,
    /// It accepts frames to the group's MAC.
    pub group_mac: bool,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a gateway.
    Gateway {
        /// Port it is reached by.
        port: usize,
        /// Its address: with the port, the identity of a next hop.
        address: Ipv4Addr,
        /// Its link layer address, if it is known.
        mac: Option<Mac>,
        /// It speaks Xcast.
        xcast: bool,
    },
    /// To hosts on the link of a port; [`RouterView::neighbours`] knows them.
    OnLink {
        /// Port they are reached by.
        port: usize,
    },
    /// To the router itself.
    Local,
    /// `unreachable` and `prohibit`.
    Unreachable,
    /// `blackhole`.
    Blackhole,
    /// By an interface that is not a port of the Xcast router.
    OtherInterface,
}

/// A router as its surroundings know it.
#[derive(Clone, Debug)]
pub struct RouterView {
    /// The All-Xcast-Routers group.
    pub group: Ipv4Addr,
    /// IP protocol number of Xcast.
    pub protocol: u8,
    /// Configured anycast addresses.
    pub anycast: Vec<Ipv4Addr>,
    /// The router's own addresses.
    pub own: Vec<Ipv4Addr>,
    /// Broadcast addresses of its own subnets.
    pub broadcasts: Vec<Ipv4Addr>,
    /// How lists are pruned.
    pub prune: Prune,
    /// How it takes Xcast inside UDP, if it does.
    pub udp: Option<Udp>,
    /// Interfaces; their index is the port's number.
    pub ports: Vec<Port>,
    /// Routes: address, prefix length, target. The longest match counts.
    pub routes: Vec<(Ipv4Addr, u8, Target)>,
    /// Hosts on the links whose link layer address is known: port, address, link layer address.
    pub neighbours: Vec<(usize, Ipv4Addr, Mac)>,
}

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
        next_hop: Ipv4Addr,
        mac: Mac,
        on_link: bool,
        xcast: bool,
    },
    Stack(&'static str),
    Skip(&'static str),
}

impl RouterView {
    fn way(&self, destination: Ipv4Addr) -> Way {
        if self.never(destination) {
            return Way::Skip("skip_never");
        }
        let covers = |&&(prefix, length, _): &&(Ipv4Addr, u8, Target)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (prefix.to_bits() ^ destination.to_bits()) & mask == 0
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
                    |entry: &&(usize, Ipv4Addr, Mac)| (entry.0, entry.1) == (port, destination);
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

    fn never(&self, address: Ipv4Addr) -> bool {
        let first = address.octets()[0];
        first == 0
            || first == 127
            || first >= 224
            || address.is_link_local()
            || self.broadcasts.contains(&address)
    }
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
        let frame = packet::ethernet(mac, view.ports[port].mac, ETHER_TYPE_IPV4, &packet);
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
    group: Ipv4Addr,
    ip: Ipv4,
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
        let is_ipv4 = be16(frame, 12) == Some(ETHER_TYPE_IPV4);
        if !is_ipv4 || !(to_port || to_group) {
            return Err(untouched());
        }
        let bytes = &frame[ETHERNET_LEN..];
        let Some(destination) = packet::address(bytes, 16) else {
            return Err(untouched());
        };
        let accepted = destination == view.group
            || view.own.contains(&destination)
            || view.anycast.contains(&destination);
        if bytes[9] != view.protocol || !accepted {
            return Err(untouched());
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
        let Some((ip, payload)) = Ipv4::parse(bytes) else {
            return dropped("drop_truncated");
        };
        let source = ip.source;
        if source.is_multicast()
            || source.is_broadcast()
            || source.is_loopback()
            || source.is_unspecified()
            || view.broadcasts.contains(&source)
        {
            return dropped("drop_source");
        }
        if view.own.contains(&source) {
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
        let Some((xcast, segment)) = Xcast::parse(payload) else {
            return dropped("drop_truncated");
        };
        if packet::sum(&payload[..4 * words]) != 0xffff {
            return dropped("drop_checksum");
        }
        if xcast.protocol == view.protocol {
            return dropped("drop_nested");
        }
        Ok(Self {
            group: view.group,
            segment: segment.to_vec(),
            ip,
            xcast,
        })
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
                    false if self.xcast.a => Destination::new(Ipv4Addr::UNSPECIFIED).cleared(),
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
            destinations,
            ..self.xcast.clone()
        };
        let ip = Ipv4 {
            total_len: None,
            checksum: None,
            ttl: self.ip.ttl - 1,
            destination: self.group,
            ..self.ip.clone()
        };
        ip.emit(&[xcast.emit(), self.segment.clone()].concat())
    }

    /// X2U: the ordinary unicast packet for entry `index`.
    fn unicast(&self, index: usize, ttl: u8) -> Vec<u8> {
        let destination = &self.xcast.destinations[index];
        let ds = match self.xcast.d {
            true => destination.ds & 0xfc | self.ip.ds & 0x03,
            false => self.ip.ds,
        };
        let ip = Ipv4 {
            total_len: None,
            checksum: None,
            ds,
            ttl,
            protocol: self.xcast.protocol,
            destination: destination.address,
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
            _ => return segment,
        };
        let (Some(old_checksum), Some(old_port)) = (be16(&segment, checksum_at), be16(&segment, 2))
        else {
            return segment;
        };
        let new_port = if self.xcast.p {
            destination.port
        } else {
            old_port
        };
        segment[2..4].copy_from_slice(&new_port.to_be_bytes());
        let is_udp = self.xcast.protocol == protocol::UDP;
        if is_udp && old_checksum == 0 {
            return segment;
        }
        // Checksum' = ~ (~Checksum + ~daH + ~daL + daH' + daL' + ~dp + dp')
        let [da_high, da_low] = halves(self.group);
        let [new_da_high, new_da_low] = halves(destination.address);
        let terms = [
            !old_checksum,
            !da_high,
            !da_low,
            new_da_high,
            new_da_low,
            !old_port,
            new_port,
        ];
        let mut checksum = !packet::fold(terms.iter().map(|&term| u64::from(term)).sum());
        if is_udp && checksum == 0 {
            checksum = 0xffff;
        }
        segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

fn halves(address: Ipv4Addr) -> [u16; 2] {
    let bits = address.to_bits();
    [(bits >> 16) as u16, bits as u16]
}

#[cfg(test)]
mod tests;
