//! D1HT under churn, by its real peers: what the messages of EDRA save.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;
use xcast_overlay::{
    d1ht::{Config, Counters, Grouping, Peer, Theta, expected_messages, theta},
    ring::Contact,
    runtime,
};

use super::{
    savings::{Cost, Savings},
    source::Source,
};
use crate::{
    address,
    events::Time,
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
    /// Whether peers have tables of their own, of n entries each, or share one.
    pub own_tables: bool,
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
    /// Whether peers had tables of their own, of n entries each.
    pub own_tables: bool,
    /// Table entries that differ from who is there, in percent.
    pub stale_percent: Estimate,
    /// Octets of the interval in which they were most, in percent of those by unicast in it: on the links
    /// of senders and receivers, which is what groupings go by.
    pub worst_ends_percent: f64,
    /// The same on all links, acknowledgements included.
    pub worst_links_percent: f64,
}

/// One seed's result.
struct Sample {
    cost: Cost,
    /// For each interval: octets on all links, at both ends, and what unicast would have at the ends.
    intervals: Vec<[u64; 3]>,
    stale_percent: f64,
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
            let table = if self.own_tables {
                table.to_vec().into()
            } else {
                Arc::clone(&table)
            };
            let peer = Peer::with_table(now, config(host), numbers(host), table);
            world.add(host, peer);
        }
        let theta_ns = self.theta().as_nanos() as u64;
        let warm = world.time() + theta_ns * u64::from(self.intervals);
        let mut churn = Churn::new(seed, self.peers, self.session);
        let mut gone = Counters::default();
        let mut intervals = Vec::new();
        let mut before = [0; 3];
        // The first boundary ends the warm-up.
        for number in 0..=u64::from(self.intervals) {
            let boundary = warm + number * theta_ns;
            while let Some(change) = churn.until(boundary) {
                world.run_until(change.at);
                if let Some(peer) = world.node(change.leaves) {
                    add(&mut gone, peer.counters());
                }
                world.kill(change.leaves);
                let again = hash(&[seed, change.at.0]);
                let numbers = runtime::Random::from_number(again);
                world.add(change.joins, Peer::new(config(change.joins), numbers));
                let by = address::of_host(change.by, family);
                world.act(change.joins, |peer, now| peer.join(now, &[by]));
                while world.poll_event().is_some() {}
            }
            world.run_until(boundary);
            while world.poll_event().is_some() {}
            if number == 0 {
                world.meter.reset();
                world.classify(Some(classes()));
            }
            let links = [REQUEST, REPLY].map(|class| world.meter.tally(class).sent.octets);
            let mut ends = gone;
            for host in world.hosts() {
                if let Some(peer) = world.node(host) {
                    add(&mut ends, peer.counters());
                }
            }
            let now = [links.iter().sum(), ends.octets, ends.unicast_octets];
            if number > 0 {
                intervals.push(std::array::from_fn(|at| now[at] - before[at]));
            }
            before = now;
        }
        Ok(Sample {
            cost: Cost {
                requests: world.meter.tally(REQUEST),
                replies: world.meter.tally(REPLY),
            },
            intervals,
            stale_percent: stale_percent(&world),
            turns: self.peers as f64 * f64::from(self.intervals),
            seconds: (self.theta() * self.intervals).as_secs_f64(),
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
            own_tables: self.own_tables,
            stale_percent: estimate(&|sample| sample.stale_percent)?,
            worst_ends_percent: worst(samples.iter().flat_map(|sample| {
                sample
                    .intervals
                    .iter()
                    .map(|[_, ends, unicast]| [*ends, *unicast])
            })),
            worst_links_percent: worst(samples.iter().zip(unicast).flat_map(
                |(sample, unicast)| {
                    let pairs = sample.intervals.iter().zip(&unicast.intervals);
                    pairs.map(|(one, other)| [one[0], other[0]])
                },
            )),
        })
    }
}

