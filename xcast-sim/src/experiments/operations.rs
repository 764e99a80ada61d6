//! Every operation of Kademlia, by its real nodes: what its messages save as one packet each.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    kademlia::{Event, ManyReport, Node, OperationId, Report},
    krpc::{Item, Kind, Message, Query, signing_key},
    places::{Area, Place},
    runtime,
    services::{self, Entry, Service},
};

use super::{
    actor::Actor,
    kademlia::{KademliaError, join},
    savings::{Cost, Savings},
    source::Source,
};
use crate::{
    address,
    fanout::Network,
    random::{Random, hash},
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts},
    world::{Classify, World, WorldSettings},
};

/// Pause between the starts of two operations.
const PAUSE: Duration = Duration::from_millis(50);
/// An operation has ended after this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys that are looked up at once: those of a cell of a grid and its neighbours.
const KEYS: usize = 7;
/// Services around a place, of which there are as many as there have to be.
const AROUND: usize = 10;
/// Their type.
const MECHANISM: &str = "ldap";
/// How far around it is searched, in metres, and with how many cells: as on the testbed.
const AROUND_M: f64 = 2000.0;
const MOST_CELLS: usize = 16;
/// When entries of services expire, in seconds after the nodes have begun: nodes keep none longer than two hours.
const ENTRY_LIFE_S: i64 = 7000;
/// Of so many nodes one leaves.
const LEAVERS: usize = 10;

/// The class of requests.
const REQUEST: usize = 1;
/// The class of replies to them.
const REPLY: usize = 2;

/// What nodes are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Pings of as many random nodes as a round asks.
    Ping,
    /// The closest nodes to a random identifier.
    FindNode,
    /// To announce itself under a random identifier.
    Announce,
    /// Who has announced itself under such an identifier.
    GetPeers,
    /// To store an immutable item.
    PutImmutable,
    /// To find it.
    GetImmutable,
    /// To store a mutable item.
    PutMutable,
    /// To find it.
    GetMutable,
    /// The closest nodes to several identifiers at once.
    FindMany,
    /// To store a service under its type, cells, words and pieces of words.
    Publish,
    /// To find the services of a type around a place.
    FindServices,
    /// To find its neighbours, and nodes for each bucket.
    Join,
    /// To hand over what it stores.
    Leave,
}

impl Operation {
    /// All, in an order in which what is to be found is there.
    pub const ALL: [Self; 13] = [
        Self::Ping,
        Self::FindNode,
        Self::Announce,
        Self::GetPeers,
        Self::PutImmutable,
        Self::GetImmutable,
        Self::PutMutable,
        Self::GetMutable,
        Self::FindMany,
        Self::Publish,
        Self::FindServices,
        Self::Join,
        Self::Leave,
    ];

    /// Whether it is about several keys at once, which has a measure of its own in place of alpha.
    fn is_of_many(self) -> bool {
        matches!(self, Self::FindMany | Self::Publish | Self::FindServices)
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FindNode => "find_node",
            Self::Announce => "announce_peer",
            Self::GetPeers => "get_peers",
            Self::PutImmutable => "put, immutable",
            Self::GetImmutable => "get, immutable",
            Self::PutMutable => "put, mutable",
            Self::GetMutable => "get, mutable",
            Self::FindMany => "7 keys at once",
            Self::Publish => "publish a service",
            Self::FindServices => "find services",
            Self::Join => "join and refresh",
            Self::Leave => "leave",
        }
    }
}

/// An experiment: nodes join on hosts at random routers, then random nodes do one thing after another.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Which graphs.
    pub source: Source,
    /// One graph and network of nodes for each.
    pub seeds: Vec<u64>,
    /// Nodes.
    pub nodes: usize,
    /// How often each operation is done with each alpha.
    pub times: usize,
    /// Nodes in a bucket, and nodes that store.
    pub k: usize,
    /// Requests in a round.
    pub alphas: Vec<usize>,
    /// Everything else; the seed is set for each run.
    pub world: WorldSettings,
}

