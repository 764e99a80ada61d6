//! One test per rule of what becomes of packets.

use xcast_common::maps::{
    NEXT_HOP_NEVER, NEXT_HOP_NEVER_DESTINATION, NEXT_HOP_ON_LINK, NEXT_HOP_XCAST, NextHopKind,
    counter::Counter,
};

use super::*;

both_families! {
    the_first_edits_are_the_fixed_entries,
    some_addresses_are_never_a_destination,
    a_gateway_route_follows_its_neighbour,
    a_gateway_that_does_not_speak_xcast_has_no_flag,
    on_link_neighbours_have_next_hops_of_their_own,
    what_leaves_by_no_port_is_for_the_stack,
    route_types,
    the_first_table_that_matches_decides,
    the_lowest_metric_is_used_and_the_others_are_kept,
    a_multipath_route_spreads_by_weight_over_usable_members,
    routes_follow_nexthop_objects,
    a_route_with_an_unknown_object_goes_by_the_kernels_rendering,
    routes_over_a_link_that_goes_down_are_gone,
    entries_follow_their_link,
    an_object_that_discards_makes_no_other_route_of_it,
}

fn the_first_edits_are_the_fixed_entries() {
    let mut router = Router::new(SyncConfig::default());
    router.apply([KernelEvent::ResyncBegin]);
    let Some(Edit::NextHop { id: 0, entry }) = router.edits.first() else {
        panic!("{:?}", router.edits)
    };
    assert_eq!(entry.kind, NextHopKind::Stack as u8);
    assert_eq!(entry.reason, Counter::StackNoRoute as u8);
    assert_eq!(router.fate("10.0.0.1"), Fate::stack(Counter::StackNoRoute));
    router.apply([KernelEvent::ResyncEnd]);
    assert_eq!(router.edits, []);
}

fn some_addresses_are_never_a_destination() {
    let mut router = router();
    let next = neighbour(1, "10.0.0.2");
    let mut loopback = special("127.0.0.1/32", RouteKind::Local);
    loopback.table = TABLE_LOCAL;
    router.apply([
        KernelEvent::Neighbour(next),
        KernelEvent::Neighbour(neighbour(1, "169.254.1.1")),
        add(route("0.0.0.0/0", &[gateway(1, "10.0.0.2")])),
        add(route("169.254.0.0/16", &[on_link(1)])),
        add(route("224.0.0.0/4", &[on_link(1)])),
        add(loopback),
    ]);
    // What is no source in IPv4 either. Of IPv6, link-local addresses are no sources.
    let no_destination = match family() {
        Family::Ipv4 => NEXT_HOP_NEVER_DESTINATION,
        Family::Ipv6 => NEXT_HOP_NEVER,
    };
    assert_eq!(router.fate("8.8.8.8"), forward(&next, NEXT_HOP_XCAST));
    for (address, id) in [
        ("0.0.0.0", NEXT_HOP_NEVER),
        ("0.1.2.3", no_destination),
        ("127.0.0.1", NEXT_HOP_NEVER),
        ("127.1.2.3", NEXT_HOP_NEVER),
        ("224.0.0.1", NEXT_HOP_NEVER),
        ("239.255.255.255", NEXT_HOP_NEVER),
        ("255.255.255.255", NEXT_HOP_NEVER),
        ("169.254.1.1", no_destination),
        ("240.0.0.1", no_destination),
        ("255.255.255.254", no_destination),
    ] {
        assert_eq!(router.maps.lookup(ip(address)), id, "{address}");
        assert_eq!(router.fate(address), Fate::skip(Counter::SkipNever));
    }
    assert_eq!(router.maps.own_addresses.len(), 0);
}

/// IPv6 has no broadcasts.
#[test]
fn a_broadcast_is_never_a_destination() {
    let mut router = router();
    let mut broadcast = special("10.0.0.255/32", RouteKind::Broadcast);
    broadcast.table = TABLE_LOCAL;
    router.apply([add(route("10.0.0.0/24", &[on_link(1)])), add(broadcast)]);
    assert_eq!(router.maps.lookup(ip("10.0.0.255")), NEXT_HOP_NEVER);
}

