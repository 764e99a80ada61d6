//! Multicast trees.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xcast_sim::{
    experiments::{FORMULA_LABEL, Growth, Plot, Series, TreeRow, Trees, formula_percent},
    statistics::Estimate,
    world::WorldSettings,
};

use super::{
    common::{Common, Topologies, memory_mib, sure},
    table::Table,
};

/// Arguments of `tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    topologies: Topologies,
    /// Members, the source included, each on a host of its own at a random edge router
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    members: u32,
    /// Most destinations of a packet; may be given several times
    #[arg(long, default_values_t = [2, 3, 5, 10, 20, 50], value_parser = clap::value_parser!(u32).range(1..=50))]
    destinations: Vec<u32>,
    /// Packets for each message (C): a member has this many times as many children
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    packets: u32,
    /// Messages of the source
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Octets of a message, without the source's signature
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=914))]
    payload: u32,
    /// Make the tree up instead of letting members join: those next to each other share a parent
    #[arg(long)]
    made_up: bool,
    /// Fail unless all members are within so many levels of the source, and have everything
    #[arg(long)]
    height: Option<u32>,
}

/// Runs it.
pub fn tree(args: &TreeArgs) -> Result<()> {
    let mut rows = Vec::new();
    for source in args.topologies.sources()? {
        let mut world = WorldSettings::full(0);
        world.family = args.common.family();
        let experiment = Trees {
            source,
            seeds: args.common.seeds(),
            members: args.members as usize,
            destinations: args.destinations.iter().map(|m| *m as usize).collect(),
            packets: args.packets as usize,
            messages: args.messages as usize,
            payload_octets: args.payload as usize,
            growth: if args.made_up {
                Growth::MadeUp
            } else {
                Growth::Joined
            },
            world,
        };
        let (name, started) = (experiment.source.name(), Instant::now());
        let measured = experiment.run(|what| {
            let memory = memory_mib().unwrap_or_default();
            eprintln!(
                "{name}: {what}, after {:.0?}, {memory} MiB",
                started.elapsed()
            );
        });
        rows.extend(measured.with_context(|| format!("cannot measure {name}"))?);
    }
    if !args.common.rows("tree.json", &rows)? {
        table(&rows)?;
    }
    let mut series: Vec<Series> = Vec::new();
    for row in &rows {
        let point = (row.destinations as f64, row.saved_percent.links);
        match series.iter_mut().find(|line| line.name == row.topology) {
            Some(line) => line.points.push(point),
            None => series.push(Series {
                name: row.topology.clone(),
                points: vec![point],
            }),
        }
    }
    let formula = args
        .destinations
        .iter()
        .map(|m| (f64::from(*m), formula_percent(*m as usize)));
    let plot = Plot {
        title: "Transmissions saved where each member forwards by lists".to_owned(),
        subtitle: format!(
            "trees of {} members that joined by themselves, against the same trees by unicast; bars: 95 % confidence",
            args.members
        ),
        x: "m, most destinations of a packet".to_owned(),
        y: "saved".to_owned(),
        log_x: true,
        series,
        formula: Some((FORMULA_LABEL.to_owned(), formula.collect())),
    };
    args.common.write("tree.svg", &plot.to_svg()?)?;
    if let Some(height) = args.height {
        for row in &rows {
            let (levels, complete) = (row.height.mean, row.complete_percent.mean);
            if levels > f64::from(height) || complete < 100.0 {
                bail!(
                    "{levels} levels instead of {height}, {complete:.3} % of members have everything"
                );
            }
        }
    }
    Ok(())
}

fn table(rows: &[TreeRow]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "topology",
            "m x C",
            "links",
            "control",
            "octets",
            "levels",
            "complete",
            "tree",
            "unicast",
            "star",
            "star, lists",
            "IP mcast",
            "root octets",
        ],
    );
    for row in rows {
        let saved = &row.saved_percent;
        table.row([
            &row.topology,
            &format!("{} x {}", row.destinations, row.packets),
            &sure(saved.links),
            &sure(saved.links_with_replies),
            &sure(saved.octets),
            &format!("{:.1}", row.height.mean),
            &format!("{:.2} %", row.complete_percent.mean),
            &format!("{:.2}", row.links.mean),
            &format!("{:.2}", row.unicast_links.mean),
            &format!("{:.2}", row.star_links.mean),
            &format!("{:.2}", row.star_xcast_links.mean),
            &format!("{:.2}", row.multicast_links.mean),
            &format!(
                "{:.0}/{:.0}",
                row.root_octets.mean, row.root_unicast_octets.mean
            ),
        ]);
    }
    table.print(
        "links, octets: of the stream, saved on all links against the same tree by unicast, in percent, +- 95 % confidence;\n\
         control: links, with what members say beside the stream; complete: receivers that got everything once, in order;\n\
         tree, unicast, star, lists, IP multicast: links a message crosses for each receiver; root octets: on the source's\n\
         own link, and by unicast to its children\n",
    )?;
    beside_unicast(rows)
}

/// Our tree, the same by unicast, and one by unicast whose members have the same uplink.
fn beside_unicast(rows: &[TreeRow]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "topology",
            "m x C",
            "stretch",
            "stress",
            "unicast",
            "same uplink:",
            "levels",
            "links",
            "stretch",
            "stress",
        ],
    );
    for row in rows {
        let pair = |[mean, other]: [Estimate; 2]| format!("{:.2} / {:.1}", mean.mean, other.mean);
        table.row([
            &row.topology,
            &format!("{} x {}", row.destinations, row.packets),
            &pair(row.stretch),
            &pair(row.stress),
            &pair(row.unicast_stress),
            &format!("{:.0} children", row.frugal_children.mean),
            &format!("{:.1}", row.frugal_height.mean),
            &format!("{:.2}", row.frugal_links.mean),
            &pair(row.frugal_stretch),
            &pair(row.frugal_stress),
        ]);
    }
    table.print(
        "stretch: links to a member by the tree, divided by those of the shortest path, on average / of the member that 5 % are\n\
         worse off than; stress: copies of a message on the links that it crosses, on average / on the one with most; unicast:\n\
         stress of the same tree by unicast; same uplink: a tree by unicast, made up in order of addresses, of which no member\n\
         sends more octets than one does by lists",
    )
}
