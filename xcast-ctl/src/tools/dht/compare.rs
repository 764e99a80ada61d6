//! The same operation with unicast and with Xcast, in turns.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    links::{Counted, Links},
    message::{Delivery, Operation, Report, Request, Run, Sent},
    progress::Line,
    socket::Node,
};
use crate::{
    config::DATAPATH_SUFFIX,
    output::{
        Outcome, print_answer,
        table::{Align, Table},
    },
};

/// How long packets that are under way may take to be counted.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// What verbs have in common that ask a node to do something.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AskArgs {
    /// The node to ask, by the name it was given with --node
    #[arg(long, value_name = "NAME", default_value = "node")]
    node: String,

    /// Run it so often with unicast and so often with Xcast, in turns and from the same tables, and
    /// show what each costs
    ///
    /// With unicast, nothing waits for others to share a packet with. So of a node with --d-q, the times of
    /// Xcast have up to so much more for each round and each request to store.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    compare: Option<u32>,

    /// With --compare, count on this interface as the first link (default: all of this host's)
    #[arg(long, value_name = "IF", requires = "compare")]
    first_link: Option<String>,

    /// With --compare, count on the interfaces that this file lists as well
    ///
    /// Each line names a network namespace, or - for this one, and an interface in it; or both ends of a
    /// link, one after the other. If each end of each link is listed, what all of them sent is what
    /// crossed every link. Of veth interfaces, octets have the Ethernet header where lines have both ends.
    #[arg(long, value_name = "FILE", requires = "compare")]
    links: Option<PathBuf>,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

impl AskArgs {
    /// The node to ask.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Whether a JSON document is wanted.
    pub(super) fn json(&self) -> bool {
        self.json
    }
}

/// What came of an operation, or what it costs in both ways.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    /// What came of it.
    Report(Box<Report>),
    /// What it costs.
    Costs(Vec<Cost>),
}

/// Has a node do something, shows what came of it with `render`, and ends as `outcome` says.
pub(super) fn ask(
    args: &AskArgs,
    router: &str,
    operation: Operation,
    render: impl FnOnce(&Report) -> String,
    outcome: impl Fn(&Report) -> bool,
) -> Result<Outcome> {
    let (answer, outcome) = obtain(args, router, operation, outcome)?;
    show(args, &answer, render)?;
    Ok(outcome)
}

/// Shows an answer, with `render` if it is what came of an operation.
pub(super) fn show(
    args: &AskArgs,
    answer: &Answer,
    render: impl FnOnce(&Report) -> String,
) -> Result<()> {
    print_answer(args.json, answer, |answer| match answer {
        Answer::Report(report) => render(report),
        Answer::Costs(costs) => render_costs(costs),
    })
}

/// Has a node do something, and ends as `outcome` says.
pub(super) fn obtain(
    args: &AskArgs,
    router: &str,
    operation: Operation,
    outcome: impl Fn(&Report) -> bool,
) -> Result<(Answer, Outcome)> {
    let node = Node::named(&args.node);
    let (answer, succeeded) = match args.compare {
        Some(times) => {
            let (costs, succeeded) = compare(args, router, &node, &operation, times, outcome)?;
            (Answer::Costs(costs), succeeded)
        }
        None => {
            let run = Run {
                operation,
                comparing: None,
            };
            let report = done(&node, run, "")?;
            let succeeded = outcome(&report);
            (Answer::Report(Box::new(report)), succeeded)
        }
    };
    let outcome = match succeeded {
        true => Outcome::Done,
        false => Outcome::No,
    };
    Ok((answer, outcome))
}

fn done(node: &Node, run: Run, what: &str) -> Result<Report> {
    let mut line = Line::new();
    node.done(&Request::Run(Box::new(run)), |progress| {
        let (answered, asked) = (progress.answered, progress.asked);
        line.show(&format!("{what}{answered} of {asked} requests answered"));
    })
}

fn compare(
    args: &AskArgs,
    router: &str,
    node: &Node,
    operation: &Operation,
    times: u32,
    outcome: impl Fn(&Report) -> bool,
) -> Result<(Vec<Cost>, bool)> {
    let left_out = vec![router.to_owned(), format!("{router}{DATAPATH_SUFFIX}")];
    let links = Links::new(args.first_link.clone(), left_out, args.links.as_deref())?;
    let status = node.status()?;
    if let Some(why) = &status.unicast_because {
        ensure!(
            status.sent.xcast_packets > 0,
            "--compare: the node has no router that takes Xcast ({why}), so both would be the same"
        );
    }
    node.done(&Request::KeepTables, |_| {})?;
    let mut sums = [Delivery::Unicast, Delivery::Xcast].map(Sum::new);
    let mut succeeded = true;
    for turn in 1..=times {
        for sum in &mut sums {
            let before = links.read()?;
            let run = Run {
                operation: operation.clone(),
                comparing: Some(sum.delivery),
            };
            let report = done(node, run, &format!("turn {turn} of {times}: "))?;
            thread::sleep(UNDER_WAY);
            sum.add(&report, &before, &links.read()?);
            succeeded &= outcome(&report);
        }
    }
    let costs = sums.iter().map(|sum| sum.cost(times, links.has_all()));
    Ok((costs.collect(), succeeded))
}

