//! `xcast-ctl next-hops`.

use anyhow::Result;

use super::{ask::ask_pages, family::Families};
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, or_dash, yes_no},
    },
    report::NextHop,
};

/// List the next-hop table: where copies go, and with which addresses
///
/// There is one entry per port and next-hop address, per reason to hand a destination to the
/// kernel or to skip it, and per ECMP group. Destinations with the same next hop share a copy if
/// it speaks Xcast.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl next-hops
  xcast-ctl next-hops --family 6
  xcast-ctl next-hops --json | jq '.[] | select(.xcast)'

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// Only next hops with an address of this family, and those without an address
    #[arg(long, value_enum, default_value_t = Families::Both)]
    family: Families,

    /// One JSON document, an array of rows, instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let request = |last: Option<&NextHop>, _| Request::NextHops {
        after: last.map(|next_hop| next_hop.id),
    };
    let mut next_hops = ask_pages(router, None, request, |response| match response {
        Response::NextHops(page) => Some(page),
        _ => None,
    })?;
    if let Some(ipv6) = args.family.ipv6() {
        // Next hops without an address, reasons and ECMP groups serve both families.
        next_hops.retain(|hop| hop.address.is_none_or(|address| address.is_ipv6() == ipv6));
    }
    print_answer(args.json, next_hops.as_slice(), render)?;
    Ok(Outcome::Done)
}

fn render(next_hops: &[NextHop]) -> String {
    let mut table = Table::new([
        ("ID", Align::Right),
        ("KIND", Align::Left),
        ("ADDRESS", Align::Left),
        ("PORT", Align::Left),
        ("MAC", Align::Left),
        ("MTU", Align::Right),
        ("XCAST", Align::Left),
        ("ON LINK", Align::Left),
        ("REASON", Align::Left),
    ]);
    for next_hop in next_hops {
        table.row([
            next_hop.id.to_string(),
            next_hop.kind.clone(),
            or_dash(next_hop.address),
            or_dash(next_hop.port.as_ref()),
            or_dash(next_hop.mac.as_ref()),
            or_dash(next_hop.mtu),
            yes_no(next_hop.xcast),
            yes_no(next_hop.on_link),
            or_dash(next_hop.reason.as_ref()),
        ]);
    }
    table.to_string()
}