/// An operation's result.
#[derive(Clone, Debug, Serialize)]
pub struct OperationRow {
    /// What the graphs are called.
    pub topology: String,
    /// Which operation.
    pub operation: Operation,
    /// Requests in a round.
    pub alpha: usize,
    /// Nodes.
    pub nodes: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Of the operations that were begun, how many did what they were to do, in percent.
    pub right_percent: Estimate,
    /// Requests of an operation: a message to several is one for each.
    pub requests: Estimate,
    /// Packets that these leave the node as.
    pub packets: Estimate,
    /// What is saved against a datagram to each.
    pub saved_percent: Savings,
}

/// An operation, and how many requests its rounds have.
type Done = (Operation, usize);

/// One seed's result for one operation with one alpha.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    begun: usize,
    right: usize,
    cost: Cost,
}

/// What was stored, to be found later.
#[derive(Default)]
struct Stored {
    peers: Vec<Id>,
    immutable: Vec<Id>,
    mutable: Vec<Id>,
}

impl Operations {
    /// Runs it: a row for each operation and each alpha. `progress` is told the seed and what is done.
    ///
    /// # Errors
    ///
    /// There is nothing to measure, or no graph.
    pub fn run(
        &self,
        mut progress: impl FnMut(u64, &str),
    ) -> Result<Vec<OperationRow>, KademliaError> {
        if self.seeds.is_empty() || self.times == 0 || self.alphas.is_empty() || self.nodes < 2 {
            return Err(KademliaError::Nothing);
        }
        if self.nodes > address::MAX_HOSTS {
            return Err(KademliaError::Nodes(self.nodes));
        }
        let mut samples: BTreeMap<Done, Vec<Sample>> = BTreeMap::new();
        for seed in &self.seeds {
            for (what, sample) in self.seed(*seed, &mut |what| progress(*seed, what))? {
                samples.entry(what).or_default().push(sample);
            }
        }
        let row = |((operation, alpha), samples)| self.row(operation, alpha, samples);
        Ok(samples.into_iter().filter_map(row).collect())
    }

    fn row(
        &self,
        operation: Operation,
        alpha: usize,
        samples: Vec<Sample>,
    ) -> Option<OperationRow> {
        let estimate = |value: fn(&Sample) -> u64, scale: f64| {
            let each = |sample: &Sample| scale * value(sample) as f64 / sample.begun.max(1) as f64;
            Estimate::of(&samples.iter().map(each).collect::<Vec<_>>())
        };
        let costs: Vec<_> = samples.iter().map(|sample| sample.cost).collect();
        Some(OperationRow {
            topology: self.source.name().to_owned(),
            operation,
            alpha,
            nodes: self.nodes,
            seeds: self.seeds.clone(),
            right_percent: estimate(|sample| sample.right as u64, 100.0)?,
            requests: estimate(|sample| sample.cost.requests.receivers, 1.0)?,
            packets: estimate(|sample| sample.cost.requests.sent.up_packets, 1.0)?,
            saved_percent: Savings::of(&costs)?,
        })
    }

    fn seed(
        &self,
        seed: u64,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<(Done, Sample)>, KademliaError> {
        let topology = self.source.topology(seed)?;
        let mut random = Random::for_purpose(seed, "nodes");
        let network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
            hosts: Hosts::random(&topology, self.nodes, &mut random),
        };
        let settings = WorldSettings {
            seed,
            ..self.world.clone()
        };
        let mut world = World::new(network, settings);
        let honest = vec![false; self.nodes];
        join(&mut world, self.k, &honest, seed, &mut |nodes| {
            if nodes % 1000 == 0 {
                progress(&format!("{nodes} have joined"));
            }
        });
        let mut samples = Vec::new();
        let mut left = HashSet::new();
        for operation in Operation::ALL {
            let mut alphas = &self.alphas[..];
            if operation.is_of_many() {
                alphas = &alphas[..1];
            }
            for alpha in alphas {
                progress(&format!("{}, alpha {alpha}", operation.name()));
                let mut stored = Stored::default();
                let mut doing = Doing::new(seed, self.nodes, *alpha);
                doing.prepare(operation, self.times, &mut world, &mut stored);
                let sample = doing.all(operation, self.times, &mut world, &mut stored, &mut left);
                samples.push(((operation, *alpha), sample));
            }
        }
        Ok(samples)
    }
}

/// What a host has begun, and is to end.
struct Begun {
    /// None where its end is another event.
    left: BTreeSet<OperationId>,
    /// Whether all that has ended did what it was to do.
    right: bool,
}

