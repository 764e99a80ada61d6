//! Cookies and relayed ports as the shared forwarding code takes them, without a kernel.

use std::net::{IpAddr, Ipv4Addr};

use tests::family::{self, Family};
use tests::layout::{self, GROUP, Layout, PROTOCOL};
use tests::packet::{self, Datagram, Packet};
use tests::rig::{self, list};
use xcast_common::family::{Family as Routed, V4, V6};
use xcast_common::host::{MemoryTables, Outcome, Router};
use xcast_common::maps::{self, CookieKey, Settings, SourceMode, counter::Counter};
use xcast_common::wire::{Be16, Be32, Be128, cookie};

const PORT: u16 = 4242;
/// Source port of datagrams, as [`Datagram::around`] has it.
const FROM: u16 = 40_000;
const RELAYED: u16 = 50_000;

const KEY: CookieKey = CookieKey {
    epoch: 77,
    instance: 0,
    key: [3, 5],
};

/// A relay with one port, where nobody is served without a proof.
fn relay<F: Routed>() -> Router<F> {
    let layout = Layout {
        family: Family::under_test(),
        ..Layout::default()
    };
    let IpAddr::V6(group6) = Family::Ipv6.address(GROUP) else {
        unreachable!("an IPv6 address");
    };
    let view = layout.view();
    let settings = Settings {
        group: Be32::from(GROUP),
        protocol: PROTOCOL,
        group6: group6.into(),
        routing_type: view.routing_type,
        ports_option: view.ports_option,
        ipv6: 1,
        udp_port: Be16::new(PORT),
        ..Settings::default()
    };
    let mut tables = MemoryTables::default();
    // Everything by the gateway on the port that everything comes by.
    tables.set_next_hop(0, maps::NextHop::skip(Counter::SkipBlackhole));
    let gateway = maps::NextHop {
        kind: maps::NextHopKind::Forward as u8,
        port: maps::PORT_FIRST,
        egress: maps::PORT_FIRST,
        mtu_bytes: 1500,
        ..maps::NextHop::default()
    };
    tables.set_next_hop(20, gateway);
    let any = Family::under_test().address(Ipv4Addr::UNSPECIFIED);
    tables.set_route(any, 0, Some(20));
    tables.set_next_hop(21, maps::NextHop::stack(Counter::StackLocal));
    for &address in &view.own {
        tables.set_address(address, maps::ADDRESS_OWN);
        let len = if address.is_ipv4() { 32 } else { 128 };
        tables.set_route(address, len, Some(21));
    }
    tables.set_cookie_key(KEY);
    let mut router = Router::new(settings, tables);
    router.set_port(maps::Port {
        slot: maps::PORT_FIRST,
        mac: view.ports[0].mac,
        sources: [SourceMode::Proven as u8; 2],
        ..maps::Port::default()
    });
    router
}

fn cookie_of(key: &CookieKey, source: IpAddr, port: u16, relayed_port: u16) -> Vec<u8> {
    let hash = match source {
        IpAddr::V4(source) => key.hash(Be32::from(source), port, relayed_port),
        IpAddr::V6(source) => key.hash(Be128::from(source), port, relayed_port),
    };
    let mut octets = vec![cookie::KIND, 0];
    octets.extend(relayed_port.to_be_bytes());
    octets.extend(key.epoch.to_be_bytes());
    octets.extend(hash.to_be_bytes());
    octets
}

fn source() -> IpAddr {
    Family::under_test().address(rig::SOURCE)
}

fn inner() -> Packet {
    rig::udp(list([layout::behind(1, 1), layout::behind(2, 2)]))
}

/// A packet from a UDP port of the relay itself.
fn from_relay(port: u16) -> Packet {
    let mut packet = inner();
    packet.ip.source = layout::router(0).into();
    packet.segment = packet::udp((layout::router(0), port), (GROUP, 5000), b"relayed", None);
    packet
}

/// The datagram with such a packet, behind a cookie.
fn with_cookie(packet: &Packet, cookie: &[u8]) -> Vec<u8> {
    let mut outer = Datagram::around(packet, layout::router(0), PORT);
    outer.ip.source = rig::SOURCE.into();
    outer.payload = [cookie, &outer.payload].concat();
    outer.frame()
}