fn a_gateway_route_follows_its_neighbour() {
    let mut router = router();
    let next = neighbour(1, "10.0.0.2");
    router.apply([add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")]))]);
    assert_eq!(
        router.fate("20.1.1.1"),
        Fate::stack(Counter::StackNoNeighbour)
    );
    assert!(router.edits.contains(&Edit::Resolve {
        ifindex: 1,
        gateway: next.address
    }));
    let id = router.maps.lookup(ip("20.1.1.1"));

    router.apply([KernelEvent::Neighbour(next)]);
    assert!(matches!(router.edits[..], [Edit::NextHop { id: changed, .. }] if changed == id));
    assert_eq!(router.fate("20.1.1.1"), forward(&next, NEXT_HOP_XCAST));

    for state in [
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
    ] {
        router.apply([KernelEvent::Neighbour(Neighbour { state, ..next })]);
        assert_eq!(router.edits, []);
    }
    let mut failed = next;
    failed.state = NeighbourState::Failed;
    router.apply([KernelEvent::Neighbour(failed)]);
    assert_eq!(
        router.fate("20.1.1.1"),
        Fate::stack(Counter::StackNoNeighbour)
    );

    router.apply([KernelEvent::RouteRemoved(route(
        "20.0.0.0/8",
        &[gateway(1, "10.0.0.2")],
    ))]);
    assert_eq!(router.fate("20.1.1.1"), Fate::stack(Counter::StackNoRoute));
    assert_eq!(router.maps.resolving.len(), 0);
}

fn a_gateway_that_does_not_speak_xcast_has_no_flag() {
    let speaks = neighbour(1, "10.0.0.2");
    let other = neighbour(1, "10.0.0.3");
    let mut router = Router::new(SyncConfig {
        gateways: Gateways::List(vec![speaks.address]),
        ..SyncConfig::default()
    });
    router.attach(1, 2).apply([
        KernelEvent::Link(link(1)),
        KernelEvent::Neighbour(speaks),
        KernelEvent::Neighbour(other),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        add(route("21.0.0.0/8", &[gateway(1, "10.0.0.3")])),
    ]);
    assert_eq!(router.fate("20.0.0.1"), forward(&speaks, NEXT_HOP_XCAST));
    assert_eq!(router.fate("21.0.0.1"), forward(&other, 0));
}

fn on_link_neighbours_have_next_hops_of_their_own() {
    let mut router = router();
    let host = neighbour(1, "10.0.0.2");
    let elsewhere = neighbour(2, "10.0.0.3");
    router.apply([
        add(route("10.0.0.0/24", &[on_link(1)])),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        KernelEvent::Neighbour(host),
        KernelEvent::Neighbour(elsewhere),
    ]);
    assert_eq!(router.fate("10.0.0.2"), forward(&host, NEXT_HOP_ON_LINK));
    assert_eq!(router.fate("20.0.0.2"), forward(&host, NEXT_HOP_XCAST));
    let ids = [ip("10.0.0.2"), ip("20.0.0.2")].map(|address| router.maps.lookup(address));
    assert_ne!(ids[0], ids[1], "gateway and host are two next hops");
    for unresolved in ["10.0.0.3", "10.0.0.4"] {
        assert_eq!(
            router.fate(unresolved),
            Fate::stack(Counter::StackNoNeighbour)
        );
    }

    // A more specific route takes the neighbour's address, and gives it back.
    let specific = route("10.0.0.0/30", &[gateway(2, "10.9.0.1")]);
    router.apply([add(specific.clone())]);
    assert_eq!(
        router.fate("10.0.0.2"),
        Fate::stack(Counter::StackNoNeighbour)
    );
    assert!(!router.maps.routes.contains_key(&net("10.0.0.2/32")));
    router.apply([KernelEvent::RouteRemoved(specific)]);
    assert_eq!(router.fate("10.0.0.2"), forward(&host, NEXT_HOP_ON_LINK));

    // So does a host route; on the neighbour's own link it changes nothing.
    let host_route = route("10.0.0.2/32", &[on_link(1)]);
    router.apply([add(host_route.clone())]);
    assert_eq!(router.fate("10.0.0.2"), forward(&host, NEXT_HOP_ON_LINK));
    router.apply([KernelEvent::NeighbourRemoved {
        ifindex: 1,
        address: host.address,
    }]);
    assert_eq!(
        router.fate("10.0.0.2"),
        Fate::stack(Counter::StackNoNeighbour)
    );
    router.apply([KernelEvent::RouteRemoved(host_route)]);
    assert!(!router.maps.routes.contains_key(&net("10.0.0.2/32")));
}

fn what_leaves_by_no_port_is_for_the_stack() {
    let mut router = router();
    router.apply([
        KernelEvent::Link(link(3)),
        KernelEvent::Neighbour(neighbour(3, "10.3.0.2")),
        KernelEvent::Neighbour(neighbour(3, "10.3.0.3")),
        add(route("10.3.0.0/24", &[on_link(3)])),
        add(route("20.0.0.0/8", &[gateway(3, "10.3.0.2")])),
        add(route("21.0.0.0/8", &[to(1, Via::Kernel)])),
    ]);
    assert_eq!(router.fate("21.0.0.1"), Fate::stack(Counter::StackPolicy));
    for address in ["10.3.0.3", "10.3.0.9", "20.0.0.1"] {
        assert_eq!(
            router.fate(address),
            Fate::stack(Counter::StackNoPort),
            "{address}"
        );
    }
    assert_eq!(router.maps.resolving.len(), 0);

    router.attach(3, 4);
    let host = neighbour(3, "10.3.0.3");
    assert_eq!(router.fate("10.3.0.3"), forward(&host, NEXT_HOP_ON_LINK));
    assert_eq!(
        router.fate("10.3.0.9"),
        Fate::stack(Counter::StackNoNeighbour)
    );
    assert_eq!(
        router.fate("20.0.0.1"),
        forward(&neighbour(3, "10.3.0.2"), NEXT_HOP_XCAST)
    );
    assert!(router.maps.resolving.contains(&(3, ip("10.3.0.2"))));

    router.detach(3);
    for address in ["10.3.0.3", "10.3.0.9", "20.0.0.1"] {
        assert_eq!(
            router.fate(address),
            Fate::stack(Counter::StackNoPort),
            "{address}"
        );
    }
    assert_eq!(router.maps.resolving.len(), 0);
}

fn route_types() {
    let mut router = router();
    let mut local = special("30.0.0.1/32", RouteKind::Local);
    local.table = TABLE_LOCAL;
    router.apply([
        add(route("0.0.0.0/0", &[gateway(1, "10.0.0.2")])),
        add(local),
        add(special("30.1.0.0/16", RouteKind::Blackhole)),
        add(special("30.2.0.0/16", RouteKind::Unreachable)),
        add(special("30.3.0.0/16", RouteKind::Prohibit)),
        add(special("30.4.0.0/16", RouteKind::Multicast)),
        add(special("30.5.0.0/16", RouteKind::Local)),
    ]);
    assert_eq!(router.fate("30.0.0.1"), Fate::stack(Counter::StackLocal));
    assert_eq!(router.fate("30.1.0.1"), Fate::skip(Counter::SkipBlackhole));
    assert_eq!(
        router.fate("30.2.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    assert_eq!(
        router.fate("30.3.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    assert_eq!(router.fate("30.4.0.1"), Fate::skip(Counter::SkipNever));
    assert_eq!(router.fate("30.5.0.1"), Fate::stack(Counter::StackLocal));
    let own: Vec<_> = router.maps.own_addresses.keys().copied().collect();
    assert_eq!(own, [ip("30.0.0.1")]);
}

fn the_first_table_that_matches_decides() {
    let mut router = Router::new(SyncConfig {
        tables: vec![TABLE_LOCAL, TABLE_MAIN, 100],
        ..SyncConfig::default()
    });
    let in_table = |table, mut route: Route| {
        route.table = table;
        add(route)
    };
    router.apply([
        in_table(TABLE_MAIN, special("10.0.0.0/8", RouteKind::Unreachable)),
        in_table(100, special("10.1.0.0/16", RouteKind::Blackhole)),
        in_table(100, special("20.0.0.0/8", RouteKind::Blackhole)),
        in_table(101, special("21.0.0.0/8", RouteKind::Blackhole)),
    ]);
    assert_eq!(
        router.fate("10.1.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    assert!(!router.maps.routes.contains_key(&net("10.1.0.0/16")));
    assert_eq!(router.fate("20.0.0.1"), Fate::skip(Counter::SkipBlackhole));
    assert_eq!(router.fate("21.0.0.1"), Fate::stack(Counter::StackNoRoute));

    router.apply([in_table(
        TABLE_MAIN,
        special("10.1.0.0/20", RouteKind::Throw),
    )]);
    assert_eq!(router.fate("10.1.0.1"), Fate::skip(Counter::SkipBlackhole));
    assert_eq!(
        router.fate("10.1.255.1"),
        Fate::stack(Counter::StackUnreachable)
    );

    router.apply([in_table(
        TABLE_MAIN,
        special("10.2.0.0/16", RouteKind::Throw),
    )]);
    assert_eq!(router.fate("10.2.0.1"), Fate::stack(Counter::StackNoRoute));

    router.apply([KernelEvent::RouteRemoved(special(
        "10.0.0.0/8",
        RouteKind::Unreachable,
    ))]);
    assert_eq!(
        router.fate("10.1.255.1"),
        Fate::skip(Counter::SkipBlackhole)
    );
}

fn the_lowest_metric_is_used_and_the_others_are_kept() {
    let mut router = router();
    let with_metric = |metric, kind| Route {
        metric,
        ..special("20.0.0.0/8", kind)
    };
    let mut limited = special("20.0.0.0/8", RouteKind::Prohibit);
    limited.tos = 4;
    router.apply([
        add(with_metric(20, RouteKind::Blackhole)),
        add(with_metric(10, RouteKind::Unreachable)),
        add(limited.clone()),
    ]);
    // Only the kernel knows for whom it is.
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackPolicy));
    router.apply([KernelEvent::RouteRemoved(limited)]);
    assert_eq!(
        router.fate("20.0.0.1"),
        Fate::stack(Counter::StackUnreachable)
    );
    router.apply([KernelEvent::RouteRemoved(with_metric(
        10,
        RouteKind::Unreachable,
    ))]);
    assert_eq!(router.fate("20.0.0.1"), Fate::skip(Counter::SkipBlackhole));
}

/// Of IPv6, these would be siblings, and one multipath route: see below.
#[test]
fn routes_are_placed_as_the_kernel_places_them() {
    let mut router = router();
    let way = |n: u8| route("20.0.0.0/8", &[gateway(1, &format!("10.0.0.{n}"))]);
    let hosts = (1..=5).map(|n| KernelEvent::Neighbour(neighbour(1, &format!("10.0.0.{n}"))));
    router.apply(hosts);
    let mut place = |n, placement| {
        let route = way(n);
        router.apply([KernelEvent::Route { route, placement }]);
        match router.fate("20.0.0.1") {
            Fate::Forward {
                destination_mac: [.., n],
                ..
            } => n,
            fate => panic!("{fate:?}"),
        }
    };
    assert_eq!(place(1, Placement::Only), 1);
    assert_eq!(place(2, Placement::Last), 1);
    assert_eq!(place(3, Placement::First), 3);
    assert_eq!(place(4, Placement::Replace), 4);
    assert_eq!(place(2, Placement::Replace), 4, "said again");
    let mut remove = |n| {
        router.apply([KernelEvent::RouteRemoved(way(n))]);
        router.fate("20.0.0.1")
    };
    assert_eq!(
        remove(4),
        forward(&neighbour(1, "10.0.0.1"), NEXT_HOP_XCAST)
    );
    assert_eq!(
        remove(3),
        forward(&neighbour(1, "10.0.0.1"), NEXT_HOP_XCAST)
    );
    assert_eq!(
        remove(1),
        forward(&neighbour(1, "10.0.0.2"), NEXT_HOP_XCAST)
    );
    assert_eq!(remove(2), Fate::stack(Counter::StackNoRoute));
}

fn a_multipath_route_spreads_by_weight_over_usable_members() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "10.2.0.2"));
    let mut heavy = gateway(2, "10.2.0.2");
    heavy.weight = 3;
    let hops = [gateway(1, "10.0.0.2"), heavy];
    router.apply([
        KernelEvent::Neighbour(a),
        add(route("20.0.0.0/8", &hops)),
        add(route("21.0.0.0/8", &hops)),
        add(route("22.0.0.0/8", &[gateway(1, "10.0.0.2")])),
    ]);
    let waiting = Fate::stack(Counter::StackNoNeighbour);
    let (to_a, to_b) = (forward(&a, NEXT_HOP_XCAST), forward(&b, NEXT_HOP_XCAST));
    assert_eq!(
        router.fate("20.0.0.1"),
        ecmp([(to_a.clone(), 16), (waiting, 48)])
    );
    assert_eq!(
        router.maps.lookup(ip("20.0.0.1")),
        router.maps.lookup(ip("21.0.0.1"))
    );

    router.apply([KernelEvent::Neighbour(b)]);
    assert_eq!(
        router.fate("20.0.0.1"),
        ecmp([(to_a.clone(), 16), (to_b.clone(), 48)])
    );

    // A member's link fails: one edit, whatever the number of routes.
    let mut down = link(2);
    down.carrier = false;
    router.apply([KernelEvent::Link(down.clone())]);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_a.clone(), 64)]));
    assert!(matches!(
        router.edits[..],
        [Edit::Ecmp { .. }, Edit::Release { ifindex: 2, .. }]
    ));
    let buckets = router.maps.groups.values().next().unwrap().buckets;
    assert_eq!(
        buckets[0],
        router.maps.lookup(ip("22.0.0.1")),
        "one next hop per gateway"
    );

    // All links fail: the kernel goes on trying those without carrier.
    let mut other = link(1);
    other.carrier = false;
    router.apply([KernelEvent::Link(other)]);
    assert_eq!(
        router.fate("20.0.0.1"),
        ecmp([(to_a.clone(), 16), (to_b.clone(), 48)])
    );
    router.apply(ignore_link_down_everywhere());
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));

    // The kernel keeps a multipath route as long as one link is up.
    down.up = false;
    router.apply([KernelEvent::Link(down)]);
    router.apply([KernelEvent::Link(link(1))]);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_a.clone(), 64)]));
    router.apply([KernelEvent::Link(link(2))]);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_a, 16), (to_b, 48)]));
    router.apply([KernelEvent::LinkRemoved { ifindex: 2 }]);
    let left = match family() {
        Family::Ipv4 => Fate::stack(Counter::StackNoRoute),
        // Its next hops are routes by themselves.
        Family::Ipv6 => forward(&a, NEXT_HOP_XCAST),
    };
    assert_eq!(router.fate("20.0.0.1"), left);
}

