//! Hosts, and the routers they have access links to.

use super::{connected::Topology, graph::RouterId};
use crate::random::Random;

/// A host's number, from 0.
pub type HostId = u32;

/// The router of each host. An access link is no part of the graph: it is known by its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    routers: Vec<RouterId>,
}

impl Hosts {
    /// A host at each of these routers.
    #[must_use]
    pub fn at(routers: Vec<RouterId>) -> Self {
        Self { routers }
    }

    /// A host at each edge router.
    #[must_use]
    pub fn one_each(topology: &Topology) -> Self {
        Self {
            routers: topology.edge.clone(),
        }
    }

    /// `count` hosts, each at a random edge router.
    #[must_use]
    pub fn random(topology: &Topology, count: usize, random: &mut Random) -> Self {
        let edge = &topology.edge;
        let routers = (0..count).map(|_| edge[random.below(edge.len())]);
        Self {
            routers: routers.collect(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.routers.len()
    }

    /// The router that a host has its access link to.
    #[must_use]
    pub fn router(&self, host: HostId) -> RouterId {
        self.routers[host as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Graph;

    #[test]
    fn hosts_are_at_edge_routers_only() {
        let graph = Graph::new(4, &[(0, 1), (1, 2), (2, 3)]);
        let topology = Topology::with_edge(graph, vec![0, 3]).expect("it is connected");
        let each = Hosts::one_each(&topology);
        assert_eq!((each.count(), each.router(1)), (2, 3));
        let many = Hosts::random(&topology, 100, &mut Random::new(1));
        let at_first = (0..100).filter(|host| many.router(*host) == 0).count();
        let at_last = (0..100).filter(|host| many.router(*host) == 3).count();
        assert_eq!(at_first + at_last, 100);
        // Six standard deviations.
        assert!(at_first.abs_diff(50) < 30);
    }
}
