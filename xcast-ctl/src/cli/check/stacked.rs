//! Interfaces that are made of others: a port that belongs to one, and those that are on a port.

use super::{
    facts::{Facts, Interface},
    finding::{Finding, Severity, finding},
};
use crate::kernel::Link;

/// What a port belongs to, and what is on it.
pub(super) fn judge(facts: &Facts, port: &Interface, findings: &mut Vec<Finding>) {
    let Some(link) = &port.link else { return };
    if let Some(master) = &port.master {
        findings.push(member(port, master));
    }
    for upper in &facts.uppers {
        let on_port = upper.peer == Some(link.ifindex) && !upper.peer_elsewhere;
        match upper.kind.as_deref() {
            Some("vlan") if on_port && port.takes_vlan_tags_off == Some(true) => {
                findings.push(tags(port, link, upper));
            }
            _ => {}
        }
    }
}

fn member(port: &Interface, master: &Link) -> Finding {
    let name = &port.name;
    let kind = master.kind.as_deref().unwrap_or("group");
    if kind == "vrf" {
        return finding(
            "vrf",
            Severity::Warning,
            Some(port),
            format!(
                "a member of the VRF {}: all that arrives goes to the kernel's stack, which looks into \
                 the table of the VRF; that is right, but slow",
                master.name
            ),
            "nothing, if it is fast enough; otherwise run a router in a network namespace of its own \
             instead of a VRF",
        );
    }
    let vlans = match master.filters_vlans {
        true => {
            "; it keeps VLANs apart (vlan_filtering), and what arrives without a tag is routed as if \
             it belonged to none"
        }
        false => "",
    };
    finding(
        "member",
        Severity::Warning,
        Some(port),
        format!(
            "a member of the {kind} {0}: XDP comes before the {kind}, so the router may take packets \
             away from it, and copies that are to leave by {0} go to the kernel's stack{vlans}",
            master.name
        ),
        format!(
            "ip link set {name} nomaster, with an address of its own, or remove its [[port]] from the \
             configuration"
        ),
    )
}

fn tags(port: &Interface, link: &Link, vlan: &Link) -> Finding {
    let name = &port.name;
    let remedy = match (link.kind.as_deref(), &port.peer_name) {
        (Some("veth"), Some(peer)) => format!("ethtool -K {peer} txvlan off"),
        (Some("veth"), None) => {
            "ethtool -K PEER txvlan off, in the network namespace of the other end".to_owned()
        }
        _ => format!("ethtool -K {name} rxvlan off"),
    };
    finding(
        "vlan",
        Severity::Warning,
        Some(port),
        format!(
            "the VLAN interface {} is on it, and tags may be taken off before XDP sees the frame \
             (VLAN offload): Xcast packets of the VLAN are then forwarded as untagged",
            vlan.name
        ),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found};
    use super::*;

    fn upper(kind: &str) -> Link {
        Link {
            ifindex: 20,
            name: "upper".to_owned(),
            kind: Some(kind.to_owned()),
            mac: Some([4; 6]),
            peer: Some(7),
            ..Link::default()
        }
    }

    #[test]
    fn what_a_port_belongs_to() {
        for (kind, check, severity) in [
            ("bridge", "member", Severity::Warning),
            ("bond", "member", Severity::Warning),
            ("vrf", "vrf", Severity::Warning),
        ] {
            let mut facts = facts();
            facts.ports[0].master = Some(upper(kind));
            assert_eq!(found(&facts), [(check, severity, Some("eth0".to_owned()))]);
        }
    }

    #[test]
    fn bridges_that_keep_vlans_apart() {
        for filters_vlans in [false, true] {
            let mut facts = facts();
            facts.ports[0].master = Some(Link {
                filters_vlans,
                ..upper("bridge")
            });
            let mut findings = Vec::new();
            judge(&facts, &facts.ports[0], &mut findings);
            let says_so = findings[0].what.contains("vlan_filtering");
            assert_eq!(says_so, filters_vlans, "{findings:?}");
        }
    }

    #[test]
    fn what_is_on_a_port() {
        let mut facts = facts();
        // A port accepts the address of a virtual router on it (VRRP).
        facts.uppers = vec![upper("vlan"), upper("macvlan")];
        assert_eq!(found(&facts), []);
        facts.ports[0].takes_vlan_tags_off = Some(true);
        let expected = ("vlan", Severity::Warning, Some("eth0".to_owned()));
        assert_eq!(found(&facts), [expected]);
        facts.uppers[0].peer_elsewhere = true;
        assert_eq!(found(&facts), []);
    }
}