/// Of IPv4, there is a switch for all links; of IPv6, it only sets that of each.
fn ignore_link_down_everywhere() -> Vec<KernelEvent> {
    let links = match family() {
        Family::Ipv4 => vec![None],
        Family::Ipv6 => vec![Some(1), Some(2)],
    };
    let ignore = |ifindex| KernelEvent::IgnoreLinkDown {
        ipv6: family() == Family::Ipv6,
        ifindex,
        ignore: true,
    };
    links.into_iter().map(ignore).collect()
}

/// The kernel takes no such routes of IPv6.
#[test]
fn an_on_link_member_of_a_multipath_route_is_for_the_stack() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "20.0.0.1"));
    router.apply([
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2"), on_link(2)])),
    ]);
    let waiting = Fate::stack(Counter::StackNoNeighbour);
    let to_a = forward(&a, NEXT_HOP_XCAST);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_a, 32), (waiting, 32)]));
}

fn routes_follow_nexthop_objects() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "10.2.0.2"));
    let (to_a, to_b) = (forward(&a, NEXT_HOP_XCAST), forward(&b, NEXT_HOP_XCAST));
    let using = |prefix: &str, id| Route {
        object: Some(id),
        ..route(prefix, &[])
    };
    let hop = |ifindex, gw| NextHopObjectKind::Hop(gateway(ifindex, gw));
    router.apply([
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        object(1, hop(1, "10.0.0.2")),
        object(2, hop(2, "10.2.0.2")),
        object(3, NextHopObjectKind::Blackhole),
        object(4, NextHopObjectKind::Group(vec![(1, 1), (2, 3)])),
        add(using("20.0.0.0/8", 1)),
        add(using("21.0.0.0/8", 3)),
        add(using("22.0.0.0/8", 4)),
        add(using("23.0.0.0/8", 4)),
    ]);
    assert_eq!(router.fate("20.0.0.1"), to_a);
    assert_eq!(router.fate("21.0.0.1"), Fate::skip(Counter::SkipBlackhole));
    let both = ecmp([(to_a.clone(), 16), (to_b.clone(), 48)]);
    assert_eq!(router.fate("22.0.0.1"), both);

    router.apply([object(1, hop(2, "10.2.0.2"))]);
    assert_eq!(router.fate("20.0.0.1"), to_b);
    assert_eq!(router.fate("22.0.0.1"), ecmp([(to_b.clone(), 64)]));
    router.apply([object(1, hop(1, "10.0.0.2"))]);

    // A group changes: its buckets do, its routes do not.
    router.apply([object(4, NextHopObjectKind::Group(vec![(1, 1), (2, 1)]))]);
    assert!(matches!(router.edits[..], [Edit::Ecmp { .. }]));

    // Objects on a link that goes down go without a word, and so do their routes.
    let mut down = link(2);
    down.up = false;
    down.carrier = false;
    router.apply([KernelEvent::Link(down), KernelEvent::Link(link(2))]);
    assert_eq!(router.fate("22.0.0.1"), to_a);
    router.apply([KernelEvent::NextHopObjectRemoved { id: 1 }]);
    for address in ["20.0.0.1", "22.0.0.1", "23.0.0.1"] {
        assert_eq!(router.fate(address), Fate::stack(Counter::StackNoRoute));
    }
    assert_eq!(router.maps.resolving.len(), 0);
}

