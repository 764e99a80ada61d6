//! Random packets: what the oracle says about them makes sense, and the router agrees.
//!
//! The packets are the same every time. `XCAST_SEED` (any number) gives others, `XCAST_CASES` more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tests::family::Family;
use tests::layout::{self, GROUP, Gateways, Layout, PROTOCOL};
use tests::oracle::{self, Prune, RouterView};
use tests::packet::{self, Destination, ETHERNET_LEN, IPV4_LEN, Ip, Packet, Xcast, be16, protocol};
use tests::rig::{self, Rig, SOURCE, SOURCE_PORT};

const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

fn number(variable: &str, default: usize) -> usize {
    let value = std::env::var(variable).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn layouts() -> [Layout; 4] {
    let with = |prune, gateways| Layout {
        prune,
        gateways,
        anycast: vec![ANYCAST],
        ..Layout::default()
    };
    [
        with(Prune::Truncate, Gateways::List),
        with(Prune::Bitmap, Gateways::List),
        with(Prune::Truncate, Gateways::All),
        with(Prune::Bitmap, Gateways::None),
    ]
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    let port = 0..4usize;
    prop_oneof![
        6 => (port.clone(), 0..256usize).prop_map(|(port, last)| layout::behind(port, last)),
        2 => (port.clone(), 0..256usize).prop_map(|(port, last)| layout::behind_second(port, last)),
        2 => (port.clone(), 0..256usize).prop_map(|(port, last)| layout::behind_plain(port, last)),
        2 => (port.clone(), 0..4usize).prop_map(|(port, index)| layout::host(port, index)),
        1 => (port.clone(), 2..5usize).prop_map(|(port, last)| layout::on_link(port, last)),
        1 => port.prop_map(layout::router),
        2 => select(vec![
            layout::behind_silent(1, 1),
            layout::on_link(2, 200),
            layout::on_link(2, 255),
            layout::OTHER_ADDRESS,
            Ipv4Addr::new(10, 7, 0, 9),
            Ipv4Addr::new(10, 3, 0, 1),
            Ipv4Addr::new(10, 4, 0, 1),
            Ipv4Addr::new(10, 4, 1, 1),
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::new(169, 254, 0, 1),
            Ipv4Addr::new(127, 0, 0, 1),
            Ipv4Addr::new(0, 0, 0, 0),
            Ipv4Addr::new(224, 0, 0, 9),
            Ipv4Addr::BROADCAST,
        ]),
    ]
}

fn destinations() -> impl Strategy<Value = Vec<Destination>> {
    let entry = (
        address(),
        prop_oneof![Just(5001u16), any::<u16>()],
        any::<u8>(),
        prop::bool::weighted(0.85),
    );
    let entry = entry.prop_map(|(address, port, ds, valid)| Destination {
        valid,
        address: address.into(),
        ds,
        port,
    });
    let count = prop_oneof![6 => 1..12usize, 2 => 12..70usize, 1 => 70..128usize];
    // Made at full length and cut, so that the entries shrink on their own.
    (count, prop::collection::vec(entry, 127)).prop_map(|(count, mut entries)| {
        entries.truncate(count);
        entries
    })
}

fn segment() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let payload = || prop::collection::vec(any::<u8>(), 0..200);
    let checksum =
        || prop_oneof![4 => Just(None), 1 => Just(Some(0)), 1 => any::<u16>().prop_map(Some)];
    let (from, to) = ((SOURCE, SOURCE_PORT), |port| (GROUP, port));
    prop_oneof![
        6 => (any::<u16>(), payload(), checksum()).prop_map(move |(port, payload, checksum)| {
            (protocol::UDP, packet::udp(from, to(port), &payload, checksum))
        }),
        2 => (any::<u16>(), payload(), checksum()).prop_map(move |(port, payload, checksum)| {
            (protocol::TCP, packet::tcp(from, to(port), 1, &payload, checksum))
        }),
        1 => (any::<u16>(), payload()).prop_map(move |(port, payload)| {
            (protocol::DCCP, packet::dccp(from, to(port), &payload))
        }),
        1 => payload().prop_map(|payload| (protocol::ICMP, packet::icmp_echo(1, 2, &payload))),
        2 => (0..PROTOCOL, payload()),
    ]
}

