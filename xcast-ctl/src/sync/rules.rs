//! Policy rules (`ip rule`): which of them the datapath follows, and what the others leave to the stack.
//!
//! The datapath has one route map for whatever arrives. It can follow rules that say the same about every
//! packet: they give the order of the tables. A rule that asks about the packet is not followed, and
//! whatever it might match goes to the kernel's stack, which asks: destinations of a prefix, what arrives by a
//! port, what comes from a source and what goes there, or, if nothing else bounds it, everything that no earlier table
//! has a route for. Rules that no packet arriving by a port can match are passed over.
//!
//! Matching is that of `fib_rules_lookup` in the kernel, for a packet that has no mark and user id 0.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It is one for IPv6.
    pub ipv6: bool,
    /// Rules are asked in ascending order of this, those of one priority as they came.
    pub priority: u32,
    /// It matches what its selectors do not (`not`).
    pub invert: bool,
    /// Sources it is for.
    pub from: Option<IpNet>,
    /// Destinations it is for.
    pub to: Option<IpNet>,
    /// Name of the interface that packets arrive by.
    pub iif: Option<String>,
    /// Name of the interface that a socket is bound to; packets that are forwarded have none.
    pub oif: Option<String>,
    /// Firewall mark and its mask.
    pub mark: Option<(u32, u32)>,
    /// It is for members of VRFs.
    pub l3mdev: bool,
    /// First and last user id.
    pub uid_range: Option<(u32, u32)>,
    /// Selectors that only the packet can answer, or that are unknown here: number of the attribute
    /// (`FRA_*`) and its value; the type of service has number 0.
    pub others: Vec<(u16, Vec<u8>)>,
    /// What it does.
    pub action: RuleAction,
}

/// What a rule does with the packets it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Consult a table.
    Lookup {
        /// The table.
        table: u32,
        /// Go on with the next rule if the route's prefix is not longer than this.
        suppress_prefix_len: Option<u32>,
        /// Go on with the next rule if the route leaves by an interface of this group.
        suppress_group: Option<u32>,
    },
    /// Go on with the first rule of this priority, if there is one.
    Goto(u32),
    /// Go on with the next rule.
    Nop,
    /// Discard: `FR_ACT_BLACKHOLE`, `FR_ACT_UNREACHABLE` or `FR_ACT_PROHIBIT`; or an action that is unknown here.
    Other(u8),
}

/// What rules amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// What decides about a destination, in order.
    pub(super) steps: Vec<Step>,
    /// Names of interfaces by which nothing may arrive that the datapath forwards, and the rule that says so.
    pub(super) interfaces: BTreeMap<String, String>,
    /// Sources from which it forwards nothing, and the rule that says so.
    pub(super) sources: BTreeMap<IpNet, String>,
    /// Rules that put something to the stack, and what.
    pub(super) rows: Vec<PolicyRow>,
}

/// Something that decides about destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The routes of a table.
    Table {
        id: u32,
        /// Routes count only if their prefix is longer than this.
        longer_than: Option<u8>,
    },
    /// These destinations go to the stack.
    Stack {
        prefix: IpNet,
        /// The rule that says so.
        rule: String,
    },
}

/// A part of the kernel's state that puts something to the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// The rule, much as `ip rule` shows it, or what else it is.
    pub cause: String,
    /// What goes to the stack.
    pub effect: String,
}

/// The rules of a family, and how a dump of them goes.
#[derive(Debug, Default)]
pub(super) struct Rules {
    list: Vec<Rule>,
    /// The kernel has told all its rules.
    is_known: bool,
    /// The dump that is under way.
    dump: Option<Dump>,
}

#[derive(Debug, Default)]
struct Dump {
    list: Vec<Rule>,
    /// Rules that were announced while the dump was under way, which it may mention, too.
    announced: Vec<Rule>,
    is_complete: bool,
}

impl Rules {
    pub(super) fn begin(&mut self) {
        self.dump = Some(Dump::default());
    }

    /// All rules have been dumped.
    pub(super) fn complete(&mut self) {
        match &mut self.dump {
            Some(dump) => dump.is_complete = true,
            None => self.is_known = true,
        }
    }

