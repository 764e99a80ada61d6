//! Links crossed by lists that are split, and by candidates that are chosen, under each policy: on
//! random graphs, counted, not estimated.
//!
//! `cargo test -p xcast-host what_policies_bring -- --nocapture` prints the table in
//! `docs/combining.md`.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    Destination, Options, PacketLimits,
    policy::{ArrivalOrder, CommonNextHop, CommonPath, CommonPrefix, Nearest, Policy},
    split::{self, UplinkState},
};

const NODES: usize = 2000;
const GRAPHS: u64 = 3;
const TRIALS: usize = 60;

/// xorshift64*, so that the table is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A network, seen from a source: a host on every node, each with a link of its own.
struct Network {
    /// By node: the next node towards the source's.
    towards_source: Vec<usize>,
    /// By node: hops from the source's.
    hops: Vec<u32>,
    /// By node: its host's address, and back.
    addresses: Vec<Ipv4Addr>,
    nodes: Vec<usize>,
    source: usize,
}

impl Network {
    /// A Barabasi-Albert graph with two links for each new node. Hosts are numbered as networks
    /// are that number by topology: depth first, from the oldest node; or without any order.
    fn new(random: &mut Random, numbered_by_topology: bool) -> Self {
        let mut links = vec![Vec::new(); NODES];
        let mut ends = vec![0, 1];
        links[0].push(1);
        links[1].push(0);
        for node in 2..NODES {
            for _ in 0..2 {
                let other = ends[random.below(ends.len())];
                if other != node && !links[node].contains(&other) {
                    links[node].push(other);
                    links[other].push(node);
                    ends.extend([node, other]);
                }
            }
        }
        let source = random.below(NODES);
        let (towards_source, hops) = shortest_paths(&links, source);
        let mut order: Vec<_> = (0..NODES).collect();
        if numbered_by_topology {
            let (parents, _) = shortest_paths(&links, 0);
            order = depth_first(&parents);
        } else {
            for at in (1..NODES).rev() {
                order.swap(at, random.below(at + 1));
            }
        }
        let mut addresses = vec![Ipv4Addr::UNSPECIFIED; NODES];
        for (number, node) in order.iter().enumerate() {
            addresses[*node] = Ipv4Addr::from_bits(0x0a00_0000 + 16 * number as u32);
        }
        Self {
            towards_source,
            hops,
            addresses,
            nodes: order,
            source,
        }
    }

    fn node(&self, address: Ipv4Addr) -> usize {
        self.nodes[(address.to_bits() - 0x0a00_0000) as usize / 16]
    }

    fn hosts(&self, random: &mut Random, count: usize) -> Vec<SocketAddr> {
        let mut chosen = HashSet::new();
        let mut hosts = Vec::new();
        while hosts.len() < count {
            let node = random.below(NODES);
            if node != self.source && chosen.insert(node) {
                hosts.push((self.addresses[node], 5000).into());
            }
        }
        hosts
    }

    /// Links that one packet to these hosts crosses, with theirs and the source's own.
    fn links(&self, to: impl Iterator<Item = Ipv4Addr>) -> usize {
        let mut crossed = HashSet::new();
        let mut hosts = 0;
        for address in to {
            hosts += 1;
            let mut node = self.node(address);
            while node != self.source && crossed.insert(node) {
                node = self.towards_source[node];
            }
        }
        crossed.len() + hosts + 1
    }

    /// The source's router's next hop towards a host.
    fn next_hop(&self, host: SocketAddr) -> u32 {
        let mut node = self.of(host);
        while self.towards_source[node] != self.source && node != self.source {
            node = self.towards_source[node];
        }
        node as u32
    }

    /// The nodes on the way to a host; their numbers fit.
    fn path(&self, host: SocketAddr) -> Vec<u16> {
        let mut node = self.of(host);
        let mut path = Vec::new();
        while node != self.source {
            path.push(node as u16);
            node = self.towards_source[node];
        }
        path.reverse();
        path
    }

    fn of(&self, host: SocketAddr) -> usize {
        match host {
            SocketAddr::V4(host) => self.node(*host.ip()),
            SocketAddr::V6(_) => unreachable!("there are none"),
        }
    }
}

