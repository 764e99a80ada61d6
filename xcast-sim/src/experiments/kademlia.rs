//! Look-ups of Kademlia, by its real nodes: what their rounds save as one packet each.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node, OperationId, Report},
    krpc::{self, Contact, Kind, Message, Query},
    runtime,
};

use super::{
    actor::Actor,
    fanouts::PlacedShare,
    formula::formula_percent,
    paths::{Paths, any},
    savings::{Cost, Difference, Savings},
    source::Source,
};
use crate::{
    address,
    fanout::{Deployment, Family, Network},
    random::{Random, hash},
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts, Model, TopologyError},
    world::{Classify, World, WorldSettings},
};

/// Pause between two nodes that join.
const JOIN_PAUSE: Duration = Duration::from_millis(50);
/// How long the last ones have.
const SETTLE: Duration = Duration::from_secs(20);
/// Pause between the starts of two look-ups.
const LOOKUP_PAUSE: Duration = Duration::from_millis(20);
/// A look-up has ended after this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many earlier nodes a node joins by.
const BOOTSTRAP: usize = 3;

/// The class of look-ups' requests.
const REQUEST: usize = 1;
/// The class of their replies.
const REPLY: usize = 2;

/// An experiment: nodes join on hosts at random routers, then nodes look up random identifiers. All
/// variants have the same nodes, and look up the same identifiers from the same nodes.
#[derive(Clone, Debug)]
pub struct Kademlia {
    /// Which graphs.
    pub source: Source,
    /// One graph and network of nodes for each.
    pub seeds: Vec<u64>,
    /// Nodes.
    pub nodes: usize,
    /// Look-ups in each variant.
    pub lookups: usize,
    /// Nodes in a bucket, and closest nodes that a look-up finds.
    pub k: usize,
    /// What is compared; the first is the baseline of the others.
    pub variants: Vec<LookupVariant>,
    /// What decides between equally short paths.
    pub ties: Ties,
    /// Everything else; the seed is set for each run.
    pub world: WorldSettings,
    /// Which routers speak Xcast, in place of what the world's settings say.
    pub deployment: Option<PlacedShare>,
    /// Of a hundred nodes, so many are malicious: they name each other only.
    pub malicious_percent: usize,
}

/// A way to look up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LookupVariant {
    /// What it is called.
    pub name: String,
    /// Requests in a round.
    pub alpha: usize,
    /// Who is asked first.
    pub rule: Rule,
}

/// Who is asked first, of those among the k closest that were not asked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The very closest by distance of identifiers.
    Closest,
    /// The closest, and those whose paths add fewest links to its path.
    PathOfClosest,
    /// Of the twice alpha closest, those whose paths have most links in common.
    SharedPath,
    /// Of the twice alpha closest, the nearest by hops.
    Nearest,
    /// Of the twice alpha closest, any.
    Random,
}

/// How far a run has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// So many nodes have joined.
    Joined(usize),
    /// So many look-ups of a variant have begun.
    LookedUp {
        /// Number of the variant, from 0.
        variant: usize,
        /// Look-ups.
        lookups: usize,
    },
}

