//! The generators as one type.

use serde::{Deserialize, Serialize};

use super::{
    barabasi_albert::BarabasiAlbert, connected::Topology, error::TopologyError,
    random_recursive_tree::RandomRecursiveTree, transit_stub::TransitStub, waxman::Waxman,
};
use crate::random::Random;

/// A generator and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// Preferential attachment.
    BarabasiAlbert(BarabasiAlbert),
    /// Domains of domains.
    TransitStub(TransitStub),
    /// Links by distance.
    Waxman(Waxman),
    /// A tree.
    RandomRecursiveTree(RandomRecursiveTree),
}

impl Model {
    /// The topology of a seed.
    ///
    /// # Errors
    ///
    /// A parameter is out of range, or no connected graph came up.
    pub fn generate(&self, seed: u64) -> Result<Topology, TopologyError> {
        let mut random = Random::for_purpose(seed, "topology");
        match self {
            Self::BarabasiAlbert(model) => model.generate(&mut random),
            Self::TransitStub(model) => model.generate(&mut random),
            Self::Waxman(model) => model.generate(&mut random),
            Self::RandomRecursiveTree(model) => model.generate(&mut random),
        }
    }

    /// What it is called in tables and plots.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BarabasiAlbert(_) => "Barabasi-Albert",
            Self::TransitStub(_) => "transit-stub",
            Self::Waxman(_) => "Waxman",
            Self::RandomRecursiveTree(_) => "random tree",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn models() -> impl Strategy<Value = (Model, usize)> {
        let chance = 0.3..1.0;
        prop_oneof![
            (1_usize..5, 2_usize..300).prop_map(|(links, more)| {
                let routers = links + more;
                let model = BarabasiAlbert { routers, links };
                (Model::BarabasiAlbert(model), routers)
            }),
            (1_usize..5, 1_usize..5, 1_usize..4, 1_usize..9, chance).prop_map(
                |(transit_domains, transit_routers, stubs, stub_routers, chance)| {
                    let model = TransitStub {
                        transit_domains,
                        domain_links: 1.0,
                        transit_routers,
                        transit_links: chance,
                        stubs,
                        stub_routers,
                        stub_links: chance,
                    };
                    (Model::TransitStub(model), model.routers())
                }
            ),
            (2_usize..1000).prop_map(|routers| (
                Model::RandomRecursiveTree(RandomRecursiveTree { routers }),
                routers
            )),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn generated_graphs_are_connected_and_of_the_stated_size(
            (model, routers) in models(), seed in any::<u64>()
        ) {
            let topology = model.generate(seed).expect("parameters are in range");
            prop_assert_eq!(topology.graph.router_count(), routers);
            prop_assert!(topology.graph.is_connected());
            match model {
                Model::RandomRecursiveTree(_) =>
                    prop_assert_eq!(topology.graph.link_count(), routers - 1),
                Model::BarabasiAlbert(BarabasiAlbert { links, .. }) =>
                    prop_assert_eq!(topology.graph.link_count(), links * (routers - links)),
                Model::TransitStub(transit_stub) => prop_assert_eq!(
                    topology.edge.len(),
                    routers - transit_stub.transit_domains * transit_stub.transit_routers
                ),
                Model::Waxman(_) => {}
            }
        }

        #[test]
        fn a_seed_gives_the_same_bytes((model, _) in models(), seed in any::<u64>()) {
            let text = || model.generate(seed).expect("parameters are in range").to_edge_list();
            prop_assert_eq!(text(), text());
        }
    }

    #[test]
    fn seeds_differ() {
        let model = Model::BarabasiAlbert(BarabasiAlbert {
            routers: 100,
            links: 2,
        });
        assert_ne!(
            model.generate(1).expect("it is"),
            model.generate(2).expect("it is")
        );
    }

    #[test]
    fn waxman_links_are_short() {
        let generate = |alpha| {
            let model = Model::Waxman(Waxman {
                routers: 400,
                alpha,
                beta: 0.5,
            });
            model.generate(5).expect("parameters are in range").graph
        };
        let (near, far) = (generate(0.05), generate(0.5));
        assert!(near.is_connected() && far.is_connected());
        assert!(near.router_count() > 350);
        assert!(far.link_count() > 5 * near.link_count());
    }

    #[test]
    fn attachment_is_preferential() {
        let model = BarabasiAlbert {
            routers: 3000,
            links: 2,
        };
        let graph = model.generate(&mut Random::new(1)).expect("it is").graph;
        let highest = graph.routers().map(|router| graph.degree(router)).max();
        // About sqrt(routers) times links; a random graph of this mean degree has about 15.
        assert!(highest > Some(50), "{highest:?}");
    }

    #[test]
    fn bad_parameters_are_named() {
        let error = |model: Model| model.generate(1).expect_err("it is bad").to_string();
        let waxman = Waxman {
            routers: 10,
            alpha: 0.0,
            beta: 0.5,
        };
        assert_eq!(
            error(Model::Waxman(waxman)),
            "parameter alpha is 0: it has to be above 0 and at most 1"
        );
        let albert = BarabasiAlbert {
            routers: 2,
            links: 2,
        };
        assert_eq!(
            error(Model::BarabasiAlbert(albert)),
            "parameter routers is 2: it has to be above links"
        );
    }
}
