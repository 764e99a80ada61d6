//! Domains of domains: what the Internet's routing looks like from afar.

use serde::{Deserialize, Serialize};

use super::{
    connected::Topology,
    error::{TopologyError, require},
    graph::{Graph, RouterId},
};
use crate::random::Random;

/// The transit-stub model of GT-ITM (Zegura, Calvert and Bhattacharjee, INFOCOM 1996): transit
/// domains that are linked at random, and at each of their routers stub domains of which each has
/// one link to it. Hosts are in stub domains.
///
/// Domains are random graphs, made again until connected, as GT-ITM makes them. All domains of a
/// kind have the same size; GT-ITM draws sizes about a mean.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct TransitStub {
    /// How many transit domains.
    pub transit_domains: usize,
    /// Probability of a link between two transit domains.
    pub domain_links: f64,
    /// Routers of each transit domain.
    pub transit_routers: usize,
    /// Probability of a link between two routers of a transit domain.
    pub transit_links: f64,
    /// Stub domains of each transit router.
    pub stubs: usize,
    /// Routers of each stub domain.
    pub stub_routers: usize,
    /// Probability of a link between two routers of a stub domain.
    pub stub_links: f64,
}

/// How often a domain is made before it is given up.
const TRIES: u32 = 10_000;

impl TransitStub {
    /// How many routers there are.
    #[must_use]
    pub fn routers(&self) -> usize {
        self.transit_domains * self.transit_routers * (1 + self.stubs * self.stub_routers)
    }

    /// Makes one.
    ///
    /// # Errors
    ///
    /// A parameter is out of range, or no connected domain came up.
    pub fn generate(&self, random: &mut Random) -> Result<Topology, TopologyError> {
        for (name, size) in [
            ("transit_domains", self.transit_domains),
            ("transit_routers", self.transit_routers),
            ("stubs", self.stubs),
            ("stub_routers", self.stub_routers),
        ] {
            require(size > 0, name, size, "it has to be at least 1")?;
        }
        for (name, chance) in [
            ("domain_links", self.domain_links),
            ("transit_links", self.transit_links),
            ("stub_links", self.stub_links),
        ] {
            let good = chance > 0.0 && chance <= 1.0;
            require(good, name, chance, "it has to be above 0 and at most 1")?;
        }
        let mut links = Vec::new();
        let mut free: RouterId = 0;
        let mut domain = |random: &mut Random, routers, chance, parameter| {
            let first = free;
            free += routers as RouterId;
            let inside = connected(random, routers, chance, parameter)?;
            Ok::<_, TopologyError>((first, inside.map(move |(a, b)| (first + a, first + b))))
        };
        let mut transit = Vec::new();
        for _ in 0..self.transit_domains {
            let (first, inside) = domain(
                random,
                self.transit_routers,
                self.transit_links,
                "transit_links",
            )?;
            links.extend(inside);
            transit.push(first);
        }
        let between = connected(
            random,
            self.transit_domains,
            self.domain_links,
            "domain_links",
        )?;
        for (a, b) in between {
            let mut end = |domain: RouterId| {
                transit[domain as usize] + random.below(self.transit_routers) as RouterId
            };
            links.push((end(a), end(b)));
        }
        let transit_count = (self.transit_domains * self.transit_routers) as RouterId;
        for router in 0..transit_count {
            for _ in 0..self.stubs {
                let (first, inside) =
                    domain(random, self.stub_routers, self.stub_links, "stub_links")?;
                links.extend(inside);
                let gateway = first + random.below(self.stub_routers) as RouterId;
                links.push((router, gateway));
            }
        }
        let routers = self.routers();
        Topology::with_edge(
            Graph::new(routers, &links),
            (transit_count..routers as RouterId).collect(),
        )
    }
}

/// The links of a connected random graph.
fn connected(
    random: &mut Random,
    routers: usize,
    chance: f64,
    parameter: &'static str,
) -> Result<impl Iterator<Item = (RouterId, RouterId)> + use<>, TopologyError> {
    for _ in 0..TRIES {
        let mut links = Vec::new();
        for a in 0..routers as RouterId {
            for b in 0..a {
                if random.chance(chance) {
                    links.push((b, a));
                }
            }
        }
        if Graph::new(routers, &links).is_connected() {
            return Ok(links.into_iter());
        }
    }
    Err(TopologyError::NeverConnected {
        routers,
        tries: TRIES,
        parameter,
    })
}
