//! Who gets which namespace, interface, address and route.
//!
//! Everything here follows from the topology, the testbed's name and the base of the address plan,
//! so that people and scripts can tell addresses in advance:
//!
//! * Nodes on one link, or on links joined by switches, share a segment. Segments are numbered in
//!   the order of the links, from 1; segment i is the i-th /24 after the base, 10.77.i.0/24. Nodes
//!   get .1, .2, .. in the order in which the links name them.
//! * Router number n, in the order of the topology, is also 10.255.0.n.
//! * Whatever has an IPv4 address also has an IPv6 address that follows from it, see [`Ipv6Plan`]:
//!   10.77.3.2 is also fd77::10.77.3.2. Routes are the same for both.
//! * An interface is called `to-` and the node at the other end of its link.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::topology::{Link, Role, Topology, check_instance};

/// Base of the address plan where none is given.
pub const BASE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
/// What IPv6 addresses of testbeds begin with; an IPv4 address follows.
pub const BASE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0);

/// What IPv6 addresses of testbeds begin with where they are not to look local (RFC 3849).
pub const GLOBAL_BASE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);

/// How IPv6 addresses follow from those of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Plan {
    /// What all of them begin with: 40 bits, followed by zeroes.
    pub base: Ipv6Addr,
    /// Whether each link has a /64 of its own: 10.77.3.2 is fd77:0:a:4d03::2, and 10.77.3.0/24 is
    /// fd77:0:a:4d03::/64. Otherwise all are in one: 10.77.3.2 is fd77::10.77.3.2, and 10.77.3.0/24
    /// is fd77::10.77.3.0/120.
    pub own_networks: bool,
}

impl Default for Ipv6Plan {
    fn default() -> Self {
        Self {
            base: BASE6,
            own_networks: false,
        }
    }
}

impl Ipv6Plan {
    /// A /64 for each link. The addresses are as local, or as global, as those of IPv4: programs may
    /// treat the two differently (BEP 42 does).
    pub fn own_networks(base: Ipv4Addr) -> Self {
        let base = match base.is_private() {
            true => BASE6,
            false => GLOBAL_BASE6,
        };
        Self {
            base,
            own_networks: true,
        }
    }

    /// The IPv6 address of whoever has this IPv4 address.
    pub fn address(self, address: Ipv4Addr) -> Ipv6Addr {
        let bits = u128::from(address.to_bits());
        let bits = match self.own_networks {
            true => (bits >> 8) << 64 | bits & 0xff,
            false => bits,
        };
        Ipv6Addr::from_bits(self.base.to_bits() | bits)
    }

    /// The IPv6 addresses of those with these IPv4 addresses.
    pub(super) fn network(self, network: Ipv4Net) -> Result<Ipv6Net> {
        let len = match network.prefix_len() {
            0 => return Ok(Ipv6Net::default()),
            len if self.own_networks && len <= 24 => 40 + len,
            len => 96 + len,
        };
        Ok(Ipv6Net::new(self.address(network.addr()), len)?)
    }
}

/// Most segments of a testbed; keeps the plan clear of the routers' own addresses.
const SEGMENTS_MAX: usize = 1024;
/// What namespaces' names begin with.
pub(super) const NAMESPACE_PREFIX: &str = "xc-";

/// Who writes the routers' routing tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The testbed: static routes along all shortest paths.
    #[default]
    Static,
    /// Somebody else, such as a routing daemon. Hosts still have their default route.
    None,
}

/// A testbed: what `testbed list --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The testbed's name.
    pub instance: String,
    /// The topology's name.
    pub topology: String,
    /// Who writes the routers' routing tables.
    pub routing: Routing,
    /// How IPv6 addresses follow from those of IPv4.
    pub ipv6: Ipv6Plan,
    /// Hosts, then routers, then switches.
    pub nodes: Vec<Node>,
    /// The links, in the order of the topology.
    pub links: Vec<PlannedLink>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name in the topology.
    pub name: String,
    /// The namespace's name, `xc-INSTANCE-NODE`.
    pub namespace: String,
    /// What the node does with packets.
    pub role: Role,
    /// The address to reach the node by: a router's 10.255.0.n, a host's first.
    pub address: Option<Ipv4Addr>,
    /// The IPv6 address to reach the node by.
    pub address6: Option<Ipv6Addr>,
    /// The node's interfaces, in the order of the links.
    pub interfaces: Vec<Interface>,
    /// The routes that the testbed installs besides those of the interfaces.
    pub routes: Vec<Route>,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The interface's name, `to-PEER`.
    pub name: String,
    /// The node at the other end of the link.
    pub peer: String,
    /// The interface's address; a switch's have none.
    pub address: Option<Ipv4Addr>,
    /// The interface's IPv6 address; its prefix follows from [`Plan::ipv6`].
    pub address6: Option<Ipv6Addr>,
    /// Length of the address's network prefix, in bits.
    pub prefix_len: Option<u8>,
    /// The interface's link layer address.
    pub mac: Mac,
    /// The interface's MTU where it is not the usual one, in octets.
    pub mtu: Option<u32>,
    /// The interface's index in its namespace; 0 until the testbed is up.
    pub index: u32,
}

