//! `xcast-ctl tunnels`.

use anyhow::Result;

use super::ask::ask;
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print, print_json,
        table::{Align, Table, or_dash, yes_no},
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
    if args.json {
        print_json(&tunnels)?;
    } else {
        print(&render(&tunnels))?;
    }
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
        let (round_trip, proven) = (tunnel.round_trip_us, tunnel.proven_ms_ago);
        table.row([
            tunnel.name.clone(),
            tunnel.remote.to_string(),
            or_dash(tunnel.local),
            or_dash(tunnel.device.as_ref()),
            yes_no(tunnel.working),
            or_dash(tunnel.mode.as_ref()),
            or_dash(round_trip.map(|us| format!("{:.2} ms", us as f64 / 1e3))),
            or_dash(proven.map(|ms| format!("{:.1} s ago", ms as f64 / 1e3))),
            or_dash(tunnel.path_mtu),
            or_dash(tunnel.mtu),
            tunnel.why.clone(),
        ]);
    }
    table.to_string()
}
