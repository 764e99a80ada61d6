//! The graphs that results are stated for.

use crate::topology::{BarabasiAlbert, Model, RandomRecursiveTree, TransitStub, Waxman};

/// Four graphs of 5,000 to 10,000 routers: two like networks that exist, and two to compare with.
///
/// * Transit-stub: domains with the parameters of GT-ITM's example `ts100` (stub domains of 8
///   routers with links of probability 0.42, transit domains with 0.6), more and larger: 9,312
///   routers.
/// * Barabasi-Albert: 10,000 routers with 2 links each, usual for the Internet's graph.
/// * Waxman: 5,000 routers, `alpha` 0.2, and `beta` such that a router has 4 to 5 links, as in
///   BRITE's default of 2 links for each new router.
/// * Random recursive tree: 10,000 routers, no choice of paths.
#[must_use]
pub fn reference_models() -> Vec<Model> {
    vec![
        Model::RandomRecursiveTree(RandomRecursiveTree { routers: 10_000 }),
        Model::TransitStub(TransitStub {
            transit_domains: 8,
            domain_links: 0.6,
            transit_routers: 12,
            transit_links: 0.6,
            stubs: 12,
            stub_routers: 8,
            stub_links: 0.42,
        }),
        Model::BarabasiAlbert(BarabasiAlbert {
            routers: 10_000,
            links: 2,
        }),
        Model::Waxman(Waxman {
            routers: 5_000,
            alpha: 0.2,
            beta: 0.004,
        }),
    ]
}
