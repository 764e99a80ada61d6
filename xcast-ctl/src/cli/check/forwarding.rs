//! Whether the kernel forwards IPv4.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

/// The last Xcast router on the path sends ordinary unicast packets, and so does every router that
/// hands packets to its kernel. The routers after it have to forward them as usual.
pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let known: Vec<_> = facts
        .ports
        .iter()
        .filter(|port| port.forwarding.is_some())
        .collect();
    let off: Vec<_> = known
        .iter()
        .filter(|port| port.forwarding == Some(false))
        .collect();
    // A host with one interface has nothing to forward.
    let severity = match facts.ports.len() {
        0 | 1 => Severity::Warning,
        _ => Severity::Fault,
    };
    let what = "IP forwarding is off: unicast packets that other Xcast routers sent for receivers \
                behind this one are dropped";
    if known.is_empty() {
        // No port exists: a finding of its own.
    } else if off.is_empty() {
        findings.push(ok("forwarding", None, "IP forwarding is on"));
    } else if off.len() == known.len() {
        let remedy = "sysctl -w net.ipv4.ip_forward=1";
        findings.push(finding("forwarding", severity, None, what, remedy));
    } else {
        findings.extend(off.into_iter().map(|port| {
            let remedy = format!("sysctl -w net.ipv4.conf.{}.forwarding=1", port.name);
            finding("forwarding", severity, Some(port), what, remedy)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        finding::Severity,
        testing::{facts, found},
    };

    #[test]
    fn forwarding_off_everywhere_is_one_finding() {
        let mut facts = facts();
        for port in &mut facts.ports {
            port.forwarding = Some(false);
        }
        assert_eq!(found(&facts), [("forwarding", Severity::Fault, None)]);
        facts.ports.truncate(1);
        assert_eq!(found(&facts), [("forwarding", Severity::Warning, None)]);
    }
}
