//! What the running router itself says is not right: changes that the datapath does not have,
//! trouble with its own interface, a log with gaps.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(running) = &facts.running else {
        return;
    };
    let status = &running.status;
    let mut add = |check, severity, what: String, remedy: &str| {
        findings.push(finding(check, severity, None, what, remedy));
    };
    let pending = &status.pending_edits;
    if pending.count > 0 {
        let example = match pending.examples.first() {
            Some(example) => format!("{}: {}", example.what, example.error),
            None => "see the router's log".to_owned(),
        };
        add(
            "pending_edits",
            Severity::Warning,
            format!(
                "{} changes are not in the datapath's maps yet ({example}): their destinations go to \
                 the kernel's stack meanwhile",
                pending.count
            ),
            "nothing, if the number falls: the router tries again; otherwise it needs fewer routes, or \
             more memory",
        );
    }
    if let Some(fault) = &status.own_interface_fault {
        add(
            "own_interface_fault",
            Severity::Fault,
            format!("the router cannot put its own interface right: {fault}"),
            "have network managers and udev leave that interface alone, then restart the router",
        );
    } else if status.own_interface_repairs > 0 {
        add(
            "own_interface_repairs",
            Severity::Warning,
            format!(
                "somebody changed the router's own interface, which the router has put right {} times",
                status.own_interface_repairs
            ),
            "have network managers and udev leave that interface alone: the router's log says what \
             they change",
        );
    }
    if status.log_lines_lost > 0 {
        add(
            "log",
            Severity::Warning,
            format!(
                "{} lines of the router's log are lost: there were too many, or they could not be \
                 written",
                status.log_lines_lost
            ),
            "see whether what reads its standard error still does, and whether the disk is full",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        judge as judge_all,
        testing::{facts, found, start},
    };
    use super::*;
    use crate::report::{PendingEdit, PendingEdits, Status};

    #[test]
    fn what_the_router_says_of_itself() {
        let mut facts = facts();
        start(&mut facts);
        assert_eq!(found(&facts), []);
        let judged = |change: fn(&mut Status)| {
            let mut facts = facts.clone();
            if let Some(running) = &mut facts.running {
                change(&mut running.status);
            }
            (found(&facts), judge_all(&facts))
        };
        let warning = |check| (check, Severity::Warning, None);
        let (checks, findings) = judged(|status| {
            status.pending_edits = PendingEdits {
                count: 3,
                examples: vec![PendingEdit {
                    what: "route 10.0.0.0/8".to_owned(),
                    error: "full".to_owned(),
                    attempts: 2,
                }],
            };
            status.own_interface_repairs = 2;
            status.log_lines_lost = 7;
        });
        assert_eq!(
            checks,
            [
                warning("pending_edits"),
                warning("own_interface_repairs"),
                warning("log")
            ]
        );
        let tells = |finding: &Finding| finding.what.contains("route 10.0.0.0/8: full");
        assert!(findings.iter().any(tells));
        let (checks, _) =
            judged(|status| status.own_interface_fault = Some("no address".to_owned()));
        assert_eq!(checks, [("own_interface_fault", Severity::Fault, None)]);
    }
}
