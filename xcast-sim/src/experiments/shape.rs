//! What a tree of hosts costs its members and its links, by the measures of application-layer multicast: stretch and
//! link stress (Chu, Rao and Zhang, "A case for end system multicast", SIGMETRICS 2000).

use std::collections::{HashMap, VecDeque};

use crate::{
    fanout::{Link, Message, Network},
    topology::HostId,
};

/// Copies of one message on the links that it crosses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stress {
    /// On average over these links.
    pub mean: f64,
    /// On the link that has most.
    pub most: f64,
}

impl Stress {
    /// Of what crossed each link while so many messages were sent.
    pub fn of(links: impl Iterator<Item = u64>, messages: usize) -> Self {
        let (mut count, mut sum, mut most) = (0_u64, 0, 0);
        for copies in links {
            count += 1;
            sum += copies;
            most = most.max(copies);
        }
        let messages = messages as f64;
        Self {
            mean: sum as f64 / messages / count.max(1) as f64,
            most: most as f64 / messages,
        }
    }
}

/// A tree by which each member sends to its children by unicast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Levels below the source.
    pub height: usize,
    /// Links that a message crosses on its way to all.
    pub links: u64,
    /// What it does to links.
    pub stress: Stress,
    /// Links to a member by the tree, divided by those of the shortest path from the source: on average.
    pub stretch: f64,
    /// The same, of the member that only 5 % are worse off than.
    pub stretch_95: f64,
}

impl Shape {
    /// Of the members that hang on the source. `parents` has everyone's parent, by host.
    pub fn of(network: &mut Network<'_>, source: HostId, parents: &[Option<HostId>]) -> Self {
        let mut children: HashMap<HostId, Vec<HostId>> = HashMap::new();
        for (host, parent) in (0..).zip(parents) {
            if let Some(parent) = parent {
                children.entry(*parent).or_default().push(host);
            }
        }
        let (mut copies, mut links) = (HashMap::<Link, u64>::new(), 0);
        let (mut stretches, mut height) = (Vec::new(), 0);
        let mut next = VecDeque::from([(source, 0, 0)]);
        while let Some((host, level, way)) = next.pop_front() {
            height = height.max(level);
            let to = children.remove(&host).unwrap_or_default();
            for child in &to {
                let way = way + hops(network, host, *child);
                stretches.push(way as f64 / hops(network, source, *child) as f64);
                next.push_back((*child, level + 1, way));
            }
            let message = Message {
                source: host,
                to: &to,
                via: None,
                flow: host.into(),
            };
            network.send_unicast(message, 0, &mut |sent| {
                links += 1;
                *copies.entry(sent.link).or_default() += 1;
            });
        }
        stretches.sort_by(f64::total_cmp);
        let count = stretches.len().max(1);
        Self {
            height,
            links,
            stress: Stress::of(copies.into_values(), 1),
            stretch: stretches.iter().sum::<f64>() / count as f64,
            stretch_95: stretches
                .get((count * 95).div_ceil(100) - 1)
                .map_or(0.0, |it| *it),
        }
    }
}

/// Links of the shortest path between two hosts, with those to the hosts themselves.
fn hops(network: &mut Network<'_>, from: HostId, to: HostId) -> u64 {
    let towards = network.routing.towards(network.hosts.router(to));
    u64::from(towards.hops(network.hosts.router(from))) + 2
}

/// Who has which parent where each has so many children, and those next to each other share one. `visit` is told of each
/// member: its level below the source, its parent and its children; parents come before their children.
pub fn seat(
    members: usize,
    source: HostId,
    degree: usize,
    mut visit: impl FnMut(HostId, usize, Option<HostId>, &[HostId]),
) {
    let below: Vec<HostId> = (0..members as HostId)
        .filter(|host| *host != source)
        .collect();
    let mut work = vec![(source, None, 0, below.as_slice())];
    while let Some((host, parent, level, below)) = work.pop() {
        let parts = parts(below, degree);
        let children: Vec<HostId> = parts.iter().map(|part| part[0]).collect();
        visit(host, level, parent, &children);
        for part in parts {
            work.push((part[0], Some(host), level + 1, &part[1..]));
        }
    }
}

/// Divides a list into at most `count` parts that are as long as each other, but for one; none is empty.
fn parts(list: &[HostId], count: usize) -> Vec<&[HostId]> {
    let count = count.min(list.len());
    (0..count)
        .map(|part| &list[part * list.len() / count..(part + 1) * list.len() / count])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        routing::{Routing, Ties},
        topology::{Graph, Hosts},
    };

    /// Hosts 0, 1, 2, 3 at the routers of a chain.
    fn shape(parents: &[Option<HostId>]) -> Shape {
        let graph = Graph::new(4, &[(0, 1), (1, 2), (2, 3)]);
        let mut network = Network {
            routing: Routing::new(&graph, Ties::LinkCosts, 1),
            hosts: Hosts::at((0..4).collect()),
        };
        Shape::of(&mut network, 0, parents)
    }

    #[test]
    fn a_chain_by_hand() {
        let chain = shape(&[None, Some(0), Some(1), Some(2)]);
        assert_eq!((chain.height, chain.links), (3, 9));
        assert_eq!(
            chain.stress,
            Stress {
                mean: 1.0,
                most: 1.0
            }
        );
        // 3 / 3, 6 / 4 and 9 / 5 links.
        assert!(
            (chain.stretch - (1.0 + 1.5 + 1.8) / 3.0).abs() < 1e-9,
            "{chain:?}"
        );
        assert_eq!(chain.stretch_95, 1.8);
    }

    #[test]
    fn a_star_by_hand() {
        let star = shape(&[None, Some(0), Some(0), Some(0)]);
        assert_eq!((star.height, star.links), (1, 12));
        assert_eq!((star.stretch, star.stretch_95), (1.0, 1.0));
        // Seven links: host 0's has three copies, the chain's 3, 2 and 1, and each receiver's one.
        assert_eq!(
            star.stress,
            Stress {
                mean: 12.0 / 7.0,
                most: 3.0
            }
        );
    }

    #[test]
    fn seats_of_seven() {
        let mut seats = Vec::new();
        seat(7, 3, 2, |host, level, parent, children| {
            seats.push((host, level, parent, children.to_vec()));
        });
        seats.sort();
        let expected = [
            (0, 1, Some(3), vec![1, 2]),
            (1, 2, Some(0), vec![]),
            (2, 2, Some(0), vec![]),
            (3, 0, None, vec![0, 4]),
            (4, 1, Some(3), vec![5, 6]),
            (5, 2, Some(4), vec![]),
            (6, 2, Some(4), vec![]),
        ];
        assert_eq!(seats, expected);
    }
}
