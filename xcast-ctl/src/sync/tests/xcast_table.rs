//! The Xcast routing table beside the kernel's (RFC 5058 section 11.1).

use super::*;
use crate::sync::TunnelSpec;
use xcast_common::maps::{NEXT_HOP_TUNNEL, NEXT_HOP_XCAST};
use xcast_overlay::backbone::tunnels::{Carriage, Mode};

both_families!(
    the_longer_match_decides,
    a_connected_network_needs_no_table,
    routes_wait_until_their_gateway_proves_itself,
    what_the_table_says_besides_is_ignored,
    a_route_to_a_far_end_leads_into_its_tunnel,
    a_route_by_the_kernels_tunnel_device_leads_into_the_tunnel,
);

const TABLE: u32 = 100;

/// A router with a table for lists, one gateway on each port, and a route by the first in the main table.
struct Two {
    router: Router,
    /// By the first gateway, which has not proved itself.
    kernel: Fate,
    /// By the second gateway.
    lists: Fate,
}

fn second() -> (u32, IpAddr) {
    (2, ip("10.2.0.2"))
}

fn in_table(prefix: &str, hops: &[Hop]) -> Route {
    Route {
        table: TABLE,
        ..route(prefix, hops)
    }
}

fn two() -> Two {
    let mut router = Router::new(SyncConfig {
        xcast_table: Some(TABLE),
        ..SyncConfig::default()
    });
    let neighbours = [neighbour(1, "10.1.0.2"), neighbour(2, "10.2.0.2")];
    router.apply([
        KernelEvent::Link(link(1)),
        KernelEvent::Link(link(2)),
        KernelEvent::Neighbour(neighbours[0]),
        KernelEvent::Neighbour(neighbours[1]),
        add(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
    ]);
    router.attach(1, 2).attach(2, 3);
    Two {
        router,
        kernel: forward(&neighbours[0], 0),
        lists: forward(&neighbours[1], NEXT_HOP_XCAST),
    }
}

fn the_longer_match_decides() {
    let Two {
        mut router,
        kernel,
        lists,
    } = two();
    router.prove(second(), true);
    let by_second = [gateway(2, "10.2.0.2")];
    router.apply([add(in_table("20.1.0.0/16", &by_second))]);
    assert_eq!(router.fate("20.1.0.1"), lists);
    assert_eq!(router.fate("20.2.0.1"), kernel);
    let why = router.sync.lookup(ip("20.1.0.1")).why;
    assert!(why.starts_with("Xcast table 100: "), "{why}");
    // Of the same length, the table for lists is preferred; a longer one of the kernel's is not overruled.
    router.apply([
        add(in_table("20.0.0.0/8", &by_second)),
        add(route("20.1.2.0/24", &[gateway(1, "10.1.0.2")])),
    ]);
    assert_eq!(router.fate("20.2.0.1"), lists);
    assert_eq!(router.fate("20.1.2.1"), kernel);
    // And back, a route at a time.
    for prefix in ["20.0.0.0/8", "20.1.0.0/16"] {
        router.apply([KernelEvent::RouteRemoved(in_table(prefix, &by_second))]);
    }
    assert_eq!(router.fate("20.2.0.1"), kernel);
    assert_eq!(router.fate("20.1.0.1"), kernel);
}

fn a_connected_network_needs_no_table() {
    let Two {
        mut router, lists, ..
    } = two();
    let host = neighbour(1, "30.0.0.7");
    router.prove(second(), true).apply([
        add(route("30.0.0.0/24", &[on_link(1)])),
        add(special("30.0.1.1/32", RouteKind::Local)),
        add(in_table("30.0.0.0/24", &[gateway(2, "10.2.0.2")])),
        add(in_table("30.0.1.1/32", &[gateway(2, "10.2.0.2")])),
        add(in_table("30.0.0.0/8", &[gateway(2, "10.2.0.2")])),
        KernelEvent::Neighbour(host),
    ]);
    let on_link = xcast_common::maps::NEXT_HOP_ON_LINK;
    assert_eq!(router.fate("30.0.0.7"), forward(&host, on_link));
    assert_ne!(router.fate("30.0.1.1"), lists);
    assert_eq!(router.fate("30.0.2.1"), lists);
}

fn routes_wait_until_their_gateway_proves_itself() {
    let Two {
        mut router,
        kernel,
        lists,
    } = two();
    router.apply([add(in_table("20.1.0.0/16", &[gateway(2, "10.2.0.2")]))]);
    assert_eq!(router.fate("20.1.0.1"), kernel);
    // It is asked, so that it can.
    assert!(router.maps.resolving.contains(&second()));
    let why = router.sync.lookup(ip("20.1.0.1")).why;
    assert!(why.contains("has not proved that it speaks"), "{why}");
    let row = router.sync.xcast_table().unwrap();
    assert_eq!((row.table, row.usable), (TABLE, 0));
    assert_eq!(row.passed_over[0].1, net("20.1.0.0/16"));
    for _ in 0..2 {
        router.prove(second(), true);
        assert_eq!(router.fate("20.1.0.1"), lists);
        assert_eq!(router.sync.xcast_table().unwrap().usable, 1);
        router.prove(second(), false);
        assert_eq!(router.fate("20.1.0.1"), kernel);
    }
    // One whose link-layer address is not known takes no lists, whatever it proved.
    router.prove(second(), true);
    let (ifindex, address) = second();
    router.apply([KernelEvent::NeighbourRemoved { ifindex, address }]);
    assert_eq!(router.fate("20.1.0.1"), kernel);
}

fn what_the_table_says_besides_is_ignored() {
    let Two {
        mut router, kernel, ..
    } = two();
    let kinds = [
        RouteKind::Blackhole,
        RouteKind::Unreachable,
        RouteKind::Throw,
        RouteKind::Local,
    ];
    for kind in kinds {
        let route = Route {
            table: TABLE,
            ..special("20.1.0.0/16", kind)
        };
        router.apply([add(route.clone())]);
        assert_eq!(router.fate("20.1.0.1"), kernel, "{kind}");
        router.apply([KernelEvent::RouteRemoved(route)]);
    }
    router.apply([add(in_table("20.1.0.0/16", &[on_link(2)]))]);
    assert_eq!(router.fate("20.1.0.1"), kernel);
    assert_eq!(router.sync.xcast_table().unwrap().passed_over, []);
}

/// A router with a table for lists and a tunnel to 40.0.0.3.
fn with_tunnel(kernel_device: Option<String>) -> Router {
    Router::new(SyncConfig {
        xcast_table: Some(TABLE),
        tunnels: vec![TunnelSpec {
            name: "west".to_owned(),
            remote: ip("40.0.0.3"),
            local: Some(ip("40.0.0.1")),
            destinations: Vec::new(),
            kernel_device,
        }],
        ..SyncConfig::default()
    })
}

fn a_route_to_a_far_end_leads_into_its_tunnel() {
    let mut router = with_tunnel(None);
    let near = neighbour(1, "10.1.0.2");
    // Interface 3 is none that packets leave by: the far end is only named there.
    let to_far_end = in_table("20.1.0.0/16", &[gateway(3, "40.0.0.3")]);
    router.apply([
        KernelEvent::Link(link(1)),
        KernelEvent::Link(link(3)),
        KernelEvent::Neighbour(near),
        add(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(route("40.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(to_far_end.clone()),
    ]);
    router.attach(1, 2);
    let kernel = forward(&near, 0);
    let is_in_tunnel = |router: &Router| {
        let Fate::Forward { flags, port, .. } = router.fate("20.1.0.1") else {
            panic!("{:?}", router.fate("20.1.0.1"));
        };
        assert_eq!(port, 2);
        flags == NEXT_HOP_XCAST | NEXT_HOP_TUNNEL
    };
    assert_eq!(router.fate("20.1.0.1"), kernel);
    let why = router.sync.lookup(ip("20.1.0.1")).why;
    assert!(why.contains("the tunnel to"), "{why}");
    let works = |mode| Carriage {
        mode,
        ..Carriage::default()
    };
    for _ in 0..2 {
        router.carry(0, works(Some(Mode::Udp)));
        assert!(is_in_tunnel(&router));
        assert_eq!(router.fate("20.2.0.1"), kernel);
        // The far end itself is never behind its own tunnel.
        assert_eq!(router.fate("40.0.0.3"), kernel);
        assert_eq!(router.sync.xcast_table().unwrap().usable, 1);
        let why = router.sync.lookup(ip("20.1.0.1")).why;
        assert!(
            why.starts_with("Xcast table 100: ") && why.contains("tunnel west"),
            "{why}"
        );
        router.carry(0, works(None));
        assert_eq!(router.fate("20.1.0.1"), kernel);
    }
    // A longer route of the kernel's is not overruled, and a single destination goes by it.
    router.carry(0, works(Some(Mode::Ip)));
    router.apply([add(route("20.1.2.0/24", &[gateway(1, "10.1.0.2")]))]);
    assert_eq!(router.fate("20.1.2.1"), kernel);
    assert!(is_in_tunnel(&router));
    router.apply([KernelEvent::RouteRemoved(to_far_end)]);
    assert_eq!(router.fate("20.1.0.1"), kernel);
}

/// As a routing protocol writes it that speaks by such a device: its next hops are addresses there, or link-local ones.
fn a_route_by_the_kernels_tunnel_device_leads_into_the_tunnel() {
    let mut router = with_tunnel(Some(link(3).name));
    let near = neighbour(1, "10.1.0.2");
    router.apply([
        KernelEvent::Link(link(1)),
        KernelEvent::Link(link(3)),
        KernelEvent::Link(link(4)),
        KernelEvent::Neighbour(near),
        add(route("20.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(route("40.0.0.0/8", &[gateway(1, "10.1.0.2")])),
        add(in_table("20.1.0.0/16", &[gateway(3, "50.0.0.2")])),
        add(in_table("20.2.0.0/16", &[on_link(3)])),
        add(in_table("20.3.0.0/16", &[gateway(4, "50.0.0.2")])),
    ]);
    router.attach(1, 2);
    let kernel = forward(&near, 0);
    let is_in_tunnel = |router: &Router, address: &str| matches!(router.fate(address), Fate::Forward { flags, .. } if flags == NEXT_HOP_XCAST | NEXT_HOP_TUNNEL);
    assert_eq!(router.fate("20.1.0.1"), kernel);
    let why = router.sync.lookup(ip("20.1.0.1")).why;
    assert!(why.contains("the tunnel to"), "{why}");
    router.carry(
        0,
        Carriage {
            mode: Some(Mode::Ip),
            ..Carriage::default()
        },
    );
    assert!(is_in_tunnel(&router, "20.1.0.1") && is_in_tunnel(&router, "20.2.0.1"));
    assert_eq!(router.fate("20.3.0.1"), kernel);
    // By whatever name the device has now.
    router.apply([KernelEvent::Link(Link {
        name: "renamed".to_owned(),
        ..link(3)
    })]);
    assert_eq!(router.fate("20.1.0.1"), kernel);
    router.apply([KernelEvent::Link(Link {
        name: "renamed".to_owned(),
        alt_names: vec![link(3).name],
        ..link(3)
    })]);
    assert!(is_in_tunnel(&router, "20.1.0.1"));
}
