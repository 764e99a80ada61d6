//! Meridian and trees on measured round trips.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use xcast_sim::{
    experiments::{Near, NearRow, NearTreeRow, Wanted},
    latencies::Latencies,
};

use super::{
    common::{Common, memory_mib, sure},
    table::Table,
};

/// Arguments of `near`.
#[derive(Debug, Args)]
pub struct NearArgs {
    #[command(flatten)]
    common: Common,
    /// Measured round trips, in tenths of a millisecond: line i has those of host i to the hosts before it [default: 490
    /// hosts of PlanetLab]
    #[arg(long, value_name = "FILE")]
    latencies: Option<PathBuf>,
    /// How many of the hosts take part [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..))]
    hosts: Option<u32>,
    /// Queries of each kind
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    queries: u32,
    /// Children that each member of a tree has at most, which get a message by one packet
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    destinations: u32,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Row {
    Meridian(NearRow),
    Tree(NearTreeRow),
}

/// Runs it.
pub fn near(args: &NearArgs) -> Result<()> {
    let latencies = match &args.latencies {
        None => Latencies::planetlab(),
        Some(path) => {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            Latencies::read(&text).with_context(|| path.display().to_string())?
        }
    };
    let hosts = args.hosts.map_or(latencies.hosts(), |hosts| hosts as usize);
    if hosts > latencies.hosts() || hosts < 10 {
        bail!(
            "--hosts: {hosts} of {} hosts cannot take part: at least 10, and at most all",
            latencies.hosts()
        );
    }
    let experiment = Near {
        latencies,
        hosts,
        seeds: args.common.seeds(),
        queries: args.queries as usize,
        ipv6: args.common.ipv6,
        destinations: args.destinations as usize,
    };
    let started = Instant::now();
    let progress = |what: &str| {
        let memory = memory_mib().unwrap_or_default();
        eprintln!("{what}: done after {:.0?}, {memory} MiB", started.elapsed());
    };
    let (meridian, trees) = (experiment.meridian(progress), experiment.trees(progress));
    let rows: Vec<Row> = meridian
        .iter()
        .cloned()
        .map(Row::Meridian)
        .chain(trees.iter().cloned().map(Row::Tree))
        .collect();
    if !args.common.rows("near.json", &rows)? {
        print(&meridian, &trees)?;
    }
    Ok(())
}

fn print(meridian: &[NearRow], trees: &[NearTreeRow]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "looked for",
            "nodes",
            "answered, %",
            "the best, %",
            "error, ms",
            "of random, ms",
            "hops",
            "probes",
            "packets",
            "receivers",
        ],
    );
    for row in meridian {
        let wanted = match row.wanted {
            Wanted::Closest => "the closest node",
            Wanted::Central => "the middle of 4",
            Wanted::Within => "within 3 bounds",
        };
        table.row([
            wanted,
            &row.hosts.to_string(),
            &sure(row.answered_percent),
            &sure(row.best_percent),
            &format!("{:.2}", row.median_error_ms.mean),
            &format!("{:.1}", row.median_of_random_ms.mean),
            &format!("{:.2}", row.hops.mean),
            &format!("{:.1}", row.probes.mean),
            &format!("{:.2}", row.packets.mean),
            &format!("{:.1}", row.receivers.mean),
        ]);
    }
    table.print(
        "error: how much longer the round trip to what was found is than to the best, at most, for half of all queries; of\n\
         random: the same of nodes chosen at random; probes: round trips that were measured; packets: to members of rings,\n\
         receivers: of these\n",
    )?;
    let mut table = Table::new(
        1,
        [
            "parents by",
            "members",
            "took, ms",
            "stretch",
            "a step, ms",
            "depth",
        ],
    );
    for row in trees {
        table.row([
            if row.by_latency { "latency" } else { "depth" },
            &row.hosts.to_string(),
            &sure(row.took_ms),
            &sure(row.stretch),
            &sure(row.step_ms),
            &format!("{:.2}", row.depth.mean),
        ]);
    }
    table.print(
        "took: how long a message takes to a member; stretch: how many times as long as straight from the source, on average\n\
         over members; a step: from a parent to its child",
    )
}
