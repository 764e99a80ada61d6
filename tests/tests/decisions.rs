//! The router's decisions against the independent expectation: random packets on the host, and
//! the same rows on the host and, through BPF_PROG_TEST_RUN, in the kernel.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::programs::{TestRun as _, TestRunOptions};
use proptest::prelude::*;
use tests::{
    cpu,
    family::Family,
    namespace::{self, Namespace},
    oracle::{Expected, Port, Prune, RouterView, Target, expect},
    packet::{self, Destination, Ip, Mac, Packet, Xcast, protocol},
};
use xcast_common::{
    family::{Family as Routed, V4, V6},
    forward::{
        ingress::{accept, is_xcast},
        mark::MAX_SERIAL,
        plan::Work,
    },
    host::{Buffer, Fanouts, MemoryTables, Outcome, Router},
    maps::{
        self, ADDRESS_ANYCAST, ADDRESS_OWN, NEXT_HOP_NEVER, NEXT_HOP_NEVER_DESTINATION,
        NEXT_HOP_ON_LINK, NEXT_HOP_STACK_MTU, NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST,
        PORT_GROUP_MAC, PORT_STACK, Settings,
        counter::{self, Counter},
    },
    wire::{ETH_LEN, frame::Frame as _},
};
use xcast_ctl::datapath::{Datapath, Macs};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
const PROTOCOL: u8 = 253;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A router of four ports: hosts on link, gateways of both kinds, every special route.
fn view(family: Family, prune: Prune) -> RouterView {
    let ip = |address: Ipv4Addr| family.address(address);
    let port = |i: u8| Port {
        mac: [2, 0, 0, 0, 0, i],
        mtu: match i {
            2 => 3000,
            3 => 400,
            _ => 1500,
        },
        group_mac: i == 1,
    };
    let gateway = |port: usize, last: u8, xcast: bool, known: bool| Target::Gateway {
        port,
        address: ip(Ipv4Addr::new(10, 0, port as u8, last)),
        mac: known.then_some([2, 1, 0, 0, port as u8, last]),
        xcast,
    };
    let net = |b: u8, c: u8| Ipv4Addr::new(10, b, c, 0);
    let mut routes = vec![
        (Ipv4Addr::new(172, 16, 0, 0), 16, Target::Unreachable),
        (Ipv4Addr::new(172, 17, 0, 0), 16, Target::Blackhole),
        (Ipv4Addr::new(172, 18, 0, 0), 16, Target::OtherInterface),
        (net(1, 9), 24, gateway(2, 9, true, false)),
    ];
    for p in 0..4u8 {
        routes.push((net(0, p), 24, Target::OnLink { port: p.into() }));
        routes.push((Ipv4Addr::new(10, 0, p, 1), 32, Target::Local));
        routes.push((net(1, p), 24, gateway(p.into(), 200, true, true)));
        routes.push((net(2, p), 24, gateway(p.into(), 201, true, true)));
        routes.push((net(3, p), 24, gateway(p.into(), 202, false, true)));
    }
    let mut neighbours = Vec::new();
    for p in 0..4 {
        for last in (2..40).chain([200, 201, 202]) {
            neighbours.push((
                usize::from(p),
                ip(Ipv4Addr::new(10, 0, p, last)),
                [2, 1, 0, 0, p, last],
            ));
        }
    }
    RouterView {
        group: ip(GROUP),
        protocol: PROTOCOL,
        routing_type: PROTOCOL,
        ports_option: 0x5e,
        anycast: vec![ip(ANYCAST)],
        own: (0..4).map(|p| ip(Ipv4Addr::new(10, 0, p, 1))).collect(),
        broadcasts: match family {
            Family::Ipv4 => (0..4).map(|p| ip(Ipv4Addr::new(10, 0, p, 255))).collect(),
            Family::Ipv6 => Vec::new(),
        },
        prune,
        udp: None,
        ports: (0..4).map(port).collect(),
        routes: routes
            .into_iter()
            .map(|(prefix, len, target)| (ip(prefix), family.prefix_len(len), target))
            .collect(),
        neighbours,
    }
}

