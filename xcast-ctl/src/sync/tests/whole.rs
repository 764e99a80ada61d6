//! Tests of what concerns the whole: dumps, ids, own addresses, size, and how it is shown.

use ipnet::Ipv4Net;
use xcast_common::maps::{
    ADDRESS_ANYCAST, ADDRESS_OWN, MAX_NEXT_HOPS, NEXT_HOP_XCAST, NextHopKind, counter::Counter,
};

use super::*;

both_families! {
    an_interface_that_comes_back_has_another_index,
    own_and_anycast_addresses,
    a_resync_drops_what_it_does_not_mention_and_keeps_the_rest,
    a_gateway_whose_entry_was_removed_is_resolved_again,
    a_full_next_hop_table_leaves_the_rest_to_the_stack,
    a_million_routes_to_one_gateway,
    routes_and_next_hops_in_words,
}

fn an_interface_that_comes_back_has_another_index() {
    let mut router = router();
    router.apply([
        KernelEvent::Neighbour(neighbour(1, "10.0.0.2")),
        add(route("10.0.0.0/24", &[on_link(1)])),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        KernelEvent::LinkRemoved { ifindex: 1 },
    ]);
    assert_eq!(router.fate("10.0.0.2"), Fate::stack(Counter::StackNoRoute));
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoRoute));
    router.detach(1).apply([
        KernelEvent::Link(link(9)),
        KernelEvent::Neighbour(neighbour(9, "10.0.0.2")),
        add(route("20.0.0.0/8", &[gateway(9, "10.0.0.2")])),
    ]);
    router.attach(9, 10);
    let next = neighbour(9, "10.0.0.2");
    assert_eq!(router.fate("20.0.0.1"), forward(&next, NEXT_HOP_XCAST));
}

fn own_and_anycast_addresses() {
    let mut router = Router::new(SyncConfig {
        anycast: vec![ip("10.99.0.1")],
        ..SyncConfig::default()
    });
    let mut local = special("10.0.0.1/32", RouteKind::Local);
    local.table = TABLE_LOCAL;
    let address = |address| Address {
        ifindex: 1,
        address: ip(address),
        peer: ip(address),
        prefix_len: 24,
    };
    let link_local = address("169.254.88.1");
    let both = address("10.99.0.1");
    router.apply([
        KernelEvent::Address(link_local),
        KernelEvent::Address(both),
        add(local.clone()),
    ]);
    let flags = |router: &Router, address| router.maps.own_addresses.get(&ip(address)).copied();
    assert_eq!(flags(&router, "10.0.0.1"), Some(ADDRESS_OWN));
    assert_eq!(flags(&router, "169.254.88.1"), Some(ADDRESS_OWN));
    assert_eq!(
        flags(&router, "10.99.0.1"),
        Some(ADDRESS_OWN | ADDRESS_ANYCAST)
    );
    router.apply([
        KernelEvent::AddressRemoved(link_local),
        KernelEvent::AddressRemoved(both),
        KernelEvent::RouteRemoved(local),
    ]);
    assert_eq!(flags(&router, "10.0.0.1"), None);
    assert_eq!(flags(&router, "169.254.88.1"), None);
    assert_eq!(flags(&router, "10.99.0.1"), Some(ADDRESS_ANYCAST));
}

