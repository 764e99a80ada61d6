//! Which routers speak Xcast.

use serde::{Deserialize, Serialize};

use crate::{
    random::Random,
    routing::{Routing, Ties},
    topology::{RouterId, Topology},
};

/// What happens between routers that speak Xcast and are no neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Islands {
    /// Where the next hop does not speak Xcast, each destination gets a packet of its own from
    /// there on (premature X2U, RFC 5058 section 11.2). A source whose router does not speak it
    /// sends unicast.
    PrematureX2u,
    /// A copy goes to the next router on the way that speaks Xcast inside a unicast packet
    /// (RFC 5058 section 11.1). So does a source's own packet.
    Tunnels,
}

/// Which routers are the first to speak Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Any.
    Random,
    /// Those on most shortest paths.
    CoreFirst,
}

impl Placement {
    /// All routers in the order in which they come to speak Xcast.
    #[must_use]
    pub fn order(self, topology: &Topology, seed: u64) -> Vec<RouterId> {
        match self {
            Self::Random => {
                let mut routers: Vec<_> = topology.graph.routers().collect();
                Random::for_purpose(seed, "placement").shuffle(&mut routers);
                routers
            }
            Self::CoreFirst => core_first(topology, seed),
        }
    }
}

/// Which routers speak Xcast, and what happens between them.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// By router. None: all do.
    capable: Option<Vec<bool>>,
    islands: Islands,
}

/// Destinations whose paths are counted to know the core.
const SAMPLED: usize = 200;

impl Deployment {
    /// All routers speak Xcast.
    #[must_use]
    pub fn full() -> Self {
        Self {
            capable: None,
            islands: Islands::PrematureX2u,
        }
    }

    /// These routers do; `capable` has an entry for each router.
    #[must_use]
    pub fn of(capable: Vec<bool>, islands: Islands) -> Self {
        Self {
            capable: Some(capable),
            islands,
        }
    }

    /// Those of a share of all routers that are the first in an [order](Placement::order) do: from 0
    /// to 1, rounded to whole routers.
    #[must_use]
    pub fn first(order: &[RouterId], share: f64, islands: Islands) -> Self {
        let mut capable = vec![false; order.len()];
        let count = (share * order.len() as f64).round() as usize;
        for router in order.iter().take(count) {
            capable[*router as usize] = true;
        }
        Self::of(capable, islands)
    }

    /// Whether a router speaks Xcast.
    #[must_use]
    pub fn is_capable(&self, router: RouterId) -> bool {
        let capable = self.capable.as_ref();
        capable.is_none_or(|capable| capable[router as usize])
    }

    /// What happens between routers that do.
    #[must_use]
    pub fn islands(&self) -> Islands {
        self.islands
    }
}

/// All routers, those first that lie on most of the shortest paths from all edge routers to a
/// sample of them.
fn core_first(topology: &Topology, seed: u64) -> Vec<RouterId> {
    let graph = &topology.graph;
    let mut random = Random::for_purpose(seed, "core");
    let mut routing = Routing::new(graph, Ties::LinkCosts, seed).with_memory(0);
    let mut paths = vec![0_u64; graph.router_count()];
    let sampled = random.distinct(SAMPLED.min(topology.edge.len()), topology.edge.len());
    let mut by_hops: Vec<_> = graph.routers().collect();
    let mut below = Vec::new();
    for sample in sampled {
        let towards = routing.towards(topology.edge[sample]);
        below.clear();
        below.resize(graph.router_count(), 0_u64);
        for edge in &topology.edge {
            below[*edge as usize] = 1;
        }
        // The farthest first: all paths over a router are known before it is its turn.
        by_hops.sort_by_key(|router| std::cmp::Reverse(towards.hops(*router)));
        for &router in &by_hops {
            if let Some(link) = towards.next_hop(graph, router, 0) {
                below[graph.to(link) as usize] += below[router as usize];
            }
            paths[router as usize] += below[router as usize];
        }
    }
    let mut order: Vec<_> = graph.routers().collect();
    order.sort_by_key(|router| std::cmp::Reverse(paths[*router as usize]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Graph;

    #[test]
    fn the_core_comes_first() {
        // Two stars with a bridge between their middles, 0 and 1.
        let links: Vec<_> = (2..22)
            .map(|leaf| (leaf % 2, leaf))
            .chain([(0, 1)])
            .collect();
        let topology = Topology::new(Graph::new(22, &links)).expect("it is connected");
        let mut first = core_first(&topology, 1)[..2].to_vec();
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
    }

    #[test]
    fn a_greater_share_contains_the_smaller() {
        let links: Vec<_> = (1..50).map(|leaf| (leaf / 2, leaf)).collect();
        let topology = Topology::new(Graph::new(50, &links)).expect("it is connected");
        for placement in [Placement::Random, Placement::CoreFirst] {
            let order = placement.order(&topology, 3);
            let share = |share| Deployment::first(&order, share, Islands::Tunnels);
            let (less, more) = (share(0.2), share(0.5));
            let count = |deployment: &Deployment| {
                let capable = topology.graph.routers();
                capable
                    .filter(|router| deployment.is_capable(*router))
                    .count()
            };
            assert_eq!((count(&less), count(&more)), (10, 25));
            for router in topology.graph.routers() {
                assert!(!less.is_capable(router) || more.is_capable(router));
            }
        }
    }
}
