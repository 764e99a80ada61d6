//! Xcast inside UDP: what is taken out goes on as if it had arrived natively, and everything else
//! to that port is dropped under its own name.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use tests::family::{self, Family};
use tests::layout::{self, Layout, PROTOCOL};
use tests::oracle::{self, Opened, RouterView, Udp};
use tests::packet::{self, Datagram, Destination, ETHERNET_LEN, Packet, protocol};
use tests::rig::{self, Observed, Rig, list};
use tests::tap::Tap;
use xcast_common::family::{Family as Routed, V4, V6};
use xcast_common::host::{Buffer, MemoryTables, Router};
use xcast_common::maps::{self, Settings};
use xcast_common::packet::Reject;
use xcast_common::wire::{Be16, Be32};

const PORT: u16 = 4242;
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// A peer that may send for a network and a host.
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// A peer that may send for everyone.
const TRUSTED_PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

fn layout() -> Layout {
    let some = vec![
        (layout::behind(0, 0).into(), 24),
        ([10, 9, 8, 7].into(), 32),
    ];
    let everyone = vec![(Ipv4Addr::UNSPECIFIED.into(), 0)];
    Layout {
        anycast: vec![ANYCAST],
        udp: Some(Udp {
            port: PORT,
            peers: [(PEER.into(), some), (TRUSTED_PEER.into(), everyone)].into(),
        }),
        ..Layout::default()
    }
}

/// To three next hops, one of which gets two destinations.
fn inner() -> Packet {
    let mut packet = rig::udp_with_ports(list([
        layout::behind(1, 1),
        layout::behind(2, 1),
        layout::behind(2, 2),
        layout::host(3, 0),
    ]));
    packet.xcast.d = true;
    packet
}

fn around(packet: &Packet) -> Datagram {
    Datagram::around(packet, layout::router(0), PORT)
}

/// What is right leads to the same copies as the packet inside does when it comes by itself.
fn same_as_native(rig: &Rig, datagram: &Datagram) -> Result<()> {
    let mut native = datagram.frame()[..ETHERNET_LEN].to_vec();
    native.extend(&datagram.payload);
    let mut native = rig.check(0, &native)?;
    let mut inside = rig.check(0, &datagram.frame())?;
    ensure!(inside.counters.remove("decapsulated") == Some(1));
    native.counters.remove("recirculated");
    native.counters.remove("returned");
    inside.counters.remove("recirculated");
    inside.counters.remove("returned");
    ensure!(native == inside && native.branches.len() + native.stack.len() > 0);
    Ok(())
}

#[test]
fn goes_on_as_if_it_had_arrived_natively() {
    type Change = fn(&mut Datagram);
    let whatever_is_outside: &[Change] = &[
        |_| {},
        |outer| outer.checksum = Some(0),
        |outer| outer.checksum = Some(0xbad),
        |outer| (outer.ip.ttl, outer.ip.ds, outer.ip.identification) = (1, 0xb8, 7),
        |outer| outer.ip.fragment = 0x4000,
        |outer| outer.source_port = 0,
        |outer| outer.ip.destination = layout::router(2).into(),
        |outer| outer.ip.destination = layout::OTHER_ADDRESS.into(),
        |outer| outer.ip.destination = ANYCAST.into(),
    ];
    type ChangeInner = fn(&mut Packet);
    let whatever_is_inside: &[ChangeInner] = &[
        |inner| inner.ip.destination = layout::router(0).into(),
        |inner| inner.ip.destination = ANYCAST.into(),
        |inner| inner.xcast.x = true,
        |inner| inner.xcast.destinations.truncate(1),
        |inner| inner.xcast.destinations = list([layout::router(1), layout::on_link(2, 99)]),
        |inner| inner.xcast.destinations = list((0..127).map(|n| layout::behind(n % 4, n))),
        |inner| inner.ip.ttl = 2,
        |inner| (inner.xcast.protocol, inner.segment) = (protocol::ICMP, vec![8, 0, 0, 0]),
    ];
    rig::with(&layout(), |rig| {
        for change in whatever_is_outside {
            let mut outer = around(&inner());
            change(&mut outer);
            same_as_native(rig, &outer)?;
        }
        for change in whatever_is_inside {
            let mut inner = inner();
            change(&mut inner);
            same_as_native(rig, &around(&inner))?;
        }
        Ok(())
    });
}

