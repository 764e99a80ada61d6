//! At which load searches collapse: Gia beside flooding.
//!
//! The collapse point is that of Gia's paper (Chawathe et al., SIGCOMM 2003, section 4): the rate of
//! queries for each node at which no longer 90 % of them find anything. Nodes of both systems have the
//! paper's capacities, and drop queries beyond what they can work on.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use xcast_overlay::{
    krpc::Family,
    memory::{Sent, World, address},
    others::flood,
    runtime::{Pace, Protocol, Random, Transmit},
    walks::gia,
};

use super::work;
use crate::{random::hash, statistics::Estimate};

/// Keys that are looked for.
const KEYS: usize = 20;
/// How long nodes have to find neighbours.
const SETTLE: Duration = Duration::from_secs(60);
/// How long keys have to reach all neighbours.
const TELL: Duration = Duration::from_secs(12);
/// Fewest queries that count: at a low load they come for longer.
const LEAST: usize = 200;
/// What has to be found, of a hundred, for a load to count as carried.
pub(super) const CARRIED_PERCENT: f64 = 90.0;

/// With less than this, higher loads tell nothing more.
const LOST_PERCENT: f64 = 50.0;

/// What searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Gia, all of it.
    Gia,
    /// Gia's nodes with one part left out: that nodes know what neighbours have.
    GiaWithoutReplication,
    /// Gia with neighbours taken as they come, as many as at least needed.
    GiaWithoutAdaptation,
    /// Gia without flow control: queries are sent whether or not there is a token.
    GiaWithoutFlowControl,
    /// Gia whose walkers go to any neighbour.
    GiaWithoutBias,
    /// Queries to all neighbours, in the manner of Gnutella.
    Flooding,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Gia,
        Self::GiaWithoutReplication,
        Self::GiaWithoutAdaptation,
        Self::GiaWithoutFlowControl,
        Self::GiaWithoutBias,
        Self::Flooding,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gia => "Gia",
            Self::GiaWithoutReplication => "Gia without replication",
            Self::GiaWithoutAdaptation => "Gia without adaptation",
            Self::GiaWithoutFlowControl => "Gia without flow control",
            Self::GiaWithoutBias => "Gia without bias",
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
    /// How long queries come before they count: until queues are as long as they get.
    pub warm_up: Duration,
    /// How long queries come that count.
    pub time: Duration,
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
    /// Queries a second that each node would ask.
    pub load: f64,
    /// Queries a second and node that were asked: nobody asks more than it could work on.
    pub asked: Estimate,
    /// Of queries, how many found anything, in percent.
    pub found_percent: Estimate,
    /// How far the first answer's query went.
    pub hops: Estimate,
    /// Packets that leave nodes for each query, upkeep included: a list is one.
    pub packets: Estimate,
    /// Their receivers, which are the packets without lists.
    pub receivers: Estimate,
}

/// What a seed brings: share found, hops, packets and receivers for each query, and queries a second
/// and node.
type Sample = [f64; 5];

impl Collapse {
    /// Runs it: a row for each load, up to the first at which not half is found. `progress` is told
    /// each row.
    pub fn run(&self, system: System, mut progress: impl FnMut(&CollapseRow)) -> Vec<CollapseRow> {
        let mut rows = Vec::new();
        for load in &self.loads {
            let Some(row) = self.row(system, *load) else {
                break;
            };
            progress(&row);
            let is_lost = row.found_percent.mean < LOST_PERCENT;
            rows.push(row);
            if is_lost {
                break;
            }
        }
        rows
    }

    fn row(&self, system: System, load: f64) -> Option<CollapseRow> {
        let samples = self
            .seeds
            .iter()
            .map(|seed| self.sample(system, load, *seed));
        let samples: Vec<Sample> = samples.collect();
        let of = |at: usize| Estimate::of(&samples.iter().map(|s| s[at]).collect::<Vec<_>>());
        Some(CollapseRow {
            system,
            nodes: self.nodes,
            replication_permille: self.replication_permille,
            load,
            asked: of(4)?,
            found_percent: of(0)?,
            hops: of(1)?,
            packets: of(2)?,
            receivers: of(3)?,
        })
    }

