//! Destinations' parts of the routing, worked out when they are needed.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use super::{
    ties::{LinkCosts, Ties},
    towards::Towards,
};
use crate::topology::{Graph, RouterId};

/// Next hops of all routers of a graph.
#[derive(Debug)]
pub struct Routing<'g> {
    graph: &'g Graph,
    rule: Rule,
    kept: HashMap<RouterId, Rc<Towards>>,
    /// What is kept, the oldest first.
    age: VecDeque<RouterId>,
    octets: usize,
    max_octets: usize,
}

#[derive(Debug)]
enum Rule {
    Costs(LinkCosts),
    Hash(u64),
}

impl<'g> Routing<'g> {
    /// Memory for what is kept, in octets, unless [`with_memory`](Self::with_memory) says
    /// otherwise: all destinations of a graph of 10,000 routers, or nearly so.
    pub const DEFAULT_MAX_OCTETS: usize = 512 << 20;

    /// Routing with this rule for ties, and the random choices of this seed.
    #[must_use]
    pub fn new(graph: &'g Graph, ties: Ties, seed: u64) -> Self {
        Self {
            graph,
            rule: match ties {
                Ties::LinkCosts => Rule::Costs(LinkCosts::new(graph, seed)),
                Ties::Ecmp => Rule::Hash(seed),
            },
            kept: HashMap::new(),
            age: VecDeque::new(),
            octets: 0,
            max_octets: Self::DEFAULT_MAX_OCTETS,
        }
    }

    /// The same, with this much memory for what is kept, in octets. The destination last asked for
    /// is always kept. More memory changes no result.
    #[must_use]
    pub fn with_memory(self, max_octets: usize) -> Self {
        Self { max_octets, ..self }
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// All next hops towards a router. The oldest known destinations are forgotten for it if
    /// memory is short.
    pub fn towards(&mut self, destination: RouterId) -> Rc<Towards> {
        if let Some(towards) = self.kept.get(&destination) {
            return Rc::clone(towards);
        }
        let towards = Rc::new(match &self.rule {
            Rule::Costs(costs) => Towards::by_costs(self.graph, destination, costs),
            Rule::Hash(seed) => Towards::by_hash(self.graph, destination, *seed),
        });
        self.octets += towards.octets();
        while self.octets > self.max_octets
            && let Some(oldest) = self.age.pop_front()
            && let Some(forgotten) = self.kept.remove(&oldest)
        {
            self.octets -= forgotten.octets();
        }
        self.age.push_back(destination);
        self.kept.insert(destination, Rc::clone(&towards));
        towards
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        random::Random,
        topology::{BarabasiAlbert, RandomRecursiveTree},
    };

    fn graph(routers: usize, links: usize, seed: u64) -> Graph {
        let model = BarabasiAlbert { routers, links };
        let topology = model.generate(&mut Random::new(seed));
        topology.expect("parameters are in range").graph
    }

    /// Hops between all pairs by Floyd and Warshall: slow, and nothing like a search.
    fn all_hops(graph: &Graph) -> Vec<Vec<u16>> {
        let count = graph.router_count();
        let mut hops = vec![vec![1000; count]; count];
        for (router, row) in hops.iter_mut().enumerate() {
            row[router] = 0;
        }
        for (a, b) in graph.links() {
            hops[a as usize][b as usize] = 1;
            hops[b as usize][a as usize] = 1;
        }
        for middle in 0..count {
            for from in 0..count {
                for to in 0..count {
                    let over = hops[from][middle] + hops[middle][to];
                    hops[from][to] = hops[from][to].min(over);
                }
            }
        }
        hops
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn paths_are_shortest(
            routers in 4_usize..40, links in 1_usize..3, seed in any::<u64>(), flow in any::<u64>()
        ) {
            let graph = graph(routers, links, seed);
            let hops = all_hops(&graph);
            for ties in [Ties::LinkCosts, Ties::Ecmp] {
                let mut routing = Routing::new(&graph, ties, seed);
                for to in graph.routers() {
                    let towards = routing.towards(to);
                    for from in graph.routers() {
                        let path: Vec<_> = towards.path(&graph, from, flow).collect();
                        prop_assert_eq!(path.len(), hops[from as usize][to as usize] as usize);
                        prop_assert_eq!(path.len(), towards.hops(from) as usize);
                        prop_assert_eq!(path.last().map_or(from, |last| graph.to(*last)), to);
                        for pair in path.windows(2) {
                            prop_assert_eq!(graph.to(pair[0]), graph.from(pair[1]));
                        }
                    }
                }
            }
        }

        #[test]
        fn with_link_costs_paths_are_the_same_both_ways(
            routers in 4_usize..60, seed in any::<u64>()
        ) {
            let graph = graph(routers, 2, seed);
            let mut routing = Routing::new(&graph, Ties::LinkCosts, seed);
            for a in graph.routers() {
                for b in 0..a {
                    let there: Vec<_> = routing.towards(b).path(&graph, a, 0).collect();
                    let mut back: Vec<_> = routing.towards(a).path(&graph, b, 0)
                        .map(|link| graph.reverse(link))
                        .collect();
                    back.reverse();
                    prop_assert_eq!(there, back);
                }
            }
        }
    }

    #[test]
    fn multipath_uses_all_next_hops_evenly() {
        // A square: two ways from 0 to 3.
        let graph = Graph::new(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        let towards = Routing::new(&graph, Ties::Ecmp, 9).towards(3);
        let flows = 0..10_000;
        let by_first = flows.filter(|flow| towards.next_hop(&graph, 0, *flow) == Some(0));
        // Six standard deviations.
        assert!(by_first.count().abs_diff(5000) < 300);
    }

    #[test]
    fn memory_changes_no_result() {
        let model = RandomRecursiveTree { routers: 300 };
        let topology = model.generate(&mut Random::new(4)).expect("it is good");
        let mut roomy = Routing::new(&topology.graph, Ties::LinkCosts, 4);
        let mut narrow = Routing::new(&topology.graph, Ties::LinkCosts, 4).with_memory(5000);
        for to in topology.graph.routers().chain(0..50) {
            let (expected, found) = (roomy.towards(to), narrow.towards(to));
            for from in topology.graph.routers() {
                let hop = |towards: &Towards| towards.next_hop(&topology.graph, from, 0);
                assert_eq!(hop(&expected), hop(&found));
            }
            assert!(narrow.octets <= 5000 && narrow.kept.len() == narrow.age.len());
        }
    }
}