/// The view as the route map and the next-hop table have it.
fn tables(view: &RouterView) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for (id, entry) in [
        (0, NextHop::stack(Counter::StackNoRoute)),
        (NEXT_HOP_NEVER, NextHop::skip(Counter::SkipNever)),
        (
            NEXT_HOP_NEVER_DESTINATION,
            NextHop::skip(Counter::SkipNever),
        ),
        (3, NextHop::stack(Counter::StackLocal)),
        (4, NextHop::stack(Counter::StackUnreachable)),
        (5, NextHop::skip(Counter::SkipBlackhole)),
        (6, NextHop::stack(Counter::StackNoPort)),
        (7, NextHop::stack(Counter::StackNoNeighbour)),
        (NEXT_HOP_STACK_MTU, NextHop::stack(Counter::StackMtu)),
    ] {
        tables.set_next_hop(id, entry);
    }
    let net = |text: &str, id: u32| {
        let prefix: ipnet::IpNet = text.parse().expect("a prefix");
        (prefix.addr(), prefix.prefix_len(), id)
    };
    let mut routes = match view.family() {
        Family::Ipv4 => vec![
            net("224.0.0.0/4", NEXT_HOP_NEVER),
            net("255.255.255.255/32", NEXT_HOP_NEVER),
            net("127.0.0.0/8", NEXT_HOP_NEVER),
            net("0.0.0.0/32", NEXT_HOP_NEVER),
            net("0.0.0.0/8", NEXT_HOP_NEVER_DESTINATION),
            net("240.0.0.0/4", NEXT_HOP_NEVER_DESTINATION),
            net("169.254.0.0/16", NEXT_HOP_NEVER_DESTINATION),
        ],
        Family::Ipv6 => vec![
            net("::/128", NEXT_HOP_NEVER),
            net("::1/128", NEXT_HOP_NEVER),
            net("::ffff:0.0.0.0/96", NEXT_HOP_NEVER),
            net("fe80::/10", NEXT_HOP_NEVER),
            net("ff00::/8", NEXT_HOP_NEVER),
        ],
    };
    routes.extend(view.broadcasts.iter().map(|&b| (b, 32, NEXT_HOP_NEVER)));
    let mut next_id = 16;
    let mut add = |port: usize, mac: Mac, flags: u8| {
        let entry = NextHop {
            kind: NextHopKind::Forward as u8,
            port: PORT_FIRST + port as u8,
            flags,
            mtu_bytes: view.ports[port].mtu as u16,
            destination_mac: mac,
            source_mac: view.ports[port].mac,
            ..NextHop::default()
        };
        next_id += 1;
        tables.set_next_hop(next_id, entry);
        next_id
    };
    for &(prefix, len, target) in &view.routes {
        let id = match target {
            Target::Local => 3,
            Target::Unreachable => 4,
            Target::Blackhole => 5,
            Target::OtherInterface => 6,
            Target::OnLink { .. } | Target::Gateway { mac: None, .. } => 7,
            Target::Gateway {
                port,
                mac: Some(mac),
                xcast,
                ..
            } => add(port, mac, if xcast { NEXT_HOP_XCAST } else { 0 }),
        };
        routes.push((prefix, len, id));
    }
    for &(port, address, mac) in &view.neighbours {
        let len = view.family().prefix_len(32);
        routes.push((address, len, add(port, mac, NEXT_HOP_ON_LINK)));
    }
    for (prefix, len, id) in routes {
        tables.set_route(prefix, len, Some(id));
    }
    for &address in &view.own {
        tables.set_address(address, ADDRESS_OWN);
    }
    for &address in &view.anycast {
        tables.set_address(address, ADDRESS_ANYCAST);
    }
    tables
}

fn settings(prune: Prune) -> Settings {
    let IpAddr::V6(group6) = Family::Ipv6.address(GROUP) else {
        unreachable!("an IPv6 address");
    };
    Settings {
        group: GROUP.into(),
        protocol: PROTOCOL,
        prune: match prune {
            Prune::Truncate => maps::Prune::Truncate,
            Prune::Bitmap => maps::Prune::Bitmap,
        } as u8,
        hash_key: 0x1234_5678_9abc_def1,
        group6: group6.into(),
        routing_type: PROTOCOL,
        ports_option: 0x5e,
        ipv6: 1,
        ..Settings::default()
    }
}

fn port_entry(view: &RouterView, port: usize) -> maps::Port {
    maps::Port {
        slot: PORT_FIRST + port as u8,
        flags: if view.ports[port].group_mac {
            PORT_GROUP_MAC
        } else {
            0
        },
        mac: view.ports[port].mac,
        ..maps::Port::default()
    }
}

/// The router with these tables.
fn router<F: Routed>(view: &RouterView, tables: MemoryTables) -> Router<F> {
    let mut router = Router::new(settings(view.prune), tables);
    for port in 0..view.ports.len() {
        router.set_port(port_entry(view, port));
    }
    router
}

/// What the shared code makes of a frame on the host. With [`Fanouts::Preset`], copies are made one preset fan-out
/// at a time and the rest goes through once more, as where no device map is installed.
fn run<F: Routed>(router: &mut Router<F>, port: usize, frame: &[u8], fanouts: Fanouts) -> Expected {
    router.fanouts = fanouts;
    let mut result = Expected::default();
    let before = router.counters.clone();
    match router.receive(PORT_FIRST + port as u8, frame) {
        Outcome::Passed => result.untouched = true,
        Outcome::Dropped(_) => {}
        Outcome::Forwarded(copies) => {
            for (slot, frame) in copies {
                if slot == PORT_STACK {
                    result.stack.push(frame[ETH_LEN..].to_vec());
                } else {
                    let port = usize::from(slot - PORT_FIRST);
                    result.branches.push(tests::oracle::Branch { port, frame });
                }
            }
        }
    }
    for (slot, counters) in &router.counters {
        let before = before.get(slot).copied().unwrap_or_default();
        for (index, name) in counter::NAMES.iter().enumerate() {
            let count = counters.counts[index] - before.counts[index];
            if count != 0 {
                *result.counters.entry(name).or_default() += count;
            }
        }
    }
    normalised(result)
}

/// How often a router has reused a plan.
fn plans_reused<F: Routed>(router: &Router<F>) -> u64 {
    let counters = router.counters.values();
    counters
        .map(|counters| counters.counts[Counter::PlanReused as usize])
        .sum()
}

/// Order of copies does not matter; only reasons are compared, other counters have tests of
/// their own.
fn normalised(mut expected: Expected) -> Expected {
    expected.branches.sort();
    expected.stack.sort();
    expected.counters = reasons(expected.counters);
    expected
}

fn reasons(counters: BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    counters
        .into_iter()
        .filter(|(name, count)| {
            *count != 0
                && ["drop_", "skip_", "stack_"]
                    .iter()
                    .any(|p| name.starts_with(p))
        })
        .collect()
}

/// A repeated entry that would have been skipped anyway may be counted under either reason.
fn either_reason(mut expected: Expected) -> Expected {
    let mut skipped = 0;
    for reason in [
        "skip_duplicate",
        "skip_ttl",
        "skip_x_incapable",
        "skip_x_mtu",
        "skip_x_stack",
    ] {
        skipped += expected.counters.remove(reason).unwrap_or(0);
    }
    expected.counters.insert("skipped", skipped);
    expected
}

