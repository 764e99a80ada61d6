//! Nodes at places, found by area: of nodes of this kind, and of strangers.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use xcast_overlay::{
    kademlia::{Asking, Config, Event, OperationId},
    krpc::Family,
    memory::Sent,
    places::{Area, Place},
};

use crate::network::{Network, address};

const KIND: &[u8] = b"gauge";
/// Where the nodes 1, 2, and so on are: three close together, one some 5 km away, one in another town.
const PLACES: [(f64, f64); 5] = [
    (52.520, 13.405),
    (52.521, 13.404),
    (52.519, 13.407),
    (52.560, 13.440),
    (53.550, 9.990),
];

fn place((latitude, longitude): (f64, f64)) -> Place {
    Place::new(latitude, longitude).expect("a place")
}

fn areas() -> [(&'static str, Area, &'static [usize]); 4] {
    let middle = place(PLACES[0]);
    [
        ("point", Area::Point(middle), &[1]),
        (
            "neighbourhood",
            Area::Neighbourhood {
                place: middle,
                size: 3,
                rings: 1,
            },
            &[1, 2, 3],
        ),
        (
            "radius",
            Area::Circle {
                place: middle,
                radius_m: 10_000.0,
            },
            &[1, 2, 3, 4],
        ),
        (
            "polygon",
            Area::Polygon(
                [(52.6, 13.2), (52.6, 13.6), (52.4, 13.4)]
                    .map(place)
                    .to_vec(),
            ),
            &[1, 2, 3, 4],
        ),
    ]
}

/// A network in which nodes 1 to 5 have announced themselves; the others are of this kind, or strangers.
fn announced(own: bool) -> Network {
    let config = Config {
        families: vec![Family::Ipv4],
        extensions: own,
        ..Config::mainline()
    };
    let mut network = Network::swarm(30, 60, &config);
    for (at, position) in (1..).zip(PLACES) {
        let begun = network.act(at, |node, now| {
            node.announce_at(now, place(position), KIND, None)
        });
        assert_eq!(begun.len(), 4, "a cell of each size");
        network.run_for(Duration::from_secs(5));
    }
    network.events.clear();
    network
}

/// Who is found in an area, and what node 40 sent for that.
fn find(network: &mut Network, area: &Area, asking: Asking) -> (BTreeSet<SocketAddr>, Sent) {
    let before = network.sent;
    let begun = network.act(40, |node, now| {
        node.find_in_area(now, area, KIND, 16, asking)
    });
    let mut waiting: BTreeSet<OperationId> = begun.expect("an area").into_iter().collect();
    network.run_for(Duration::from_secs(5));
    let mut found = BTreeSet::new();
    for (_, at, event) in std::mem::take(&mut network.events) {
        match event {
            Event::Finished { operation, report } if at == 40 && waiting.remove(&operation) => {
                found.extend(report.peers);
            }
            Event::FinishedMany { operation, report } if at == 40 && waiting.remove(&operation) => {
                let peers = report.targets.into_values().map(|target| target.peers);
                found.extend(peers.flatten());
            }
            _ => {}
        }
    }
    assert!(waiting.is_empty(), "all have ended");
    let sent = Sent {
        shared: network.sent.shared - before.shared,
        shared_receivers: network.sent.shared_receivers - before.shared_receivers,
        unicast: network.sent.unicast - before.unicast,
        ..network.sent
    };
    (found, sent)
}

/// Both ways find who is there; nodes of this kind are asked by fewer packets.
#[test]
fn an_area_is_asked_for_together_or_cell_by_cell() {
    let mut network = announced(true);
    for (what, area, expected) in areas() {
        let expected: BTreeSet<SocketAddr> = expected
            .iter()
            .map(|at| address(*at, Family::Ipv4))
            .collect();
        let cells = area.cells(16).expect("an area").len();
        let (together, one) = find(&mut network, &area, Asking::Together);
        let (each, other) = find(&mut network, &area, Asking::Each);
        // Replies are unicast; what is sent to lists is what requests are.
        println!(
            "{what}, {cells} cells: together {} packets to {} nodes, cell by cell {} to {}",
            one.shared, one.shared_receivers, other.shared, other.shared_receivers
        );
        assert_eq!(together, each, "{what}");
        assert!(together.is_superset(&expected), "{what}: {together:?}");
        assert!(!together.contains(&address(5, Family::Ipv4)), "{what}");
        if cells > 1 {
            assert!(one.shared < other.shared, "{what}");
            assert!(one.shared_receivers < other.shared_receivers, "{what}");
        }
    }
}

/// Strangers store and tell the same.
#[test]
fn strangers_are_asked_cell_by_cell() {
    let mut network = announced(false);
    for (what, area, expected) in areas() {
        let (found, _) = find(&mut network, &area, Asking::Each);
        for at in expected {
            assert!(
                found.contains(&address(*at, Family::Ipv4)),
                "{what}: {found:?}"
            );
        }
        assert!(!found.contains(&address(5, Family::Ipv4)), "{what}");
    }
}
