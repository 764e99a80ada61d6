//! What policy rules and routes for some packets leave to the stack.

use std::collections::HashSet;

use super::*;
use crate::sync::{
    event::KernelOnly,
    rules::{Rule, RuleAction},
};
use xcast_common::maps::{
    MAX_POLICY_SOURCES, NEXT_HOP_XCAST, PORT_ASK_SOURCE, PORT_ASK_SOURCE6, PORT_IN_VRF,
    PORT_TO_STACK, PORT_TO_STACK6, counter::Counter,
};

both_families!(
    tables_are_consulted_as_rules_say,
    a_suppressed_route_sends_on_to_the_next_table,
    destinations_of_a_rule_go_to_the_stack,
    ports_and_sources_of_a_rule,
    too_many_sources_of_rules,
    destinations_of_ipsec_go_to_the_stack,
    routes_for_some_packets_go_to_the_stack,
    what_only_the_kernel_knows,
    preference_counts_among_routes_of_one_metric,
);

fn rule(priority: u32, table: u32) -> Rule {
    Rule {
        ipv6: family() == Family::Ipv6,
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
        action: RuleAction::Lookup {
            table,
            suppress_prefix_len: None,
            suppress_group: None,
        },
    }
}

fn new(rule: &Rule) -> KernelEvent {
    KernelEvent::Rule {
        rule: rule.clone(),
        is_dumped: false,
    }
}

fn gone(rule: &Rule) -> KernelEvent {
    KernelEvent::RuleRemoved(rule.clone())
}

fn policy() -> Fate {
    Fate::stack(Counter::StackPolicy)
}

