//! Tests of route synchronisation without a kernel.

mod family;
mod maps;
mod model;
mod neighbours;
mod policy;
mod rules;
mod tunnels;
mod whole;
mod xcast_table;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use self::{
    family::{Family, both_families, family},
    maps::{Fate, Router},
};
use super::{
    edit::Edit,
    event::{
        Address, Hop, KernelEvent, Link, Neighbour, NeighbourState, NextHopObject,
        NextHopObjectKind, Placement, Route, RouteKind, Via,
    },
    rib::{TABLE_LOCAL, TABLE_MAIN},
    route_sync::{RouteSync, SyncConfig},
};
use crate::gateways::Gateways;

/// What stands for an IPv4 prefix in the family under test.
fn net(text: &str) -> IpNet {
    family::prefix(text.parse().unwrap())
}

/// What stands for an IPv4 address in the family under test.
fn ip(text: &str) -> IpAddr {
    family::address(text.parse().unwrap())
}

/// A link that is up; number `n` is called `eth<n>` and has a MAC address that ends in `n`.
fn link(ifindex: u32) -> Link {
    Link {
        ifindex,
        name: format!("eth{ifindex}"),
        mac: Some([2, 0, 0, 0, 0, ifindex as u8]),
        mtu_bytes: 1500,
        alt_names: Vec::new(),
        in_vrf: false,
        up: true,
        carrier: true,
    }
}

/// A reachable neighbour, whose MAC address says who it is.
fn neighbour(ifindex: u32, address: &str) -> Neighbour {
    let [_, b, c, d] = address.parse::<Ipv4Addr>().unwrap().octets();
    Neighbour {
        ifindex,
        address: ip(address),
        mac: Some([4, ifindex as u8, 0, b, c, d]),
        state: NeighbourState::Reachable,
        managed: false,
    }
}

fn to(ifindex: u32, via: Via) -> Hop {
    Hop {
        ifindex,
        via,
        weight: 1,
    }
}

fn gateway(ifindex: u32, address: &str) -> Hop {
    to(ifindex, Via::Gateway(ip(address)))
}

fn on_link(ifindex: u32) -> Hop {
    to(ifindex, Via::Link)
}

/// A unicast route in the main table.
fn route(prefix: &str, hops: &[Hop]) -> Route {
    Route {
        prefix: net(prefix),
        table: TABLE_MAIN,
        tos: 0,
        source: None,
        metric: 0,
        kind: RouteKind::Unicast,
        protocol: 4,
        preferred_source: None,
        mtu_bytes: None,
        preference: 0,
        kernel_only: None,
        hops: hops.to_vec(),
        object: None,
        dead: Vec::new(),
    }
}

/// A route of another type in the main table.
fn special(prefix: &str, kind: RouteKind) -> Route {
    Route {
        kind,
        ..route(prefix, &[])
    }
}

fn add(route: Route) -> KernelEvent {
    KernelEvent::Route {
        route,
        placement: Placement::Only,
    }
}

fn object(id: u32, kind: NextHopObjectKind) -> KernelEvent {
    KernelEvent::NextHopObject(NextHopObject { id, kind })
}

/// Two ports, `eth1` in slot 2 and `eth2` in slot 3, and all gateways speak Xcast.
fn router() -> Router {
    let config = SyncConfig {
        gateways: Gateways::All,
        ..SyncConfig::default()
    };
    let mut router = Router::new(config);
    router.apply([KernelEvent::Link(link(1)), KernelEvent::Link(link(2))]);
    router.attach(1, 2).attach(2, 3);
    router
}

fn forward(to: &Neighbour, flags: u8) -> Fate {
    Fate::Forward {
        port: to.ifindex as u8 + 1,
        flags,
        mtu_bytes: 1500,
        destination_mac: to.mac.unwrap(),
        source_mac: link(to.ifindex).mac.unwrap(),
    }
}

fn ecmp<const N: usize>(members: [(Fate, usize); N]) -> Fate {
    Fate::Ecmp(members.into())
}
