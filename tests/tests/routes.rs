//! What changes in the kernel changes in the router, without anyone's help.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::layout::{self, Gateways, Layout, interface, mac_text};
use tests::oracle::Target;
use tests::packet;
use tests::rig::{self, Rig, list};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 0);
const FAR_1: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const FAR_2: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);

/// The gateway of `port` that speaks Xcast.
fn via(port: usize) -> Target {
    Target::Gateway {
        port,
        address: Family::under_test().address(layout::on_link(port, 2)),
        mac: Some(layout::neighbour_mac(port, 2)),
        xcast: true,
    }
}

/// Replaces the view's route to a prefix; `None` removes it.
fn set_route(rig: &mut Rig, prefix: Ipv4Addr, length: u8, target: Option<Target>) {
    let (prefix, length) = (rig.ip(prefix), rig.family().prefix_len(length));
    rig.view
        .routes
        .retain(|route| (route.0, route.1) != (prefix, length));
    rig.view
        .routes
        .extend(target.map(|target| (prefix, length, target)));
}

/// A change by `ip`, what it means, and whether the router follows.
fn follow(rig: &mut Rig, command: &str, length: u8, target: Option<Target>) -> Result<()> {
    rig.run(command)?;
    set_route(rig, FAR, length, target);
    probe(rig).with_context(|| format!("after ip {command}"))
}

/// Two destinations of the prefix in question, and others beside them.
fn probe(rig: &Rig) -> Result<()> {
    let destinations = [FAR_1, layout::behind(3, 1), FAR_2, layout::host(2, 0)];
    rig.eventually(0, &rig::udp(list(destinations)).frame())
}

#[test]
fn routes_come_change_and_go() {
    rig::with(&Layout::default(), |rig| {
        probe(rig)?;
        for (command, length, target) in [
            ("route add 10.20.0.0/16 via 10.0.1.2", 16, Some(via(1))),
            ("route replace 10.20.0.0/16 via 10.0.2.2", 16, Some(via(2))),
            ("route add 10.20.0.0/24 via 10.0.3.2", 24, Some(via(3))),
            (
                "route replace blackhole 10.20.0.0/24",
                24,
                Some(Target::Blackhole),
            ),
            (
                "route replace prohibit 10.20.0.0/24",
                24,
                Some(Target::Unreachable),
            ),
            (
                "route replace unreachable 10.20.0.0/24",
                24,
                Some(Target::Unreachable),
            ),
            (
                "route replace 10.20.0.0/24 via 10.7.0.9",
                24,
                Some(Target::OtherInterface),
            ),
            ("route replace 10.20.0.0/24 via 10.0.1.2", 24, Some(via(1))),
            // Of equal prefixes the lower metric wins; without, it is 0, or 1024 of IPv6.
            (
                "route add 10.20.0.0/24 via 10.0.2.2 metric 2000",
                24,
                Some(via(1)),
            ),
            ("route del 10.20.0.0/24 via 10.0.1.2", 24, Some(via(2))),
            ("route del 10.20.0.0/24", 24, None),
            ("route del 10.20.0.0/16", 16, None),
        ] {
            follow(rig, command, length, target)?;
        }
        // The default route, and what it still does not cover.
        rig.run("route add default via 10.0.1.2")?;
        let any = rig.ip(Ipv4Addr::UNSPECIFIED);
        rig.view.routes.push((any, 0, via(1)));
        probe(rig)?;
        let never = [224, 0, 0, 9].into();
        rig.check(
            0,
            &rig::udp(list([FAR_1, never, [10, 3, 0, 1].into()])).frame(),
        )?;
        rig.run("route del default")?;
        rig.view.routes.pop();
        probe(rig)
    });
}

