//! Nearness on measured round trips: what Meridian finds, and what it brings a tree that parents are near.
//!
//! Wong, Slivkins, Sirer, *Meridian: A Lightweight Network Location Service without Virtual Coordinates* (SIGCOMM 2005).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::Serialize;
use xcast_overlay::{
    krpc::{Family, signing_key},
    memory::{World, address},
    meridian::{self, Goal},
    runtime::{Protocol, Random},
    tree::{self, Member, Packets, Parents},
};

use crate::{latencies::Latencies, statistics::Estimate};

/// Pause between two nodes that join.
const JOIN_PAUSE: Duration = Duration::from_millis(100);
/// How long the nodes have to get to know each other.
const SETTLE: Duration = Duration::from_secs(180);
/// Pause between two queries.
const QUERY_PAUSE: Duration = Duration::from_millis(200);
/// A query has ended after this time.
const PATIENCE: Duration = Duration::from_secs(25);
/// Targets of a central leader, and bounds of a query for several.
const TARGETS: usize = 4;

/// An experiment: hosts in a network in memory, with these round trips between them.
#[derive(Clone, Debug)]
pub struct Near {
    /// Measured round trips.
    pub latencies: Latencies,
    /// How many of the hosts take part: for each seed others, if not all.
    pub hosts: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Queries of each kind.
    pub queries: usize,
    /// Whether the hosts have addresses of IPv6.
    pub ipv6: bool,
    /// Destinations of one packet in trees: as many children each member has at most.
    pub destinations: usize,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// The node closest to another one.
    Closest,
    /// The node with the least average round trip to four others.
    Central,
    /// A node within bounds around three others, such that there is one.
    Within,
}

impl Wanted {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closest, Self::Central, Self::Within];
}

/// What Meridian finds. Errors are how much longer the round trip to what was found is than to the best.
#[derive(Clone, Debug, Serialize)]
pub struct NearRow {
    /// What is looked for.
    pub wanted: Wanted,
    /// Nodes.
    pub hosts: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Queries that found something, in percent.
    pub answered_percent: Estimate,
    /// Answers that were the best, or within all bounds, in percent.
    pub best_percent: Estimate,
    /// The error of half of all queries, in milliseconds: at most. Without an answer it is infinite.
    pub median_error_ms: Estimate,
    /// The same of nodes that are chosen at random.
    pub median_of_random_ms: Estimate,
    /// Nodes one after the other.
    pub hops: Estimate,
    /// Round trips that were measured for a query.
    pub probes: Estimate,
    /// Packets of queries that ask members of rings, for each query.
    pub packets: Estimate,
    /// Their receivers, which are the packets without lists.
    pub receivers: Estimate,
}

/// Trees, by what makes a good parent.
#[derive(Clone, Debug, Serialize)]
pub struct NearTreeRow {
    /// Whether parents are chosen by latency; else only by how far they are from the source.
    pub by_latency: bool,
    /// Members.
    pub hosts: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Members that got the message, in percent. The rest is of these.
    pub reached_percent: Estimate,
    /// How long a message takes to a member, on average over members, in milliseconds.
    pub took_ms: Estimate,
    /// How many times as long as straight from the source, on average over members.
    pub stretch: Estimate,
    /// The way from a parent to its child, on average, in milliseconds.
    pub step_ms: Estimate,
    /// Levels below the source, on average.
    pub depth: Estimate,
}

struct Sample {
    answered: f64,
    best: f64,
    error_ms: f64,
    random_ms: f64,
    hops: f64,
    probes: f64,
    packets: f64,
    receivers: f64,
}

/// One tree: sums over the members that the message reached.
#[derive(Debug, Default)]
struct TreeSample {
    members: f64,
    reached: f64,
    took_ms: f64,
    stretch: f64,
    step_ms: f64,
    depth: f64,
}

