//! A multicast tree of real members: what its stream costs on each link by unicast, by Xcast, and where
//! every other router speaks it; and what becomes of the stream when inner members die.
//!
//! For each of these, members join and form a tree as they like, get a stream, and lose inner members
//! meanwhile. Then all take the places that they had in the first tree and say nothing by themselves, so
//! that what crosses the links is the stream and nothing else, by the same tree each time.

mod grove;

use std::{collections::BTreeMap, fmt, sync::mpsc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use xtask::testbed::Deployment;

pub use self::grove::Delivered;
use self::grove::{Grove, Manner, Shape};
use crate::{
    bed::{Bed, Setup},
    links, replayed,
    table::{Table, percent, saving},
};

/// Pause between messages while members die: the stream is to last longer than a parent may be silent.
const PAUSE: Duration = Duration::from_millis(25);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Messages of the stream whose packets are counted.
    pub messages: usize,
    /// Their length in octets.
    pub payload: usize,
    /// Most children of a member.
    pub degree: usize,
    /// Messages of the stream while members die.
    pub live_messages: usize,
    /// Inner members that die at once.
    pub killed: usize,
    /// Which routers speak Xcast, in turn; with none, all is unicast.
    pub deployments: Vec<Deployment>,
}

/// What the same stream cost, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which routers speak Xcast.
    pub xcast: String,
    /// How many they are.
    pub routers: usize,
    /// How many members there were at each depth when they had joined by themselves.
    pub depths: Vec<usize>,
    /// Inner members that died.
    pub killed: usize,
    /// The stream at those that lived on.
    pub survivors: Delivered,
    /// The counted stream.
    pub stream: Delivered,
    /// Its packets on all links together.
    pub packets: u64,
    /// Its octets there, from the Ethernet header on.
    pub octets: u64,
    /// Its packets on the source's own link.
    pub own_link: u64,
    /// Its packets on the link that most crossed.
    pub busiest_link: u64,
    /// Links on which the simulator says otherwise, in words.
    pub differ: Vec<String>,
    /// Its packets by link.
    pub links: BTreeMap<String, u64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Members, with the source.
    pub members: usize,
    /// Most children of a member.
    pub degree: usize,
    /// Length of messages in octets.
    pub payload: usize,
    /// How many members there are at each depth of the tree that was counted.
    pub depths: Vec<usize>,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, a member finds no parent, or waits for ever.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let mut counted: Option<Shape> = None;
    let mut rows = Vec::new();
    for deployment in &arguments.deployments {
        bed.deploy(*deployment)?;
        links::warm_up(&bed)?;
        let (depths, survivors, shape) = live(&bed, arguments)?;
        let shape = counted.get_or_insert(shape);
        rows.push(count(&bed, arguments, shape, depths, survivors)?);
    }
    Ok(Outcome {
        members: bed.hosts().len(),
        degree: arguments.degree,
        payload: arguments.payload,
        depths: counted.unwrap_or_default().depths(),
        rows,
    })
}

/// Members join, get a stream, and some die.
fn live(bed: &Bed, arguments: &Arguments) -> Result<(Vec<usize>, (usize, Delivered), Shape)> {
    let manner = Manner {
        degree: arguments.degree,
        payload: arguments.payload,
        silent: false,
    };
    let mut grove = Grove::plant(bed, &manner, None)?;
    let shape = grove.until_joined()?;
    crate::progress(format!(
        "{} members have joined; by depth: {:?}",
        bed.hosts().len(),
        shape.depths()
    ));
    let before = arguments.live_messages / 3;
    grove.send(before, PAUSE)?;
    let victims = shape.apart(arguments.killed);
    grove.kill(&victims)?;
    grove.send(arguments.live_messages - before, PAUSE)?;
    grove.until_delivered()?;
    let survivors = grove.end()?;
    crate::progress(format!(
        "{} inner members died, {} had to look for a parent; {} messages missing, {} wrong",
        victims.len(),
        survivors.orphaned,
        survivors.missing,
        survivors.wrong
    ));
    Ok((shape.depths(), (victims.len(), survivors), shape))
}

