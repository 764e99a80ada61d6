//! `xcast-ctl stats`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use xcast_common::maps::counter::{self, Counter};

use super::ask::ask;
use crate::{
    control::{Request, Response},
    output::{
        Outcome, print, print_json, print_json_line,
        table::{Align, Table},
    },
    report::{self, Counters, Stats},
};

/// Show the router's counters, in total and per port
///
/// Every counter is named after its reason. What happens to an arriving packet is counted on the
/// port it arrived on; what happens to a copy, on the port it leaves from. The row "loss" is the
/// number of copies planned minus copies sent, plus packets recirculated minus packets returned. `xcast-ctl check` looks for its cause.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl stats
  xcast-ctl stats --watch 5 --port eth0
  xcast-ctl stats --json | jq .loss

EXIT STATUS
  0  done
  2  error, also if no router runs here")]
pub(super) struct Args {
    /// Show rates per second, repeatedly, every SECONDS (default 1)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,

    /// Only this port (can be repeated)
    #[arg(long = "port", value_name = "NAME")]
    ports: Vec<String>,

    /// Also show counters that are zero
    #[arg(long)]
    all: bool,

    /// Show what each counter means, instead of values
    #[arg(long, conflicts_with_all = ["watch", "ports", "all"])]
    explain: bool,

    /// One JSON document instead of a table; with --watch one per line, with absolute values
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    if args.explain {
        return explain(args.json);
    }
    let Some(seconds) = args.watch else {
        let stats = sample(args, router)?;
        if args.json {
            print_json(&stats)?;
        } else {
            print(&render(&columns(&stats), args.all))?;
        }
        return Ok(Outcome::Done);
    };
    // At most a day, which a Duration can express.
    ensure!(
        (0.1..=86400.0).contains(&seconds),
        "--watch {seconds}: give 0.1 to 86400 seconds"
    );
    watch(args, router, Duration::from_secs_f64(seconds))
}

fn sample(args: &Args, router: &str) -> Result<Stats> {
    let stats = ask(router, &Request::Stats, |response| match response {
        Response::Stats(stats) => Some(stats),
        _ => None,
    })?;
    if args.ports.is_empty() {
        return Ok(stats);
    }
    if let Some(name) = args
        .ports
        .iter()
        .find(|name| stats.ports.iter().all(|port| port.name != **name))
    {
        bail!("--port {name}: the router has no such port (xcast-ctl ports lists them)");
    }
    let mut ports = stats.ports;
    ports.retain(|port| args.ports.contains(&port.name));
    Ok(Stats::new(ports))
}

fn watch(args: &Args, router: &str, interval: Duration) -> Result<Outcome> {
    let mut last = (Instant::now(), sample(args, router)?);
    loop {
        if args.json {
            print_json_line(&last.1)?;
        }
        thread::sleep(interval);
        let next = (Instant::now(), sample(args, router)?);
        if !args.json {
            let seconds = next.0.duration_since(last.0).as_secs_f64();
            let rates = rates(&columns(&last.1), &columns(&next.1), seconds);
            print(&format!("per second\n{}\n", render(&rates, args.all)))?;
        }
        last = next;
    }
}

fn explain(json: bool) -> Result<Outcome> {
    if json {
        let help: BTreeMap<_, _> = counter::NAMES
            .iter()
            .zip(counter::HELP.map(str::trim))
            .collect();
        print_json(&help)?;
    } else {
        let mut table = Table::plain([Align::Left, Align::Left]);
        for (name, help) in counter::NAMES.iter().zip(counter::HELP) {
            table.row([(*name).to_owned(), help.trim().to_owned()]);
        }
        print(&table.to_string())?;
    }
    Ok(Outcome::Done)
}

/// A column of the table: a heading and values by row name.
type Column = (String, Counters);

/// Rows that are computed, or counted elsewhere than in the datapath.
const LOSS: &str = "loss";
const DRIVER_DROPS: &str = "driver_drops";

/// The sum over all ports, then each port.
fn columns(stats: &Stats) -> Vec<Column> {
    let column = |counters: &Counters, loss, driver_drops: Option<u64>| {
        let mut counters = counters.clone();
        counters.insert(LOSS.to_owned(), loss);
        if let Some(drops) = driver_drops {
            counters.insert(DRIVER_DROPS.to_owned(), drops);
        }
        counters
    };
    let driver_drops = stats
        .ports
        .iter()
        .filter_map(|port| port.driver_drops)
        .reduce(|a, b| a + b);
    let total = column(&stats.totals, stats.loss, driver_drops);
    let ports = stats.ports.iter().map(|port| {
        let loss = report::loss(&port.counters);
        (
            port.name.clone(),
            column(&port.counters, loss, port.driver_drops),
        )
    });
    [("total".to_owned(), total)]
        .into_iter()
        .chain(ports)
        .collect()
}

/// Changes per second. A port that was not there before starts from zero.
fn rates(before: &[Column], after: &[Column], seconds: f64) -> Vec<Column> {
    let rate = |(name, values): &Column| {
        let before = before.iter().find(|(other, _)| other == name);
        let values = values.iter().map(|(counter, value)| {
            let before = before
                .and_then(|(_, values)| values.get(counter))
                .unwrap_or(&0);
            // A router that was restarted counts from zero again.
            let change = value.saturating_sub(*before) as f64;
            (counter.clone(), (change / seconds).round() as u64)
        });
        (name.clone(), values.collect())
    };
    after.iter().map(rate).collect()
}