/// A variant's result.
#[derive(Clone, Debug, Serialize)]
pub struct KademliaRow {
    /// The graphs' generator; none: a map that was read.
    pub model: Option<Model>,
    /// What the graphs are called.
    pub topology: String,
    /// Nodes.
    pub nodes: usize,
    /// Look-ups of each seed.
    pub lookups: usize,
    /// Closest nodes that are sought.
    pub k: usize,
    /// Which way to look up.
    pub variant: LookupVariant,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Of look-ups, how many found exactly the k closest nodes, in percent.
    pub exact_percent: Estimate,
    /// Rounds of a look-up.
    pub rounds: Estimate,
    /// Nodes that a look-up asks.
    pub asked: Estimate,
    /// Packets that a look-up's requests leave the asking node as.
    pub packets: Estimate,
    /// Mean time that a look-up takes, in milliseconds.
    pub took_ms: Estimate,
    /// Packets that found the queue before a link full, for each look-up: of everything that was under way.
    pub dropped: Estimate,
    /// Transmissions of a look-up's requests, on all links.
    pub links: Estimate,
    /// The same less the baseline's, in percent of the baseline's.
    pub links_difference_percent: Option<Estimate>,
    /// Of nodes that are asked, how many are malicious, in percent.
    pub malicious_asked_percent: Estimate,
    /// What the formula says of one packet to alpha nodes. An estimate, not a result.
    pub formula_links_percent: f64,
    /// What is saved against a datagram to each.
    pub saved_percent: Savings,
    /// The same less the baseline's, seed by seed; none for the baseline itself.
    pub difference: Option<Difference>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum KademliaError {
    /// There is no graph.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// There is nothing to measure.
    #[error("seeds, look-ups and variants have to be one or more each, and nodes two or more")]
    Nothing,
    /// More than have addresses.
    #[error("{0} nodes are more than the {most} that have addresses", most = address::MAX_HOSTS)]
    Nodes(usize),
}

/// One seed's result for one variant.
#[derive(Clone, Debug, Default)]
struct Sample {
    cost: Cost,
    exact: usize,
    ended: usize,
    rounds: u64,
    asked: u64,
    took: Duration,
    malicious_asked: u64,
    dropped: u64,
}

impl Kademlia {
    /// Runs it; a row for each variant.
    ///
    /// # Errors
    ///
    /// There is nothing to measure, or no graph.
    pub fn run(
        &self,
        mut progress: impl FnMut(u64, Stage),
    ) -> Result<Vec<KademliaRow>, KademliaError> {
        let samples = self.samples(&mut progress)?;
        Ok(self.rows(&samples))
    }

    /// Runs it, and another one with the same seeds and variants: rows in which savings are against what
    /// the other one cost, and the other one's own rows. Where packets are lost, what each message would
    /// have cost by unicast says nothing of what is sent again.
    ///
    /// # Errors
    ///
    /// There is nothing to measure, or no graph.
    pub fn run_against(
        &self,
        other: &Self,
        mut progress: impl FnMut(u64, Stage),
    ) -> Result<(Vec<KademliaRow>, Vec<KademliaRow>), KademliaError> {
        let mut samples = self.samples(&mut progress)?;
        let others = other.samples(&mut progress)?;
        for (seed, other) in samples.iter_mut().zip(&others) {
            for (sample, other) in seed.iter_mut().zip(other) {
                sample.cost = sample.cost.against(&other.cost);
            }
        }
        Ok((self.rows(&samples), other.rows(&others)))
    }

    fn samples(
        &self,
        progress: &mut impl FnMut(u64, Stage),
    ) -> Result<Vec<Vec<Sample>>, KademliaError> {
        if self.seeds.is_empty() || self.lookups == 0 || self.variants.is_empty() || self.nodes < 2
        {
            return Err(KademliaError::Nothing);
        }
        if self.nodes > address::MAX_HOSTS {
            return Err(KademliaError::Nodes(self.nodes));
        }
        let all = self.seeds.iter();
        all.map(|seed| self.sample(*seed, &mut |stage| progress(*seed, stage)))
            .collect()
    }

    fn rows(&self, samples: &[Vec<Sample>]) -> Vec<KademliaRow> {
        let variants = 0..self.variants.len();
        variants
            .filter_map(|variant| self.row(variant, samples))
            .collect()
    }

