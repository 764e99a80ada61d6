//! Rules of policy routing, and routing domains of ports (VRF).

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::kernel::Rule;
use ipnet::IpNet;

/// More rules than this are counted, not listed.
const LISTED: usize = 8;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let relevant = facts
        .rules
        .iter()
        .filter(|rule| facts.wants_ipv6 || !rule.ipv6);
    let (by_mark, others): (Vec<_>, Vec<_>) = relevant
        .filter(|rule| !rule.plain)
        .partition(|rule| rule.by_mark);
    if !by_mark.is_empty() {
        findings.push(finding(
            "rule_by_mark",
            Severity::Warning,
            None,
            format!(
                "ip rules that look at marks: {}. In XDP no packet has a mark yet, so copies that the \
                 fast path makes are routed as packets without one",
                listed(&by_mark)
            ),
            "let the rule look at the ingress interface, the source or the destination instead, or \
             mark nothing that Xcast senders send",
        ));
    }
    let is_relevant = |prefix: &&IpNet| facts.wants_ipv6 || matches!(prefix, IpNet::V4(_));
    let ipsec: Vec<_> = facts.ipsec.iter().filter(is_relevant).collect();
    if !ipsec.is_empty() {
        let listed: Vec<_> = ipsec.iter().take(LISTED).map(ToString::to_string).collect();
        findings.push(finding(
            "ipsec",
            Severity::Warning,
            None,
            format!(
                "policies of IPsec apply to {} networks of destinations ({}): packets to them go to the kernel's \
                 stack, which applies the policies; that is right, but slow",
                ipsec.len(),
                listed.join(", ")
            ),
            "nothing, if it is fast enough; ip xfrm policy shows them",
        ));
    }
    if !others.is_empty() {
        findings.push(finding(
            "rule",
            Severity::Warning,
            None,
            format!(
                "ip rules with selectors or actions of their own: {}. Packets that they may apply to \
                 go to the kernel's stack, which follows them: that is right, but slow",
                listed(&others)
            ),
            "nothing, if it is fast enough; stack_policy in xcast-ctl stats counts these packets",
        ));
    }
    if by_mark.is_empty() && others.is_empty() {
        findings.push(ok(
            "rule",
            None,
            "every ip rule is followed by the fast path",
        ));
    }
}

fn listed(rules: &[&Rule]) -> String {
    let text = |rule: &&Rule| {
        let family = if rule.ipv6 { "IPv6 " } else { "" };
        format!("{family}{}: {}", rule.priority, rule.text)
    };
    let mut texts: Vec<_> = rules.iter().take(LISTED).map(text).collect();
    if rules.len() > LISTED {
        texts.push(format!("{} more", rules.len() - LISTED));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found};
    use super::*;

    #[test]
    fn rules_that_the_fast_path_does_not_follow() {
        let rule = |ipv6, by_mark, plain| Rule {
            ipv6,
            by_mark,
            plain,
            priority: 100,
            ..Rule::default()
        };
        let mut facts = facts();
        facts.ipsec = vec!["2001:db8::/32".parse().unwrap()];
        assert_eq!(found(&facts), []);
        facts.ipsec.push("10.0.0.0/8".parse().unwrap());
        assert_eq!(found(&facts), [("ipsec", Severity::Warning, None)]);
        facts.ipsec.clear();
        facts.rules = vec![rule(false, false, true), rule(true, true, false)];
        assert_eq!(found(&facts), []);
        facts.wants_ipv6 = true;
        facts.forwards_ipv6 = Some(true);
        let marks = ("rule_by_mark", Severity::Warning, None);
        assert_eq!(found(&facts), std::slice::from_ref(&marks));
        facts.rules.push(rule(false, false, false));
        assert_eq!(found(&facts), [marks, ("rule", Severity::Warning, None)]);
        let many = vec![rule(false, false, false); 11];
        let many: Vec<_> = many.iter().collect();
        assert!(listed(&many).ends_with("3 more"));
    }
}
