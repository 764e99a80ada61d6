//! What must hold whatever octets arrive. Each function takes what somebody may send, and panics if
//! something is wrong.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use xcast_common::{
    family::{Family, V4, V6},
    host::{MemoryTables, Outcome, Router},
    maps::{
        ADDRESS_OWN, NEXT_HOP_ON_LINK, NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST,
        PORT_STACK, Port, Settings, counter::Counter,
    },
    wire::ETH_LEN,
};
use xcast_overlay::{
    accordion::{self, Accordion},
    chord::Chord,
    d1ht,
    epichord::{CacheConfig, EpiChord},
    kademlia::{Config, Node},
    krpc::{Family as Version, Message, bencode::Bencoded, signing_key},
    members::{Members, MembersConfig},
    meridian,
    others::{can, flood, freenet, tapestry},
    runtime::{Protocol, Random},
    services::{Entry, dns_sd, slp, uddi},
    tree,
    walks::{gia, lms},
};

/// A function that takes what somebody may send.
pub type Check = fn(&[u8]);

/// All of them, by name.
pub const ALL: [(&str, Check); 6] = [
    ("bencode", bencode),
    ("krpc", krpc),
    ("node", node),
    ("overlays", overlays),
    ("services", services),
    ("frames", frames),
];

/// Octets that are bencoded are one item.
pub fn bencode(octets: &[u8]) {
    if let Ok(item) = Bencoded::read(octets) {
        assert_eq!(item.raw, octets);
        // Parts are views of the whole.
        if let Some(list) = item.list() {
            let parts: usize = list.iter().map(|part| part.raw.len()).sum();
            assert_eq!(parts + 2, octets.len());
        }
    }
}

/// A message that was read is written and read again as the same.
pub fn krpc(octets: &[u8]) {
    if let Ok(message) = Message::decode(&octets.to_vec().into()) {
        let written = message.encode().datagram(0);
        assert_eq!(Message::decode(&written).as_ref(), Ok(&message));
    }
}

/// A node that joins a network, and is sent these datagrams, does not panic.
pub fn node(octets: &[u8]) {
    let now = Instant::now();
    let config = Config {
        families: vec![Version::Ipv4],
        bootstrap: vec![address(1), address(2)],
        ..Config::own_network()
    };
    let mut node = Node::new(now, config, Random::from_number(1));
    node.join(now);
    feed(&mut node, now, octets);
}

/// A peer of an overlay, which the first octet says, does not panic.
pub fn overlays(octets: &[u8]) {
    let Some((which, rest)) = octets.split_first() else {
        return;
    };
    let now = Instant::now();
    let random = || Random::from_number(1);
    let (me, others) = (address(0), vec![address(1), address(2)]);
    match which % 14 {
        0 => {
            let config = MembersConfig::new("fuzz", signing_key([1; 32]), vec![me]);
            let mut members = Members::new(config, random());
            members.join(now, &others);
            feed(&mut members, now, rest);
        }
        1 => {
            let mut peer = d1ht::Peer::new(d1ht::Config::new("fuzz", me), random());
            peer.join(now, &others);
            feed(&mut peer, now, rest);
        }
        2 => {
            let mut peer = Chord::new(Chord::settings("fuzz", me), random());
            peer.join(now, &others);
            feed(&mut peer, now, rest);
        }
        3 => {
            let settings = EpiChord::settings("fuzz", me);
            let mut peer = EpiChord::new(settings, CacheConfig::default(), random());
            peer.join(now, &others);
            feed(&mut peer, now, rest);
        }
        4 => {
            let config = accordion::Config::new("fuzz", me, 1000);
            let mut peer = Accordion::new(now, config, random());
            peer.join(now, &others);
            feed(&mut peer, now, rest);
        }
        5 => {
            let config = meridian::Config::new("fuzz", others);
            feed(&mut meridian::Node::new(now, config, random()), now, rest);
        }
        6 => {
            let source = signing_key([2; 32]).verifying_key().to_bytes();
            let config = tree::Config::receiver("fuzz", source, others);
            feed(&mut tree::Member::new(now, config, random()), now, rest);
        }
        7 => {
            let config = tree::Config::source("fuzz", signing_key([2; 32]), 1);
            feed(&mut tree::Member::new(now, config, random()), now, rest);
        }
        8 => {
            let config = gia::Config::new("fuzz", me, others, 100);
            feed(&mut gia::Node::new(now, config, random()), now, rest);
        }
        9 => {
            let config = lms::Config::new("fuzz", me, others);
            feed(&mut lms::Node::new(now, config, random()), now, rest);
        }
        10 => {
            let config = can::Config::new("fuzz", me, others);
            feed(&mut can::Node::new(now, config, random()), now, rest);
        }
        11 => {
            let config = freenet::Config::new("fuzz", me, others);
            feed(&mut freenet::Node::new(now, config, random()), now, rest);
        }
        12 => {
            let config = tapestry::Config::new("fuzz", me, others);
            feed(&mut tapestry::Node::new(now, config, random()), now, rest);
        }
        _ => {
            let config = flood::Config::new("fuzz", me, others);
            feed(&mut flood::Node::new(now, config, random()), now, rest);
        }
    }
}