impl Interface {
    /// The address together with its prefix.
    pub fn network(&self) -> Option<Ipv4Net> {
        Ipv4Net::new(self.address?, self.prefix_len?).ok()
    }
}

/// A link and the names of the interfaces at its ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLink {
    /// The two nodes.
    pub nodes: [String; 2],
    /// Their interfaces.
    pub interfaces: [String; 2],
}

/// A route; several next hops share the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// By way of whom.
    pub next_hops: Vec<NextHop>,
}

/// A neighbour that a route leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The neighbour's address.
    pub gateway: Ipv4Addr,
    /// The interface it is behind.
    pub interface: String,
}

/// A link layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let octets: Option<Vec<_>> = text
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).ok())
            .collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no link layer address"))
    }
}

impl Plan {
    /// Plans a testbed.
    ///
    /// # Errors
    ///
    /// The instance's name is unusable, or the topology's own addresses contradict each other or do
    /// not fit the plan.
    pub fn new(
        topology: &Topology,
        instance: &str,
        base: Ipv4Addr,
        ipv6: Ipv6Plan,
        routing: Routing,
    ) -> Result<Self> {
        check_instance(instance)?;
        let mut plan = Self {
            instance: instance.to_owned(),
            topology: topology.name().to_owned(),
            routing,
            ipv6,
            nodes: nodes(topology, instance),
            links: Vec::new(),
        };
        for (index, link) in topology.links().iter().enumerate() {
            plan.add_link(index, link)?;
        }
        let segments = Segments::of(topology);
        plan.assign_addresses(topology, &segments, base)?;
        for node in &mut plan.nodes {
            if node.role == Role::Host {
                node.address = node
                    .interfaces
                    .iter()
                    .find_map(|interface| interface.address);
            }
            node.address6 = node.address.map(|address| ipv6.address(address));
        }
        plan.assign_routes(&segments);
        Ok(plan)
    }