/// What is under way, by host.
type UnderWay = BTreeMap<HostId, Begun>;

/// Operations of one kind, one after the other.
struct Doing {
    seed: u64,
    nodes: usize,
    alpha: usize,
    random: Random,
    ids: runtime::Random,
    asking: Rc<RefCell<Asking>>,
}

/// Whose requests are counted, and which were.
#[derive(Default)]
struct Asking {
    hosts: BTreeSet<HostId>,
    transactions: HashSet<Bytes>,
    pings: bool,
}

impl Doing {
    fn new(seed: u64, nodes: usize, alpha: usize) -> Self {
        Self {
            seed,
            nodes,
            alpha,
            random: Random::for_purpose(seed, "operations"),
            ids: runtime::Random::from_number(hash(&[seed, 4])),
            asking: Rc::default(),
        }
    }

    /// Has stored what the operation is to find, without counting it.
    fn prepare(
        &mut self,
        operation: Operation,
        times: usize,
        world: &mut World<'_, Actor>,
        stored: &mut Stored,
    ) {
        let first = match operation {
            Operation::GetPeers => Operation::Announce,
            Operation::GetImmutable | Operation::Leave => Operation::PutImmutable,
            Operation::GetMutable => Operation::PutMutable,
            Operation::FindServices => Operation::Publish,
            _ => return,
        };
        self.all(first, times, world, stored, &mut HashSet::new());
    }

    /// Does it so many times, and counts.
    fn all(
        &mut self,
        operation: Operation,
        times: usize,
        world: &mut World<'_, Actor>,
        stored: &mut Stored,
        left: &mut HashSet<HostId>,
    ) -> Sample {
        let times = match operation {
            Operation::Leave => times.min(self.nodes / LEAVERS).max(1),
            _ => times,
        };
        self.asking = Rc::default();
        self.asking.borrow_mut().pings = operation == Operation::Ping;
        world.classify(Some(classes(Rc::clone(&self.asking))));
        world.meter.reset();
        let mut sample = Sample::default();
        let mut under_way = UnderWay::new();
        for number in 0..times {
            let host = loop {
                let host = self.random.below(self.nodes) as HostId;
                if !under_way.contains_key(&host)
                    && (operation != Operation::Leave || left.insert(host))
                {
                    break host;
                }
            };
            self.asking.borrow_mut().hosts.insert(host);
            if let Some(left) = self.begin(operation, number, host, world, stored) {
                sample.begun += 1;
                under_way.insert(host, Begun { left, right: true });
            }
            world.run_for(PAUSE);
            self.take(operation, world, &mut under_way, &mut sample);
        }
        let end = world.time() + PATIENCE.as_nanos() as u64;
        while !under_way.is_empty() && world.step(end) {
            self.take(operation, world, &mut under_way, &mut sample);
        }
        // Late answers.
        world.run_for(Duration::from_secs(1));
        world.classify(None);
        sample.cost = Cost {
            requests: world.meter.tally(REQUEST),
            replies: world.meter.tally(REPLY),
        };
        sample
    }

