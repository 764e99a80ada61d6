//! Links by distance in a plane.

use serde::{Deserialize, Serialize};

use super::{
    connected::{Parts, Topology},
    error::{TopologyError, require},
    graph::RouterId,
};
use crate::random::Random;

/// The model of Waxman (IEEE JSAC 6, 1988): routers are at random points of a square, and two have
/// a link with probability `beta * exp(-distance / (alpha * diagonal))`, each pair for itself.
///
/// The largest connected part is kept.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Waxman {
    /// How many routers are in the square.
    pub routers: usize,
    /// How far links reach, as a share of the diagonal: above 0, at most 1.
    pub alpha: f64,
    /// Probability of a link at distance 0: above 0, at most 1.
    pub beta: f64,
}

impl Waxman {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// A parameter is out of range, or no two routers have a link.
    pub fn generate(&self, random: &mut Random) -> Result<Topology, TopologyError> {
        let routers = self.routers;
        require(routers >= 2, "routers", routers, "it has to be at least 2")?;
        for (name, value) in [("alpha", self.alpha), ("beta", self.beta)] {
            let good = value > 0.0 && value <= 1.0;
            require(good, name, value, "it has to be above 0 and at most 1")?;
        }
        let points: Vec<_> = (0..routers)
            .map(|_| (random.unit(), random.unit()))
            .collect();
        let reach = self.alpha * f64::sqrt(2.0);
        let mut links = Vec::new();
        for (a, &(x, y)) in points.iter().enumerate() {
            for (b, &(other_x, other_y)) in points.iter().enumerate().take(a) {
                // The cheaper half of the condition first: it decides most pairs.
                let chance = random.unit();
                if chance < self.beta {
                    let distance = (x - other_x).hypot(y - other_y);
                    if chance < self.beta * (-distance / reach).exp() {
                        links.push((b as RouterId, a as RouterId));
                    }
                }
            }
        }
        let names = vec![String::new(); routers];
        let topology = Topology::from_file(names, &links, Parts::Largest)?;
        Ok(Topology {
            names: Vec::new(),
            ..topology
        })
    }
}