/// A router with the default rules, whose main table leads to one neighbour and table 100 to another.
fn two_tables() -> (Router, Fate, Fate) {
    let mut router = router();
    let ipv6 = family() == Family::Ipv6;
    let neighbours = [neighbour(1, "10.1.0.2"), neighbour(2, "10.2.0.2")];
    let [one, two] = [&neighbours[0], &neighbours[1]].map(|to| forward(to, NEXT_HOP_XCAST));
    router.apply([
        KernelEvent::RulesKnown { ipv6 },
        new(&rule(0, TABLE_LOCAL)),
        new(&rule(32766, TABLE_MAIN)),
        KernelEvent::Neighbour(neighbours[0]),
        KernelEvent::Neighbour(neighbours[1]),
        add(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(route("20.1.0.0/16", &[gateway(1, "10.1.0.2")])),
        add(Route {
            table: 100,
            ..route("20.0.0.0/8", &[gateway(2, "10.2.0.2")])
        }),
    ]);
    (router, one, two)
}

fn tables_are_consulted_as_rules_say() {
    let (mut router, one, two) = two_tables();
    assert_eq!(router.fate("20.1.0.1"), one);
    // Where it is consulted first, its shorter prefix wins.
    let first = rule(100, 100);
    router.apply([new(&first)]);
    assert_eq!(router.fate("20.1.0.1"), two);
    assert_eq!(router.fate("20.2.0.1"), two);
    router.apply([gone(&rule(32766, TABLE_MAIN)), gone(&first)]);
    assert_eq!(router.fate("20.1.0.1"), Fate::stack(Counter::StackNoRoute));
    router.apply([new(&rule(40000, 100))]);
    assert_eq!(router.fate("20.1.0.1"), two);
    router.apply([new(&rule(32766, TABLE_MAIN))]);
    assert_eq!(router.fate("20.1.0.1"), one);
}

fn a_suppressed_route_sends_on_to_the_next_table() {
    let (mut router, one, two) = two_tables();
    let main = Rule {
        action: RuleAction::Lookup {
            table: TABLE_MAIN,
            suppress_prefix_len: Some(match family() {
                Family::Ipv4 => 8,
                Family::Ipv6 => 40,
            }),
            suppress_group: None,
        },
        ..rule(100, 0)
    };
    router.apply([new(&main), new(&rule(101, 100))]);
    assert_eq!(router.fate("20.1.0.1"), one);
    assert_eq!(router.fate("20.2.0.1"), two);
    // What discards is not suppressed, and not where a route that is covers it.
    let unreachable = Route {
        metric: 0,
        ..special("20.0.0.0/7", RouteKind::Unreachable)
    };
    router.apply([add(unreachable)]);
    assert_eq!(router.fate("20.2.0.1"), two);
    assert_eq!(
        router.fate("21.2.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    router.apply([KernelEvent::RouteRemoved(route(
        "20.0.0.0/8",
        &[gateway(1, "10.1.0.2")],
    ))]);
    assert_eq!(
        router.fate("20.2.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    router.apply([gone(&main)]);
    assert_eq!(router.fate("20.1.0.1"), two);
}

fn destinations_of_a_rule_go_to_the_stack() {
    let (mut router, one, _) = two_tables();
    let to = Rule {
        to: Some(net("20.0.0.0/8")),
        ..rule(100, 7)
    };
    router.apply([new(&to)]);
    assert_eq!(router.fate("20.1.0.1"), policy());
    assert_eq!(router.fate("20.2.0.1"), policy());
    let why = router.sync.lookup(ip("20.1.0.1")).why;
    assert!(why.starts_with("rule 100: from all to "), "{why}");
    // What is found before comes first, as does what is delivered here.
    router.apply([add(Route {
        table: TABLE_LOCAL,
        ..special("20.1.0.0/24", RouteKind::Local)
    })]);
    assert_eq!(router.fate("20.1.0.1"), Fate::stack(Counter::StackLocal));
    assert_eq!(router.fate("20.1.1.1"), policy());
    router.apply([gone(&to)]);
    assert_eq!(router.fate("20.1.1.1"), one);
    router.apply([new(&Rule {
        priority: 40000,
        ..to
    })]);
    assert_eq!(router.fate("20.1.1.1"), one);
}

fn ports_and_sources_of_a_rule() {
    let (mut router, ..) = two_tables();
    let (to_stack, ask_source) = match family() {
        Family::Ipv4 => (PORT_TO_STACK, PORT_ASK_SOURCE),
        Family::Ipv6 => (PORT_TO_STACK6, PORT_ASK_SOURCE6),
    };
    assert_eq!(router.sync.port_flags(&link(1)), 0);
    let by_port = Rule {
        iif: Some("eth1".into()),
        ..rule(100, 100)
    };
    let by_source = Rule {
        from: Some(net("30.0.0.0/8")),
        ..rule(101, 100)
    };
    router.apply([new(&by_port), new(&by_source)]);
    let renamed = Link {
        name: "wan0".to_owned(),
        alt_names: vec!["eth1".to_owned()],
        ..link(1)
    };
    assert_eq!(router.sync.port_flags(&renamed), to_stack);
    assert_eq!(router.sync.port_flags(&link(1)), to_stack);
    assert_eq!(router.sync.port_flags(&link(2)), ask_source);
    // What comes from the source, and what goes there.
    assert_eq!(router.sync.policy_rows().len(), 3);
    assert!(router.maps.policy_sources.contains(&net("30.0.0.0/8")));
    // An answer may come by the port with the rule, and from the source with the other one.
    let way_back = |router: &Router, is_wanted, is_to_be_asked| {
        let flags = router
            .sync
            .way_back_flags([is_wanted; 2], [is_to_be_asked; 2]);
        flags & to_stack
    };
    assert_eq!(way_back(&router, false, false), 0);
    assert_eq!(way_back(&router, true, false), to_stack);
    let why = |source: &str, port| router.sync.stack_policy(ip(source), Some(port));
    assert!(why("1.0.0.1", "eth1").is_some() && why("30.0.0.1", "eth2").is_some());
    assert_eq!(why("1.0.0.1", "eth2"), None);
    router.apply([gone(&by_port)]);
    assert_eq!(way_back(&router, true, false), 0);
    assert_eq!(way_back(&router, true, true), to_stack);
    router.apply([gone(&by_source)]);
    assert_eq!(router.sync.port_flags(&link(1)), 0);
    assert!(router.maps.policy_sources.is_empty());

    let member = Link {
        in_vrf: true,
        ..link(1)
    };
    router.apply([KernelEvent::Link(member.clone())]);
    assert_eq!(
        router.sync.port_flags(&member),
        PORT_TO_STACK | PORT_TO_STACK6 | PORT_IN_VRF
    );
    assert_eq!(router.sync.policy_rows()[0].effect, "what arrives by eth1");
}

/// More sources than the datapath has room for: everything goes to the stack, until there are fewer.
fn too_many_sources_of_rules() {
    let (mut router, ..) = two_tables();
    let flag = match family() {
        Family::Ipv4 => [PORT_TO_STACK, PORT_ASK_SOURCE],
        Family::Ipv6 => [PORT_TO_STACK6, PORT_ASK_SOURCE6],
    };
    let of = |number: u32| Rule {
        from: Some(net(&format!("30.{}.{}.0/24", number / 256, number % 256))),
        ..rule(100 + number, 100)
    };
    let rules: Vec<_> = (0..MAX_POLICY_SOURCES + 3).map(of).collect();
    router.apply(rules.iter().map(new));
    assert_eq!(router.sync.port_flags(&link(1)), flag[0]);
    router.apply(rules[..3].iter().map(gone));
    assert_eq!(router.sync.port_flags(&link(1)), flag[1]);
    let known = &router.maps.policy_sources;
    let left: HashSet<_> = rules[3..].iter().filter_map(|rule| rule.from).collect();
    assert!(*known == left, "{} of {}", known.len(), left.len());
    // Too many again, then none: nothing is left over.
    router.apply(rules[..3].iter().map(new));
    router.apply(rules.iter().map(gone));
    assert_eq!(router.sync.port_flags(&link(1)), 0);
    assert!(router.maps.policy_sources.is_empty());
}

fn destinations_of_ipsec_go_to_the_stack() {
    let (mut router, one, _) = two_tables();
    let ipsec = |destinations| [KernelEvent::Ipsec(destinations)];
    router.apply(ipsec(vec![net("20.1.1.0/24")]));
    assert_eq!(router.fate("20.1.1.1"), policy());
    assert_eq!(router.fate("20.1.2.1"), one);
    assert_eq!(router.sync.policy_rows().len(), 1);
    // More than are told apart.
    let many = (0..300).map(|number| net(&format!("30.{}.{}.0/24", number / 256, number % 256)));
    router.apply(ipsec(many.collect()));
    assert_eq!(router.fate("20.1.2.1"), policy());
    router.apply(ipsec(Vec::new()));
    assert_eq!(router.fate("20.1.1.1"), one);
    assert!(router.sync.policy_rows().is_empty());
}

fn routes_for_some_packets_go_to_the_stack() {
    let (mut router, one, _) = two_tables();
    let limited = Route {
        tos: 16,
        ..route("20.1.1.0/24", &[gateway(2, "10.2.0.2")])
    };
    router.apply([add(limited.clone())]);
    assert_eq!(router.fate("20.1.1.1"), policy());
    assert_eq!(router.fate("20.1.2.1"), one);
    // More of them at the same prefix, each by itself.
    let of_source = Route {
        tos: 0,
        source: Some(net("30.0.0.0/8")),
        ..limited.clone()
    };
    let for_all = route("20.1.1.0/24", &[gateway(1, "10.1.0.2")]);
    router.apply([add(of_source.clone()), add(for_all)]);
    router.apply([KernelEvent::RouteRemoved(limited)]);
    assert_eq!(router.fate("20.1.1.1"), policy());
    let why = router.sync.lookup(ip("20.1.1.1")).why;
    assert!(why.contains("only the kernel knows"), "{why}");
    router.apply([KernelEvent::RouteRemoved(of_source)]);
    assert_eq!(router.fate("20.1.1.1"), one);
}

fn what_only_the_kernel_knows() {
    let (mut router, one, _) = two_tables();
    let lasting = route("20.3.0.0/16", &[on_link(2)]);
    let passing = Route {
        kernel_only: Some(KernelOnly::Lifetime),
        ..lasting.clone()
    };
    router.apply([add(passing)]);
    assert_eq!(router.fate("20.3.0.1"), policy());
    // The lifetime was taken away, without a word.
    router.apply([KernelEvent::RouteRemoved(lasting)]);
    assert_eq!(router.fate("20.3.0.1"), one);
}

fn preference_counts_among_routes_of_one_metric() {
    let (mut router, _, two) = two_tables();
    let other = |metric, preference| KernelEvent::Route {
        route: Route {
            metric,
            preference,
            object: Some(9),
            ..route("20.1.0.0/16", &[gateway(2, "10.2.0.2")])
        },
        placement: Placement::Last,
    };
    let fate = router.fate("20.1.0.1");
    router.apply([other(5, 1), other(0, -1)]);
    assert_eq!(router.fate("20.1.0.1"), fate);
    router.apply([other(0, 1)]);
    assert_eq!(router.fate("20.1.0.1"), two);
}

/// Of several routes of IPv6 with one metric that share nothing, the kernel prefers one by the interface of arrival.
#[test]
fn routes_of_one_metric_go_to_the_stack() {
    family::with(Family::Ipv6, || {
        let mut router = router();
        let one = neighbour(1, "10.1.0.2");
        let place = |route: &Route| KernelEvent::Route {
            route: route.clone(),
            placement: Placement::Last,
        };
        let by_gateway = route("20.0.0.0/8", &[gateway(1, "10.1.0.2")]);
        let by_link = route("20.0.0.0/8", &[on_link(2)]);
        router.apply([
            KernelEvent::Neighbour(one),
            place(&by_gateway),
            place(&by_link),
        ]);
        assert_eq!(router.fate("20.1.0.1"), policy());
        let preferred = Route {
            preference: 1,
            ..by_gateway.clone()
        };
        router.apply([KernelEvent::RouteRemoved(by_gateway), place(&preferred)]);
        assert_eq!(router.fate("20.1.0.1"), forward(&one, NEXT_HOP_XCAST));
        // Two that do the same are as good as one.
        let local = |ifindex| Route {
            kind: RouteKind::Local,
            ..route("30.0.0.1/32", &[on_link(ifindex)])
        };
        router.apply([place(&local(1)), place(&local(2))]);
        assert_eq!(router.fate("30.0.0.1"), Fate::stack(Counter::StackLocal));
    });
}
