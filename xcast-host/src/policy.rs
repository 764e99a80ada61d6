//! Which destinations share a packet, where a list is too long for one, and whom to choose where
//! there is a choice.
//!
//! A policy gives every destination a key. Keys that begin with the same bits stand for paths that
//! begin with the same links: destinations are sorted by key, and a list that must be cut is cut
//! where neighbours have least in common. That one idea covers an address's prefix, a next hop, and
//! a measured distance.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A rule for putting destinations together.
///
/// Any `Fn(SocketAddr) -> u128` is one.
pub trait Policy: Send + Sync {
    /// Where the destination belongs; see [the module](self).
    fn key(&self, destination: SocketAddr) -> u128;

    /// Chooses `count` of `candidates` (any alpha of k, as a parallel lookup does) whose paths
    /// overlap: a run of neighbours, in order of their keys, whose first and last have most in
    /// common. Returns indices, ascending; all of them if there are not more than `count`.
    ///
    /// Of runs with equally much in common the one of the smallest keys wins.
    fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        let mut keyed: Vec<_> = candidates
            .iter()
            .enumerate()
            .map(|(index, candidate)| (self.key(*candidate), index))
            .collect();
        keyed.sort_unstable();
        let best = keyed
            .windows(count.clamp(1, keyed.len().max(1)))
            .enumerate()
            .max_by_key(|(at, run)| {
                let (first, last) = (run[0].0, run[run.len() - 1].0);
                (common_bits(first, last), std::cmp::Reverse(*at))
            });
        let run = best.map_or(&keyed[..0], |(_, run)| run);
        let mut chosen: Vec<_> = run.iter().take(count).map(|(_, index)| *index).collect();
        chosen.sort_unstable();
        chosen
    }
}

impl<F: Fn(SocketAddr) -> u128 + Send + Sync> Policy for F {
    fn key(&self, destination: SocketAddr) -> u128 {
        self(destination)
    }
}

impl fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// How many leading bits two keys share.
pub(crate) fn common_bits(one: u128, other: u128) -> u32 {
    (one ^ other).leading_zeros()
}

/// Destinations stay in the order given: no reordering, no knowledge needed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalOrder;

impl Policy for ArrivalOrder {
    fn key(&self, _: SocketAddr) -> u128 {
        0
    }

    fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        (0..candidates.len().min(count)).collect()
    }
}

/// Destinations with a common address prefix stay together: what networks that number by topology
/// offer for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommonPrefix;

impl Policy for CommonPrefix {
    fn key(&self, destination: SocketAddr) -> u128 {
        address_bits(destination.ip())
    }
}

/// Destinations behind one next hop stay together, and among them those with a common prefix.
///
/// The next hop is any number that a function gives for an address, such as an entry of the router's
/// route map; see [`Routes`].
#[derive(Clone, Copy, Debug)]
pub struct CommonNextHop<F>(pub F);

impl<F: Fn(SocketAddr) -> u32 + Send + Sync> Policy for CommonNextHop<F> {
    fn key(&self, destination: SocketAddr) -> u128 {
        u128::from(self.0(destination)) << 96 | address_bits(destination.ip()) >> 32
    }
}

/// Destinations at one distance stay together, and the nearest are chosen: fewest links to each,
/// which is where paths overlap most, too. The distance is any number, such as hops or round trip
/// time.
#[derive(Clone, Copy, Debug)]
pub struct Nearest<F>(pub F);

impl<F: Fn(SocketAddr) -> u32 + Send + Sync> Policy for Nearest<F> {
    fn key(&self, destination: SocketAddr) -> u128 {
        CommonNextHop(&self.0).key(destination)
    }

    fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        let mut indices: Vec<_> = (0..candidates.len()).collect();
        indices.sort_by_cached_key(|index| self.key(candidates[*index]));
        indices.truncate(count);
        indices.sort_unstable();
        indices
    }
}

