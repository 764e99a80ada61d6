//! `xcast-ctl tunnels`.

use anyhow::Result;

use super::ask::ask;
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, ago, or_dash, round_trip, yes_no},
    },
    report::Tunnel,
};

/// List the tunnels to other routers, and whether they carry traffic
///
/// A tunnel carries lists past routers that know nothing of Xcast. It is asked all the time, in each way that the
/// configuration allows, and used only while the other router answers. While it is not, its destinations go to the next
/// tunnel that has them, or each gets a unicast packet of its own. MTU is the longest packet inside, the outer headers
/// not counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl tunnels
  xcast-ctl tunnels --json | jq -r '.[] | select(.working | not) | \"\\(.name) \\(.why)\"'

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// One JSON document, an array of rows, instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let tunnels = ask(router, &Request::Tunnels, |response| match response {
        Response::Tunnels(tunnels) => Some(tunnels),
        _ => None,
    })?;
    print_answer(args.json, tunnels.as_slice(), render)?;
    Ok(Outcome::Done)
}

fn render(tunnels: &[Tunnel]) -> String {
    let mut table = Table::new([
        ("TUNNEL", Align::Left),
        ("REMOTE", Align::Left),
        ("LOCAL", Align::Left),
        ("PORT", Align::Left),
        ("WORKS", Align::Left),
        ("MODE", Align::Left),
        ("ROUND TRIP", Align::Right),
        ("LAST PROOF", Align::Right),
        ("PATH MTU", Align::Right),
        ("MTU", Align::Right),
        ("WHY", Align::Left),
    ]);
    for tunnel in tunnels {
        table.row([
            tunnel.name.clone(),
            tunnel.remote.to_string(),
            or_dash(tunnel.local),
            or_dash(tunnel.device.as_ref()),
            yes_no(tunnel.working),
            or_dash(tunnel.mode.as_ref()),
            round_trip(tunnel.round_trip_us),
            ago(tunnel.proven_ms_ago),
            or_dash(tunnel.path_mtu),
            or_dash(tunnel.mtu),
            tunnel.why.clone(),
        ]);
    }
    table.to_string()
}
