//! Settings by which the kernel may send unicast elsewhere than the fast path sends copies.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding},
};

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
            setting::Setting,
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
}
