//! `xcast-ctl dht find`.

use anyhow::Result;
use xcast_overlay::services::Pattern;

use super::super::{
    compare::{AskArgs, ask},
    message::{Operation, Report, Where},
    parse::place,
    render,
};
use crate::output::Outcome;

/// Find services by type, text and place
///
/// All that is asked for has to hold. With --near the nearest come first. With --radius, --rings or
/// --polygon only what lies there is found. A pattern is a word in which * stands for anything.
///
/// Places are looked up by the cells of a grid (H3), all that are needed by the same messages.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht find --type ldap --near 52.4,13.1 --radius 50
  xcast-ctl dht find --text 'dir*' --text staff --json
  xcast-ctl dht find --type ldap --near 52.4,13.1 --radius 50 --limit 1 --uri
  xcast-ctl dht find --near 52.4,13.1 --rings 1 --size 2
  xcast-ctl dht find --type dns-sd --polygon 52.6,13.1 52.6,13.7 52.4,13.4

EXIT STATUS
  0  found
  1  not found
  2  error, such as a question for everything, or no node here")]
pub(in super::super) struct Args {
    /// What finds or is found there: ldap, slp, uddi, dns-sd, or another word
    #[arg(long = "type", value_name = "TYPE", required_unless_present_any = ["text", "radius", "rings", "polygon"])]
    kind: Option<String>,

    /// A word of its description, or one with * where anything may be
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    text: Vec<String>,

    /// A place, in degrees: the nearest come first
    #[arg(long, value_name = "LATITUDE,LONGITUDE", value_parser = place, allow_hyphen_values = true)]
    near: Option<(f64, f64)>,

    /// Greatest distance from there, in kilometres
    #[arg(long, value_name = "KM", requires = "near", value_parser = kilometres)]
    radius: Option<f64>,

    /// The cell of the grid around there, and so many rings of cells around it
    #[arg(long, value_name = "N", requires = "near", conflicts_with = "radius")]
    rings: Option<u32>,

    /// With --rings, the size of cells: 0 (edges of 480 km), 1 (70 km), 2 (10 km) or 3 (1.4 km)
    #[arg(long, value_name = "SIZE", requires = "rings", default_value_t = 3, value_parser = clap::value_parser!(u8).range(..=3))]
    size: u8,

    /// Corners of an area, in degrees, at least three
    #[arg(long, value_name = "LATITUDE,LONGITUDE", num_args = 3.., value_parser = place, allow_hyphen_values = true, conflicts_with_all = ["radius", "rings"])]
    polygon: Vec<(f64, f64)>,

    /// Show so many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Show the URIs only
    #[arg(long = "uri", conflicts_with_all = ["json", "compare"])]
    uris_only: bool,

    #[command(flatten)]
    ask: AskArgs,
}

fn pattern(text: &str) -> Result<String, String> {
    text.parse::<Pattern>()
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

fn kilometres(text: &str) -> Result<f64, String> {
    let radius = text
        .parse()
        .ok()
        .filter(|radius| (0.0..=20_100.0).contains(radius));
    radius.ok_or_else(|| format!("{text:?} is no distance on the Earth in kilometres"))
}

fn area(args: &Args) -> Option<Where> {
    if !args.polygon.is_empty() {
        return Some(Where::Polygon(args.polygon.clone()));
    }
    let around = args.near?;
    match (args.radius, args.rings) {
        (Some(km), _) => Some(Where::Circle {
            around,
            radius_m: km * 1e3,
        }),
        (None, Some(rings)) => Some(Where::Neighbourhood {
            around,
            rings,
            size: args.size.into(),
        }),
        (None, None) => None,
    }
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let operation = Operation::Find {
        kind: args.kind.clone(),
        text: args.text.clone(),
        near: args.near,
        area: area(args),
        limit: args.limit,
    };
    let render = |report: &Report| match args.uris_only && !report.services.is_empty() {
        true => report
            .services
            .iter()
            .map(|service| format!("{}\n", service.uri))
            .collect(),
        false => render::services(report),
    };
    ask(&args.ask, router, operation, render, |report| {
        !report.services.is_empty()
    })
}