fn a_route_with_an_unknown_object_goes_by_the_kernels_rendering() {
    let mut router = router();
    let a = neighbour(1, "10.0.0.2");
    let mut using = route("20.0.0.0/8", &[gateway(1, "10.0.0.2")]);
    using.object = Some(7);
    router.apply([KernelEvent::Neighbour(a), add(using.clone())]);
    assert_eq!(router.fate("20.0.0.1"), forward(&a, NEXT_HOP_XCAST));
    let b = neighbour(1, "10.0.0.3");
    using.hops = vec![gateway(1, "10.0.0.3")];
    let said_again = KernelEvent::Route {
        route: using,
        placement: Placement::Replace,
    };
    router.apply([KernelEvent::Neighbour(b), said_again]);
    assert_eq!(router.fate("20.0.0.1"), forward(&b, NEXT_HOP_XCAST));
}

fn routes_over_a_link_that_goes_down_are_gone() {
    let mut router = router();
    let mut backup = route("20.0.0.0/8", &[gateway(2, "10.2.0.2")]);
    backup.metric = 100;
    router.apply([
        KernelEvent::Neighbour(neighbour(1, "10.0.0.2")),
        KernelEvent::Neighbour(neighbour(2, "10.2.0.2")),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        add(backup),
    ]);
    let by = |n, address| forward(&neighbour(n, address), NEXT_HOP_XCAST);
    // Without carrier the kernel holds on to its route.
    let mut down = link(1);
    down.carrier = false;
    router.apply([KernelEvent::Link(down.clone())]);
    assert_eq!(router.fate("20.0.0.1"), by(1, "10.0.0.2"));
    // Unless it was told otherwise.
    let ignore = |ignore| KernelEvent::IgnoreLinkDown {
        ipv6: family() == Family::Ipv6,
        ifindex: Some(1),
        ignore,
    };
    router.apply([ignore(true)]);
    assert_eq!(router.fate("20.0.0.1"), by(2, "10.2.0.2"));
    router.apply([ignore(false)]);
    assert_eq!(router.fate("20.0.0.1"), by(1, "10.0.0.2"));
    down.up = false;
    router.apply([KernelEvent::Link(down)]);
    assert_eq!(router.fate("20.0.0.1"), by(2, "10.2.0.2"));
    router.apply([KernelEvent::Link(link(1))]);
    assert_eq!(router.fate("20.0.0.1"), by(2, "10.2.0.2"));
}

