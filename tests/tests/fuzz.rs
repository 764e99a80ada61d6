//! What must hold whatever octets arrive, on random octets and on damaged messages and packets. The
//! functions are those of the fuzz targets (`fuzz/README.md`), which look much longer.

#[path = "../../fuzz/src/checks.rs"]
mod checks;

use std::{net::SocketAddr, time::Instant};

use proptest::prelude::*;
use tests::{
    family::Family,
    packet::{self, Destination, Ip, Packet, Xcast, protocol},
};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Node},
    krpc::{Family as Version, Item, signing_key},
    runtime::{Protocol as _, Random},
    services::{
        Entry, Service,
        slp::{Body, Message, Url},
    },
};

fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or(2000)
}

/// What a node says when it joins, looks for things and stores them.
fn krpc() -> Vec<Vec<u8>> {
    let now = Instant::now();
    let other = SocketAddr::from(([10, 0, 1, 1], 6881));
    let config = Config {
        families: vec![Version::Ipv4],
        bootstrap: vec![other],
        ..Config::own_network()
    };
    let mut node = Node::new(now, config, Random::from_number(7));
    node.join(now);
    node.ping(now, other);
    let key = Id::hash_of(&[b"key"]);
    node.find_peers(now, key);
    let item = Item::sign(&signing_key([7; 32]), "salt", 1, "5:value");
    node.find_item(now, item.target(), "salt");
    node.find_many(now, &[key, item.target()]);
    let transmits = std::iter::from_fn(|| node.poll_transmit());
    transmits.map(|sent| sent.datagram(0).to_vec()).collect()
}

fn services() -> Vec<Vec<u8>> {
    let service = Service {
        mechanism: "slp".to_owned(),
        uri: "service:ldap://ldap.example.org".to_owned(),
        attributes: [("name".to_owned(), "Staff".to_owned())].into(),
        place: None,
    };
    let entry = Entry::sign(&signing_key([1; 32]), service.clone(), 1, 1000).expect("an entry");
    let message = |body| Message {
        transaction: 1,
        language: "en".to_owned(),
        overflow: false,
        body,
    };
    let reply = Body::Reply {
        error: 0,
        urls: vec![Url {
            lifetime_s: 9,
            url: service.uri.clone(),
        }],
    };
    let messages = [Body::registration(&service, 9), reply].map(message);
    let mut samples: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| message.encode().expect("short enough").to_vec())
        .collect();
    samples.push(entry.encode().to_vec());
    samples
        .push(br#"=;eth0;IPv4;a\032b;_http._tcp;local;h.local;10.0.0.1;80;"path=/x" "b""#.to_vec());
    let uddi = "<serviceDetail><businessService serviceKey='k'><name>n &amp; m</name>\
                <bindingTemplates><bindingTemplate><accessPoint>http://a</accessPoint></bindingTemplate>\
                </bindingTemplates></businessService></serviceDetail>";
    samples.push(uddi.into());
    samples
}

/// Packets of Xcast, each after the octet that says how it is to be taken.
fn frames() -> Vec<Vec<u8>> {
    let to = [
        [10, 0, 0, 9],
        [70, 0, 0, 1],
        [70, 0, 0, 2],
        [130, 0, 0, 1],
        [200, 0, 0, 1],
    ];
    let group = [224, 0, 0, 254];
    let packet = |d, p| {
        let list = to.map(Destination::new).to_vec();
        Packet {
            destination_mac: [2, 0, 0, 0, 0, 0],
            source_mac: [2, 9, 9, 9, 9, 9],
            ip: Ip::new([10, 0, 0, 2], group, 253),
            xcast: Xcast {
                d,
                p,
                ..Xcast::new(protocol::UDP, list)
            },
            segment: packet::udp(([10, 0, 0, 2], 4000), (group, 5000), b"payload", None),
        }
    };
    let mut samples = Vec::new();
    for (option, family) in [(0, Family::Ipv4), (1, Family::Ipv6)] {
        for (d, p) in [(false, false), (true, false), (false, true), (true, true)] {
            let frame = packet(d, p).in_family(family).frame();
            // As it is, and with headers put right again after the damage.
            samples.push([&[option | 2], &frame[..]].concat());
            samples.push([&[option], &frame[..]].concat());
        }
    }
    samples
}

fn samples(name: &str) -> Vec<Vec<u8>> {
    match name {
        // Datagrams with sender and length before each.
        "node" | "overlays" => {
            let which: Vec<u8> = (0..if name == "overlays" { 14 } else { 0 }).collect();
            let datagrams = krpc().into_iter().map(|datagram| {
                let len = datagram.len().min(255) as u8;
                [&[1, len], &datagram[..len.into()]].concat()
            });
            let all: Vec<u8> = datagrams.flatten().collect();
            match which.is_empty() {
                true => vec![all],
                false => which
                    .iter()
                    .map(|which| [&[*which], &all[..]].concat())
                    .collect(),
            }
        }
        "services" => services(),
        "frames" => frames(),
        _ => krpc(),
    }
}

/// A sample, with octets changed, taken out and put in, and cut.
fn damaged(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_u8..3, any::<u8>());
    (
        prop::sample::select(samples),
        prop::collection::vec(change, 0..6),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
        .prop_map(|(mut octets, changes, cut)| {
            for (at, how, octet) in changes {
                let at = at.index(octets.len());
                match how {
                    0 => octets[at] = octet,
                    1 => octets.insert(at, octet),
                    _ if octets.len() > 1 => drop(octets.remove(at)),
                    _ => {}
                }
            }
            if let Some(cut) = cut {
                octets.truncate(cut.index(octets.len()));
            }
            octets
        })
}

#[test]
fn nothing_that_arrives_does_harm() {
    for (name, check) in checks::ALL {
        let samples = samples(name);
        for sample in &samples {
            check(sample);
        }
        let random = prop::collection::vec(any::<u8>(), 0..200);
        let octets = prop_oneof![4 => damaged(samples), 1 => random];
        // Routers and nodes take longer to make than messages.
        let cases = match name {
            "node" | "overlays" | "frames" => cases() / 4,
            _ => cases(),
        };
        let config = ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(cases)
        };
        proptest!(config, |(octets in octets)| check(&octets));
    }
}