/// Of several faults in one packet, any may be the reason it is dropped for.
fn either_fault(mut expected: Expected) -> Expected {
    let before = expected.counters.len();
    expected
        .counters
        .retain(|name, _| !name.starts_with("drop_"));
    let dropped = before - expected.counters.len();
    expected.counters.insert("dropped", dropped as u64);
    expected
}

fn xcast_packet(destinations: Vec<Destination>) -> Packet {
    Packet {
        destination_mac: [2, 0, 0, 0, 0, 0],
        source_mac: [2, 9, 9, 9, 9, 9],
        ip: Ip::new(SOURCE, GROUP, PROTOCOL),
        xcast: Xcast::new(protocol::UDP, destinations),
        segment: packet::udp((SOURCE, 4000), (GROUP, 5000), b"payload", None),
    }
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        6 => (0u8..4, 0u8..5, 0u8..45).prop_map(|(b, c, d)| Ipv4Addr::new(10, b, c, d)),
        2 => (1u8..4, 0u8..4, any::<u8>()).prop_map(|(b, c, d)| Ipv4Addr::new(10, b, c, d)),
        1 => (16u8..20, any::<u8>()).prop_map(|(b, d)| Ipv4Addr::new(172, b, 0, d)),
        1 => prop::sample::select(vec![
            Ipv4Addr::new(224, 1, 2, 3), Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST,
            Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(0, 1, 1, 1), Ipv4Addr::new(169, 254, 1, 1),
            Ipv4Addr::new(241, 0, 0, 1), Ipv4Addr::new(10, 0, 2, 255), Ipv4Addr::new(9, 9, 9, 9),
            Ipv4Addr::new(10, 1, 9, 1), OWN,
        ]),
    ]
}

fn any_destination() -> impl Strategy<Value = Destination> {
    (any_address(), prop::bool::weighted(0.9), 0u8..8, 0u16..3).prop_map(
        |(address, valid, ds, port)| Destination {
            valid,
            address: address.into(),
            ds: ds << 3 | 1,
            port,
        },
    )
}

/// A neighbour, or a host behind a gateway: what gets a copy, unless the packet is unusual.
fn plain_destination() -> impl Strategy<Value = Destination> {
    (0u8..4, 0u8..4, 2u8..40, 0u8..8, 0u16..3).prop_map(|(b, c, d, ds, port)| Destination {
        valid: true,
        address: Ipv4Addr::new(10, b, c, d).into(),
        ds: ds << 3 | 1,
        port,
    })
}

prop_compose! {
    fn any_packet(family: Family)(
        destinations in prop_oneof![
            4 => prop::collection::vec(any_destination(), 1..9),
            1 => prop::collection::vec(any_destination(), 1..=family.most_destinations()),
        ],
        flags in any::<[bool; 6]>(),
        transport in prop::sample::select(vec![
            protocol::UDP, protocol::UDP, protocol::TCP, protocol::ICMP, protocol::UDP_LITE,
            protocol::DCCP, protocol::SCTP, protocol::ICMPV6, 59,
        ]),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        to in prop::sample::select(vec![GROUP, GROUP, OWN, ANYCAST, Ipv4Addr::new(10, 1, 1, 1)]),
        source in prop_oneof![
            8 => Just(SOURCE), 1 => any_address(),
        ],
        ttl in prop::sample::select(vec![64u8, 64, 64, 2, 1, 0]),
        length in prop::sample::select(vec![0usize, 0, 0, 330, 420, 1100]),
        group_mac in prop::bool::weighted(0.1),
        channel in any::<u32>(),
        (ds, reserved, padding, trailer) in (any::<u8>(), any::<u16>(), any::<u8>(), prop::sample::select(vec![0usize, 0, 5])),
        zero_checksum in prop::bool::weighted(0.2),
        port in 0usize..4,
        before in any_headers(),
        plain in prop_oneof![
            2 => Just(None),
            1 => prop::collection::vec(plain_destination(), 1..9).prop_map(Some),
        ],
        next in any_change(),
    ) -> (usize, Vec<u8>, Vec<u8>) {
        let mut packet = xcast_packet(destinations);
        let [a, x, d, p, r, stray_bits] = flags;
        packet.xcast = Xcast {
            a, x, d, p, r, stray_bits, channel: channel.into(), reserved, padding, protocol: transport,
            ..packet.xcast
        };
        packet.destination_mac = if group_mac {
            packet::group_mac(GROUP)
        } else {
            [2, 0, 0, 0, 0, port as u8]
        };
        packet.ip.ds = ds;
        packet.ip.ttl = ttl;
        packet.ip.destination = to.into();
        packet.ip.source = source.into();
        let mut payload = payload;
        let header = 4 * (3 + packet.xcast.destinations.len());
        payload.resize(payload.len().max(length.saturating_sub(header)), 0x5a);
        let ends = ((source, 4000), (GROUP, if p { 0 } else { 5000 }));
        packet.segment = match transport {
            protocol::UDP => packet::udp(ends.0, ends.1, &payload, zero_checksum.then_some(0)),
            protocol::UDP_LITE => packet::udp_like(transport, ends.0, ends.1, &payload, None),
            protocol::TCP => packet::tcp(ends.0, ends.1, 7, &payload, None),
            protocol::DCCP => packet::dccp(ends.0, ends.1, &payload),
            _ => payload,
        };
        if let Some(list) = plain {
            packet.xcast.destinations = list;
            packet.xcast.x &= stray_bits;
            packet.xcast.stray_bits = false;
            packet.ip.ttl = 64;
        }
        let mut packet = packet.in_family(family);
        if family == Family::Ipv6 {
            packet.ip.before = before;
            // With DS bytes there is room for fewer.
            packet.xcast.destinations.truncate(if d { 118 } else { 125 });
        }
        let frame = |packet: &Packet| {
            let mut frame = packet.frame();
            frame.resize(frame.len() + trailer, 0xee);
            frame
        };
        let first = frame(&packet);
        next.apply(&mut packet);
        (port, first, frame(&packet))
    }
}

