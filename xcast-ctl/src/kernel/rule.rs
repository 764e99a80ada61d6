//! Rules of policy routing.

use anyhow::{Context as _, Result};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::ask;

/// A rule, as far as `check` judges it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) ipv6: bool,
    pub(crate) priority: u32,
    /// Looks at the mark that the packet filter puts on packets.
    pub(crate) by_mark: bool,
    /// Applies to all packets, and says nothing but which table to look into.
    pub(crate) plain: bool,
    /// The table that it leads to, if it does.
    pub(crate) table: Option<u32>,
    /// In the words of `ip rule`, without the priority.
    pub(crate) text: String,
}

/// All rules, of both families.
pub(crate) fn rules() -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let answers = ask(
            NETLINK_ROUTE,
            RouteNetlinkMessage::GetRule(message),
            NLM_F_DUMP,
        );
        // A kernel without IPv6, or without policy routing, has no rules.
        let answers = match answers {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
            answers => answers.context("cannot list the rules of policy routing")?,
        };
        rules.extend(answers.into_iter().filter_map(|answer| match answer {
            // Without support for a family the kernel lists those of others.
            RouteNetlinkMessage::NewRule(message) if message.header.family == family => {
                Some(rule(&message))
            }
            _ => None,
        }));
    }
    Ok(rules)
}

fn rule(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let mut rule = Rule {
        ipv6: header.family == AddressFamily::Inet6,
        table: Some(header.table.into()).filter(|table| *table != 0),
        ..Rule::default()
    };
    let mut selectors = Vec::new();
    let mut actions = Vec::new();
    if header.flags.contains(RuleFlags::Invert) {
        selectors.push("not".to_owned());
    }
    if header.tos != 0 {
        selectors.push(format!("tos {:#x}", header.tos));
    }
    let mut mark = None;
    let mut mask = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = Some(*table).filter(|table| *table != 0),
            RuleAttribute::Destination(address) => {
                selectors.push(format!("to {address}/{}", header.dst_len));
            }
            RuleAttribute::Source(address) => {
                selectors.push(format!("from {address}/{}", header.src_len));
            }
            RuleAttribute::Iifname(name) => selectors.push(format!("iif {name}")),
            RuleAttribute::Oifname(name) => selectors.push(format!("oif {name}")),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::IpProtocol(protocol) => {
                selectors.push(format!("ipproto {}", i32::from(*protocol)));
            }
            RuleAttribute::SourcePortRange(range) => {
                selectors.push(format!("sport {}-{}", range.start, range.end));
            }
            RuleAttribute::DestinationPortRange(range) => {
                selectors.push(format!("dport {}-{}", range.start, range.end));
            }
            RuleAttribute::UidRange(range) => {
                selectors.push(format!("uidrange {}-{}", range.start, range.end));
            }
            RuleAttribute::TunId(id) if *id != 0 => selectors.push(format!("tun_id {id}")),
            RuleAttribute::L3MDev(true) => actions.push("lookup [l3mdev-table]".to_owned()),
            RuleAttribute::Goto(priority) => actions.push(format!("goto {priority}")),
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                actions.push(format!("suppress_prefixlength {length}"));
            }
            RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => {
                actions.push(format!("suppress_ifgroup {group}"));
            }
            // Realms and who made the rule change no way.
            RuleAttribute::Realm(_) | RuleAttribute::Protocol(_) => {}
            RuleAttribute::TunId(_)
            | RuleAttribute::L3MDev(false)
            | RuleAttribute::SuppressPrefixLen(_)
            | RuleAttribute::SuppressIfGroup(_) => {}
            other => selectors.push(format!("{other:?}")),
        }
    }
    // The kernel shows the mask of a rule with a mark only, or one that is not all ones.
    rule.by_mark = mark.is_some_and(|mark| mark != 0) || mask.is_some_and(|mask| mask != 0);
    if rule.by_mark {
        let mask = mask.filter(|mask| *mask != u32::MAX);
        let mask = mask.map_or_else(String::new, |mask| format!("/{mask:#x}"));
        selectors.push(format!("fwmark {:#x}{mask}", mark.unwrap_or(0)));
    }
    rule.plain = header.action == RuleAction::ToTable && selectors.is_empty() && actions.is_empty();
    if selectors.is_empty() || selectors == ["not"] {
        selectors.push("from all".to_owned());
    }
    match (header.action, rule.table) {
        (RuleAction::ToTable, Some(table)) => {
            actions.insert(0, format!("lookup {}", table_name(table)));
        }
        (RuleAction::ToTable | RuleAction::Goto, _) => {}
        (action, _) => actions.push(format!("{action:?}").to_lowercase()),
    }
    selectors.append(&mut actions);
    rule.text = selectors.join(" ");
    rule
}

fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        _ => table.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::rule::RuleHeader;

    use super::*;

    fn parsed(action: RuleAction, attributes: Vec<RuleAttribute>) -> Rule {
        let mut message = RuleMessage::default();
        message.header = RuleHeader {
            family: AddressFamily::Inet,
            action,
            ..RuleHeader::default()
        };
        message.attributes = attributes;
        rule(&message)
    }

    #[test]
    fn rules_in_words() {
        let plain = parsed(
            RuleAction::ToTable,
            vec![
                RuleAttribute::Table(254),
                RuleAttribute::Priority(32766),
                RuleAttribute::SuppressPrefixLen(u32::MAX),
            ],
        );
        assert!(plain.plain && !plain.by_mark);
        assert_eq!(
            (plain.priority, plain.text.as_str()),
            (32766, "from all lookup main")
        );
        let mark = parsed(
            RuleAction::ToTable,
            vec![
                RuleAttribute::FwMark(7),
                RuleAttribute::FwMask(u32::MAX),
                RuleAttribute::Iifname("p1".to_owned()),
                RuleAttribute::Table(100),
            ],
        );
        assert!(!mark.plain && mark.by_mark);
        assert_eq!(mark.text, "iif p1 fwmark 0x7 lookup 100");
        let suppress = parsed(
            RuleAction::ToTable,
            vec![
                RuleAttribute::Table(254),
                RuleAttribute::SuppressPrefixLen(0),
            ],
        );
        assert!(!suppress.plain);
        assert_eq!(
            suppress.text,
            "from all lookup main suppress_prefixlength 0"
        );
        let hole = parsed(RuleAction::Blackhole, Vec::new());
        assert!(!hole.plain);
        assert_eq!(hole.text, "from all blackhole");
    }

    #[test]
    fn the_kernel_has_rules_of_its_own() {
        let rules = rules().unwrap();
        let local = rules.iter().find(|rule| rule.table == Some(255)).unwrap();
        assert!(!local.text.is_empty());
    }
}
