//! The oracle against frames written out by hand.

use super::*;
use crate::layout::{self, Gateways, Layout};
use crate::packet::{Packet, hex, unhex};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 9);
const GROUP: Ipv4Addr = layout::GROUP;

/// An Xcast packet from the gateway of port 0.
fn packet(xcast: Xcast, segment: Vec<u8>) -> Packet {
    Packet {
        destination_mac: layout::router_mac(0),
        source_mac: layout::neighbour_mac(0, 2),
        ip: Ip {
            identification: 0x1234,
            fragment: 0x4000,
            ..Ip::new(SOURCE, GROUP, layout::PROTOCOL)
        },
        xcast,
        segment,
    }
}

fn udp_to(addresses: &[Ipv4Addr]) -> Packet {
    let list = addresses.iter().map(|&address| Destination::new(address));
    let segment = packet::udp((SOURCE, 4000), (GROUP, 5000), b"hi", None);
    packet(Xcast::new(protocol::UDP, list.collect()), segment)
}

fn view(prune: Prune) -> RouterView {
    Layout {
        prune,
        ..Layout::default()
    }
    .view()
}

#[track_caller]
fn assert_branches(expected: &Expected, frames: &[(usize, &str)]) {
    let got: Vec<_> = expected
        .branches
        .iter()
        .map(|branch| (branch.port, hex(&branch.frame)))
        .collect();
    let want: Vec<_> = frames
        .iter()
        .map(|&(port, text)| (port, hex(&unhex(text))))
        .collect();
    assert_eq!(got, want);
}

