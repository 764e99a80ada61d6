//! The port for Xcast inside UDP.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(port) = facts.udp_port else { return };
    findings.push(if facts.udp_port_in_use {
        finding(
            "udp_port",
            Severity::Warning,
            None,
            format!(
                "a program listens on UDP port {port}, where Xcast inside UDP is accepted: it gets \
                 no datagrams that arrive on the router's ports"
            ),
            "choose another udp.port, here and at the senders, or stop the program; ss -ulnp shows it",
        )
    } else {
        let what = format!("Xcast inside UDP is accepted at port {port}");
        ok("udp_port", None, what)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_in_use_is_worth_a_warning() {
        let severities = |udp_port, udp_port_in_use| {
            let facts = Facts {
                udp_port,
                udp_port_in_use,
                ..Facts::default()
            };
            let mut findings = Vec::new();
            judge(&facts, &mut findings);
            let severity = |finding: &Finding| finding.severity;
            findings.iter().map(severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(None, false), []);
        assert_eq!(severities(Some(4242), false), [Severity::Ok]);
        assert_eq!(severities(Some(4242), true), [Severity::Warning]);
    }
}
