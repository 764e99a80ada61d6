//! Tests of what keeps neighbours alive, and of what interfaces say of them.

use xcast_common::maps::{
    ECMP_BUCKETS, EGRESS_OTHER, NEXT_HOP_XCAST, NextHopKind, counter::Counter, port_bit,
};

use super::*;

both_families! {
    a_used_neighbour_is_probed_when_it_is_stale,
    a_gateway_that_lost_its_flag_is_asked_for_again,
    a_nexthop_group_passes_over_gateways_that_do_not_answer,
    ways_back_by_what_is_on_top_of_ports,
}

/// What a neighbour of `neighbour` looks like in this state.
fn in_state(neighbour: Neighbour, state: NeighbourState) -> KernelEvent {
    KernelEvent::Neighbour(Neighbour { state, ..neighbour })
}

fn tend(router: &Router, used: &[u32]) -> Vec<Edit> {
    let mut edits = Vec::new();
    router.sync.tend(used, &mut edits);
    edits
}

fn a_used_neighbour_is_probed_when_it_is_stale() {
    let mut router = router();
    let host = neighbour(1, "10.0.0.2");
    let idle = neighbour(1, "10.0.0.3");
    router.apply([
        KernelEvent::Neighbour(host),
        KernelEvent::Neighbour(idle),
        add(route("10.0.0.0/24", &[on_link(1)])),
    ]);
    let id = router.maps.lookup(host.address);
    assert_eq!(tend(&router, &[id]), [], "it is reachable");
    for neighbour in [host, idle] {
        let state = NeighbourState::Stale;
        router.apply([KernelEvent::Neighbour(Neighbour { state, ..neighbour })]);
    }
    let neighbours = vec![(1, host.address)];
    assert_eq!(tend(&router, &[0, id, id]), [Edit::Use { neighbours }]);
    assert_eq!(tend(&router, &[]), []);
}

fn a_gateway_that_lost_its_flag_is_asked_for_again() {
    let mut router = router();
    let next = neighbour(1, "10.0.0.2");
    let managed = Neighbour {
        managed: true,
        ..next
    };
    router.apply([
        add(route("20.0.0.0/8", &[gateway(1, "10.0.0.2")])),
        KernelEvent::Neighbour(managed),
    ]);
    assert_eq!(tend(&router, &[]), []);
    router.apply([KernelEvent::Neighbour(next)]);
    let (ifindex, gateway) = (1, next.address);
    assert_eq!(
        tend(&router, &[]),
        [Edit::Resolve { ifindex, gateway }],
        "somebody else wrote it"
    );
    let state = NeighbourState::Permanent;
    router.apply([KernelEvent::Neighbour(Neighbour { state, ..next })]);
    assert_eq!(tend(&router, &[]), [], "the administrator's");
}

fn a_nexthop_group_passes_over_gateways_that_do_not_answer() {
    let mut router = router();
    let (a, b) = (neighbour(1, "10.0.0.2"), neighbour(2, "10.0.1.2"));
    let (to_a, to_b) = (forward(&a, NEXT_HOP_XCAST), forward(&b, NEXT_HOP_XCAST));
    router.apply([
        KernelEvent::Neighbour(a),
        KernelEvent::Neighbour(b),
        object(1, NextHopObjectKind::Hop(gateway(1, "10.0.0.2"))),
        object(2, NextHopObjectKind::Hop(gateway(2, "10.0.1.2"))),
        object(3, NextHopObjectKind::Group(vec![(1, 1), (2, 1)])),
        add(Route {
            object: Some(3),
            ..route("20.0.0.0/8", &[])
        }),
    ]);
    let both = ecmp([(to_a, 32), (to_b.clone(), 32)]);
    assert_eq!(router.fate("20.0.0.1"), both);
    for state in [NeighbourState::Failed, NeighbourState::Incomplete] {
        router.apply([in_state(a, state)]);
        assert_eq!(router.fate("20.0.0.1"), ecmp([(to_b.clone(), 64)]));
    }
    // Where none answers, the kernel has the last word.
    router.apply([in_state(b, NeighbourState::Failed)]);
    let waiting = Fate::stack(Counter::StackNoNeighbour);
    assert_eq!(router.fate("20.0.0.1"), ecmp([(waiting, 64)]));
    router.apply([
        in_state(a, NeighbourState::Stale),
        in_state(b, NeighbourState::Probe),
    ]);
    assert_eq!(router.fate("20.0.0.1"), both);
}

