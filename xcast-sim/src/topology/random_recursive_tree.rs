//! A tree without choice of paths: the most that can be shared.

use serde::{Deserialize, Serialize};

use super::{
    connected::Topology,
    error::{TopologyError, require},
    graph::{Graph, RouterId},
};
use crate::random::Random;

/// Routers come one by one, and each links to one of those before it, each equally likely (Smythe
/// and Mahmoud 1995).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RandomRecursiveTree {
    /// How many routers.
    pub routers: usize,
}

impl RandomRecursiveTree {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// There are fewer than two routers.
    pub fn generate(&self, random: &mut Random) -> Result<Topology, TopologyError> {
        let routers = self.routers;
        require(routers >= 2, "routers", routers, "it has to be at least 2")?;
        let links: Vec<_> = (1..routers)
            .map(|new| (new as RouterId, random.below(new) as RouterId))
            .collect();
        Topology::new(Graph::new(routers, &links))
    }
}