fn entries_follow_their_link() {
    let mut router = router();
    let mut limited = route("21.0.0.0/8", &[gateway(1, "10.0.0.2")]);
    limited.mtu_bytes = Some(1400);
    router.apply([
        KernelEvent::Neighbour(neighbour(1, "10.0.0.2")),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        add(limited),
    ]);
    let routes = router.maps.routes.clone();
    let mut changed = link(1);
    changed.mac = Some([6; 6]);
    changed.mtu_bytes = 1450;
    router.apply([KernelEvent::Link(changed.clone())]);
    let mtu = |router: &Router, address| match router.fate(address) {
        Fate::Forward {
            mtu_bytes,
            source_mac,
            ..
        } => {
            assert_eq!(source_mac, [6; 6]);
            mtu_bytes
        }
        fate => panic!("{fate:?}"),
    };
    assert_eq!(mtu(&router, "20.0.0.1"), 1450);
    assert_eq!(mtu(&router, "21.0.0.1"), 1400);
    assert_eq!(router.maps.routes, routes);
    // A metric that lowers nothing does not set its routes apart.
    changed.mtu_bytes = 1300;
    router.apply([KernelEvent::Link(changed)]);
    assert_eq!(mtu(&router, "21.0.0.1"), 1300);
    assert_eq!(
        router.maps.lookup(ip("20.0.0.1")),
        router.maps.lookup(ip("21.0.0.1"))
    );
}