/// Destinations whose paths begin with the same hops stay together, and those are chosen that add
/// fewest links, one after the other.
///
/// A path is the hops from the source on, each as any number that tells it from the others at its
/// place; the first eight count for splitting lists.
#[derive(Clone, Copy, Debug)]
pub struct CommonPath<F>(pub F);

impl<F: Fn(SocketAddr) -> Vec<u16> + Send + Sync> Policy for CommonPath<F> {
    fn key(&self, destination: SocketAddr) -> u128 {
        let path = self.0(destination);
        let hops = path.iter().copied().chain(std::iter::repeat(0)).take(8);
        hops.fold(0, |key, hop| key << 16 | u128::from(hop))
    }

    fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        fewest_links(&self.paths(candidates), count, None)
    }
}

impl<F: Fn(SocketAddr) -> Vec<u16>> CommonPath<F> {
    fn paths(&self, candidates: &[SocketAddr]) -> Vec<Vec<u16>> {
        let all = candidates.iter();
        all.map(|candidate| self.0(*candidate)).collect()
    }
}

/// As [`CommonPath`], for candidates that come in an order of preference: the first one is always
/// chosen, and then those that add fewest links to its path.
///
/// A look-up goes on from the closest candidate as fast as ever so, and what else it asks costs little.
#[derive(Clone, Copy, Debug)]
pub struct PathOfFirst<F>(pub F);

impl<F: Fn(SocketAddr) -> Vec<u16> + Send + Sync> Policy for PathOfFirst<F> {
    fn key(&self, destination: SocketAddr) -> u128 {
        CommonPath(&self.0).key(destination)
    }

    fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        fewest_links(&CommonPath(&self.0).paths(candidates), count, Some(0))
    }
}

/// Of these paths, `count` that have fewest links together, as far as choosing one after the other finds
/// them; `first` is among them.
fn fewest_links(paths: &[Vec<u16>], count: usize, first: Option<usize>) -> Vec<usize> {
    // A link is known by the hops up to it.
    let mut crossed: HashSet<&[u16]> = HashSet::new();
    let mut left: Vec<_> = (0..paths.len()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let added = |index: &usize| {
            let path = &paths[*index];
            let known = (1..=path.len()).take_while(|hops| crossed.contains(&path[..*hops]));
            path.len() - known.count()
        };
        let first = first.filter(|_| chosen.is_empty());
        let best = left
            .iter()
            .copied()
            .min_by_key(|index| (Some(*index) != first, added(index)));
        let Some(best) = best else {
            break;
        };
        left.retain(|index| *index != best);
        let path = &paths[best];
        crossed.extend((1..=path.len()).map(|hops| &path[..hops]));
        chosen.push(best);
    }
    chosen.sort_unstable();
    chosen
}

/// The bits of an address, the first ones first.
fn address_bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Next hops by prefix, of both families: the longest match counts, as in a router.
///
/// Made of (prefix, its length, next hop) triples, for instance those of `xcast-ctl routes --json`;
/// use it as `CommonNextHop(move |destination| routes.next_hop(destination))`.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    ipv4: Table,
    ipv6: Table,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// Lengths in use, longest first.
    lengths: Vec<u8>,
    /// By the bits of the prefix, the first ones first, and its length.
    next_hops: HashMap<(u128, u8), u32>,
}

impl Routes {
    /// What an address without any route has for a next hop.
    pub const NONE: u32 = u32::MAX;

    /// The next hop towards an address; [`Routes::NONE`] where there is no route.
    pub fn next_hop(&self, destination: SocketAddr) -> u32 {
        let (ip, bits) = (destination.ip(), address_bits(destination.ip()));
        let table = match ip.to_canonical() {
            IpAddr::V4(_) => &self.ipv4,
            IpAddr::V6(_) => &self.ipv6,
        };
        let mut matches = table
            .lengths
            .iter()
            .filter_map(|&length| table.next_hops.get(&(bits & mask(length), length)));
        matches.next().copied().unwrap_or(Self::NONE)
    }
}

