//! What members of an overlay say to several others at once (WO 2007/030742, paragraphs 20 and 32), by
//! unicast and by Xcast: who is reached, and what crosses the links?

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    krpc::signing_key,
    members::{Event, Members, MembersConfig},
    net::Settings,
    runtime::Pace,
};
use xtask::testbed::Deployment;

use crate::{
    bed::{Bed, PATIENCE, Setup},
    links::{self, Counts, Meter},
    node::RunningNode,
    table::{Table, percent, saving},
};

const OVERLAY: &str = "bench";
const TOPIC: &[u8] = b"weather";
/// Octets of a state, and of what has happened.
const DATA_OCTETS: usize = 200;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It says to all that it is there; each of them asks it whether it is.
    Join,
    /// It tells all its state, and gets theirs.
    ExchangeState,
    /// It passes on the records of four members to all.
    PushTable,
    /// It tells all subscribers what has happened.
    Publish,
    /// It says to all that it leaves.
    Leave,
}

impl Operation {
    /// All of them, in the order in which a member does them.
    pub const ALL: [Self; 5] = [
        Self::Join,
        Self::ExchangeState,
        Self::PushTable,
        Self::Publish,
        Self::Leave,
    ];
}

/// An operation under one deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// What crossed the links.
    pub counts: Counts,
    /// Members that were reached, by what they themselves say.
    pub reached: usize,
}

/// An operation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The operation.
    pub operation: Operation,
    /// By unicast.
    pub unicast: Cost,
    /// By deployment.
    pub xcast: BTreeMap<String, Cost>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Members beside the one that acts.
    pub others: usize,
    /// Each operation.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or somebody is not reached.
pub fn run(setup: &Setup, deployments: &[Deployment]) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let hosts = bed.hosts();
    let (client, hosts) = hosts.split_first().context("a network without hosts")?;
    let mut others: Vec<RunningNode<Members>> = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let member = start(&bed, host, number as u8, Settings::default())?;
        let known: Vec<SocketAddr> = others.iter().map(RunningNode::address).collect();
        member.act(move |member, now| member.join(now, &known))?;
        others.push(member);
    }
    for member in &others {
        until("all others are known", || {
            let known = member.act(|member, _| member.present().count())?;
            Ok(known + 1 == others.len())
        })?;
    }
    links::wait_for_silence(&bed)?;
    crate::progress(format!("{} members know each other", others.len()));

    let mut rows: Vec<Row> = Vec::new();
    let mut turn = |bed: &Bed, number: u8, name: Option<String>| -> Result<()> {
        let settings = match name {
            None => Settings::default(),
            Some(_) => {
                let mut settings = Settings::new(bed.uplink(client)?);
                // Routers are trusted to be there, so that no probes are counted.
                settings.sender.probing = None;
                settings
            }
        };
        let member = start(bed, client, 100 + number, settings)?;
        for operation in Operation::ALL {
            let cost = measure(bed, client, &member, &others, operation)?;
            match &name {
                None => rows.push(Row {
                    operation,
                    unicast: cost,
                    xcast: BTreeMap::new(),
                }),
                Some(name) => {
                    let mut rows = rows.iter_mut();
                    let row = rows.find(|row| row.operation == operation);
                    let row = row.context("an operation that was not measured")?;
                    let mut cost = cost;
                    cost.counts = cost.counts.with_replies_of(&row.unicast.counts);
                    row.xcast.insert(name.clone(), cost);
                }
            }
        }
        member.stop().map(drop)
    };
    turn(&bed, 0, None)?;
    for (number, &deployment) in (1..).zip(deployments) {
        bed.deploy(deployment)?;
        crate::progress(format!("xcast {deployment}"));
        // The routers learn link-layer addresses of hosts that they never sent anything to.
        turn(&bed, 10 + number, Some("warming".to_owned())).context("warming")?;
        turn(&bed, number, Some(deployment.to_string()))?;
    }
    for row in &mut rows {
        row.xcast.remove("warming");
    }
    Ok(Outcome {
        others: others.len(),
        rows,
    })
}