    /// The node of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| {
                let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
                format!(
                    "testbed `{}` has no node `{name}`; it has {}",
                    self.instance,
                    names.join(", ")
                )
            })
    }

    /// The nodes of that role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// A line for each link: namespace and interface of one end, and of the other.
    pub fn link_ends(&self) -> String {
        let namespaces: BTreeMap<_, _> = self
            .nodes
            .iter()
            .map(|node| (&node.name, &node.namespace))
            .collect();
        let line = |link: &PlannedLink| {
            let [one, other] = link.nodes.each_ref().map(|name| namespaces[name]);
            let [its, others] = &link.interfaces;
            format!("{one} {its} {other} {others}")
        };
        let lines: Vec<_> = self.links.iter().map(line).collect();
        lines.join("\n")
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|node| node.name == name)
            .with_context(|| format!("the topology has no node `{name}`"))
    }

    fn add_link(&mut self, index: usize, link: &Link) -> Result<()> {
        let number = u16::try_from(index + 1)
            .context("too many links")?
            .to_be_bytes();
        let [one, other] = &link.ends;
        let mut interfaces = Vec::new();
        for (end, (name, peer)) in [(1, (one, other)), (2, (other, one))] {
            let node = self.node_mut(name)?;
            let parallel = node
                .interfaces
                .iter()
                .filter(|other| &other.peer == peer)
                .count();
            if parallel > 8 {
                bail!("more than nine links join `{one}` and `{other}`");
            }
            let interface = match parallel {
                0 => format!("to-{peer}"),
                n => format!("to-{peer}-{}", n + 1),
            };
            interfaces.push(interface.clone());
            node.interfaces.push(Interface {
                name: interface,
                peer: peer.clone(),
                address: None,
                address6: None,
                prefix_len: None,
                // Locally administered, then "xc".
                mac: Mac([0x02, b'x', b'c', number[0], number[1], end]),
                mtu: link.mtu,
                index: 0,
            });
        }
        if let Ok(interfaces) = interfaces.try_into() {
            self.links.push(PlannedLink {
                nodes: link.ends.clone(),
                interfaces,
            });
        }
        Ok(())
    }

    fn assign_addresses(
        &mut self,
        topology: &Topology,
        segments: &Segments,
        base: Ipv4Addr,
    ) -> Result<()> {
        let ipv6 = self.ipv6;
        if segments.count > SEGMENTS_MAX {
            bail!(
                "the topology has {} links; at most {SEGMENTS_MAX} have addresses",
                segments.count
            );
        }
        let mut attached = vec![0_u32; segments.count];
        let mut explicit: Vec<Vec<(&str, Ipv4Net)>> = vec![Vec::new(); segments.count];
        for (index, link) in topology.links().iter().enumerate() {
            let segment = segments.of_link[index];
            let names = self.links[index].interfaces.clone();
            for (name, interface) in link.ends.iter().zip(names) {
                let node = self.node_mut(name)?;
                if node.role == Role::Switch {
                    if link.addresses.contains_key(name) {
                        bail!(
                            "switch `{name}` cannot have an address; give it to the nodes around it"
                        );
                    }
                    continue;
                }
                attached[segment] += 1;
                let network = match link.addresses.get(name) {
                    Some(&network) => {
                        explicit[segment].push((name, network));
                        network
                    }
                    None => planned_address(base, segment, attached[segment])?,
                };
                if let Some(interface) = node
                    .interfaces
                    .iter_mut()
                    .find(|other| other.name == interface)
                {
                    interface.address = Some(network.addr());
                    interface.address6 = Some(ipv6.address(network.addr()));
                    interface.prefix_len = Some(network.prefix_len());
                }
            }
        }
        for (explicit, attached) in explicit.iter().zip(attached) {
            check_explicit(explicit, attached)?;
        }
        Ok(())
    }

    fn assign_routes(&mut self, segments: &Segments) {
        let neighbours = self.neighbours(segments);
        for (index, neighbours) in neighbours.iter().enumerate() {
            let gateways = neighbours
                .iter()
                .filter(|(peer, _)| self.nodes[*peer].role == Role::Router);
            if self.nodes[index].role == Role::Host
                && let Some((_, next_hop)) = gateways.into_iter().next()
            {
                self.nodes[index].routes.push(Route {
                    destination: Ipv4Net::default(),
                    next_hops: vec![next_hop.clone()],
                });
            }
        }
        if self.routing == Routing::None {
            return;
        }
        for (destination, attached) in self.destinations() {
            let distance = self.distances(&neighbours, &attached);
            for (index, neighbours) in neighbours.iter().enumerate() {
                let Some(own) = distance[index] else { continue };
                if self.nodes[index].role != Role::Router || own == 0 {
                    continue;
                }
                let next_hops = neighbours
                    .iter()
                    .filter(|(peer, _)| {
                        self.nodes[*peer].role == Role::Router && distance[*peer] == Some(own - 1)
                    })
                    .map(|(_, next_hop)| next_hop.clone())
                    .collect();
                self.nodes[index].routes.push(Route {
                    destination,
                    next_hops,
                });
            }
        }
    }

    /// Everything there are routes to, with the indices of the nodes that are attached to it.
    fn destinations(&self) -> BTreeMap<Ipv4Net, Vec<usize>> {
        let mut destinations = BTreeMap::<_, Vec<_>>::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for network in node.interfaces.iter().filter_map(Interface::network) {
                destinations.entry(network.trunc()).or_default().push(index);
            }
            if let (Role::Router, Some(address)) = (node.role, node.address) {
                destinations.entry(address.into()).or_default().push(index);
            }
        }
        destinations
    }

    /// Every node's distance from a destination, in routers to cross; hosts do not forward.
    fn distances(
        &self,
        neighbours: &[Vec<(usize, NextHop)>],
        attached: &[usize],
    ) -> Vec<Option<u32>> {
        let mut distance = vec![None; self.nodes.len()];
        let mut queue = VecDeque::new();
        for &index in attached {
            distance[index] = Some(0);
            queue.push_back((index, 0));
        }
        while let Some((index, reached)) = queue.pop_front() {
            if self.nodes[index].role != Role::Router {
                continue;
            }
            for &(peer, _) in &neighbours[index] {
                if distance[peer].is_none() {
                    distance[peer] = Some(reached + 1);
                    queue.push_back((peer, reached + 1));
                }
            }
        }
        distance
    }

    /// The nodes that each node shares a segment with, and how it reaches them.
    fn neighbours(&self, segments: &Segments) -> Vec<Vec<(usize, NextHop)>> {
        // (segment, node, interface, address) of all interfaces with an address.
        let mut attached = Vec::new();
        for (link, &segment) in self.links.iter().zip(&segments.of_link) {
            for (node, name) in link.nodes.iter().zip(&link.interfaces) {
                let Some(index) = self.nodes.iter().position(|other| &other.name == node) else {
                    continue;
                };
                let interface = self.nodes[index]
                    .interfaces
                    .iter()
                    .find(|other| &other.name == name);
                if let Some(address) = interface.and_then(|interface| interface.address) {
                    attached.push((segment, index, name, address));
                }
            }
        }
        let mut neighbours = vec![Vec::new(); self.nodes.len()];
        for &(segment, index, name, _) in &attached {
            for &(other_segment, peer, _, gateway) in &attached {
                if segment == other_segment && index != peer {
                    let interface = name.clone();
                    neighbours[index].push((peer, NextHop { gateway, interface }));
                }
            }
        }
        neighbours
    }
}