/// What was counted in all turns of one kind.
struct Sum {
    delivery: Delivery,
    took_ms: Vec<f64>,
    rounds: u32,
    asked: u32,
    answered: u32,
    silent: u32,
    sent: Sent,
    first: Vec<Counted>,
}

/// What an operation cost on average: a row of the document of `--compare --json`.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    delivery: Delivery,
    runs: u32,
    rounds: f64,
    requests: f64,
    /// Requests without an answer, in percent.
    loss_percent: f64,
    messages: f64,
    packets: f64,
    xcast_packets: f64,
    received: f64,
    first_link_packets: f64,
    first_link_octets: f64,
    /// Those received as well: requests with replies.
    first_link_octets_both_ways: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_link_packets: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_link_octets: Option<f64>,
    p50_ms: f64,
    p95_ms: f64,
}

impl Sum {
    fn new(delivery: Delivery) -> Self {
        Self {
            delivery,
            took_ms: Vec::new(),
            rounds: 0,
            asked: 0,
            answered: 0,
            silent: 0,
            sent: Sent::default(),
            first: Vec::new(),
        }
    }

    fn add(&mut self, report: &Report, before: &Counted, after: &Counted) {
        self.took_ms.push(report.took_ms);
        self.rounds += report.rounds;
        self.asked += report.asked;
        self.answered += report.answered;
        self.silent += report.silent;
        let sent = &report.sent;
        self.sent.messages += sent.messages;
        self.sent.xcast_packets += sent.xcast_packets;
        self.sent.datagrams += sent.datagrams;
        self.sent.received += sent.received;
        self.first.push(Counted {
            first: after.first.since(&before.first),
            all: after.all.since(&before.all),
        });
    }

    fn cost(&self, times: u32, all: bool) -> Cost {
        let mean = |sum: u64| sum as f64 / f64::from(times);
        let counted = |count: fn(&Counted) -> u64| mean(self.first.iter().map(count).sum());
        let mut times_ms = self.took_ms.clone();
        times_ms.sort_by(f64::total_cmp);
        Cost {
            delivery: self.delivery,
            runs: times,
            rounds: mean(self.rounds.into()),
            requests: mean(self.asked.into()),
            loss_percent: 100.0 * f64::from(self.silent) / f64::from(self.asked.max(1)),
            messages: mean(self.sent.messages),
            packets: mean(self.sent.packets()),
            xcast_packets: mean(self.sent.xcast_packets),
            received: mean(self.sent.received),
            first_link_packets: counted(|c| c.first.sent_packets),
            first_link_octets: counted(|c| c.first.sent_octets),
            first_link_octets_both_ways: counted(|c| c.first.sent_octets + c.first.received_octets),
            every_link_packets: all.then(|| counted(|c| c.all.sent_packets)),
            every_link_octets: all.then(|| counted(|c| c.all.sent_octets)),
            p50_ms: quantile(&times_ms, 0.5),
            p95_ms: quantile(&times_ms, 0.95),
        }
    }
}

/// The smallest value that so large a part of them does not exceed (nearest rank).
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn render_costs(costs: &[Cost]) -> String {
    let [unicast, xcast] = costs else {
        return String::new();
    };
    let times = unicast.runs;
    let mut table = Table::new([
        ("AVERAGE OF A RUN", Align::Left),
        ("UNICAST", Align::Right),
        ("XCAST", Align::Right),
        ("SAVED", Align::Right),
    ]);
    let mut row = |name: &str, value: fn(&Cost) -> Option<f64>, saved: bool| {
        let (Some(one), Some(other)) = (value(unicast), value(xcast)) else {
            return;
        };
        let percent = match saved && one > 0.0 {
            true => format!("{:.1} %", 100.0 * (1.0 - other / one)),
            false => String::new(),
        };
        let text = |value: f64| format!("{value:.1}");
        table.row([name.to_owned(), text(one), text(other), percent]);
    };
    row("rounds", |c| Some(c.rounds), false);
    row("requests", |c| Some(c.requests), false);
    row("lost, in percent", |c| Some(c.loss_percent), false);
    row("messages", |c| Some(c.messages), false);
    row("packets sent", |c| Some(c.packets), true);
    row("datagrams received", |c| Some(c.received), false);
    row(
        "first link: packets sent",
        |c| Some(c.first_link_packets),
        true,
    );
    row(
        "first link: octets sent",
        |c| Some(c.first_link_octets),
        true,
    );
    row(
        "first link: octets both ways",
        |c| Some(c.first_link_octets_both_ways),
        true,
    );
    row("every link: packets", |c| c.every_link_packets, true);
    row("every link: octets", |c| c.every_link_octets, true);
    row("time, median, in ms", |c| Some(c.p50_ms), false);
    row("time, 95 %, in ms", |c| Some(c.p95_ms), false);
    format!("{times} runs each, in turns\n{table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_nearest_rank() {
        let sorted: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(
            (quantile(&sorted, 0.5), quantile(&sorted, 0.95)),
            (10.0, 19.0)
        );
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
