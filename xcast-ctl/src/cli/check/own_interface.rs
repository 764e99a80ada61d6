//! The router's own interface, through which packets reach the kernel's stack.

use super::{
    facts::{Facts, Interface},
    finding::{Finding, Severity, finding, ok},
};
use crate::{config::DATAPATH_SUFFIX, datapath::handover, kernel::program_name};

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
                "wait: the router makes it again; if it does not, its log says why".into(),
            );
            findings.extend(found);
            return;
        }
        (Some(_), None) => {
            let forwards = facts.ports.iter().any(Interface::runs_router);
            let what = match forwards {
                true => {
                    "a router whose controller is gone still forwards: it no longer follows the \
                     kernel's routes and neighbours"
                }
                false => "left behind by a router that was killed; the next one takes it over",
            };
            let remedy = match forwards {
                true => "xcast-ctl run, which takes it over, or xcast-ctl unload",
                false => "xcast-ctl unload",
            };
            add(
                "own_interface",
                Severity::Warning,
                what.into(),
                remedy.into(),
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
    if !facts.own_has_address {
        add(
            "own_address",
            Severity::Fault,
            "it has no IPv4 address: the kernel drops what programs on this host send into it and its \
             stack has to deliver"
                .into(),
            format!(
                "ip address add ADDRESS/32 dev {name}, with router.address of the configuration"
            ),
        );
    }
    let peer = format!("{name}{DATAPATH_SUFFIX}");
    match &facts.own_peer {
        None => add(
            "own_peer",
            Severity::Fault,
            format!("its other end, {peer}, is not in this network namespace"),
            "restart the router".into(),
        ),
        Some(other) if !other.up && link.up => add(
            "own_peer",
            Severity::Fault,
            format!("its other end, {peer}, is down: everything for the kernel's stack is lost"),
            format!("ip link set {peer} up"),
        ),
        Some(other) => {
            // What arrived by a port has to fit through the pair.
            let ports = facts.ports.iter().filter_map(|port| port.link.as_ref());
            let largest = ports.map(|link| link.mtu).max().unwrap_or(0);
            let least = link.mtu.min(other.mtu);
            if least < largest {
                add(
                    "own_mtu",
                    Severity::Fault,
                    format!(
                        "MTU {least} is below {largest}, that of a port: longer packets for the \
                         kernel's stack are lost"
                    ),
                    format!("ip link set {name} mtu {largest}; ip link set {peer} mtu {largest}"),
                );
            }
        }
    }
    if own.gro == Some(false) && link.xdp_program.is_none() {
        add(
            "own_gro",
            Severity::Fault,
            "GRO is off: everything for the kernel's stack is lost, and no counter shows it".into(),
            format!("ethtool -K {name} gro on"),
        );
    }
    if let Some(program) = link.xdp_program {
        let program = program_name(program).unwrap_or_else(|| format!("id {program}"));
        add(
            "own_program",
            Severity::Fault,
            format!(
                "an XDP program ({program}) is on it, which is none of the router's: it gets all that the kernel's stack \
                 is to have"
            ),
            format!("{}, or wait: the router takes it off", link.xdp_off()),
        );
    }
    if !facts.own_before_handover.is_empty() {
        add(
            "own_filter",
            Severity::Warning,
            format!(
                "{} come before the router's filter {}: copies for the kernel's stack that they take are lost, and those \
                 that they end with (TC_ACT_OK) arrive by {name} and not by their port",
                facts.own_before_handover.join(", "),
                handover::NAME
            ),
            format!(
                "tc filter del dev {name} ingress pref N, or bpftool net detach tcx_ingress dev {name}, and filter on the \
                 ports or in the packet filter instead"
            ),
        );
    }
    if own.rp_filter == Some(1) {
        add(
            "own_rp_filter",
            Severity::Fault,
            "the strict reverse path filter drops what programs on this host send into it and the \
             kernel's stack has to deliver"
                .into(),
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
        testing::{facts, found, link, start, veth},
    };

    #[test]
    fn the_routers_own_interface() {
        let own = || Some("xcast0".to_owned());
        let mut facts = facts();
        facts.own = Some(veth("xcast0"));
        assert_eq!(found(&facts), [("own_interface", Severity::Warning, own())]);
        facts.ports[0].xdp_name = Some("xcast".to_owned());
        assert_eq!(found(&facts), [("own_interface", Severity::Warning, own())]);
        start(&mut facts);
        assert_eq!(found(&facts), []);
        for (check, change) in [
            (
                "own_gro",
                (|own| own.gro = Some(false)) as fn(&mut Interface),
            ),
            ("own_rp_filter", |own| own.rp_filter = Some(1)),
            ("own_forwarding", |own| own.forwarding = Some(false)),
            ("own_interface", |own| link(own).up = false),
            ("own_mtu", |own| link(own).mtu = 1499),
            ("own_program", |own| link(own).xdp_program = Some(u32::MAX)),
        ] {
            let mut facts = facts.clone();
            change(facts.own.as_mut().unwrap());
            assert_eq!(found(&facts), [(check, Severity::Fault, own())]);
        }
        let fault = |check| [(check, Severity::Fault, own())];
        facts.own_has_address = false;
        assert_eq!(found(&facts), fault("own_address"));
        facts.own_has_address = true;
        facts.own_before_handover = vec!["tc filter u32 pref 1".to_owned()];
        assert_eq!(found(&facts), [("own_filter", Severity::Warning, own())]);
        facts.own_before_handover.clear();
        let peer = facts.own_peer.take();
        assert_eq!(found(&facts), fault("own_peer"));
        facts.own_peer = peer;
        if let Some(peer) = &mut facts.own_peer {
            peer.up = false;
        }
        assert_eq!(found(&facts), fault("own_peer"));
        facts.own = None;
        assert_eq!(found(&facts), fault("own_interface"));
    }
}
