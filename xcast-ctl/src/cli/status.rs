//! `xcast-ctl status`.

use std::fmt::Write as _;

use anyhow::Result;

use super::ask::ask;
use crate::{
    control::{Request, Response},
    gateways::Gateways,
    output::{
        Outcome, print_answer,
        table::{Align, Table},
    },
    report::Status,
};

/// Show whether a router runs here, for how long, and how it is configured
///
/// Asks the router of this network namespace.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl status
  ip netns exec R1 xcast-ctl status --json | jq .routes

EXIT STATUS
  0  a router runs here, and has the kernel's routes
  1  it runs, but has not read the kernel's routes yet
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let status = ask(router, &Request::Status, |response| match response {
        Response::Status(status) => Some(*status),
        _ => None,
    })?;
    print_answer(args.json, &status, render)?;
    Ok(if status.ready {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn render(status: &Status) -> String {
    let mut table = Table::plain([Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let ready = if status.ready {
        "ready"
    } else {
        "reading the kernel's routes"
    };
    row("state", ready.to_owned());
    row("version", status.version.clone());
    row("process", status.pid.to_string());
    row("up for", duration(status.uptime_seconds));
    let mut interface = status.interface.clone();
    if let Some(fault) = &status.own_interface_fault {
        // Writing to a string cannot fail.
        let _ = write!(interface, ": {fault}");
    } else if status.own_interface_repairs > 0 {
        let _ = write!(
            interface,
            ", put right {} times",
            status.own_interface_repairs
        );
    }
    row("interface", interface);
    row("protocol", status.protocol.to_string());
    row("group", status.group.to_string());
    row("gateways", gateways(&status.gateways));
    if let Some(table) = &status.xcast_table {
        let passed_over: usize = table.passed_over.iter().map(|row| row.routes).sum();
        row(
            "Xcast table",
            format!(
                "{}: {} routes in use, {passed_over} passed over",
                table.table, table.usable
            ),
        );
    }
    let udp_port = status.udp_port;
    let udp_port = udp_port.map_or("not accepted".to_owned(), |port| {
        format!("accepted at port {port}")
    });
    row("in UDP", udp_port);
    let lasting = match status.lasting {
        true => "forwarding outlives the process",
        false => "forwarding ends with the process",
    };
    row("lasting", lasting.to_owned());
    row("prune", status.prune.clone());
    row("ports", status.ports.to_string());
    row("routes", status.routes.to_string());
    row("next hops", status.next_hops.to_string());
    row("subsets", status.subsets_installed.to_string());
    if let Some(example) = status.pending_edits.examples.first() {
        let count = status.pending_edits.count;
        row(
            "pending",
            format!(
                "{count} changes, such as {}: {}",
                example.what, example.error
            ),
        );
    }
    row("resyncs", status.resyncs.to_string());
    if status.log_lines_lost > 0 {
        row("log", format!("{} lines were lost", status.log_lines_lost));
    }
    row("kernel", status.kernel.clone());
    let mut text = table.to_string();
    if !status.policy.is_empty() {
        text += "\nleft to the kernel's stack\n";
    }
    for row in &status.policy {
        text += &format!("  {} ({})\n", row.effect, row.cause);
    }
    if status.policy_more > 0 {
        text += &format!("  and {} more\n", status.policy_more);
    }
    text
}

fn gateways(gateways: &Gateways) -> String {
    match gateways {
        Gateways::Discover(_) => {
            "those that prove it speak Xcast (see xcast-ctl neighbors)".to_owned()
        }
        Gateways::All => "all speak Xcast".to_owned(),
        Gateways::None => "none speak Xcast".to_owned(),
        Gateways::List(addresses) => {
            let mut text = String::from("these speak Xcast:");
            for address in addresses {
                // Writing to a string cannot fail.
                let _ = write!(text, " {address}");
            }
            text
        }
    }
}

fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }

    #[test]
    fn one_line_per_fact() {
        let text = render(&Status::example());
        assert!(
            text.starts_with("state      ready\nversion    0.1.0\n"),
            "{text}"
        );
        assert!(text.contains("\ngateways   all speak Xcast\n"), "{text}");
        let reading = Status {
            ready: false,
            ..Status::example()
        };
        assert!(render(&reading).contains("reading the kernel's routes"));
    }

    #[test]
    fn a_list_of_gateways_in_words() {
        let list = Gateways::List(vec![
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
        ]);
        assert_eq!(gateways(&list), "these speak Xcast: 10.0.0.1 10.0.0.2");
    }
}
