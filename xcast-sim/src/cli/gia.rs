//! Gia beside flooding, by load.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use xcast_sim::experiments::{Collapse, CollapseRow, Plot, Series, System, collapse_point};

use super::{
    common::{Common, sure, within},
    table::Table,
};

/// Arguments of `gia`.
#[derive(Debug, Args)]
pub struct GiaArgs {
    #[command(flatten)]
    common: Common,
    /// Nodes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    nodes: u32,
    /// Of a thousand nodes, so many have each thing that is looked for
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    replication: u32,
    /// Only this system; may be given several times
    #[arg(long, value_enum)]
    system: Vec<SystemName>,
    /// Queries a second and node; may be given several times
    #[arg(long, default_values_t = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0], value_parser = within(1e-6..=1e4))]
    load: Vec<f64>,
    /// How long queries come before they count, in simulated seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=86_400))]
    warm_up: u32,
    /// How long queries come that count
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
}

/// Names of what searches.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SystemName {
    All,
    WithoutReplication,
    WithoutAdaptation,
    WithoutFlowControl,
    WithoutBias,
    Flooding,
}

impl SystemName {
    const fn system(self) -> System {
        match self {
            Self::All => System::Gia,
            Self::WithoutReplication => System::GiaWithoutReplication,
            Self::WithoutAdaptation => System::GiaWithoutAdaptation,
            Self::WithoutFlowControl => System::GiaWithoutFlowControl,
            Self::WithoutBias => System::GiaWithoutBias,
            Self::Flooding => System::Flooding,
        }
    }
}

/// Runs it.
pub fn gia(args: &GiaArgs) -> Result<()> {
    let mut loads = args.load.clone();
    loads.sort_by(f64::total_cmp);
    let experiment = Collapse {
        nodes: args.nodes as usize,
        replication_permille: args.replication as usize,
        loads,
        warm_up: Duration::from_secs(args.warm_up.into()),
        time: Duration::from_secs(args.seconds.into()),
        seeds: args.common.seeds(),
    };
    let (mut rows, mut series, mut points) = (Vec::new(), Vec::new(), Vec::new());
    let systems = System::ALL.into_iter().filter(|system| {
        args.system.is_empty() || args.system.iter().any(|name| name.system() == *system)
    });
    for system in systems {
        let name = system.name();
        let measured = experiment.run(system, |row| {
            let (load, found) = (row.asked.mean, row.found_percent.mean);
            eprintln!(
                "{name}: {load:.3} queries a second and node, {found:.1} % found, {:.1} hops",
                row.hops.mean
            );
        });
        points.push((name, collapse_point(&measured)));
        series.push(Series {
            name: name.to_owned(),
            points: measured
                .iter()
                .map(|row| (row.asked.mean, row.found_percent))
                .collect(),
        });
        rows.extend(measured);
    }
    if !args.common.rows("gia.json", &rows)? {
        table(&rows, &points)?;
    }
    let plot = Plot {
        title: "Queries that find something, by load".to_owned(),
        subtitle: format!(
            "{} nodes with the capacities of Gia's paper, each thing at {} of a thousand; bars: 95 % confidence",
            args.nodes, args.replication
        ),
        x: "queries a second and node".to_owned(),
        y: "found".to_owned(),
        log_x: true,
        series,
        formula: None,
    };
    args.common.write("gia.svg", &plot.to_svg()?)
}

/// Rows, and for each system the load at which it collapses.
fn table(rows: &[CollapseRow], points: &[(&str, Option<f64>)]) -> Result<()> {
    let mut table = Table::new(
        1,
        ["system", "load", "found, %", "hops", "packets", "receivers"],
    );
    for row in rows {
        table.row([
            row.system.name(),
            &format!("{:.3}", row.asked.mean),
            &sure(row.found_percent),
            &sure(row.hops),
            &sure(row.packets),
            &sure(row.receivers),
        ]);
    }
    let collapses = |(name, point): &(&str, Option<f64>)| match point {
        Some(point) => format!("{name} collapses at {point:.3} queries a second and node\n"),
        None => format!("{name} does not collapse between these loads\n"),
    };
    let collapses: String = points.iter().map(collapses).collect();
    table.print(&format!(
        "{collapses}load: queries a second and node; found: of queries, those that find anything; packets, receivers: for each\n\
         query, with upkeep; collapse: no longer 90 % are found"
    ))
}
