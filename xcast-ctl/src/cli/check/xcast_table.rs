//! The Xcast routing table (RFC 5058 section 11.1): whether anybody fills it, and whether lists can go where its
//! routes lead.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

/// More ways than this are counted, not listed.
const LISTED: usize = 8;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let running = facts.running.as_ref();
    let Some(table) = running.and_then(|running| running.status.xcast_table.as_ref()) else {
        return;
    };
    let number = table.table;
    if let Some(rule) = facts.rules.iter().find(|rule| rule.table == Some(number)) {
        findings.push(finding(
            "xcast_table_rule",
            Severity::Warning,
            None,
            format!(
                "the ip rule \"{}\" has the kernel consult the Xcast routing table {number} for unicast, \
                 too: routes to the far ends of tunnels lead nowhere for the kernel",
                rule.text
            ),
            "remove the rule, or give router.xcast_table a table that no rule names",
        ));
    }
    if table.usable == 0 && table.passed_over.is_empty() {
        findings.push(finding(
            "xcast_table_empty",
            Severity::Warning,
            None,
            format!(
                "the Xcast routing table {number} has no routes by gateways or tunnels, so the kernel's tables \
                 decide about every list"
            ),
            format!(
                "have a routing daemon write its routes there (BIRD: \"kernel table {number}\"), or routes \
                 by hand (docs/deployment.md has examples), or remove \
                 router.xcast_table"
            ),
        ));
        return;
    }
    if table.passed_over.is_empty() {
        let what = format!(
            "the Xcast routing table {number}: {} routes in use",
            table.usable
        );
        findings.push(ok("xcast_table", None, what));
        return;
    }
    let routes: usize = table.passed_over.iter().map(|row| row.routes).sum();
    let rows = table.passed_over.iter().take(LISTED);
    let rows = rows.map(|row| format!("{} ({})", row.example, row.why));
    let more = table.passed_over.len().saturating_sub(LISTED);
    let more = match more {
        0 => String::new(),
        n => format!(" and {n} more ways"),
    };
    findings.push(finding(
        "xcast_table_passed_over",
        Severity::Warning,
        None,
        format!(
            "{routes} routes of the Xcast routing table {number} are passed over, because what they lead to takes no \
             lists: {}{more}. The kernel's tables decide about their destinations",
            rows.collect::<Vec<_>>().join("; ")
        ),
        "see xcast-ctl neighbors and xcast-ctl tunnels for what is missing there; a route's gateway has to be a \
         router on a port that speaks Xcast, or the far end of a tunnel",
    ));
}

#[cfg(test)]
mod tests {
    use super::super::{
        judge as judge_all,
        testing::{facts, found, start},
    };
    use super::*;
    use crate::report::{PassedOver, XcastTable};

    #[test]
    fn a_table_is_empty_or_leads_nowhere_or_is_good() {
        let judged = |table: XcastTable| {
            let mut facts = facts();
            start(&mut facts);
            if let Some(running) = &mut facts.running {
                running.status.xcast_table = Some(table);
            }
            facts
        };
        let warning = |check| vec![(check, Severity::Warning, None)];
        let empty = XcastTable {
            table: 100,
            ..XcastTable::default()
        };
        let with_some = XcastTable {
            usable: 3,
            ..empty.clone()
        };
        let row = |n: u8| PassedOver {
            routes: 2,
            example: format!("10.{n}.0.0/16").parse().unwrap(),
            why: "no tunnel".to_owned(),
        };
        let waiting = XcastTable {
            passed_over: (0..10).map(row).collect(),
            ..with_some.clone()
        };
        assert_eq!(found(&judged(empty)), warning("xcast_table_empty"));
        assert_eq!(found(&judged(with_some)), []);
        let facts = judged(waiting);
        assert_eq!(found(&facts), warning("xcast_table_passed_over"));
        let findings = judge_all(&facts);
        let told = findings
            .iter()
            .find(|finding| finding.check == "xcast_table_passed_over")
            .unwrap();
        for part in ["20 routes", "10.7.0.0/16 (no tunnel)", "2 more ways"] {
            assert!(told.what.contains(part), "{}", told.what);
        }
    }
}
