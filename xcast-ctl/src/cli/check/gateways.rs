//! Gateways that get unicast instead of lists, and why.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::report::Neighbor;

/// More gateways than this are counted, not listed.
const LISTED: usize = 8;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(running) = &facts.running else {
        return;
    };
    let without = running.neighbors.iter().filter(|row| !row.xcast);
    // Those that never spoke Xcast are what a partial deployment is made of.
    let (failing, others): (Vec<_>, Vec<_>) =
        without.partition(|row| matches!(&*row.standing, "lost" | "swallows" | "on trial"));
    if !failing.is_empty() {
        findings.push(finding(
            "gateways_failing",
            Severity::Warning,
            None,
            format!(
                "gateways that took lists, or should, get a unicast packet per destination: {}",
                listed(&failing)
            ),
            "see whether the router there runs, and runs \"xcast-ctl check\" without faults; a packet filter between may \
             drop Xcast's protocol number or routing headers",
        ));
    }
    if !others.is_empty() {
        findings.push(ok(
            "gateways",
            None,
            format!(
                "gateways that do not speak Xcast get a unicast packet per destination: {}",
                listed(&others)
            ),
        ));
    }
}

fn listed(rows: &[&Neighbor]) -> String {
    let texts = rows.iter().take(LISTED);
    let texts = texts.map(|row| format!("{} on {} ({})", row.address, row.device, row.why));
    let mut text = texts.collect::<Vec<_>>().join("; ");
    if let more @ 1.. = rows.len().saturating_sub(LISTED) {
        text += &format!("; and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{
        judge as judge_all,
        testing::{facts, found, start},
    };
    use super::*;

    #[test]
    fn gateways_that_stopped_are_worth_a_warning_and_silent_ones_are_not() {
        let mut facts = facts();
        start(&mut facts);
        let row = |last: u8, xcast, standing: &str| Neighbor {
            device: "eth0".to_owned(),
            address: [10, 0, 0, last].into(),
            xcast,
            standing: standing.to_owned(),
            why: format!("it is {standing}"),
            round_trip_us: None,
            proven_ms_ago: None,
            probes_sent: 1,
            probes_returned: 0,
            losses: 0,
        };
        if let Some(running) = &mut facts.running {
            running.neighbors = vec![
                row(1, true, "proven"),
                row(2, false, "silent"),
                row(3, false, "lost"),
                row(4, false, "swallows"),
            ];
        }
        assert_eq!(
            found(&facts),
            [("gateways_failing", Severity::Warning, None)]
        );
        let told = judge_all(&facts);
        let what = |check| &told.iter().find(|found| found.check == check).unwrap().what;
        assert!(what("gateways_failing").contains("10.0.0.3 on eth0 (it is lost); 10.0.0.4"));
        assert!(what("gateways").contains("10.0.0.2 on eth0 (it is silent)"));
        assert!(!what("gateways").contains("10.0.0.1"));
    }
}
