//! At which load searches collapse: Gia beside flooding.
//!
//! The collapse point is that of Gia's paper (Chawathe et al., SIGCOMM 2003, section 4): the rate of
//! queries for each node at which no longer 90 % of them find anything. Nodes of both systems have the
//! paper's capacities, and drop queries beyond what they can work on.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use xcast_overlay::{
    krpc::Family,
    memory::{World, address},
    others::flood,
    runtime::{Pace, Protocol, Random, Transmit},
    walks::gia,
};

use crate::{random::hash, statistics::Estimate};

/// Keys that are looked for.
const KEYS: usize = 20;
/// How long nodes have to find neighbours.
const SETTLE: Duration = Duration::from_secs(60);
/// A search has ended after this time.
const PATIENCE: Duration = Duration::from_secs(25);
/// What has to be found, of a hundred, for a load to count as carried.
pub(super) const CARRIED_PERCENT: f64 = 90.0;

/// What searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Gia, all of it.
    Gia,
    /// Gia's nodes with one part left out: that nodes know what neighbours have.
    GiaWithoutReplication,
    /// Gia without flow control: queries are sent whether or not there is a token.
    GiaWithoutFlowControl,
    /// Queries to all neighbours, in the manner of Gnutella.
    Flooding,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Gia,
        Self::GiaWithoutReplication,
        Self::GiaWithoutFlowControl,
        Self::Flooding,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gia => "Gia",
            Self::GiaWithoutReplication => "Gia without replication",
            Self::GiaWithoutFlowControl => "Gia without flow control",
            Self::Flooding => "flooding",
        }
    }
}

/// An experiment.
#[derive(Clone, Debug)]
pub struct Collapse {
    /// Nodes.
    pub nodes: usize,
    /// Of a thousand nodes, so many have each thing.
    pub replication_permille: usize,
    /// Queries a second and node.
    pub loads: Vec<f64>,
    /// How long queries come.
    pub time: Duration,
    /// Most queries in that time: a shorter time will do where there would be more.
    pub max_queries: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
}

/// A load's result.
#[derive(Clone, Debug, Serialize)]
pub struct CollapseRow {
    /// What searches.
    pub system: System,
    /// Nodes.
    pub nodes: usize,
    /// Of a thousand nodes, so many have each thing.
    pub replication_permille: usize,
    /// Queries a second and node.
    pub load: f64,
    /// Of queries, how many found anything, in percent.
    pub found_percent: Estimate,
    /// How far the first answer's query went.
    pub hops: Estimate,
    /// Packets that leave nodes for each query, upkeep included: a list is one.
    pub packets: Estimate,
    /// Their receivers, which are the packets without lists.
    pub receivers: Estimate,
}

/// What a seed brings: share found, hops, packets and receivers for each query.
type Sample = [f64; 4];

impl Collapse {
    /// Runs it: a row for each load. `progress` is told of each.
    pub fn run(&self, system: System, mut progress: impl FnMut(f64, u64)) -> Vec<CollapseRow> {
        let row = |load: &f64| {
            let samples: Vec<Sample> = self
                .seeds
                .iter()
                .map(|seed| {
                    progress(*load, *seed);
                    self.sample(system, *load, *seed)
                })
                .collect();
            let of = |at: usize| Estimate::of(&samples.iter().map(|s| s[at]).collect::<Vec<_>>());
            Some(CollapseRow {
                system,
                nodes: self.nodes,
                replication_permille: self.replication_permille,
                load: *load,
                found_percent: of(0)?,
                hops: of(1)?,
                packets: of(2)?,
                receivers: of(3)?,
            })
        };
        self.loads.iter().filter_map(row).collect()
    }

