//! Every operation by unicast, by Xcast, and by Xcast where every other router speaks it: are the
//! answers the same, and what crosses the links?

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    kademlia::{Event, Node, OperationId},
    krpc::{Item, signing_key},
};
use xtask::testbed::Deployment;

use crate::{
    bed::{Bed, Setup},
    client::{self, By, Client},
    links::{Counts, Meter},
    node::RunningNode,
    swarm::Swarm,
    table::{Table, percent, saving},
};

/// Octets of the values that are stored.
const VALUE_OCTETS: usize = 500;
/// Keys of a look-up for several.
const KEYS: usize = 7;
/// The port that is announced.
const ANNOUNCED_PORT: u16 = 4321;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Clients, each behind another edge router.
    pub clients: usize,
    /// Requests in a round.
    pub alphas: Vec<usize>,
    /// Which routers speak Xcast, in turn.
    pub deployments: Vec<Deployment>,
}

/// An operation of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A ping of alpha nodes.
    Ping,
    /// A look-up.
    FindNode,
    /// A look-up, and the item to the 20 closest nodes.
    PutImmutable,
    /// A look-up for it.
    GetImmutable,
    /// The same for an item with an author.
    PutMutable,
    /// A look-up for it.
    GetMutable,
    /// A look-up, and an announcement to the 20 closest nodes.
    Announce,
    /// A look-up for who has announced itself.
    GetPeers,
    /// A look-up for seven keys at once, as for a cell and those around it.
    GetMany,
    /// A look-up for each of these keys, all at the same time, as strangers have to be asked.
    GetPeersEach,
    /// A look-up for the own identifier, and one in each bucket.
    JoinAndRefresh,
}

impl Operation {
    /// All of them. What is looked for is stored before.
    pub const ALL: [Self; 11] = [
        Self::Ping,
        Self::FindNode,
        Self::PutImmutable,
        Self::GetImmutable,
        Self::PutMutable,
        Self::GetMutable,
        Self::Announce,
        Self::GetPeers,
        Self::GetMany,
        Self::GetPeersEach,
        Self::JoinAndRefresh,
    ];
}

/// What an operation found: what must not depend on how messages travel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The closest nodes that answered.
    pub closest: BTreeMap<Id, Vec<Id>>,
    /// Who has announced itself.
    pub peers: BTreeSet<SocketAddr>,
    /// The items that were found.
    pub items: Vec<Item>,
    /// Nodes that stored.
    pub stored: u32,
    /// Nodes in the table.
    pub nodes: usize,
}

/// What a client asks for: its own things.
#[derive(Clone, Debug)]
struct Things {
    target: Id,
    immutable: Item,
    mutable: Item,
    keys: Vec<Id>,
    asked: Vec<SocketAddr>,
}

impl Things {
    fn new(number: usize, alpha: usize, swarm: &Swarm) -> Self {
        let seed = [number as u8, alpha as u8];
        let key = |at: usize| Id::hash_of(&[&seed, &[at as u8]]);
        let value = format!(
            "{VALUE_OCTETS}:{:0>VALUE_OCTETS$}",
            format!("{number}.{alpha}")
        );
        let mut secret = [7; 32];
        secret[..2].copy_from_slice(&seed);
        let mut asked = swarm.addresses();
        fastrand::Rng::with_seed(number as u64).shuffle(&mut asked);
        asked.truncate(alpha);
        let immutable = Item::immutable(value.clone());
        let stored = [key(0), immutable.target()];
        Self {
            target: key(0),
            immutable,
            mutable: Item::sign(&signing_key(secret), "salt", 1, value),
            keys: stored
                .into_iter()
                .chain((1..).map(key))
                .take(KEYS)
                .collect(),
            asked,
        }
    }

    /// Begins an operation: what of it will end.
    fn begin(
        &self,
        operation: Operation,
        node: &mut Node,
        now: Instant,
    ) -> Result<BTreeSet<OperationId>> {
        let begun = match operation {
            Operation::Ping => node.ping_all(now, &self.asked),
            Operation::FindNode => node.find_node(now, self.target),
            Operation::PutImmutable => self.put(&self.immutable, node, now)?,
            Operation::GetImmutable => node.find_item(now, self.immutable.target(), ""),
            Operation::PutMutable => self.put(&self.mutable, node, now)?,
            Operation::GetMutable => node.find_item(now, self.mutable.target(), "salt"),
            Operation::Announce => node.announce(now, self.target, Some(ANNOUNCED_PORT)),
            Operation::GetPeers => node.find_peers(now, self.target),
            Operation::GetMany => node.find_many(now, &self.keys),
            Operation::GetPeersEach => {
                let keys = self.keys.iter();
                return Ok(keys.map(|key| node.find_peers(now, *key)).collect());
            }
            Operation::JoinAndRefresh => {
                node.join(now);
                // Its end has an event of its own.
                return Ok(BTreeSet::new());
            }
        };
        Ok(BTreeSet::from([begun]))
    }

