//! Look-ups where links lose packets.

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use xcast_sim::{
    experiments::{
        Kademlia, KademliaRow, LookupVariant, Plot, Rule, Series, Source, reference_models,
    },
    routing::Ties,
    topology::Model,
    world::{Access, WorldSettings},
};

use super::{
    common::{Common, percent, sure},
    table::Table,
};

/// Arguments of `loss`.
#[derive(Debug, Args)]
pub struct LossArgs {
    #[command(flatten)]
    common: Common,
    /// Nodes
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// Look-ups for each seed and loss, by lists and by unicast
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    lookups: u32,
    /// Packets that a link between routers loses, in percent; may be given several times
    #[arg(long, default_values_t = [0.0, 0.2, 0.5, 1.0, 2.0], value_parser = percent)]
    loss: Vec<f64>,
    /// Requests in a round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    alpha: u32,
}

#[derive(Serialize)]
struct Lost {
    loss_percent: f64,
    /// By lists; savings are against the run by unicast.
    lists: KademliaRow,
    /// By unicast.
    unicast: KademliaRow,
}

/// Runs it.
pub fn loss(args: &LossArgs) -> Result<()> {
    let models = reference_models();
    let model = models
        .iter()
        .find(|model| matches!(model, Model::TransitStub(_)));
    let model = *model.context("the reference models have no transit-stub graph")?;
    let mut rows = Vec::new();
    for loss in &args.loss {
        eprintln!("{loss} % lost on each link");
        let mut world = WorldSettings::full(0);
        world.family = args.common.family();
        world.links.loss = loss / 100.0;
        let lists = Kademlia {
            source: Source::Generated(model),
            seeds: args.common.seeds(),
            nodes: args.nodes as usize,
            lookups: args.lookups as usize,
            k: 20,
            variants: vec![LookupVariant {
                name: format!("alpha {}", args.alpha),
                alpha: args.alpha as usize,
                rule: Rule::Closest,
            }],
            ties: Ties::LinkCosts,
            world,
            deployment: None,
            malicious_percent: 0,
        };
        let mut unicast = lists.clone();
        unicast.world.access = Access::Unicast;
        let (by_lists, by_unicast) = lists
            .run_against(&unicast, |_, _| {})
            .context("cannot measure")?;
        rows.extend(
            by_lists
                .into_iter()
                .zip(by_unicast)
                .map(|(lists, unicast)| Lost {
                    loss_percent: *loss,
                    lists,
                    unicast,
                }),
        );
    }
    if !args.common.rows("loss.json", &rows)? {
        table(&rows)?;
    }
    let line = |name: &str, value: &dyn Fn(&Lost) -> xcast_sim::statistics::Estimate| Series {
        name: name.to_owned(),
        points: rows
            .iter()
            .map(|row| (row.loss_percent, value(row)))
            .collect(),
    };
    let plot = Plot {
        title: "Look-ups where links lose packets".to_owned(),
        subtitle: format!(
            "Kademlia, {} nodes, alpha {}, {}; against another run by unicast; bars: 95 % confidence",
            args.nodes,
            args.alpha,
            model.name()
        ),
        x: "packets that each link between routers loses, in percent".to_owned(),
        y: "of look-ups, or saved".to_owned(),
        log_x: false,
        series: vec![
            line("exact, by lists", &|row| row.lists.exact_percent),
            line("exact, by unicast", &|row| row.unicast.exact_percent),
            line("requests saved", &|row| row.lists.saved_percent.links),
            line("with replies", &|row| {
                row.lists.saved_percent.links_with_replies
            }),
            line("octets of both", &|row| {
                row.lists.saved_percent.octets_with_replies
            }),
        ],
        formula: None,
    };
    args.common.write("loss.svg", &plot.to_svg()?)
}

fn table(rows: &[Lost]) -> Result<()> {
    let mut table = Table::new(
        0,
        [
            "loss %",
            "requests",
            "with replies",
            "octets",
            "exact, lists",
            "exact, unicast",
        ],
    );
    for row in rows {
        let saved = &row.lists.saved_percent;
        table.row([
            &row.loss_percent.to_string(),
            &sure(saved.links),
            &sure(saved.links_with_replies),
            &sure(saved.octets_with_replies),
            &sure(row.lists.exact_percent),
            &sure(row.unicast.exact_percent),
        ]);
    }
    table.print(
        "loss: of packets on each link between routers; requests, replies, octets: saved on all links against another\n\
         run by unicast, in percent, with what is sent again; exact: look-ups that found exactly the 20 closest nodes",
    )
}
