//! Every router's next hop towards one destination.

use std::collections::VecDeque;

use super::ties::LinkCosts;
use crate::{
    random::hash,
    topology::{Graph, LinkId, RouterId},
};

/// The shortest paths from all routers to one.
#[derive(Clone, Debug)]
pub struct Towards {
    /// By router: how many hops it is away.
    hops: Box<[u16]>,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    /// By router: the next hop; at the destination itself anything.
    Tree(Box<[LinkId]>),
    /// Next hops are found by hops and chosen by a hash with this seed.
    Hash(u64),
}

const FAR: u16 = u16::MAX;

impl Towards {
    /// Paths of fewest hops, and of least cost among these.
    ///
    /// # Panics
    ///
    /// A path has more than 65,534 hops.
    #[must_use]
    pub fn by_costs(graph: &Graph, destination: RouterId, costs: &LinkCosts) -> Self {
        let mut next = vec![0; graph.router_count()].into_boxed_slice();
        let mut cost = vec![u64::MAX; graph.router_count()];
        cost[destination as usize] = 0;
        // Routers come by their hops. When the first of those n away comes, all that are n - 1 away
        // have been, so its cost is final.
        let hops = breadth_first(graph, destination, |link| {
            let (from, to) = (graph.from(link) as usize, graph.to(link) as usize);
            let offered = cost[from] + costs.of(link);
            if offered < cost[to] {
                cost[to] = offered;
                next[to] = graph.reverse(link);
            }
        });
        Self {
            hops,
            choice: Choice::Tree(next),
        }
    }

    /// Paths of fewest hops, chosen by a hash of the flow.
    ///
    /// # Panics
    ///
    /// A path has more than 65,534 hops.
    #[must_use]
    pub fn by_hash(graph: &Graph, destination: RouterId, seed: u64) -> Self {
        Self {
            hops: breadth_first(graph, destination, |_| {}),
            choice: Choice::Hash(seed),
        }
    }

    /// How many hops a router is away from the destination.
    #[must_use]
    pub fn hops(&self, router: RouterId) -> u16 {
        self.hops[router as usize]
    }

    /// The link that a router sends packets of a flow by; at the destination, none.
    #[must_use]
    pub fn next_hop(&self, graph: &Graph, at: RouterId, flow: u64) -> Option<LinkId> {
        let hops = self.hops(at);
        if hops == 0 {
            return None;
        }
        match &self.choice {
            Choice::Tree(next) => Some(next[at as usize]),
            Choice::Hash(seed) => {
                let links = graph.links_of(at);
                let nearer = |link: &LinkId| self.hops(graph.to(*link)) < hops;
                let count = links.clone().filter(nearer).count();
                let hash = hash(&[*seed, at.into(), flow]);
                // Equal regions of the hash's range, one for each next hop (RFC 2992 section 2).
                let chosen = (u128::from(hash) * count as u128) >> 64;
                links.into_iter().filter(nearer).nth(chosen as usize)
            }
        }
    }

    /// The links from a router to the destination.
    pub fn path<'a>(
        &'a self,
        graph: &'a Graph,
        from: RouterId,
        flow: u64,
    ) -> impl Iterator<Item = LinkId> + 'a {
        let mut at = from;
        std::iter::from_fn(move || {
            let link = self.next_hop(graph, at, flow)?;
            at = graph.to(link);
            Some(link)
        })
    }

    /// How much memory it takes, in octets.
    #[must_use]
    pub fn octets(&self) -> usize {
        let tree = match &self.choice {
            Choice::Tree(next) => size_of_val(&**next),
            Choice::Hash(_) => 0,
        };
        size_of_val(&*self.hops) + tree
    }
}

/// Hops from a router to all others. `nearest` is told of each link that leads one hop further,
/// those of nearer routers first.
fn breadth_first(graph: &Graph, start: RouterId, mut nearest: impl FnMut(LinkId)) -> Box<[u16]> {
    let mut hops = vec![FAR; graph.router_count()].into_boxed_slice();
    hops[start as usize] = 0;
    let mut queue = VecDeque::from([start]);
    while let Some(router) = queue.pop_front() {
        let further = hops[router as usize] + 1;
        assert!(further < FAR, "a path has more than {} hops", FAR - 1);
        for link in graph.links_of(router) {
            let known = &mut hops[graph.to(link) as usize];
            if *known == FAR {
                *known = further;
                queue.push_back(graph.to(link));
            }
            if *known == further {
                nearest(link);
            }
        }
    }
    hops
}