/// Descriptions of services, in every form that others may give them.
pub fn services(octets: &[u8]) {
    if let Ok(entry) = Entry::decode(&octets.to_vec().into()) {
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }
    if let Some(message) = slp::Message::decode(octets) {
        let written = message.encode().expect("as long as what was read");
        assert_eq!(slp::Message::decode(&written).as_ref(), Some(&message));
        let _ = message.body.service(None);
    }
    if let Ok(text) = str::from_utf8(octets) {
        let _ = dns_sd::Instance::from_avahi(text);
        let _ = uddi::services(text);
    }
}

/// A frame at a port of a router: no more copies than a list has room for, none that is no packet, and
/// none for a port that is not there. The first octet says which family, and what is put right in the
/// frame, so that chance need not find addresses and checksums.
pub fn frames(octets: &[u8]) {
    let Some((options, frame)) = octets.split_first() else {
        return;
    };
    let mut frame = frame.to_vec();
    if options & 1 == 0 {
        if options & 2 == 0 {
            mend_ipv4(&mut frame);
        }
        forward::<V4>(&frame);
    } else {
        if options & 2 == 0 {
            mend_ipv6(&mut frame);
        }
        forward::<V6>(&frame);
    }
}

fn address(last: u8) -> SocketAddr {
    ([10, 0, last, 1], 6881).into()
}

/// Hands datagrams to a protocol. Each has an octet before it that says who sends it and how much time
/// goes by, and one that says how long it is; the last one is what is left.
fn feed<P: Protocol>(protocol: &mut P, start: Instant, octets: &[u8]) {
    let (mut now, mut rest) = (start, octets);
    let settle = |protocol: &mut P| {
        while protocol.poll_transmit().is_some() {}
        while protocol.poll_event().is_some() {}
    };
    settle(protocol);
    while let [how, len, after @ ..] = rest {
        let (datagram, left) = after.split_at(usize::from(*len).min(after.len()));
        now += Duration::from_millis(10 << (how >> 4));
        if protocol.poll_timeout().is_some_and(|at| at <= now) {
            protocol.handle_timeout(now);
            settle(protocol);
        }
        protocol.handle(now, address(how & 3), datagram.to_vec().into());
        settle(protocol);
        rest = left;
    }
}

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114);
const PROTOCOL: u8 = 253;
const PORTS: u8 = 3;
/// The link-layer address of the port where frames arrive.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// The headers of Ethernet and IPv4 as a router takes them: to the group, with a checksum.
fn mend_ipv4(frame: &mut [u8]) {
    if frame.len() < ETH_LEN + 20 {
        return;
    }
    frame[..6].copy_from_slice(&ROUTER);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let len = (frame.len() - ETH_LEN) as u16;
    let ip = &mut frame[ETH_LEN..ETH_LEN + 20];
    (ip[0], ip[9]) = (0x45, PROTOCOL);
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[6..8].fill(0);
    ip[10..12].fill(0);
    ip[12..16].copy_from_slice(&[10, 0, 0, 2]);
    ip[16..20].copy_from_slice(&GROUP.octets());
    let sum = ones_complement(ip);
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
}