    pub(super) fn end(&mut self) {
        if let Some(dump) = self.dump.take() {
            self.list = dump.list;
            self.is_known = dump.is_complete;
        }
    }

    pub(super) fn add(&mut self, rule: Rule, is_dumped: bool) {
        let list = match &mut self.dump {
            None => &mut self.list,
            Some(dump) => {
                let known = dump.announced.iter().position(|other| *other == rule);
                match known {
                    Some(at) if is_dumped => {
                        dump.announced.remove(at);
                        return;
                    }
                    _ if !is_dumped => dump.announced.push(rule.clone()),
                    _ => {}
                }
                &mut dump.list
            }
        };
        let at = list.partition_point(|other| other.priority <= rule.priority);
        list.insert(at, rule);
    }

    pub(super) fn remove(&mut self, rule: &Rule) {
        let same = |other: &Rule| other == rule;
        let list = match &mut self.dump {
            None => &mut self.list,
            Some(dump) => {
                if let Some(at) = dump.announced.iter().position(same) {
                    dump.announced.remove(at);
                }
                &mut dump.list
            }
        };
        if let Some(at) = list.iter().position(same) {
            list.remove(at);
        }
    }

    /// What they amount to; `None` as long as the kernel has not told them.
    pub(super) fn policy(&self) -> Option<Policy> {
        self.is_known.then(|| classify(&self.list))
    }
}

/// What a rule's selectors say about a packet that arrives by a port.
enum Match<'a> {
    /// No such packet.
    Never,
    /// Every one.
    Always,
    /// At most those to a prefix.
    To(IpNet),
    /// At most those that arrive by an interface.
    By(&'a str),
    /// At most those from a prefix.
    From(IpNet),
    /// Perhaps any.
    Perhaps,
}

impl Rule {
    fn matches(&self) -> Match<'_> {
        // The rules of a VRF are for its members, which are not forwarded for at all.
        let never = self.mark.is_some_and(|(mark, mask)| mark & mask != 0)
            || self.l3mdev
            || self.oif.is_some()
            || self.uid_range.is_some_and(|(first, _)| first > 0);
        if never {
            return if self.invert {
                Match::Always
            } else {
                Match::Never
            };
        }
        let some = |prefix: &IpNet| (prefix.prefix_len() > 0).then_some(*prefix);
        let (to, from) = (
            self.to.as_ref().and_then(some),
            self.from.as_ref().and_then(some),
        );
        let asks = !self.others.is_empty() || self.uid_range.is_some();
        match (to, &self.iif, from) {
            (None, None, None) if !asks && self.invert => Match::Never,
            (None, None, None) if !asks => Match::Always,
            _ if self.invert => Match::Perhaps,
            (Some(prefix), ..) => Match::To(prefix),
            (_, Some(interface), _) => Match::By(interface),
            (.., Some(prefix)) => Match::From(prefix),
            (None, None, None) => Match::Perhaps,
        }
    }

    fn everything(&self) -> IpNet {
        if self.ipv6 {
            IpNet::V6(ipnet::Ipv6Net::default())
        } else {
            IpNet::V4(ipnet::Ipv4Net::default())
        }
    }
}

/// What a list of rules of one family amounts to.
fn classify(rules: &[Rule]) -> Policy {
    let mut policy = Policy::default();
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        at += 1;
        if rule.action == RuleAction::Nop {
            continue;
        }
        let goes_on = match rule.matches() {
            Match::Never => true,
            Match::Always => match rule.action {
                RuleAction::Goto(target) => {
                    let later = rules[at..].iter().position(|r| r.priority == target);
                    at += later.unwrap_or_default();
                    true
                }
                _ => policy.consult(rule),
            },
            Match::To(prefix) => {
                policy.leave_destinations(rule, prefix);
                true
            }
            Match::By(interface) => {
                policy.leave(rule, format!("what arrives by {interface}"));
                let rule = rule.to_string();
                policy
                    .interfaces
                    .entry(interface.to_owned())
                    .or_insert(rule);
                true
            }
            Match::From(prefix) => {
                policy.leave(rule, format!("what comes from {prefix}"));
                policy.sources.entry(prefix).or_insert(rule.to_string());
                // The kernel's filter asks for the way of an answer, which comes from there.
                policy.leave_destinations(rule, prefix);
                true
            }
            Match::Perhaps => {
                policy.leave_destinations(rule, rule.everything());
                false
            }
        };
        if !goes_on {
            break;
        }
    }
    policy
}