fn counters<const N: usize>(expected: &Expected, names: [&'static str; N]) -> [u64; N] {
    names.map(|name| expected.counters.get(name).copied().unwrap_or(0))
}

/// Two destinations behind the gateway of port 1, one behind that of port 2.
const ARRIVAL: &str = "
    02 00 00 00 00 00 02 00 00 00 01 00 08 00        # Ethernet
    45 00 00 3a 12 34 40 00 40 fd 33 8c 0a 00 09 09  # IPv4
    e0 00 00 fe
    10 03 11 dd 00 00 ca fe 11 07 00 00 e0 00 00 00  # Xcast
    0a 01 01 07 0a 01 02 07 0a 01 01 08
    0f a0 13 88 00 0a 80 41 68 69                    # UDP";

/// The packet to the second destination.
const UNICAST: &str = "
    02 00 00 00 01 02 02 00 00 00 00 02 08 00
    45 00 00 1e 12 34 40 00 3f 11 0a 8b 0a 00 09 09
    0a 01 02 07
    0f a0 13 88 00 0a 55 38 68 69";

#[test]
fn truncated_copy_and_x2u() {
    let expected = expect(&view(Prune::Truncate), 0, &unhex(ARRIVAL));
    let truncated = "
        02 00 00 00 01 01 02 00 00 00 00 01 08 00
        45 00 00 36 12 34 40 00 3f fd 34 90 0a 00 09 09
        e0 00 00 fe
        10 02 3d e7 00 00 ca fe 11 06 00 00 c0 00 00 00
        0a 01 01 07 0a 01 01 08
        0f a0 13 88 00 0a 80 41 68 69";
    assert_branches(&expected, &[(1, truncated), (2, UNICAST)]);
    assert_eq!(
        counters(&expected, ["received", "planned", "sent", "x2u"]),
        [1, 2, 2, 1]
    );
    assert!(expected.stack.is_empty() && !expected.untouched);
}

#[test]
fn the_arrival_is_what_the_builder_makes() {
    let mut packet = udp_to(&[
        layout::behind(1, 7),
        layout::behind(2, 7),
        layout::behind(1, 8),
    ]);
    packet.xcast.channel = 0xcafe;
    assert_eq!(hex(&packet.frame()), hex(&unhex(ARRIVAL)));
}

#[test]
fn bitmap_copy_keeps_the_list() {
    let expected = expect(&view(Prune::Bitmap), 0, &unhex(ARRIVAL));
    let pruned = "
        02 00 00 00 01 01 02 00 00 00 00 01 08 00
        45 00 00 3a 12 34 40 00 3f fd 34 8c 0a 00 09 09
        e0 00 00 fe
        10 03 51 dd 00 00 ca fe 11 07 00 00 a0 00 00 00
        0a 01 01 07 0a 01 02 07 0a 01 01 08
        0f a0 13 88 00 0a 80 41 68 69";
    assert_branches(&expected, &[(1, pruned), (2, UNICAST)]);
}

/// The same list with A, X, D and P set and ECN bits 11.
const ARRIVAL_AXDP: &str = "
    02 00 00 00 00 00 02 00 00 00 01 00 08 00
    45 03 00 46 12 34 40 00 40 fd 33 7d 0a 00 09 09
    e0 00 00 fe
    1f 03 10 13 00 00 ca fe 11 0a 00 00 e0 00 00 00
    0a 01 01 07 0a 01 02 07 0a 01 01 08 b8 28 00 00  # addresses, DS bytes
    13 89 13 8a 13 8b 00 00                          # ports
    0f a0 00 00 00 0a 93 c9 68 69";

#[test]
fn bitmap_copy_with_anonymity_zeroes_what_it_clears() {
    let expected = expect(&view(Prune::Bitmap), 0, &unhex(ARRIVAL_AXDP));
    let first = "
        02 00 00 00 01 01 02 00 00 00 00 01 08 00
        45 03 00 46 12 34 40 00 3f fd 34 7d 0a 00 09 09
        e0 00 00 fe
        1f 03 6f cd 00 00 ca fe 11 0a 00 00 a0 00 00 00
        0a 01 01 07 00 00 00 00 0a 01 01 08 b8 00 00 00
        13 89 00 00 13 8b 00 00
        0f a0 00 00 00 0a 93 c9 68 69";
    let second = "
        02 00 00 00 01 02 02 00 00 00 00 02 08 00
        45 03 00 46 12 34 40 00 3f fd 34 7d 0a 00 09 09
        e0 00 00 fe
        1f 03 a5 39 00 00 ca fe 11 0a 00 00 40 00 00 00
        00 00 00 00 0a 01 02 07 00 00 00 00 00 28 00 00
        00 00 13 8a 00 00 00 00
        0f a0 00 00 00 0a 93 c9 68 69";
    assert_branches(&expected, &[(1, first), (2, second)]);
    assert_eq!(counters(&expected, ["planned", "x2u"]), [2, 0]);
}

#[test]
fn truncated_copy_with_all_flags() {
    let expected = expect(&view(Prune::Truncate), 0, &unhex(ARRIVAL_AXDP));
    let first = "
        02 00 00 00 01 01 02 00 00 00 00 01 08 00
        45 03 00 3e 12 34 40 00 3f fd 34 85 0a 00 09 09
        e0 00 00 fe
        1f 02 4f d0 00 00 ca fe 11 08 00 00 c0 00 00 00
        0a 01 01 07 0a 01 01 08 b8 00 00 00 13 89 13 8b
        0f a0 00 00 00 0a 93 c9 68 69";
    let second = "
        02 00 00 00 01 02 02 00 00 00 00 02 08 00
        45 03 00 3a 12 34 40 00 3f fd 34 89 0a 00 09 09
        e0 00 00 fe
        1f 01 3d 66 00 00 ca fe 11 07 00 00 80 00 00 00
        0a 01 02 07 28 00 00 00 13 8a 00 00
        0f a0 00 00 00 0a 93 c9 68 69";
    assert_branches(&expected, &[(1, first), (2, second)]);
}

#[test]
fn x2u_sets_port_and_dscp_and_keeps_ecn() {
    let arrival = "
        02 00 00 00 00 00 02 00 00 00 01 00 08 00
        45 03 00 46 12 34 40 00 40 fd 33 7d 0a 00 09 09
        e0 00 00 fe
        13 03 1c 13 00 00 ca fe 11 0a 00 00 e0 00 00 00
        0a 01 01 07 0a 01 02 07 0a 01 01 08 b8 28 00 00
        13 89 13 8a 13 8b 00 00
        0f a0 00 00 00 0a 93 c9 68 69";
    let expected = expect(&view(Prune::Bitmap), 0, &unhex(arrival));
    let second = "
        02 00 00 00 01 02 02 00 00 00 00 02 08 00
        45 2b 00 1e 12 34 40 00 3f 11 0a 60 0a 00 09 09
        0a 01 02 07
        0f a0 13 8a 00 0a 55 36 68 69";
    assert_eq!(hex(&expected.branches[1].frame), hex(&unhex(second)));
}

/// The transport packet that one destination gets.
fn delivered(protocol: u8, segment: Vec<u8>, destination: Destination, p: bool) -> Vec<u8> {
    let xcast = Xcast {
        p,
        ..Xcast::new(protocol, vec![destination])
    };
    let expected = expect(&view(Prune::Truncate), 0, &packet(xcast, segment).frame());
    assert_eq!(expected.branches.len(), 1);
    let (ip, segment) =
        Ip::parse(Family::Ipv4, &expected.branches[0].frame[ETHERNET_LEN..]).unwrap();
    assert_eq!(ip.protocol, protocol);
    segment.to_vec()
}

#[test]
fn transport_checksums_follow() {
    let source = (SOURCE, 4000);
    let at = Destination::new(layout::behind(1, 7)).port(5001);
    let to = |port| (at.address, port);
    for (p, sent_port, got_port) in [(true, 0, 5001), (false, 7, 7)] {
        let group = (GROUP, sent_port);
        assert_eq!(
            delivered(6, packet::tcp(source, group, 1, b"x", None), at, p),
            packet::tcp(source, to(got_port), 1, b"x", None)
        );
        assert_eq!(
            delivered(33, packet::dccp(source, group, b"x"), at, p),
            packet::dccp(source, to(got_port), b"x")
        );
        for protocol in [protocol::UDP, protocol::UDP_LITE] {
            let make = |to: (IpAddr, u16)| packet::udp_like(protocol, source, to, b"x", None);
            let sent = make((group.0.into(), group.1));
            assert_eq!(delivered(protocol, sent, at, p), make(to(got_port)));
        }
        // No checksum stays none.
        assert_eq!(
            delivered(17, packet::udp(source, group, b"x", Some(0)), at, p),
            packet::udp(source, to(got_port), b"x", Some(0))
        );
    }
    let echo = packet::icmp_echo(1, 2, b"x");
    assert_eq!(delivered(1, echo.clone(), at, true), echo);
    // SCTP, what nobody knows, and headers that end too early stay as they are.
    for (protocol, segment) in [
        (132, vec![0; 12]),
        (200, vec![0; 12]),
        (17, vec![0; 7]),
        (6, vec![0; 17]),
        (17, vec![]),
    ] {
        assert_eq!(delivered(protocol, segment.clone(), at, true), segment);
    }
}

#[test]
fn wrong_checksum_stays_wrong_by_as_much() {
    let at = Destination::new(layout::behind(1, 7)).port(5001);
    let right = packet::udp((SOURCE, 4000), (GROUP, 0), b"x", None);
    let wrong = be16(&right, 6).unwrap().wrapping_sub(3);
    let segment = packet::udp((SOURCE, 4000), (GROUP, 0), b"x", Some(wrong));
    let got = delivered(17, segment, at, true);
    let want = packet::udp((SOURCE, 4000), (at.address, 5001), b"x", None);
    assert_eq!(
        be16(&got, 6).unwrap().wrapping_add(3),
        be16(&want, 6).unwrap()
    );
}

#[test]
fn udp_result_zero_becomes_ffff_and_tcp_keeps_it() {
    let at = Destination::new(layout::behind(1, 7));
    // Solved by hand: the octets that make the sum to this destination ffff.
    let solve = |make: &dyn Fn(&[u8]) -> Vec<u8>, protocol| {
        let blank = make(&[0, 0]);
        let missing = packet::transport_checksum(SOURCE, at.address, protocol, &blank);
        make(&missing.to_be_bytes())
    };
    let udp = |to: IpAddr, checksum| {
        move |payload: &[u8]| packet::udp((SOURCE, 1), (to, 2), payload, checksum)
    };
    let body = solve(&udp(at.address, Some(0)), 17)[8..].to_vec();
    let got = delivered(17, udp(GROUP.into(), None)(&body), at, false);
    assert_eq!(be16(&got, 6), Some(0xffff));

    let tcp = |to: IpAddr, checksum| {
        move |payload: &[u8]| packet::tcp((SOURCE, 1), (to, 2), 3, payload, checksum)
    };
    let body = solve(&tcp(at.address, Some(0)), 6)[20..].to_vec();
    let got = delivered(6, tcp(GROUP.into(), None)(&body), at, false);
    assert_eq!(be16(&got, 16), Some(0));
}

#[test]
fn own_and_anycast_addresses_leave_as_the_group() {
    let anycast = Ipv4Addr::new(192, 0, 2, 99);
    let view = Layout {
        anycast: vec![anycast],
        ..Layout::default()
    }
    .view();
    let mut packet = udp_to(&[layout::behind(1, 1), layout::behind(1, 2)]);
    let to_group = expect(&view, 0, &packet.frame());
    for address in [anycast, layout::router(3)] {
        packet.ip.destination = address.into();
        assert_eq!(expect(&view, 0, &packet.frame()), to_group);
    }
    packet.ip.destination = layout::behind(1, 2).into();
    assert!(expect(&view, 0, &packet.frame()).untouched);
}

#[test]
fn next_hops_and_on_link_hosts() {
    let packet = udp_to(&[
        layout::behind(1, 1),
        layout::behind_second(1, 1),
        layout::on_link(1, 2), // the gateway itself, on the link: its own next hop
        layout::behind(1, 2),
        layout::behind_second(1, 2),
        layout::host(1, 0),
        layout::host(1, 0),
        layout::behind_plain(1, 1),
        layout::behind_plain(1, 2),
        layout::behind_plain(1, 1),
    ]);
    let expected = expect(&view(Prune::Truncate), 0, &packet.frame());
    let summary: Vec<_> = expected
        .branches
        .iter()
        .map(|branch| (branch.frame[..6].to_vec(), branch.frame[23]))
        .collect();
    let mac = |last| layout::neighbour_mac(1, last).to_vec();
    assert_eq!(
        summary,
        [
            (mac(2), 253),
            (mac(4), 253),
            (mac(2), 17),
            (mac(16), 17),
            (mac(3), 17),
            (mac(3), 17)
        ]
    );
    assert_eq!(
        counters(&expected, ["planned", "x2u", "skip_duplicate"]),
        [6, 4, 2]
    );
}

#[test]
fn x_keeps_xcast_or_drops() {
    let mut packet = udp_to(&[
        layout::behind(1, 1),
        layout::host(1, 0),
        layout::host(1, 0),
        layout::behind_plain(1, 1),
        layout::on_link(1, 200),
        Ipv4Addr::new(192, 0, 2, 1),
        layout::router(2),
    ]);
    packet.xcast.x = true;
    let expected = expect(&view(Prune::Truncate), 0, &packet.frame());
    assert!(
        expected
            .branches
            .iter()
            .all(|branch| branch.frame[23] == 253)
    );
    assert_eq!(expected.branches.len(), 2);
    assert_eq!(expected.stack.len(), 1);
    assert_eq!(
        counters(
            &expected,
            [
                "skip_x_incapable",
                "skip_x_stack",
                "stack_local",
                "skip_duplicate"
            ]
        ),
        [1, 2, 1, 1]
    );
}

#[test]
fn stack_keeps_the_ttl_and_ports_use_it_up() {
    let mut packet = udp_to(&[
        layout::router(2),
        layout::behind(1, 1),
        layout::behind(1, 2),
    ]);
    packet.ip.ttl = 1;
    let expected = expect(&view(Prune::Truncate), 0, &packet.frame());
    assert!(expected.branches.is_empty());
    assert_eq!(expected.stack[0][8], 1);
    assert_eq!(counters(&expected, ["skip_ttl", "stack_local"]), [2, 1]);
}

#[test]
fn each_reason_has_its_counter() {
    let packet = udp_to(&[
        Ipv4Addr::new(224, 1, 2, 3),
        Ipv4Addr::new(255, 255, 255, 255),
        Ipv4Addr::new(250, 0, 0, 1),
        Ipv4Addr::new(127, 0, 0, 1),
        Ipv4Addr::new(169, 254, 3, 4),
        Ipv4Addr::new(0, 0, 0, 0),
        layout::on_link(2, 255),
        Ipv4Addr::new(10, 3, 0, 1),
        Ipv4Addr::new(10, 4, 0, 1),
        Ipv4Addr::new(10, 4, 1, 1),
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv4Addr::new(10, 7, 0, 9),
        layout::behind_silent(1, 1),
        layout::on_link(1, 200),
        layout::router(1),
    ]);
    let expected = expect(&view(Prune::Truncate), 0, &packet.frame());
    assert_eq!(
        expected.counters,
        [
            ("received", 1),
            ("planned", 7),
            ("sent", 7),
            ("x2u", 7),
            ("skip_never", 7),
            ("skip_blackhole", 1),
            ("stack_unreachable", 2),
            ("stack_no_route", 1),
            ("stack_no_port", 1),
            ("stack_no_neighbour", 2),
            ("stack_local", 1),
        ]
        .into()
    );
    assert_eq!(expected.stack.len(), 7);
}

#[test]
fn copies_above_the_mtu_go_to_the_stack_one_by_one() {
    let mut layout = Layout {
        mtu: vec![(1, 600)],
        ..Layout::default()
    };
    let mut packet = udp_to(&[layout::behind(1, 1), layout::behind(1, 2)]);
    // 20 + 12 + 4 + 8 octets of headers: 556 octets of UDP fit, 557 do not.
    let segment = |len: usize| packet::udp((SOURCE, 1), (GROUP, 2), &vec![7; len - 8], None);
    packet.segment = segment(556);
    let expected = expect(&layout.view(), 0, &packet.frame());
    assert_eq!((expected.branches.len(), expected.stack.len()), (1, 0));
    packet.segment = segment(557);
    let expected = expect(&layout.view(), 0, &packet.frame());
    assert_eq!((expected.branches.len(), expected.stack.len()), (0, 2));
    assert_eq!(counters(&expected, ["stack_mtu"]), [2]);
    packet.xcast.x = true;
    let expected = expect(&layout.view(), 0, &packet.frame());
    assert_eq!((expected.branches.len(), expected.stack.len()), (0, 0));
    assert_eq!(counters(&expected, ["skip_x_mtu"]), [2]);
    // Premature X2U makes each of them small enough.
    packet.xcast.x = false;
    layout.gateways = Gateways::None;
    let expected = expect(&layout.view(), 0, &packet.frame());
    assert_eq!((expected.branches.len(), expected.stack.len()), (2, 0));
}

#[test]
fn reserved_fields_are_ignored_and_zeroed() {
    let mut packet = udp_to(&[
        layout::behind(1, 1),
        layout::behind(1, 2),
        layout::behind(1, 3),
    ]);
    packet.xcast.d = true;
    packet.xcast.p = true;
    for prune in [Prune::Truncate, Prune::Bitmap] {
        packet.xcast.r = false;
        packet.xcast.reserved = 0;
        packet.xcast.padding = 0;
        packet.xcast.stray_bits = false;
        let clean = expect(&view(prune), 0, &packet.frame());
        packet.xcast.r = true;
        packet.xcast.reserved = 0xabcd;
        packet.xcast.padding = 0xee;
        packet.xcast.stray_bits = true;
        assert_eq!(expect(&view(prune), 0, &packet.frame()), clean);
    }
}

#[test]
fn frames_to_others_are_untouched() {
    let mut packet = udp_to(&[layout::behind(1, 1)]);
    let mut view = view(Prune::Truncate);
    packet.destination_mac = packet::group_mac(GROUP);
    assert!(expect(&view, 0, &packet.frame()).untouched);
    view.ports[0].group_mac = true;
    assert!(!expect(&view, 0, &packet.frame()).untouched);
    packet.destination_mac = layout::router_mac(1);
    assert!(expect(&view, 0, &packet.frame()).untouched);
    packet.destination_mac = layout::router_mac(0);
    packet.ip.protocol = 252;
    assert!(expect(&view, 0, &packet.frame()).untouched);
    assert!(expect(&view, 0, &packet.frame()[..30]).untouched);
}
