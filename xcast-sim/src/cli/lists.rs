//! The lists of all overlays.

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use xcast_sim::experiments::{Lists, ListsRow};

use super::{
    common::{Common, Overlays, Topologies, sure},
    table::Table,
};

/// Arguments of `lists`.
#[derive(Debug, Args)]
pub struct ListsArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    topologies: Topologies,
    #[command(flatten)]
    overlays: Overlays,
    /// Nodes of each overlay
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    peers: u32,
    /// What they are asked to do, one after the other, five a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    operations: u32,
}

/// Runs it.
pub fn lists(args: &ListsArgs) -> Result<()> {
    let sources = args.topologies.sources()?;
    let mut rows = Vec::new();
    for overlay in args.overlays.chosen() {
        let name = overlay.name();
        let experiment = Lists {
            overlay,
            peers: args.peers as usize,
            operations: args.operations as usize,
            sources: sources.clone(),
            seeds: args.common.seeds(),
            family: args.common.family(),
        };
        let started = Instant::now();
        let measured = experiment.run(|what| {
            eprintln!("{name}: {what}, after {:.0?}", started.elapsed());
        });
        rows.extend(measured.with_context(|| format!("cannot measure {name}"))?);
    }
    if !args.common.rows("lists.json", &rows)? {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[ListsRow]) -> Result<()> {
    let mut table = Table::new(
        2,
        [
            "overlay",
            "topology",
            "of a list",
            "listed, %",
            "lists, %",
            "all, %",
            "octets of all, %",
        ],
    );
    let heading = ["overlay", "purpose", "topology", "of a list", "lists, %"];
    let mut purposes = Table::new(3, heading);
    for row in rows {
        table.row([
            row.overlay.name(),
            &row.topology,
            &sure(row.list),
            &sure(row.listed_percent),
            &sure(row.saved_percent.links),
            &sure(row.saved_percent.links_with_replies),
            &sure(row.saved_percent.octets_with_replies),
        ]);
    }
    for row in rows {
        for (purpose, (receivers, saved)) in &row.purposes {
            purposes.row([
                row.overlay.name(),
                purpose,
                &row.topology,
                &sure(*receivers),
                &sure(*saved),
            ]);
        }
    }
    table.print(
        "of a list: receivers of a message that has several; listed: receivers that are in such lists; lists: transmissions\n\
         of these saved on all links against unicast; all: with all other messages, which are to one each; octets: of all\n",
    )?;
    purposes
        .print("lists of one kind: their receivers, and transmissions of these saved on all links")
}
