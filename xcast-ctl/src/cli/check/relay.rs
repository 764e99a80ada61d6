//! Serving sources that nothing is known of.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let proven = facts.proven_ports;
    if !facts.is_relay {
        if proven > 0 {
            findings.push(finding(
                "relay",
                Severity::Warning,
                None,
                "a port takes sources only that have proven their address, and nobody can: there is no table [relay]",
                "add [relay], or choose another source for the port",
            ));
        }
        return;
    }
    let running = facts.running.as_ref();
    let relay = running.and_then(|running| running.status.relay.as_ref());
    if let Some(fault) = relay.and_then(|relay| relay.fault.as_ref()) {
        findings.push(finding(
            "relay",
            Severity::Fault,
            None,
            format!("no source is answered: {fault}"),
            "stop the program that has the port (ss -ulnp shows it), or choose another udp.port",
        ));
        return;
    }
    if proven == 0 {
        findings.push(finding(
            "relay_proof",
            Severity::Warning,
            None,
            "no port asks for a proof: packets with forged sources that come without UDP, or inside it without a \
             cookie, are multiplied as on any router",
            "source = \"proven\" in the [[port]] tables of interfaces towards networks of others",
        ));
    }
    if relay.is_some_and(|relay| relay.busy) {
        findings.push(finding(
            "relay_busy",
            Severity::Warning,
            None,
            "the relay has too much to do, and tells sources to take another one",
            "another relay beside it, or more relay.capacity_copies_per_second if the machine can do more",
        ));
    }
    findings.push(ok(
        "relay",
        None,
        "sources that prove their address are served; whether reverse-path filters let copies with their \
         addresses pass shows: xcast-ctl backbone --relay ADDRESS:PORT --witness ADDRESS:PORT",
    ));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, running};
    use super::*;
    use crate::report::Relay;

    fn checks(
        is_relay: bool,
        proven_ports: usize,
        relay: Option<Relay>,
    ) -> Vec<(&'static str, Severity)> {
        let mut facts = facts();
        (facts.is_relay, facts.proven_ports) = (is_relay, proven_ports);
        if relay.is_some() {
            let mut running = running();
            running.status.relay = relay;
            facts.running = Some(running);
        }
        let mut findings = Vec::new();
        judge(&facts, &mut findings);
        let name = |finding: &Finding| (finding.check, finding.severity);
        findings.iter().map(name).collect()
    }

    #[test]
    fn what_a_relay_lacks_is_found() {
        use Severity::{Fault, Ok, Warning};
        assert_eq!(checks(false, 0, None), []);
        assert_eq!(checks(false, 1, None), [("relay", Warning)]);
        assert_eq!(checks(true, 1, None), [("relay", Ok)]);
        assert_eq!(
            checks(true, 0, None),
            [("relay_proof", Warning), ("relay", Ok)]
        );
        let relay = Relay {
            port: 4242,
            fault: None,
            busy: true,
            load_percent: 120,
            questions_answered: 0,
            questions_ignored: 0,
            last_answer_ms_ago: None,
            relayed_ports: 0,
            relayed: Vec::new(),
            without_port: 0,
        };
        let busy = [("relay_busy", Warning), ("relay", Ok)];
        assert_eq!(checks(true, 1, Some(relay.clone())), busy);
        let fault = Relay {
            fault: Some("somebody has the port".to_owned()),
            ..relay
        };
        assert_eq!(checks(true, 1, Some(fault)), [("relay", Fault)]);
    }
}
