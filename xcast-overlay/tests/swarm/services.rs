//! Services that nodes publish and find, by type, text and place.

use std::{collections::BTreeMap, time::Duration};

use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, ManyReport, Method, OperationId},
    krpc::{Family, signing_key},
    places::{Area, Place},
    services::{Entry, Query, Service},
};

use crate::network::{Network, address};

/// When networks of these tests begin, in seconds since 1970.
const START: i64 = 1_000_000;

fn config() -> Config {
    Config {
        families: vec![Family::Ipv4],
        // All nodes take this for the time at which they begin; they do so within seconds.
        started_unix_s: START,
        ..Config::mainline()
    }
}

fn swarm(count: usize) -> Network {
    Network::swarm(20, count, &config())
}

fn service(name: &str, latitude: f64, longitude: f64) -> Service {
    Service {
        mechanism: "ldap".into(),
        uri: format!("ldap://{name}.example.org"),
        attributes: BTreeMap::from([("name".into(), format!("Directory of {name}"))]),
        place: Place::new(latitude, longitude).ok(),
    }
}

fn report(network: &mut Network, at: usize, operation: OperationId) -> ManyReport {
    network.run_for(Duration::from_secs(5));
    let report = network
        .events
        .iter()
        .find_map(|(_, of, event)| match event {
            Event::FinishedMany {
                operation: of_operation,
                report,
            } if *of == at && *of_operation == operation => Some((**report).clone()),
            _ => None,
        });
    report.expect("it has ended")
}

fn publish(network: &mut Network, at: usize, entry: &Entry) {
    let operations = network.act(at, |node, now| node.put_entry(now, entry));
    for operation in operations {
        let report = report(network, at, operation);
        assert!(report.stored >= 3, "{report:?}");
        // Who is close to none of the keys refuses; nobody has another reason.
        assert!(
            report
                .refused
                .iter()
                .all(|(_, error)| error.message.contains("not close"))
        );
    }
}

fn find(network: &mut Network, at: usize, query: &Query, near: Place) -> Vec<Entry> {
    let keys = query.keys(16).expect("keys");
    let operation = network.act(at, |node, now| node.find_entries(now, &keys));
    let report = report(network, at, operation);
    let entries = report.targets.into_values().flat_map(|found| found.entries);
    query.choose(entries, START + 60, Some(near))
}

#[test]
fn the_nearest_ldap_server_within_fifty_kilometres() {
    let mut network = swarm(30);
    let cities = [
        ("berlin", 52.52, 13.405),
        ("potsdam", 52.4, 13.06),
        ("hamburg", 53.55, 9.99),
        ("paris", 48.86, 2.35),
    ];
    for (number, (name, latitude, longitude)) in cities.into_iter().enumerate() {
        let key = signing_key([number as u8; 32]);
        let service = service(name, latitude, longitude);
        let entry = Entry::sign(&key, service, 1, START + 900).expect("an entry");
        publish(&mut network, 5 * number, &entry);
    }
    let near = Place::new(52.45, 13.3).expect("a place");
    let query = Query {
        mechanism: Some("ldap".into()),
        area: Some(Area::Circle {
            place: near,
            radius_m: 50_000.0,
        }),
        text: Vec::new(),
    };
    let uris = |entries: Vec<Entry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.service.uri).collect()
    };
    let found = uris(find(&mut network, 25, &query, near));
    assert_eq!(
        found,
        ["ldap://berlin.example.org", "ldap://potsdam.example.org"]
    );
    for (pattern, expected) in [
        ("hamburg", "hamburg"),
        ("par*", "paris"),
        ("*tsda*", "potsdam"),
    ] {
        let text = vec![pattern.parse().expect("a pattern")];
        let found = uris(find(
            &mut network,
            23,
            &Query {
                text,
                ..Query::default()
            },
            near,
        ));
        assert_eq!(
            found,
            [format!("ldap://{expected}.example.org")],
            "{pattern}"
        );
    }
    assert!(
        network.sent.longest_octets <= 1350,
        "{}",
        network.sent.longest_octets
    );
    // They expire, unless they are refreshed.
    network.run_for(Duration::from_secs(20 * 60));
    network.events.clear();
    assert!(find(&mut network, 25, &query, near).is_empty());
}

#[test]
fn a_popular_key_is_told_in_pages() {
    let mut network = swarm(25);
    for publisher in 0..12 {
        let key = signing_key([publisher; 32]);
        let name = format!("host{publisher}");
        let entry = Entry::sign(&key, service(&name, 10.0, 10.0), 1, START + 3600);
        publish(
            &mut network,
            usize::from(publisher),
            &entry.expect("an entry"),
        );
    }
    let near = Place::new(10.0, 10.0).expect("a place");
    let query = Query {
        mechanism: Some("ldap".into()),
        ..Query::default()
    };
    assert_eq!(find(&mut network, 20, &query, near).len(), 12);
}