    fn sample(&self, system: System, load: f64, seed: u64) -> Sample {
        let parts = gia::Parts {
            replication: system != System::GiaWithoutReplication,
            flow_control: system != System::GiaWithoutFlowControl,
            ..gia::Parts::default()
        };
        if system == System::Flooding {
            let graph = graph(self.nodes, seed);
            return self.search(seed, load, |at, capacity, _, now, random| {
                let neighbours = graph[at].iter().map(|other| place(*other)).collect();
                let config = flood::Config::new("files", place(at), neighbours);
                Limited::new(flood::Node::new(now, config, random), capacity)
            });
        }
        self.search(seed, load, |at, capacity, seeds, now, random| {
            let mut config = gia::Config::new("files", place(at), seeds, capacity);
            config.parts = parts;
            gia::Node::new(now, config, random)
        })
    }

    fn search<S: Searcher>(
        &self,
        seed: u64,
        load: f64,
        create: impl Fn(usize, u32, Vec<SocketAddr>, Instant, Random) -> S,
    ) -> Sample {
        let mut world = World::new(seed);
        let mut capacities = Random::from_number(hash(&[seed, 4]));
        for at in 0..self.nodes {
            let seeds = (0..3.min(at))
                .map(|_| place(world.random.below(at)))
                .collect();
            let capacity = capacity(&mut capacities);
            world.add(place(at), |now, random| {
                create(at, capacity, seeds, now, random)
            });
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(SETTLE);
        let holders = (self.nodes * self.replication_permille / 1000).max(1);
        for key in 0..KEYS as u64 {
            for _ in 0..holders {
                let at = world.random.below(self.nodes);
                world.act(at, |node, now| node.share_key(now, key));
            }
        }
        world.run_for(Duration::from_secs(12));
        world.events.clear();
        let rate = load * self.nodes as f64;
        let count = (rate * self.time.as_secs_f64()).min(self.max_queries as f64);
        let count = (count as usize).max(100.min(self.max_queries));
        let before = world.sent;
        let (mut found, mut hops) = (0_u64, 0_u64);
        let mut take = |world: &mut World<S>| {
            for (_, _, event) in world.events.drain(..) {
                if let Some(far) = S::found(&event) {
                    found += 1;
                    hops += u64::from(far);
                }
            }
        };
        for _ in 0..count {
            let unit = (world.random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
            world.run_for(Duration::from_secs_f64(-unit.ln() / rate));
            let (at, key) = (world.random.below(self.nodes), world.random.below(KEYS));
            world.act(at, |node, now| node.look_for(now, key as u64));
            take(&mut world);
        }
        world.run_for(PATIENCE);
        take(&mut world);
        let count = count as f64;
        [
            100.0 * found as f64 / count,
            hops as f64 / found.max(1) as f64,
            (world.sent.packets() - before.packets()) as f64 / count,
            (world.sent.receivers() - before.receivers()) as f64 / count,
        ]
    }
}

/// The load, in queries a second and node, at which no longer 90 % are found; between two loads
/// logarithmically. `None` if all loads are carried, or the first is not.
#[must_use]
pub fn collapse_point(rows: &[CollapseRow]) -> Option<f64> {
    rows.windows(2).find_map(|pair| {
        let [one, other] = pair else { return None };
        let (before, after) = (one.found_percent.mean, other.found_percent.mean);
        let part = (before - CARRIED_PERCENT) / (before - after);
        let is_between = before >= CARRIED_PERCENT && after < CARRIED_PERCENT;
        is_between.then(|| one.load * (other.load / one.load).powf(part))
    })
}

fn place(at: usize) -> SocketAddr {
    address(at, Family::Ipv4)
}

/// Capacities as in the paper: 1, 10, 100, 1000, 10 000 with 20, 45, 30, 4.9 and 0.1 % of nodes.
fn capacity(random: &mut Random) -> u32 {
    match random.below(1000) {
        0..200 => 1,
        200..650 => 10,
        650..950 => 100,
        950..999 => 1000,
        _ => 10_000,
    }
}

/// A graph in which nearly each node has eight neighbours: four rings, each in random order.
fn graph(count: usize, seed: u64) -> Vec<std::collections::BTreeSet<usize>> {
    let mut random = Random::from_number(hash(&[seed, 5]));
    let mut graph = vec![std::collections::BTreeSet::new(); count];
    for _ in 0..4 {
        let mut ring: Vec<usize> = (0..count).collect();
        random.choose(&mut ring, count);
        for at in 0..count {
            let (one, other) = (ring[at], ring[(at + 1) % count]);
            if one != other {
                graph[one].insert(other);
                graph[other].insert(one);
            }
        }
    }
    graph
}

/// What both systems can do.
trait Searcher: Protocol {
    fn share_key(&mut self, now: Instant, key: u64);
    fn look_for(&mut self, now: Instant, key: u64);
    /// How far the query went that found something.
    fn found(event: &Self::Event) -> Option<u8>;
}

impl Searcher for gia::Node {
    fn share_key(&mut self, now: Instant, key: u64) {
        self.share(now, [key]);
    }

    fn look_for(&mut self, now: Instant, key: u64) {
        self.search(now, key);
    }

    fn found(event: &gia::Event) -> Option<u8> {
        match event {
            gia::Event::Found { hops, .. } => Some(*hops),
            gia::Event::NotFound { .. } => None,
        }
    }
}

impl Searcher for Limited {
    fn share_key(&mut self, _now: Instant, key: u64) {
        self.node.share([key]);
    }

    fn look_for(&mut self, now: Instant, key: u64) {
        self.node.search(now, key);
    }

    fn found(event: &flood::Event) -> Option<u8> {
        match event {
            flood::Event::Found { hops, .. } => Some(*hops),
            _ => None,
        }
    }
}

/// A node that floods, and can work on so many queries a second, as Gia's nodes can.
#[derive(Debug)]
struct Limited {
    node: flood::Node,
    service: Pace,
}

impl Limited {
    fn new(node: flood::Node, capacity: u32) -> Self {
        let interval = Duration::from_secs(1) / capacity;
        Self {
            node,
            service: Pace::new(capacity.saturating_mul(2).max(64), interval),
        }
    }
}

impl Protocol for Limited {
    type Event = flood::Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        // Answers cost nothing, as with Gia.
        let is_query = datagram.get(5) == Some(&3);
        if !is_query || self.service.reserve(now, Duration::ZERO).is_some() {
            self.node.handle(now, from, datagram);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.node.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<flood::Event> {
        self.node.poll_event()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gia_carries_more_than_flooding() {
        let experiment = Collapse {
            nodes: 150,
            replication_permille: 10,
            loads: vec![0.03, 2.0],
            time: Duration::from_secs(30),
            max_queries: 1500,
            seeds: vec![1],
        };
        let found = |system| {
            let rows = experiment.run(system, |_, _| {});
            [rows[0].found_percent.mean, rows[1].found_percent.mean]
        };
        let (gia, flooding) = (found(System::Gia), found(System::Flooding));
        // Flooding finds what its time to live reaches.
        assert!(
            gia[0] >= 90.0 && flooding[0] >= 70.0,
            "{gia:?} {flooding:?}"
        );
        assert!(gia[1] >= 90.0 && flooding[1] < 50.0, "{gia:?} {flooding:?}");
    }

    #[test]
    fn between_two_loads() {
        let row = |load, found| {
            let estimate = |mean| Estimate {
                mean,
                half_width: None,
            };
            CollapseRow {
                system: System::Gia,
                nodes: 1,
                replication_permille: 10,
                load,
                found_percent: estimate(found),
                hops: estimate(0.0),
                packets: estimate(0.0),
                receivers: estimate(0.0),
            }
        };
        let point = collapse_point(&[row(1.0, 100.0), row(100.0, 80.0)]);
        assert!((point.expect("it collapses") - 10.0).abs() < 1e-9);
        assert_eq!(collapse_point(&[row(1.0, 100.0), row(10.0, 95.0)]), None);
    }
}