/// How a packet differs from the one before it.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Payload,
    Longer(u16),
    Shorter(u16),
    Ttl,
    Source,
    Swapped,
    Entry(u8, Field),
    FlagX,
}

/// What differs in one entry of the list.
#[derive(Clone, Copy, Debug)]
enum Field {
    Address(u8),
    Bit,
    Ds,
    Port,
}

fn any_change() -> impl Strategy<Value = Change> {
    let field = prop_oneof![
        any::<u8>().prop_map(Field::Address),
        Just(Field::Bit),
        Just(Field::Ds),
        Just(Field::Port),
    ];
    prop_oneof![
        3 => Just(Change::Nothing),
        1 => prop::sample::select(vec![
            Change::Payload, Change::Ttl, Change::Source, Change::Swapped, Change::FlagX,
        ]),
        1 => (1u16..600).prop_map(Change::Longer),
        1 => (1u16..600).prop_map(Change::Shorter),
        2 => (any::<u8>(), field).prop_map(|(entry, field)| Change::Entry(entry, field)),
    ]
}

impl Change {
    fn apply(self, packet: &mut Packet) {
        let list = &mut packet.xcast.destinations;
        match self {
            Self::Nothing => {}
            Self::Payload => *packet.segment.last_mut().unwrap_or(&mut 0) ^= 1,
            Self::Longer(by) => packet
                .segment
                .resize(packet.segment.len() + usize::from(by), 7),
            Self::Shorter(by) => {
                let len = packet.segment.len().saturating_sub(by.into());
                packet.segment.truncate(len);
            }
            Self::Ttl => packet.ip.ttl = packet.ip.ttl.wrapping_sub(1),
            Self::Source => {
                packet.ip.source = match packet.ip.source {
                    IpAddr::V4(source) => Ipv4Addr::from(u32::from(source) ^ 1).into(),
                    IpAddr::V6(source) => Ipv6Addr::from(u128::from(source) ^ 1).into(),
                };
            }
            Self::Swapped => list.rotate_left(1),
            Self::Entry(at, field) => {
                let at = usize::from(at) % list.len();
                let entry = &mut list[at];
                match field {
                    Field::Bit => entry.valid = !entry.valid,
                    Field::Ds => entry.ds ^= 0x20,
                    Field::Port => entry.port ^= 0x8001,
                    Field::Address(bit) => {
                        entry.address = match entry.address {
                            IpAddr::V4(address) => {
                                Ipv4Addr::from(u32::from(address) ^ 1 << (bit % 32)).into()
                            }
                            IpAddr::V6(address) => {
                                Ipv6Addr::from(u128::from(address) ^ 1 << (bit % 128)).into()
                            }
                        }
                    }
                }
            }
            Self::FlagX => packet.xcast.x = !packet.xcast.x,
        }
    }
}

/// Headers of IPv6 before the routing header: any number, in any order, and of any content that has
/// the right length.
fn any_headers() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let header = (prop::sample::select(vec![0u8, 60]), 0u8..4, any::<u8>()).prop_map(
        |(number, units, fill)| {
            let mut rest = vec![fill; usize::from(units) * 8 + 7];
            rest[0] = units;
            (number, rest)
        },
    );
    prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(header, 0..6),
    ]
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3000)
}

#[test]
fn random_packets_as_expected_ipv4() {
    random_packets_as_expected::<V4>(Family::Ipv4);
}

#[test]
fn random_packets_as_expected_ipv6() {
    random_packets_as_expected::<V6>(Family::Ipv6);
}

fn random_packets_as_expected<F: Routed>(family: Family) {
    let views = [Prune::Truncate, Prune::Bitmap].map(|prune| {
        let view = view(family, prune);
        let router = router::<F>(&view, tables(&view));
        (view, RefCell::new(router))
    });
    proptest!(ProptestConfig::with_cases(cases()), |((port, first, second) in any_packet(family), peel in any::<[bool; 2]>(), bitmap in any::<bool>())| {
        let (view, router) = &views[usize::from(bitmap)];
        for (frame, peel) in [first, second].iter().zip(peel) {
            let expected = normalised(expect(view, port, frame));
            // A list that exceeds the MTU gets shorter on the way round, and then may leave after all.
            let fanouts = match peel && !expected.counters.contains_key("stack_mtu") {
                true => Fanouts::Preset,
                false => Fanouts::All,
            };
            let got = run(&mut router.borrow_mut(), port, frame, fanouts);
            prop_assert_eq!(either_reason(got), either_reason(expected), "\nframe {}", packet::hex(frame));
        }
    });
    for (_, router) in views {
        let times = plans_reused(&router.into_inner());
        assert!(
            times > u64::from(cases()) / 60,
            "a plan was used again only {times} times"
        );
    }
}

/// Whether the router's plan, by this serial number, applies to a frame for which nobody pays.
fn applies<F: Routed>(
    router: &mut Router<F>,
    view: &RouterView,
    serial: u32,
    frame: &[u8],
) -> bool {
    applies_for(router, view, serial, 0, frame)
}

/// The same for a frame that is paid for from this bucket.
fn applies_for<F: Routed>(
    router: &mut Router<F>,
    view: &RouterView,
    serial: u32,
    payer: u32,
    frame: &[u8],
) -> bool {
    let settings = settings(view.prune);
    let mut buffer = Buffer::new(frame);
    let before = is_xcast::<F>(buffer.view(), &settings).expect("Xcast");
    let port = port_entry(view, 0);
    let tables = &router.tables;
    let packet = accept::<F>(buffer.view(), before, &port, &settings, tables).expect("accepted");
    let applies = router
        .plan
        .applies(serial, &mut buffer, &packet, payer, tables);
    applies.expect("a whole frame")
}