/// Which links are on the same segment.
struct Segments {
    /// Segment of each link, from 0.
    of_link: Vec<usize>,
    count: usize,
}

impl Segments {
    fn of(topology: &Topology) -> Self {
        let switches: BTreeSet<_> = topology
            .nodes()
            .iter()
            .filter(|(_, role)| *role == Role::Switch)
            .map(|(name, _)| name)
            .collect();
        let links = topology.links();
        let joined = |one: &Link, other: &Link| {
            one.ends
                .iter()
                .any(|end| switches.contains(end) && other.ends.contains(end))
        };
        let mut of_link = vec![usize::MAX; links.len()];
        let mut count = 0;
        for first in 0..links.len() {
            if of_link[first] != usize::MAX {
                continue;
            }
            of_link[first] = count;
            let mut queue = vec![first];
            while let Some(index) = queue.pop() {
                for other in 0..links.len() {
                    if of_link[other] == usize::MAX && joined(&links[index], &links[other]) {
                        of_link[other] = count;
                        queue.push(other);
                    }
                }
            }
            count += 1;
        }
        Self { of_link, count }
    }
}

fn nodes(topology: &Topology, instance: &str) -> Vec<Node> {
    let mut routers = 0_u32;
    topology
        .nodes()
        .iter()
        .map(|(name, role)| Node {
            name: name.clone(),
            namespace: format!("{NAMESPACE_PREFIX}{instance}-{name}"),
            role: *role,
            address: (*role == Role::Router).then(|| {
                routers += 1;
                Ipv4Addr::from_bits(Ipv4Addr::new(10, 255, 0, 0).to_bits() + routers)
            }),
            address6: None,
            interfaces: Vec::new(),
            routes: Vec::new(),
        })
        .collect()
}

fn planned_address(base: Ipv4Addr, segment: usize, number: u32) -> Result<Ipv4Net> {
    if number > 254 {
        bail!("more than 254 nodes share a segment; give them addresses with a shorter prefix");
    }
    let segment = u32::try_from(segment + 1).context("too many segments")?;
    let bits = base.to_bits().checked_add((segment << 8) + number);
    let address =
        Ipv4Addr::from_bits(bits.with_context(|| format!("address base {base} is too high"))?);
    Ok(Ipv4Net::new(address, 24)?)
}

