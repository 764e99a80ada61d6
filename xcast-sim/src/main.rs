//! Runs the experiments of the simulator, and writes their rows and plots.

use std::{
    fs::{self, File},
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use xcast_sim::{
    experiments::{
        Difference, FORMULA_LABEL, Fanouts, PlacedShare, Plot, Row, Series, Source, Variant,
        formula_percent, reference_models,
    },
    fanout::{EcmpKey, Family, Islands, PacketFormat, Placement, Prune},
    routing::Ties,
    statistics::Estimate,
    topology::{Model, Parts, read_edge_list, read_graphml},
};

/// Simulates multi-destination packets on router graphs.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What one packet to m random hosts saves, on each topology
    Savings(SavingsArgs),
    /// What it saves where only some routers speak Xcast (m = 10, transit-stub)
    Deployment(Common),
}

#[derive(Debug, Args)]
struct SavingsArgs {
    #[command(flatten)]
    common: Common,
    /// Map of a real network instead of the generated ones: GraphML if its name ends so, otherwise
    /// a list of links; may be given several times
    #[arg(long, value_name = "FILE")]
    graph: Vec<PathBuf>,
    /// Keep the largest part alone of a map that is not connected
    #[arg(long, requires = "graph")]
    largest_part: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// Directory for rows (JSON) and plots (SVG); made if missing
    #[arg(long, default_value = "target/simulate")]
    out: PathBuf,
    /// Graphs for each topology
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Messages for each graph and each number of destinations
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// UDP payload, in octets
    #[arg(long, default_value_t = 100)]
    payload: u32,
    /// Xcast6 instead of Xcast4
    #[arg(short = '6', long)]
    ipv6: bool,
}

const DESTINATIONS: [usize; 7] = [2, 3, 5, 10, 20, 50, 125];
const SHARES: [f64; 6] = [0.005, 0.1, 0.25, 0.5, 0.75, 1.0];

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Savings(args) => savings(&args),
        Verb::Deployment(common) => deployment(&common),
    }
}

fn savings(args: &SavingsArgs) -> Result<()> {
    let common = &args.common;
    let variants = [
        Variant::full(),
        Variant {
            name: "bits cleared".to_owned(),
            prune: Prune::Bitmap,
            ..Variant::full()
        },
        Variant {
            name: "multipath by flow".to_owned(),
            ties: Ties::Ecmp,
            ..Variant::full()
        },
        Variant {
            name: "multipath by destination".to_owned(),
            ties: Ties::Ecmp,
            ecmp_key: EcmpKey::Destination,
            ..Variant::full()
        },
    ];
    let mut rows = Vec::new();
    let sources = sources(args)?;
    for source in &sources {
        // A small map has hosts for few destinations.
        let most = match source {
            Source::Map { topology, .. } => topology.edge.len(),
            Source::Generated(_) => usize::MAX,
        };
        let destinations = DESTINATIONS.into_iter().filter(|m| *m < most);
        let destinations: Vec<_> = destinations.collect();
        rows.extend(run(common, source.clone(), &destinations, &variants)?);
    }
    table(&rows)?;
    write(&common.out, "savings.json", &json(&rows)?)?;
    let full = |row: &&Row| row.variant.name == "full";
    let lines = |value: fn(&Row) -> _| -> Vec<Series> {
        sources
            .iter()
            .map(|source| Series {
                name: source.name().to_owned(),
                points: rows
                    .iter()
                    .filter(full)
                    .filter(|row| row.topology == source.name())
                    .map(|row| (row.m as f64, value(row)))
                    .collect(),
            })
            .collect()
    };
    let formula = DESTINATIONS.map(|m| (m as f64, formula_percent(m)));
    let subtitle = format!(
        "against a packet to each, counted on every link from host to host; {} graphs a line, bars: 95 % confidence",
        common.seeds
    );
    let links = Plot {
        title: "Transmissions saved by one packet to m random hosts".to_owned(),
        subtitle: subtitle.clone(),
        x: "m, destinations".to_owned(),
        log_x: true,
        series: lines(|row| row.saved_percent.links),
        formula: Some((FORMULA_LABEL.to_owned(), formula.to_vec())),
    };
    write(&common.out, "savings-links.svg", &links.to_svg()?)?;
    let octets = Plot {
        title: format!(
            "Octets saved by one packet to m random hosts, {} octets of payload",
            common.payload
        ),
        subtitle,
        series: lines(|row| row.saved_percent.octets),
        formula: None,
        ..links
    };
    write(&common.out, "savings-octets.svg", &octets.to_svg()?)
}

/// The maps that were asked for, or else the generated graphs.
fn sources(args: &SavingsArgs) -> Result<Vec<Source>> {
    if args.graph.is_empty() {
        let models = reference_models().into_iter();
        return Ok(models.map(Source::Generated).collect());
    }
    let parts = if args.largest_part {
        Parts::Largest
    } else {
        Parts::Connected
    };
    let read = |path: &PathBuf| {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let file = BufReader::new(file);
        let topology = if path
            .extension()
            .is_some_and(|extension| extension == "graphml")
        {
            read_graphml(file, parts)
        } else {
            read_edge_list(file, parts)
        };
        Ok(Source::Map {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            topology: topology.with_context(|| format!("cannot use {}", path.display()))?,
        })
    };
    args.graph.iter().map(read).collect()
}

