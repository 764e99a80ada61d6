//! `xcast-ctl neighbors`.

use anyhow::Result;

use super::ask::ask;
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, ago, round_trip, yes_no},
    },
    report::Neighbor,
};

/// List the gateways, and whether they speak Xcast
///
/// A gateway that speaks Xcast gets one packet with the list of all destinations behind it. Any other
/// gets a unicast packet for each. Unless router.gateways states it, gateways are asked with an Xcast
/// packet that leads back to this router (RFC 5058 section 11.2), and count only while they return it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl neighbors
  xcast-ctl neighbors --json | jq -r '.[] | select(.xcast | not) | \"\\(.address) \\(.why)\"'

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// One JSON document, an array of rows, instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let neighbors = ask(router, &Request::Neighbors, |response| match response {
        Response::Neighbors(neighbors) => Some(neighbors),
        _ => None,
    })?;
    print_answer(args.json, neighbors.as_slice(), render)?;
    Ok(Outcome::Done)
}

fn render(neighbors: &[Neighbor]) -> String {
    let mut table = Table::new([
        ("GATEWAY", Align::Left),
        ("PORT", Align::Left),
        ("XCAST", Align::Left),
        ("STANDING", Align::Left),
        ("ROUND TRIP", Align::Right),
        ("LAST PROOF", Align::Right),
        ("RETURNED", Align::Right),
        ("LOST", Align::Right),
        ("WHY", Align::Left),
    ]);
    for neighbor in neighbors {
        table.row([
            neighbor.address.to_string(),
            neighbor.device.clone(),
            yes_no(neighbor.xcast),
            neighbor.standing.clone(),
            round_trip(neighbor.round_trip_us),
            ago(neighbor.proven_ms_ago),
            format!("{}/{}", neighbor.probes_returned, neighbor.probes_sent),
            neighbor.losses.to_string(),
            neighbor.why.clone(),
        ]);
    }
    table.to_string()
}