    fn sample(&self, system: System, load: f64, seed: u64) -> Sample {
        let parts = gia::Parts {
            replication: system != System::GiaWithoutReplication,
            adaptation: system != System::GiaWithoutAdaptation,
            flow_control: system != System::GiaWithoutFlowControl,
            bias: system != System::GiaWithoutBias,
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
        let mut random = Random::from_number(hash(&[seed, 4]));
        let capacities: Vec<u32> = (0..self.nodes).map(|_| capacity(&mut random)).collect();
        for (at, capacity) in capacities.iter().enumerate() {
            let seeds = (0..3.min(at))
                .map(|_| place(world.random.below(at)))
                .collect();
            world.add(place(at), |now, random| {
                create(at, *capacity, seeds, now, random)
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
        world.run_for(TELL);
        world.events.clear();
        let sum: f64 = capacities
            .iter()
            .map(|capacity| load.min(f64::from(*capacity)))
            .sum();
        // One query after the other, at Poisson's times, by nodes as often as they ask.
        let ask = |world: &mut World<S>| {
            let pause = work::wait(&mut world.random, sum);
            world.run_for(pause);
            let at = loop {
                let at = world.random.below(self.nodes);
                let draw = world.random.below(1 << 20) as f64 / f64::from(1 << 20);
                if draw * load < f64::from(capacities[at]) {
                    break at;
                }
            };
            let key = world.random.below(KEYS) as u64;
            (at, world.act(at, |node, now| node.look_for(now, key)))
        };
        let begin = world.now + self.warm_up;
        while world.now < begin {
            ask(&mut world);
            world.events.clear();
        }
        let before = world.sent;
        let (end, mut open) = (world.now + self.time, BTreeSet::new());
        let (mut asked, mut found, mut hops) = (0_u64, 0_u64, 0_u64);
        let mut sent = Sent::default();
        // Others go on asking until the last query that counts has ended.
        loop {
            let counts = world.now < end || asked < LEAST as u64;
            if !counts && open.is_empty() {
                break;
            }
            let query = ask(&mut world);
            if counts {
                asked += 1;
                open.insert(query);
                sent = world.sent;
            }
            for (_, at, event) in world.events.drain(..) {
                let Some((number, far)) = S::ended(&event) else {
                    continue;
                };
                if open.remove(&(at, number))
                    && let Some(far) = far
                {
                    found += 1;
                    hops += u64::from(far);
                }
            }
        }
        let count = asked as f64;
        [
            100.0 * found as f64 / count,
            hops as f64 / found.max(1) as f64,
            (sent.packets() - before.packets()) as f64 / count,
            (sent.receivers() - before.receivers()) as f64 / count,
            sum / self.nodes as f64,
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
        let (one, other) = (one.asked.mean, other.asked.mean);
        is_between.then(|| one * (other / one).powf(part))
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
fn graph(count: usize, seed: u64) -> Vec<BTreeSet<usize>> {
    let mut random = Random::from_number(hash(&[seed, 5]));
    let mut graph = vec![BTreeSet::new(); count];
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
    /// Looks for a key: the search's number.
    fn look_for(&mut self, now: Instant, key: u64) -> u64;
    /// Which search has ended, and how far the query went if it found something.
    fn ended(event: &Self::Event) -> Option<(u64, Option<u16>)>;
}

impl Searcher for gia::Node {
    fn share_key(&mut self, now: Instant, key: u64) {
        self.share(now, [key]);
    }

    fn look_for(&mut self, now: Instant, key: u64) -> u64 {
        self.search(now, key).0
    }

    fn ended(event: &gia::Event) -> Option<(u64, Option<u16>)> {
        match event {
            gia::Event::Found { search, hops, .. } => Some((search.0, Some(*hops))),
            gia::Event::NotFound { search } => Some((search.0, None)),
        }
    }
}

impl Searcher for Limited {
    fn share_key(&mut self, _now: Instant, key: u64) {
        self.node.share([key]);
    }

    fn look_for(&mut self, now: Instant, key: u64) -> u64 {
        self.node.search(now, key).0
    }

    fn ended(event: &flood::Event) -> Option<(u64, Option<u16>)> {
        match event {
            flood::Event::Found { search, hops, .. } => Some((search.0, Some((*hops).into()))),
            flood::Event::NotFound { search } => Some((search.0, None)),
            flood::Event::Here { .. } => None,
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
            warm_up: Duration::from_secs(20),
            time: Duration::from_secs(20),
            seeds: vec![1],
        };
        let found = |system| {
            let rows = experiment.run(system, |_| {});
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
                asked: estimate(load),
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
