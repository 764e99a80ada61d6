//! Tunnels in front of the kernel's routes.

use super::*;
use crate::sync::{NoWay, TunnelSpec};
use xcast_common::maps::{
    NEXT_HOP_TUNNEL, NEXT_HOP_TUNNEL_ONLY, NEXT_HOP_XCAST, NextHop, NextHopKind,
};
use xcast_overlay::backbone::tunnels::{Carriage, Mode};

both_families!(
    of_tunnels_with_the_same_destinations_the_first_that_works_is_used,
    tunnels_that_would_be_used_if_they_worked,
    the_way_without_the_tunnel_is_in_its_entry,
    the_mtu_is_that_of_the_path_without_outer_headers,
    a_tunnel_without_a_way_is_left_at_once,
    a_remote_on_a_link_is_kept_resolved,
);

const IP: Carriage = Carriage {
    mode: Some(Mode::Ip),
    mtu_bytes: None,
};

fn spec(name: &str, remote: &str) -> TunnelSpec {
    TunnelSpec {
        name: name.to_owned(),
        remote: ip(remote),
        local: Some(ip("10.1.0.1")),
        destinations: vec![net("20.1.0.0/16")],
        kernel_device: None,
    }
}

/// Two tunnels, by a gateway on each port; unicast goes by the first.
fn two_tunnels() -> (Router, [Neighbour; 2]) {
    let mut router = Router::new(SyncConfig {
        gateways: Gateways::None,
        tunnels: vec![spec("first", "30.0.0.1"), spec("next", "40.0.0.1")],
        ..SyncConfig::default()
    });
    let neighbours = [neighbour(1, "10.1.0.2"), neighbour(2, "10.2.0.2")];
    router.apply([
        KernelEvent::Link(link(1)),
        KernelEvent::Link(link(2)),
        KernelEvent::Neighbour(neighbours[0]),
        KernelEvent::Neighbour(neighbours[1]),
        add(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(route("30.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(route("40.0.0.0/8", &[gateway(2, "10.2.0.2")])),
    ]);
    router.attach(1, 2).attach(2, 3);
    (router, neighbours)
}

/// The next hop of what is reached through tunnels.
fn entry(router: &Router) -> NextHop {
    let id = router.maps.lookup(ip("20.1.0.1"));
    router.maps.next_hops[&id]
}

fn of_tunnels_with_the_same_destinations_the_first_that_works_is_used() {
    let (mut router, _) = two_tunnels();
    assert_eq!(entry(&router).flags, 0);
    router.carry(1, IP);
    assert_eq!(
        (entry(&router).group_or_tunnel, entry(&router).tunnel_port),
        (2, 3)
    );
    let udp = Carriage {
        mode: Some(Mode::Udp),
        ..IP
    };
    router.carry(0, udp);
    assert_eq!(
        (entry(&router).group_or_tunnel, entry(&router).tunnel_port),
        (1, 2)
    );
    assert_eq!(
        router.sync.tunnel_name(router.maps.lookup(ip("20.1.0.1"))),
        Some("first")
    );
    router.carry(0, Carriage::default());
    assert_eq!(entry(&router).group_or_tunnel, 2);
    router.carry(1, Carriage::default());
    assert_eq!(entry(&router).flags, 0);
    // What is beside goes as before.
    router.carry(0, IP);
    let beside = router.maps.lookup(ip("20.2.0.1"));
    assert_eq!(router.maps.next_hops[&beside].flags, 0);
}

fn tunnels_that_would_be_used_if_they_worked() {
    let (mut router, _) = two_tunnels();
    let idle = |router: &Router, address| router.sync.idle_tunnels(ip(address));
    assert_eq!(idle(&router, "20.1.0.1"), [0, 1]);
    assert!(idle(&router, "20.2.0.1").is_empty());
    // Only those that are preferred to the one that is used.
    router.carry(1, IP);
    assert_eq!(idle(&router, "20.1.0.1"), [0]);
    router.carry(0, IP);
    assert!(idle(&router, "20.1.0.1").is_empty());
    // What a longer route leads elsewhere would not go by them.
    router.carry(0, Carriage::default());
    router.apply([add(route("20.1.0.0/24", &[gateway(2, "10.2.0.2")]))]);
    assert!(idle(&router, "20.1.0.1").is_empty());
    assert_eq!(idle(&router, "20.1.1.1"), [0]);
}

fn the_way_without_the_tunnel_is_in_its_entry() {
    let (mut router, [first, second]) = two_tunnels();
    router.carry(0, IP);
    let alone = |router: &Router| {
        let entry = entry(router);
        assert_eq!(
            entry.flags & !NEXT_HOP_TUNNEL_ONLY,
            NEXT_HOP_XCAST | NEXT_HOP_TUNNEL
        );
        (entry.kind, entry.port, entry.destination_mac)
    };
    let forward = NextHopKind::Forward as u8;
    assert_eq!(alone(&router), (forward, 2, first.mac.unwrap()));
    // It follows the kernel's route, whatever prefix that has.
    router.apply([add(route("20.1.0.0/16", &[gateway(2, "10.2.0.2")]))]);
    assert_eq!(alone(&router), (forward, 3, second.mac.unwrap()));
    router.apply([
        KernelEvent::RouteRemoved(route("20.1.0.0/16", &[gateway(2, "10.2.0.2")])),
        KernelEvent::RouteRemoved(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
    ]);
    assert_eq!(
        entry(&router).flags & NEXT_HOP_TUNNEL_ONLY,
        NEXT_HOP_TUNNEL_ONLY
    );
    router.apply([add(special("20.0.0.0/8", RouteKind::Blackhole))]);
    assert_eq!(
        entry(&router).flags & NEXT_HOP_TUNNEL_ONLY,
        NEXT_HOP_TUNNEL_ONLY
    );
}

fn the_mtu_is_that_of_the_path_without_outer_headers() {
    let (mut router, _) = two_tunnels();
    let outer_len = match family() {
        Family::Ipv4 => 20,
        Family::Ipv6 => 40,
    };
    router.carry(0, IP);
    assert_eq!(entry(&router).tunnel_mtu_bytes, 1500 - outer_len - 8);
    let narrow = Carriage {
        mode: Some(Mode::Udp),
        mtu_bytes: Some(1400),
    };
    router.carry(0, narrow);
    assert_eq!(entry(&router).tunnel_mtu_bytes, 1400 - outer_len - 8 - 8);
    // Unicast is as long as ever.
    assert_eq!(entry(&router).mtu_bytes, 1500);
}

fn a_tunnel_without_a_way_is_left_at_once() {
    let (mut router, [first, _]) = two_tunnels();
    router.carry(0, IP).carry(1, IP);
    assert_eq!(entry(&router).group_or_tunnel, 0);
    router.apply([KernelEvent::RouteRemoved(route(
        "30.0.0.0/8",
        &[gateway(1, "10.1.0.2")],
    ))]);
    assert_eq!(router.sync.outer(0), Err(NoWay::NoRoute));
    assert_eq!(entry(&router).group_or_tunnel, 2);
    router.apply([add(route("30.0.0.0/8", &[gateway(1, "10.1.0.2")]))]);
    assert_eq!(entry(&router).group_or_tunnel, 0);
    let gone = KernelEvent::NeighbourRemoved {
        ifindex: 1,
        address: first.address,
    };
    router.apply([gone]);
    assert!(matches!(
        router.sync.outer(0),
        Err(NoWay::Unresolved { ifindex: 1, .. })
    ));
    assert_eq!(entry(&router).group_or_tunnel, 2);
}

fn a_remote_on_a_link_is_kept_resolved() {
    let mut router = Router::new(SyncConfig {
        tunnels: vec![spec("near", "10.1.0.9")],
        ..SyncConfig::default()
    });
    router.apply([
        KernelEvent::Link(link(1)),
        add(route("10.1.0.0/16", &[on_link(1)])),
    ]);
    router.attach(1, 2);
    let asks = |edit: &Edit| {
        *edit
            == Edit::ResolveRemote {
                ifindex: 1,
                address: ip("10.1.0.9"),
            }
    };
    assert!(router.edits.iter().any(asks), "{:?}", router.edits);
    let remote = neighbour(1, "10.1.0.9");
    router.apply([KernelEvent::Neighbour(remote)]);
    let macs = router.sync.outer(0).map(|outer| outer.macs());
    assert_eq!(macs.unwrap()[..6], remote.mac.unwrap());
}
