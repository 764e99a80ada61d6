//! D1HT under churn, by its real peers: what the messages of EDRA save.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use xcast_overlay::{
    d1ht::{Config, Grouping, Peer, Theta, expected_messages, theta},
    ring::Contact,
    runtime,
};

use super::{
    savings::{Cost, Savings},
    source::Source,
};
use crate::{
    address,
    fanout::Network,
    random::{Random, hash},
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts, Model, TopologyError},
    world::{Classify, World, WorldSettings},
};

/// The class of EDRA's lists of events.
const REQUEST: usize = 1;
/// The class of acknowledgements.
const REPLY: usize = 2;
/// Share of table entries that may be stale.
const STALE: f64 = 0.01;

/// An experiment: peers that share one immutable table with differences of their own, as if all had
/// joined, come and go. Whoever goes is replaced by one that joins, on the same host.
#[derive(Clone, Debug)]
pub struct D1ht {
    /// Which graphs.
    pub source: Source,
    /// One for each.
    pub seeds: Vec<u64>,
    /// Peers.
    pub peers: usize,
    /// How long peers stay, on average.
    pub session: Duration,
    /// Which messages of an interval share a packet; compared with [`Grouping::Unicast`].
    pub groupings: Vec<Grouping>,
    /// Intervals that are measured, after as many that are not.
    pub intervals: u32,
    /// Everything else; the seed is set for each run.
    pub world: WorldSettings,
}

/// A grouping's result.
#[derive(Clone, Debug, Serialize)]
pub struct D1htRow {
    /// The graphs' generator; none: a map that was read.
    pub model: Option<Model>,
    /// What the graphs are called.
    pub topology: String,
    /// Peers.
    pub peers: usize,
    /// How long peers stay, on average, in seconds.
    pub session_s: f64,
    /// Length of an interval, in seconds.
    pub theta_s: f64,
    /// Which messages share a packet.
    pub grouping: String,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Receivers of a peer's messages in an interval.
    pub messages: Estimate,
    /// What D1HT's analysis has for that.
    pub expected_messages: f64,
    /// Packets in which they leave.
    pub packets: Estimate,
    /// Kilobits a second that leave a peer, with headers and answers.
    pub kbit_per_s: Estimate,
    /// What is saved against the same events told by unicast.
    pub saved_percent: Savings,
}

/// One seed's result.
struct Sample {
    cost: Cost,
    /// Peers times intervals.
    turns: f64,
    seconds: f64,
    peers: usize,
}

impl D1ht {
    /// Runs it; a row for unicast, and one for each grouping.
    ///
    /// # Errors
    ///
    /// There is no graph.
    pub fn run(&self, mut progress: impl FnMut(u64, &str)) -> Result<Vec<D1htRow>, TopologyError> {
        let mut samples = |grouping: Grouping| {
            let seeds = self.seeds.iter().map(|seed| {
                progress(*seed, &name(grouping));
                self.sample(grouping, *seed)
            });
            seeds.collect::<Result<Vec<_>, _>>()
        };
        let unicast = samples(Grouping::Unicast)?;
        let mut rows = Vec::new();
        rows.extend(self.row(Grouping::Unicast, &unicast, &unicast));
        for grouping in &self.groupings {
            let samples = samples(*grouping)?;
            rows.extend(self.row(*grouping, &samples, &unicast));
        }
        Ok(rows)
    }

    fn theta(&self) -> Duration {
        theta(STALE, self.session, self.peers)
    }