fn start(bed: &Bed, host: &str, key: u8, settings: Settings) -> Result<RunningNode<Members>> {
    let address = bed.node_address(host)?;
    let mut config = MembersConfig::new(OVERLAY, signing_key([key; 32]), vec![address]);
    // Nobody says anything unasked while something is counted.
    config.gossip_interval = Duration::from_secs(24 * 3600);
    config.pace = Pace::new(10_000, Duration::from_micros(100));
    RunningNode::start(bed.namespace(host)?, address, settings, |_, random| {
        Members::new(config, random)
    })
}

/// One operation of a member: what it costs, and who says that it reached them.
fn measure(
    bed: &Bed,
    host: &str,
    member: &RunningNode<Members>,
    others: &[RunningNode<Members>],
    operation: Operation,
) -> Result<Cost> {
    let id = member.act(|member, _| member.id())?;
    if operation == Operation::Publish {
        for other in others {
            other.act(move |other, now| other.subscribe(now, id, TOPIC, true))?;
        }
        links::wait_for_silence(bed)?;
    }
    let addresses: Vec<SocketAddr> = others.iter().map(RunningNode::address).collect();
    let meter = Meter::new(bed, host);
    let (reached, counts) = meter.count(|| {
        member.act(move |member, now| {
            let all: Vec<Id> = member.present().collect();
            match operation {
                Operation::Join => member.join(now, &addresses),
                Operation::ExchangeState => member.exchange_state(now, &all, vec![7; DATA_OCTETS]),
                Operation::PushTable => member.push_table(now, &all, &all[..all.len().min(4)]),
                Operation::Publish => drop(member.publish(now, TOPIC, vec![7; DATA_OCTETS])),
                Operation::Leave => member.leave(now),
            }
        })?;
        let mut reached = 0;
        for other in others {
            if operation != Operation::PushTable {
                other.wait(|event| says(&event, operation, id).then_some(()))?;
            }
            reached += 1;
        }
        // Those who are asked back have answered when the member knows all of them.
        if operation == Operation::Join {
            until("the member knows all others", || {
                let known = member.act(|member, _| member.present().count())?;
                Ok(known == others.len())
            })?;
            thread_pause();
        }
        Ok(reached)
    })?;
    // Who joins is told things by members that it does not know yet; but nobody says anything wrong.
    let rejected = member.act(|member, _| member.rejected())?;
    ensure!(
        (rejected.malformed, rejected.forged, rejected.full) == (0, 0, 0),
        "{operation:?}: {rejected:?}"
    );
    Ok(Cost { counts, reached })
}

/// Whether this is what a member tells its owner when the operation of another one has reached it.
fn says(event: &Event, operation: Operation, of: Id) -> bool {
    match (operation, event) {
        (Operation::Join, Event::Joined { id, .. })
        | (Operation::ExchangeState, Event::State { id, .. })
        | (Operation::Leave, Event::Left { id }) => *id == of,
        (Operation::Publish, Event::Notified { publisher, .. }) => *publisher == of,
        _ => false,
    }
}

/// New members are asked a little later whether they are there, by one packet.
fn thread_pause() {
    std::thread::sleep(Duration::from_millis(1000));
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A member says something to {} others. Transmissions on links; saved against unicast, in turn: \
             requests, with replies, octets.\n",
            self.others
        )?;
        let mut table = Table::new([
            "operation",
            "by",
            "reached",
            "requests",
            "replies",
            "octets",
            "own link",
            "saved: requests",
            "with replies",
            "octets",
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
                    by.clone(),
                    format!("{} of {}", cost.reached, self.others),
                    counts.requests.to_string(),
                    counts.replies.to_string(),
                    counts.octets.to_string(),
                    counts.own_link.to_string(),
                    saved(|counts| counts.requests),
                    saved(Counts::packets),
                    saved(|counts| counts.octets),
                ]);
            }
        }
        write!(f, "{table}")
    }
}