    /// One seed's sample for each variant.
    fn sample(
        &self,
        seed: u64,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Sample>, KademliaError> {
        let topology = self.source.topology(seed)?;
        let mut random = Random::for_purpose(seed, "nodes");
        let network = Network {
            routing: Routing::new(&topology.graph, self.ties, seed),
            hosts: Hosts::random(&topology, self.nodes, &mut random),
        };
        let mut settings = WorldSettings {
            seed,
            ..self.world.clone()
        };
        if let Some(placed) = self.deployment {
            let order = placed.placement.order(&topology, seed);
            settings.deployment = Deployment::first(&order, placed.share, placed.islands);
        }
        let mut world = World::new(network, settings);
        let malicious = self.malicious(seed);
        join(&mut world, self.k, &malicious, seed, &mut |nodes| {
            progress(Stage::Joined(nodes));
        });
        let mut samples = Vec::new();
        for (number, variant) in self.variants.iter().enumerate() {
            let progress = &mut |lookups| {
                progress(Stage::LookedUp {
                    variant: number,
                    lookups,
                });
            };
            samples.push(self.look_up(&mut world, variant, &malicious, seed, progress));
        }
        Ok(samples)
    }

    /// By host: whether it is malicious.
    fn malicious(&self, seed: u64) -> Vec<bool> {
        let mut random = Random::for_purpose(seed, "malicious");
        let chance = self.malicious_percent as f64 / 100.0;
        (0..self.nodes).map(|_| random.chance(chance)).collect()
    }

    fn look_up(
        &self,
        world: &mut World<'_, Actor>,
        variant: &LookupVariant,
        malicious: &[bool],
        seed: u64,
        progress: &mut dyn FnMut(usize),
    ) -> Sample {
        let mut random = Random::for_purpose(seed, "look-ups");
        let mut targets = runtime::Random::from_number(hash(&[seed, 1]));
        let asked = Rc::new(RefCell::new(Asked::default()));
        let wanted = Rc::clone(&asked);
        let classes = lookup_classes(wanted, malicious.to_vec());
        world.classify(Some(classes));
        world.meter.reset();
        let mut sample = Sample::default();
        let mut under_way: BTreeMap<(HostId, OperationId), Id> = BTreeMap::new();
        for number in 0..self.lookups {
            let host = random.below(self.nodes) as HostId;
            let target = Id::random(&mut targets);
            asked.borrow_mut().targets.insert(target);
            let choice = match variant.rule {
                Rule::Closest => None,
                Rule::PathOfClosest => Some(Paths::of(world.network(), host).of_first()),
                Rule::SharedPath => Some(Paths::of(world.network(), host).shared()),
                Rule::Nearest => Some(Paths::of(world.network(), host).nearest()),
                Rule::Random => Some(any(hash(&[seed, number as u64]))),
            };
            let operation = world.act(host, |Actor { node, .. }, now| {
                node.set_rounds(variant.alpha, choice);
                let operation = node.find_node(now, target);
                node.set_rounds(variant.alpha, None);
                operation
            });
            under_way.extend(operation.map(|operation| ((host, operation), target)));
            world.run_for(LOOKUP_PAUSE);
            self.take_reports(world, &mut under_way, &mut sample);
            progress(number + 1);
        }
        let end = world.time() + PATIENCE.as_nanos() as u64;
        while !under_way.is_empty() && world.step(end) {
            self.take_reports(world, &mut under_way, &mut sample);
        }
        // Late answers.
        world.run_for(Duration::from_secs(1));
        world.classify(None);
        sample.cost = Cost {
            requests: world.meter.tally(REQUEST),
            replies: world.meter.tally(REPLY),
        };
        sample.dropped = world.meter.dropped;
        sample.malicious_asked = asked.borrow().malicious;
        sample
    }

    fn take_reports(
        &self,
        world: &mut World<'_, Actor>,
        under_way: &mut BTreeMap<(HostId, OperationId), Id>,
        sample: &mut Sample,
    ) {
        while let Some((host, event)) = world.poll_event() {
            let Event::Finished { operation, report } = event else {
                continue;
            };
            if under_way.remove(&(host, operation)).is_some() {
                sample.take(&report, &closest(world, report.target, self.k, host));
            }
        }
    }

    fn row(&self, variant: usize, samples: &[Vec<Sample>]) -> Option<KademliaRow> {
        let of = |variant: usize| samples.iter().map(move |samples| &samples[variant]);
        let estimate = |value: fn(&Sample) -> f64| {
            let ended = |sample: &Sample| sample.ended.max(1) as f64;
            let values = of(variant).map(|sample| value(sample) / ended(sample));
            Estimate::of(&values.collect::<Vec<_>>())
        };
        let costs = |variant| of(variant).map(|sample| sample.cost).collect::<Vec<_>>();
        let links = |variant| of(variant).map(|sample| sample.cost.requests.sent.links as f64);
        let relative = links(variant)
            .zip(links(0))
            .map(|(links, baseline)| 100.0 * (links / baseline - 1.0));
        let malicious = of(variant).map(|sample| {
            let asked = sample.cost.requests.receivers.max(1);
            100.0 * sample.malicious_asked as f64 / asked as f64
        });
        let is_baseline = variant == 0;
        Some(KademliaRow {
            model: self.source.model(),
            topology: self.source.name().to_owned(),
            nodes: self.nodes,
            lookups: self.lookups,
            k: self.k,
            variant: self.variants[variant].clone(),
            seeds: self.seeds.clone(),
            exact_percent: estimate(|sample| 100.0 * sample.exact as f64)?,
            rounds: estimate(|sample| sample.rounds as f64)?,
            asked: estimate(|sample| sample.asked as f64)?,
            packets: estimate(|sample| sample.cost.requests.sent.up_packets as f64)?,
            took_ms: estimate(|sample| sample.took.as_secs_f64() * 1e3)?,
            dropped: estimate(|sample| sample.dropped as f64)?,
            links: estimate(|sample| sample.cost.requests.sent.links as f64)?,
            links_difference_percent: (!is_baseline)
                .then(|| Estimate::of(&relative.collect::<Vec<_>>()))
                .flatten(),
            malicious_asked_percent: Estimate::of(&malicious.collect::<Vec<_>>())?,
            formula_links_percent: formula_percent(self.variants[variant].alpha),
            saved_percent: Savings::of(&costs(variant))?,
            difference: if is_baseline {
                None
            } else {
                Some(Difference::of(&costs(variant), &costs(0))?)
            },
        })
    }
}

impl Sample {
    fn take(&mut self, report: &Report, closest: &[Id]) {
        self.ended += 1;
        self.took += report.took;
        for family in &report.families {
            let found = family.closest.iter().map(|contact| contact.id);
            self.exact += usize::from(found.eq(closest.iter().copied()));
            self.rounds += u64::from(family.rounds);
            self.asked += u64::from(family.asked);
        }
    }
}

/// Lets nodes join on the first hosts, one after the other, each by way of three earlier ones: one for
/// each entry of `malicious`, which says what kind it is. Afterwards they have had time to fill their
/// tables.
pub fn join(
    world: &mut World<'_, Actor>,
    k: usize,
    malicious: &[bool],
    seed: u64,
    progress: &mut dyn FnMut(usize),
) {
    let mut random = Random::for_purpose(seed, "bootstrap");
    let mut numbers = runtime::Random::from_number(hash(&[seed, 3]));
    let family = world.family();
    let contacts: Vec<Contact> = (0..malicious.len() as HostId)
        .map(|host| Contact {
            id: Id::random(&mut numbers),
            address: address::of_host(host, family),
        })
        .collect();
    let accomplices = contacts.iter().zip(malicious).filter(|(_, bad)| **bad);
    let accomplices: Rc<[Contact]> = accomplices.map(|(contact, _)| *contact).collect();
    for (host, (contact, bad)) in contacts.iter().zip(malicious).enumerate() {
        let mut config = config(family, k);
        config.id = Some(contact.id);
        for _ in 0..BOOTSTRAP.min(host) {
            let other = random.below(host) as HostId;
            config.bootstrap.push(address::of_host(other, family));
        }
        let numbers = runtime::Random::from_number(hash(&[seed, 2, host as u64]));
        let node = Node::new(world.now(), config, numbers);
        let actor = if *bad {
            Actor::malicious(node, Rc::clone(&accomplices), k)
        } else {
            Actor::honest(node)
        };
        world.add(host as HostId, actor);
        world.act(host as HostId, |actor, now| actor.node.join(now));
        world.run_for(JOIN_PAUSE);
        while world.poll_event().is_some() {}
        progress(host + 1);
    }
    world.run_for(SETTLE);
    while world.poll_event().is_some() {}
}

fn config(family: Family, k: usize) -> Config {
    let mut config = Config::own_network();
    config.table.k = k;
    config.families = vec![match family {
        Family::V4 => krpc::Family::Ipv4,
        Family::V6 => krpc::Family::Ipv6,
    }];
    // Half a kilobyte for each peer remembered is much, where there are ten thousand nodes.
    config.max_peers = 1024;
    config
}

/// The closest nodes to an identifier, without the one that looks for them.
fn closest(world: &World<'_, Actor>, target: Id, count: usize, but: HostId) -> Vec<Id> {
    let others = world.hosts().filter(|host| *host != but);
    let mut ids: Vec<Id> = others
        .filter_map(|host| Some(world.node(host)?.node.id()))
        .collect();
    if count < ids.len() {
        ids.select_nth_unstable_by_key(count, |id| id.distance(target));
        ids.truncate(count);
    }
    ids.sort_unstable_by_key(|id| id.distance(target));
    ids
}

/// What is being looked up, and asked.
#[derive(Debug, Default)]
struct Asked {
    targets: HashSet<Id>,
    transactions: HashSet<Bytes>,
    malicious: u64,
}

/// Tells requests of look-ups, class 1, and replies to them, class 2, from the rest, class 0.
fn lookup_classes(asked: Rc<RefCell<Asked>>, malicious: Vec<bool>) -> Classify {
    Box::new(move |_, to, payload| {
        let Ok(message) = Message::decode(payload) else {
            return 0;
        };
        let mut asked = asked.borrow_mut();
        match message.kind {
            Kind::Query {
                query: Query::FindNode { target, .. },
                ..
            } if asked.targets.contains(&target) => {
                asked.transactions.insert(message.transaction);
                let bad = to.iter().filter(|host| {
                    let malicious = malicious.get(**host as usize);
                    malicious.copied().unwrap_or_default()
                });
                asked.malicious += bad.count() as u64;
                REQUEST
            }
            Kind::Response { .. } if asked.transactions.contains(&message.transaction) => REPLY,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::RandomRecursiveTree;

    fn experiment(variants: Vec<LookupVariant>) -> Kademlia {
        Kademlia {
            source: Source::Generated(Model::RandomRecursiveTree(RandomRecursiveTree {
                routers: 120,
            })),
            seeds: vec![1, 2],
            nodes: 60,
            lookups: 40,
            k: 8,
            variants,
            ties: Ties::LinkCosts,
            world: WorldSettings::full(0),
            deployment: None,
            malicious_percent: 0,
        }
    }

    fn variant(alpha: usize, rule: Rule) -> LookupVariant {
        LookupVariant {
            name: format!("{alpha} {rule:?}"),
            alpha,
            rule,
        }
    }

    #[test]
    fn look_ups_find_the_closest_and_rounds_save() {
        let run = || {
            let both = vec![variant(3, Rule::Closest), variant(8, Rule::Closest)];
            let rows = experiment(both).run(|_, _| {}).expect("it runs");
            let text = serde_json::to_string(&rows).expect("rows have text keys");
            (rows, text)
        };
        let (rows, text) = run();
        let [narrow, wide] = rows.as_slice() else {
            panic!("there are {} rows", rows.len());
        };
        for row in &rows {
            assert!(row.exact_percent.mean >= 99.0, "{row:?}");
            let saved = row.saved_percent;
            assert!(
                saved.links.mean > 10.0 && saved.links_with_replies.mean > 5.0,
                "{row:?}"
            );
            assert!(saved.links_with_replies.mean < saved.links.mean);
            assert!(saved.first_link_out_packets.mean > 50.0, "{row:?}");
        }
        assert!(wide.saved_percent.links.mean > narrow.saved_percent.links.mean);
        assert!(wide.rounds.mean < narrow.rounds.mean);
        assert!(wide.difference.is_some() && narrow.difference.is_none());
        assert_eq!(run().1, text, "the same seed gives the same bytes");
    }

    #[test]
    fn without_routers_nothing_is_saved() {
        let mut none = experiment(vec![variant(3, Rule::Closest)]);
        none.seeds = vec![1];
        none.world.access = crate::world::Access::Unicast;
        let rows = none.run(|_, _| {}).expect("it runs");
        let saved = rows[0].saved_percent;
        assert_eq!(
            (saved.links.mean, saved.octets_with_replies.mean),
            (0.0, 0.0)
        );
    }

    /// Replies to a wide round come at once: behind a slow access link they wait, and find its queue full.
    #[test]
    fn slow_access_links_drop_what_comes_at_once() {
        let dropped = |rate: Option<u64>, queue_octets| {
            let mut one = experiment(vec![variant(8, Rule::Closest)]);
            one.world.access_links.bits_per_second = rate.and_then(std::num::NonZeroU64::new);
            one.world.access_links.queue_octets = queue_octets;
            let rows = one.run(|_, _| {}).expect("it runs");
            (rows[0].dropped.mean, rows[0].took_ms.mean)
        };
        let (none, soon) = dropped(None, 0);
        let (few, late) = dropped(Some(64_000), 1_000_000);
        let (many, _) = dropped(Some(64_000), 1_000);
        assert_eq!((none, few), (0.0, 0.0));
        assert!(late > 1.5 * soon, "{late} {soon}");
        assert!(many > 1.0, "{many}");
    }

    /// Who is asked first by shared path: nothing is found worse, and malicious nodes, which are where
    /// others are, are hardly asked more often.
    #[test]
    fn shared_paths_cost_neither_exactness_nor_safety() {
        let rules = [Rule::Closest, Rule::PathOfClosest, Rule::SharedPath];
        let run = |percent| {
            let variants = rules.map(|rule| variant(3, rule)).to_vec();
            let mut experiment = experiment(variants);
            (experiment.nodes, experiment.lookups, experiment.k) = (150, 100, 20);
            experiment.malicious_percent = percent;
            experiment.run(|_, _| {}).expect("it runs")
        };
        let all = run(0);
        for row in &all {
            println!(
                "{}: {:?} {:?} {:?}",
                row.variant.name, row.exact_percent, row.links, row.rounds
            );
            assert!(row.exact_percent.mean >= 99.0, "{row:?}");
        }
        // With the closest among them it is fewer links, and no more rounds; else there would be no reason.
        let [closest, first, _] = all.as_slice() else {
            panic!("{} rows", all.len());
        };
        assert!(first.links.mean < 0.97 * closest.links.mean, "{all:?}");
        assert!(first.rounds.mean < 1.01 * closest.rounds.mean, "{all:?}");
        let some = run(10);
        let [closest, others @ ..] = some.as_slice() else {
            panic!("no rows");
        };
        for row in others {
            let (more, usual) = (row.malicious_asked_percent, closest.malicious_asked_percent);
            println!("{}: {more:?}, {usual:?}", row.variant.name);
            assert!(more.mean < usual.mean + 2.0, "{more:?} {usual:?}");
        }
    }

    #[test]
    fn malicious_nodes_are_counted_where_they_are_asked() {
        let asked = |percent| {
            let mut some = experiment(vec![variant(3, Rule::Closest)]);
            some.malicious_percent = percent;
            let rows = some.run(|_, _| {}).expect("it runs");
            rows[0].malicious_asked_percent.mean
        };
        assert_eq!(asked(0), 0.0);
        let some = asked(30);
        assert!(some > 0.0 && some < 100.0, "{some}");
    }
}
