//! What lost packets do to look-ups: on the first link, which all requests of a round share, on one
//! in the middle, and at the leaves.

use std::{fmt, time::Duration};

use anyhow::Result;
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    kademlia::{Event, Report},
    runtime::Counters,
};
use xtask::testbed::Deployment;

use crate::{
    bed::{Bed, Setup},
    client::{By, Client},
    loss,
    swarm::{K, Swarm},
    table::{Table, quantile},
};

/// The client's host, whose link has a switch in the middle.
const CLIENT: &str = "H1";
const FIRST: &str = "W1";
const MIDDLE: &str = "W2";
/// Look-ups at the same time.
const PARALLEL: usize = 10;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Look-ups in each row.
    pub lookups: usize,
    /// Requests in a round.
    pub alpha: usize,
    /// Lost packets in percent.
    pub percents: Vec<f64>,
}

/// Where packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Nowhere.
    Nowhere,
    /// On the client's own link.
    FirstLink,
    /// On a link of the ring.
    MiddleLink,
    /// On the links of all other hosts.
    Leaves,
}

/// How look-ups were sent, and what became of them.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Where packets are lost.
    pub place: Place,
    /// How many, in percent.
    pub percent: f64,
    /// `unicast`, `xcast`, or `xcast, no repair`.
    pub by: &'static str,
    /// Look-ups.
    pub lookups: usize,
    /// Those that found all of the true closest nodes.
    pub complete: usize,
    /// True closest nodes that were not found, in a thousand.
    pub missed_permille: f64,
    /// Durations in milliseconds.
    pub p50_ms: f64,
    /// See above.
    pub p95_ms: f64,
    /// See above.
    pub p99_ms: f64,
    /// Receivers asked, each once for a round.
    pub asked: u64,
    /// Rounds that nobody answered, asked again by unicast.
    pub repaired: u64,
    /// Receivers given up.
    pub silent: u64,
    /// Packets that the rules dropped.
    pub dropped: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Requests in a round.
    pub alpha: usize,
    /// Nodes that were asked.
    pub nodes: usize,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or a look-up does not end.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let edge = format!("R{}", setup.ring + 1);
    let [one, other] = setup.middle_link();
    let topology = setup
        .topology()
        .with_switch(FIRST, CLIENT, &edge)?
        .with_switch(MIDDLE, &one, &other)?;
    let mut bed = Bed::with(setup, topology)?;
    let members: Vec<String> = bed.hosts().into_iter().filter(|h| h != CLIENT).collect();
    let swarm = Swarm::join(&bed, &members)?;
    let client = |repair| {
        Client::join(&bed, &swarm, CLIENT, |config| {
            config.alpha = arguments.alpha;
            config.policy.repair = repair;
        })
    };
    let (with_repair, without) = (client(true)?, client(false)?);
    bed.deploy(Deployment::All)?;
    let ways = [
        ("unicast", By::Unicast, &with_repair),
        ("xcast", By::Xcast, &with_repair),
        ("xcast, no repair", By::Xcast, &without),
    ];
    let mut rows = Vec::new();
    let places = [Place::FirstLink, Place::MiddleLink, Place::Leaves];
    let lossy = arguments.percents.iter().filter(|percent| **percent > 0.0);
    let lossy = lossy.flat_map(|percent| places.map(|place| (place, *percent)));
    for (place, percent) in [(Place::Nowhere, 0.0)].into_iter().chain(lossy) {
        let nodes: Vec<(&str, bool)> = match place {
            Place::Nowhere => Vec::new(),
            Place::FirstLink => vec![(FIRST, true)],
            Place::MiddleLink => vec![(MIDDLE, true)],
            Place::Leaves => members.iter().map(|host| (host.as_str(), false)).collect(),
        };
        for (by, way, client) in ways {
            crate::progress(format!("{percent} % lost, {place:?}: {by}"));
            let node = client.start(&bed, way, true, Duration::ZERO)?;
            for (node, is_switch) in &nodes {
                loss::lose(&bed, node, percent, *is_switch)?;
            }
            let lookups = look_up(&node, arguments.lookups)?;
            let counters = node.with_driver(|driver| {
                let status = driver.protocol().status(std::time::Instant::now());
                status.fanouts
            })?;
            let mut dropped = 0;
            for (node, is_switch) in &nodes {
                dropped += loss::lost(&bed, node)?;
                loss::lose(&bed, node, 0.0, *is_switch)?;
            }
            let (_, statistics) = node.stop()?;
            crate::progress(format!("  {statistics}"));
            rows.push(row(
                (place, percent, by),
                &swarm,
                &lookups,
                &counters,
                dropped,
            ));
        }
    }
    Ok(Outcome {
        alpha: arguments.alpha,
        nodes: swarm.len(),
        rows,
    })
}

