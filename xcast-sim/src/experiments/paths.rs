//! Rules that choose receivers by what a host knows of the network.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use xcast_host::policy::{CommonPath, Nearest, PathOfFirst, Policy as _};
use xcast_overlay::runtime::{Choice, Random};

use crate::{
    address,
    fanout::Network,
    routing::Towards,
    topology::{HostId, RouterId},
};

/// Rules that may leave out the closest choose from so many times as many candidates as they are to choose, the
/// closest by identifier: those further away are asked in vain too often.
const WINDOW: usize = 2;

/// The ways from one host to all others, as it could know them from measuring (`traceroute`). They are
/// those of flow 0, so right where there is one path for each pair.
#[derive(Clone, Debug)]
pub struct Paths {
    /// By router: the router before it on the way, and its place among that one's neighbours.
    before: Arc<[(RouterId, u16)]>,
    /// By host: its router.
    routers: Arc<[RouterId]>,
    own: RouterId,
}

impl Paths {
    /// The ways from a host. Paths have to be the same in both directions.
    #[must_use]
    pub fn of(network: &mut Network<'_>, host: HostId) -> Self {
        let own = network.hosts.router(host);
        let towards: &Towards = &network.routing.towards(own);
        let graph = network.routing.graph();
        let before = graph.routers().map(|router| {
            let Some(link) = towards.next_hop(graph, router, 0) else {
                return (router, 0);
            };
            let back = graph.reverse(link);
            let first = graph.links_of(graph.from(back)).start;
            (graph.to(link), (back - first) as u16)
        });
        Self {
            before: before.collect(),
            routers: (0..network.hosts.count() as HostId)
                .map(|host| network.hosts.router(host))
                .collect(),
            own,
        }
    }

    /// The hops to a host, each as a number that tells it from others at its place.
    #[must_use]
    pub fn to(&self, to: SocketAddr) -> Vec<u16> {
        let Some(host) = address::host(to) else {
            return Vec::new();
        };
        // Its access link is its own; hops before it are few enough to leave this number to it.
        let mut hops = vec![u16::MAX - (host % 0x7fff) as u16];
        let mut at = self.routers[host as usize];
        while at != self.own {
            let (before, place) = self.before[at as usize];
            hops.push(place);
            at = before;
        }
        hops.reverse();
        hops
    }

    /// Chooses the first, and those that add fewest links to its path.
    #[must_use]
    pub fn of_first(self) -> Choice {
        let policy = PathOfFirst(move |to| self.to(to));
        Choice::new(move |candidates, count| policy.choose(candidates, count))
    }

    /// Chooses those that have fewest links together, whoever they are.
    #[must_use]
    pub fn shared(self) -> Choice {
        let policy = CommonPath(move |to| self.to(to));
        Choice::new(move |candidates, count| policy.choose(window(candidates, count), count))
    }

    /// Chooses the nearest by hops.
    #[must_use]
    pub fn nearest(self) -> Choice {
        let policy = Nearest(move |to| self.to(to).len() as u32);
        Choice::new(move |candidates, count| policy.choose(window(candidates, count), count))
    }
}

/// Chooses any.
#[must_use]
pub fn any(seed: u64) -> Choice {
    let random = Mutex::new(Random::from_number(seed));
    Choice::new(move |candidates, count| {
        let mut places: Vec<_> = (0..window(candidates, count).len()).collect();
        if let Ok(mut random) = random.lock() {
            random.choose(&mut places, count);
        }
        places.truncate(count);
        places
    })
}

/// The candidates to choose from.
fn window(candidates: &[SocketAddr], count: usize) -> &[SocketAddr] {
    &candidates[..candidates.len().min(WINDOW * count)]
}
