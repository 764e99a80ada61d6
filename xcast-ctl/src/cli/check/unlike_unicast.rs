//! Settings by which the kernel may send unicast elsewhere than the fast path sends copies.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding},
};

/// A setting of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Routers may tell of better gateways by ICMP (RFC 1812 section 5.2.7.2 has routers ignore that).
    AcceptRedirects,
    /// Packets to a network's broadcast address are forwarded (RFC 2644).
    BcForwarding,
    /// 127.0.0.0/8 is routed.
    RouteLocalnet,
}

impl Setting {
    pub(super) const ALL: [Self; 3] = [
        Self::AcceptRedirects,
        Self::BcForwarding,
        Self::RouteLocalnet,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AcceptRedirects => "accept_redirects",
            Self::BcForwarding => "bc_forwarding",
            Self::RouteLocalnet => "route_localnet",
        }
    }

    /// Whether it holds, by what it is for all interfaces and for this one (linux/inetdevice.h).
    pub(super) fn holds(self, all: bool, own: bool) -> bool {
        match self {
            Self::AcceptRedirects | Self::BcForwarding => all && own,
            Self::RouteLocalnet => all || own,
        }
    }

    fn effect(self) -> &'static str {
        match self {
            Self::AcceptRedirects => {
                "ICMP redirects change the gateway of unicast, and copies still go to the one of the route"
            }
            Self::BcForwarding => {
                "unicast to a network's broadcast address is forwarded, and no copy ever goes there"
            }
            Self::RouteLocalnet => "unicast to 127.0.0.0/8 is routed, and no copy ever goes there",
        }
    }
}

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    for port in &facts.ports {
        findings.extend(port.unlike_unicast.iter().map(|setting| {
            let (name, port_name) = (setting.name(), &port.name);
            finding(
                "unlike_unicast",
                Severity::Warning,
                Some(port),
                format!("{name} is on: {}", setting.effect()),
                format!("sysctl -w net.ipv4.conf.{port_name}.{name}=0, and the same for \"all\""),
            )
        }));
    }
    if facts.forwards_by_path_mtu {
        findings.push(finding(
            "unlike_unicast",
            Severity::Warning,
            None,
            "ip_forward_use_pmtu is on: unicast is held against path MTUs that this host has learned, and copies \
             against the MTU of the route",
            "sysctl -w net.ipv4.ip_forward_use_pmtu=0, unless unicast needs it",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            finding::Severity,
            testing::{facts, found},
        },
        *,
    };

    #[test]
    fn each_setting_is_a_finding() {
        let mut facts = facts();
        facts.ports[0].unlike_unicast = Setting::ALL.to_vec();
        facts.forwards_by_path_mtu = true;
        let found = found(&facts);
        let about = |interface: Option<&str>| {
            (
                "unlike_unicast",
                Severity::Warning,
                interface.map(str::to_owned),
            )
        };
        assert_eq!(found, [about(Some("eth0")), about(None)]);
        let mut findings = Vec::new();
        judge(&facts, &mut findings);
        let whats: Vec<_> = findings.iter().map(|finding| &finding.what).collect();
        for (what, name) in whats.iter().zip(Setting::ALL.map(Setting::name)) {
            assert!(what.contains(name), "{what}");
        }
    }

    #[test]
    fn settings_hold_as_in_the_kernel() {
        assert!(!Setting::AcceptRedirects.holds(true, false));
        assert!(Setting::BcForwarding.holds(true, true));
        assert!(Setting::RouteLocalnet.holds(false, true));
    }
}