/// Of IPv6, routes only forget their source address.
#[test]
fn a_removed_source_address_takes_its_routes_along() {
    let mut router = router();
    let mut sourced = route("20.0.0.0/8", &[gateway(1, "10.0.0.2")]);
    sourced.preferred_source = Some(ip("10.2.0.1"));
    let address = |ifindex, address| Address {
        ifindex,
        address: ip(address),
        peer: ip(address),
        prefix_len: 24,
    };
    router.apply([
        KernelEvent::Address(address(1, "10.0.0.1")),
        KernelEvent::Address(address(1, "10.2.0.1")),
        KernelEvent::Address(address(2, "10.2.0.1")),
        add(sourced),
        KernelEvent::AddressRemoved(address(1, "10.2.0.1")),
    ]);
    assert_ne!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
    router.apply([KernelEvent::AddressRemoved(address(2, "10.2.0.1"))]);
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
}

/// IPv6 needs none but the link-local one that every link has.
#[test]
fn a_link_without_addresses_does_no_ip() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "10.2.0.2"));
    let (to_a, to_b) = (forward(&a, NEXT_HOP_XCAST), forward(&b, NEXT_HOP_XCAST));
    let address = Address {
        ifindex: 1,
        address: ip("10.0.0.1"),
        peer: ip("10.0.0.1"),
        prefix_len: 24,
    };
    let both = route(
        "21.0.0.0/8",
        &[gateway(1, "10.0.0.2"), gateway(2, "10.2.0.2")],
    );
    router.apply([
        KernelEvent::Address(address),
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        add(both.clone()),
        KernelEvent::AddressRemoved(address),
    ]);
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
    assert_eq!(router.fate("21.0.0.1"), ecmp([(to_b.clone(), 64)]));
    // The kernel says so in its dumps.
    let dumped = KernelEvent::Route {
        route: Route {
            dead: vec![1],
            ..both
        },
        placement: Placement::Dump,
    };
    router.apply([dumped]);
    assert_eq!(router.edits, []);
    router.apply([KernelEvent::Address(address)]);
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
    assert_eq!(router.fate("21.0.0.1"), ecmp([(to_a, 32), (to_b, 32)]));
}

/// The mark says the same where the kernel was told to mind the carrier, and saw that it is gone before
/// it said so: that passes.
#[test]
fn a_dead_next_hop_of_a_link_with_addresses_comes_back() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "10.2.0.2"));
    let address = |ifindex, address| {
        KernelEvent::Address(Address {
            ifindex,
            address: ip(address),
            peer: ip(address),
            prefix_len: 24,
        })
    };
    let both = route(
        "20.0.0.0/8",
        &[gateway(1, "10.0.0.2"), gateway(2, "10.2.0.2")],
    );
    let mut down = link(1);
    down.carrier = false;
    router.apply(ignore_link_down_everywhere()).apply([
        address(1, "10.0.0.1"),
        address(2, "10.2.0.1"),
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        add(Route {
            dead: vec![1],
            ..both
        }),
        KernelEvent::Link(down),
    ]);
    let (to_a, to_b) = (forward(&a, NEXT_HOP_XCAST), forward(&b, NEXT_HOP_XCAST));
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_b.clone(), 64)]));
    router.apply([KernelEvent::Link(link(1))]);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(to_a, 32), (to_b, 32)]));
}