#[test]
fn thousands_of_routes_at_once() {
    rig::with(&Layout::default(), |rig| {
        let prefix = |index: usize| Ipv4Addr::new(30, (index >> 8) as u8, index as u8, 0);
        let change = |rig: &mut Rig, verb: &str, port: usize| {
            let line = |index| {
                let family = rig.family();
                let prefix = family.prefix(prefix(index), 24);
                let gateway = family.address(layout::on_link(port, 2));
                format!("route {verb} {prefix} via {gateway}\n")
            };
            rig.router
                .ip_batch(&(0..20_000).map(line).collect::<String>())
        };
        for (verb, port) in [("add", 1), ("replace", 2), ("del", 2)] {
            change(rig, verb, port)?;
            let target = (verb != "del").then(|| via(port));
            for index in [0, 1, 255, 256, 9999, 19_999] {
                set_route(rig, prefix(index), 24, target);
            }
            let destination = |index| Ipv4Addr::from(prefix(index).to_bits() + 1);
            let destinations = [19_999, 0, 1, 255, 256, 9999].map(destination);
            rig.eventually(0, &rig::udp(list(destinations)).frame())?;
        }
        Ok(())
    });
}

#[test]
fn further_tables() {
    let layout = Layout {
        tables: vec![100, 200],
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        follow(
            rig,
            "route add 10.20.0.0/16 via 10.0.1.2 table 200",
            16,
            Some(via(1)),
        )?;
        // An earlier table wins, however short its prefix.
        rig.run("route add 10.0.0.0/8 via 10.0.2.2 table 100")?;
        set_route(rig, FAR, 16, Some(via(2)));
        probe(rig)?;
        rig.run("route add throw 10.20.0.0/16 table 100")?;
        set_route(rig, FAR, 16, Some(via(1)));
        probe(rig)?;
        // A table that was not configured is none of our business.
        rig.run("route add 10.20.0.0/24 via 10.0.3.2 table 300")?;
        probe(rig)
    });
}

/// The ports that `count` flows to two destinations leave by; `None` for a flow that does not leave in
/// one copy for both, as it will be until a change has reached the router. Never may a destination
/// be served twice.
fn ports_of_flows(rig: &Rig, count: u16) -> Result<Vec<Option<usize>>> {
    let mut ports = Vec::new();
    for flow in 0..count {
        let segment = packet::udp(
            (rig::SOURCE, 10_000 + flow),
            (layout::GROUP, rig::COMMON_PORT),
            b"one of many flows",
            None,
        );
        let frame = rig::carrying(17, list([FAR_1, FAR_2]), segment).frame();
        rig.drain()?;
        rig.taps[0].send(&frame)?;
        let seen = rig.first_copy()?;
        let served: Vec<_> = seen.served().into_iter().collect();
        let twice = served.iter().find(|entry| entry.1 > 1);
        ensure!(twice.is_none(), "{twice:?} of {served:?}");
        // Two copies are one for each destination, by way of the kernel.
        let shared = seen.branches.len() == 1 && served.len() == 2;
        ports.push(shared.then(|| seen.branches[0].port));
    }
    Ok(ports)
}

/// Waits until all flows leave, and by just these ports.
fn flows_leave_by(rig: &Rig, wanted: &[usize]) -> Result<()> {
    let wanted: BTreeSet<_> = wanted.iter().copied().map(Some).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen: BTreeSet<_> = ports_of_flows(rig, 24)?.into_iter().collect();
        if seen == wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "flows leave by {seen:?} instead of {wanted:?}"
        );
    }
}

/// Destinations behind the same multipath route share a copy; different flows take different paths,
/// the same flow always the same.
#[test]
fn multipath() {
    rig::with(&Layout::default(), |rig| {
        let paths = "nexthop via 10.0.1.2 weight 1 nexthop via 10.0.2.2 weight 3";
        rig.run(&format!("route add 10.20.0.0/16 {paths}"))?;
        flows_leave_by(rig, &[1, 2])?;
        let first = ports_of_flows(rig, 64)?;
        ensure!(first == ports_of_flows(rig, 64)?, "flows change their path");
        let by_1 = first.iter().filter(|&&port| port == Some(1)).count();
        ensure!(
            (4..=32).contains(&by_1),
            "{by_1} of 64 flows with weight 1 of 4"
        );
        rig.run("route replace 10.20.0.0/16 nexthop via 10.0.2.2 nexthop via 10.0.3.2")?;
        flows_leave_by(rig, &[2, 3])?;
        rig.run("link set p2 down")?;
        flows_leave_by(rig, &[3])
    });
}

