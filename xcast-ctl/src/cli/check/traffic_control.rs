//! Traffic control on ports: it sees nothing of what XDP takes or sends there.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    for port in &facts.ports {
        let control = &port.traffic_control;
        for (found, passes_by) in [
            (&control.ingress, "the Xcast packets that arrive"),
            (&control.egress, "copies that the router sends"),
        ] {
            if found.is_empty() {
                continue;
            }
            findings.push(finding(
                "traffic_control",
                Severity::Warning,
                Some(port),
                format!(
                    "{}: traffic control sees unicast here, and nothing of {passes_by}",
                    found.join(", ")
                ),
                "filter and shape at a neighbour, or limit Xcast by `limits` and by the port's `source` in the \
                 configuration",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found};
    use super::*;

    #[test]
    fn what_passes_by_traffic_control() {
        let mut facts = facts();
        facts.ports[1].traffic_control.egress = vec!["tc qdisc htb".to_owned()];
        facts.ports[0].traffic_control.ingress = vec!["tc filter u32 pref 1".to_owned()];
        let warning = |port: &str| ("traffic_control", Severity::Warning, Some(port.to_owned()));
        assert_eq!(found(&facts), [warning("eth0"), warning("eth1")]);
        let mut findings = Vec::new();
        judge(&facts, &mut findings);
        assert!(findings[0].what.contains("that arrive"), "{findings:?}");
        assert!(
            findings[1].what.contains("that the router sends"),
            "{findings:?}"
        );
    }
}
