//! One packet to m random hosts: what it saves, and what if only some routers speak Xcast.

use anyhow::{Context as _, Result};
use clap::Args;
use xcast_sim::{
    experiments::{
        Difference, FORMULA_LABEL, Fanouts, PlacedShare, Plot, Row, Series, Source, Variant,
        formula_percent, reference_models,
    },
    fanout::{EcmpKey, Islands, PacketFormat, Placement, Prune},
    routing::Ties,
    statistics::Estimate,
    topology::Model,
};

use super::{
    common::{Common, Graphs, sure},
    table::Table,
};

/// Arguments of `savings`.
#[derive(Debug, Args)]
pub struct SavingsArgs {
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    graphs: Graphs,
}

/// Arguments of what sends messages to random hosts.
#[derive(Debug, Args)]
pub struct RowsArgs {
    #[command(flatten)]
    common: Common,
    /// Messages for each graph and each number of destinations
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// UDP payload, in octets
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1400))]
    payload: u32,
}

const DESTINATIONS: [usize; 7] = [2, 3, 5, 10, 20, 50, 125];
const SHARES: [f64; 6] = [0.005, 0.1, 0.25, 0.5, 0.75, 1.0];

/// Runs it.
pub fn savings(args: &SavingsArgs) -> Result<()> {
    let common = &args.rows.common;
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
    let sources = args.graphs.sources(None)?;
    for source in &sources {
        // A small map has hosts for few destinations.
        let most = match source {
            Source::Map { topology, .. } => topology.edge.len(),
            Source::Generated(_) => usize::MAX,
        };
        let destinations = DESTINATIONS.into_iter().filter(|m| *m < most);
        let destinations: Vec<_> = destinations.collect();
        rows.extend(run(&args.rows, source.clone(), &destinations, &variants)?);
    }
    if !common.rows("savings.json", &rows)? {
        table(&rows)?;
    }
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
        y: "saved".to_owned(),
        log_x: true,
        series: lines(|row| row.saved_percent.links),
        formula: Some((FORMULA_LABEL.to_owned(), formula.to_vec())),
    };
    common.write("savings-links.svg", &links.to_svg()?)?;
    let octets = Plot {
        title: format!(
            "Octets saved by one packet to m random hosts, {} octets of payload",
            args.rows.payload
        ),
        subtitle,
        series: lines(|row| row.saved_percent.octets),
        formula: None,
        ..links
    };
    common.write("savings-octets.svg", &octets.to_svg()?)
}

/// Runs it.
pub fn deployment(args: &RowsArgs) -> Result<()> {
    let common = &args.common;
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
    let rows = run(args, Source::Generated(model), &[10], &variants)?;
    if !common.rows("deployment.json", &rows)? {
        table(&rows)?;
    }
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
        y: "saved".to_owned(),
        log_x: false,
        series: series.to_vec(),
        formula: None,
    };
    common.write("deployment.svg", &plot.to_svg()?)
}

/// Runs an experiment, with progress on standard error.
fn run(
    args: &RowsArgs,
    source: Source,
    destinations: &[usize],
    variants: &[Variant],
) -> Result<Vec<Row>> {
    let experiment = Fanouts {
        source,
        seeds: args.common.seeds(),
        messages: args.messages as usize,
        destinations: destinations.to_vec(),
        format: PacketFormat {
            family: args.common.family(),
            payload_octets: args.payload,
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
    let mut table = Table::new(
        2,
        [
            "topology", "variant", "share", "m", "links", "replies", "octets", "1st link",
            "links -", "octets -", "formula",
        ],
    );
    for row in rows {
        let saved = &row.saved_percent;
        let share = |placed: PlacedShare| format!("{} %", 100.0 * placed.share);
        let difference = |of: fn(&Difference) -> Estimate| {
            let difference = row.difference.as_ref();
            difference.map_or_else(String::new, |difference| sure(of(difference)))
        };
        table.row([
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
        ]);
    }
    table.print(&format!(
        "links, octets: saved on all links, in percent, +- 95 % confidence; replies: links, with a \
         unicast reply of each;\n1st link: octets from the source; -: points less `full`, paired \
         by seed; formula: {FORMULA_LABEL}, an estimate of links"
    ))
}
