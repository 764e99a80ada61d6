//! Routers and the links between them, as two flat arrays.

use std::ops::Range;

/// A router's number, from 0.
pub type RouterId = u32;

/// One direction of a link: the number of its place in the lists of neighbours.
pub type LinkId = u32;

/// An undirected simple graph. Parallel links and links from a router to itself are left out: at
/// equal cost they change no path's length.
///
/// The neighbours of a router are a slice, in ascending order; a direction of a link is known by
/// its place there. 12 octets a direction, 4 a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// By router: its first place. One more at the end.
    first: Vec<u32>,
    /// By place: the neighbour.
    to: Vec<RouterId>,
    /// By place: whose neighbour.
    from: Vec<RouterId>,
    /// By place: the place of the other direction.
    reverse: Vec<LinkId>,
}

impl Graph {
    /// A graph of `routers` routers with these links, each named once or more, in any direction.
    ///
    /// # Panics
    ///
    /// A link names a router that is not below `routers`.
    #[must_use]
    pub fn new(routers: usize, links: &[(RouterId, RouterId)]) -> Self {
        let mut ends: Vec<_> = links
            .iter()
            .filter(|(a, b)| a != b)
            .flat_map(|&(a, b)| [(a, b), (b, a)])
            .collect();
        ends.sort_unstable();
        ends.dedup();
        assert!(
            ends.last()
                .is_none_or(|(last, _)| (*last as usize) < routers),
            "a link names router {:?} of {routers}",
            ends.last()
        );
        let place = |end: &(RouterId, RouterId)| ends.partition_point(|other| other < end) as u32;
        Self {
            first: (0..=routers as u32)
                .map(|router| place(&(router, 0)))
                .collect(),
            reverse: ends.iter().map(|&(a, b)| place(&(b, a))).collect(),
            from: ends.iter().map(|end| end.0).collect(),
            to: ends.iter().map(|end| end.1).collect(),
        }
    }

    /// How many routers there are.
    #[must_use]
    pub fn router_count(&self) -> usize {
        self.first.len() - 1
    }

    /// How many links there are; each has two directions.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.to.len() / 2
    }

    /// All routers.
    pub fn routers(&self) -> Range<RouterId> {
        0..self.router_count() as RouterId
    }

    /// Both directions of all links.
    pub fn directions(&self) -> Range<LinkId> {
        0..self.to.len() as LinkId
    }

    /// The links that leave a router.
    #[must_use]
    pub fn links_of(&self, router: RouterId) -> Range<LinkId> {
        self.first[router as usize]..self.first[router as usize + 1]
    }

    /// A router's neighbours, in ascending order.
    #[must_use]
    pub fn neighbours(&self, router: RouterId) -> &[RouterId] {
        let links = self.links_of(router);
        &self.to[links.start as usize..links.end as usize]
    }

    /// How many neighbours a router has.
    #[must_use]
    pub fn degree(&self, router: RouterId) -> usize {
        self.links_of(router).len()
    }

    /// Where a link comes from.
    #[must_use]
    pub fn from(&self, link: LinkId) -> RouterId {
        self.from[link as usize]
    }

    /// Where a link leads.
    #[must_use]
    pub fn to(&self, link: LinkId) -> RouterId {
        self.to[link as usize]
    }

    /// The same link's other direction.
    #[must_use]
    pub fn reverse(&self, link: LinkId) -> LinkId {
        self.reverse[link as usize]
    }

    /// Each link once, from the lower router to the higher.
    pub fn links(&self) -> impl Iterator<Item = (RouterId, RouterId)> {
        let both = self.from.iter().zip(&self.to);
        both.filter(|(from, to)| from < to)
            .map(|(from, to)| (*from, *to))
    }

    /// Whether there is a path from each router to each.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.router_count() > 0 && self.largest_part().len() == self.router_count()
    }

    /// The routers of the largest connected part, in ascending order; of equal ones the part with
    /// the lowest router.
    #[must_use]
    pub fn largest_part(&self) -> Vec<RouterId> {
        let mut seen = vec![false; self.router_count()];
        let mut largest = Vec::new();
        for start in self.routers() {
            if seen[start as usize] {
                continue;
            }
            seen[start as usize] = true;
            let mut part = vec![start];
            let mut next = 0;
            while next < part.len() {
                for &neighbour in self.neighbours(part[next]) {
                    if !std::mem::replace(&mut seen[neighbour as usize], true) {
                        part.push(neighbour);
                    }
                }
                next += 1;
            }
            if part.len() > largest.len() {
                largest = part;
            }
        }
        largest.sort_unstable();
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_seen_from_both_ends() {
        let graph = Graph::new(4, &[(2, 0), (0, 1), (1, 0), (3, 3), (2, 1)]);
        assert_eq!(graph.link_count(), 3);
        assert_eq!(graph.neighbours(0), [1, 2]);
        assert!(graph.neighbours(3).is_empty());
        assert_eq!(graph.links().collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
        for link in graph.directions() {
            let back = graph.reverse(link);
            assert_eq!(
                (graph.from(link), graph.to(link)),
                (graph.to(back), graph.from(back))
            );
            assert!(graph.links_of(graph.from(link)).contains(&link));
        }
        assert!(!graph.is_connected());
        assert_eq!(graph.largest_part(), [0, 1, 2]);
    }
}