/// Copies for the kernel stack are charged where they leave, by what the plan says: to whom it belongs.
#[test]
fn a_plan_with_copies_for_the_stack_is_for_who_pays() {
    for (on_link, is_shared) in [([10, 0, 1, 2], true), (OWN.octets(), false)] {
        let view = view(Family::Ipv4, Prune::Truncate);
        let mut router = router::<V4>(&view, tables(&view));
        let list = [[10, 1, 1, 5], on_link].map(Destination::new);
        let frame = xcast_packet(list.into()).frame();
        run(&mut router, 0, &frame, Fanouts::All);
        let serial = router.plan.serial;
        let mut applies = |payer| applies_for(&mut router, &view, serial, payer, &frame);
        assert!(applies(0));
        assert_eq!(applies(1), is_shared, "{on_link:?}");
    }
}

/// A plan is remembered while it is sure to last until the copies have left.
#[test]
fn plans_that_are_too_old() {
    for serial in [0, 7, MAX_SERIAL - 31, MAX_SERIAL - 1, MAX_SERIAL] {
        let mut recent = Work::boxed().recent;
        recent.remember(0x1234, serial);
        let found = |age: u32| recent.find(0x1234, serial.wrapping_add(age) & MAX_SERIAL);
        for age in [1, 2, 32] {
            assert_eq!(found(age), Some(serial), "{serial} + {age}");
        }
        for age in [0, 33, 64, 128, MAX_SERIAL] {
            assert_eq!(found(age), None, "{serial} + {age}");
        }
    }
}

/// A plan applies until it is overwritten, and until the tables change.
#[test]
fn plans_that_are_no_more() {
    plans_that_are_no_more_of::<V4>(Family::Ipv4);
    plans_that_are_no_more_of::<V6>(Family::Ipv6);
}

fn plans_that_are_no_more_of<F: Routed>(family: Family) {
    let view = view(family, Prune::Truncate);
    let mut router = router::<F>(&view, tables(&view));
    let list = [[10, 0, 1, 2], [10, 1, 1, 5], [10, 1, 1, 6]];
    let packet = xcast_packet(list.map(Destination::new).into());
    let frame = packet.in_family(family).frame();
    let applies_now = |router: &mut Router<F>, frame: &[u8]| {
        let serial = router.plan.serial;
        applies(router, &view, serial, frame)
    };
    run(&mut router, 0, &frame, Fanouts::All);
    assert!(applies_now(&mut router, &frame));
    let serial = router.plan.serial;
    assert!(!applies(&mut router, &view, serial + 128, &frame));
    let revision = router.tables.revision;
    router.tables.revision = revision + 2;
    assert!(!applies_now(&mut router, &frame));
    // A change is under way: neither is used that was made before, nor that is made meanwhile.
    router.tables.revision = revision + 1;
    for _ in 0..2 {
        assert!(!applies_now(&mut router, &frame));
        run(&mut router, 0, &frame, Fanouts::All);
    }
    router.tables.revision = revision + 2;
    assert!(!applies_now(&mut router, &frame));
    run(&mut router, 0, &frame, Fanouts::All);
    assert!(applies_now(&mut router, &frame));

    // Copies that take turns have to leave together.
    for (list, usual) in [
        (vec![[10, 0, 1, 2], [10, 0, 1, 3]], true),
        (vec![[10, 0, 1, 2], [10, 0, 2, 2]], true),
        (vec![[10, 0, 1, 2], [10, 0, 1, 3], [10, 0, 2, 2]], false),
    ] {
        let list = list.into_iter().map(Destination::new).collect();
        let frame = xcast_packet(list).in_family(family).frame();
        run(&mut router, 0, &frame, Fanouts::All);
        let again = applies_now(&mut router, &frame);
        assert_eq!(again, usual, "{}", packet::hex(&frame));
    }
}

/// Where a route has several paths, the flow decides, and a plan applies to flows that go the same way.
#[test]
fn plans_of_other_flows() {
    plans_of_other_flows_of::<V4>(Family::Ipv4);
    plans_of_other_flows_of::<V6>(Family::Ipv6);
}

fn plans_of_other_flows_of<F: Routed>(family: Family) {
    const GROUP_ID: u32 = 900;
    let view = view(family, Prune::Truncate);
    let mut tables = tables(&view);
    let members = [Ipv4Addr::new(10, 1, 1, 5), Ipv4Addr::new(10, 2, 2, 5)];
    // Every other bucket is the first member's.
    let members = members.map(|to| tables.route(family.address(to)));
    let buckets = std::array::from_fn(|bucket| members[bucket % 2]);
    tables.set_ecmp(0, maps::EcmpGroup { buckets });
    let group = NextHop {
        kind: NextHopKind::Ecmp as u8,
        ..NextHop::default()
    };
    tables.set_next_hop(GROUP_ID, group);
    let prefix = family.address(Ipv4Addr::new(10, 3, 3, 0));
    tables.set_route(prefix, family.prefix_len(25), Some(GROUP_ID));

    let frame = |port| {
        let list = [[10, 0, 1, 2], [10, 3, 3, 5], [10, 3, 3, 6]];
        let mut packet = xcast_packet(list.map(Destination::new).into());
        packet.segment = packet::udp((SOURCE, port), (GROUP, 5000), b"payload", None);
        packet.in_family(family).frame()
    };
    let mut router = router::<F>(&view, tables.clone());
    run(&mut router, 0, &frame(4000), Fanouts::All);
    let serial = router.plan.serial;
    let way = |expected: Expected| -> Vec<usize> {
        expected.branches.iter().map(|branch| branch.port).collect()
    };
    let mut ways = [0, 0];
    for port in 4000..4100 {
        let same = applies(&mut router, &view, serial, &frame(port));
        let [fresh, again] = [port, 4000].map(|port| {
            let mut router = self::router::<F>(&view, tables.clone());
            way(run(&mut router, 0, &frame(port), Fanouts::All))
        });
        assert!(
            !same || fresh == again,
            "{port}: {fresh:?} instead of {again:?}"
        );
        ways[usize::from(same)] += 1;
    }
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
}

