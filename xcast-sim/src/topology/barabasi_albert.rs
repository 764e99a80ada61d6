//! Preferential attachment: few routers with very many links.

use serde::{Deserialize, Serialize};

use super::{
    connected::Topology,
    error::{TopologyError, require},
    graph::{Graph, RouterId},
};
use crate::random::Random;

/// The model of Barabási and Albert (Science 286, 1999): routers come one by one, and each links
/// to `links` others, chosen with probability proportional to the links they already have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BarabasiAlbert {
    /// How many routers.
    pub routers: usize,
    /// Links of each new router. 2 is usual for graphs like the Internet's.
    pub links: usize,
}

impl BarabasiAlbert {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// There are no links, or not more routers than links.
    pub fn generate(&self, random: &mut Random) -> Result<Topology, TopologyError> {
        let Self { routers, links } = *self;
        require(links > 0, "links", links, "it has to be at least 1")?;
        require(
            routers > links,
            "routers",
            routers,
            "it has to be above links",
        )?;
        // The first routers form a star, so that each has a link; then every end of a link is in
        // this list once, and a random one of it is a router by its links.
        let mut ends: Vec<RouterId> = Vec::with_capacity(2 * links * routers);
        let mut all = Vec::with_capacity(links * routers);
        let mut add = |ends: &mut Vec<_>, new: RouterId, other: RouterId| {
            ends.extend([new, other]);
            all.push((new, other));
        };
        for other in 0..links {
            add(&mut ends, links as RouterId, other as RouterId);
        }
        let mut chosen = Vec::with_capacity(links);
        for new in links + 1..routers {
            chosen.clear();
            while chosen.len() < links {
                let other = ends[random.below(ends.len())];
                if !chosen.contains(&other) {
                    chosen.push(other);
                }
            }
            for &other in &chosen {
                add(&mut ends, new as RouterId, other);
            }
        }
        Topology::new(Graph::new(routers, &all))
    }
}