/// The kernel calls a route a blackhole while the nexthop object that it uses is one.
fn an_object_that_discards_makes_no_other_route_of_it() {
    let mut router = router();
    let next = neighbour(1, "10.0.0.2");
    let hop = NextHopObjectKind::Hop(gateway(1, "10.0.0.2"));
    let using = |kind| Route {
        object: Some(1),
        ..special("20.0.0.0/8", kind)
    };
    let said_again = |kind| KernelEvent::Route {
        route: using(kind),
        placement: Placement::Replace,
    };
    let first = add(special("20.0.0.0/8", RouteKind::Unreachable));
    let appended = KernelEvent::Route {
        route: using(RouteKind::Unicast),
        placement: Placement::Last,
    };
    router.apply([
        KernelEvent::Neighbour(next),
        object(1, hop.clone()),
        first,
        appended,
    ]);
    // Of IPv6, which of the two it is depends on the interface of arrival.
    let unreachable = Fate::stack(match family() {
        Family::Ipv4 => Counter::StackUnreachable,
        Family::Ipv6 => Counter::StackPolicy,
    });
    assert_eq!(router.fate("20.0.0.1"), unreachable);
    router.apply([
        object(1, NextHopObjectKind::Blackhole),
        said_again(RouteKind::Blackhole),
    ]);
    assert_eq!(router.fate("20.0.0.1"), unreachable, "it keeps its place");
    let first = special("20.0.0.0/8", RouteKind::Unreachable);
    router.apply([KernelEvent::RouteRemoved(first)]);
    assert_eq!(router.fate("20.0.0.1"), Fate::skip(Counter::SkipBlackhole));
    router.apply([object(1, hop), said_again(RouteKind::Unicast)]);
    assert_eq!(router.fate("20.0.0.1"), forward(&next, NEXT_HOP_XCAST));
    router.apply([
        object(1, NextHopObjectKind::Blackhole),
        KernelEvent::RouteRemoved(using(RouteKind::Blackhole)),
    ]);
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
}

/// Routes of IPv6 by way of gateways, of the same prefix and metric: IPv4 has nothing like it.
mod siblings {
    use super::*;

    const PREFIX: &str = "20.0.0.0/8";

    fn event(hops: &[Hop], placement: Placement) -> KernelEvent {
        let route = route(PREFIX, hops);
        KernelEvent::Route { route, placement }
    }

    fn gone(hop: Hop) -> KernelEvent {
        KernelEvent::RouteRemoved(route(PREFIX, &[hop]))
    }

    /// Neighbours on the first link, on the second and once more on the first, with the fates of what
    /// goes to them.
    fn three(router: &mut Router) -> ([Hop; 3], [Fate; 3]) {
        let all = [(1, "10.0.0.2"), (2, "10.2.0.2"), (1, "10.0.0.3")];
        let neighbours = all.map(|(ifindex, address)| neighbour(ifindex, address));
        router.apply(neighbours.map(KernelEvent::Neighbour));
        (
            all.map(|(ifindex, address)| gateway(ifindex, address)),
            neighbours.map(|neighbour| forward(&neighbour, NEXT_HOP_XCAST)),
        )
    }

    fn fate(router: &Router) -> Fate {
        router.fate("20.0.0.1")
    }

    fn ipv6(test: impl FnOnce(Router)) {
        family::with(Family::Ipv6, || test(router()));
    }

    #[test]
    fn next_hops_come_with_all_others_and_go_alone() {
        ipv6(|mut router| {
            let ([a, b, c], [to_a, to_b, to_c]) = three(&mut router);
            let heavy = Hop { weight: 3, ..b };
            router.apply([event(&[a], Placement::Only)]);
            assert_eq!(fate(&router), to_a);
            router.apply([event(&[heavy, a], Placement::First)]);
            let two = ecmp([(to_a.clone(), 16), (to_b.clone(), 48)]);
            assert_eq!(fate(&router), two);
            router.apply([event(&[a, heavy, c], Placement::Last), gone(c)]);
            assert_eq!(fate(&router), two);
            router.apply([gone(a)]);
            assert_eq!(fate(&router), to_b);
            router.apply([event(&[c], Placement::Replace)]);
            assert_eq!(fate(&router), to_c);
            router.apply([gone(c)]);
            assert_eq!(fate(&router), Fate::stack(Counter::StackNoRoute));
        });
    }

