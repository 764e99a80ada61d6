//! Octets saved, by the length of what is sent.

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use xcast_sim::{
    experiments::{Fanouts, Plot, Row, Series, Source, Variant, reference_models},
    fanout::{PacketFormat, Prune},
    topology::Model,
};

use super::{
    common::{Common, sure},
    table::Table,
};

/// Arguments of `payload`.
#[derive(Debug, Args)]
pub struct PayloadArgs {
    #[command(flatten)]
    common: Common,
    /// Messages for each graph, number of destinations and length
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// UDP payload, in octets; may be given several times
    #[arg(long, default_values_t = [10, 30, 100, 300, 1000], value_parser = clap::value_parser!(u32).range(1..=1400))]
    payload: Vec<u32>,
    /// Destinations; may be given several times
    #[arg(long, default_values_t = [3, 10, 50], value_parser = clap::value_parser!(u32).range(1..=125))]
    destinations: Vec<u32>,
}

#[derive(Serialize)]
struct Length {
    payload_octets: u32,
    #[serde(flatten)]
    row: Row,
}

/// Runs it.
pub fn payload(args: &PayloadArgs) -> Result<()> {
    let models = reference_models();
    let model = models
        .iter()
        .find(|model| matches!(model, Model::TransitStub(_)));
    let model = *model.context("the reference models have no transit-stub graph")?;
    let mut rows = Vec::new();
    for payload in &args.payload {
        eprintln!("{payload} octets");
        let experiment = Fanouts {
            source: Source::Generated(model),
            seeds: args.common.seeds(),
            messages: args.messages as usize,
            destinations: args.destinations.iter().map(|m| *m as usize).collect(),
            format: PacketFormat {
                family: args.common.family(),
                payload_octets: *payload,
                ports: false,
            },
            variants: vec![
                Variant::full(),
                Variant {
                    name: "bits cleared".to_owned(),
                    prune: Prune::Bitmap,
                    ..Variant::full()
                },
            ],
        };
        let measured = experiment.run(|_, _| {}).context("cannot measure")?;
        rows.extend(measured.into_iter().map(|row| Length {
            payload_octets: *payload,
            row,
        }));
    }
    if !args.common.rows("payload.json", &rows)? {
        table(&rows)?;
    }
    let line = |m: u32, variant: &str, name: String| Series {
        name,
        points: rows
            .iter()
            .filter(|length| length.row.m == m as usize && length.row.variant.name == variant)
            .map(|length| {
                (
                    f64::from(length.payload_octets),
                    length.row.saved_percent.octets,
                )
            })
            .collect(),
    };
    let mut series = Vec::new();
    for m in &args.destinations {
        series.push(line(*m, "full", format!("{m} destinations")));
    }
    if let Some(m) = args.destinations.last() {
        series.push(line(*m, "bits cleared", format!("{m}, list kept")));
    }
    let plot = Plot {
        title: "Octets saved, by the length of what is sent".to_owned(),
        subtitle: format!(
            "one packet to m random hosts, {}, all links, headers included; bars: 95 % confidence",
            model.name()
        ),
        x: "octets of UDP payload".to_owned(),
        y: "saved".to_owned(),
        log_x: true,
        series,
        formula: None,
    };
    args.common.write("payload.svg", &plot.to_svg()?)
}

fn table(rows: &[Length]) -> Result<()> {
    let mut table = Table::new(
        1,
        [
            "list",
            "payload",
            "m",
            "octets",
            "with replies",
            "1st link out",
        ],
    );
    for length in rows {
        let row = &length.row;
        table.row([
            &row.variant.name,
            &length.payload_octets.to_string(),
            &row.m.to_string(),
            &sure(row.saved_percent.octets),
            &sure(row.saved_percent.octets_with_replies),
            &sure(row.saved_percent.first_link_out_octets),
        ]);
    }
    table.print(
        "octets saved on all links against a datagram to each, in percent, +- 95 % confidence; with replies as long",
    )
}