impl Near {
    /// What Meridian finds; `progress` is told of each network. Nothing without seeds.
    pub fn meridian(&self, mut progress: impl FnMut(&str)) -> Vec<NearRow> {
        let mut samples: BTreeMap<Wanted, Vec<Sample>> = BTreeMap::new();
        for seed in &self.seeds {
            let (mut world, map) = self.world(*seed, |at, random| {
                let seeds = (0..2.min(at))
                    .map(|_| self.place(random.below(at)))
                    .collect();
                move |now, random| {
                    meridian::Node::new(now, meridian::Config::new("simulated", seeds), random)
                }
            });
            world.run_for(SETTLE);
            for wanted in Wanted::ALL {
                let sample = self.ask(&mut world, &map, wanted);
                samples.entry(wanted).or_default().push(sample);
            }
            progress(&format!("Meridian, seed {seed}"));
        }
        let rows = samples.into_iter();
        rows.filter_map(|(wanted, samples)| self.row(wanted, &samples))
            .collect()
    }

    fn row(&self, wanted: Wanted, samples: &[Sample]) -> Option<NearRow> {
        let of = |value: fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        Some(NearRow {
            wanted,
            hosts: self.hosts,
            seeds: self.seeds.clone(),
            answered_percent: of(|sample| sample.answered)?,
            best_percent: of(|sample| sample.best)?,
            median_error_ms: of(|sample| sample.error_ms)?,
            median_of_random_ms: of(|sample| sample.random_ms)?,
            hops: of(|sample| sample.hops)?,
            probes: of(|sample| sample.probes)?,
            packets: of(|sample| sample.packets)?,
            receivers: of(|sample| sample.receivers)?,
        })
    }

