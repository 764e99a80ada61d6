//! The router's own interface, through which packets reach the kernel's stack.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::config::DATAPATH_SUFFIX;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let name = &facts.own_name;
    let mut found = Vec::new();
    let mut add = |check, severity, what: String, remedy: String| {
        found.push(Finding {
            interface: Some(name.clone()),
            ..finding(check, severity, None, what, remedy)
        });
    };
    let own = match (&facts.own, &facts.running) {
        (None, None) => return,
        (None, Some(_)) => {
            add(
                "own_interface",
                Severity::Fault,
                "the running router's own interface was removed".into(),
                "restart the router".into(),
            );
            findings.extend(found);
            return;
        }
        (Some(_), None) => {
            add(
                "own_interface",
                Severity::Warning,
                "left behind by a router that was killed; the next one takes it over".into(),
                "xcast-ctl unload".into(),
            );
            findings.extend(found);
            return;
        }
        (Some(own), Some(_)) => own,
    };
    let link = own.link.clone().unwrap_or_default();
    if !link.up {
        add(
            "own_interface",
            Severity::Fault,
            "the interface is down: everything for the kernel's stack is lost".into(),
            format!("ip link set {name} up; ip link set {name}{DATAPATH_SUFFIX} up"),
        );
    }
    if own.gro == Some(false) && link.xdp_program.is_none() {
        add(
            "own_gro",
            Severity::Fault,
            "GRO is off: everything for the kernel's stack is lost, and no counter shows it".into(),
            format!("ethtool -K {name} gro on"),
        );
    }
    if own.rp_filter == Some(1) {
        add(
            "own_rp_filter",
            Severity::Fault,
            "the strict reverse path filter drops everything for the kernel's stack".into(),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        );
    }
    if own.forwarding == Some(false) {
        add(
            "own_forwarding",
            Severity::Fault,
            "IP forwarding is off: packets handed to the kernel's stack to be forwarded (unresolved \
             neighbour, small MTU) are dropped"
                .into(),
            format!("sysctl -w net.ipv4.conf.{name}.forwarding=1"),
        );
    }
    if found.is_empty() {
        found.push(ok(
            "own_interface",
            Some(own),
            "hands packets to the kernel's stack",
        ));
    }
    findings.extend(found);
}

#[cfg(test)]
mod tests {
    use super::super::{
        facts::Interface,
        finding::Severity,
        testing::{facts, found, link, running, veth},
    };

    #[test]
    fn the_routers_own_interface() {
        let own = || Some("xcast0".to_owned());
        let mut facts = facts();
        facts.own = Some(veth("xcast0"));
        assert_eq!(found(&facts), [("own_interface", Severity::Warning, own())]);
        facts.running = Some(running());
        assert_eq!(found(&facts), []);
        for (check, change) in [
            (
                "own_gro",
                (|own| own.gro = Some(false)) as fn(&mut Interface),
            ),
            ("own_rp_filter", |own| own.rp_filter = Some(1)),
            ("own_forwarding", |own| own.forwarding = Some(false)),
            ("own_interface", |own| link(own).up = false),
        ] {
            let mut facts = facts.clone();
            change(facts.own.as_mut().unwrap());
            assert_eq!(found(&facts), [(check, Severity::Fault, own())]);
        }
        facts.own = None;
        assert_eq!(found(&facts), [("own_interface", Severity::Fault, own())]);
    }
}
