//! D1HT under churn.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use xcast_overlay::d1ht::Grouping;
use xcast_sim::{
    experiments::{D1ht, D1htRow},
    world::WorldSettings,
};

use super::common::{Common, Graphs, memory_mib, sure};

/// Arguments of `d1ht`.
#[derive(Debug, Args)]
pub struct D1htArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    graphs: Graphs,
    /// Peers, each on a host of its own at a random edge router
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=500_000))]
    peers: u32,
    /// How long peers stay, on average, in minutes
    #[arg(long, default_value_t = 60.0)]
    session: f64,
    /// Intervals (Theta) that are measured, after as many that are not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    intervals: u32,
}

/// Runs it.
pub fn d1ht(args: &D1htArgs) -> Result<()> {
    let mut rows = Vec::new();
    for source in args.graphs.sources()? {
        let mut world = WorldSettings::full(0);
        world.family = args.common.family();
        let experiment = D1ht {
            source,
            seeds: args.common.seeds(),
            peers: args.peers as usize,
            session: Duration::from_secs_f64(args.session * 60.0),
            groupings: vec![
                Grouping::One,
                Grouping::Ends,
                Grouping::Octets { saved: 0.15 },
            ],
            intervals: args.intervals,
            world,
        };
        let name = experiment.source.name();
        let measured = experiment.run(|seed, grouping| {
            let memory = memory_mib().unwrap_or_default();
            eprintln!("{name}, seed {seed}: {grouping}, {memory} MiB");
        });
        rows.extend(measured.with_context(|| format!("cannot measure {name}"))?);
    }
    if !args.common.rows("d1ht.json", &rows)? {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[D1htRow]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut line = |cells: [&str; 9]| {
        let [topology, grouping, numbers @ ..] = cells;
        write!(out, "{topology:<16} {grouping:<28}")?;
        for number in numbers {
            write!(out, " {number:>12}")?;
        }
        writeln!(out)
    };
    line([
        "topology", "grouping", "requests", "replies", "octets", "messages", "expected", "packets",
        "kbit/s",
    ])?;
    for row in rows {
        let saved = &row.saved_percent;
        line([
            &row.topology,
            &row.grouping,
            &sure(saved.links),
            &sure(saved.links_with_replies),
            &sure(saved.octets_with_replies),
            &format!("{:.2}", row.messages.mean),
            &format!("{:.2}", row.expected_messages),
            &format!("{:.2}", row.packets.mean),
            &format!("{:.3}", row.kbit_per_s.mean),
        ])?;
    }
    writeln!(
        out,
        "requests, replies, octets: saved on all links against the same events told by unicast, in percent: messages,\n\
         with acknowledgements, octets of both; messages: receivers of a peer's messages in an interval, beside what\n\
         the analysis expects; packets: in which they leave; kbit/s: from a peer, acknowledgements included.\n\
         Peers share one table with differences of their own: n tables of n entries would not fit."
    )?;
    Ok(())
}
