//! Chord and EpiChord.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use xcast_sim::experiments::{Plot, Ring, RingRow, Rings, Series};

use super::{
    common::{Common, memory_mib, sure},
    table::Table,
};

/// Arguments of `rings`.
#[derive(Debug, Args)]
pub struct RingsArgs {
    #[command(flatten)]
    common: Common,
    /// Peers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    peers: u32,
    /// Only this load
    #[arg(long, value_enum)]
    load: Option<Load>,
    /// How many EpiChord asks at once; may be given several times
    #[arg(long, default_values_t = [1, 2, 3, 4, 5], value_parser = clap::value_parser!(u32).range(1..=20))]
    parallel: Vec<u32>,
    /// How long peers stay, on average, in seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(10..))]
    session: u32,
    /// Work and churn before it counts, in seconds
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(..=86_400))]
    warm_up: u32,
    /// How long it counts, in seconds
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
}

/// How often peers look something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// Each peer every 0.5 s: caches learn nearly everything from look-ups
    Lookups,
    /// Each peer every 100 s: peers come and go faster than look-ups teach
    Churn,
}

impl Load {
    fn pause(self) -> Duration {
        match self {
            Self::Lookups => Duration::from_millis(500),
            Self::Churn => Duration::from_secs(100),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lookups => "a look-up each 0.5 s",
            Self::Churn => "a look-up each 100 s",
        }
    }
}

/// Runs it.
pub fn rings(args: &RingsArgs) -> Result<()> {
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    let started = Instant::now();
    let loads = [Load::Lookups, Load::Churn];
    for load in loads
        .into_iter()
        .filter(|load| args.load.is_none_or(|only| only == *load))
    {
        let experiment = Rings {
            peers: args.peers as usize,
            seeds: args.common.seeds(),
            session: Duration::from_secs(args.session.into()),
            pause: load.pause(),
            warm_up: Duration::from_secs(args.warm_up.into()),
            time: Duration::from_secs(args.seconds.into()),
        };
        let parallel = args.parallel.iter();
        let all = parallel.map(|parallel| Ring::EpiChord {
            parallel: *parallel as usize,
        });
        let mut points = Vec::new();
        for ring in [Ring::Chord].into_iter().chain(all) {
            let row = experiment.run(ring, |what| {
                let memory = memory_mib().unwrap_or_default();
                let (name, took) = (ring.name(), started.elapsed());
                eprintln!(
                    "{}, {name}: {what}, after {took:.0?}, {memory} MiB",
                    load.name()
                );
            });
            rows.extend(row.clone());
            if let (Ring::EpiChord { parallel }, Some(row)) = (ring, row) {
                let fewer = 100.0 * (1.0 - row.packets.mean / row.receivers.mean);
                let fewer = xcast_sim::statistics::Estimate {
                    mean: fewer,
                    half_width: None,
                };
                points.push((parallel as f64, fewer));
            }
        }
        series.push(Series {
            name: load.name().to_owned(),
            points,
        });
    }
    if !args.common.rows("rings.json", &rows)? {
        table(&rows)?;
    }
    let plot = Plot {
        title: "Packets that lists save EpiChord, by how many it asks at once".to_owned(),
        subtitle: format!(
            "{} peers that stay {} s on average; all packets, with answers and upkeep",
            args.peers, args.session
        ),
        x: "p, peers that a look-up asks at once".to_owned(),
        y: "saved of packets".to_owned(),
        log_x: false,
        series,
        formula: None,
    };
    args.common.write("rings.svg", &plot.to_svg()?)
}

fn table(rows: &[RingRow]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "ring",
            "look-up each, s",
            "right, %",
            "hops",
            "took, ms",
            "asked",
            "packets",
            "receivers",
            "known",
        ],
    );
    for row in rows {
        table.row([
            &row.ring.name(),
            &row.pause_s.to_string(),
            &sure(row.right_percent),
            &format!("{:.2}", row.hops.mean),
            &sure(row.took_ms),
            &format!("{:.2}", row.asked.mean),
            &format!("{:.2}", row.packets.mean),
            &format!("{:.2}", row.receivers.mean),
            &format!("{:.0}", row.known.mean),
        ]);
    }
    table.print(
        "right: look-ups that found the owner; hops, took, asked: of these; packets: of all peers for each look-up, answers\n\
         and upkeep included, receivers: of these, which are the packets without lists; known: peers that a peer knows",
    )
}
