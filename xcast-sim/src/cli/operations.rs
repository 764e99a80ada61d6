//! Every operation of Kademlia.

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use xcast_sim::{
    experiments::{OperationRow, Operations},
    world::WorldSettings,
};

use super::{
    common::{Common, Topologies, sure},
    table::Table,
};

/// Arguments of `operations`.
#[derive(Debug, Args)]
pub struct OperationsArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    topologies: Topologies,
    /// Nodes, each on a host of its own at a random edge router
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// How often each operation is done with each alpha
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Nodes in a bucket, and nodes that store
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64))]
    k: u32,
    /// Requests in a round; may be given several times
    #[arg(long, default_values_t = [3, 20], value_parser = clap::value_parser!(u32).range(1..=64))]
    alpha: Vec<u32>,
}

/// Runs it.
pub fn operations(args: &OperationsArgs) -> Result<()> {
    let mut rows = Vec::new();
    for source in args.topologies.sources()? {
        let name = source.name().to_owned();
        let experiment = Operations {
            source,
            seeds: args.common.seeds(),
            nodes: args.nodes as usize,
            times: args.times as usize,
            k: args.k as usize,
            alphas: args.alpha.iter().map(|alpha| *alpha as usize).collect(),
            world: WorldSettings {
                family: args.common.family(),
                ..WorldSettings::full(0)
            },
        };
        let started = Instant::now();
        let measured = experiment.run(|seed, what| {
            eprintln!(
                "{name}, seed {seed}: {what}, after {:.0?}",
                started.elapsed()
            );
        });
        rows.extend(measured.with_context(|| format!("cannot measure on {name}"))?);
    }
    if !args.common.rows("operations.json", &rows)? {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[OperationRow]) -> Result<()> {
    let mut table = Table::new(
        2,
        [
            "topology",
            "operation",
            "alpha",
            "requests",
            "replies",
            "octets",
            "right, %",
            "messages",
            "packets",
        ],
    );
    for row in rows {
        table.row([
            &row.topology,
            row.operation.name(),
            &row.alpha.to_string(),
            &sure(row.saved_percent.links),
            &sure(row.saved_percent.links_with_replies),
            &sure(row.saved_percent.octets_with_replies),
            &sure(row.right_percent),
            &format!("{:.1}", row.requests.mean),
            &format!("{:.1}", row.packets.mean),
        ]);
    }
    table.print(
        "requests: transmissions saved on all links, in percent, +- 95 % confidence; replies: with unicast replies;\n\
         octets: of both; right: operations that did what they were to do; messages: requests of an operation, one for\n\
         each receiver; packets: that these left the node as",
    )
}
