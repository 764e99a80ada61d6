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
    bed::{Bed, PATIENCE, PORT, Setup},
    client::By,
    links::{self, Counts, Meter},
    node::RunningNode,
    table::{Table, percent, saving},
};

const OVERLAY: &str = "bench";
/// Members are beside nodes of the DHT.
const MEMBER_PORT: u16 = PORT + 1;
const TOPIC: &[u8] = b"weather";
/// Octets of a state, and of what has happened.
const DATA_OCTETS: usize = 200;
/// Members whose records are passed on: so many are one message.
const PASSED_ON: usize = 4;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It says to all that it is there; each of them asks it whether it is.
    Join,
    /// It tells all its state, and gets theirs.
    ExchangeState,
    /// It passes on the records of four members to all, each newer than what they have.
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

impl Outcome {
    /// Where fewer or more were reached than by unicast.
    pub fn differences(&self) -> Vec<String> {
        let differ = |row: &Row| {
            let of = |(name, cost): (&String, &Cost)| {
                let (reached, expected) = (cost.reached, row.unicast.reached);
                let what = row.operation;
                (reached != expected).then(|| {
                    format!(
                        "members, {what:?}, xcast {name}: {reached} reached, by unicast {expected}"
                    )
                })
            };
            row.xcast.iter().filter_map(of).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(differ).collect()
    }
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or somebody is not reached.
pub fn run(setup: &Setup, deployments: &[Deployment]) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let mut group = Group::join(&bed, &bed.hosts())?;
    group.by_unicast(&bed)?;
    for &deployment in deployments {
        bed.deploy(deployment)?;
        group.by_xcast(&bed)?;
    }
    Ok(group.outcome())
}

/// Members that know each other. One more, new each time, says everything to all of them.
#[derive(Debug)]
pub struct Group {
    client: String,
    others: Vec<RunningNode<Members>>,
    /// How many have been new.
    turns: u8,
    rows: Vec<Row>,
}

impl Group {
    /// Members on all of these hosts but the first.
    ///
    /// # Errors
    ///
    /// One cannot start, or does not get to know the others.
    pub fn join(bed: &Bed, hosts: &[String]) -> Result<Self> {
        let (client, hosts) = hosts.split_first().context("a network without hosts")?;
        let mut others: Vec<RunningNode<Members>> = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let member = start(bed, host, number as u8, Settings::default())?;
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
        links::wait_for_silence(bed)?;
        crate::progress(format!("{} members know each other", others.len()));
        Ok(Self {
            client: client.clone(),
            others,
            turns: 0,
            rows: Vec::new(),
        })
    }

    /// Measures every operation by unicast: what others are held against.
    ///
    /// # Errors
    ///
    /// Somebody is not reached.
    pub fn by_unicast(&mut self, bed: &Bed) -> Result<()> {
        let costs = self.turn(bed, By::Unicast)?;
        let row = |(operation, unicast)| Row {
            operation,
            unicast,
            xcast: BTreeMap::new(),
        };
        self.rows = costs.into_iter().map(row).collect();
        Ok(())
    }

    /// Measures every operation by the routers that speak Xcast now.
    ///
    /// # Errors
    ///
    /// Somebody is not reached.
    pub fn by_xcast(&mut self, bed: &Bed) -> Result<()> {
        crate::progress(format!("members: xcast {}", bed.deployment()));
        // The routers learn link-layer addresses of hosts that they never sent anything to.
        self.turn(bed, By::Xcast).context("warming")?;
        let costs = self.turn(bed, By::Xcast)?;
        for (row, (_, mut cost)) in self.rows.iter_mut().zip(costs) {
            cost.counts = cost.counts.with_replies_of(&row.unicast.counts);
            row.xcast.insert(bed.deployment().to_string(), cost);
        }
        Ok(())
    }

    /// What came of it.
    pub fn outcome(self) -> Outcome {
        Outcome {
            others: self.others.len(),
            rows: self.rows,
        }
    }

