//! The kernel's packet filter. What XDP forwards passes it by; what the router hands to the kernel's
//! stack, and what the last router sends as unicast, does not.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::kernel::{Chain, Hook, Netfilter};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let before = findings.len();
    let (translating, filtering) = in_use(&facts.netfilter);
    if !filtering.is_empty() {
        findings.push(finding(
            "packet_filter",
            Severity::Warning,
            None,
            format!(
                "the packet filter (netfilter) has rules for forwarded packets: {}. They see the \
                 copies that the kernel's stack forwards, but none that XDP forwards",
                filtering.join(", ")
            ),
            "have them accept what ports may forward, or hosts whose neighbour entry is not resolved \
             stay cut off; restrict the sources of a port with its key source; the rules: nft list \
             ruleset, iptables-save, bpftool link",
        ));
    }
    if !translating.is_empty() {
        findings.push(finding(
            "nat",
            Severity::Warning,
            None,
            format!(
                "netfilter translates addresses (NAT): {}. Copies that XDP forwards keep theirs, so \
                 they leave with the source that the sender gave them",
                translating.join(", ")
            ),
            "translate no addresses of Xcast senders and receivers here, or let them send to a router \
             beyond the translation by Xcast inside UDP",
        ));
    }
    if findings.len() == before {
        let what = "the packet filter has no rules for forwarded packets";
        findings.push(ok("packet_filter", None, what));
    }
}

/// What translates addresses, and what else sees packets that are forwarded, in words.
fn in_use(netfilter: &Netfilter) -> (Vec<String>, Vec<String>) {
    let (mut translating, mut filtering) = (Vec::new(), Vec::new());
    for chain in &netfilter.chains {
        // Those for packets of this host, or to it, see what they see of unicast.
        let sees = matches!(
            chain.hook,
            Hook::Ingress | Hook::Prerouting | Hook::Forward | Hook::Postrouting
        );
        // A chain without rules and with the policy to accept, as iptables-nft leaves them, does nothing.
        if !sees || (chain.rules == 0 && !chain.drops) {
            continue;
        }
        match chain.nat {
            true => translating.push(describe(chain)),
            false => filtering.push(describe(chain)),
        }
    }
    for table in &netfilter.legacy_tables {
        let text = format!("iptables table {table}");
        match table.ends_with(" nat") {
            true => translating.push(text),
            false => filtering.push(text),
        }
    }
    for id in &netfilter.bpf_links {
        filtering.push(format!(
            "BPF link {id}, in this network namespace or another"
        ));
    }
    (translating, filtering)
}

fn describe(chain: &Chain) -> String {
    let Chain {
        family,
        table,
        name,
        rules,
        ..
    } = chain;
    let plural = if *rules == 1 { "" } else { "s" };
    let policy = if chain.drops { ", policy drop" } else { "" };
    format!("nft chain {family} {table} {name} ({rules} rule{plural}{policy})")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found};
    use super::*;

    fn chain(hook: Hook, nat: bool, drops: bool, rules: u32) -> Chain {
        Chain {
            family: "inet",
            table: "t".to_owned(),
            name: "c".to_owned(),
            hook,
            nat,
            drops,
            rules,
        }
    }

    #[test]
    fn rules_that_forwarded_packets_pass_by() {
        let filter = ("packet_filter", Severity::Warning, None);
        let nat = ("nat", Severity::Warning, None);
        for (hook, is_nat, drops, rules, expected) in [
            (Hook::Forward, false, true, 0, vec![filter.clone()]),
            (Hook::Forward, false, false, 1, vec![filter.clone()]),
            (Hook::Prerouting, false, false, 2, vec![filter.clone()]),
            (Hook::Ingress, false, false, 1, vec![filter.clone()]),
            (Hook::Postrouting, true, false, 1, vec![nat.clone()]),
            (Hook::Prerouting, true, false, 1, vec![nat.clone()]),
            (Hook::Forward, false, false, 0, vec![]),
            (Hook::Postrouting, true, false, 0, vec![]),
            (Hook::Input, false, true, 5, vec![]),
            (Hook::Output, false, true, 5, vec![]),
        ] {
            let mut facts = facts();
            facts.netfilter.chains = vec![chain(hook, is_nat, drops, rules)];
            assert_eq!(found(&facts), expected, "{hook:?} {is_nat} {drops} {rules}");
        }
        let mut facts = facts();
        facts.netfilter.legacy_tables = vec!["ip filter".to_owned(), "ip nat".to_owned()];
        assert_eq!(found(&facts), [filter.clone(), nat]);
        facts.netfilter = Netfilter {
            bpf_links: vec![7],
            ..Netfilter::default()
        };
        assert_eq!(found(&facts), [filter]);
    }
}
