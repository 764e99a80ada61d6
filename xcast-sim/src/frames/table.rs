//! A router's ports, next hops and routes, as its controller would have them.

use xcast_common::{
    host::MemoryTables,
    maps::{ADDRESS_OWN, NEXT_HOP_ON_LINK, NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST, Port},
};

use crate::{
    address::{of_host, of_router},
    fanout::{Deployment, Family, Link, Network},
    topology::RouterId,
};

/// Ids of next hops begin here: the controller has those below for itself.
const FIRST_NEXT_HOP: u32 = 16;
/// Largest IP packet on any link, in octets.
pub const MTU: u16 = 1500;

/// A router's links, in the order of its ports: to other routers, then to hosts.
pub fn links(network: &Network<'_>, router: RouterId) -> Vec<Link> {
    let between = network.routing.graph().links_of(router).map(Link::Between);
    let hosts = 0..network.hosts.count() as u32;
    let down = hosts
        .filter(|host| network.hosts.router(*host) == router)
        .map(Link::Down);
    between.chain(down).collect()
}

/// The slot of the port that a router has for its link at this place.
pub fn slot(place: usize) -> u8 {
    PORT_FIRST + place as u8
}

/// The place of the port with this slot.
pub fn place(slot: u8) -> Option<usize> {
    slot.checked_sub(PORT_FIRST).map(usize::from)
}

/// The link layer address of the end that a link leaves from.
pub fn mac(link: Link) -> [u8; 6] {
    let (kind, number) = match link {
        Link::Up(host) => (b'u', host),
        Link::Between(link) => (b'b', link),
        Link::Down(host) => (b'd', host),
    };
    let [a, b, c, d] = number.to_be_bytes();
    // Locally administered.
    [0x02, kind, a, b, c, d]
}

/// The other direction of a link.
pub fn reverse(network: &Network<'_>, link: Link) -> Link {
    match link {
        Link::Up(host) => Link::Down(host),
        Link::Between(link) => Link::Between(network.routing.graph().reverse(link)),
        Link::Down(host) => Link::Up(host),
    }
}

/// The port for a link.
pub fn port(place: usize, link: Link) -> Port {
    Port {
        slot: slot(place),
        mac: mac(link),
        ..Port::default()
    }
}

/// A router's tables: a route to each host and to each router, along the paths that the network's
/// routing has for flow 0.
pub fn tables(
    network: &mut Network<'_>,
    deployment: &Deployment,
    family: Family,
    router: RouterId,
    links: &[Link],
) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for (place, link) in links.iter().enumerate() {
        let flags = match link {
            Link::Between(link) if deployment.is_capable(network.routing.graph().to(*link)) => {
                NEXT_HOP_XCAST
            }
            Link::Between(_) => 0,
            Link::Up(_) | Link::Down(_) => NEXT_HOP_ON_LINK,
        };
        let entry = NextHop {
            kind: NextHopKind::Forward as u8,
            port: slot(place),
            flags,
            mtu_bytes: MTU,
            destination_mac: mac(reverse(network, *link)),
            source_mac: mac(*link),
            ..NextHop::default()
        };
        tables.set_next_hop(FIRST_NEXT_HOP + place as u32, entry);
    }
    let prefix_len = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let graph = network.routing.graph();
    let hosts: Vec<_> = (0..network.hosts.count() as u32)
        .map(|host| (host, network.hosts.router(host)))
        .collect();
    let mut next_hop = |to: RouterId| network.routing.towards(to).next_hop(graph, router, 0);
    let mut routes = Vec::new();
    for other in graph.routers() {
        routes.extend(next_hop(other).map(|link| (of_router(other, family), Link::Between(link))));
    }
    for (host, own) in hosts {
        let link = next_hop(own).map_or(Link::Down(host), Link::Between);
        routes.push((of_host(host, family).ip(), link));
    }
    for (address, link) in routes {
        if let Some(place) = links.iter().position(|other| *other == link) {
            tables.set_route(address, prefix_len, Some(FIRST_NEXT_HOP + place as u32));
        }
    }
    tables.set_address(of_router(router, family), ADDRESS_OWN);
    tables
}
