//! Look-ups while nodes die.

use std::{
    fmt,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;
use xcast_overlay::{
    id::Id,
    kademlia::{Event, Report},
};
use xtask::testbed::Deployment;

use crate::{
    bed::{Bed, Setup},
    client::{By, Client},
    losses::{durations, look_up, missed},
    node::{Held, RunningNode},
    swarm::{K, Swarm},
    table::{Table, quantile},
};

const CLIENT: &str = "H1";
/// One node in so many dies during look-ups.
const KILLED_OF: usize = 20;
/// How often nodes die during look-ups, at most, until one of them is missed.
const DEATHS: usize = 4;
/// How often it is tried to catch look-ups that are under way.
const ATTEMPTS: usize = 20;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Look-ups in each row.
    pub lookups: usize,
    /// Requests in a round.
    pub alpha: usize,
    /// Nodes that die at once, in percent.
    pub percent: usize,
}

/// Look-ups in one situation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What had happened.
    pub situation: &'static str,
    /// `unicast` or `xcast`.
    pub by: &'static str,
    /// Living nodes.
    pub nodes: usize,
    /// Look-ups.
    pub lookups: usize,
    /// Those that found all of the true closest living nodes.
    pub complete: usize,
    /// Closest living nodes that were not found, in a thousand.
    pub missed_permille: f64,
    /// Look-ups that had not ended when nodes died; some had answers, and nothing was read until the nodes were
    /// dead.
    pub caught: usize,
    /// Receivers given up.
    pub silent: u32,
    /// Durations in milliseconds.
    pub p50_ms: f64,
    /// See above.
    pub p95_ms: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Requests in a round.
    pub alpha: usize,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or a look-up does not end.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let members: Vec<String> = bed.hosts().into_iter().filter(|h| h != CLIENT).collect();
    let mut swarm = Swarm::join(&bed, &members)?;
    let client = Client::join(&bed, &swarm, CLIENT, |config| {
        config.alpha = arguments.alpha;
    })?;
    bed.deploy(Deployment::All)?;
    let ways = [("unicast", By::Unicast), ("xcast", By::Xcast)];
    let mut rows = Vec::new();
    let mut random = fastrand::Rng::with_seed(18);
    let start = |way| client.start(&bed, way, true, Duration::ZERO);
    for (by, way) in ways {
        crate::progress(format!("all live: {by}"));
        let node = start(way)?;
        let reports = look_up(&node, arguments.lookups)?;
        rows.push(row("all live", by, &swarm, &reports));
        node.stop()?;
    }
    for (by, way) in ways {
        crate::progress(format!("one in twenty dies during look-ups: {by}"));
        let node = start(way)?;
        let begun = arguments.lookups.min(20);
        // Where look-ups had the answers of those that died already, others die.
        for attempt in 1.. {
            // At least one, also of a small network.
            let first = random.usize(..swarm.len().clamp(1, KILLED_OF));
            let (caught, held) = catch(&node, begun)?;
            swarm.kill(|number| number % KILLED_OF == first)?;
            drop(held);
            let mut reports: Vec<Report> = Vec::new();
            while reports.len() < begun {
                reports.push(node.wait(finished)?);
            }
            let mut row = row("some die meanwhile", by, &swarm, &reports);
            row.caught = caught;
            if row.silent > 0 || attempt == DEATHS {
                rows.push(row);
                break;
            }
        }
        node.stop()?;
    }
    let before = swarm.len();
    swarm.kill(|_| random.usize(..100) < arguments.percent)?;
    crate::progress(format!(
        "{} of {before} nodes died at once",
        before - swarm.len()
    ));
    for (by, way) in ways {
        let node = start(way)?;
        let reports = look_up(&node, arguments.lookups)?;
        rows.push(row("after many died at once", by, &swarm, &reports));
        node.stop()?;
    }
    Ok(Outcome {
        alpha: arguments.alpha,
        rows,
    })
}

/// Begins look-ups, and stops the node as soon as the first answers are there: how many are under way. Where all
/// have ended before that, it is tried again.
fn catch(node: &RunningNode, count: usize) -> Result<(usize, Held)> {
    for _ in 0..ATTEMPTS {
        let before = node.act(move |node, now| {
            let before = node.status(now).fanouts.answered;
            for number in 0..count {
                node.find_node(now, Id::hash_of(&[b"mid", &[number as u8]]));
            }
            before
        })?;
        let (tell, told) = mpsc::channel();
        loop {
            let tell = tell.clone();
            let held = node.hold_if(move |node| {
                let status = node.status(Instant::now());
                let _ = tell.send(status.operations);
                status.operations > 0 && status.fanouts.answered > before
            })?;
            let under_way = told.recv()?;
            if let Some(held) = held {
                return Ok((under_way, held));
            }
            if under_way == 0 {
                break;
            }
        }
        for _ in 0..count {
            node.wait(finished)?;
        }
    }
    bail!("look-ups always ended before nodes could die in them")
}

fn finished(event: Event) -> Option<Report> {
    match event {
        Event::Finished { report, .. } => Some(*report),
        _ => None,
    }
}

fn row(situation: &'static str, by: &'static str, swarm: &Swarm, reports: &[Report]) -> Row {
    let missed: Vec<usize> = reports.iter().map(|report| missed(report, swarm)).collect();
    let took = durations(reports);
    let families = reports.iter().flat_map(|report| &report.families);
    Row {
        situation,
        by,
        nodes: swarm.len(),
        lookups: reports.len(),
        complete: missed.iter().filter(|missed| **missed == 0).count(),
        missed_permille: 1000.0 * missed.iter().sum::<usize>() as f64
            / (reports.len() * K).max(1) as f64,
        caught: 0,
        silent: families.map(|family| family.silent).sum(),
        p50_ms: quantile(&took, 0.5),
        p95_ms: quantile(&took, 0.95),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Look-ups for the {K} closest living nodes, alpha = {}.\n",
            self.alpha
        )?;
        let mut table = Table::new([
            "situation",
            "by",
            "living",
            "complete",
            "missed",
            "under way",
            "given up",
            "p50 ms",
            "p95 ms",
        ]);
        for row in &self.rows {
            table.row([
                row.situation.to_owned(),
                row.by.to_owned(),
                row.nodes.to_string(),
                format!("{} of {}", row.complete, row.lookups),
                format!("{:.2} ‰", row.missed_permille),
                row.caught.to_string(),
                row.silent.to_string(),
                format!("{:.1}", row.p50_ms),
                format!("{:.1}", row.p95_ms),
            ]);
        }
        write!(f, "{table}")
    }
}
