//! Flooding in the manner of Gnutella and FastTrack.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use proptest::prelude::*;
use xcast_overlay::{
    others::flood::{Config, Event, Node, Role},
    runtime::Random,
};

use crate::world::{ROUGH, World, address};

/// Peers in two rings of random order, and leaves of two of them each.
fn overlay(seed: u64, peers: usize, leaves: usize, ipv6: bool) -> World<Node> {
    let mut random = Random::from_number(seed);
    let mut graph = vec![BTreeSet::new(); peers];
    for _ in 0..2 {
        let mut ring: Vec<usize> = (0..peers).collect();
        random.choose(&mut ring, peers);
        for at in 0..peers {
            let (one, other) = (ring[at], ring[(at + 1) % peers]);
            graph[one].insert(other);
            graph[other].insert(one);
        }
    }
    let mut world = World::new(seed);
    for at in 0..peers + leaves {
        let neighbours: Vec<SocketAddr> = match graph.get(at) {
            Some(neighbours) => neighbours
                .iter()
                .map(|other| address(*other, ipv6))
                .collect(),
            None => (0..2).map(|_| address(random.below(peers), ipv6)).collect(),
        };
        let mut config = Config::new("files", address(at, ipv6), neighbours);
        config.neighbours.dedup();
        if at >= peers {
            config.role = Role::Leaf;
        }
        world.add(address(at, ipv6), |now, random| {
            Node::new(now, config, random)
        });
    }
    world.run_for(Duration::from_secs(1));
    world
}

fn found(world: &World<Node>) -> Vec<Vec<SocketAddr>> {
    let events = world.events.iter();
    let found = events.filter_map(|(_, _, event)| match event {
        Event::Found { holders, .. } => Some(holders.clone()),
        _ => None,
    });
    found.collect()
}

/// Each query comes to each peer within reach, and each passes it on by one packet.
#[test]
fn a_servent_finds_what_anybody_has() {
    for ipv6 in [false, true] {
        let mut world = overlay(1, 60, 0, ipv6);
        world.act(7, |node, _| node.share([1]));
        world.act(50, |node, now| node.search(now, 1));
        world.run_for(Duration::from_secs(5));
        assert_eq!(found(&world), [[address(7, ipv6)]]);
        let counters = (0..60).map(|at| world.node(at).counters());
        let (floods, receivers) = counters.fold((0, 0), |sum, c| {
            (sum.0 + c.floods, sum.1 + c.flood_receivers)
        });
        println!("a query to 60 servents: {floods} packets to {receivers} receivers");
        assert!(floods <= 60 && receivers > 2 * floods);
        world.events.clear();
        world.act(3, |node, _| node.ping());
        world.run_for(Duration::from_secs(5));
        let here: BTreeSet<SocketAddr> = world
            .events
            .iter()
            .filter_map(|(_, _, event)| match event {
                Event::Here { node, .. } => Some(*node),
                _ => None,
            })
            .collect();
        assert_eq!(here.len(), 59);
        // What nobody has is not found, and the search ends.
        world.events.clear();
        world.act(3, |node, now| node.search(now, 99));
        world.run_for(Duration::from_secs(20));
        assert!(matches!(world.events[..], [(_, 3, Event::NotFound { .. })]));
    }
}

/// Leaves are found by their super nodes, and asked nothing.
#[test]
fn super_nodes_answer_for_their_leaves() {
    let mut world = overlay(2, 20, 200, false);
    world.faults = ROUGH;
    for at in 20..220 {
        world.act(at, |node, _| node.share([at as u64]));
    }
    world.run_for(Duration::from_secs(60));
    let before: u64 = (20..220)
        .map(|at| world.node(at).counters().flood_receivers)
        .sum();
    for at in 20..60 {
        world.act(at, |node, now| node.search(now, 239 - at as u64));
    }
    world.run_for(Duration::from_secs(5));
    let found = found(&world);
    println!("{} of 40 found in rough weather", found.len());
    assert!(found.len() >= 38);
    let after: u64 = (20..220)
        .map(|at| world.node(at).counters().flood_receivers)
        .sum();
    // Their own searches, and what they tell again; not what others look for.
    assert!(after - before <= 300, "{before} {after}");
    // A leaf that is gone is forgotten.
    world.kill(219);
    world.events.clear();
    world.run_for(Duration::from_secs(120));
    world.act(30, |node, now| node.search(now, 219));
    world.run_for(Duration::from_secs(20));
    assert!(
        world
            .events
            .iter()
            .any(|(_, at, event)| *at == 30 && matches!(event, Event::NotFound { .. }))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_may_come(
        kinds in prop::collection::vec((0u8..7, prop::collection::vec(any::<u8>(), 0..80)), 0..60),
    ) {
        let mut world = overlay(3, 8, 4, false);
        let id = xcast_overlay::id::Id::hash_of(&[b"xcast flood 1", b"files"]);
        for (kind, rest) in kinds {
            let mut datagram = b"XCFL\x01".to_vec();
            datagram.push(kind);
            datagram.extend(&id.octets()[..8]);
            datagram.extend(rest);
            let (from, to) = (world.random.below(14), world.random.below(12));
            world.inject(address(from, false), to, datagram);
        }
        world.run_for(Duration::from_secs(20));
        world.act(1, |node, _| node.share([5]));
        world.act(2, |node, now| node.search(now, 5));
        world.run_for(Duration::from_secs(5));
        prop_assert!(found(&world).contains(&vec![address(1, false)]));
    }
}
