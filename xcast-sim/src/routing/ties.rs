//! Which of several next hops that are equally near.

use serde::{Deserialize, Serialize};

use crate::{
    random::hash,
    topology::{Graph, LinkId},
};

/// How routers choose between next hops on shortest paths of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ties {
    /// Each link has a small random cost beside its hop, so that one path is best, in both
    /// directions and from every router on it: routing without multipath.
    LinkCosts,
    /// Equal-cost multipath by hash-threshold (RFC 2992): each router hashes the flow with a seed
    /// of its own.
    Ecmp,
}

/// A random cost for each link, the same in both directions, that decides between paths of equally
/// many hops.
#[derive(Clone, Debug)]
pub struct LinkCosts(Vec<u64>);

impl LinkCosts {
    /// The costs of a seed. 47 bits, so that those of a path of 2^16 hops have a sum.
    #[must_use]
    pub fn new(graph: &Graph, seed: u64) -> Self {
        let cost = |link| {
            let (from, to) = (graph.from(link), graph.to(link));
            hash(&[seed, from.min(to).into(), from.max(to).into()]) >> 17
        };
        Self(graph.directions().map(cost).collect())
    }

    /// The cost of a link.
    #[must_use]
    pub fn of(&self, link: LinkId) -> u64 {
        self.0[link as usize]
    }
}