#[test]
fn random_octets_never_panic_and_agree_ipv4() {
    random_octets_never_panic_and_agree::<V4>(Family::Ipv4);
}

/// Of IPv6, this walks over chains of headers that are cut and that lie about their lengths.
#[test]
fn random_octets_never_panic_and_agree_ipv6() {
    random_octets_never_panic_and_agree::<V6>(Family::Ipv6);
}

fn random_octets_never_panic_and_agree<F: Routed>(family: Family) {
    let view = view(family, Prune::Truncate);
    let router = RefCell::new(router::<F>(&view, tables(&view)));
    // Rather near the start, where the headers are.
    let at = prop_oneof![any::<u16>(), 0u16..100];
    let strategy = (
        any_packet(family),
        at,
        any::<u8>(),
        0usize..2000,
        any::<bool>(),
    );
    proptest!(ProptestConfig::with_cases(cases()), |(((port, frame, _), at, value, length, cut) in strategy)| {
        let mut frame = frame;
        let at = 14 + at as usize % (frame.len() - 14);
        frame[at] = value;
        if cut {
            frame.truncate(length.max(1));
        }
        let expected = normalised(expect(&view, port, &frame));
        let got = run(&mut router.borrow_mut(), port, &frame, Fanouts::All);
        let (got, expected) = (either_fault(got), either_fault(expected));
        prop_assert_eq!(either_reason(got), either_reason(expected), "\nframe {}", packet::hex(&frame));
    });
}

/// One row: what it shows, and the frame.
type Row = (&'static str, Vec<u8>);

/// Frames that lead to one copy at most, so that BPF_PROG_TEST_RUN shows the result.
fn rows(family: Family) -> Vec<Row> {
    let to = |address: [u8; 4]| Destination::new(address);
    let one = || vec![to([10, 0, 1, 2])];
    let change = |description, change: &dyn Fn(&mut Packet)| -> Row {
        let mut packet = xcast_packet(one());
        change(&mut packet);
        (description, packet.in_family(family).frame())
    };
    let mut rows = vec![
        change("on-link host: X2U", &|_| {}),
        change("X keeps the last destination Xcast", &|p| p.xcast.x = true),
        change("D and P on X2U", &|p| {
            p.xcast.d = true;
            p.xcast.p = true;
            p.xcast.destinations = vec![to([10, 0, 1, 2]).port(6000).ds(0xb8)];
        }),
        change("gateway that speaks Xcast: two share one copy", &|p| {
            p.xcast.destinations = vec![to([10, 1, 1, 5]), to([10, 1, 1, 6])];
        }),
        change("list truncated to the one branch that is left", &|p| {
            p.xcast.p = true;
            p.xcast.d = true;
            p.xcast.destinations = (0..60u8)
                .map(|i| {
                    let entry = to([10, 1, 1, i]).port(i.into()).ds(i);
                    if i % 3 == 0 { entry.cleared() } else { entry }
                })
                .collect();
        }),
        change("as many destinations as fit, behind one gateway", &|p| {
            p.xcast.p = true;
            p.xcast.destinations = (0..family.most_destinations() as u8)
                .map(|i| to([10, 2, 2, i]).port(9))
                .collect();
        }),
        change("a list full of one address", &|p| {
            p.xcast.destinations = vec![to([10, 0, 2, 3]); family.most_destinations()];
        }),
        change("to an anycast address: leaves with the group", &|p| {
            p.ip.destination = ANYCAST.into();
            p.xcast.destinations = vec![to([10, 1, 1, 5]), to([10, 1, 1, 6])];
        }),
        change("no route: the kernel stack", &|p| {
            p.xcast.destinations = vec![to([9, 9, 9, 9])];
        }),
        change("local: the kernel stack", &|p| {
            p.xcast.destinations = vec![to(OWN.octets())];
        }),
        change("never a destination", &|p| {
            p.xcast.destinations = vec![to([224, 1, 1, 1])];
        }),
        change("no bit set", &|p| {
            p.xcast.destinations = vec![to([10, 0, 1, 2]).cleared()];
        }),
        change("TTL used up", &|p| p.ip.ttl = 1),
        change("other protocol passes", &|p| p.ip.protocol = 17),
        change("to someone else passes", &|p| {
            p.ip.destination = Ipv4Addr::new(10, 1, 1, 1).into();
        }),
        change("to another MAC passes", &|p| {
            p.destination_mac = [2, 0, 0, 0, 0, 9];
        }),
        change("wrong version", &|p| p.xcast.version = 2),
        change("wrong checksum", &|p| p.xcast.checksum = Some(0x1234)),
        change("wrong LENGTH", &|p| p.xcast.len_words = Some(6)),
        change("no destinations", &|p| p.xcast.destinations = vec![]),
        change("count beyond the list", &|p| p.xcast.count = Some(2)),
        change("nested", &|p| {
            p.xcast.protocol = match family {
                Family::Ipv4 => PROTOCOL,
                Family::Ipv6 => protocol::ROUTING,
            };
        }),
        change("fragment", &|p| p.ip.fragment = 0x2000),
        change("IP options", &|p| p.ip.options = vec![1, 1, 1, 0]),
        change("wrong IP checksum", &|p| p.ip.checksum = Some(1)),
        change("IP version 5", &|p| p.ip.version_ihl = Some(0x55)),
        change("IP length beyond the frame", &|p| {
            p.ip.total_len = Some(1000);
        }),
        change("multicast source", &|p| {
            p.ip.source = Ipv4Addr::new(224, 1, 1, 1).into();
        }),
        change("own address as source", &|p| p.ip.source = OWN.into()),
    ];
    let whole = || xcast_packet(one()).in_family(family).frame();
    let mut padded = whole();
    padded.extend([0xee; 7]);
    rows.push(("padding behind the IP packet is cut", padded));
    for len in [33, 34, 45, 46, 50, 53, 54, 70, 90] {
        let len = len.min(whole().len() - 1);
        rows.push(("truncated frame", whole()[..len].to_vec()));
    }
    if family == Family::Ipv6 {
        rows.extend(rows_of_ipv6());
    }
    rows
}

/// What only IPv6 has.
fn rows_of_ipv6() -> Vec<Row> {
    let family = Family::Ipv6;
    let gateway = |last| Destination::new([10, 1, 1, last]).port(5000 + u16::from(last));
    let change = |description, change: &dyn Fn(&mut Packet)| -> Row {
        let mut packet = xcast_packet(vec![gateway(5), gateway(6)]).in_family(family);
        change(&mut packet);
        (description, packet.frame())
    };
    let options = |units: u8| {
        let mut rest = vec![0; 8 * usize::from(units) + 7];
        rest[0] = units;
        rest
    };
    vec![
        change("headers before the routing header stay in copies", &|p| {
            p.ip.before = vec![(0, options(0)), (60, options(3))];
        }),
        change("and go with X2U", &|p| {
            p.ip.before = vec![(0, options(1)), (60, options(2))];
            p.xcast.destinations.truncate(1);
        }),
        change("five headers before are too many to look at", &|p| {
            p.ip.before = vec![(60, options(0)); 5];
        }),
        change("headers longer than the router passes over", &|p| {
            p.ip.before = vec![(60, options(100)); 3];
        }),
        change("flow label and traffic class stay", &|p| {
            p.ip.flow_label = 0xabcde;
            p.ip.ds = 0xb9;
        }),
        change("flow label and traffic class stay on X2U", &|p| {
            p.ip.flow_label = 0xabcde;
            p.ip.ds = 0xb9;
            p.xcast.d = true;
            p.xcast.destinations = vec![gateway(5).ds(0x28)];
            *p = p.in_family(family);
            p.xcast.destinations[0].address = family.address([10, 1, 1, 5]);
        }),
        change("ports: two share one copy", &|p| p.xcast.p = true),
        change("ports: X2U", &|p| {
            p.xcast.p = true;
            p.xcast.destinations.truncate(1);
        }),
        change("ports of another length than the list", &|p| {
            p.xcast.p = true;
            p.xcast.ports_len = Some(6);
        }),
        change("destination options that are no ports go along", &|p| {
            p.xcast.protocol = 60;
            p.segment = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &p.segment].concat();
        }),
        change("segments left", &|p| p.xcast.segments_left = 1),
        change("another routing type passes", &|p| p.xcast.routing_type = 4),
        change("a fragment behind the routing header", &|p| {
            p.xcast.protocol = protocol::FRAGMENT;
        }),
        change("ICMPv6", &|p| {
            p.xcast.protocol = protocol::ICMPV6;
            p.xcast.p = true;
            p.segment = packet::icmpv6_echo(p.ip.source, p.ip.destination, 1, b"echo");
            p.xcast.destinations.truncate(1);
        }),
        change("link-local source", &|p| {
            p.ip.source = family.address([169, 254, 0, 1]);
        }),
        change("118 destinations with DS bytes", &|p| {
            p.xcast.d = true;
            p.xcast.destinations = (0..118)
                .map(|i| Destination::new(family.address([10, 1, 2, i])).ds(i))
                .collect();
        }),
    ]
}