    fn sample(&self, grouping: Grouping, seed: u64) -> Result<Sample, TopologyError> {
        let topology = self.source.topology(seed)?;
        let mut random = Random::for_purpose(seed, "nodes");
        let network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
            // A host for each, and one for whoever comes in its place: an address of its own.
            hosts: Hosts::random(&topology, 2 * self.peers, &mut random),
        };
        let settings = WorldSettings {
            seed,
            ..self.world.clone()
        };
        let mut world: World<'_, Peer> = World::new(network, settings);
        let family = world.family();
        let config = |host: HostId| Config {
            theta: Theta::Fixed(self.theta()),
            grouping,
            ..Config::new("simulated", address::of_host(host, family))
        };
        let mut contacts: Vec<Contact> = (0..self.peers as HostId)
            .map(|host| Contact::of(address::of_host(host, family)))
            .collect();
        contacts.sort_unstable_by_key(|contact| contact.position);
        let table: Arc<[Contact]> = contacts.into();
        let numbers = |host: HostId| runtime::Random::from_number(hash(&[seed, host.into()]));
        for host in 0..self.peers as HostId {
            let now = world.now();
            let peer = Peer::with_table(now, config(host), numbers(host), Arc::clone(&table));
            world.add(host, peer);
        }
        let mut churn = Random::for_purpose(seed, "churn");
        // Each place is taken by one of two hosts in turn.
        let mut second = vec![false; self.peers];
        let measured = self.theta() * self.intervals;
        let warm = world.time() + (measured.as_nanos() as u64);
        let end = warm + measured.as_nanos() as u64;
        let mut is_warm = false;
        // Leaves are a Poisson process, and each brings a join.
        let mean_ns = self.session.as_nanos() as f64 / self.peers as f64;
        loop {
            let pause = -(1.0 - churn.unit()).ln() * mean_ns;
            let next = world.time() + pause as u64;
            if !is_warm && next >= warm {
                world.run_until(warm);
                world.meter.reset();
                world.classify(Some(classes()));
                is_warm = true;
            }
            if next >= end {
                break;
            }
            world.run_until(next);
            let place = churn.below(self.peers);
            let (old, new) = hosts(self.peers, place, second[place]);
            second[place] = !second[place];
            world.kill(old);
            let by = loop {
                let other = churn.below(self.peers);
                if other != place {
                    break hosts(self.peers, other, second[other]).0;
                }
            };
            let again = hash(&[seed, world.time().0]);
            let peer = Peer::new(config(new), runtime::Random::from_number(again));
            world.add(new, peer);
            let by = address::of_host(by, family);
            world.act(new, |peer, now| peer.join(now, &[by]));
            while world.poll_event().is_some() {}
        }
        world.run_until(end);
        Ok(Sample {
            cost: Cost {
                requests: world.meter.tally(REQUEST),
                replies: world.meter.tally(REPLY),
            },
            turns: self.peers as f64 * f64::from(self.intervals),
            seconds: measured.as_secs_f64(),
            peers: self.peers,
        })
    }

    fn row(&self, grouping: Grouping, samples: &[Sample], unicast: &[Sample]) -> Option<D1htRow> {
        let estimate = |value: &dyn Fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        // The same events with the same seed: what they cost otherwise is the other run's, since
        // messages that share a packet have events in them that not all receivers need.
        let pairs = samples.iter().zip(unicast);
        let costs: Vec<Cost> = pairs
            .map(|(sample, unicast)| sample.cost.against(&unicast.cost))
            .collect();
        // Each leave brings a join.
        let theta = self.theta().as_secs_f64();
        let events = 2.0 * self.peers as f64 * theta / self.session.as_secs_f64();
        Some(D1htRow {
            model: self.source.model(),
            topology: self.source.name().to_owned(),
            peers: self.peers,
            session_s: self.session.as_secs_f64(),
            theta_s: theta,
            grouping: name(grouping),
            seeds: self.seeds.clone(),
            messages: estimate(&|sample| sample.cost.requests.receivers as f64 / sample.turns)?,
            expected_messages: expected_messages(self.peers, events),
            packets: estimate(&|sample| {
                sample.cost.requests.sent.up_packets as f64 / sample.turns
            })?,
            kbit_per_s: estimate(&|sample| {
                let up = sample.cost.requests.sent.up_octets + sample.cost.replies.sent.up_octets;
                up as f64 * 8.0 / 1000.0 / sample.seconds / sample.peers as f64
            })?,
            saved_percent: Savings::of(&costs)?,
        })
    }
}

/// The host that has a place, and the one that takes it next.
fn hosts(peers: usize, place: usize, second: bool) -> (HostId, HostId) {
    let (one, other) = (place as HostId, (peers + place) as HostId);
    if second { (other, one) } else { (one, other) }
}

fn name(grouping: Grouping) -> String {
    match grouping {
        Grouping::Unicast => "unicast".to_owned(),
        Grouping::One => "one packet".to_owned(),
        Grouping::Ends => "no more octets at the ends".to_owned(),
        Grouping::Octets { saved } => format!("fewer octets by m^-{saved}"),
    }
}

/// Tells EDRA's messages and their acknowledgements from the rest by their kind, which is in the fourth
/// octet (`xcast_overlay::wire`).
fn classes() -> Classify {
    Box::new(
        |_, _, payload| match payload.get(3).map(|octet| octet & 0xf) {
            Some(1) => REQUEST,
            Some(2) => REPLY,
            _ => 0,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::RandomRecursiveTree;

    #[test]
    fn messages_are_as_many_as_expected_and_sharing_saves_links() {
        let experiment = D1ht {
            source: Source::Generated(Model::RandomRecursiveTree(RandomRecursiveTree {
                routers: 200,
            })),
            seeds: vec![1],
            peers: 300,
            session: Duration::from_secs(60 * 60),
            groupings: vec![Grouping::One],
            intervals: 20,
            world: WorldSettings::full(0),
        };
        let rows = experiment.run(|_, _| {}).expect("it runs");
        let [unicast, one] = rows.as_slice() else {
            panic!("there are {} rows", rows.len());
        };
        let expected = unicast.expected_messages;
        // Repetitions, and joins that are told, come on top; few intervals are few events.
        let part = unicast.messages.mean / expected;
        assert!((0.8..1.3).contains(&part), "{unicast:?}");
        assert_eq!(unicast.saved_percent.links.mean, 0.0);
        assert!(one.saved_percent.links.mean > 0.0, "{one:?}");
        assert!(one.packets.mean < one.messages.mean, "{one:?}");
    }
}