fn mend_ipv6(frame: &mut [u8]) {
    if frame.len() < ETH_LEN + 48 {
        return;
    }
    frame[..6].copy_from_slice(&ROUTER);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let len = (frame.len() - ETH_LEN - 40) as u16;
    let ip = &mut frame[ETH_LEN..];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    // A routing header follows.
    (ip[6], ip[7], ip[42]) = (43, ip[7].max(2), PROTOCOL);
    ip[8..24].copy_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
    ip[24..40].copy_from_slice(&GROUP6.octets());
}

fn ones_complement(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn forward<F: Family>(frame: &[u8]) {
    let mut router = router::<F>();
    // The second time, the plan of the first may be used again.
    for _ in 0..2 {
        let Outcome::Forwarded(copies) = router.receive(PORT_FIRST, frame) else {
            continue;
        };
        assert!(copies.len() <= 127, "{} copies", copies.len());
        for (slot, copy) in copies {
            assert!(slot == PORT_STACK || (PORT_FIRST..PORT_FIRST + PORTS).contains(&slot));
            let header = match F::VERSION {
                4 => 20,
                _ => 40,
            };
            assert!(copy.len() >= ETH_LEN + header, "{} octets", copy.len());
            assert!(
                copy.len() <= frame.len(),
                "a copy that is longer than its packet"
            );
            let ip = &copy[ETH_LEN..];
            assert_eq!(ip[0] >> 4, F::VERSION);
            if F::VERSION == 4 {
                let header = usize::from(ip[0] & 0xf) * 4;
                assert_eq!(ones_complement(&ip[..header]), 0xffff, "checksum");
            }
        }
    }
}

/// A router of three ports, with a gateway that speaks Xcast, one that does not, and hosts.
fn router<F: Family>() -> Router<F> {
    let mut tables = MemoryTables::default();
    let next_hop = |port: u8, flags| NextHop {
        kind: NextHopKind::Forward as u8,
        port: PORT_FIRST + port,
        flags,
        mtu_bytes: 1500,
        destination_mac: [2, 0, 0, 0, 1, port],
        source_mac: [2, 0, 0, 0, 0, port],
        ..NextHop::default()
    };
    tables.set_next_hop(0, NextHop::stack(Counter::StackNoRoute));
    tables.set_next_hop(3, NextHop::stack(Counter::StackLocal));
    for (id, port, flags) in [
        (16, 0, 0),
        (17, 1, NEXT_HOP_XCAST),
        (18, 2, NEXT_HOP_ON_LINK),
        (19, 2, NEXT_HOP_XCAST),
    ] {
        tables.set_next_hop(id, next_hop(port, flags));
    }
    let quarters = [(0x00, 16), (0x40, 17), (0x80, 18), (0xc0, 19)];
    for (first, id) in quarters {
        tables.set_route(IpAddr::from([first, 0, 0, 0]), 2, Some(id));
        let mut octets = [0; 16];
        octets[0] = first;
        tables.set_route(IpAddr::from(octets), 2, Some(id));
    }
    for own in [
        IpAddr::from([10, 0, 0, 1]),
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        tables.set_address(own, ADDRESS_OWN);
    }
    let settings = Settings {
        group: GROUP.into(),
        protocol: PROTOCOL,
        hash_key: 0x1234_5678_9abc_def1,
        group6: GROUP6.into(),
        routing_type: PROTOCOL,
        ports_option: 0x5e,
        ipv6: 1,
        ..Settings::default()
    };
    let mut router = Router::new(settings, tables);
    for port in 0..PORTS {
        router.set_port(Port {
            slot: PORT_FIRST + port,
            mac: [2, 0, 0, 0, 0, port],
            ..Port::default()
        });
    }
    router
}