    #[test]
    fn a_route_by_an_object_that_goes_takes_no_next_hop_along() {
        ipv6(|mut router| {
            let ([a, ..], [to_a, ..]) = three(&mut router);
            let by_object = Route {
                object: Some(1),
                ..route(PREFIX, &[a])
            };
            router.apply([
                object(1, NextHopObjectKind::Hop(a)),
                event(&[a], Placement::Only),
                KernelEvent::Route {
                    route: by_object.clone(),
                    placement: Placement::Last,
                },
                KernelEvent::NextHopObjectRemoved { id: 1 },
                KernelEvent::RouteRemoved(by_object),
            ]);
            assert_eq!(fate(&router), to_a);
        });
    }

    #[test]
    fn next_hops_among_routes_of_another_sort() {
        ipv6(|mut router| {
            let ([a, b, _], [to_a, to_b, _]) = three(&mut router);
            let unreachable = || special(PREFIX, RouteKind::Unreachable);
            let last = |route| KernelEvent::Route {
                route,
                placement: Placement::Last,
            };
            let by_arrival = || Fate::stack(Counter::StackPolicy);
            // Beside a route of another sort, the kernel prefers either by the interface of arrival.
            router.apply([add(unreachable()), event(&[b], Placement::Last)]);
            assert_eq!(fate(&router), by_arrival());
            router.apply([KernelEvent::RouteRemoved(unreachable())]);
            assert_eq!(fate(&router), to_b);
            router.apply([
                last(unreachable()),
                event(&[a, b], Placement::Last),
                gone(b),
            ]);
            assert_eq!(fate(&router), by_arrival());
            router.apply([
                KernelEvent::RouteRemoved(unreachable()),
                last(unreachable()),
                event(&[b, a], Placement::Replace),
            ]);
            assert_eq!(fate(&router), by_arrival());
            router.apply([gone(b)]);
            assert_eq!(fate(&router), by_arrival());
            router.apply([KernelEvent::RouteRemoved(unreachable())]);
            assert_eq!(fate(&router), to_a);
        });
    }

    #[test]
    fn a_route_of_another_sort_replaces_all_siblings() {
        ipv6(|mut router| {
            let ([a, b, _], _) = three(&mut router);
            let blackhole = special(PREFIX, RouteKind::Blackhole);
            router.apply([
                event(&[a, b], Placement::Only),
                KernelEvent::Route {
                    route: blackhole.clone(),
                    placement: Placement::Replace,
                },
            ]);
            assert_eq!(fate(&router), Fate::skip(Counter::SkipBlackhole));
            router.apply([KernelEvent::RouteRemoved(blackhole)]);
            assert_eq!(fate(&router), Fate::stack(Counter::StackNoRoute));
        });
    }

    /// As the kernel does it, when it passes over siblings whose link is up.
    #[test]
    fn a_route_between_siblings_outlives_its_link() {
        ipv6(|mut router| {
            let ([_, b, _], _) = three(&mut router);
            let other = gateway(2, "10.2.0.3");
            let on_link = route(PREFIX, &[on_link(1)]);
            let mut down = link(1);
            (down.up, down.carrier) = (false, false);
            router.apply([
                event(&[b], Placement::Only),
                KernelEvent::Route {
                    route: on_link,
                    placement: Placement::Last,
                },
                event(&[b, other], Placement::Last),
                KernelEvent::Link(down),
                KernelEvent::Link(link(1)),
                gone(b),
                gone(other),
            ]);
            let waiting = Fate::stack(Counter::StackNoNeighbour);
            assert_eq!(fate(&router), waiting, "it goes by the link");
        });
    }

    #[test]
    fn a_next_hop_may_come_while_a_dump_is_under_way() {
        ipv6(|mut router| {
            let ([a, b, c], [to_a, to_b, to_c]) = three(&mut router);
            let neighbours = [(1, "10.0.0.2"), (2, "10.2.0.2"), (1, "10.0.0.3")];
            router.apply([event(&[a], Placement::Only), KernelEvent::ResyncBegin]);
            router.apply([1, 2].map(|ifindex| KernelEvent::Link(link(ifindex))));
            router.apply(
                neighbours.map(|(n, address)| KernelEvent::Neighbour(neighbour(n, address))),
            );
            router.apply([
                event(&[a, b], Placement::Dump),
                event(&[a, b, c], Placement::Last),
                event(&[a, b], Placement::Dump),
                KernelEvent::ResyncEnd,
            ]);
            let Fate::Ecmp(members) = fate(&router) else {
                panic!("{:?}", fate(&router))
            };
            assert_eq!(members.into_keys().collect::<Vec<_>>(), [to_a, to_c, to_b]);
            router.apply([a, b, c].map(gone));
            assert_eq!(fate(&router), Fate::stack(Counter::StackNoRoute));
        });
    }

    #[test]
    fn routes_learned_from_routers_are_no_siblings() {
        ipv6(|mut router| {
            let ([a, b, _], [_, to_b, _]) = three(&mut router);
            router.apply([event(&[a], Placement::Only), event(&[b], Placement::First)]);
            assert_eq!(fate(&router), Fate::stack(Counter::StackPolicy));
            router.apply([gone(a)]);
            assert_eq!(fate(&router), to_b);
        });
    }
}
