//! EDRA among a million.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use xcast_overlay::d1ht::Grouping;
use xcast_sim::experiments::Edra;

use super::common::{Common, memory_mib, within};

/// Arguments of `edra`.
#[derive(Debug, Args)]
pub struct EdraArgs {
    #[command(flatten)]
    common: Common,
    /// Peers
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    peers: u32,
    /// Peers that vanish, and are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    events: u32,
    /// How long peers stay, on average, in minutes: intervals are as long as that asks for
    #[arg(long, default_value_t = 169.0, value_parser = within(0.01..=1e6))]
    session: f64,
}

/// Runs it.
pub fn edra(args: &EdraArgs) -> Result<()> {
    let mut rows = Vec::new();
    for seed in args.common.seeds() {
        let experiment = Edra {
            peers: args.peers as usize,
            events: args.events.min(args.peers - 1) as usize,
            session: Duration::from_secs_f64(args.session * 60.0),
            grouping: Grouping::USUAL,
            seed,
        };
        let started = Instant::now();
        rows.push(experiment.run(|told, there| {
            let memory = memory_mib().unwrap_or_default();
            eprintln!(
                "seed {seed}: told {told} times, {there} peers in memory, after {:.0?}, {memory} MiB",
                started.elapsed()
            );
        }));
    }
    if !args.common.rows("edra.json", &rows)? {
        let mut out = std::io::stdout().lock();
        for row in &rows {
            writeln!(
                out,
                "{} peers, {} events, intervals of {:.1} s, {} levels: told {} times, never {}, again {};\n\
                 the last after {:.2} intervals, on average after {:.2}; {:.0} packets to {:.0} receivers for each;\n\
                 octets at both ends {:.1} % of unicast's; at most {} peers in memory\n({})",
                row.peers,
                row.events,
                row.theta_s,
                row.levels,
                row.told,
                row.never,
                row.again,
                row.last_intervals,
                row.mean_intervals,
                row.packets,
                row.messages,
                row.octets_percent,
                row.most_in_memory,
                row.label
            )?;
        }
    }
    for row in &rows {
        if row.never + row.again > 0 || row.last_intervals > f64::from(row.levels) + 0.5 {
            bail!(
                "not each peer heard of each event once, within {} intervals",
                row.levels
            );
        }
    }
    Ok(())
}