fn deployment(common: &Common) -> Result<()> {
    let modes = [
        (
            "tunnels, core first",
            Placement::CoreFirst,
            Islands::Tunnels,
        ),
        ("tunnels, any routers", Placement::Random, Islands::Tunnels),
        (
            "no tunnels, core first",
            Placement::CoreFirst,
            Islands::PrematureX2u,
        ),
        (
            "no tunnels, any routers",
            Placement::Random,
            Islands::PrematureX2u,
        ),
    ];
    let mut variants = vec![Variant::full()];
    for (name, placement, islands) in modes {
        variants.extend(SHARES.map(|share| Variant {
            name: name.to_owned(),
            deployment: Some(PlacedShare {
                share,
                placement,
                islands,
            }),
            ..Variant::full()
        }));
    }
    let models = reference_models();
    let model = models
        .iter()
        .find(|model| matches!(model, Model::TransitStub(_)));
    let model = *model.context("the reference models have no transit-stub graph")?;
    let rows = run(common, Source::Generated(model), &[10], &variants)?;
    table(&rows)?;
    write(&common.out, "deployment.json", &json(&rows)?)?;
    let share = |row: &Row| row.variant.deployment.map(|placed| 100.0 * placed.share);
    let series = modes.map(|(name, ..)| Series {
        name: name.to_owned(),
        points: rows
            .iter()
            .filter(|row| row.variant.name == name)
            .filter_map(|row| Some((share(row)?, row.saved_percent.links)))
            .collect(),
    });
    let plot = Plot {
        title: "Transmissions saved where some routers speak Xcast".to_owned(),
        subtitle: "one packet to 10 random hosts, transit-stub; a tunnel spans routers that do not; bars: 95 % confidence"
            .to_owned(),
        x: "share of routers that speak Xcast, in percent".to_owned(),
        log_x: false,
        series: series.to_vec(),
        formula: None,
    };
    write(&common.out, "deployment.svg", &plot.to_svg()?)
}

/// Runs an experiment, with progress on standard error.
fn run(
    common: &Common,
    source: Source,
    destinations: &[usize],
    variants: &[Variant],
) -> Result<Vec<Row>> {
    let experiment = Fanouts {
        source,
        seeds: (1..=common.seeds).collect(),
        messages: common.messages as usize,
        destinations: destinations.to_vec(),
        format: PacketFormat {
            family: if common.ipv6 { Family::V6 } else { Family::V4 },
            payload_octets: common.payload,
            ports: false,
        },
        variants: variants.to_vec(),
    };
    let name = experiment.source.name();
    let rows = experiment.run(|done, all| eprintln!("{name}: graph {done} of {all}"));
    rows.with_context(|| format!("cannot measure {name}"))
}

/// Rows for people: percentages saved, then the points by which links and octets differ from the
/// baseline's.
fn table(rows: &[Row]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut line = |cells: [&str; 11]| {
        let [topology, variant, numbers @ ..] = cells;
        write!(out, "{topology:<16} {variant:<24}")?;
        for (number, width) in numbers.iter().zip([6, 4, 12, 8, 8, 9, 12, 12, 8]) {
            write!(out, " {number:>width$}")?;
        }
        writeln!(out)
    };
    line([
        "topology", "variant", "share", "m", "links", "replies", "octets", "1st link", "links -",
        "octets -", "formula",
    ])?;
    let sure = |estimate: Estimate| match estimate.half_width {
        Some(half_width) => format!("{:.1} +-{half_width:.1}", estimate.mean),
        None => format!("{:.1}", estimate.mean),
    };
    for row in rows {
        let saved = &row.saved_percent;
        let share = |placed: PlacedShare| format!("{} %", 100.0 * placed.share);
        let difference = |of: fn(&Difference) -> Estimate| {
            let difference = row.difference.as_ref();
            difference.map_or_else(String::new, |difference| sure(of(difference)))
        };
        line([
            &row.topology,
            &row.variant.name,
            &row.variant.deployment.map_or_else(String::new, share),
            &row.m.to_string(),
            &sure(saved.links),
            &format!("{:.1}", saved.links_with_replies.mean),
            &format!("{:.1}", saved.octets.mean),
            &format!("{:.1}", saved.first_link_out_octets.mean),
            &difference(|difference| difference.links),
            &difference(|difference| difference.octets),
            &format!("{:.1}", row.formula_links_percent),
        ])?;
    }
    writeln!(
        out,
        "links, octets: saved on all links, in percent, +- 95 % confidence; replies: links, with a \
         unicast reply of each;\n1st link: octets from the source; -: points less `full`, paired \
         by seed; formula: {FORMULA_LABEL}, an estimate of links"
    )?;
    Ok(())
}

/// Rows as JSON, a row a line.
fn json(rows: &[Row]) -> Result<String> {
    let lines: Result<Vec<_>, _> = rows.iter().map(serde_json::to_string).collect();
    Ok(format!("[\n{}\n]\n", lines?.join(",\n")))
}

fn write(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("{}", path.display());
    Ok(())
}