/// A sender that is its own only destination gets its packet back: a way to ask for a router.
#[test]
fn a_packet_to_its_sender_comes_back() {
    rig::with(&layout(), |rig| {
        let mut inner = inner();
        inner.ip.source = layout::host(0, 0).into();
        inner.xcast.destinations = list([layout::host(0, 0)]);
        let seen = rig.check(0, &around(&inner).frame())?;
        ensure!(seen.branches.len() == 1 && seen.branches[0].port == 0);
        Ok(())
    });
}

/// What is inside UDP inside Xcast is not taken out by the next router, since it does not get there. Of the other
/// family, it is any payload.
#[test]
fn nothing_is_taken_out_twice() {
    rig::with(&layout(), |rig| {
        let mut inner = rig::udp_with_ports(vec![
            Destination::new(layout::router(0)).port(PORT),
            Destination::new(ANYCAST).port(PORT),
        ]);
        let ends = ((inner.ip.source, 4000), (layout::GROUP, 0));
        let nested = inner.ip.emit(&inner.xcast.emit(Family::Ipv4));
        inner.segment = packet::udp(ends.0, ends.1, &nested, None);
        let seen = rig.check(0, &around(&inner).frame())?;
        let dropped = seen.counters.get("drop_nested") == Some(&1);
        ensure!(seen.counters["decapsulated"] == 1);
        ensure!(
            dropped == (rig.family() == Family::Ipv4),
            "{:?}",
            seen.counters
        );
        Ok(())
    });
}

/// The longest packets that fit an MTU, their copies, and one octet more.
#[test]
fn as_long_as_the_link_carries() {
    let layout = Layout {
        mtu: vec![(2, 1472)],
        ..layout()
    };
    rig::with_family(Family::Ipv4, &layout, |rig| {
        for inner_len in [1471, 1472] {
            let mut inner = inner();
            let other = inner.ip.emit(&inner.xcast.emit(Family::Ipv4)).len() + 8;
            let payload = vec![0x5a; inner_len - other];
            let ends = ((inner.ip.source, 4000), (layout::GROUP, 0));
            inner.segment = packet::udp(ends.0, ends.1, &payload, None);
            let outer = around(&inner);
            ensure!(outer.payload.len() == inner_len);
            same_as_native(rig, &outer)?;
        }
        Ok(())
    });
}

/// Many at once, to sets of ports that no device map exists for yet, mixed with native ones.
#[test]
fn new_sets_of_ports_lose_nothing() {
    rig::with(&layout(), |rig| {
        let mut frames = Vec::new();
        for set in 1..16u8 {
            let ports = (0..4).filter(|port| set >> port & 1 == 1);
            let packet = rig::udp(list(ports.map(|port| layout::behind(port, 1))));
            frames.push((0, around(&packet).frame()));
            frames.push((0, packet.frame()));
        }
        for _ in 0..3 {
            rig.check_all(&frames)?;
        }
        Ok(())
    });
}

#[test]
fn peers_send_for_their_networks() {
    rig::with(&layout(), |rig| {
        let from = |peer: Ipv4Addr, source: Ipv4Addr| {
            let mut inner = inner();
            inner.ip.source = source.into();
            let mut outer = around(&inner);
            outer.ip.source = peer.into();
            outer
        };
        let outside = layout::behind_second(0, 1);
        for (peer, source) in [
            (PEER, layout::behind(0, 0)),
            (PEER, layout::behind(0, 255)),
            (PEER, Ipv4Addr::new(10, 9, 8, 7)),
            (PEER, PEER),
            (TRUSTED_PEER, outside),
            (outside, outside),
        ] {
            same_as_native(rig, &from(peer, source)).with_context(|| format!("{peer} {source}"))?;
        }
        for (peer, source) in [
            (PEER, layout::behind(1, 0)),
            (PEER, Ipv4Addr::new(10, 9, 8, 6)),
            (outside, PEER),
            (outside, layout::behind(0, 1)),
            (layout::behind(0, 1), PEER),
            (layout::behind(0, 1), layout::behind(0, 2)),
        ] {
            dropped(rig, &from(peer, source).frame(), &["drop_udp_source"])
                .with_context(|| format!("{peer} {source}"))?;
        }
        // What no native packet may have as its source, no peer may.
        let special = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 9)];
        for source in special {
            let frame = from(TRUSTED_PEER, source).frame();
            dropped(rig, &frame, &["decapsulated", "drop_source"])?;
        }
        for source in [layout::router(0), layout::router(3)] {
            let frame = from(TRUSTED_PEER, source).frame();
            dropped(rig, &frame, &["decapsulated", "drop_spoofed"])?;
            let frame = from(source, source).frame();
            dropped(rig, &frame, &["decapsulated", "drop_spoofed"])?;
        }
        Ok(())
    });
}

