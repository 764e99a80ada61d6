//! Overlays under churn and loss.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use xcast_sim::experiments::{Converge, ConvergeRow};

use super::{
    common::{Common, Overlays, memory_mib, percent, sure, within},
    table::Table,
};

/// Arguments of `converge`.
#[derive(Debug, Args)]
pub struct ConvergeArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    overlays: Overlays,
    /// Nodes [default: 10,000 where they take few minutes, and else 2,000 or 1,000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    peers: Option<u32>,
    /// How long nodes stay, on average, in minutes
    #[arg(long, default_value_t = 60.0, value_parser = within(0.01..=1e6))]
    session: f64,
    /// How long there is churn, in minutes
    #[arg(long, default_value_t = 10.0, value_parser = within(0.01..=1e6))]
    churn: f64,
    /// Datagrams that are lost meanwhile, in percent; and half as many packets on first links
    #[arg(long, default_value_t = 1.0, value_parser = percent)]
    loss: f64,
    /// How much longer a datagram may take meanwhile, in milliseconds
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=10_000))]
    jitter: u32,
    /// Nodes that vanish at one moment afterwards, in percent
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=90))]
    blow: u32,
    /// Operations when calm, and as many under churn
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    operations: u32,
}

/// Runs it.
pub fn converge(args: &ConvergeArgs) -> Result<()> {
    let mut rows = Vec::new();
    for overlay in args.overlays.chosen() {
        let name = overlay.name();
        let experiment = Converge {
            overlay,
            peers: args
                .peers
                .map_or(overlay.usual_peers(), |peers| peers as usize),
            seeds: args.common.seeds(),
            session: Duration::from_secs_f64(args.session * 60.0),
            churn: Duration::from_secs_f64(args.churn * 60.0),
            loss_percent: args.loss,
            jitter: Duration::from_millis(args.jitter.into()),
            blow_percent: args.blow as usize,
            operations: args.operations as usize,
        };
        let started = Instant::now();
        rows.extend(experiment.run(|what| {
            let memory = memory_mib().unwrap_or_default();
            eprintln!(
                "{name}: {what}, after {:.0?}, {memory} MiB",
                started.elapsed()
            );
        }));
    }
    if !args.common.rows("converge.json", &rows)? {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[ConvergeRow]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "overlay",
            "nodes",
            "calm, %",
            "churn, %",
            "after blow, %",
            "right after, s",
            "packets/s",
            "receivers/s",
            "fewer, %",
        ],
    );
    for row in rows {
        let fewer = 100.0 * (1.0 - row.packets_per_s.mean / row.receivers_per_s.mean);
        table.row([
            row.overlay.name(),
            &row.peers.to_string(),
            &sure(row.calm_percent),
            &sure(row.churn_percent),
            &sure(row.blow_right_percent),
            &row.right_after_s.map_or("never".to_owned(), sure),
            &format!("{:.2}", row.packets_per_s.mean),
            &format!("{:.2}", row.receivers_per_s.mean),
            &format!("{fewer:.0}"),
        ]);
    }
    table.print(
        "calm, churn: right outcomes, in percent; blow: the first hundred operations after a part of all nodes has\n\
         vanished at one moment; right after: how long until 99 % are right again, or as many as when calm; packets:\n\
         that leave a node in a second under churn, receivers: of these; fewer: what lists save of the sender's packets",
    )
}