    /// A member that nobody knows does everything.
    fn turn(&mut self, bed: &Bed, by: By) -> Result<Vec<(Operation, Cost)>> {
        let settings = match by {
            By::Unicast => Settings::default(),
            By::Xcast => {
                let mut settings = Settings::new(bed.uplink(&self.client)?);
                // Routers are trusted to be there, so that no probes are counted.
                settings.sender.probing = None;
                settings
            }
        };
        let member = start(bed, &self.client, 100 + self.turns, settings)?;
        self.turns += 1;
        let cost = |operation| {
            let cost = measure(bed, &self.client, &member, &self.others, operation)?;
            Ok((operation, cost))
        };
        let costs: Result<Vec<_>> = Operation::ALL.into_iter().map(cost).collect();
        member.stop()?;
        costs
    }
}

fn start(bed: &Bed, host: &str, key: u8, settings: Settings) -> Result<RunningNode<Members>> {
    let address = SocketAddr::new(bed.address(host)?, MEMBER_PORT);
    let mut config = MembersConfig::new(OVERLAY, signing_key([key; 32]), vec![address]);
    // Nobody says anything unasked while something is counted.
    config.gossip_interval = Duration::from_secs(24 * 3600);
    config.pace = Pace::new(10_000, Duration::from_micros(100));
    // Nothing is lost here: who is late on a busy machine is not asked again, which would be counted.
    config.policy.min_timeout = Duration::from_secs(3);
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
    let mut news = Vec::new();
    match operation {
        Operation::Publish => {
            for other in others {
                other.act(move |other, now| other.subscribe(now, id, TOPIC, true))?;
            }
            links::wait_for_silence(bed)?;
        }
        // Some tell this member alone that they are still there: the others hear of it by the table.
        Operation::PushTable => {
            for other in others.iter().take(PASSED_ON) {
                news.push(renew(other, member)?);
            }
            links::wait_for_silence(bed)?;
        }
        _ => {}
    }
    let addresses: Vec<SocketAddr> = others.iter().map(RunningNode::address).collect();
    let passed_on: Vec<Id> = news.iter().map(|(id, _)| *id).collect();
    let meter = Meter::new(bed, host);
    let (reached, counts) = meter.count(|| {
        member.act(move |member, now| {
            let all: Vec<Id> = member.present().collect();
            match operation {
                Operation::Join => member.join(now, &addresses),
                Operation::ExchangeState => member.exchange_state(now, &all, vec![7; DATA_OCTETS]),
                Operation::PushTable => member.push_table(now, &all, &passed_on),
                Operation::Publish => drop(member.publish(now, TOPIC, vec![7; DATA_OCTETS])),
                Operation::Leave => member.leave(now),
            }
        })?;
        let mut reached = 0;
        for other in others {
            match operation {
                Operation::PushTable => until("the records are known", || knows(other, &news))?,
                _ => other.wait(|event| says(&event, operation, id).then_some(()))?,
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

/// A member signs its record anew, for this other one: who it is, and the record's number.
fn renew(of: &RunningNode<Members>, to: &RunningNode<Members>) -> Result<(Id, i64)> {
    let (id, address) = (of.act(|of, _| of.id())?, to.address());
    let seq = move |to: &Members| to.record(&id).map_or(0, |record| record.seq);
    let before = to.act(move |to, _| seq(to))?;
    of.act(move |of, now| of.join(now, &[address]))?;
    let mut now = before;
    until("the new record is known", || {
        now = to.act(move |to, _| seq(to))?;
        Ok(now > before)
    })?;
    Ok((id, now))
}

/// Whether a member has these records of others.
fn knows(member: &RunningNode<Members>, news: &[(Id, i64)]) -> Result<bool> {
    let news = news.to_vec();
    member.act(move |member, _| {
        let mut of_others = news.iter().filter(|(id, _)| *id != member.id());
        of_others.all(|(id, seq)| member.record(id).is_some_and(|known| known.seq == *seq))
    })
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