/// A frame that must be dropped and counted so, and reach nobody, the kernel least of all.
fn dropped(rig: &Rig, frame: &[u8], counters: &[&'static str]) -> Result<()> {
    let expected = oracle::expect(&rig.view, 0, frame);
    ensure!(
        expected.counters.keys().eq(counters),
        "the test wants {counters:?}, the oracle says {:?}",
        expected.counters
    );
    rig.check(0, frame)
        .with_context(|| format!("{counters:?}"))?;
    Ok(())
}

/// The IPv6 header has no length, checksum and options that could be wrong; and with another version
/// what is inside is not Xcast6.
fn exists_in_ipv6(counter: &str, ip: &packet::Ip) -> bool {
    let fragment = ip.fragment & 0x3fff != 0;
    !fragment && !["drop_ip_header", "drop_ip_checksum", "drop_ip_options"].contains(&counter)
}

#[test]
fn wrong_outside() {
    type Change = fn(&mut Datagram);
    let cases: &[(&'static str, Change)] = &[
        ("drop_ip_header", |outer| outer.ip.version_ihl = Some(0x65)),
        ("drop_ip_checksum", |outer| outer.ip.checksum = Some(0xbad)),
        ("drop_ip_options", |outer| outer.ip.options = vec![1; 4]),
        ("drop_ip_options", |outer| outer.ip.options = vec![1; 40]),
        ("drop_fragment", |outer| outer.ip.fragment = 0x2000),
        ("drop_truncated", |outer| outer.ip.total_len = Some(27)),
        ("drop_truncated", |outer| outer.ip.total_len = Some(1400)),
        ("drop_udp_length", |outer| outer.ip.total_len = Some(100)),
        ("drop_udp_length", |outer| outer.len = Some(0)),
        ("drop_udp_length", |outer| outer.len = Some(8)),
        ("drop_udp_length", |outer| outer.len = Some(0xffff)),
        ("drop_udp_length", |outer| {
            outer.len = Some(8 + outer.payload.len() as u16 - 1);
        }),
        ("drop_udp_length", |outer| outer.payload.push(0)),
        ("drop_udp_length", |outer| {
            outer.payload.pop();
        }),
        ("drop_udp_content", |outer| outer.payload.clear()),
        ("drop_udp_content", |outer| outer.payload.truncate(19)),
        ("drop_udp_content", |outer| {
            outer.payload = b"not an IP packet at all, whatever else".to_vec();
        }),
        ("drop_udp_content", |outer| outer.payload[0] = 0x65),
        ("drop_udp_content", |outer| outer.payload[9] = PROTOCOL - 1),
        ("drop_udp_content", |outer| outer.payload[9] = protocol::UDP),
        ("drop_udp_content", |outer| {
            // To another router: by itself it would be forwarded, inside UDP it is an attempt.
            outer.payload[16..20].copy_from_slice(&layout::behind(1, 9).octets());
        }),
        ("drop_udp_source", |outer| {
            outer.ip.source = [10, 1, 0, 10].into();
        }),
        ("drop_udp_source", |outer| outer.payload[15] ^= 1),
    ];
    rig::with(&layout(), |rig| {
        for (counter, change) in cases {
            let mut outer = around(&inner());
            let plain = outer.clone();
            change(&mut outer);
            if rig.family() == Family::Ipv6 && !exists_in_ipv6(counter, &outer.ip) {
                continue;
            }
            // Where the fields of IPv4 are there are others in IPv6.
            if rig.family() == Family::Ipv6 && outer.payload.len() == plain.payload.len() {
                continue;
            }
            dropped(rig, &outer.frame(), &[counter])?;
        }
        same_as_native(rig, &around(&inner()))
    });
}

/// Everything that is checked in a native packet is checked in one from inside UDP.
#[test]
fn wrong_inside() {
    type Change = fn(&mut Packet);
    let cases: &[(&'static str, Change)] = &[
        ("drop_ip_header", |inner| inner.ip.version_ihl = Some(0x44)),
        ("drop_ip_checksum", |inner| inner.ip.checksum = Some(0xbad)),
        ("drop_ip_options", |inner| inner.ip.options = vec![1; 4]),
        ("drop_fragment", |inner| inner.ip.fragment = 0x2000),
        ("drop_fragment", |inner| inner.ip.fragment = 0x0001),
        ("drop_version", |inner| inner.xcast.version = 2),
        ("drop_length", |inner| inner.xcast.len_words = Some(9)),
        ("drop_length", |inner| inner.xcast.count = Some(9)),
        ("drop_no_destinations", |inner| {
            inner.xcast.destinations.clear();
        }),
        ("drop_checksum", |inner| inner.xcast.checksum = Some(1)),
        ("drop_nested", |inner| inner.xcast.protocol = PROTOCOL),
        ("drop_truncated", |inner| {
            inner.segment.clear();
            inner.xcast.count = Some(5);
            // Xcast6's header of ports is not part of the header that is too long.
            inner.xcast.p = Family::under_test() == Family::Ipv4;
            inner.xcast.len_words = Some(match Family::under_test() {
                Family::Ipv4 => 3 + 1 + 5 + 2 + 3,
                Family::Ipv6 => 2 + 1 + 2 * 5 + 1,
            });
        }),
    ];
    rig::with(&layout(), |rig| {
        for (counter, change) in cases {
            let mut inner = inner();
            change(&mut inner);
            if rig.family() == Family::Ipv6 && !exists_in_ipv6(counter, &inner.ip) {
                continue;
            }
            let frame = around(&inner).frame();
            dropped(rig, &frame, &["decapsulated", counter])?;
        }
        same_as_native(rig, &around(&inner()))
    });
}

/// A frame cut short anywhere leads to nothing but a counter, or is not recognised at all.
#[test]
fn truncated_frames() {
    rig::with(&layout(), |rig| {
        let outer = around(&inner());
        let frame = outer.frame();
        for len in ETHERNET_LEN..frame.len() {
            let mut agreeing = outer.clone();
            agreeing.ip.total_len = Some((len - ETHERNET_LEN) as u16);
            let frames = [&frame[..len], &agreeing.frame()[..len]];
            rig.check_all(&frames.map(|frame| (0, frame.to_vec())))
                .with_context(|| format!("cut to {len} octets"))?;
        }
        // Ethernet pads short frames; the padding is no payload.
        let padded = [frame, vec![0xee; 7]].concat();
        rig.check(0, &padded)?;
        Ok(())
    });
}

/// Sends frames that are none of the Xcast router's business: the kernel gets them as they are.
fn untouched(rig: &Rig, frames: &[(&str, Vec<u8>)]) -> Result<()> {
    let before = rig.counters()?;
    let tap = Tap::open(&rig.router, &layout::interface(0))?;
    for (what, frame) in frames {
        ensure!(oracle::expect(&rig.view, 0, frame).untouched, "{what}");
        tap.drain()?;
        ensure!(rig.observe(0, frame)? == Observed::default(), "{what}");
        let seen = tap.take()?.context("the kernel did not get it")?;
        ensure!(seen == *frame, "{what}: the kernel got it changed");
    }
    let counted = rig.counters()?.since(&before);
    ensure!(counted.is_empty(), "{counted:?}");
    Ok(())
}

fn changed(change: impl FnOnce(&mut Datagram)) -> Vec<u8> {
    let mut outer = around(&inner());
    change(&mut outer);
    outer.frame()
}

#[test]
fn others_datagrams_are_untouched() {
    let layout = Layout {
        group_mac: vec![0],
        ..layout()
    };
    rig::with(&layout, |rig| {
        let short = changed(|_| {})[..37].to_vec();
        untouched(
            rig,
            &[
                ("another port", changed(|outer| outer.port = PORT + 1)),
                (
                    "the port as its source",
                    changed(|outer| (outer.port, outer.source_port) = (53, PORT)),
                ),
                (
                    "another MAC",
                    changed(|outer| outer.destination_mac = [2, 9, 9, 9, 9, 9]),
                ),
                (
                    "the group's MAC",
                    changed(|outer| outer.destination_mac = packet::group_mac(layout::GROUP)),
                ),
                (
                    "a later fragment",
                    changed(|outer| outer.ip.fragment = 0x0001),
                ),
                ("TCP", changed(|outer| outer.ip.protocol = protocol::TCP)),
                ("no whole UDP header", short),
            ],
        )?;
        // To somebody else behind this router: the kernel forwards it as any other packet.
        let outer = changed(|outer| outer.ip.destination = layout::behind(2, 77).into());
        let seen = rig.observe(0, &outer)?;
        let wanted = changed(|outer| {
            outer.ip.destination = layout::behind(2, 77).into();
            outer.ip.ttl -= 1;
            outer.destination_mac = layout::neighbour_mac(2, 2);
            outer.source_mac = layout::router_mac(2);
        });
        let branches = vec![oracle::Branch {
            port: 2,
            frame: wanted,
        }];
        let stack = Vec::new();
        rig::compare(&Observed { branches, stack }, &seen)
    });
}

#[test]
fn without_a_port_nothing_is_taken() {
    let off = Layout {
        udp: None,
        ..layout()
    };
    rig::with(&off, |rig| {
        let zero = changed(|outer| outer.port = 0);
        untouched(rig, &[("good", changed(|_| {})), ("port 0", zero)])?;
        let status = tests::daemon::report(&rig.router, &["status"])?;
        ensure!(status.get("udp_port").is_none(), "{status}");
        Ok(())
    });
    rig::with(&layout(), |rig| {
        let status = tests::daemon::report(&rig.router, &["status"])?;
        ensure!(status["udp_port"] == PORT, "{status}");
        Ok(())
    });
}

/// The router as the shared code sees it, and as the oracle does.
struct Host<F: Routed> {
    view: RouterView,
    router: Router<F>,
}

impl<F: Routed> Host<F> {
    /// For the family under test.
    fn new() -> Self {
        let layout = Layout {
            family: Family::under_test(),
            ..layout()
        };
        let IpAddr::V6(group6) = Family::Ipv6.address(layout::GROUP) else {
            unreachable!("an IPv6 address");
        };
        let view = layout.view();
        let settings = Settings {
            group: Be32::from(layout::GROUP),
            protocol: PROTOCOL,
            group6: group6.into(),
            routing_type: view.routing_type,
            ports_option: view.ports_option,
            ipv6: 1,
            udp_port: Be16::new(PORT),
            ..Settings::default()
        };
        let mut tables = MemoryTables::default();
        for &address in &view.own {
            tables.set_address(address, maps::ADDRESS_OWN);
        }
        for &address in &view.anycast {
            tables.set_address(address, maps::ADDRESS_ANYCAST);
        }
        let udp = view.udp.as_ref().expect("taken in these tests");
        for (&peer, prefixes) in &udp.peers {
            for &(prefix, len) in prefixes {
                tables.allow_source(peer, prefix, len);
            }
        }
        Self {
            router: Router::new(settings, tables),
            view,
        }
    }

    /// What the shared code makes of a frame that arrives by port 0.
    fn open(&self, frame: &[u8]) -> Opened {
        let port = maps::Port {
            mac: self.view.ports[0].mac,
            ..maps::Port::default()
        };
        let mut buffer = Buffer::new(frame);
        match self.router.decapsulate(&mut buffer, &port) {
            Ok(Some(_)) => Opened::Frame(buffer.frame().to_vec()),
            Ok(None) | Err(Reject::Pass) => Opened::Untouched,
            Err(Reject::Drop(reason)) => Opened::Dropped(reason.name()),
        }
    }
}

prop_compose! {
    /// Of the family under test.
    fn any_datagram()(
        from in prop::sample::select(vec![rig::SOURCE, PEER, Ipv4Addr::new(10, 1, 0, 200)]),
        source in prop::sample::select(vec![rig::SOURCE, rig::SOURCE, PEER, Ipv4Addr::new(10, 1, 0, 200)]),
        to in prop::sample::select(vec![layout::router(0), layout::router(1), ANYCAST, layout::behind(1, 1)]),
        port in prop::sample::select(vec![PORT, PORT, PORT, PORT + 1]),
        count in 1..=Family::under_test().most_destinations(),
        // Of IPv6, in a header of their own before that of UDP.
        options in prop::sample::select(vec![0usize, 0, 0, 0, 4, 12]),
        trailer in prop::sample::select(vec![0usize, 0, 0, 3]),
        text in prop::option::weighted(0.1, prop::collection::vec(any::<u8>(), 0..100)),
    ) -> Vec<u8> {
        let mut inner = rig::udp(list((0..count).map(|n| layout::behind(n % 4, n))));
        inner.ip.source = source.into();
        let mut outer = Datagram::around(&inner, to, port);
        outer.ip.source = from.into();
        outer.ip.options = vec![1; options];
        if let Some(text) = text {
            outer.payload = text;
        }
        let mut frame = outer.frame();
        frame.resize(frame.len() + trailer, 0xee);
        frame
    }
}

fn cases() -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    let wanted = wanted.and_then(|number| number.parse().ok());
    ProptestConfig::with_cases(wanted.unwrap_or(3000))
}

/// The shared code and the oracle agree; what is left behind the packet is padding.
fn agree<F: Routed>(host: &Host<F>, frame: &[u8]) -> Result<Opened, TestCaseError> {
    let (mut got, wanted) = (host.open(frame), oracle::open(&host.view, 0, frame));
    if let (Opened::Frame(got), Opened::Frame(wanted)) = (&mut got, &wanted) {
        got.truncate(wanted.len());
    }
    prop_assert_eq!(&got, &wanted, "\nframe {}", packet::hex(frame));
    Ok(got)
}

#[test]
fn random_datagrams_as_expected_ipv4() {
    family::with(Family::Ipv4, random_datagrams_as_expected::<V4>);
}

#[test]
fn random_datagrams_as_expected_ipv6() {
    family::with(Family::Ipv6, random_datagrams_as_expected::<V6>);
}

fn random_datagrams_as_expected<F: Routed>() {
    let host = Host::<F>::new();
    let taken = Cell::new(0);
    proptest!(cases(), |(frame in any_datagram())| {
        if let Opened::Frame(_) = agree(&host, &frame)? {
            taken.set(taken.get() + 1);
        }
    });
    assert!(taken.get() > 0, "no datagram was taken");
}

#[test]
fn random_octets_never_panic_and_agree_ipv4() {
    family::with(Family::Ipv4, random_octets_never_panic_and_agree::<V4>);
}

#[test]
fn random_octets_never_panic_and_agree_ipv6() {
    family::with(Family::Ipv6, random_octets_never_panic_and_agree::<V6>);
}

fn random_octets_never_panic_and_agree<F: Routed>() {
    let host = Host::<F>::new();
    // Ethernet, IP twice with UDP between them, and the first octets of the list.
    let headers = 14 + 2 * Family::under_test().ip_len() + 8 + 28;
    let strategy = (
        any_datagram(),
        any::<u16>(),
        any::<u8>(),
        0usize..300,
        any::<bool>(),
    );
    proptest!(cases(), |((mut frame, at, value, len, cut) in strategy)| {
        // Where the headers are, most of the time.
        let at = usize::from(at) % frame.len().min(headers);
        frame[at] = value;
        if cut {
            frame.truncate(len.max(1));
        }
        agree(&host, &frame)?;
    });
    proptest!(cases(), |(frame in prop::collection::vec(any::<u8>(), 1..200))| {
        agree(&host, &frame)?;
    });
}
