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
    let reported = &running.reported;
    let mut add = |check, severity, what: String, remedy: &str| {
        findings.push(finding(check, severity, None, what, remedy));
    };
    if reported.pending_edits > 0 {
        let example = reported
            .example
            .as_deref()
            .unwrap_or("see the router's log");
        add(
            "pending_edits",
            Severity::Warning,
            format!(
                "{} changes are not in the datapath's maps yet ({example}): their destinations go to \
                 the kernel's stack meanwhile",
                reported.pending_edits
            ),
            "nothing, if the number falls: the router tries again; otherwise it needs fewer routes, or \
             more memory",
        );
    }
    if let Some(fault) = &reported.fault {
        add(
            "own_interface_fault",
            Severity::Fault,
            format!("the router cannot put its own interface right: {fault}"),
            "have network managers and udev leave that interface alone, then restart the router",
        );
    } else if reported.repairs > 0 {
        add(
            "own_interface_repairs",
            Severity::Warning,
            format!(
                "somebody changed the router's own interface, which the router has put right {} times",
                reported.repairs
            ),
            "have network managers and udev leave that interface alone: the router's log says what \
             they change",
        );
    }
    if reported.log_lines_lost > 0 {
        add(
            "log",
            Severity::Warning,
            format!(
                "{} lines of the router's log are lost: there were too many, or they could not be \
                 written",
                reported.log_lines_lost
            ),
            "see whether what reads its standard error still does, and whether the disk is full",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        status::Reported,
        testing::{facts, found, start},
    };
    use super::*;
    use crate::report;

    #[test]
    fn what_the_router_says_of_itself() {
        let all = Reported::read(&json!({
            "pending_edits": {
                "count": 3,
                "examples": [{"what": "route 10.0.0.0/8", "error": "full", "attempts": 2}],
            },
            "own_interface_repairs": 2,
            "log_lines_lost": 7,
        }));
        assert_eq!(all.example.as_deref(), Some("route 10.0.0.0/8: full"));
        let mut facts = facts();
        start(&mut facts);
        let judged = |facts: &mut Facts, reported: Reported| {
            if let Some(running) = &mut facts.running {
                running.reported = reported;
            }
            found(facts)
        };
        let warning = |check| (check, Severity::Warning, None);
        assert_eq!(
            judged(&mut facts, all),
            [
                warning("pending_edits"),
                warning("own_interface_repairs"),
                warning("log")
            ]
        );
        let fault = Reported::read(&json!({"own_interface_fault": "no address"}));
        let expected = ("own_interface_fault", Severity::Fault, None);
        assert_eq!(judged(&mut facts, fault), [expected]);
        // A router of another version does not tell.
        let status = Reported::from(&report::Status::example());
        assert_eq!(judged(&mut facts, status), []);
    }
}
