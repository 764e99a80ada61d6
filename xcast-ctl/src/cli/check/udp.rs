//! The port for Xcast inside UDP.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(port) = facts.udp_port else { return };
    let running = facts.running.as_ref();
    let is_ours = running.is_some_and(|running| running.status.relay.is_some());
    findings.push(if facts.udp_port_in_use && !is_ours {
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
    } else if facts.udp_port_ephemeral && facts.running.is_some() {
        finding(
            "udp_port",
            Severity::Warning,
            None,
            format!(
                "UDP port {port}, where Xcast inside UDP is accepted, is in ip_local_port_range: a \
                 program that asks for any port may get it, and then no answer"
            ),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={port}, after what is reserved already"),
        )
    } else {
        let what = format!("Xcast inside UDP is accepted at port {port}");
        ok("udp_port", None, what)
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::running;
    use super::*;

    #[test]
    fn ports_that_others_have_or_may_get() {
        let severities = |udp_port, udp_port_in_use, udp_port_ephemeral| {
            let facts = Facts {
                udp_port,
                udp_port_in_use,
                udp_port_ephemeral,
                running: Some(running()),
                ..Facts::default()
            };
            let mut findings = Vec::new();
            judge(&facts, &mut findings);
            let severity = |finding: &Finding| finding.severity;
            findings.iter().map(severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(None, false, false), []);
        assert_eq!(severities(Some(4242), false, false), [Severity::Ok]);
        assert_eq!(severities(Some(4242), true, false), [Severity::Warning]);
        assert_eq!(severities(Some(40000), false, true), [Severity::Warning]);
    }
}