/// Does so many look-ups, some of them at the same time.
///
/// # Errors
///
/// One does not end.
pub fn look_up(node: &crate::node::RunningNode, count: usize) -> Result<Vec<Report>> {
    let begin = |number: usize| {
        let target = Id::hash_of(&[b"look-up", &(number as u64).to_be_bytes()]);
        node.act(move |node, now| node.find_node(now, target))
    };
    let mut begun = 0;
    while begun < count.min(PARALLEL) {
        begin(begun)?;
        begun += 1;
    }
    let mut reports = Vec::new();
    while reports.len() < count {
        reports.push(node.wait(|event| match event {
            Event::Finished { report, .. } => Some(*report),
            _ => None,
        })?);
        if begun < count {
            begin(begun)?;
            begun += 1;
        }
    }
    Ok(reports)
}

/// True closest nodes that a look-up has not found. Who has answered and died since takes a place among them.
pub fn missed(report: &Report, swarm: &Swarm) -> usize {
    let families = report.families.iter();
    let found: Vec<Id> = families
        .flat_map(|f| &f.closest)
        .map(|contact| contact.id)
        .collect();
    let mut truth = swarm.closest(report.target);
    truth.extend(&found);
    truth.sort_by_key(|id| id.distance(report.target));
    truth.dedup();
    truth.truncate(K);
    truth.iter().filter(|id| !found.contains(id)).count()
}

/// Durations of look-ups in milliseconds, sorted.
pub fn durations(reports: &[Report]) -> Vec<f64> {
    let took = reports
        .iter()
        .map(|report| report.took.as_secs_f64() * 1000.0);
    let mut took: Vec<f64> = took.collect();
    took.sort_by(f64::total_cmp);
    took
}

fn row(
    (place, percent, by): (Place, f64, &'static str),
    swarm: &Swarm,
    reports: &[Report],
    counters: &Counters,
    dropped: u64,
) -> Row {
    let missed: Vec<usize> = reports.iter().map(|report| missed(report, swarm)).collect();
    let took = durations(reports);
    let all = (reports.len() * K.min(swarm.len())).max(1);
    Row {
        place,
        percent,
        by,
        lookups: reports.len(),
        complete: missed.iter().filter(|missed| **missed == 0).count(),
        missed_permille: 1000.0 * missed.iter().sum::<usize>() as f64 / all as f64,
        p50_ms: quantile(&took, 0.5),
        p95_ms: quantile(&took, 0.95),
        p99_ms: quantile(&took, 0.99),
        asked: counters.asked,
        repaired: counters.repaired,
        silent: counters.silent,
        dropped,
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Look-ups among {} nodes, alpha = {}, {PARALLEL} at a time.\n",
            self.nodes, self.alpha
        )?;
        let mut table = Table::new([
            "lost", "where", "by", "complete", "missed", "p50 ms", "p95 ms", "p99 ms", "repaired",
            "given up", "dropped",
        ]);
        for row in &self.rows {
            table.row([
                format!("{} %", row.percent),
                format!("{:?}", row.place),
                row.by.to_owned(),
                format!("{} of {}", row.complete, row.lookups),
                format!("{:.2} ‰", row.missed_permille),
                format!("{:.1}", row.p50_ms),
                format!("{:.1}", row.p95_ms),
                format!("{:.1}", row.p99_ms),
                row.repaired.to_string(),
                row.silent.to_string(),
                row.dropped.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
