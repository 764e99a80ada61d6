//! `xcast-ctl dht find`.

use anyhow::Result;
use xcast_overlay::services::Pattern;

use super::super::{
    compare::{AskArgs, ask},
    message::{Operation, Report},
    parse::place,
    render,
};
use crate::output::Outcome;

/// Find services by type, text and place
///
/// All that is asked for has to hold. With --near the nearest come first; with --radius only those
/// within it are found. A pattern is a word in which * stands for anything.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht find --type ldap --near 52.4,13.1 --radius 50
  xcast-ctl dht find --text 'dir*' --text staff --json
  xcast-ctl dht find --type ldap --near 52.4,13.1 --radius 50 --limit 1 --uri

EXIT STATUS
  0  found
  1  not found
  2  error, such as a question for everything, or no node here")]
pub(in super::super) struct Args {
    /// What finds or is found there: ldap, slp, uddi, dns-sd, or another word
    #[arg(long = "type", value_name = "TYPE", required_unless_present_any = ["text", "radius"])]
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

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let operation = Operation::Find {
        kind: args.kind.clone(),
        text: args.text.clone(),
        near: args.near,
        radius_m: args.radius.map(|km| km * 1e3),
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