fn a_resync_drops_what_it_does_not_mention_and_keeps_the_rest() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(1, "10.0.0.3"));
    let dumped = |route| KernelEvent::Route {
        route,
        placement: Placement::Dump,
    };
    let everything = [
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        object(1, NextHopObjectKind::Hop(gateway(1, "10.0.0.2"))),
        dumped(route("10.0.0.0/24", &[on_link(1)])),
        dumped(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        dumped(route("21.0.0.0/8", &[gateway(1, "10.0.0.3")])),
    ];
    router.apply(everything.clone());
    let links = [KernelEvent::Link(link(1)), KernelEvent::Link(link(2))];
    router
        .apply([KernelEvent::ResyncBegin])
        .apply(links.clone());
    router.apply(everything.clone());
    router.apply([KernelEvent::ResyncEnd]);
    assert_eq!(router.edits, [], "nothing changed");

    router.apply([KernelEvent::ResyncBegin]).apply(links);
    router.apply(everything[..1].to_vec());
    router.apply([dumped(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")]))]);
    assert_eq!(router.edits, [], "not before the end");
    router.apply([KernelEvent::ResyncEnd]);
    assert_eq!(router.fate("20.0.0.1"), forward(&a, NEXT_HOP_XCAST));
    for address in ["10.0.0.3", "10.0.0.2", "21.0.0.1"] {
        assert_eq!(router.fate(address), Fate::stack(Counter::StackNoRoute));
    }
}

fn a_gateway_whose_entry_was_removed_is_resolved_again() {
    let mut router = router();
    let next = neighbour(1, "10.0.0.2");
    router.apply([
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        KernelEvent::Neighbour(next),
    ]);
    router.apply([KernelEvent::NeighbourRemoved {
        ifindex: 1,
        address: next.address,
    }]);
    assert!(router.edits.contains(&Edit::Resolve {
        ifindex: 1,
        gateway: next.address
    }));
}

fn a_full_next_hop_table_leaves_the_rest_to_the_stack() {
    let mut router = router();
    let address = |n: u32| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
    let hosts = |range: std::ops::Range<u32>| {
        range.map(|n| KernelEvent::Neighbour(neighbour(1, &address(n))))
    };
    router.apply([add(route("10.0.0.0/8", &[on_link(1)]))]);
    router.apply(hosts(1..MAX_NEXT_HOPS + 10));
    let resolved = |router: &Router| {
        let ids = (1..MAX_NEXT_HOPS + 10).map(|n| router.maps.lookup(ip(&address(n))));
        let kinds = ids.map(|id| router.maps.next_hops[&id].kind);
        kinds
            .filter(|&kind| kind == NextHopKind::Forward as u8)
            .count() as u32
    };
    let room = MAX_NEXT_HOPS - 9; // The fixed ones and that of the on-link route.
    assert_eq!(resolved(&router), room);
    assert_eq!(
        router.fate(&address(MAX_NEXT_HOPS + 5)),
        Fate::stack(Counter::StackNoPort)
    );
    router.apply([add(route("20.0.0.0/8", &[gateway(1, "10.0.0.1")]))]);
    assert_eq!(router.fate("20.0.0.1"), Fate::stack(Counter::StackNoPort));

    let gone = (1..=20).map(|n| KernelEvent::NeighbourRemoved {
        ifindex: 1,
        address: ip(&address(n)),
    });
    router.apply(gone);
    router.apply([]);
    assert_eq!(
        router.fate("20.0.0.1"),
        Fate::stack(Counter::StackNoNeighbour)
    );
    assert_eq!(resolved(&router), MAX_NEXT_HOPS + 9 - 20);
}

fn a_million_routes_to_one_gateway() {
    let mut router = router();
    let mut edits = Vec::new();
    let sync = &mut router.sync;
    sync.apply(KernelEvent::ResyncBegin, &mut edits);
    sync.apply(KernelEvent::Link(link(1)), &mut edits);
    let template = route("0.0.0.0/0", &[gateway(1, "10.0.0.2")]);
    let routes = (0..1_000_000_u32).map(|n| KernelEvent::Route {
        route: Route {
            prefix: family::prefix(Ipv4Net::new_assert((0x1400_0000 + (n << 6)).into(), 26)),
            ..template.clone()
        },
        placement: Placement::Dump,
    });
    sync.apply_all(routes, &mut edits);
    sync.apply(KernelEvent::ResyncEnd, &mut edits);
    assert_eq!(sync.route_count(), 1_000_012);
    // One change costs one edit.
    edits.clear();
    sync.apply(KernelEvent::Neighbour(neighbour(1, "10.0.0.2")), &mut edits);
    assert_eq!(edits.len(), 1);
}

fn routes_and_next_hops_in_words() {
    let mut router = router();
    router.apply([
        KernelEvent::Neighbour(neighbour(1, "10.0.0.2")),
        add(route("10.0.0.0/24", &[on_link(1)])),
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        add(route(
            "21.0.0.0/8",
            &[gateway(1, "10.0.0.2"), gateway(2, "10.2.0.2")],
        )),
    ]);
    let why = |address| router.sync.lookup(ip(address)).why;
    let text = family::text;
    assert_eq!(
        why("20.0.0.1"),
        text("20.0.0.0/8 via 10.0.0.2 dev eth1 proto static, neighbour 10.0.0.2 REACHABLE")
    );
    assert_eq!(
        why("10.0.0.2"),
        text("10.0.0.0/24 dev eth1 proto static, neighbour 10.0.0.2 REACHABLE")
    );
    assert_eq!(
        why("10.0.0.9"),
        text("10.0.0.0/24 dev eth1 proto static, neighbour not resolved")
    );
    assert_eq!(
        why("21.0.0.1"),
        text(
            "21.0.0.0/8 nexthop via 10.0.0.2 dev eth1 weight 1 nexthop via 10.2.0.2 dev eth2 \
             weight 1 proto static"
        )
    );
    let link_local = match family() {
        Family::Ipv4 => "never a destination",
        Family::Ipv6 => "never a destination, never a source",
    };
    assert_eq!(why("169.254.0.1"), link_local);
    assert_eq!(why("30.0.0.1"), "no route");
    let routes: Vec<_> = router.sync.routes().collect();
    assert_eq!(routes.len(), router.maps.routes.len());
    let next_hops: Vec<_> = router.sync.next_hops().collect();
    assert_eq!(next_hops.len(), router.sync.next_hop_count());
    for row in &routes {
        assert!(next_hops.iter().any(|next_hop| next_hop.id == row.next_hop));
    }
}