impl<A: Into<IpAddr>> FromIterator<(A, u8, u32)> for Routes {
    /// Bits of a prefix beyond its length are ignored; a length above that of an address counts as
    /// that.
    fn from_iter<I: IntoIterator<Item = (A, u8, u32)>>(routes: I) -> Self {
        let mut all = Self::default();
        for (prefix, length, next_hop) in routes {
            let prefix: IpAddr = prefix.into();
            let (table, most) = match prefix {
                IpAddr::V4(_) => (&mut all.ipv4, 32),
                IpAddr::V6(_) => (&mut all.ipv6, 128),
            };
            let length = length.min(most);
            let bits = address_bits(prefix) & mask(length);
            table.next_hops.insert((bits, length), next_hop);
            if let Err(at) = table.lengths.binary_search_by(|other| length.cmp(other)) {
                table.lengths.insert(at, length);
            }
        }
        all
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:5000").parse().unwrap()
    }

    #[test]
    fn longest_match() {
        let route =
            |text: &str, length, next_hop| (text.parse::<IpAddr>().unwrap(), length, next_hop);
        let routes: Routes = [
            route("10.0.0.0", 8, 1),
            route("10.1.0.0", 16, 2),
            route("10.1.2.3", 32, 3),
            route("fd77::", 16, 4),
            route("fd77::10.1.0.0", 112, 5),
        ]
        .into_iter()
        .collect();
        assert_eq!(routes.next_hop(address("10.9.0.1")), 1);
        assert_eq!(routes.next_hop(address("10.1.9.9")), 2);
        assert_eq!(routes.next_hop(address("10.1.2.3")), 3);
        assert_eq!(routes.next_hop(address("192.0.2.1")), Routes::NONE);
        assert_eq!(routes.next_hop(address("[fd77::1]")), 4);
        assert_eq!(routes.next_hop(address("[fd77::10.1.9.9]")), 5);
        assert_eq!(routes.next_hop(address("[fd78::]")), Routes::NONE);
        let default: Routes = [route("0.0.0.0", 0, 7)].into_iter().collect();
        assert_eq!(default.next_hop(address("192.0.2.1")), 7);
    }

    #[test]
    fn candidates_that_share_a_prefix_are_chosen() {
        let candidates = ["10.9.0.1", "10.1.0.1", "10.5.0.1", "10.1.0.2", "10.1.7.1"].map(address);
        assert_eq!(CommonPrefix.choose(&candidates, 2), [1, 3]);
        assert_eq!(CommonPrefix.choose(&candidates, 3), [1, 3, 4]);
        assert_eq!(ArrivalOrder.choose(&candidates, 2), [0, 1]);
        let nearest = Nearest(|at: SocketAddr| u32::from(at != address("10.5.0.1")));
        assert_eq!(nearest.choose(&candidates, 1), [2]);
        assert_eq!(nearest.choose(&candidates, 2), [1, 2]);
        // The third octet stands for a router behind that of the second.
        let path = |at: SocketAddr| match at {
            SocketAddr::V4(at) => at.ip().octets()[1..]
                .iter()
                .map(|n| u16::from(*n))
                .collect(),
            SocketAddr::V6(_) => Vec::new(),
        };
        assert_eq!(CommonPath(path).choose(&candidates, 3), [0, 1, 3]);
        // From the third on, everything is as far as from anywhere.
        let from = |first: usize, count| PathOfFirst(path).choose(&candidates[first..], count);
        assert_eq!(from(2, 2), [0, 1]);
        assert_eq!(from(1, 3), [0, 2, 3]);
        assert_eq!(from(0, 3), [0, 1, 3]);
        assert!(from(0, 0).is_empty());
        assert!(from(5, 3).is_empty());
        assert_eq!(CommonPrefix.choose(&candidates, 9).len(), 5);
        assert!(CommonPrefix.choose(&candidates, 0).is_empty());
        assert!(CommonPrefix.choose(&[], 3).is_empty());
    }
}
