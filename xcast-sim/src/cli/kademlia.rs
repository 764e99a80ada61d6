//! Look-ups of Kademlia.

use std::{
    io::Write as _,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use xcast_sim::{
    experiments::{
        FORMULA_LABEL, Kademlia, KademliaRow, LookupVariant, PlacedShare, Plot, Rule, Series,
        Source, Stage, formula_percent,
    },
    fanout::{Deployment, Islands, Placement, Prune},
    routing::Ties,
    world::{Access, WorldSettings},
};

use super::{
    common::{Common, Topologies, memory_mib, percent, sure},
    table::Table,
};

/// Arguments of `kademlia`.
#[derive(Debug, Args)]
pub struct KademliaArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    topologies: Topologies,
    /// Nodes, each on a host of its own at a random edge router
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// Look-ups for each seed and variant
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    lookups: u32,
    /// Nodes in a bucket
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64))]
    k: u32,
    /// Requests in a round; may be given several times
    #[arg(long, default_values_t = [3, 20], value_parser = clap::value_parser!(u32).range(1..=64))]
    alpha: Vec<u32>,
    /// Compare rules for who of the closest is asked first, with the first alpha
    #[arg(long)]
    choose: bool,
    /// Of a hundred nodes, so many are malicious: they name each other only
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=90))]
    malicious: u32,
    /// How hosts reach routers
    #[arg(long, value_enum, default_value_t = AccessName::Native)]
    access: AccessName,
    /// Keep lists whole, with bits cleared, instead of truncating them
    #[arg(long)]
    bitmap: bool,
    /// Choose between equally short paths by flow (multipath)
    #[arg(long, conflicts_with = "choose")]
    ecmp: bool,
    /// Probability that a packet is lost on a link between routers, in percent
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    loss: f64,
    /// Rate of access links, in kbit/s [default: unlimited]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// With --rate: octets that may wait at each end of an access link; more are dropped
    #[arg(long, requires = "rate", default_value_t = 64_000)]
    queue: u64,
    /// How long messages wait to be combined (d_q), in milliseconds
    #[arg(long, default_value_t = 5)]
    delay_ms: u32,
    /// Share of routers that speak Xcast, in percent
    #[arg(long, default_value_t = 100.0, value_parser = percent)]
    share: f64,
    /// Which routers speak it first
    #[arg(long, value_enum, default_value_t = PlacementName::CoreFirst)]
    placement: PlacementName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccessName {
    /// Xcast packets from the host on
    Native,
    /// Inside UDP to the nearest router that speaks Xcast
    Udp,
    /// A datagram to each
    Unicast,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlacementName {
    CoreFirst,
    Random,
}

/// Runs it.
pub fn kademlia(args: &KademliaArgs) -> Result<()> {
    let mut rows = Vec::new();
    for source in args.topologies.sources()? {
        rows.extend(run(args, source)?);
    }
    let name = if args.choose {
        "choose.json"
    } else {
        "kademlia.json"
    };
    if !args.common.rows(name, &rows)? {
        table(&rows)?;
        if args.rate.is_some() {
            queues(&rows)?;
        }
    }
    if args.choose || rows.is_empty() {
        return Ok(());
    }
    let mut series: Vec<Series> = Vec::new();
    for row in &rows {
        let point = (row.variant.alpha as f64, row.saved_percent.links);
        match series.iter_mut().find(|line| line.name == row.topology) {
            Some(line) => line.points.push(point),
            None => series.push(Series {
                name: row.topology.clone(),
                points: vec![point],
            }),
        }
    }
    let alphas = args.alpha.iter().map(|alpha| *alpha as usize);
    let formula = alphas.map(|alpha| (alpha as f64, formula_percent(alpha)));
    let plot = Plot {
        title: "Transmissions saved by look-ups whose rounds are one packet each".to_owned(),
        subtitle: format!(
            "Kademlia, {} nodes, k = {}: requests against a datagram to each, on all links; bars: 95 % confidence",
            args.nodes, args.k
        ),
        x: "alpha, requests in a round".to_owned(),
        y: "saved".to_owned(),
        log_x: true,
        series,
        formula: Some((FORMULA_LABEL.to_owned(), formula.collect())),
    };
    args.common.write("kademlia.svg", &plot.to_svg()?)
}

fn variants(args: &KademliaArgs) -> Vec<LookupVariant> {
    let variant = |alpha: u32, rule, name: &str| LookupVariant {
        name: format!("alpha {alpha}{name}"),
        alpha: alpha as usize,
        rule,
    };
    if args.choose {
        let alpha = args.alpha.first().copied().unwrap_or(3);
        return vec![
            variant(alpha, Rule::Closest, ""),
            variant(alpha, Rule::PathOfClosest, ", path of closest"),
            variant(alpha, Rule::SharedPath, ", shared path"),
            variant(alpha, Rule::Nearest, ", nearest"),
            variant(alpha, Rule::Random, ", any"),
        ];
    }
    let alphas = args.alpha.iter();
    alphas
        .map(|alpha| variant(*alpha, Rule::Closest, ""))
        .collect()
}

fn run(args: &KademliaArgs, source: Source) -> Result<Vec<KademliaRow>> {
    let mut world = WorldSettings::full(0);
    world.family = args.common.family();
    world.access = match args.access {
        AccessName::Native => Access::Native,
        AccessName::Udp => Access::Udp,
        AccessName::Unicast => Access::Unicast,
    };
    if args.bitmap {
        world.prune = Prune::Bitmap;
    }
    world.links.loss = args.loss / 100.0;
    world.access_links.bits_per_second = args.rate.and_then(|rate| NonZeroU64::new(rate * 1000));
    world.access_links.queue_octets = args.queue;
    world.combining.max_delay = Duration::from_millis(args.delay_ms.into());
    world.deployment = Deployment::full();
    let experiment = Kademlia {
        source,
        seeds: args.common.seeds(),
        nodes: args.nodes as usize,
        lookups: args.lookups as usize,
        k: args.k as usize,
        variants: variants(args),
        ties: if args.ecmp {
            Ties::Ecmp
        } else {
            Ties::LinkCosts
        },
        world,
        deployment: (args.share < 100.0).then_some(PlacedShare {
            share: args.share / 100.0,
            placement: match args.placement {
                PlacementName::CoreFirst => Placement::CoreFirst,
                PlacementName::Random => Placement::Random,
            },
            islands: Islands::PrematureX2u,
        }),
        malicious_percent: args.malicious as usize,
    };
    let name = experiment.source.name().to_owned();
    let started = Instant::now();
    let mut last = None;
    let rows = experiment.run(|seed, stage| {
        let (what, done, all) = match stage {
            Stage::Joined(nodes) => ("joined", nodes, experiment.nodes),
            Stage::LookedUp { lookups, .. } => ("looked up", lookups, experiment.lookups),
        };
        // Twenty lines for each stage.
        if done == all || done.is_multiple_of((all / 20).max(1)) {
            let line = format!("{name}, seed {seed}: {what} {done} of {all}");
            if last.as_ref() != Some(&line) {
                let memory = memory_mib().unwrap_or_default();
                eprintln!("{line}, after {:.0?}, {memory} MiB", started.elapsed());
                last = Some(line);
            }
        }
    });
    rows.with_context(|| format!("cannot measure {name}"))
}

/// What queues before access links do.
fn queues(rows: &[KademliaRow]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for row in rows {
        writeln!(
            out,
            "{}, {}: a look-up takes {} ms; {} packets of a look-up found a queue full",
            row.topology,
            row.variant.name,
            sure(row.took_ms),
            sure(row.dropped)
        )?;
    }
    Ok(())
}

fn table(rows: &[KademliaRow]) -> Result<()> {
    let mut table = Table::new(
        2,
        [
            "topology",
            "variant",
            "requests",
            "replies",
            "octets",
            "1st out/both",
            "exact",
            "rounds",
            "asked",
            "links -",
            "formula",
        ],
    );
    for row in rows {
        let saved = &row.saved_percent;
        table.row([
            &row.topology,
            &row.variant.name,
            &sure(saved.links),
            &sure(saved.links_with_replies),
            &sure(saved.octets_with_replies),
            &format!(
                "{:.1}/{:.1}",
                saved.first_link_out_octets.mean, saved.first_link_both_octets.mean
            ),
            &format!("{:.2}", row.exact_percent.mean),
            &sure(row.rounds),
            &format!("{:.1}", row.asked.mean / row.rounds.mean.max(1.0)),
            &row.links_difference_percent.map(sure).unwrap_or_default(),
            &format!("{:.1}", row.formula_links_percent),
        ]);
    }
    table.print(&format!(
        "requests: transmissions saved on all links, in percent, +- 95 % confidence; replies: with unicast replies;\n\
         octets: of both; 1st: octets on the asking node's link, out, and with replies; exact: look-ups that found\n\
         exactly the k closest, in percent; asked: nodes in a round; links -: transmissions of requests, percent less\n\
         or more than the first variant's; formula: {FORMULA_LABEL}, an estimate for one packet to alpha nodes, not a result"
    ))
}