#[test]
fn nexthop_objects() {
    rig::with(&Layout::default(), |rig| {
        for command in [
            "nexthop add id 1 via 10.0.1.2 dev p1",
            "nexthop add id 2 via 10.0.2.2 dev p2",
            "nexthop add id 3 via 10.0.3.2 dev p3",
            "nexthop add id 9 blackhole",
        ] {
            rig.run(command)?;
        }
        follow(rig, "route add 10.20.0.0/16 nhid 1", 16, Some(via(1)))?;
        // The object changes under the route, which the kernel does not mention.
        follow(
            rig,
            "nexthop replace id 1 via 10.0.2.2 dev p2",
            16,
            Some(via(2)),
        )?;
        follow(rig, "route replace 10.20.0.0/16 nhid 3", 16, Some(via(3)))?;
        follow(
            rig,
            "route replace 10.20.0.0/16 nhid 9",
            16,
            Some(Target::Blackhole),
        )?;
        rig.run("nexthop replace id 1 via 10.0.1.2 dev p1")?;
        rig.run("nexthop add id 10 group 1/2")?;
        rig.run("route replace 10.20.0.0/16 nhid 10")?;
        flows_leave_by(rig, &[1, 2])?;
        rig.run("nexthop replace id 10 group 2,2/3")?;
        flows_leave_by(rig, &[2, 3])?;
        rig.run("nexthop del id 2")?;
        flows_leave_by(rig, &[3])?;
        // Routes go with the last of their next hops.
        follow(rig, "nexthop del id 3", 16, None)
    });
}

/// A link that goes down takes its routes with it, and others take over.
#[test]
fn link_down() {
    rig::with(&Layout::default(), |rig| {
        rig.run("route add 10.20.0.0/16 via 10.0.2.2 metric 2000")?;
        follow(rig, "route add 10.20.0.0/16 via 10.0.1.2", 16, Some(via(1)))?;
        follow(rig, "link set p1 down", 16, Some(via(2)))?;
        // What lay behind it is gone.
        rig.view.routes.retain(|(_, _, target)| match target {
            Target::Gateway { port, .. } | Target::OnLink { port } => *port != 1,
            _ => true,
        });
        let destinations = [
            layout::behind(1, 1),
            layout::host(1, 0),
            layout::behind(3, 1),
        ];
        let frame = rig::udp(list(destinations)).frame();
        rig.eventually(0, &frame)?;
        // Up again: the kernel knows the link's own route, the rest is the administrator's.
        rig.run("link set p1 up")?;
        let commands = Layout::default().port_commands(1);
        let commands = commands.replace("address add", "address replace");
        rig.router.ip_batch(&commands)?;
        rig.view.routes = rig.layout().view().routes;
        rig.eventually(0, &frame)?;
        follow(rig, "route add 10.20.0.0/16 via 10.0.1.2", 16, Some(via(1)))
    });
}

/// An interface that is removed and made anew is a port again.
#[test]
fn interface_recreated() {
    rig::with(&Layout::default(), |rig| {
        let destinations = [
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::host(2, 0),
        ];
        let frame = rig::udp(list(destinations)).frame();
        rig.check(0, &frame)?;
        for _ in 0..2 {
            rig.remove_port(1)?;
            let all = rig.layout().view();
            rig.view.routes.retain(|(_, _, target)| match target {
                Target::Gateway { port, .. } | Target::OnLink { port } => *port != 1,
                _ => true,
            });
            // Its tap is deaf; the others must not be.
            rig.eventually(0, &frame)?;
            rig.restore_port(1)?;
            rig.view = all;
            rig.eventually(0, &frame)?;
            // In by the new one as well.
            let mut packet = rig::udp(list(destinations));
            packet.destination_mac = layout::router_mac(1);
            rig.eventually(1, &packet.frame())?;
        }
        Ok(())
    });
}