fn packets() -> impl Strategy<Value = (usize, Packet)> {
    let ip = (
        any::<(u8, u16)>(),
        prop_oneof![9 => Just(64u8), 1 => 0..3u8, 1 => any::<u8>()],
        select(vec![0, 0x4000, 0x8000, 0xc000]),
        select(vec![GROUP, GROUP, GROUP, layout::router(2), ANYCAST]),
    );
    let bits = any::<[bool; 7]>();
    (
        0..4usize,
        destinations(),
        segment(),
        ip,
        bits,
        any::<(u32, u16)>(),
    )
        .prop_map(
            |(port, destinations, (protocol, segment), ip, bits, (channel, reserved))| {
                let mut packet = rig::carrying(protocol, destinations, segment);
                packet.destination_mac = layout::router_mac(port);
                packet.source_mac = layout::neighbour_mac(port, 2);
                let ((ds, identification), ttl, fragment, destination) = ip;
                packet.ip = Ip {
                    ds,
                    identification,
                    ttl,
                    fragment,
                    destination: destination.into(),
                    ..packet.ip
                };
                let [a, x, d, p, r, fill, _] = bits;
                packet.xcast = Xcast {
                    a,
                    x: x && identification % 2 == 0,
                    d,
                    p,
                    r,
                    channel: channel.into(),
                    reserved: if fill { reserved } else { 0 },
                    padding: if fill { 0xee } else { 0 },
                    stray_bits: fill,
                    ..packet.xcast
                };
                (port, packet)
            },
        )
}

/// `count` packets, the same for the same seed.
fn sample(count: usize) -> Vec<(usize, Packet)> {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number("XCAST_SEED", 0).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = packets();
    (0..count)
        .map(|_| {
            strategy
                .new_tree(&mut runner)
                .expect("no filters reject anything")
                .current()
        })
        .collect()
}

/// Sends the packets and compares frames, one by one, and counters, in all.
fn compare(rig: &Rig, packets: &[(usize, Packet)]) -> Result<()> {
    let before = rig.counters()?;
    let arrivals: Vec<_> = packets
        .iter()
        .map(|(port, packet)| (*port, packet.frame()))
        .collect();
    for batch in arrivals.chunks(20) {
        if let Err(error) = rig.check_all(batch) {
            // Which of them it was says more.
            for (port, frame) in batch {
                rig.check(*port, frame)?;
            }
            return Err(error.context("together, not one by one"));
        }
    }
    let mut wanted = BTreeMap::new();
    for (port, frame) in &arrivals {
        for (name, count) in oracle::expect(&rig.view, *port, frame).counters {
            *wanted.entry(name.to_owned()).or_insert(0) += count;
        }
    }
    let mut counted = rig.counters()?.since(&before);
    counted.remove("recirculated");
    counted.remove("returned");
    counted.remove("plan_reused");
    ensure!(
        counted == wanted,
        "counted {counted:?} instead of {wanted:?}"
    );
    Ok(())
}

#[test]
fn router_agrees_with_oracle() {
    let packets = sample(number("XCAST_CASES", 250));
    for layout in layouts() {
        rig::with(&layout, |rig| compare(rig, &packets));
    }
}