impl Policy {
    /// Does what a rule for every packet says; whether later rules are asked, too.
    fn consult(&mut self, rule: &Rule) -> bool {
        match rule.action {
            RuleAction::Lookup {
                table,
                suppress_prefix_len,
                suppress_group: None,
            } => {
                let longer_than = suppress_prefix_len
                    .map(|prefix_len| u8::try_from(prefix_len).unwrap_or(u8::MAX));
                self.steps.push(Step::Table {
                    id: table,
                    longer_than,
                });
                true
            }
            _ => {
                self.leave_destinations(rule, rule.everything());
                false
            }
        }
    }

    fn leave_destinations(&mut self, rule: &Rule, prefix: IpNet) {
        let what = if prefix.prefix_len() == 0 {
            "all that no table before has a route for".to_owned()
        } else {
            format!("destinations in {prefix}")
        };
        self.leave(rule, what);
        self.steps.push(Step::Stack {
            prefix,
            rule: rule.to_string(),
        });
    }

    fn leave(&mut self, rule: &Rule, effect: String) {
        let family = if rule.ipv6 { "ip -6 rule" } else { "ip rule" };
        self.rows.push(PolicyRow {
            cause: format!("{family} {rule}"),
            effect,
        });
    }

    /// The rule that leaves what arrives by an interface to the stack, which has these names.
    pub(super) fn of_interface<'a>(
        &self,
        mut names: impl Iterator<Item = &'a String>,
    ) -> Option<&str> {
        let rule = names.find_map(|name| self.interfaces.get(name));
        rule.map(String::as_str)
    }

    /// Puts destinations that policies of IPsec apply to before everything: the stack knows.
    pub(super) fn add_ipsec(&mut self, destinations: &[IpNet]) {
        let step = |&prefix: &IpNet| Step::Stack {
            prefix,
            rule: "policy of IPsec".to_owned(),
        };
        self.steps.splice(0..0, destinations.iter().map(step));
        self.rows
            .extend(destinations.iter().map(|prefix| PolicyRow {
                cause: "policy of IPsec".to_owned(),
                effect: format!("destinations in {prefix}"),
            }));
    }

    /// The rule that leaves this source's packets to the stack.
    pub(super) fn of_source(&self, source: IpAddr) -> Option<&str> {
        let mut sources = self.sources.iter();
        let found = sources.find(|(prefix, _)| prefix.contains(&source));
        found.map(|(_, rule)| rule.as_str())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if self.invert {
            f.write_str(" not")?;
        }
        match &self.from {
            Some(prefix) => write!(f, " from {prefix}")?,
            None => f.write_str(" from all")?,
        }
        if let Some(prefix) = &self.to {
            write!(f, " to {prefix}")?;
        }
        if let Some((mark, mask)) = self.mark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        if let Some(interface) = &self.iif {
            write!(f, " iif {interface}")?;
        }
        if let Some(interface) = &self.oif {
            write!(f, " oif {interface}")?;
        }
        if self.l3mdev {
            f.write_str(" lookup [l3mdev-table]")?;
        }
        if let Some((first, last)) = self.uid_range {
            write!(f, " uidrange {first}-{last}")?;
        }
        for (number, value) in &self.others {
            write!(f, " {}", selector_name(*number))?;
            if *number == 0
                && let [tos] = value.as_slice()
            {
                write!(f, " {tos:#x}")?;
            }
        }
        match self.action {
            RuleAction::Lookup {
                table,
                suppress_prefix_len,
                suppress_group,
            } => {
                if !self.l3mdev {
                    write!(f, " lookup {table}")?;
                }
                if let Some(prefix_len) = suppress_prefix_len {
                    write!(f, " suppress_prefixlength {prefix_len}")?;
                }
                if let Some(group) = suppress_group {
                    write!(f, " suppress_ifgroup {group}")?;
                }
                Ok(())
            }
            RuleAction::Goto(target) => write!(f, " goto {target}"),
            RuleAction::Nop => f.write_str(" nop"),
            RuleAction::Other(6) => f.write_str(" blackhole"),
            RuleAction::Other(7) => f.write_str(" unreachable"),
            RuleAction::Other(8) => f.write_str(" prohibit"),
            RuleAction::Other(action) => write!(f, " action {action}"),
        }
    }
}

