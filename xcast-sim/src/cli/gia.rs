//! Gia beside flooding, by load.

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use clap::Args;
use xcast_sim::experiments::{Collapse, Plot, Series, System, collapse_point};

use super::common::{Common, sure};

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
    /// Queries a second and node; may be given several times
    #[arg(long, default_values_t = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])]
    load: Vec<f64>,
    /// How long queries come, in simulated seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Most queries for each load: a shorter time will do where there would be more
    #[arg(long, default_value_t = 20_000)]
    queries: u32,
}

/// Runs it.
pub fn gia(args: &GiaArgs) -> Result<()> {
    let mut loads = args.load.clone();
    loads.retain(|load| *load > 0.0);
    loads.sort_by(f64::total_cmp);
    let experiment = Collapse {
        nodes: args.nodes as usize,
        replication_permille: args.replication as usize,
        loads,
        time: Duration::from_secs(args.seconds.into()),
        max_queries: args.queries as usize,
        seeds: args.common.seeds(),
    };
    let (mut rows, mut series, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for system in System::ALL {
        let name = system.name();
        let measured = experiment.run(system, |load, seed| {
            eprintln!("{name}: {load} queries a second and node, seed {seed}");
        });
        points.push((name, collapse_point(&measured)));
        series.push(Series {
            name: name.to_owned(),
            points: measured
                .iter()
                .map(|row| (row.load, row.found_percent))
                .collect(),
        });
        rows.extend(measured);
    }
    if !args.common.rows("gia.json", &rows)? {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{:<26} {:>8} {:>14} {:>12} {:>12} {:>12}",
            "system", "load", "found, %", "hops", "packets", "receivers"
        )?;
        for row in &rows {
            writeln!(
                out,
                "{:<26} {:>8} {:>14} {:>12} {:>12} {:>12}",
                row.system.name(),
                row.load,
                sure(row.found_percent),
                sure(row.hops),
                sure(row.packets),
                sure(row.receivers)
            )?;
        }
        for (name, point) in &points {
            match point {
                Some(point) => writeln!(
                    out,
                    "{name} collapses at {point:.3} queries a second and node"
                )?,
                None => writeln!(out, "{name} does not collapse between these loads")?,
            }
        }
        writeln!(
            out,
            "load: queries a second and node; found: of queries, those that find anything; packets, receivers: for each\n\
             query, with upkeep; collapse: no longer 90 % are found"
        )?;
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
