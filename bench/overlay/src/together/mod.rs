//! All protocols in one process on one network at the same time, each on a socket of its own on every
//! host: first all join, then all work at once. Each has to do its job beside the others.

mod crowd;
mod others;
mod searches;
mod streams;
mod tables;

use std::{fmt, thread};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use xtask::testbed::Deployment;

use self::crowd::Job;
pub use self::crowd::Row;
use crate::{
    bed::{Bed, PORT, Setup},
    links,
    table::Table,
};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which routers speak Xcast.
    pub xcast: String,
    /// What each protocol did.
    pub rows: Vec<Row>,
    /// Packets that crossed the links, all together.
    pub packets: u64,
}

type Start = for<'a> fn(&'a Bed, u16) -> Result<Job<'a>>;

/// All protocols.
const ALL: [(&str, Start); 13] = [
    ("Kademlia", tables::kademlia),
    ("D1HT", tables::d1ht),
    ("Chord", tables::chord),
    ("EpiChord", tables::epichord),
    ("Accordion", tables::accordion),
    ("Meridian", searches::meridian),
    ("Gia", searches::gia),
    ("LMS", searches::lms),
    ("tree", streams::tree),
    ("flooding", searches::flooding),
    ("CAN", others::can),
    ("Tapestry", others::tapestry),
    ("Freenet", others::freenet),
];

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or a protocol does not get ready, or not done.
pub fn run(setup: &Setup, deployment: Deployment) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    bed.deploy(deployment)?;
    links::warm_up(&bed)?;
    let before = bed.testbed.traffic()?;
    let bed = &bed;
    let jobs = at_once(ALL.iter().zip(PORT..), |((name, start), port)| {
        let job = start(bed, port).with_context(|| format!("{name} does not get ready"))?;
        crate::progress(format!("{name} is ready"));
        Ok((*name, job))
    })?;
    let rows = at_once(jobs.into_iter(), |(name, job)| {
        job().with_context(|| format!("{name} does not get done"))
    })?;
    let after = bed.testbed.traffic()?.into_iter();
    let packets = after
        .zip(before)
        .map(|(after, before)| (after - before).packets);
    Ok(Outcome {
        xcast: deployment.to_string(),
        rows,
        packets: packets.sum(),
    })
}

/// Does things at the same time.
fn at_once<A: Send, B: Send>(
    things: impl Iterator<Item = A>,
    work: impl Fn(A) -> Result<B> + Sync,
) -> Result<Vec<B>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = things
            .map(|thing| scope.spawn(move || work(thing)))
            .collect();
        let done = threads.into_iter().map(|thread| {
            let ended = thread.join().map_err(|_| anyhow!("a thread has panicked"));
            ended.and_then(|done| done)
        });
        done.collect()
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "All protocols at the same time in one process; routers that speak Xcast: {}; {} packets on \
             all links together.\n",
            self.xcast, self.packets
        )?;
        let mut table = Table::new([
            "protocol",
            "nodes",
            "what",
            "done",
            "messages",
            "receivers",
            "xcast packets",
            "datagrams",
        ]);
        for row in &self.rows {
            table.row([
                row.protocol.to_owned(),
                row.nodes.to_string(),
                row.job.to_owned(),
                format!("{} of {}", row.done, row.asked),
                row.messages.to_string(),
                row.receivers.to_string(),
                row.xcast_packets.to_string(),
                row.datagrams.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
