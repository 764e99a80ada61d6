//! `xcast-ctl explain`.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Result, ensure};
use xcast_common::wire::xcast4::MAX_DESTINATIONS;

use super::ask::ask;
use crate::{
    control::{ExplainRequest, Request, Response},
    output::{Outcome, print_answer},
    report::{Arrival, Branch, Destination, Explain, Form, Path},
};

/// Show the exact copies that the router would make of a packet, and why
///
/// The running router plans a packet from SRC to the listed destinations with its current maps.
/// Nothing is sent. Also says by which ports it would not take a packet of that source, and why.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl explain 10.77.0.2 10.77.3.2:5000 10.77.7.2:5000 10.77.8.2:6000
  xcast-ctl explain --x --length 1500 10.77.0.2 10.77.3.2 10.77.7.2

EXIT STATUS
  0  every destination would get a copy
  1  some destination would be skipped
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// Source address of the packet
    #[arg(value_name = "SRC")]
    source: IpAddr,

    /// Destinations in order, ADDRESS or ADDRESS:PORT
    #[arg(value_name = "DST", required = true)]
    destinations: Vec<Destination>,

    /// The packet has the X bit: it stays Xcast end to end
    #[arg(long)]
    x: bool,

    /// Length of the IP packet, which is compared with MTUs
    #[arg(long, value_name = "OCTETS")]
    length: Option<u16>,

    /// The port that the packet arrives by, which policy rules and VRFs may ask for
    #[arg(long, value_name = "PORT")]
    ingress: Option<String>,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let count = args.destinations.len();
    ensure!(
        count <= MAX_DESTINATIONS,
        "{count} destinations are too many: an Xcast packet lists at most {MAX_DESTINATIONS}"
    );
    let request = Request::Explain(ExplainRequest {
        ingress: args.ingress.clone(),
        source: args.source,
        destinations: args.destinations.clone(),
        x: args.x,
        length: args.length,
    });
    let explain = ask(router, &request, |response| match response {
        Response::Explain(explain) => Some(explain),
        _ => None,
    })?;
    print_answer(args.json, &explain, render)?;
    Ok(if explain.skipped.is_empty() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn render(explain: &Explain) -> String {
    let mut text = match (explain.copies.len(), explain.path) {
        (0, _) | (_, Path::None) => "no copy\n".to_owned(),
        (1, _) | (_, Path::Single) => "1 copy: the packet itself\n".to_owned(),
        (count, Path::Broadcast) => format!("{count} copies by one broadcast\n"),
        (count, Path::Recirculate) => {
            format!("{count} copies by recirculation (no device map for this set of ports yet)\n")
        }
    };
    // Writing to a string cannot fail.
    for (number, copy) in (1..).zip(&explain.copies) {
        let _ = writeln!(text, "\n{number}. {}: {}", headline(copy), copy.why);
        for destination in &copy.destinations {
            let _ = writeln!(text, "     {destination}");
        }
    }
    let (refused, taken): (Vec<_>, Vec<_>) = explain
        .arrivals
        .iter()
        .partition(|arrival| arrival.refused.is_some());
    if !refused.is_empty() {
        let taken: Vec<_> = taken.iter().map(|arrival| arrival.port.as_str()).collect();
        let taken = if taken.is_empty() {
            "no port".to_owned()
        } else {
            taken.join(", ")
        };
        let _ = writeln!(text, "\ntaken where it arrives by {taken}");
        for Arrival { port, refused } in refused {
            let _ = writeln!(
                text,
                "     not by {port}: {}",
                refused.as_deref().unwrap_or_default()
            );
        }
    }
    if !explain.skipped.is_empty() {
        text += "\nskipped\n";
        for skipped in &explain.skipped {
            let _ = writeln!(text, "     {}: {}", skipped.destination, skipped.why);
        }
    }
    text
}

/// `Xcast packet in tunnel west by eth0 to 10.0.0.2 (02:00:00:00:00:02)`
fn headline(copy: &Branch) -> String {
    let form = match copy.form {
        Form::Xcast => "Xcast packet",
        Form::Unicast => "unicast packet",
        Form::Stack => return "unicast packet to the kernel's stack".to_owned(),
    };
    let tunnel = copy.tunnel.as_ref();
    let tunnel = tunnel.map(|name| format!(" in tunnel {name}"));
    let mut text = format!("{form}{} by {}", tunnel.unwrap_or_default(), copy.port);
    if let Some(next_hop) = copy.next_hop {
        let _ = write!(text, " to {next_hop}");
    }
    if let Some(mac) = &copy.mac {
        let _ = write!(text, " ({mac})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Skipped;

    #[test]
    fn copies_in_words() {
        let explain = Explain {
            copies: vec![
                Branch {
                    port: "eth1".into(),
                    next_hop: Some("10.0.0.2".parse().unwrap()),
                    mac: Some("02:00:00:00:00:02".into()),
                    tunnel: None,
                    form: Form::Xcast,
                    destinations: vec!["10.1.0.1".parse().unwrap(), "10.1.0.2:7".parse().unwrap()],
                    why: "gateway speaks Xcast".into(),
                },
                Branch {
                    port: "eth1".into(),
                    next_hop: Some("192.0.2.1".parse().unwrap()),
                    mac: Some("02:00:00:00:00:03".into()),
                    tunnel: Some("west".into()),
                    form: Form::Xcast,
                    destinations: vec!["10.2.0.1".parse().unwrap()],
                    why: "10.2.0.0/16 through tunnel west".into(),
                },
                Branch {
                    port: "xcast0-dp".into(),
                    next_hop: None,
                    mac: None,
                    tunnel: None,
                    form: Form::Stack,
                    destinations: vec!["10.0.0.1".parse().unwrap()],
                    why: "own address".into(),
                },
            ],
            skipped: vec![Skipped {
                destination: "127.0.0.1".parse().unwrap(),
                why: "never a destination".into(),
            }],
            path: Path::Broadcast,
            arrivals: vec![
                Arrival {
                    port: "eth0".into(),
                    refused: None,
                },
                Arrival {
                    port: "eth2".into(),
                    refused: Some("drop_unproven: without a proof".into()),
                },
            ],
        };
        assert_eq!(
            render(&explain),
            "\
3 copies by one broadcast

1. Xcast packet by eth1 to 10.0.0.2 (02:00:00:00:00:02): gateway speaks Xcast
     10.1.0.1
     10.1.0.2:7

2. Xcast packet in tunnel west by eth1 to 192.0.2.1 (02:00:00:00:00:03): 10.2.0.0/16 through tunnel west
     10.2.0.1

3. unicast packet to the kernel's stack: own address
     10.0.0.1

taken where it arrives by eth0
     not by eth2: drop_unproven: without a proof

skipped
     127.0.0.1: never a destination
"
        );
    }
}