/// Rows in groups, in the order a packet meets them.
fn groups() -> [(&'static str, Vec<&'static str>); 5] {
    let named = |prefix| {
        counter::NAMES
            .into_iter()
            .filter(move |name| name.starts_with(prefix))
    };
    let names = |counters: &[Counter]| counters.iter().map(|counter| counter.name()).collect();
    [
        (
            "packets",
            names(&[
                Counter::Received,
                Counter::Decapsulated,
                Counter::TunnelReceived,
                Counter::TunnelRefused,
                Counter::PlanReused,
                Counter::Recirculated,
                Counter::Returned,
            ]),
        ),
        (
            "copies",
            [Counter::Planned, Counter::Sent]
                .map(Counter::name)
                .into_iter()
                .chain([LOSS, DRIVER_DROPS])
                .chain(
                    [Counter::X2u, Counter::TunnelSent, Counter::TunnelHairpin].map(Counter::name),
                )
                .collect(),
        ),
        ("destinations to the stack", named("stack_").collect()),
        ("dropped", named("drop_").collect()),
        ("destinations skipped", named("skip_").collect()),
    ]
}

fn render(columns: &[Column], all: bool) -> String {
    // The first column is the total. Ports without traffic are left out.
    let shown: Vec<&Column> = columns
        .iter()
        .enumerate()
        .filter(|(at, (_, values))| *at == 0 || all || values.values().any(|value| *value != 0))
        .map(|(_, column)| column)
        .collect();
    let mut text = String::new();
    let cell = |value: Option<&u64>| value.map_or_else(|| "-".to_owned(), u64::to_string);
    let width = |(name, values): &&Column| {
        values
            .values()
            .map(|value| value.to_string().len())
            .chain([name.len()])
            .max()
    };
    let widths: Vec<usize> = shown
        .iter()
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let name_width = groups()
        .iter()
        .flat_map(|(group, names)| names.iter().map(|name| name.len() + 2).chain([group.len()]))
        .max()
        .unwrap_or(0);
    let mut line = |name: &str, cells: Vec<String>| {
        let mut line = format!("{name:<name_width$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line += &format!("  {cell:>width$}");
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line("", shown.iter().map(|(name, _)| name.clone()).collect());
    for (group, names) in groups() {
        let rows: Vec<_> = names
            .into_iter()
            .filter(|name| {
                let values = shown.iter().filter_map(|(_, values)| values.get(*name));
                let mut values = values.peekable();
                values.peek().is_some() && (all || values.any(|value| *value != 0))
            })
            .collect();
        if !rows.is_empty() {
            line(group, Vec::new());
        }
        for name in rows {
            let cells = shown
                .iter()
                .map(|(_, values)| cell(values.get(name)))
                .collect();
            line(&format!("  {name}"), cells);
        }
    }
    if text.lines().count() == 1 {
        return "nothing was counted\n".to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PortStats;

    fn stats(planned: u64, sent: u64) -> Stats {
        let port = |name: &str, slot, counts: &[(Counter, u64)]| {
            let mut values = [0; counter::COUNT];
            for (counter, value) in counts {
                values[*counter as usize] = *value;
            }
            PortStats {
                name: name.to_owned(),
                slot,
                ifindex: u32::from(slot),
                counters: report::counters(&values),
                driver_drops: None,
            }
        };
        Stats::new(vec![
            port("xcast0", 1, &[]),
            port(
                "eth0",
                2,
                &[(Counter::Received, 100), (Counter::DropChecksum, 2)],
            ),
            port(
                "eth1",
                3,
                &[(Counter::Planned, planned), (Counter::Sent, sent)],
            ),
        ])
    }

    #[test]
    fn groups_hold_every_counter_once() {
        let mut names: Vec<_> = groups().into_iter().flat_map(|(_, names)| names).collect();
        names.retain(|name| ![LOSS, DRIVER_DROPS].contains(name));
        names.sort_unstable();
        let mut expected = counter::NAMES.to_vec();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn zero_rows_and_quiet_ports_are_hidden() {
        assert_eq!(
            render(&columns(&stats(300, 299)), false),
            "                           total  eth0  eth1
packets
  received                   100   100     0
copies
  planned                    300     0   300
  sent                       299     0   299
  loss                         1     0     1
dropped
  drop_checksum                2     2     0
"
        );
        let all = render(&columns(&stats(300, 299)), true);
        assert!(all.contains("xcast0") && all.contains("skip_ttl"));
        assert!(!all.contains(DRIVER_DROPS), "nobody told driver drops");
        assert_eq!(
            render(&columns(&Stats::new(Vec::new())), false),
            "nothing was counted\n"
        );
    }

    #[test]
    fn rates_are_changes_per_second_and_survive_a_restart() {
        let rate = |before: u64, after: u64| {
            let rates = rates(&columns(&stats(before, 0)), &columns(&stats(after, 0)), 2.0);
            rates[0].1["planned"]
        };
        assert_eq!(rate(100, 300), 100);
        assert_eq!(rate(300, 100), 0);
    }
}