fn check_explicit(explicit: &[(&str, Ipv4Net)], attached: u32) -> Result<()> {
    let Some((first, network)) = explicit.first() else {
        return Ok(());
    };
    if explicit.len() != attached as usize {
        bail!(
            "`{first}` has an address of its own, but others on its segment have none; give all of them one"
        );
    }
    for (index, (node, address)) in explicit.iter().enumerate() {
        if address.trunc() != network.trunc() {
            bail!(
                "`{first}` has {network} and `{node}` has {address}; give them addresses in the same network"
            );
        }
        if explicit[..index]
            .iter()
            .any(|(_, other)| other.addr() == address.addr())
        {
            bail!("address {address} of `{node}` is taken on its segment; give it another one");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(topology: &Topology) -> Plan {
        Plan::new(
            topology,
            topology.name(),
            BASE,
            Ipv6Plan::default(),
            Routing::Static,
        )
        .expect("no plan")
    }

    fn routes(plan: &Plan, node: &str) -> Vec<String> {
        plan.node(node)
            .unwrap()
            .routes
            .iter()
            .map(|route| {
                let via = route
                    .next_hops
                    .iter()
                    .map(|hop| format!("{}@{}", hop.gateway, hop.interface));
                format!(
                    "{} via {}",
                    route.destination,
                    via.collect::<Vec<_>>().join(" ")
                )
            })
            .collect()
    }

    #[test]
    fn names_and_addresses_are_predictable() {
        let plan = plan(&Topology::fig3());
        let r2 = plan.node("R2").unwrap();
        assert_eq!(r2.namespace, "xc-fig3-R2");
        assert_eq!(r2.address, Some(Ipv4Addr::new(10, 255, 0, 2)));
        assert_eq!(r2.address6, Some("fd77::10.255.0.2".parse().unwrap()));
        assert_eq!(
            r2.interfaces[1].address6,
            Some("fd77::10.77.3.1".parse().unwrap())
        );
        let network = "10.77.3.0/24".parse().unwrap();
        let network = Ipv6Plan::default().network(network).unwrap();
        assert_eq!(network, "fd77::10.77.3.0/120".parse().unwrap());
        let interfaces: Vec<_> = r2
            .interfaces
            .iter()
            .map(|interface| format!("{} {}", interface.name, interface.network().unwrap()))
            .collect();
        assert_eq!(
            interfaces,
            [
                "to-R1 10.77.2.2/24",
                "to-R4 10.77.3.1/24",
                "to-R5 10.77.5.1/24"
            ]
        );
        let a = plan.node("A").unwrap();
        assert_eq!(a.address, Some(Ipv4Addr::new(10, 77, 1, 1)));
        assert_eq!(routes(&plan, "A"), ["0.0.0.0/0 via 10.77.1.2@to-R1"]);
        assert_eq!(a.interfaces[0].mac.to_string(), "02:78:63:00:01:01");
    }

    #[test]
    fn each_link_may_have_a_64_of_its_own() {
        let local = Ipv6Plan::own_networks(BASE);
        let global = Ipv6Plan::own_networks(Ipv4Addr::new(198, 18, 0, 0));
        let address = Ipv4Addr::new(198, 18, 3, 2);
        for (plan, network, expected) in [
            (local, "10.77.3.0/24", "fd77:0:a:4d03::/64"),
            (local, "10.255.0.7/32", "fd77:0:a:ff00::7/128"),
            (local, "0.0.0.0/0", "::/0"),
            (global, "198.18.3.0/24", "2001:db8:c6:1203::/64"),
        ] {
            let network = plan.network(network.parse().unwrap()).unwrap();
            assert_eq!(network, expected.parse().unwrap());
        }
        let expected: Ipv6Addr = "2001:db8:c6:1203::2".parse().unwrap();
        assert_eq!(global.address(address), expected);
    }

    #[test]
    fn routers_have_a_shortest_path_to_every_segment_and_router() {
        let plan = plan(&Topology::fig3());
        for node in plan.with_role(Role::Router) {
            let known = node.routes.len() + node.interfaces.len() + 1;
            assert_eq!(known, 9 + 6, "{}", node.name);
            assert!(node.routes.iter().all(|route| route.next_hops.len() == 1));
        }
        // C's segment, from the far end of the tree.
        assert!(routes(&plan, "R1").contains(&"10.77.8.0/24 via 10.77.2.2@to-R2".to_owned()));
        assert!(routes(&plan, "R4").contains(&"10.77.8.0/24 via 10.77.3.1@to-R2".to_owned()));
    }

    #[test]
    fn equal_paths_are_all_used() {
        let plan = plan(&Topology::mesh());
        let to_b = "10.77.6.0/24 via 10.77.2.2@to-R2 10.77.3.2@to-R3".to_owned();
        assert!(
            routes(&plan, "R1").contains(&to_b),
            "{:?}",
            routes(&plan, "R1")
        );
        assert!(routes(&plan, "R2").contains(&"10.77.6.0/24 via 10.77.4.2@to-R4".to_owned()));
    }

    #[test]
    fn without_static_routing_only_hosts_have_routes() {
        let plan = Plan::new(
            &Topology::mesh(),
            "x",
            BASE,
            Ipv6Plan::default(),
            Routing::None,
        )
        .unwrap();
        for node in &plan.nodes {
            assert_eq!(
                node.routes.len(),
                usize::from(node.role == Role::Host),
                "{}",
                node.name
            );
        }
    }

    #[test]
    fn nodes_around_a_switch_share_a_segment() {
        let plan = plan(&Topology::lan(3));
        let lan = plan.node("lan").unwrap();
        assert!(
            lan.interfaces
                .iter()
                .all(|interface| interface.address.is_none())
        );
        assert_eq!(lan.interfaces.len(), 4);
        for (node, address) in [
            ("R1", "10.77.2.1/24"),
            ("H1", "10.77.2.2/24"),
            ("H3", "10.77.2.4/24"),
        ] {
            let interfaces = &plan.node(node).unwrap().interfaces;
            let network = interfaces.last().unwrap().network().unwrap();
            assert_eq!(network.to_string(), address, "{node}");
        }
        assert_eq!(routes(&plan, "H2"), ["0.0.0.0/0 via 10.77.2.1@to-lan"]);
        assert!(routes(&plan, "R1").is_empty());
    }

    #[test]
    fn hosts_do_not_forward() {
        let text = r#"
            hosts = ["H"]
            routers = ["R1", "R2", "R3"]
            [[link]]
            ends = ["R1", "H"]
            [[link]]
            ends = ["H", "R2"]
            [[link]]
            ends = ["R2", "R3"]
        "#;
        let plan = plan(&Topology::from_toml("x", text).unwrap());
        assert_eq!(plan.node("R1").unwrap().routes, []);
    }

    #[test]
    fn the_largest_topologies_fit_the_plan() {
        for topology in [Topology::line(64), Topology::star(250), Topology::lan(250)] {
            let plan = plan(&topology);
            let mut addresses = BTreeSet::new();
            for interface in plan.nodes.iter().flat_map(|node| &node.interfaces) {
                assert!(interface.name.len() <= 15);
                assert!(
                    interface
                        .address
                        .is_none_or(|address| addresses.insert(address))
                );
            }
        }
    }

    #[test]
    fn parallel_links_have_interfaces_of_their_own() {
        let text = "routers = [\"R1\", \"R2\"]\n[[link]]\nends = [\"R1\", \"R2\"]\n[[link]]\nends = [\"R1\", \"R2\"]";
        let plan = plan(&Topology::from_toml("x", text).unwrap());
        assert_eq!(plan.links[1].interfaces, ["to-R2-2", "to-R1-2"]);
        assert_eq!(
            routes(&plan, "R1"),
            ["10.255.0.2/32 via 10.77.1.2@to-R2 10.77.2.2@to-R2-2"]
        );
    }

    #[test]
    fn own_addresses_must_fit_together() {
        let error = |addresses: &str| {
            let text = format!(
                "hosts = [\"A\", \"B\"]\n[[link]]\nends = [\"A\", \"B\"]\naddresses = {{ {addresses} }}"
            );
            let topology = Topology::from_toml("x", &text).unwrap();
            format!(
                "{:#}",
                Plan::new(&topology, "x", BASE, Ipv6Plan::default(), Routing::Static)
                    .expect_err("accepted")
            )
        };
        assert!(error("A = \"10.1.0.1/24\"").contains("give all of them one"));
        assert!(error("A = \"10.1.0.1/24\", B = \"10.2.0.1/24\"").contains("in the same network"));
        assert!(error("A = \"10.1.0.1/24\", B = \"10.1.0.1/24\"").contains("is taken"));
    }

    #[test]
    fn a_plan_survives_its_file() {
        let plan = plan(&Topology::lan(2));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn bad_instance_names_are_refused() {
        for name in ["", "a b", "../x", "é"] {
            assert!(
                Plan::new(
                    &Topology::fig3(),
                    name,
                    BASE,
                    Ipv6Plan::default(),
                    Routing::Static
                )
                .is_err(),
                "{name}"
            );
        }
    }
}