/// Packets with an octet or two of their headers changed.
#[test]
fn router_agrees_about_damaged_packets() {
    let packets = sample(number("XCAST_CASES", 400));
    rig::with(&layouts()[0], |rig| {
        let mut arrivals = Vec::new();
        for (index, (port, packet)) in packets.iter().enumerate() {
            let mut frame = packet.frame();
            let headers = IPV4_LEN + packet.xcast.emit(Family::Ipv4).len();
            let random = (index * 0x9e37_79b1) >> 7;
            frame[ETHERNET_LEN + random % headers] ^= 1 << (random % 8);
            if index % 2 == 0 {
                let at =
                    ETHERNET_LEN + IPV4_LEN + (random >> 9) % packet.xcast.emit(Family::Ipv4).len();
                frame[at] = (random >> 3) as u8;
            }
            arrivals.push((*port, frame));
        }
        for batch in arrivals.chunks(20) {
            rig.check_all(batch)?;
        }
        Ok(())
    });
}

fn is_right(family: Family, frame: &[u8]) -> (Ip, Vec<u8>) {
    let (ip, payload) = Ip::parse(family, frame).expect("a whole IP packet");
    if family == Family::Ipv4 {
        assert_eq!(packet::sum(&frame[..IPV4_LEN]), 0xffff, "IP checksum");
    }
    assert_eq!(ip.total_len, Some(frame.len() as u16), "IP length");
    (ip, payload.to_vec())
}

/// Length of the header that the checksum covers, in octets, and what LENGTH or HdrExtLen must be, of an
/// Xcast header that takes so many octets with everything in it.
fn checked_len(family: Family, xcast: &Xcast, header_len: usize) -> (usize, u8) {
    match family {
        Family::Ipv4 => (header_len, (header_len / 4) as u8),
        Family::Ipv6 => {
            let ports = match xcast.p {
                true => (4 + 2 * xcast.destinations.len()).next_multiple_of(8),
                false => 0,
            };
            let routing = header_len - ports;
            (routing, (routing / 8 - 1) as u8)
        }
    }
}

/// The protocol number of Xcast packets.
fn xcast_protocol(family: Family) -> u8 {
    match family {
        Family::Ipv4 => PROTOCOL,
        Family::Ipv6 => protocol::ROUTING,
    }
}

/// Whether what follows the Xcast header would be taken for more IPv6 headers.
fn goes_on_in_headers(packet: &Packet) -> bool {
    [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::FRAGMENT,
        protocol::DESTINATION_OPTIONS,
    ]
    .contains(&packet.xcast.protocol)
}

