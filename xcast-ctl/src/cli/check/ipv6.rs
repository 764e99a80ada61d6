//! IPv6, where the configuration has code points for it.

use super::{
    facts::{Facts, Interface},
    finding::{Finding, Severity, finding, ok},
};

/// Smallest MTU of a link with IPv6 (RFC 8200 section 5), in octets. Linux has no IPv6 on links with
/// a smaller one.
const MIN_MTU: u32 = 1280;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    if !facts.wants_ipv6 {
        return;
    }
    let before = findings.len();
    match facts.forwards_ipv6 {
        None => {
            findings.push(finding(
                "ipv6",
                Severity::Fault,
                None,
                "the configuration has code points for IPv6, but the kernel has no IPv6",
                "boot without ipv6.disable=1, or remove code_points.group6, routing_type and \
                 ports_option from the configuration",
            ));
            return;
        }
        Some(false) => findings.push(finding(
            "ipv6_forwarding",
            // A host with one interface has nothing to forward.
            match facts.ports.len() {
                0 | 1 => Severity::Warning,
                _ => Severity::Fault,
            },
            None,
            "IPv6 forwarding is off: unicast packets that other Xcast routers sent for receivers \
             behind this one are dropped, and so are packets handed to the kernel's stack",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        )),
        Some(true) => {}
    }
    for port in &facts.ports {
        judge_port(
            port,
            Severity::Warning,
            "no IPv6 packet arrives or leaves",
            findings,
        );
    }
    if let (Some(own), Some(_)) = (&facts.own, &facts.running) {
        let effect = "IPv6 packets for the kernel's stack are lost";
        judge_port(own, Severity::Fault, effect, findings);
    }
    if findings.len() == before {
        findings.push(ok("ipv6", None, "IPv6 is on and forwarded"));
    }
}

fn judge_port(port: &Interface, severity: Severity, effect: &str, findings: &mut Vec<Finding>) {
    let (Some(link), Some(false)) = (&port.link, port.ipv6) else {
        return;
    };
    let name = &port.name;
    let (what, remedy) = if link.mtu < MIN_MTU {
        (
            format!(
                "MTU {} is below {MIN_MTU}, the minimum for IPv6: {effect}",
                link.mtu
            ),
            format!("ip link set {name} mtu {MIN_MTU}, or more, on both ends"),
        )
    } else {
        (
            format!("IPv6 is disabled on it: {effect}"),
            format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0"),
        )
    };
    findings.push(finding("ipv6", severity, Some(port), what, remedy));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Link;

    fn port(name: &str, ipv6: bool, mtu: u32) -> Interface {
        Interface {
            name: name.to_owned(),
            link: Some(Link {
                mtu,
                ..Link::default()
            }),
            ipv6: Some(ipv6),
            ..Interface::default()
        }
    }

    fn found(facts: &Facts) -> Vec<(&'static str, Severity, Option<String>)> {
        let mut findings = Vec::new();
        judge(facts, &mut findings);
        let findings = findings.into_iter();
        findings
            .map(|finding| (finding.check, finding.severity, finding.interface))
            .collect()
    }

    #[test]
    fn what_switches_ipv6_off_is_found() {
        let good = Facts {
            wants_ipv6: true,
            forwards_ipv6: Some(true),
            ports: vec![port("a", true, 1500), port("b", true, 1280)],
            ..Facts::default()
        };
        assert_eq!(found(&good), [("ipv6", Severity::Ok, None)]);
        let mut facts = good.clone();
        facts.forwards_ipv6 = Some(false);
        facts.ports[0].ipv6 = Some(false);
        facts.ports[1] = port("b", false, 1200);
        let about = |name: &str| ("ipv6", Severity::Warning, Some(name.to_owned()));
        let forwarding = ("ipv6_forwarding", Severity::Fault, None);
        assert_eq!(found(&facts), [forwarding, about("a"), about("b")]);
        let mut findings = Vec::new();
        judge(&facts, &mut findings);
        assert!(findings[2].what.contains("MTU 1200"), "{findings:?}");
        facts.forwards_ipv6 = None;
        assert_eq!(found(&facts), [("ipv6", Severity::Fault, None)]);
        facts.wants_ipv6 = false;
        assert_eq!(found(&facts), []);
    }
}