    fn put(&self, item: &Item, node: &mut Node, now: Instant) -> Result<OperationId> {
        let put = node.put(now, item.clone(), None);
        put.map_err(|error| anyhow!("put: {error}"))
    }

    /// Does an operation, and waits for its end.
    fn perform(&self, operation: Operation, node: &RunningNode) -> Result<(Answer, Duration)> {
        let things = self.clone();
        let started = Instant::now();
        let mut begun = node.act(move |node, now| things.begin(operation, node, now))??;
        let mut answer = Answer::default();
        let mut end = |event| match event {
            Event::Joined { nodes } if operation == Operation::JoinAndRefresh => {
                answer.nodes = nodes;
                Some(())
            }
            Event::Finished {
                operation: of,
                report,
            } if begun.remove(&of) => {
                for family in report.families {
                    let ids = family.closest.iter().map(|contact| contact.id);
                    answer.closest.insert(report.target, ids.collect());
                    answer.stored += family.stored;
                }
                answer.peers.extend(report.peers);
                answer.items.extend(report.item);
                begun.is_empty().then_some(())
            }
            Event::FinishedMany {
                operation: of,
                report,
            } if begun.remove(&of) => {
                for (target, found) in report.targets {
                    let ids = found.closest.iter().map(|contact| contact.id);
                    answer.closest.insert(target, ids.collect());
                    answer.peers.extend(found.peers);
                    answer.items.extend(found.item);
                }
                begun.is_empty().then_some(())
            }
            _ => None,
        };
        node.wait(&mut end)
            .with_context(|| format!("{operation:?} does not end"))?;
        if operation == Operation::GetImmutable {
            // It ends with the first answer that has the item.
            answer.closest.clear();
        }
        Ok((answer, started.elapsed()))
    }
}

/// An operation under one deployment, all clients together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    /// What crossed the links.
    pub counts: Counts,
    /// Packets that the clients sent, by their own counting. It must be what crossed their links.
    pub sent: u64,
    /// Mean duration in milliseconds.
    pub mean_ms: f64,
    /// Clients whose answer was that of unicast.
    pub same_answers: usize,
}

/// An operation with one alpha.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The operation.
    pub operation: Operation,
    /// Requests in a round.
    pub alpha: usize,
    /// By unicast.
    pub unicast: Cost,
    /// By deployment.
    pub xcast: BTreeMap<String, Cost>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Nodes that were asked.
    pub nodes: usize,
    /// Who asked.
    pub clients: usize,
    /// Each operation.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, an operation does not end, or counters disagree.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let hosts = client::hosts(&bed, arguments.clients)?;
    let members: Vec<String> = bed
        .hosts()
        .into_iter()
        .filter(|host| !hosts.contains(host))
        .collect();
    let swarm = Swarm::join(&bed, &members)?;
    let mut clients = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        for &alpha in &arguments.alphas {
            let client = Client::join(&bed, &swarm, host, |config| config.alpha = alpha)?;
            clients.push((alpha, client, Things::new(number, alpha, &swarm)));
        }
    }
    // Whatever is looked for is there, and whoever is new is known, when counting begins.
    for (_, client, things) in &clients {
        let node = client.start(&bed, By::Unicast, false, Duration::ZERO)?;
        for operation in Operation::ALL {
            things.perform(operation, &node)?;
        }
        node.stop()?;
    }
    crate::links::wait_for_silence(&bed)?;

    let mut rows: Vec<Row> = Vec::new();
    for &alpha in &arguments.alphas {
        rows.extend(Operation::ALL.map(|operation| Row {
            operation,
            alpha,
            unicast: Cost::default(),
            xcast: BTreeMap::new(),
        }));
    }
    let mut expected = BTreeMap::new();
    for (number, (alpha, client, things)) in clients.iter().enumerate() {
        crate::progress(format!("by unicast: {} alpha {alpha}", client.host));
        for operation in Operation::ALL {
            let (answer, cost) = measure(&bed, client, things, operation, By::Unicast)?;
            let missed = missed(&answer, &swarm);
            if operation == Operation::FindNode && missed > 0 {
                crate::progress(format!("{missed} of the true closest nodes were not found"));
            }
            let row = of(&mut rows, *alpha, operation)?;
            expected.insert((number, operation), (answer, cost.counts.clone()));
            add(&mut row.unicast, cost, arguments.clients, true);
        }
    }
    for &deployment in &arguments.deployments {
        bed.deploy(deployment)?;
        for (number, (alpha, client, things)) in clients.iter().enumerate() {
            crate::progress(format!("xcast {deployment}: {} alpha {alpha}", client.host));
            // The router learns link-layer addresses of hosts that it never sent anything to.
            let node = client.start(&bed, By::Xcast, false, Duration::ZERO)?;
            let addresses = swarm.addresses();
            let ping = node.act(move |node, now| node.ping_all(now, &addresses))?;
            node.wait(|event| {
                matches!(event, Event::Finished { operation, .. } if operation == ping)
                    .then_some(())
            })?;
            node.stop()?;
            for operation in Operation::ALL {
                let (answer, mut cost) = measure(&bed, client, things, operation, By::Xcast)?;
                let known = expected.get(&(number, operation));
                let (known, by_unicast) = known.context("an operation that was not measured")?;
                cost.counts = cost.counts.with_replies_of(by_unicast);
                let same = *known == answer;
                if !same {
                    crate::progress(format!("{operation:?}: another answer than by unicast"));
                }
                let row = of(&mut rows, *alpha, operation)?;
                let sum = row.xcast.entry(deployment.to_string()).or_default();
                add(sum, cost, arguments.clients, same);
            }
        }
    }
    Ok(Outcome {
        nodes: swarm.len(),
        clients: arguments.clients,
        rows,
    })
}

