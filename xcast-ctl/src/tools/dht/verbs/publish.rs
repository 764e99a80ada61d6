//! `xcast-ctl dht publish`.

use anyhow::Result;

use super::super::{
    compare::{AskArgs, ask},
    message::{Operation, Service},
    parse::{attribute, place},
    render,
};
use crate::output::Outcome;

/// Publish a service: what it is, how to reach it, where it is
///
/// The description is signed with the node's key and stored at nodes of this kind, under its type, its
/// place, and the words of its URI and attributes. The node stores it again before it expires, as long
/// as it runs. The same type and URI again replace what was published before; `dht store KEY --withdraw`
/// with the key that is shown ends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht publish --type ldap --uri ldap://ldap.example.org:389/dc=example,dc=org \\
      --attribute 'name=Staff directory' --place 52.52,13.41
  xcast-ctl dht publish --type dns-sd --uri 'http://printer.example.org/?_ipp._tcp' --life 600

EXIT STATUS
  0  stored
  1  no other node stored it
  2  error, such as a description that is too long, or no node here")]
pub(in super::super) struct Args {
    /// What finds or is found there: ldap, slp, uddi, dns-sd, or another word
    #[arg(long = "type", value_name = "TYPE")]
    kind: String,

    /// How to reach it
    #[arg(long, value_name = "URI")]
    uri: String,

    /// What else there is to know; its words are found by
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,

    /// Where it is, in degrees
    #[arg(long, value_name = "LATITUDE,LONGITUDE", value_parser = place, allow_hyphen_values = true)]
    place: Option<(f64, f64)>,

    /// How long nodes keep it, in seconds, unless it is stored again: at most two hours
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i64).range(1..=7200))]
    life: i64,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let service = Service {
        kind: args.kind.to_lowercase(),
        uri: args.uri.clone(),
        attributes: args.attribute.iter().cloned().collect(),
        place: args.place,
        distance_m: None,
        life_s: args.life,
    };
    ask(
        &args.ask,
        router,
        Operation::Publish(service),
        render::stored,
        |report| report.stored > 0,
    )
}