/// XDP verdicts.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

#[test]
fn rows_agree_in_the_kernel_and_on_the_host() {
    if !namespace::available() {
        return;
    }
    for (family, prune) in [
        (Family::Ipv4, Prune::Truncate),
        (Family::Ipv4, Prune::Bitmap),
        (Family::Ipv6, Prune::Truncate),
        (Family::Ipv6, Prune::Bitmap),
    ] {
        let view = view(family, prune);
        let tables = tables(&view);
        let namespace = Namespace::new("rows").expect("a network namespace");
        namespace
            .enter(|| {
                match family {
                    Family::Ipv4 => rows_in_the_kernel::<V4>(&view, &tables),
                    Family::Ipv6 => rows_in_the_kernel::<V6>(&view, &tables),
                }
                Ok(())
            })
            .expect("entered the namespace");
    }
}

/// Link layer addresses of what goes to the stack.
const STACK_MACS: Macs = Macs {
    destination: [2, 8, 8, 8, 8, 1],
    source: [2, 8, 8, 8, 8, 2],
};

/// The programs, with all of these tables.
fn load(view: &RouterView, tables: &MemoryTables) -> Datapath {
    let settings = settings(view.prune);
    let mut datapath = Datapath::load(&settings, 16, STACK_MACS).expect("datapath loads");
    for (id, entry) in tables.next_hops() {
        datapath.set_next_hop(id, *entry).expect("next hop");
    }
    for (prefix, len, id) in tables.routes() {
        let prefix = ipnet::IpNet::new(prefix, len).expect("a prefix length");
        datapath.set_route(prefix, Some(id)).expect("route");
    }
    datapath.publish_routes().expect("all routes");
    for (address, flags) in tables.addresses() {
        datapath.set_address(address, Some(flags)).expect("address");
    }
    // The kernel runs test packets as if they came from the loopback interface, index 1. Where
    // they go does not matter: the redirect itself is not carried out.
    let loopback = 1;
    for slot in (PORT_FIRST + 1..PORT_FIRST + 4).chain([PORT_STACK, PORT_FIRST]) {
        let entry = maps::Port {
            slot,
            ..port_entry(view, 0)
        };
        datapath.add_device(loopback, entry).expect("device");
    }
    datapath
}