fn of(rows: &mut [Row], alpha: usize, operation: Operation) -> Result<&mut Row> {
    let mut rows = rows.iter_mut();
    let row = rows.find(|row| row.alpha == alpha && row.operation == operation);
    row.context("no such row")
}

fn add(sum: &mut Cost, cost: Cost, clients: usize, same: bool) {
    sum.counts += cost.counts;
    sum.sent += cost.sent;
    sum.mean_ms += cost.mean_ms / clients as f64;
    sum.same_answers += usize::from(same);
}

/// One operation of one client, begun from the tables of when it joined.
fn measure(
    bed: &Bed,
    client: &Client,
    things: &Things,
    operation: Operation,
    by: By,
) -> Result<(Answer, Cost)> {
    let node = client.start(bed, by, false, Duration::ZERO)?;
    let meter = Meter::new(bed, &client.host);
    let ((answer, took), counts) = meter.count(|| things.perform(operation, &node))?;
    let (_, statistics) = node.stop()?;
    let sent = statistics.packets();
    ensure!(
        sent == counts.own_link,
        "{operation:?} of {}: the node sent {sent} packets, and {} crossed its link: {statistics}",
        client.host,
        counts.own_link
    );
    let cost = Cost {
        counts,
        sent,
        mean_ms: took.as_secs_f64() * 1000.0,
        same_answers: 0,
    };
    Ok((answer, cost))
}

/// The true closest nodes that a look-up has not found.
fn missed(answer: &Answer, swarm: &Swarm) -> usize {
    let missed = |(target, closest): (&Id, &Vec<Id>)| {
        let truth = swarm.closest(*target);
        truth.iter().filter(|id| !closest.contains(id)).count()
    };
    answer.closest.iter().map(missed).sum()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes, {} clients. Transmissions on links of all clients together; saved against unicast, in \
             turn: requests, with replies, octets.\nThe seed estimates 18 % of requests for alpha = 3, \
             42 % for alpha = 20 (1 - m^-0.18). Small networks save more than large ones.\n",
            self.nodes, self.clients
        )?;
        let mut table = Table::new([
            "operation",
            "alpha",
            "by",
            "same answers",
            "requests",
            "replies",
            "octets",
            "own link",
            "saved: requests",
            "with replies",
            "octets",
            "own link",
            "ms",
        ]);
        for row in &self.rows {
            let costs = row
                .xcast
                .iter()
                .map(|(name, cost)| (format!("xcast {name}"), cost));
            for (by, cost) in [("unicast".to_owned(), &row.unicast)]
                .into_iter()
                .chain(costs)
            {
                let (base, counts) = (&row.unicast.counts, &cost.counts);
                let saved = |of: fn(&Counts) -> u64| match by == "unicast" {
                    true => String::new(),
                    false => percent(saving(of(base), of(counts))),
                };
                table.row([
                    format!("{:?}", row.operation),
                    row.alpha.to_string(),
                    by.clone(),
                    format!("{} of {}", cost.same_answers, self.clients),
                    counts.requests.to_string(),
                    counts.replies.to_string(),
                    counts.octets.to_string(),
                    counts.own_link.to_string(),
                    saved(|counts| counts.requests),
                    saved(Counts::packets),
                    saved(|counts| counts.octets),
                    saved(|counts| counts.own_link),
                    format!("{:.1}", cost.mean_ms),
                ]);
            }
        }
        write!(f, "{table}")
    }
}