/// What a stream costs on each link, if nothing else is said.
fn count(
    bed: &Bed,
    arguments: &Arguments,
    shape: &Shape,
    depths: Vec<usize>,
    (killed, survivors): (usize, Delivered),
) -> Result<Row> {
    let manner = Manner {
        degree: arguments.degree,
        payload: arguments.payload,
        silent: true,
    };
    let (note, notes) = mpsc::channel();
    let mut grove = Grove::plant(bed, &manner, Some(&note))?;
    grove.seat(shape)?;
    links::wait_for_silence(bed)?;
    replayed::noted(&notes);
    let ((), traffic) = links::count_all(bed, || {
        grove.send(arguments.messages, Duration::ZERO)?;
        grove.until_delivered()
    })?;
    let log = replayed::noted(&notes);
    let stream = grove.end()?;
    let plan = bed.testbed.plan();
    let named = plan.links.iter().zip(&traffic);
    let links: BTreeMap<String, u64> = named
        .map(|(link, traffic)| (link.nodes.join("-"), traffic.packets))
        .filter(|(_, packets)| *packets > 0)
        .collect();
    let source = bed.hosts().into_iter().next().context("no hosts")?;
    let own = plan.links.iter().zip(&traffic);
    let own = own.filter(|(link, _)| link.nodes.contains(&source));
    let row = Row {
        xcast: bed.deployment().to_string(),
        routers: bed.deployment().routers(plan).len(),
        depths,
        killed,
        survivors,
        stream,
        packets: traffic.iter().map(|link| link.packets).sum(),
        octets: traffic.iter().map(|link| link.bytes).sum(),
        own_link: own.map(|(_, traffic)| traffic.packets).sum(),
        busiest_link: links.values().copied().max().unwrap_or(0),
        differ: replayed::differences(bed, &log, &traffic)?,
        links,
    };
    ensure!(row.packets > 0, "nothing crossed the links");
    crate::progress(format!(
        "routers that speak Xcast: {}: {} packets for {} messages; {} links differ from the simulator",
        row.xcast,
        row.packets,
        stream.messages,
        row.differ.len()
    ));
    Ok(row)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} members, one on each host, at most {} children each; by depth: {:?}. Messages of {} \
             octets. Packets and octets of all links together.\n",
            self.members, self.degree, self.depths, self.payload
        )?;
        let mut table = Table::new([
            "xcast routers",
            "delivered",
            "twice or wrong",
            "packets",
            "saved",
            "octets",
            "saved",
            "own link",
            "busiest link",
            "links unlike the simulator",
        ]);
        let first = self.rows.first();
        for row in &self.rows {
            let all = row.stream.members * row.stream.messages;
            let saved =
                |of: fn(&Row) -> u64| percent(first.and_then(|first| saving(of(first), of(row))));
            table.row([
                format!("{} ({})", row.xcast, row.routers),
                format!("{} of {all}", row.stream.delivered),
                row.stream.wrong.to_string(),
                row.packets.to_string(),
                saved(|row| row.packets),
                row.octets.to_string(),
                saved(|row| row.octets),
                row.own_link.to_string(),
                row.busiest_link.to_string(),
                format!("{} of {}", row.differ.len(), row.links.len()),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "Trees that formed by themselves, inner members of which died in the middle of a stream:\n"
        )?;
        let mut table = Table::new([
            "xcast routers",
            "by depth",
            "died",
            "lost a parent",
            "delivered",
            "missing",
            "twice or wrong",
            "repaired",
        ]);
        for row in &self.rows {
            let Delivered {
                members,
                messages,
                delivered,
                missing,
                wrong,
                repaired,
                orphaned,
            } = row.survivors;
            table.row([
                format!("{} ({})", row.xcast, row.routers),
                format!("{:?}", row.depths),
                row.killed.to_string(),
                orphaned.to_string(),
                format!("{delivered} of {}", members * messages),
                missing.to_string(),
                wrong.to_string(),
                repaired.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