/// Routes of IPv4 do so if the kernel was told to, those of IPv6 never, and each has buckets of its own.
#[test]
fn other_multipath_routes_pass_over_gateways_if_the_kernel_was_told_to() {
    let mut router = router();
    let name = |text: &str| text.parse::<IpAddr>().unwrap();
    let (a, b) = (name("2001:db8::2"), name("2001:db8:1::2"));
    let known = |ifindex, address| Neighbour {
        address,
        ..neighbour(ifindex, "10.0.0.2")
    };
    let (known_a, known_b) = (known(1, a), known(2, b));
    let by = |prefix: &str| {
        add(Route {
            prefix: prefix.parse().unwrap(),
            ..route(
                "20.0.0.0/8",
                &[to(1, Via::Gateway(a)), to(2, Via::Gateway(b))],
            )
        })
    };
    router.apply([
        in_state(known_a, NeighbourState::Failed),
        KernelEvent::Neighbour(known_b),
        by("30.0.0.0/8"),
        by("2001:db8:3::/48"),
    ]);
    let to_b = forward(&known_b, NEXT_HOP_XCAST);
    let shared = ecmp([
        (Fate::stack(Counter::StackNoNeighbour), 32),
        (to_b.clone(), 32),
    ]);
    let only_b = ecmp([(to_b, 64)]);
    for (told, of_ipv4) in [(false, &shared), (true, &only_b), (false, &shared)] {
        router.apply([KernelEvent::MultipathUsesNeighbours(told)]);
        assert_eq!(&router.maps.fate(name("30.0.0.1")), of_ipv4);
        assert_eq!(router.maps.fate(name("2001:db8:3::1")), shared);
    }
}

/// Largest packet of the way to an address, in octets.
fn mtu(router: &Router, address: IpAddr) -> u16 {
    let entry = router.maps.next_hops[&router.maps.lookup(address)];
    assert_eq!(entry.kind, NextHopKind::Forward as u8);
    entry.mtu_bytes
}

/// An IPv4 route by way of a gateway of IPv6 (RFC 8950) has nothing to do with the MTU for IPv6.
#[test]
fn ipv6_has_an_mtu_of_its_own() {
    let mut router = router();
    let next: IpAddr = "2001:db8::2".parse().unwrap();
    let known = Neighbour {
        address: next,
        ..neighbour(1, "10.0.0.2")
    };
    let by = |prefix: &str| {
        add(Route {
            prefix: prefix.parse().unwrap(),
            ..route("20.0.0.0/8", &[to(1, Via::Gateway(next))])
        })
    };
    router.apply([
        KernelEvent::Neighbour(known),
        by("30.0.0.0/8"),
        by("2001:db8:3::/48"),
    ]);
    let (ipv4, ipv6) = (
        "30.0.0.1".parse().unwrap(),
        "2001:db8:3::1".parse().unwrap(),
    );
    for (mtu_bytes, expected) in [(1280, 1280), (9000, 1500), (1400, 1400)] {
        router.apply([KernelEvent::Ipv6Mtu {
            ifindex: 1,
            mtu_bytes,
        }]);
        assert_eq!((mtu(&router, ipv4), mtu(&router, ipv6)), (1500, expected));
    }
}

/// The kernel keeps the routes of an address that goes with one of its peers and stays with another.
#[test]
fn one_address_with_two_peers() {
    let mut router = router();
    let address = |peer: &str| Address {
        ifindex: 1,
        address: "10.77.0.1".parse().unwrap(),
        peer: peer.parse().unwrap(),
        prefix_len: 32,
    };
    router.apply([
        KernelEvent::Address(address("10.77.0.2")),
        KernelEvent::Address(address("10.77.0.3")),
        KernelEvent::Neighbour(neighbour(1, "10.77.0.3")),
        add(route("20.0.0.0/8", &[gateway(1, "10.77.0.3")])),
    ]);
    let before = router.fate("20.0.0.1");
    router.apply([KernelEvent::AddressRemoved(address("10.77.0.2"))]);
    assert_eq!(router.fate("20.0.0.1"), before);
    assert!(router.maps.own_addresses.contains_key(&ip("10.77.0.1")));
    router.apply([KernelEvent::AddressRemoved(address("10.77.0.3"))]);
    assert_ne!(router.fate("20.0.0.1"), before);
}

/// A route by an interface on top of ports is the way back by each of those.
fn ways_back_by_what_is_on_top_of_ports() {
    let mut router = router();
    let bridge = 20;
    router.arrive(1, Some((8, Vec::new())));
    router.apply([
        KernelEvent::Link(link(bridge)),
        add(route("30.0.0.0/8", &[on_link(bridge)])),
        add(route("31.0.0.0/8", &[gateway(bridge, "30.0.0.1")])),
    ]);
    let ways = |router: &Router| {
        ["30.0.0.9", "31.0.0.9"].map(|source| {
            let id = router.sync.lookup(ip(source)).next_hop;
            let entry = router.maps.next_hops[&id];
            match entry.kind == NextHopKind::Ecmp as u8 {
                true => Err(entry.ports()),
                false => Ok(entry.egress),
            }
        })
    };
    assert_eq!(ways(&router), [Ok(EGRESS_OTHER); 2]);
    router.arrive(1, Some((8, vec![bridge])));
    assert_eq!(ways(&router), [Ok(8); 2]);
    router.arrive(2, Some((9, vec![bridge])));
    let both = port_bit(8) | port_bit(9);
    assert_eq!(ways(&router), [Err(both); 2]);
    assert_eq!(
        router.fate("30.0.0.9"),
        ecmp([(Fate::stack(Counter::StackNoPort), ECMP_BUCKETS)])
    );
    router.arrive(1, None);
    assert_eq!(ways(&router), [Ok(9); 2]);
}
