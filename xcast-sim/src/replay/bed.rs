//! A testbed as a graph.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Deserialize;

use crate::{
    fanout::Link,
    topology::{Graph, HostId, Hosts, RouterId, Topology, TopologyError},
};

/// A testbed, as `cargo xtask testbed list --json` describes it. What is not needed is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Bed {
    /// Hosts, routers and switches.
    pub nodes: Vec<BedNode>,
    /// What is joined to what.
    pub links: Vec<BedLink>,
}

/// A node of a testbed.
#[derive(Clone, Debug, Deserialize)]
pub struct BedNode {
    /// Its name.
    pub name: String,
    /// What it does with packets.
    pub role: Role,
    /// Its own address.
    pub address: Option<Ipv4Addr>,
    /// Its own address of IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Its ends of links.
    pub interfaces: Vec<Interface>,
}

/// What a node does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends and receives.
    Host,
    /// Forwards.
    Router,
    /// A bridge.
    Switch,
}

/// One end of a link.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its address of IPv6.
    pub address6: Option<Ipv6Addr>,
}

/// A link of a testbed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BedLink {
    /// The two nodes.
    pub nodes: [String; 2],
}

/// Why a testbed is no graph that can be simulated.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// A switch: who is on a LAN is not simulated.
    #[error("node `{0}` is a switch: join hosts and routers by links of their own")]
    Switch(String),
    /// A host that is not joined to exactly one router.
    #[error("host `{0}` has to have one link, and to a router")]
    Host(String),
    /// Two links join the same two nodes.
    #[error("two links join `{0}` and `{1}`: leave one of them out")]
    Parallel(String, String),
    /// A link names no node.
    #[error("a link names `{0}`, which is no node")]
    NoNode(String),
    /// The routers are no topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// The graph of a testbed.
#[derive(Clone, Debug)]
pub(super) struct BedGraph {
    pub topology: Topology,
    /// By router, its name.
    pub routers: Vec<String>,
    /// By host, its router.
    pub at: Vec<RouterId>,
    /// By link of the testbed: both directions.
    pub links: Vec<[Link; 2]>,
    pub hosts_by_address: HashMap<IpAddr, HostId>,
    pub routers_by_address: HashMap<IpAddr, RouterId>,
}

impl Bed {
    /// Its routers and hosts, in the order in which they are listed.
    ///
    /// # Errors
    ///
    /// It is no graph that can be simulated.
    pub fn topology(&self) -> Result<(Topology, Hosts), BedError> {
        let graph = self.graph()?;
        Ok((graph.topology, Hosts::at(graph.at)))
    }

    pub(super) fn graph(&self) -> Result<BedGraph, BedError> {
        let mut numbers: HashMap<&str, (Role, u32)> = HashMap::new();
        let (mut hosts, mut routers) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let of_role = match node.role {
                Role::Host => &mut hosts,
                Role::Router => &mut routers,
                Role::Switch => return Err(BedError::Switch(node.name.clone())),
            };
            numbers.insert(&node.name, (node.role, of_role.len() as u32));
            of_role.push(node);
        }
        let number = |name: &String| {
            let found = numbers.get(name.as_str()).copied();
            found.ok_or_else(|| BedError::NoNode(name.clone()))
        };
        let mut between = Vec::new();
        let mut at: Vec<Option<RouterId>> = vec![None; hosts.len()];
        let mut ends = Vec::new();
        for BedLink {
            nodes: [one, other],
        } in &self.links
        {
            let pair = (number(one)?, number(other)?);
            ends.push(pair);
            match pair {
                ((Role::Router, a), (Role::Router, b)) => {
                    if between.contains(&(a, b)) || between.contains(&(b, a)) {
                        return Err(BedError::Parallel(one.clone(), other.clone()));
                    }
                    between.push((a, b));
                }
                ((Role::Host, host), (Role::Router, router))
                | ((Role::Router, router), (Role::Host, host)) => {
                    if at[host as usize].replace(router).is_some() {
                        return Err(BedError::Host(hosts[host as usize].name.clone()));
                    }
                }
                _ => return Err(BedError::Host(one.clone())),
            }
        }
        let located = hosts.iter().zip(at);
        let at: Result<Vec<RouterId>, BedError> = located
            .map(|(host, at)| at.ok_or_else(|| BedError::Host(host.name.clone())))
            .collect();
        let topology = Topology::new(Graph::new(routers.len(), &between))?;
        let graph = &topology.graph;
        let links = ends.iter().map(|pair| match *pair {
            ((Role::Host, host), _) | (_, (Role::Host, host)) => [Link::Up(host), Link::Down(host)],
            ((_, a), (_, b)) => {
                let mut there = graph.links_of(a).filter(|link| graph.to(*link) == b);
                let there = there.next().unwrap_or_default();
                [Link::Between(there), Link::Between(graph.reverse(there))]
            }
        });
        Ok(BedGraph {
            links: links.collect(),
            routers: routers.iter().map(|node| node.name.clone()).collect(),
            at: at?,
            hosts_by_address: by_address(&hosts),
            routers_by_address: by_address(&routers),
            topology,
        })
    }
}

/// All addresses of nodes.
fn by_address(nodes: &[&BedNode]) -> HashMap<IpAddr, u32> {
    let mut all = HashMap::new();
    for (number, node) in nodes.iter().enumerate() {
        let own = (node.address, node.address6);
        let interfaces = node.interfaces.iter();
        let ends = interfaces.map(|interface| (interface.address, interface.address6));
        for (ipv4, ipv6) in ends.chain([own]) {
            let addresses = [ipv4.map(IpAddr::V4), ipv6.map(IpAddr::V6)];
            all.extend(
                addresses
                    .into_iter()
                    .flatten()
                    .map(|ip| (ip, number as u32)),
            );
        }
    }
    all
}