#[derive(Debug, PartialEq)]
enum Fate {
    Copies(usize),
    Dropped(&'static str),
    Passed,
}

fn fate<F: Routed>(frame: &[u8]) -> Fate {
    match relay::<F>().receive(maps::PORT_FIRST, frame) {
        Outcome::Forwarded(copies) => Fate::Copies(copies.len()),
        Outcome::Dropped(counter) => Fate::Dropped(counter.name()),
        Outcome::Passed => Fate::Passed,
    }
}

fn both(test: [fn(); 2]) {
    for (family, test) in Family::ALL.into_iter().zip(test) {
        family::with(family, test);
    }
}

#[test]
fn who_has_a_cookie_is_served_and_nobody_else() {
    both([cookies::<V4>, cookies::<V6>]);
}

fn cookies<F: Routed>() {
    let good = cookie_of(&KEY, source(), FROM, 0);
    assert_eq!(fate::<F>(&with_cookie(&inner(), &good)), Fate::Copies(2));
    assert_eq!(
        fate::<F>(&with_cookie(&inner(), b"")),
        Fate::Dropped("drop_unproven")
    );
    assert_eq!(fate::<F>(&inner().frame()), Fate::Dropped("drop_unproven"));
    let other = Family::under_test().address(layout::behind(3, 3));
    let older = CookieKey { epoch: 76, ..KEY };
    let bad = [
        cookie_of(&KEY, other, FROM, 0),
        cookie_of(&KEY, source(), FROM + 1, 0),
        cookie_of(&older, source(), FROM, 0),
        cookie_of(&CookieKey { key: [3, 6], ..KEY }, source(), FROM, 0),
        cookie_of(&CookieKey::default(), source(), FROM, 0),
        vec![1; 16],
    ];
    for cookie in bad {
        assert_eq!(
            fate::<F>(&with_cookie(&inner(), &cookie)),
            Fate::Dropped("drop_cookie")
        );
    }
    for bit in 16..8 * good.len() {
        let mut changed = good.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            fate::<F>(&with_cookie(&inner(), &changed)),
            Fate::Dropped("drop_cookie")
        );
    }
    // A cookie says nothing of the source of another.
    let mut forged = inner();
    forged.ip.source = layout::behind(3, 3).into();
    assert_eq!(
        fate::<F>(&with_cookie(&forged, &good)),
        Fate::Dropped("drop_udp_source")
    );
}

#[test]
fn a_relayed_port_is_for_whom_its_cookie_names() {
    both([relayed::<V4>, relayed::<V6>]);
}

fn relayed<F: Routed>() {
    let good = cookie_of(&KEY, source(), FROM, RELAYED);
    assert_eq!(
        fate::<F>(&with_cookie(&from_relay(RELAYED), &good)),
        Fate::Copies(2)
    );
    let refused = Fate::Dropped("drop_udp_source");
    // Another port, another address of the relay, the source's own address.
    assert_eq!(
        fate::<F>(&with_cookie(&from_relay(RELAYED + 1), &good)),
        refused
    );
    let mut elsewhere = from_relay(RELAYED);
    elsewhere.ip.source = layout::router(1).into();
    assert_eq!(fate::<F>(&with_cookie(&elsewhere, &good)), refused);
    assert_eq!(fate::<F>(&with_cookie(&inner(), &good)), refused);
    // Without the port in the cookie, the relay's address is nobody's.
    let plain = cookie_of(&KEY, source(), FROM, 0);
    assert_eq!(
        fate::<F>(&with_cookie(&from_relay(RELAYED), &plain)),
        refused
    );
    // No ICMP from the relay's address.
    let mut icmp = from_relay(RELAYED);
    (icmp.xcast.protocol, icmp.segment) = (packet::protocol::ICMP, vec![8, 0, 0, 0]);
    assert_eq!(fate::<F>(&with_cookie(&icmp, &good)), refused);
}

#[test]
fn an_envelope_names_the_source_that_the_relay_sees() {
    both([envelopes::<V4>, envelopes::<V6>]);
}

/// The form as documented, written out here: magic number, 2, 0, port, address as one of IPv6.
fn envelope(source: IpAddr, port: u16) -> Vec<u8> {
    let address = match source {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut octets = vec![0xf8, b'X', b'c', b'e', 2, 0];
    octets.extend(port.to_be_bytes());
    octets.extend(address.octets());
    octets
}

/// A message from the port of Xcast inside UDP of the relay itself, to a list with ports or without.
fn enveloped(content: &[u8], has_ports: bool) -> Packet {
    let mut packet = inner();
    packet.xcast.p = has_ports;
    for (destination, port) in packet.xcast.destinations.iter_mut().zip(6000..) {
        destination.port = port;
    }
    packet.ip.source = layout::router(0).into();
    packet.segment = packet::udp((layout::router(0), PORT), (GROUP, 5000), content, None);
    packet
}

fn envelopes<F: Routed>() {
    let good = cookie_of(&KEY, source(), FROM, PORT);
    let message = |envelope: Vec<u8>| [envelope, b"message".to_vec()].concat();
    let right = message(envelope(source(), FROM));
    let refused = Fate::Dropped("drop_udp_source");
    for has_ports in [false, true] {
        let fate_of =
            |content: &[u8]| fate::<F>(&with_cookie(&enveloped(content, has_ports), &good));
        assert_eq!(fate_of(&right), Fate::Copies(2));
        // Another address, another port, no envelope, one that ends too early, every bit of the header.
        let other = Family::under_test().address(layout::behind(3, 3));
        for wrong in [
            message(envelope(other, FROM)),
            message(envelope(source(), FROM + 1)),
            b"message".to_vec(),
            right[..23].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(fate_of(&wrong), refused, "{wrong:x?}");
        }
        for bit in 0..8 * 24 {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(fate_of(&wrong), refused, "bit {bit}");
        }
    }
    // From a relayed port nothing has to be in an envelope, and without a cookie for this one nobody sends from here.
    let relayed = cookie_of(&KEY, source(), FROM, RELAYED);
    assert_eq!(
        fate::<F>(&with_cookie(&enveloped(&right, false), &relayed)),
        refused
    );
}

#[test]
fn questions_pass() {
    both([questions::<V4>, questions::<V6>]);
}

fn questions<F: Routed>() {
    let mut outer = Datagram::around(&inner(), layout::router(0), PORT);
    outer.payload = vec![cookie::QUESTION; 80];
    assert_eq!(fate::<F>(&outer.frame()), Fate::Passed);
}
