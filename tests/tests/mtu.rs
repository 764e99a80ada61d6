//! Lengths: what fits is delivered, however long the packet was on arrival; what does not fit is
//! answered by the kernel, by the MTU that counts for the family and the route.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::family::Family;
use tests::layout::{self, Layout};
use tests::oracle::Prune;
use tests::packet::{self, Packet, protocol};
use tests::rig::{self, SOURCE, list};
use tests::trio::{self, A, B, BEHIND, C, Host, SOON, Trio};

/// A packet with `payload` octets, the rest as in [`rig::udp`].
fn padded(destinations: Vec<packet::Destination>, payload: usize) -> Packet {
    let ends = ((SOURCE, 4000), (layout::GROUP, 5000));
    let segment = packet::udp(ends.0, ends.1, &vec![0x5a; payload], None);
    rig::carrying(protocol::UDP, destinations, segment)
}

/// Arrives longer than the MTU of an egress port, and leaves it short enough, for its list is
/// pruned there or it becomes unicast. It is delivered.
#[test]
fn longer_on_arrival_than_the_egress_mtu() {
    for prune in [Prune::Truncate, Prune::Bitmap] {
        let layout = Layout {
            mtu: vec![(0, 2200), (1, 2200), (2, 1280), (3, 1500)],
            prune,
            ..Layout::default()
        };
        rig::with(&layout, |rig| {
            for count in [10, 30, 60] {
                // Most of the list by port 1, one or two by the others.
                let many = (1..=count).map(|last| layout::behind(1, last));
                let mut few = vec![layout::behind(2, 1), layout::host(3, 0)];
                // With its list whole, a copy for two would not fit: the kernel would forward one for each.
                if prune == Prune::Truncate {
                    few.push(layout::behind(2, 2));
                }
                let destinations = list(many.chain(few));
                let room = 2100 - 60 - 16 * (count + 3);
                for payload in [1000, 1150, room] {
                    let packet = padded(destinations.clone(), payload);
                    let frame = packet.frame();
                    if frame.len() > 2200 + packet::ETHERNET_LEN {
                        continue;
                    }
                    rig.check(0, &frame)?;
                }
            }
            Ok(())
        });
    }
}

/// The same for one destination alone, whose copy is the packet itself.
#[test]
fn alone_in_the_list_and_longer_than_the_egress_mtu() {
    let layout = Layout {
        mtu: vec![(0, 1500), (2, 1280)],
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        for destination in [layout::behind(2, 1), layout::host(2, 0)] {
            // Around the length at which the unicast copy just fits.
            for payload in [1180, 1220, 1231, 1232, 1233, 1251, 1252, 1253] {
                rig.check(0, &padded(list([destination]), payload).frame())?;
            }
        }
        Ok(())
    });
}

/// By the stack and by a port at once.
#[test]
fn longer_on_arrival_with_copies_for_the_stack() {
    let layout = Layout {
        mtu: vec![(0, 2200), (1, 2200), (2, 1280)],
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        let many = (1..=30).map(|last| layout::behind(1, last));
        let others = [
            layout::host(2, 0),
            layout::router(0),
            layout::on_link(2, 99),
        ];
        let destinations = list(many.chain(others));
        rig.check(0, &padded(destinations, 1150).frame())?;
        Ok(())
    });
}

/// A datagram of `payload` octets to B and one to C by Xcast: whether B gets it.
fn long(trio: &Trio, host: &Host, payload: usize) -> Result<bool> {
    let destinations = [B, C];
    host.gets(trio.send_padded(A, &destinations, payload)?)
}

/// Too big, as the router's kernel tells A: "fragmentation needed" (RFC 1191), "packet too big" (RFC 4443 section 3.2).
fn too_big(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4 => (3, 4),
        Family::Ipv6 => (2, 0),
    }
}

/// Neither unicast nor Xcast of 1,350 octets reaches `host`, and A is told of either; what is
/// shorter arrives.
fn is_too_big(trio: &Trio, host: &Host, destination: std::net::Ipv4Addr) -> Result<()> {
    let senders: [(&str, &dyn Fn() -> Result<u32>); 2] = [
        ("unicast", &|| trio.unicast_padded(A, destination, 0, 1350)),
        ("Xcast", &|| trio.send_padded(A, &[destination, A], 1350)),
    ];
    for (name, send) in senders {
        trio.tap.drain()?;
        let deadline = Instant::now() + SOON;
        let mut told = None;
        while told.is_none() && Instant::now() < deadline {
            let number = send()?;
            let soon = Instant::now() + Duration::from_millis(200);
            told = trio.icmp_about(destination, soon)?;
            if told.is_some() {
                ensure!(host.misses(number)?, "{name} is delivered, too");
            }
        }
        ensure!(told == Some(too_big(trio.family)), "{name}: ICMP {told:?}");
    }
    let short = || trio.send_padded(A, &[destination, A], 1000);
    ensure!(trio.is_reached_by(host, short)?, "what is short enough");
    Ok(())
}

/// IPv6 has an MTU of its own on each interface: the router advertisement's option, or an administrator sets it (RFC 4861 section 4.6.4).
#[test]
fn mtu_of_ipv6_is_less_than_that_of_the_link() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        ensure!(long(trio, &trio.b, 1350)?, "at the start");
        trio.r.namespace.sysctl("ipv6/conf/p2/mtu", "1280")?;
        is_too_big(trio, &trio.b, B)?;
        trio.r.namespace.sysctl("ipv6/conf/p2/mtu", "1500")?;
        let fits = || trio.send_padded(A, &[B, C], 1350);
        ensure!(trio.is_reached_by(&trio.b, fits)?, "when it is large again");
        Ok(())
    });
}

/// That of IPv4 is not touched by it.
#[test]
fn mtu_of_ipv6_is_none_of_ipv4() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        trio.r.namespace.sysctl("ipv6/conf/p2/mtu", "1280")?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        ensure!(long(trio, &trio.b, 1350)?, "1,350 octets");
        Ok(())
    });
}

/// A route may have an MTU of its own.
#[test]
fn mtu_of_a_route_is_less_than_that_of_the_link() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.2.2 mtu lock 1300")?;
        is_too_big(trio, &trio.b, BEHIND)
    });
}

/// The MTU of a link goes down while the router runs, and up again.
#[test]
fn mtu_of_the_link_changes() {
    trio::with(|trio| {
        trio.resolve()?;
        ensure!(long(trio, &trio.b, 1350)?, "at the start");
        trio.r.namespace.ip("link set p2 mtu 1300")?;
        is_too_big(trio, &trio.b, B)?;
        trio.r.namespace.ip("link set p2 mtu 1500")?;
        let fits = || trio.send_padded(A, &[B, C], 1350);
        ensure!(trio.is_reached_by(&trio.b, fits)?, "when it is large again");
        Ok(())
    });
}