/// The transport checksum, if the protocol has one in a place where it can be checked, is right.
fn transport_is_right(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> bool {
    let at = match protocol {
        protocol::TCP => 16,
        protocol::UDP | protocol::DCCP | protocol::UDP_LITE => 6,
        _ => return true,
    };
    match be16(bytes, at) {
        Some(0) if protocol == protocol::UDP => true,
        Some(_) => packet::transport_checksum(source, destination, protocol, bytes) == 0,
        None => true,
    }
}

fn invariants(family: Family, view: &RouterView, port: usize, packet: &Packet) {
    let expected = oracle::expect(view, port, &packet.frame());
    let mut served: Vec<Destination> = Vec::new();
    let valid: Vec<_> = packet
        .xcast
        .destinations
        .iter()
        .filter(|entry| entry.valid)
        .collect();
    let arrival_is_right = transport_is_right(
        packet.ip.source,
        view.group,
        packet.xcast.protocol,
        &packet.segment,
    );

    let of_wires = expected.branches.iter().map(|branch| {
        assert_eq!(branch.frame[6..12], view.ports[branch.port].mac);
        assert_eq!(branch.frame[0] & 1, 0, "to a unicast MAC");
        (&branch.frame[ETHERNET_LEN..], packet.ip.ttl.wrapping_sub(1))
    });
    let of_stack = expected
        .stack
        .iter()
        .map(|bytes| (&bytes[..], packet.ip.ttl));
    for (bytes, ttl) in of_wires.chain(of_stack) {
        let (ip, payload) = is_right(family, bytes);
        assert_eq!((ip.source, ip.ttl), (packet.ip.source, ttl));
        match family {
            Family::Ipv4 => assert_eq!(ip.identification, packet.ip.identification),
            Family::Ipv6 => assert_eq!(ip.flow_label, packet.ip.flow_label),
        }
        assert_eq!(ip.ds & 3, packet.ip.ds & 3, "ECN");
        if ip.protocol == xcast_protocol(family) {
            let (xcast, segment) = Xcast::parse(family, &payload).expect("a whole Xcast header");
            let header_len = payload.len() - segment.len();
            let (checked_len, len) = checked_len(family, &xcast, header_len);
            assert_eq!(packet::sum(&payload[..checked_len]), 0xffff);
            assert_eq!(xcast.len_words, Some(len));
            assert_eq!(segment, packet.segment);
            assert_eq!(ip.destination, view.group);
            assert_eq!(ip.ds, packet.ip.ds);
            assert_eq!(xcast.channel, packet.xcast.channel);
            served.extend(xcast.destinations.iter().filter(|entry| entry.valid));
        } else {
            assert!(!packet.xcast.x || view.own.contains(&ip.destination));
            assert_eq!(ip.protocol, packet.xcast.protocol);
            assert_eq!(
                transport_is_right(ip.source, ip.destination, ip.protocol, &payload),
                arrival_is_right
            );
            let ds = if packet.xcast.d { ip.ds & 0xfc } else { 0 };
            let entry = valid.iter().find(|entry| {
                entry.address == ip.destination && (!packet.xcast.d || entry.ds & 0xfc == ds)
            });
            served.push(**entry.expect("a destination that was asked for"));
        }
    }
    // Every valid entry is served or has a reason why not.
    let count = |prefix: &str| -> u64 {
        let named = expected
            .counters
            .iter()
            .filter(|entry| entry.0.starts_with(prefix));
        named.map(|entry| entry.1).sum()
    };
    assert_eq!(served.len() as u64 + count("skip_"), valid.len() as u64);
    assert_eq!(count("stack_"), expected.stack.len() as u64);
    let copies = expected.branches.len() + expected.stack.len();
    assert_eq!(
        (count("planned"), count("sent")),
        (copies as u64, copies as u64)
    );
}

fn emit_then_parse(family: Family, packet: &Packet) {
    let bytes = packet.xcast.emit(family);
    let (parsed, rest) = Xcast::parse(family, &bytes).expect("a whole Xcast header");
    assert!(rest.is_empty());
    let (checked_len, len) = checked_len(family, &parsed, bytes.len());
    assert_eq!(packet::sum(&bytes[..checked_len]), 0xffff);
    assert_eq!(parsed.len_words, Some(len));
    for (got, want) in parsed.destinations.iter().zip(&packet.xcast.destinations) {
        assert_eq!((got.valid, got.address), (want.valid, want.address));
        assert_eq!(got.port, if packet.xcast.p { want.port } else { 0 });
        assert_eq!(got.ds, if packet.xcast.d { want.ds } else { 0 });
    }
    let frame = packet.frame();
    let (ip, payload) = Ip::parse(family, &frame[ETHERNET_LEN..]).expect("a whole IP packet");
    assert_eq!(ip.emit(payload), &frame[ETHERNET_LEN..]);
}

proptest! {
    #[test]
    fn emit_then_parse_is_identity((_, packet) in packets()) {
        for family in Family::ALL {
            let packet = packet.in_family(family);
            prop_assume!(family == Family::Ipv4 || !goes_on_in_headers(&packet));
            emit_then_parse(family, &packet);
        }
    }

    #[test]
    fn branches_partition_the_list((port, packet) in packets()) {
        for family in Family::ALL {
            let packet = packet.in_family(family);
            prop_assume!(family == Family::Ipv4 || !goes_on_in_headers(&packet));
            for layout in layouts() {
                let layout = Layout { family, ..layout };
                invariants(family, &layout.view(), port, &packet);
            }
        }
    }
}
