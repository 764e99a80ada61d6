//! Interfaces that are made of others: a port that belongs to one, and those that are on a port.

use super::{
    facts::{Facts, Interface},
    finding::{Finding, Severity, finding},
};
use crate::kernel::{Barred, Link, Rule};

/// What a port belongs to, and what is on it.
pub(super) fn judge(facts: &Facts, port: &Interface, findings: &mut Vec<Finding>) {
    let Some(link) = &port.link else { return };
    if let Some(master) = &port.master {
        findings.push(member(port, master));
        findings.extend(barred(port, link, master));
    }
    for upper in &facts.uppers {
        let on_port = upper.peer == Some(link.ifindex) && !upper.peer_elsewhere;
        match upper.kind.as_deref() {
            Some("vlan") if on_port && port.takes_vlan_tags_off == Some(true) => {
                findings.push(tags(port, link, upper));
            }
            Some("macvlan") if on_port && port.master.is_none() => {
                findings.extend(differs(facts, port, link, upper));
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
             it belonged to none, and refused from sources behind the bridge unless the port's \
             `source` permits them"
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

/// A member that its bridge or bond takes less from than from others.
fn barred(port: &Interface, link: &Link, master: &Link) -> Option<Finding> {
    let bars = [link, master].map(|link| Some((link.barred?, &link.name)));
    let (barred, name) = bars.into_iter().flatten().max()?;
    let sends = match barred.sends_nothing() {
        true => "; copies for it go to the kernel's stack",
        false => "",
    };
    let remedy = match barred {
        Barred::Locked => {
            format!("bridge link set dev {name} locked off, if Xcast is to be taken there")
        }
        Barred::NotForwarding => format!(
            "nothing, if the spanning tree wants that; otherwise: bridge link set dev {name} state forwarding"
        ),
        Barred::Backup => "nothing: it is a port again when the bond makes it active".to_owned(),
    };
    Some(finding(
        "barred",
        Severity::Warning,
        Some(port),
        format!(
            "{name}: {barred}: what arrives is left to the kernel, which does not forward Xcast{sends}"
        ),
        remedy,
    ))
}

/// An interface whose frames the router leaves alone, as the kernel would do something else with them than with the
/// port's.
fn differs(facts: &Facts, port: &Interface, link: &Link, upper: &Link) -> Option<Finding> {
    let name = &upper.name;
    let mut differences = Vec::new();
    for interface in [name, &link.name] {
        let asks = |rule: &&Rule| {
            let words: Vec<_> = rule.text.split_whitespace().collect();
            words.windows(2).any(|pair| pair == ["iif", interface])
        };
        if let Some(rule) = facts.rules.iter().find(asks) {
            differences.push(format!("ip rule {}: {}", rule.priority, rule.text));
        }
    }
    if upper.master != link.master {
        differences.push("one of the two belongs to a VRF".to_owned());
    }
    let is_on = |setting: Option<bool>| setting.unwrap_or(true);
    if is_on(link.forwarding) && !is_on(upper.forwarding) {
        differences.push(format!("net.ipv4.conf.{name}.forwarding is 0"));
    }
    if facts.wants_ipv6 && link.takes_ipv6 && !upper.takes_ipv6 {
        differences.push(format!("net.ipv6.conf.{name}.disable_ipv6 is 1"));
    }
    let filters = (port.rp_filter.unwrap_or(0), upper.rp_filter.unwrap_or(0));
    if matches!(filters, (0, 1..) | (2, 1)) {
        differences.push(format!("net.ipv4.conf.{name}.rp_filter is {}", filters.1));
    }
    if differences.is_empty() {
        return None;
    }
    Some(finding(
        "macvlan",
        Severity::Warning,
        Some(port),
        format!(
            "the macvlan {name} is on it, and the kernel treats what arrives by it in another way ({}): frames to the \
             address of {name} are left to the kernel, which does not forward Xcast",
            differences.join("; ")
        ),
        format!(
            "the same rules and settings for {name} and {0}, or have hosts send to the address of {0}",
            link.name
        ),
    ))
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
    use super::super::testing::{self, facts, found};
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
    fn members_that_are_barred() {
        let warning = |check| (check, Severity::Warning, Some("eth0".to_owned()));
        // By its bridge, or by the bridge that its bond belongs to.
        for is_above in [false, true] {
            let mut facts = facts();
            let barred = Some(Barred::Locked);
            facts.ports[0].master = Some(Link {
                barred: barred.filter(|_| is_above),
                ..upper("bond")
            });
            testing::link(&mut facts.ports[0]).barred = barred.filter(|_| !is_above);
            assert_eq!(found(&facts), [warning("member"), warning("barred")]);
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

    #[test]
    fn what_is_set_for_a_macvlan_alone() {
        type Change = fn(&mut Facts);
        let differing = |change: Change| {
            let mut facts = facts();
            facts.uppers = vec![upper("macvlan")];
            change(&mut facts);
            let mut findings = Vec::new();
            judge(&facts, &facts.ports[0], &mut findings);
            findings.pop().map(|finding| finding.what)
        };
        assert_eq!(differing(|_| ()), None);
        let changes: [(Change, &str); 5] = [
            (
                |facts| {
                    facts.rules.push(Rule {
                        text: "from all iif upper lookup 100".to_owned(),
                        ..Rule::default()
                    });
                },
                "iif upper lookup 100",
            ),
            (|facts| facts.uppers[0].master = Some(30), "VRF"),
            (
                |facts| facts.uppers[0].forwarding = Some(false),
                "forwarding is 0",
            ),
            (
                |facts| {
                    facts.wants_ipv6 = true;
                    testing::link(&mut facts.ports[0]).takes_ipv6 = true;
                },
                "disable_ipv6 is 1",
            ),
            (
                |facts| facts.uppers[0].rp_filter = Some(1),
                "rp_filter is 1",
            ),
        ];
        for (change, says) in changes {
            let what = differing(change).expect(says);
            assert!(what.contains(says), "{what}");
        }
        // What the port has, too, or what is stricter there, is no difference.
        let strict_port = differing(|facts| facts.ports[0].rp_filter = Some(1));
        assert_eq!(strict_port, None);
    }
}