    fn place(&self, at: usize) -> SocketAddr {
        let family = if self.ipv6 {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        address(at, family)
    }

    /// Hosts that join one after the other, in random order, and which of those with measured round trips they are.
    fn world<P: Protocol, F: FnOnce(Instant, Random) -> P>(
        &self,
        seed: u64,
        mut create: impl FnMut(usize, &mut Random) -> F,
    ) -> (World<P>, Rc<Map>) {
        let mut world = World::new(seed);
        let mut hosts: Vec<usize> = (0..self.latencies.hosts()).collect();
        let all = hosts.len();
        world.random.choose(&mut hosts, all);
        hosts.truncate(self.hosts);
        let latencies = self.latencies.clone();
        let map = Rc::new(Map { latencies, hosts });
        let ways = Rc::clone(&map);
        world.latency = Box::new(move |from, to| ways.rtt(from, to) / 2);
        for at in 0..map.hosts.len() {
            let create = create(at, &mut world.random);
            world.add(self.place(at), create);
            world.run_for(JOIN_PAUSE);
        }
        (world, map)
    }

    fn ask(&self, world: &mut World<meridian::Node>, map: &Map, wanted: Wanted) -> Sample {
        let asks = |world: &World<meridian::Node>| {
            let counters = world
                .living()
                .into_iter()
                .map(|at| world.node(at).status().counters);
            counters.fold((0, 0), |(packets, receivers), counters| {
                (
                    packets + counters.ring_asks,
                    receivers + counters.ring_ask_receivers,
                )
            })
        };
        let before = asks(world);
        world.events.clear();
        let count = map.hosts.len();
        let mut asked = BTreeMap::new();
        let mut random_ms = Vec::new();
        for _ in 0..self.queries {
            let (goal, targets) = self.goal(map, &mut world.random, wanted);
            // A node is no answer to who is closest to it.
            let is_target = |at: &usize| targets[..] == [*at];
            let others: Vec<usize> = (0..count).filter(|at| !is_target(at)).collect();
            let from = others[world.random.below(others.len())];
            let any = others[world.random.below(others.len())];
            let best = others
                .iter()
                .map(|at| map.distance(*at, &goal, &targets))
                .min()
                .unwrap_or_default();
            random_ms.push(ms(map.distance(any, &goal, &targets) - best));
            let query = world.act(from, |node, now| node.query(now, goal.clone()));
            asked.insert((from, query), (goal, targets, best));
            world.run_for(QUERY_PAUSE);
        }
        world.run_for(PATIENCE);
        let after = asks(world);
        let (mut errors_ms, mut hops_of_all, mut probes_of_all, mut best_ones) =
            (vec![], 0.0, 0.0, 0.0);
        for (_, at, event) in std::mem::take(&mut world.events) {
            let meridian::Event::Found {
                query,
                best: Some(found),
                hops,
                probes,
                ..
            } = event
            else {
                continue;
            };
            let (Some((goal, targets, best)), Some(found)) =
                (asked.remove(&(at, query)), world.place(found))
            else {
                continue;
            };
            let error = map.distance(found, &goal, &targets).saturating_sub(best);
            errors_ms.push(ms(error));
            best_ones += f64::from(u8::from(error.is_zero()));
            hops_of_all += f64::from(hops);
            probes_of_all += f64::from(probes);
        }
        let (queries, answered) = (self.queries.max(1) as f64, errors_ms.len().max(1) as f64);
        Sample {
            answered: 100.0 * errors_ms.len() as f64 / queries,
            best: 100.0 * best_ones / answered,
            error_ms: {
                errors_ms.resize(self.queries, f64::INFINITY);
                median(errors_ms)
            },
            random_ms: median(random_ms),
            hops: hops_of_all / answered,
            probes: probes_of_all / answered,
            packets: (after.0 - before.0) as f64 / queries,
            receivers: (after.1 - before.1) as f64 / queries,
        }
    }

    /// A goal around random nodes, and where these are.
    fn goal(&self, map: &Map, random: &mut Random, wanted: Wanted) -> (Goal, Vec<usize>) {
        let mut all: Vec<usize> = (0..map.hosts.len()).collect();
        random.choose(&mut all, TARGETS);
        all.truncate(TARGETS);
        match wanted {
            Wanted::Closest => (Goal::closest(self.place(all[0])), vec![all[0]]),
            Wanted::Central => {
                let targets = all.iter().map(|at| self.place(*at));
                (Goal::central(targets.collect()), all)
            }
            // The first one is an answer, with a tenth to spare.
            Wanted::Within => {
                let first = all.remove(0);
                let bound = |at: &usize| (self.place(*at), map.rtt(first, *at).mul_f64(1.1));
                (Goal::Within(all.iter().map(bound).collect()), all)
            }
        }
    }

    /// Trees with parents by latency, and by depth alone.
    pub fn trees(&self, mut progress: impl FnMut(&str)) -> Vec<NearTreeRow> {
        let rows = [true, false].map(|by_latency| {
            let samples: Vec<TreeSample> = self
                .seeds
                .iter()
                .map(|seed| self.tree(*seed, by_latency))
                .collect();
            progress(if by_latency {
                "tree, parents by latency"
            } else {
                "tree, parents by depth"
            });
            let of = |value: fn(&TreeSample) -> f64| {
                Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
            };
            Some(NearTreeRow {
                by_latency,
                hosts: self.hosts,
                seeds: self.seeds.clone(),
                reached_percent: of(|sample| 100.0 * sample.reached / sample.members.max(1.0))?,
                took_ms: of(|sample| sample.took_ms / sample.reached.max(1.0))?,
                stretch: of(|sample| sample.stretch / sample.reached.max(1.0))?,
                step_ms: of(|sample| sample.step_ms / sample.reached.max(1.0))?,
                depth: of(|sample| sample.depth / sample.reached.max(1.0))?,
            })
        });
        rows.into_iter().flatten().collect()
    }

    fn tree(&self, seed: u64, by_latency: bool) -> TreeSample {
        let key = signing_key([1; 32]);
        let (mut world, map) = self.world(seed, |at, random| {
            let mut config = if at == 0 {
                tree::Config::source("simulated", key.clone(), 1)
            } else {
                let mut by: Vec<SocketAddr> =
                    (0..2).map(|_| self.place(random.below(at))).collect();
                by.push(self.place(0));
                tree::Config::receiver("simulated", key.verifying_key().to_bytes(), by)
            };
            config.packets = Packets {
                max_destinations: self.destinations,
                ..Packets::default()
            };
            config.packets_per_message = 1;
            if !by_latency {
                // No round trip is worth a level.
                let level = Duration::from_secs(3600);
                config.parents = Parents::Latency { level };
            }
            move |now, random| Member::new(now, config, random)
        });
        world.run_for(Duration::from_secs(10));
        world.events.clear();
        let began = world.now;
        world.act(0, |source, now| source.send(now, b"news").is_ok());
        world.run_for(Duration::from_secs(20));
        let mut sample = TreeSample {
            members: (map.hosts.len() - 1) as f64,
            ..TreeSample::default()
        };
        for (when, at, event) in std::mem::take(&mut world.events) {
            let status = world.node(at).status(world.now);
            let parent = status.parent.and_then(|parent| world.place(parent));
            if let (tree::Event::Message { .. }, Some(parent)) = (event, parent) {
                let took = when - began;
                sample.reached += 1.0;
                sample.took_ms += ms(took);
                sample.stretch += took.as_secs_f64() / (map.rtt(0, at) / 2).as_secs_f64();
                sample.step_ms += ms(map.rtt(parent, at) / 2);
                sample.depth += f64::from(status.depth);
            }
        }
        sample
    }
}

/// Which host with measured round trips is at which place.
#[derive(Debug)]
struct Map {
    latencies: Latencies,
    hosts: Vec<usize>,
}

impl Map {
    fn rtt(&self, one: usize, other: usize) -> Duration {
        self.latencies.rtt(self.hosts[one], self.hosts[other])
    }