    /// Begins one: what of it has to end, nothing where its end is another event; none if it cannot be done.
    fn begin(
        &mut self,
        operation: Operation,
        number: usize,
        host: HostId,
        world: &mut World<'_, Actor>,
        stored: &mut Stored,
    ) -> Option<BTreeSet<OperationId>> {
        let family = world.family();
        let target = Id::random(&mut self.ids);
        let others: Vec<_> = (0..self.alpha)
            .map(|_| {
                let other = self.random.below(self.nodes - 1) as HostId;
                let other = other + HostId::from(other >= host);
                address::of_host(other, family)
            })
            .collect();
        let keys: Vec<_> = (0..KEYS).map(|_| Id::random(&mut self.ids)).collect();
        let value = format!(
            "40:{:040}",
            hash(&[self.seed, self.alpha as u64, number as u64])
        );
        let found = |of: &[Id]| of.get(number).copied();
        let alpha = self.alpha;
        let mut act = |work: &mut dyn FnMut(&mut Node, std::time::Instant) -> Vec<OperationId>| {
            world.act(host, |Actor { node, .. }, now| {
                node.set_rounds(alpha, None);
                work(node, now)
            })
        };
        let begun = match operation {
            Operation::Ping => act(&mut |node, now| vec![node.ping_all(now, &others)]),
            Operation::FindNode => act(&mut |node, now| vec![node.find_node(now, target)]),
            Operation::Announce => {
                stored.peers.push(target);
                act(&mut |node, now| vec![node.announce(now, target, None)])
            }
            Operation::GetPeers => {
                let target = found(&stored.peers)?;
                act(&mut |node, now| vec![node.find_peers(now, target)])
            }
            Operation::PutImmutable | Operation::PutMutable => {
                let item = if operation == Operation::PutImmutable {
                    Item::immutable(value)
                } else {
                    let mut secret = [0; 32];
                    secret[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
                    secret[8..10].copy_from_slice(&(alpha as u16).to_be_bytes());
                    Item::sign(&signing_key(secret), Bytes::new(), 1, value)
                };
                match operation {
                    Operation::PutImmutable => stored.immutable.push(item.target()),
                    _ => stored.mutable.push(item.target()),
                }
                act(&mut |node, now| node.put(now, item.clone(), None).into_iter().collect())
            }
            Operation::GetImmutable => {
                let target = found(&stored.immutable)?;
                act(&mut |node, now| vec![node.find_item(now, target, Bytes::new())])
            }
            Operation::GetMutable => {
                let target = found(&stored.mutable)?;
                act(&mut |node, now| vec![node.find_item(now, target, Bytes::new())])
            }
            Operation::FindMany => act(&mut |node, now| vec![node.find_many(now, &keys)]),
            Operation::Publish => {
                let entry = entry(number)?;
                act(&mut |node, now| node.put_entry(now, &entry))
            }
            Operation::FindServices => {
                let keys = wanted(number)?;
                act(&mut |node, now| vec![node.find_entries(now, &keys)])
            }
            Operation::Join => act(&mut |node, now| {
                node.join(now);
                Vec::new()
            }),
            Operation::Leave => act(&mut |node, now| {
                node.leave(now);
                Vec::new()
            }),
        };
        Some(begun?.into_iter().collect())
    }

    /// Takes note of operations that have ended.
    fn take(
        &self,
        operation: Operation,
        world: &mut World<'_, Actor>,
        under_way: &mut UnderWay,
        sample: &mut Sample,
    ) {
        let is_idle = |host: &&HostId| world.node(**host).is_some_and(|actor| actor.node.is_idle());
        // Who leaves has left when it has nothing more to do.
        let idle: Vec<HostId> = match operation {
            Operation::Leave => under_way.keys().filter(is_idle).copied().collect(),
            _ => Vec::new(),
        };
        let mut ended = |host, id: Option<OperationId>, right| {
            let Some(begun) = under_way.get_mut(&host) else {
                return;
            };
            let is_awaited = match id {
                Some(id) => begun.left.remove(&id),
                None => begun.left.is_empty(),
            };
            if is_awaited {
                begun.right &= right;
                if begun.left.is_empty() {
                    sample.right += usize::from(begun.right);
                    under_way.remove(&host);
                    self.asking.borrow_mut().hosts.remove(&host);
                }
            }
        };
        while let Some((host, event)) = world.poll_event() {
            match event {
                Event::Finished {
                    operation: id,
                    report,
                } => ended(host, Some(id), is_right(operation, &report, self.alpha)),
                Event::FinishedMany {
                    operation: id,
                    report,
                } => ended(host, Some(id), is_right_of_many(operation, &report)),
                Event::Joined { nodes } => ended(host, None, nodes > 0),
                _ => {}
            }
        }
        for host in idle {
            ended(host, None, true);
        }
    }
}

/// A service, one of those around its place.
fn entry(number: usize) -> Option<Entry> {
    let mut secret = [1; 32];
    secret[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let service = Service {
        mechanism: MECHANISM.to_owned(),
        uri: format!("ldap://directory{number}.example.org"),
        attributes: BTreeMap::from([("name".to_owned(), "Staff directory".to_owned())]),
        place: Some(place(number)?),
    };
    Entry::sign(&signing_key(secret), service, 1, ENTRY_LIFE_S).ok()
}

/// The keys under which services around the place of this one are.
fn wanted(number: usize) -> Option<Vec<Id>> {
    let query = services::Query {
        mechanism: Some(MECHANISM.to_owned()),
        area: Some(Area::Circle {
            place: place(number)?,
            radius_m: AROUND_M,
        }),
        text: Vec::new(),
    };
    query.keys(MOST_CELLS).ok()
}

/// Where the services are that belong together: a degree from the next.
fn place(number: usize) -> Option<Place> {
    let group = number / AROUND;
    let (row, column) = (group / 180 % 100, group % 180);
    Place::new(row as f64 - 50.0, 2.0 * column as f64 - 180.0).ok()
}

/// Whether an operation did what it was to do.
fn is_right(operation: Operation, report: &Report, alpha: usize) -> bool {
    let mut families = report.families.iter();
    match operation {
        // Hosts are drawn with repetition.
        Operation::Ping => {
            families.all(|of| of.silent == 0 && (1..=alpha).contains(&(of.answered as usize)))
        }
        Operation::GetPeers => !report.peers.is_empty(),
        Operation::GetImmutable | Operation::GetMutable => report.item.is_some(),
        Operation::Announce | Operation::PutImmutable | Operation::PutMutable => {
            families.all(|of| of.stored as usize == of.closest.len())
        }
        _ => families.all(|of| !of.closest.is_empty()),
    }
}

/// The same of what is about several keys.
fn is_right_of_many(operation: Operation, report: &ManyReport) -> bool {
    match operation {
        Operation::Publish => report.stored > 0 && report.refused.is_empty(),
        Operation::FindServices => {
            let found = report.targets.values();
            found.flat_map(|of| &of.entries).next().is_some()
        }
        _ => report.targets.len() == KEYS && report.answered > 0,
    }
}

/// Tells requests of hosts that are asking, class 1, and replies to them, class 2, from the rest, class 0.
/// Pings count where they are the operation; others are upkeep.
fn classes(asking: Rc<RefCell<Asking>>) -> Classify {
    Box::new(move |from, _, payload| {
        let Ok(message) = Message::decode(payload) else {
            return 0;
        };
        let mut asking = asking.borrow_mut();
        match message.kind {
            Kind::Query { query, .. }
                if asking.hosts.contains(&from)
                    && (asking.pings || !matches!(query, Query::Ping)) =>
            {
                asking.transactions.insert(message.transaction);
                REQUEST
            }
            Kind::Response { .. } if asking.transactions.contains(&message.transaction) => REPLY,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Model, RandomRecursiveTree};

    fn rows(world: WorldSettings) -> Vec<OperationRow> {
        let experiment = Operations {
            source: Source::Generated(Model::RandomRecursiveTree(RandomRecursiveTree {
                routers: 120,
            })),
            seeds: vec![1, 2],
            nodes: 60,
            times: 20,
            k: 8,
            alphas: vec![3, 8],
            world,
        };
        experiment.run(|_, _| {}).expect("it runs")
    }

    /// Each does what it is for, and saves; what goes to k nodes saves more than what goes to three.
    #[test]
    fn every_operation_is_right_and_saves() {
        let rows = rows(WorldSettings::full(0));
        // Three have a measure of their own.
        assert_eq!(rows.len(), 2 * Operation::ALL.len() - 3);
        for row in &rows {
            let saved = row.saved_percent;
            assert!(row.right_percent.mean >= 97.0, "{row:?}");
            assert!(
                saved.links.mean > 5.0 && saved.links_with_replies.mean > 2.0,
                "{row:?}"
            );
            assert!(saved.links_with_replies.mean < saved.links.mean, "{row:?}");
            assert!(row.packets.mean < row.requests.mean, "{row:?}");
        }
        let ping = |alpha| {
            let row = rows
                .iter()
                .find(|row| row.operation == Operation::Ping && row.alpha == alpha);
            row.expect("a row").clone()
        };
        assert!(ping(8).saved_percent.links.mean > ping(3).saved_percent.links.mean);
        assert!((ping(3).packets.mean - 1.0).abs() < 0.01, "{:?}", ping(3));
    }

    #[test]
    fn without_routers_no_operation_saves() {
        let world = WorldSettings {
            access: crate::world::Access::Unicast,
            ..WorldSettings::full(0)
        };
        for row in rows(world) {
            let saved = row.saved_percent;
            assert_eq!(
                (saved.links.mean, saved.octets_with_replies.mean),
                (0.0, 0.0),
                "{row:?}"
            );
        }
    }
}
