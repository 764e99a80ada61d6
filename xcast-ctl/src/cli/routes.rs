//! `xcast-ctl routes`.

use anyhow::Result;

use super::{ask::ask_pages, family::Families};
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, or_dash},
    },
    report::Route,
};

/// List the route map: prefixes, next hops, and why
///
/// These are the kernel's routes as the datapath has them, plus a host route for each known
/// neighbour and the blocks that are never destinations. The longest matching prefix decides.
/// Destinations that match none are handed to the kernel. A long table is read in parts, while the router goes on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl routes
  xcast-ctl routes --family 6 --limit 10
  xcast-ctl routes --json | jq -r '.[] | select(.kind == \"stack\") | .prefix'

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// Only routes of this family
    #[arg(long, value_enum, default_value_t = Families::Both)]
    family: Families,

    /// Show at most this many rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// One JSON document, an array of rows, instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let request = |last: Option<&Route>, limit| Request::Routes {
        after: last.map(|route| route.prefix),
        limit,
        ipv6: args.family.ipv6(),
    };
    let routes = ask_pages(router, args.limit, request, |response| match response {
        Response::Routes(page) => Some(page),
        _ => None,
    })?;
    print_answer(args.json, routes.as_slice(), render)?;
    Ok(Outcome::Done)
}

fn render(routes: &[Route]) -> String {
    let mut table = Table::new([
        ("PREFIX", Align::Left),
        ("NEXT HOP", Align::Right),
        ("KIND", Align::Left),
        ("VIA", Align::Left),
        ("DEVICE", Align::Left),
        ("TABLE", Align::Right),
        ("WHY", Align::Left),
    ]);
    for route in routes {
        table.row([
            route.prefix.to_string(),
            route.next_hop.to_string(),
            route.kind.clone(),
            or_dash(route.via),
            or_dash(route.device.as_ref()),
            or_dash(route.table),
            route.why.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_has_not_is_a_dash() {
        let routes = [
            Route {
                prefix: "10.1.0.0/24".parse().unwrap(),
                next_hop: 7,
                kind: "forward".into(),
                via: Some("10.0.0.2".parse().unwrap()),
                device: Some("eth0".into()),
                table: Some(254),
                why: "gateway speaks Xcast".into(),
            },
            Route {
                prefix: "224.0.0.0/4".parse().unwrap(),
                next_hop: 1,
                kind: "skip".into(),
                via: None,
                device: None,
                table: None,
                why: "never a destination".into(),
            },
        ];
        assert_eq!(
            render(&routes),
            "\
PREFIX       NEXT HOP  KIND     VIA       DEVICE  TABLE  WHY
10.1.0.0/24         7  forward  10.0.0.2  eth0      254  gateway speaks Xcast
224.0.0.0/4         1  skip     -         -           -  never a destination
"
        );
    }
}
