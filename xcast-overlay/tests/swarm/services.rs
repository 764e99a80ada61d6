//! Services that nodes publish and find, by type, text and place.

use std::{collections::BTreeMap, time::Duration};

use xcast_overlay::{
    kademlia::{Config, Event, ManyReport, OperationId},
    krpc::{Family, signing_key},
    places::{Area, Place},
    services::{Entry, Query, Service},
};

use crate::network::Network;

/// When networks of these tests begin, in seconds since 1970.
const START: i64 = 1_000_000;

fn swarm(count: usize) -> Network {
    let config = Config {
        families: vec![Family::Ipv4],
        started_unix_s: START,
        ..Config::mainline()
    };
    // All nodes take this for the time at which they begin; they do so within seconds.
    Network::swarm(20, count, &config)
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
