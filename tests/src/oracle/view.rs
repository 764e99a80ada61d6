//! A router as a test describes it: interfaces, routes, neighbours and settings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::family::Family;
use crate::packet::{Mac, protocol};

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
        address: IpAddr,
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
    pub group: IpAddr,
    /// IP protocol number of Xcast.
    pub protocol: u8,
    /// Routing type of Xcast6.
    pub routing_type: u8,
    /// Type of the option of Xcast6 that lists ports.
    pub ports_option: u8,
    /// Configured anycast addresses.
    pub anycast: Vec<IpAddr>,
    /// The router's own addresses.
    pub own: Vec<IpAddr>,
    /// Broadcast addresses of its own subnets.
    pub broadcasts: Vec<IpAddr>,
    /// How lists are pruned.
    pub prune: Prune,
    /// How it takes Xcast inside UDP, if it does.
    pub udp: Option<Udp>,
    /// Interfaces; their index is the port's number.
    pub ports: Vec<Port>,
    /// Routes: address, prefix length, target. The longest match counts.
    pub routes: Vec<(IpAddr, u8, Target)>,
    /// Hosts on the links whose link layer address is known: port, address, link layer address.
    pub neighbours: Vec<(usize, IpAddr, Mac)>,
}

/// How a router takes Xcast inside UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// The port.
    pub port: u16,
    /// Who may send for whom besides itself, in prefixes and their lengths.
    pub peers: BTreeMap<IpAddr, Vec<(IpAddr, u8)>>,
}

impl RouterView {
    /// The family it forwards.
    pub fn family(&self) -> Family {
        Family::of(self.group)
    }
}

/// How many octets of headers come before the Xcast routing header of an IPv6 packet, and whether
/// there is a fragment header among them; `None` where there is no such routing header.
pub(super) fn headers_before(view: &RouterView, bytes: &[u8]) -> Option<(usize, bool)> {
    let mut next = *bytes.get(6)?;
    let mut at = 40;
    let mut is_fragment = false;
    for _ in 0..=4 {
        match next {
            protocol::ROUTING if *bytes.get(at + 2)? == view.routing_type => {
                return Some((at - 40, is_fragment));
            }
            protocol::FRAGMENT => {
                is_fragment = true;
                next = *bytes.get(at)?;
                at += 8;
            }
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => {
                next = *bytes.get(at)?;
                at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
            }
            _ => return None,
        }
        // The router passes over this much, no more.
        if at - 40 > 2040 {
            return None;
        }
    }
    None
}
