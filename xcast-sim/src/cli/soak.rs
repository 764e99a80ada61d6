//! A network of nodes for hours: does it stay as it is?

use std::io::Write as _;

use anyhow::{Context as _, Error, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use xcast_sim::{
    experiments::{Hour, Soak, SoakOverlay, Source, reference_models},
    topology::Model,
};

use super::common::memory_mib;

/// Memory that may come on top, in MiB: what allocators keep.
const SLACK_MIB: u64 = 8;

/// Arguments of `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// What goes on: Kademlia's upkeep, or D1HT where peers stay an hour on average
    #[arg(long, value_enum, default_value_t = OverlayName::Kademlia)]
    overlay: OverlayName,
    /// Nodes, on a transit-stub graph
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// Simulated hours
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// Fail if the program's memory grows by more than a tenth after a quarter of the time
    #[arg(long)]
    flat: bool,
    /// The seed; the same seed gives the same messages
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a JSON object for each hour instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OverlayName {
    Kademlia,
    D1ht,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    hour: Hour,
    /// Memory of the whole program, in MiB; none where the kernel does not tell.
    memory_mib: Option<u64>,
}

/// Runs it.
pub fn soak(args: &SoakArgs) -> Result<()> {
    let models = reference_models();
    let model = models
        .iter()
        .find(|model| matches!(model, Model::TransitStub(_)));
    let model = model.context("the reference models have no transit-stub graph")?;
    let soak = Soak {
        overlay: match args.overlay {
            OverlayName::Kademlia => SoakOverlay::Kademlia,
            OverlayName::D1ht => SoakOverlay::D1ht,
        },
        source: Source::Generated(*model),
        nodes: args.nodes as usize,
        hours: args.hours,
        seed: args.seed,
    };
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "{:>6} {:>10} {:>12} {:>14} {:>9} {:>11}",
            "hour", "messages", "links", "unicast links", "waiting", "memory, MiB"
        )?;
    }
    let mut settled = None;
    soak.run(|hour| {
        let memory = memory_mib();
        if args.json {
            let row = Row {
                hour,
                memory_mib: memory,
            };
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            let memory = memory.map_or_else(String::new, |mib| mib.to_string());
            writeln!(
                out,
                "{:>6} {:>10} {:>12} {:>14} {:>9} {memory:>11}",
                hour.hour, hour.messages, hour.links, hour.unicast_links, hour.waiting
            )?;
        }
        out.flush()?;
        if hour.hour == (args.hours / 4).max(1) {
            settled = memory;
        }
        if let (true, Some(settled), Some(memory)) = (args.flat, settled, memory)
            && memory > settled + settled / 10 + SLACK_MIB
        {
            bail!(
                "{memory} MiB after {} hours, and {settled} before: it grows",
                hour.hour
            );
        }
        Ok::<(), Error>(())
    })
}