/// One node in so many is of this kind, the others are strangers. What those of this kind publish, they
/// find, by way of strangers; how many look-ups of keys, of how many, found an entry at another node.
fn among_strangers(count: usize, one_in: usize) {
    let mut network = Network::mixed(21, count, &config(), |at| at % one_in == 0);
    let own: Vec<usize> = (0..count).step_by(one_in).collect();
    let near = Place::new(52.45, 13.3).expect("a place");
    let names = ["berlin", "potsdam", "spandau"];
    for (number, name) in names.into_iter().enumerate() {
        let key = signing_key([number as u8; 32]);
        let entry = Entry::sign(&key, service(name, 52.5, 13.3), 1, START + 3600);
        let entry = entry.expect("an entry");
        let at = own[3 * number];
        for operation in network.act(at, |node, now| node.put_entry(now, &entry)) {
            let report = report(&mut network, at, operation);
            assert!(report.stored >= 3, "{report:?}");
        }
    }
    // From each end, also of nodes that store nothing themselves.
    for at in [own[1], own[own.len() / 2], own[own.len() - 1]] {
        let around = Query {
            mechanism: Some("ldap".into()),
            area: Some(Area::Circle {
                place: near,
                radius_m: 10_000.0,
            }),
            text: Vec::new(),
        };
        let found = find(&mut network, at, &around, near);
        assert_eq!(found.len(), names.len(), "node {at}: {found:?}");
        for name in names {
            let text = vec![name.parse().expect("a pattern")];
            let by_text = Query {
                text,
                ..Query::default()
            };
            let found = find(&mut network, at, &by_text, near);
            assert_eq!(found.len(), 1, "node {at}, {name}: {found:?}");
        }
    }
}

#[test]
fn services_among_as_many_strangers() {
    among_strangers(60, 2);
}

#[test]
fn services_where_nine_in_ten_are_strangers() {
    among_strangers(120, 10);
}

/// Who is alone among strangers hears that nobody has stored its entry, and does not search for ever.
#[test]
fn nobody_stores_services_among_strangers_only() {
    let mut network = Network::mixed(22, 100, &config(), |at| at == 50);
    let key = signing_key([1; 32]);
    let entry = Entry::sign(&key, service("berlin", 52.5, 13.3), 1, START + 3600);
    let entry = entry.expect("an entry");
    let most = network.most_in_ten_seconds();
    for operation in network.act(50, |node, now| node.put_entry(now, &entry)) {
        network.run_for(Duration::from_secs(60));
        let report = report(&mut network, 50, operation);
        let keys = report.targets.len() as u32;
        assert_eq!(report.stored, 0, "{report:?}");
        assert!(
            report.asked <= 100 * keys,
            "{} asked for {keys} keys",
            report.asked
        );
        assert!(
            report
                .targets
                .values()
                .all(|found| found.closest.is_empty())
        );
    }
    assert!(
        most.get() < 50,
        "{} messages to one in ten seconds",
        most.get()
    );
}

/// A node that does not use the extensions neither sends them nor answers them, and finds peers all the same.
#[test]
fn without_extensions_keys_are_asked_for_one_by_one() {
    let mut network = Network::mixed(23, 60, &config(), |at| at != 7);
    let keys: Vec<Id> = (0..5).map(|_| Id::random(&mut network.random)).collect();
    for (number, key) in keys.iter().enumerate() {
        let at = 10 * number;
        network.act(at, |node, now| node.announce(now, *key, None));
        network.run_for(Duration::from_secs(5));
    }
    let operation = network.act(7, |node, now| node.find_many(now, &keys));
    let found = report(&mut network, 7, operation);
    for (number, key) in keys.iter().enumerate() {
        let peer = address(10 * number, Family::Ipv4);
        assert!(found.targets[key].peers.contains(&peer), "{found:?}");
        assert_eq!(found.targets[key].closest.len(), 3);
    }
    let status = network.node(7).status(network.now);
    let (asked, served) = (&status.families[0].requests, &status.families[0].served);
    let own = [Method::GetMany, Method::PutEntry, Method::GetEntries];
    assert!(
        own.iter()
            .all(|method| !asked.contains_key(method) && !served.contains_key(method))
    );
    assert!(served.contains_key(&Method::FindNode));
}