/// The router's own addresses are what the kernel says they are, now.
#[test]
fn address_changes() {
    rig::with(&Layout::default(), |rig| {
        let new = layout::on_link(1, 99);
        let frame = |destination: Ipv4Addr, source: Ipv4Addr| {
            let destinations = [layout::behind(2, 1), layout::behind(2, 2), new];
            let mut packet = rig::udp(list(destinations));
            packet.ip.destination = destination.into();
            packet.ip.source = source.into();
            packet.frame()
        };
        rig.run("address add 10.0.1.99/24 dev p1 nodad")?;
        let (own, length) = (rig.ip(new), rig.family().prefix_len(32));
        rig.view.own.push(own);
        rig.view.routes.push((own, length, Target::Local));
        rig.eventually(0, &frame(layout::GROUP, rig::SOURCE))?;
        // It means the router, and no stranger may use it.
        rig.check(0, &frame(new, rig::SOURCE))?;
        let expected = rig.check(0, &frame(layout::GROUP, new))?;
        ensure!(expected.counters.contains_key("drop_spoofed"));

        rig.run("address del 10.0.1.99/24 dev p1")?;
        rig.view.own.pop();
        rig.view.routes.pop();
        rig.eventually(0, &frame(layout::GROUP, new))?;
        let expected = tests::oracle::expect(&rig.view, 0, &frame(new, rig::SOURCE));
        ensure!(expected.untouched);
        let before = rig.counters()?;
        rig.observe(0, &frame(new, rig::SOURCE))?;
        let counted = rig.counters()?.since(&before);
        ensure!(counted.is_empty(), "{counted:?}");
        Ok(())
    });
}

/// Link layer addresses follow: of neighbours, and of the router's own interfaces.
#[test]
fn link_layer_addresses_change() {
    let layout = Layout {
        gateways: Gateways::All,
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        let destinations = [
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::host(1, 0),
            layout::behind(2, 1),
        ];
        let frame = rig::udp(list(destinations)).frame();
        rig.check(0, &frame)?;
        let new = [2, 0, 0, 0, 0x99, 1];
        let set_neighbours = |rig: &Rig| {
            let neighbour = |address| {
                let mac = mac_text(new);
                let address = rig.ip(address);
                format!("neighbour replace {address} lladdr {mac} nud permanent dev p1\n")
            };
            let addresses = [layout::on_link(1, 2), layout::host(1, 0)];
            rig.router.ip_batch(&addresses.map(neighbour).concat())
        };
        set_neighbours(rig)?;
        let (gateway, host) = (rig.ip(layout::on_link(1, 2)), rig.ip(layout::host(1, 0)));
        for route in &mut rig.view.routes {
            if let Target::Gateway { address, mac, .. } = &mut route.2
                && *address == gateway
            {
                *mac = Some(new);
            }
        }
        for neighbour in &mut rig.view.neighbours {
            if neighbour.1 == host {
                neighbour.2 = new;
            }
        }
        rig.eventually(0, &frame)?;

        let own = [2, 0, 0, 0, 0x88, 1];
        let name = interface(1);
        rig.router
            .ip(&format!("link set {name} address {}", mac_text(own)))?;
        rig.view.ports[1].mac = own;
        // Which makes the kernel forget every neighbour on the link.
        set_neighbours(rig)?;
        rig.eventually(0, &frame)?;
        // Frames to the new one are accepted, to the old one no longer.
        let mut packet = rig::udp(list([layout::behind(2, 1), layout::behind(3, 1)]));
        packet.destination_mac = own;
        rig.eventually(1, &packet.frame())?;
        packet.destination_mac = layout::router_mac(1);
        rig.check(1, &packet.frame())?;
        Ok(())
    });
}

/// A host on the link that is forgotten is the kernel's to find again.
#[test]
fn neighbour_forgotten() {
    rig::with(&Layout::default(), |rig| {
        let host = layout::host(1, 0);
        let frame = rig::udp(list([host, layout::host(1, 1), layout::behind(2, 1)])).frame();
        rig.check(0, &frame)?;
        rig.run(&format!("neighbour del {host} dev p1"))?;
        let host = rig.ip(host);
        rig.view.neighbours.retain(|neighbour| neighbour.1 != host);
        rig.eventually(0, &frame)
    });
}