fn shortest_paths(links: &[Vec<usize>], from: usize) -> (Vec<usize>, Vec<u32>) {
    let mut parents = vec![from; links.len()];
    let mut hops = vec![u32::MAX; links.len()];
    hops[from] = 0;
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for &next in &links[node] {
            if hops[next] == u32::MAX {
                hops[next] = hops[node] + 1;
                parents[next] = node;
                queue.push_back(next);
            }
        }
    }
    (parents, hops)
}

fn depth_first(parents: &[usize]) -> Vec<usize> {
    let mut children = vec![Vec::new(); parents.len()];
    for (node, parent) in parents.iter().enumerate().skip(1) {
        children[*parent].push(node);
    }
    let (mut order, mut pending) = (Vec::new(), vec![0]);
    while let Some(node) = pending.pop() {
        order.push(node);
        pending.extend(&children[node]);
    }
    order
}

/// Links crossed by a list split into packets of at most `most`.
fn split(network: &Network, to: &[SocketAddr], most: usize, policy: &dyn Policy) -> usize {
    let limits = PacketLimits {
        max_destinations: most,
        ..PacketLimits::default()
    };
    let uplink = UplinkState::Up {
        overhead_octets: 0,
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
    };
    let to: Vec<_> = to.iter().map(|to| Destination::from(*to)).collect();
    let options = Options::default();
    let chunks = split::split(&to, 100, [uplink; 2], &options, &limits, policy).unwrap();
    let links = chunks.iter().map(|chunk| {
        let entries = chunk.entries.iter();
        network.links(entries.filter_map(|entry| match entry.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }))
    });
    links.sum()
}

fn chosen(network: &Network, from: &[SocketAddr], count: usize, policy: &dyn Policy) -> usize {
    let chosen = policy.choose(from, count).into_iter();
    network.links(chosen.map(|at| network.addresses[network.of(from[at])]))
}

/// Links by policy, in the order of the table, for `work`.
fn count(
    numbered_by_topology: bool,
    hosts: usize,
    work: impl Fn(&Network, &[SocketAddr], &dyn Policy) -> usize,
) -> [usize; 5] {
    let mut links = [0; 5];
    for seed in 1..=GRAPHS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let network = Network::new(&mut random, numbered_by_topology);
        for _ in 0..TRIALS {
            let to = network.hosts(&mut random, hosts);
            let next_hop = CommonNextHop(|host| network.next_hop(host));
            let distance = Nearest(|host| network.hops[network.of(host)]);
            let path = CommonPath(|host| network.path(host));
            let policies: [&dyn Policy; 5] =
                [&ArrivalOrder, &CommonPrefix, &next_hop, &distance, &path];
            for (links, policy) in links.iter_mut().zip(policies) {
                *links += work(&network, &to, policy);
            }
        }
    }
    links
}

#[test]
fn what_policies_bring() {
    println!("saved against arrival order, %      prefix  next hop  distance      path");
    for by_topology in [true, false] {
        let numbered = if by_topology {
            "by topology"
        } else {
            "at random"
        };
        for (what, links) in [
            (
                "40 by 10",
                count(by_topology, 40, |n, to, policy| split(n, to, 10, policy)),
            ),
            (
                "400 by 50",
                count(by_topology, 400, |n, to, policy| split(n, to, 50, policy)),
            ),
            (
                "400 by 127",
                count(by_topology, 400, |n, to, policy| split(n, to, 127, policy)),
            ),
            (
                "10 of 40",
                count(by_topology, 40, |n, to, policy| chosen(n, to, 10, policy)),
            ),
            (
                "3 of 20",
                count(by_topology, 20, |n, to, policy| chosen(n, to, 3, policy)),
            ),
        ] {
            let saved = links.map(|some| 100.0 * (1.0 - some as f64 / links[0] as f64));
            let [_, prefix, next_hop, distance, path] = saved;
            println!(
                "{numbered:12} {what:10}          {prefix:8.1}  {next_hop:8.1}  {distance:8.1}  {path:8.1}"
            );
            if by_topology {
                assert!(prefix > 0.0, "{what}: a common prefix costs links");
            }
            assert!(next_hop > 0.0, "{what}: a common next hop costs links");
        }
    }
}
