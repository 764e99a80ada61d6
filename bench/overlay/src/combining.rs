//! How often messages of different operations share a packet, and what waiting for that costs.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use serde::Serialize;
use xcast_overlay::{id::Id, kademlia::Event};
use xtask::testbed::Deployment;

use crate::{
    bed::{Bed, Setup},
    client::{By, Client},
    node::RunningNode,
    swarm::Swarm,
    table::{Table, quantile},
};

/// Requests in a round.
const ALPHA: usize = 3;
const CLIENT: &str = "H1";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Look-ups, and pings, at the same time.
    pub parallel: usize,
    /// Such batches.
    pub batches: usize,
    /// d_q, in milliseconds.
    pub delays_ms: Vec<u64>,
}

/// What a node does at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Look-ups.
    LookUps,
    /// Pings, each an operation of its own.
    Pings,
    /// Join, and a look-up in each bucket.
    Refresh,
    /// All of that.
    Mixed,
}

/// What came of one kind of work with one delay.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// d_q in milliseconds.
    pub delay_ms: u64,
    /// Whether nodes open envelopes.
    pub envelopes: bool,
    /// The work.
    pub work: Work,
    /// Messages that passed the queue.
    pub messages: u64,
    /// Of these, those that left with others of the same content.
    pub whole: u64,
    /// Those that left in an envelope with others.
    pub partial: u64,
    /// Packets that left.
    pub packets: u64,
    /// Mean time in the queue, in milliseconds.
    pub mean_wait_ms: f64,
    /// Longest time in the queue, in milliseconds.
    pub longest_wait_ms: f64,
    /// Median duration of an operation, in milliseconds.
    pub operation_p50_ms: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Operations at the same time.
    pub parallel: usize,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or an operation does not end.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let members: Vec<String> = bed.hosts().into_iter().filter(|h| h != CLIENT).collect();
    let swarm = Swarm::join(&bed, &members)?;
    let client = Client::join(&bed, &swarm, CLIENT, |config| config.alpha = ALPHA)?;
    bed.deploy(Deployment::All)?;
    let mut rows = Vec::new();
    for envelopes in [false, true] {
        for &delay_ms in &arguments.delays_ms {
            crate::progress(format!("d_q {delay_ms} ms, envelopes: {envelopes}"));
            for work in [Work::LookUps, Work::Pings, Work::Refresh, Work::Mixed] {
                let delay = Duration::from_millis(delay_ms);
                let node = client.start(&bed, By::Xcast, false, delay)?;
                if envelopes {
                    let tags = swarm.tags();
                    node.with_driver(move |driver| {
                        tags.into_iter()
                            .try_for_each(|(address, tag)| driver.opt_in(address, tag))
                    })?
                    .map_err(|_| anyhow!("a tag is taken"))?;
                }
                let mut took = Vec::new();
                for batch in 0..arguments.batches {
                    took.extend(batch_of(&node, &swarm, work, arguments.parallel, batch)?);
                }
                took.sort_by(f64::total_cmp);
                let (_, statistics) = node.stop()?;
                rows.push(Row {
                    delay_ms,
                    envelopes,
                    work,
                    messages: statistics.queue.pushed,
                    whole: statistics.queue.whole,
                    partial: statistics.queue.partial,
                    packets: statistics.packets(),
                    mean_wait_ms: statistics.mean_delay().as_secs_f64() * 1000.0,
                    longest_wait_ms: statistics.queue.longest_delay_us as f64 / 1000.0,
                    operation_p50_ms: quantile(&took, 0.5),
                });
            }
        }
    }
    Ok(Outcome {
        parallel: arguments.parallel,
        rows,
    })
}

/// Begins operations at one moment and waits for their ends: how long each took, in milliseconds.
fn batch_of(
    node: &RunningNode,
    swarm: &Swarm,
    work: Work,
    parallel: usize,
    batch: usize,
) -> Result<Vec<f64>> {
    let addresses = swarm.addresses();
    let lookups = matches!(work, Work::LookUps | Work::Mixed);
    let pings = matches!(work, Work::Pings | Work::Mixed);
    let refresh = matches!(work, Work::Refresh | Work::Mixed);
    let started = Instant::now();
    let mut open = node.act(move |node, now| {
        let mut begun = 0;
        for number in 0..parallel {
            let at = batch * parallel + number;
            if lookups {
                node.find_node(
                    now,
                    Id::hash_of(&[b"combining", &(at as u64).to_be_bytes()]),
                );
                begun += 1;
            }
            if pings {
                node.ping(now, addresses[at % addresses.len()]);
                begun += 1;
            }
        }
        if refresh {
            node.join(now);
            begun += 1;
        }
        begun
    })?;
    let mut took = Vec::new();
    while open > 0 {
        node.wait(|event| {
            matches!(event, Event::Finished { .. } | Event::Joined { .. }).then_some(())
        })?;
        took.push(started.elapsed().as_secs_f64() * 1000.0);
        open -= 1;
    }
    Ok(took)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "One node, {} look-ups and as many pings begun at one moment, alpha = {ALPHA}.\n",
            self.parallel
        )?;
        let mut table = Table::new([
            "d_q ms",
            "envelopes",
            "work",
            "messages",
            "same content",
            "in envelopes",
            "packets",
            "mean wait ms",
            "longest ms",
            "operation p50 ms",
        ]);
        for row in &self.rows {
            table.row([
                row.delay_ms.to_string(),
                if row.envelopes { "yes" } else { "no" }.to_owned(),
                format!("{:?}", row.work),
                row.messages.to_string(),
                row.whole.to_string(),
                row.partial.to_string(),
                row.packets.to_string(),
                format!("{:.2}", row.mean_wait_ms),
                format!("{:.2}", row.longest_wait_ms),
                format!("{:.1}", row.operation_p50_ms),
            ]);
        }
        write!(f, "{table}")
    }
}
