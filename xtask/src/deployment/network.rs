//! The network of the experiment, and the order in which its routers learn to speak Xcast.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::testbed::{Role, Topology, topology::Link};

/// A network in three tiers: core routers, each joined to each other; behind each of them some regional routers; behind each
/// of those some edge routers, with one host each. Any two nodes have exactly one shortest path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Core routers C1, C2, ..
    pub core: usize,
    /// Regional routers G1, G2, .. behind each.
    pub regions: usize,
    /// Edge routers E1, E2, .. behind each of those; behind Ei is host Hi.
    pub edges: usize,
}

/// Which routers speak Xcast first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Any.
    Random,
    /// Core routers first, then regional ones, then the edge.
    CoreFirst,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::CoreFirst => "core first",
        })
    }
}

impl Network {
    /// From what the command line says.
    ///
    /// # Errors
    ///
    /// Not three numbers, or too many nodes for this machine's sake.
    pub fn from_numbers(numbers: &[usize]) -> Result<Self> {
        let &[core, regions, edges] = numbers else {
            bail!("--network takes three numbers, as in 4,3,2");
        };
        let network = Self {
            core,
            regions,
            edges,
        };
        if network.routers() == 0 || network.hosts() < 2 || network.routers() > 200 {
            bail!(
                "--network {core},{regions},{edges} has {} routers and {} hosts; it needs 1 to 200 routers, and 2 hosts",
                network.routers(),
                network.hosts()
            );
        }
        Ok(network)
    }

    fn regional(self) -> usize {
        self.core * self.regions
    }

    /// Hosts, and edge routers.
    pub fn hosts(self) -> usize {
        self.regional() * self.edges
    }

    /// All routers.
    pub fn routers(self) -> usize {
        self.core + self.regional() + self.hosts()
    }

    /// Names of a tier.
    fn tier(letter: char, count: usize) -> impl Iterator<Item = String> {
        (1..=count).map(move |n| format!("{letter}{n}"))
    }

    /// Names of the hosts.
    pub fn host_names(self) -> Vec<String> {
        Self::tier('H', self.hosts()).collect()
    }

    /// The topology.
    ///
    /// # Errors
    ///
    /// There are too many nodes.
    pub fn topology(self) -> Result<Topology> {
        let tiers = [
            ('H', self.hosts(), Role::Host),
            ('C', self.core, Role::Router),
            ('G', self.regional(), Role::Router),
            ('E', self.hosts(), Role::Router),
        ];
        let nodes = tiers.into_iter().flat_map(|(letter, count, role)| {
            Self::tier(letter, count).map(move |name| (name, role))
        });
        let core = (1..=self.core).flat_map(|one| {
            (one + 1..=self.core).map(move |other| (format!("C{one}"), format!("C{other}")))
        });
        let regional = (0..self.regional())
            .map(|n| (format!("C{}", n / self.regions + 1), format!("G{}", n + 1)));
        let edge =
            (0..self.hosts()).map(|n| (format!("G{}", n / self.edges + 1), format!("E{}", n + 1)));
        let access = (1..=self.hosts()).map(|n| (format!("E{n}"), format!("H{n}")));
        let links = core.chain(regional).chain(edge).chain(access);
        let links = links.map(|(one, other)| Link::new(&one, &other));
        Topology::new("deployment", nodes.collect(), links.collect())
    }

    /// The routers in an order.
    pub fn routers_in(self, order: Order, random: &mut Random) -> Vec<String> {
        let shuffled = |mut names: Vec<String>, random: &mut Random| {
            random.shuffle(&mut names);
            names
        };
        let tiers = [
            ('C', self.core),
            ('G', self.regional()),
            ('E', self.hosts()),
        ];
        match order {
            Order::CoreFirst => {
                let tiers =
                    tiers.map(|(letter, count)| Self::tier(letter, count).collect::<Vec<_>>());
                tiers.map(|names| shuffled(names, random)).concat()
            }
            Order::Random => {
                let names: [Vec<String>; 3] =
                    tiers.map(|(letter, count)| Self::tier(letter, count).collect());
                shuffled(names.concat(), random)
            }
        }
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// Puts `items` in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_network_has_forty_routers() {
        let network = Network::from_numbers(&[4, 3, 2]).unwrap();
        assert_eq!((network.routers(), network.hosts()), (40, 24));
        let topology = network.topology().unwrap();
        assert_eq!(topology.links().len(), 6 + 12 + 24 + 24);
        assert!(Network::from_numbers(&[4, 3]).is_err());
        assert!(Network::from_numbers(&[0, 3, 2]).is_err());
    }

    #[test]
    fn orders_have_every_router_once() {
        let network = Network::from_numbers(&[2, 2, 2]).unwrap();
        for order in [Order::Random, Order::CoreFirst] {
            let mut names = network.routers_in(order, &mut Random(7));
            if order == Order::CoreFirst {
                assert!(names[..2].iter().all(|name| name.starts_with('C')));
                assert!(names[6..].iter().all(|name| name.starts_with('E')));
            }
            names.sort();
            names.dedup();
            assert_eq!(names.len(), network.routers());
        }
    }
}
