//! `xcast-ctl check`: [`facts`] asks the kernel and the router; the rules, a module for each
//! subject, judge the answers. Rules are pure, so that each can be tried without the machine it is
//! about.

mod facts;
mod finding;
mod forwarding;
mod gateways;
mod ipv6;
mod kernel;
mod lasting;
mod loss;
mod memory;
mod own_interface;
mod packet_filter;
mod policy_routing;
mod port;
mod relay;
mod reported;
mod setting;
mod stacked;
#[cfg(test)]
mod testing;
mod traffic_control;
mod tunnels;
mod udp;
mod unlike_unicast;
mod xcast_table;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use self::{
    facts::Facts,
    finding::{Finding, Severity},
};
use crate::{
    config::Config,
    output::{Outcome, print_answer},
};

/// Find what makes the router lose packets silently
///
/// Looks at the kernel with its packet filter and its rules of policy routing, at every configured port
/// and, if it exists, at the router's own interface. Says what unicast would get and Xcast does not, and
/// what to do about it. Works with and without a running router, and looks at its counters if there is one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl check --config xcast.toml
  xcast-ctl check --config xcast.toml --json | jq -r '.findings[] | select(.severity == \"fault\")'

EXIT STATUS
  0  no fault, perhaps warnings
  1  at least one fault
  2  error")]
pub(super) struct Args {
    /// Configuration file of the router
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// The document of `xcast-ctl check --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Number of faults.
    faults: usize,
    /// Number of warnings.
    warnings: usize,
    /// Everything that was checked, in this order: machine, ports, router.
    findings: Vec<Finding>,
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    let config = Config::load(&args.config)?;
    let findings = judge(&Facts::gather(&config)?);
    let count = |severity| {
        let found = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        found.count()
    };
    let report = Report {
        faults: count(Severity::Fault),
        warnings: count(Severity::Warning),
        findings,
    };
    print_answer(args.json, &report, render)?;
    Ok(if report.faults == 0 {
        Outcome::Done
    } else {
        Outcome::No
    })
}

/// All findings, those that are good included.
fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in [
        kernel::judge,
        memory::judge,
        forwarding::judge,
        packet_filter::judge,
        policy_routing::judge,
        unlike_unicast::judge,
        port::judge,
        traffic_control::judge,
        own_interface::judge,
        ipv6::judge,
        udp::judge,
        tunnels::judge,
        relay::judge,
        loss::judge,
        reported::judge,
        gateways::judge,
        xcast_table::judge,
        lasting::judge,
    ] {
        rule(facts, &mut findings);
    }
    findings
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Fault => "FAULT",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        let subject = match &finding.interface {
            Some(interface) => format!("{interface}: "),
            None => String::new(),
        };
        let _ = writeln!(text, "{severity:<7}  {subject}{}", finding.what);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "{:<7}  -> {remedy}", "");
        }
    }
    let plural = |n| if n == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "{} fault{}, {} warning{}",
        report.faults,
        plural(report.faults),
        report.warnings,
        plural(report.warnings)
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        testing::{facts, found, running, start},
        *,
    };
    use crate::report;

    #[test]
    fn a_good_machine_has_no_findings_and_says_what_was_looked_at() {
        assert_eq!(found(&facts()), []);
        let oks: Vec<_> = judge(&facts())
            .iter()
            .map(|finding| finding.check)
            .collect();
        assert_eq!(
            oks,
            [
                "kernel",
                "bpf",
                "forwarding",
                "packet_filter",
                "rule",
                "port",
                "port",
                "lasting"
            ]
        );
    }

    #[test]
    fn a_running_router_tells_losses_and_ports_it_is_not_on() {
        let mut facts = facts();
        start(&mut facts);
        let mut running = running();
        running.ports[0].mode = None;
        running.ports.pop();
        running.stats = report::Stats::new(vec![report::PortStats {
            name: "eth1".to_owned(),
            slot: 3,
            ifindex: 8,
            counters: BTreeMap::from([("planned".to_owned(), 5), ("sent".to_owned(), 3)]),
            driver_drops: Some(1),
        }]);
        facts.running = Some(running);
        let eth = |n| Some(format!("eth{n}"));
        assert_eq!(
            found(&facts),
            [
                ("attached", Severity::Fault, eth(0)),
                ("attached", Severity::Fault, eth(1)),
                ("loss", Severity::Warning, eth(1)),
                ("driver_drops", Severity::Warning, eth(1)),
            ]
        );
    }
}
