//! `xcast-ctl ports`.

use anyhow::Result;

use super::ask::ask;
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, or_dash, yes_no},
    },
    report::{Mode, Port},
};

/// List the ports: the configured interfaces, and how the router is attached to them
///
/// An interface that does not exist is listed without an index. The router attaches to it as soon
/// as it appears.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl ports
  xcast-ctl ports --json | jq -r '.[] | select(.mode != \"native\") | .name'

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// One JSON document, an array of rows, instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let ports = ask(router, &Request::Ports, |response| match response {
        Response::Ports(ports) => Some(ports),
        _ => None,
    })?;
    print_answer(args.json, ports.as_slice(), render)?;
    Ok(Outcome::Done)
}

fn render(ports: &[Port]) -> String {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("SLOT", Align::Right),
        ("INDEX", Align::Right),
        ("MAC", Align::Left),
        ("MTU", Align::Right),
        ("MODE", Align::Left),
        ("UP", Align::Left),
        ("GROUP MAC", Align::Left),
        ("ERROR", Align::Left),
    ]);
    for port in ports {
        table.row([
            port.name.clone(),
            or_dash(port.slot),
            or_dash(port.ifindex),
            or_dash(port.mac.as_ref()),
            or_dash(port.mtu),
            or_dash(port.mode.map(|mode| match mode {
                Mode::Native => "native",
                Mode::Generic => "generic",
            })),
            yes_no(port.up),
            yes_no(port.group_mac),
            or_dash(port.error.as_ref()),
        ]);
    }
    table.to_string()
}