/// The largest share, in percent; 100 of none.
fn worst(shares: impl Iterator<Item = [u64; 2]>) -> f64 {
    let percents = shares.map(|[part, whole]| 100.0 * part as f64 / whole.max(1) as f64);
    percents.reduce(f64::max).unwrap_or(100.0)
}

fn add(sum: &mut Counters, more: Counters) {
    sum.octets += more.octets;
    sum.unicast_octets += more.unicast_octets;
}

/// How many entries of tables differ from who is there, in percent of entries; of a hundred peers.
fn stale_percent(world: &World<'_, Peer>) -> f64 {
    let members: Vec<HostId> = world
        .hosts()
        .filter(|host| world.node(*host).is_some_and(Peer::is_member))
        .collect();
    let living: BTreeSet<_> = members
        .iter()
        .filter_map(|host| world.node(*host))
        .map(|peer| peer.contact().position)
        .collect();
    let some = members.iter().step_by((members.len() / 100).max(1));
    let (mut entries, mut wrong) = (0, 0);
    for peer in some.filter_map(|host| world.node(*host)) {
        let table: BTreeSet<_> = peer
            .table()
            .from(peer.contact().position)
            .map(|contact| contact.position)
            .collect();
        entries += living.len();
        wrong += table.symmetric_difference(&living).count();
    }
    100.0 * wrong as f64 / entries.max(1) as f64
}

/// Who leaves and who joins in its place: a Poisson process.
pub(super) struct Churn {
    random: Random,
    mean_ns: f64,
    peers: usize,
    /// Each place is taken by one of two hosts in turn.
    second: Vec<bool>,
    next: Time,
}

/// A peer leaves without a word, and another joins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub at: Time,
    pub leaves: HostId,
    pub joins: HostId,
    /// Whom it asks to join.
    pub by: HostId,
}

impl Churn {
    /// Of so many places, whose peers stay for so long, on average.
    pub fn new(seed: u64, peers: usize, session: Duration) -> Self {
        let mut churn = Self {
            random: Random::for_purpose(seed, "churn"),
            mean_ns: session.as_nanos() as f64 / peers as f64,
            peers,
            second: vec![false; peers],
            next: Time::default(),
        };
        churn.next = churn.pause();
        churn
    }

    fn pause(&mut self) -> Time {
        let pause = -(1.0 - self.random.unit()).ln() * self.mean_ns;
        self.next + pause as u64
    }

    /// The next change before this time, if there is one.
    pub fn until(&mut self, end: Time) -> Option<Change> {
        let at = self.next;
        if at >= end {
            return None;
        }
        self.next = self.pause();
        let place = self.random.below(self.peers);
        let (leaves, joins) = hosts(self.peers, place, self.second[place]);
        self.second[place] = !self.second[place];
        let by = loop {
            let other = self.random.below(self.peers);
            if other != place {
                break hosts(self.peers, other, self.second[other]).0;
            }
        };
        Some(Change {
            at,
            leaves,
            joins,
            by,
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
            groupings: vec![Grouping::One, Grouping::Ends],
            intervals: 20,
            own_tables: true,
            world: WorldSettings::full(0),
        };
        let rows = experiment.run(|_, _| {}).expect("it runs");
        let [unicast, one, ends] = rows.as_slice() else {
            panic!("there are {} rows", rows.len());
        };
        let expected = unicast.expected_messages;
        // Repetitions, and joins that are told, come on top; few intervals are few events.
        let part = unicast.messages.mean / expected;
        assert!((0.8..1.3).contains(&part), "{unicast:?}");
        assert_eq!(unicast.saved_percent.links.mean, 0.0);
        assert!(one.saved_percent.links.mean > 0.0, "{one:?}");
        assert!(one.packets.mean < one.messages.mean, "{one:?}");
        // In no interval have the links of senders and receivers more octets than by unicast.
        assert!(ends.worst_ends_percent <= 100.0, "{ends:?}");
        assert!(
            rows.iter().all(|row| row.stale_percent.mean < 2.0),
            "{rows:?}"
        );
    }
}
