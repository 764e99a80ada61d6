//! Which messages of an interval share a packet.
//!
//! The messages of one interval are nested: M(l + 1) has no event that M(l) has not, because it has
//! those with TTL > l + 1 instead of TTL > l, and leaves out those about a longer stretch of the
//! ring. So a packet for several levels has the events of the lowest; its receivers skip what is
//! not for them. Adjacent levels differ least.
//!
//! One packet for all levels saves most packets, but carries the most superfluous octets: each
//! receiver's own link bears them. So [`Grouping::Ends`] lets levels share a packet only where the
//! links of the sender and of the receivers together bear no more octets than with unicast.
//!
//! On the links between, that depends on the network. Messages are short, some 50 octets, and the
//! list of a packet to two adds 24: it pays where receivers share more than a third of their paths.
//! [`Grouping::Octets`] reckons with an estimate of that.

use std::net::SocketAddr;

use crate::{
    krpc::Family,
    octets::{shared_octets, unicast_octets},
    runtime::WayOut,
};

/// Which messages of an interval share a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grouping {
    /// None: each is a datagram of its own.
    Unicast,
    /// All, as WO 2007/030742 has it (paragraph 40).
    One,
    /// As many as can without more octets on the links of the sender and of the receivers together.
    Ends,
    /// As [`Ends`](Self::Ends), if the octets in the network are expected to become fewer, too.
    Octets {
        /// Expected links of a packet to m receivers are m^(1 - saved) times those of a path: of the
        /// law of Chuang and Sirbu.
        ///
        /// That of the seed, 0.18, is an estimate of the Internet's; 0.15 is below what router graphs
        /// of all usual kinds save for few receivers, so what is shared pays.
        saved: f64,
    },
}

impl Grouping {
    /// What [`Config::new`](super::Config::new) takes.
    pub const USUAL: Self = Self::Ends;
}

/// What packets cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// How many packets.
    pub packets: usize,
    /// Octets on the link of the sender, and on those of all receivers.
    pub at_ends: usize,
    /// Expected octets in the network, in units of one path.
    pub expected: f64,
}

impl Cost {
    /// Of datagrams of these lengths, all to the same receivers.
    pub fn of(
        to: &[SocketAddr],
        contents: impl Iterator<Item = usize>,
        saved: f64,
        way: WayOut,
    ) -> Self {
        let Some(family) = to.first().map(Family::of) else {
            return Self::default();
        };
        let count = to.len();
        contents.fold(Self::default(), |sum, content| {
            let shared = shared_octets(to, content, way);
            let alone = unicast_octets(family, content);
            // Half of the list, on average, where the packet is shared; nothing of it at the ends.
            let between = if count == 1 {
                alone
            } else {
                shared.midpoint(alone)
            };
            Self {
                packets: sum.packets + 1,
                at_ends: sum.at_ends + shared + count * alone,
                expected: sum.expected + between as f64 * (count as f64).powf(1.0 - saved),
            }
        })
    }
}

/// Divides `count` messages, in the order of their levels, into groups that share a packet: where
/// each group ends. `cost` is that of the messages from the first to before the second, or `None` if
/// they cannot share a packet.
pub(super) fn divide(
    count: usize,
    grouping: Grouping,
    cost: impl Fn(usize, usize) -> Option<Cost>,
) -> Vec<usize> {
    match grouping {
        Grouping::Unicast => (1..=count).collect(),
        Grouping::One => {
            let mut ends = Vec::new();
            let mut start = 0;
            for end in 1..=count {
                if end == count || cost(start, end + 1).is_none() {
                    ends.push(end);
                    start = end;
                }
            }
            ends
        }
        // Of divisions into equally many packets that with fewer octets.
        Grouping::Ends => cheapest(count, cost, |cost| {
            cost.packets as f64 + cost.at_ends as f64 * 1e-6
        }),
        Grouping::Octets { .. } => cheapest(count, cost, |cost| cost.expected),
    }
}

/// The cheapest division in which no group has more octets at its ends than by unicast.
fn cheapest(
    count: usize,
    cost: impl Fn(usize, usize) -> Option<Cost>,
    price: impl Fn(&Cost) -> f64,
) -> Vec<usize> {
    let alone: Vec<usize> = (0..count)
        .map(|at| cost(at, at + 1).map_or(0, |cost| cost.at_ends))
        .collect();
    // The best division of the first messages: what it costs, and where its last group starts.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 1..=count {
        let mut found = (f64::INFINITY, end - 1);
        for start in (0..end).rev() {
            let Some(cost) = cost(start, end) else { break };
            let by_unicast: usize = alone[start..end].iter().sum();
            let all = best[start].0 + price(&cost);
            if cost.at_ends <= by_unicast && all < found.0 {
                found = (all, start);
            }
        }
        best.push(found);
    }
    let mut ends = Vec::new();
    let mut end = count;
    while end > 0 {
        ends.push(end);
        end = best[end].1;
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(count: usize, family: Family) -> Vec<SocketAddr> {
        let address = |at: usize| match family {
            Family::Ipv4 => ([192, 0, 2, at as u8], 4000).into(),
            Family::Ipv6 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, at as u16], 4000).into(),
        };
        (0..count).map(address).collect()
    }

    proptest! {
        /// Groups follow each other, and their octets at the ends are never more than unicast's.
        #[test]
        fn never_more_octets_than_by_unicast(
            mut lengths in prop::collection::vec(17usize..900, 1..21),
            ipv6: bool,
            grouping in prop::sample::select(vec![Grouping::Ends, Grouping::Octets { saved: 0.3 }]),
            overhead_octets in prop::sample::select(vec![0, 28, 48, 64]),
        ) {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
            let to = to(lengths.len(), family);
            let way = WayOut::Shared { overhead_octets };
            let cost = |start: usize, end: usize| {
                let list = if end - start == 1 { 0 } else { 2 * (end - start) };
                let length = lengths[start] + list;
                Some(Cost::of(&to[start..end], std::iter::once(length), 0.3, way))
            };
            let ends = divide(lengths.len(), grouping, cost);
            prop_assert!(ends.is_sorted() && ends.last() == Some(&lengths.len()));
            let (mut start, mut octets) = (0, 0);
            for end in ends {
                octets += cost(start, end).map_or(0, |cost| cost.at_ends);
                start = end;
            }
            let alone: usize = lengths.iter().map(|l| 2 * unicast_octets(family, *l)).sum();
            prop_assert!(octets <= alone);
            prop_assert_eq!(divide(lengths.len(), Grouping::One, cost), [lengths.len()]);
            prop_assert_eq!(divide(lengths.len(), Grouping::Unicast, cost).len(), lengths.len());
            // Where each receiver gets a datagram, all of them would have the longest list.
            let apart = |start: usize, end: usize| {
                let length = std::iter::once(lengths[start] + 2 * (end - start));
                Some(Cost::of(&to[start..end], length, 0.3, WayOut::Unicast))
            };
            prop_assert_eq!(divide(lengths.len(), grouping, apart).len(), lengths.len());
        }
    }
}