/// The name `ip rule` has for a selector (`FRA_*` of linux/fib_rules.h).
fn selector_name(number: u16) -> String {
    let name = match number {
        0 => "tos",
        12 => "tun_id",
        22 => "ipproto",
        23 | 28 => "sport",
        24 | 29 => "dport",
        25 | 30 => "dscp",
        26 | 27 => "flowlabel",
        number => return format!("attribute-{number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, action: RuleAction) -> Rule {
        Rule {
            ipv6: false,
            priority,
            invert: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            l3mdev: false,
            uid_range: None,
            others: Vec::new(),
            action,
        }
    }

    const fn lookup(table: u32) -> RuleAction {
        RuleAction::Lookup {
            table,
            suppress_prefix_len: None,
            suppress_group: None,
        }
    }

    /// The steps in short: tables, and prefixes that go to the stack.
    fn steps(policy: &Policy) -> String {
        let step = |step: &Step| match step {
            Step::Table {
                id,
                longer_than: None,
            } => id.to_string(),
            Step::Table {
                id,
                longer_than: Some(len),
            } => format!("{id}>{len}"),
            Step::Stack { prefix, .. } => format!("stack:{prefix}"),
        };
        policy.steps.iter().map(step).collect::<Vec<_>>().join(" ")
    }

    /// The classification of some rules between those for the local and the main table.
    fn between(rules: &[Rule]) -> Policy {
        let mut all = Rules::default();
        all.complete();
        all.add(rule(0, lookup(255)), false);
        all.add(rule(32766, lookup(254)), false);
        all.add(rule(32767, lookup(253)), false);
        for rule in rules {
            all.add(rule.clone(), false);
        }
        all.policy().unwrap()
    }

    fn net(prefix: &str) -> Option<IpNet> {
        Some(prefix.parse().unwrap())
    }

    #[test]
    fn rules_for_every_packet_give_the_order_of_the_tables() {
        assert_eq!(steps(&between(&[])), "255 254 253");
        let policy = between(&[rule(40000, lookup(7)), rule(100, lookup(9))]);
        assert_eq!(steps(&policy), "255 9 254 253 7");
        assert!(policy.rows.is_empty());
    }

    #[test]
    fn marks_are_compared_with_none() {
        let marked = Rule {
            mark: Some((1, u32::MAX)),
            ..rule(100, lookup(9))
        };
        assert_eq!(
            steps(&between(std::slice::from_ref(&marked))),
            "255 254 253"
        );
        let not = Rule {
            invert: true,
            ..marked
        };
        assert_eq!(steps(&between(&[not])), "255 9 254 253");
        let any = Rule {
            mark: Some((0, 0xff)),
            ..rule(100, lookup(9))
        };
        assert_eq!(steps(&between(&[any])), "255 9 254 253");
    }

    #[test]
    fn what_no_packet_of_a_port_matches_is_passed_over() {
        let rules = [
            Rule {
                oif: Some("p1".into()),
                ..rule(1, lookup(9))
            },
            Rule {
                uid_range: Some((1000, 1000)),
                ..rule(2, lookup(9))
            },
            Rule {
                l3mdev: true,
                ..rule(3, lookup(0))
            },
            Rule {
                invert: true,
                ..rule(4, lookup(9))
            },
        ];
        let policy = between(&rules);
        assert_eq!(steps(&policy), "255 254 253");
        assert!(policy.rows.is_empty());
    }

    #[test]
    fn what_asks_about_the_packet_goes_to_the_stack() {
        let by_port = Rule {
            iif: Some("p1".into()),
            from: net("10.1.0.0/16"),
            ..rule(100, lookup(9))
        };
        let policy = between(&[by_port]);
        assert_eq!(steps(&policy), "255 254 253");
        assert_eq!(policy.interfaces.keys().collect::<Vec<_>>(), ["p1"]);
        assert!(policy.sources.is_empty());

        let by_source = Rule {
            from: net("10.1.0.0/16"),
            others: vec![(0, vec![16])],
            ..rule(100, lookup(9))
        };
        let policy = between(&[by_source]);
        assert_eq!(steps(&policy), "255 stack:10.1.0.0/16 254 253");
        assert!(policy.of_source(IpAddr::from([10, 1, 2, 3])).is_some());
        assert!(policy.of_source(IpAddr::from([10, 2, 2, 3])).is_none());

        let by_destination = Rule {
            to: net("10.9.0.0/16"),
            iif: Some("p1".into()),
            ..rule(100, RuleAction::Other(6))
        };
        let policy = between(&[by_destination]);
        assert_eq!(steps(&policy), "255 stack:10.9.0.0/16 254 253");
        assert!(policy.interfaces.is_empty());

        let by_port_of_transport = Rule {
            others: vec![(22, vec![17])],
            ..rule(100, lookup(9))
        };
        assert_eq!(
            steps(&between(&[by_port_of_transport])),
            "255 stack:0.0.0.0/0"
        );

        let inverted = Rule {
            iif: Some("p1".into()),
            invert: true,
            ..rule(100, lookup(9))
        };
        let policy = between(&[inverted]);
        assert_eq!(steps(&policy), "255 stack:0.0.0.0/0");
        let row = &policy.rows[0];
        assert_eq!(row.cause, "ip rule 100: not from all iif p1 lookup 9");
        assert_eq!(row.effect, "all that no table before has a route for");
    }

    #[test]
    fn default_routes_can_be_suppressed() {
        let main = |suppress_prefix_len, suppress_group| RuleAction::Lookup {
            table: 254,
            suppress_prefix_len,
            suppress_group,
        };
        let policy = between(&[rule(100, main(Some(0), None)), rule(101, lookup(9))]);
        assert_eq!(steps(&policy), "255 254>0 9 254 253");
        let policy = between(&[rule(100, main(None, Some(3)))]);
        assert_eq!(steps(&policy), "255 stack:0.0.0.0/0");
    }

    #[test]
    fn jumps_and_ends() {
        let policy = between(&[
            rule(100, RuleAction::Goto(300)),
            rule(200, lookup(9)),
            rule(300, RuleAction::Nop),
            rule(301, lookup(8)),
        ]);
        assert_eq!(steps(&policy), "255 8 254 253");
        // A jump to nowhere is none.
        let policy = between(&[rule(100, RuleAction::Goto(300)), rule(200, lookup(9))]);
        assert_eq!(steps(&policy), "255 9 254 253");
        let policy = between(&[rule(100, RuleAction::Other(7)), rule(200, lookup(9))]);
        assert_eq!(steps(&policy), "255 stack:0.0.0.0/0");
    }

    #[test]
    fn a_dump_says_what_there_is() {
        let mut rules = Rules::default();
        assert_eq!(rules.policy(), None);
        rules.begin();
        // Announced before the dump mentions it, and one that goes before it would.
        rules.add(rule(5, lookup(5)), false);
        rules.add(rule(6, lookup(6)), false);
        rules.remove(&rule(6, lookup(6)));
        for table in [1, 5, 9] {
            rules.add(rule(table, lookup(table)), true);
        }
        rules.complete();
        assert_eq!(rules.policy(), None);
        rules.end();
        assert_eq!(steps(&rules.policy().unwrap()), "1 5 9");
        rules.remove(&rule(5, lookup(5)));
        assert_eq!(steps(&rules.policy().unwrap()), "1 9");
        // A kernel without rules says so by no dump at all.
        rules.begin();
        rules.end();
        assert_eq!(rules.policy(), None);
    }
}