/// The verdict about a frame that arrives by the first port, what became of it, and what was counted.
fn run_in_the_kernel(
    datapath: &mut Datapath,
    frame: &[u8],
) -> (u32, Vec<u8>, BTreeMap<&'static str, u64>) {
    let before = datapath.counters().expect("counters");
    let mut out = vec![0; 4096];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let program = datapath.program("xcast").expect("program");
    let outcome = program.test_run(options).expect("the program runs");
    out.truncate(outcome.data_size_out as usize);
    let after = datapath.counters().expect("counters");
    let slot = usize::from(PORT_FIRST);
    let counted = |index: usize| after[slot].counts[index] - before[slot].counts[index];
    let names = counter::NAMES.iter().enumerate();
    let counted = names.map(|(index, name)| (*name, counted(index)));
    (outcome.return_value, out, counted.collect())
}

fn rows_in_the_kernel<F: Routed>(view: &RouterView, tables: &MemoryTables) {
    let mut datapath = load(view, tables);
    let mut router = router::<F>(view, tables.clone());
    for (description, frame) in rows(view.family()) {
        let host = run(&mut router, 0, &frame, Fanouts::All);
        assert_eq!(
            host,
            normalised(expect(view, 0, &frame)),
            "{description}: host"
        );

        let (seen, out, counted) = run_in_the_kernel(&mut datapath, &frame);
        let verdict = if host.untouched {
            XDP_PASS
        } else if host.branches.is_empty() && host.stack.is_empty() {
            XDP_DROP
        } else {
            XDP_REDIRECT
        };
        assert_eq!(seen, verdict, "{description}: verdict; {counted:?}");
        assert_eq!(reasons(counted), host.counters, "{description}: counters");
        if let Some(branch) = host.branches.first() {
            assert_eq!(
                packet::hex(&out),
                packet::hex(&branch.frame),
                "{description}"
            );
        }
        if let Some(unicast) = host.stack.first() {
            // The last octet of the source tells by which port the packet arrived (ADR 13).
            let mut source = STACK_MACS.source;
            source[5] = PORT_FIRST;
            let mut frame = [STACK_MACS.destination, source].concat();
            frame.extend(view.family().ether_type().to_be_bytes());
            frame.extend(unicast);
            assert_eq!(packet::hex(&out), packet::hex(&frame), "{description}");
        }
    }
}

/// A plan is no longer used after any change of what it was made from, by itself.
#[test]
fn plans_end_with_every_change() {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        let view = view(family, Prune::Truncate);
        let namespace = Namespace::new("plans").expect("a network namespace");
        namespace
            .enter(|| {
                cpu::stay()?;
                plans_end(&view, &tables(&view));
                Ok(())
            })
            .expect("entered the namespace");
    }
}

fn plans_end(view: &RouterView, tables: &MemoryTables) {
    const GROUP_ID: u32 = 900;
    let family = view.family();
    let mut datapath = load(view, tables);
    let first = tables.route(family.address(Ipv4Addr::new(10, 1, 1, 5)));
    let second = tables.route(family.address(Ipv4Addr::new(10, 2, 2, 5)));
    let mac = |id: u32| tables.next_hop(id).map(|entry| entry.destination_mac);
    let frame = |list: &[[u8; 4]]| {
        let list = list.iter().copied().map(Destination::new);
        xcast_packet(list.collect()).in_family(family).frame()
    };
    let leaves = |datapath: &mut Datapath, frame: &[u8], mac: Option<Mac>| {
        for again in 0..2 {
            let (verdict, out, counted) = run_in_the_kernel(datapath, frame);
            let seen = (verdict == XDP_REDIRECT).then(|| out[..6].try_into().expect("six octets"));
            assert_eq!(seen, mac, "{counted:?}");
            // Whatever is skipped has no plan that is used again.
            let reused = u64::from(again == 1 && mac.is_some());
            assert_eq!(counted["plan_reused"], reused);
        }
    };
    let two = frame(&[[10, 1, 1, 5], [10, 1, 1, 6]]);
    let leaves_to = |datapath: &mut Datapath, mac| leaves(datapath, &two, mac);
    leaves_to(&mut datapath, mac(first));

    let prefix = family.prefix([10, 1, 1, 0], 24);
    datapath.set_route(prefix, Some(second)).expect("route");
    leaves_to(&mut datapath, mac(second));

    let blackhole = NextHop::skip(Counter::SkipBlackhole);
    datapath.set_next_hop(second, blackhole).expect("next hop");
    leaves_to(&mut datapath, None);
    let entry = *tables.next_hop(second).expect("a next hop that exists");
    datapath.set_next_hop(second, entry).expect("next hop");
    leaves_to(&mut datapath, mac(second));

    let multipath = NextHop {
        kind: NextHopKind::Ecmp as u8,
        ..NextHop::default()
    };
    datapath.set_next_hop(GROUP_ID, multipath).expect("group");
    let all = |id| maps::EcmpGroup {
        buckets: [id; maps::ECMP_BUCKETS],
    };
    datapath.set_ecmp(0, &all(first)).expect("buckets");
    datapath.set_route(prefix, Some(GROUP_ID)).expect("route");
    leaves_to(&mut datapath, mac(first));
    datapath.set_ecmp(0, &all(second)).expect("buckets");
    leaves_to(&mut datapath, mac(second));

    // The first route in a part of the route map that the programs do not see yet.
    let one = frame(&[[50, 1, 1, 5]]);
    leaves(&mut datapath, &one, Some(STACK_MACS.destination));
    let prefix = family.prefix([50, 1, 1, 0], 24);
    datapath.set_route(prefix, Some(first)).expect("route");
    run_in_the_kernel(&mut datapath, &one);
    datapath.publish_routes().expect("all routes");
    leaves(&mut datapath, &one, mac(first));
}