    /// How far a node is from a goal around these targets, in truth.
    fn distance(&self, at: usize, goal: &Goal, targets: &[usize]) -> Duration {
        let rtts: Vec<Option<Duration>> = targets
            .iter()
            .map(|target| Some(self.rtt(at, *target)))
            .collect();
        goal.distance(&rtts).unwrap_or(Duration::MAX)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On measured round trips: within 5 ms of the best for half of all queries, and ten times nearer than a random node;
    /// and a message takes less where parents are near.
    #[test]
    fn near_ones_are_found_among_hosts_of_planetlab() {
        let experiment = Near {
            latencies: Latencies::planetlab(),
            hosts: 200,
            seeds: vec![1],
            queries: 100,
            ipv6: false,
            destinations: 10,
        };
        let rows = experiment.meridian(|_| {});
        assert_eq!(rows.len(), Wanted::ALL.len());
        for row in &rows {
            println!("{row:?}");
            let (error, random) = (row.median_error_ms.mean, row.median_of_random_ms.mean);
            assert!(row.answered_percent.mean >= 95.0, "{row:?}");
            assert!(error < 5.0 && random > 10.0 * error, "{row:?}");
            assert!(row.receivers.mean > 2.0 * row.packets.mean, "{row:?}");
        }
        let [near, any] = &experiment.trees(|_| {})[..] else {
            panic!("two trees");
        };
        println!("{near:?} {any:?}");
        assert!(
            [near, any]
                .iter()
                .all(|row| row.reached_percent.mean == 100.0)
        );
        assert!(near.step_ms.mean < 0.7 * any.step_ms.mean);
        assert!(near.took_ms.mean < any.took_ms.mean);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let experiment = Near {
            latencies: Latencies::planetlab(),
            hosts: 40,
            seeds: vec![3],
            queries: 10,
            ipv6: true,
            destinations: 5,
        };
        let text = || {
            let rows = (experiment.meridian(|_| {}), experiment.trees(|_| {}));
            serde_json::to_string(&rows).expect("rows have text keys")
        };
        assert_eq!(text(), text());
    }
}
