//! Local minima search against its formula.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use proptest::prelude::*;
use xcast_overlay::{
    runtime::Random,
    walks::lms::{Config, Event, Node},
};

use crate::world::{Faults, ROUGH, World, address, size};

/// A random graph in which each node chose three neighbours.
fn graph(seed: u64, count: usize) -> Vec<BTreeSet<usize>> {
    let mut random = Random::from_number(seed);
    let mut graph = vec![BTreeSet::new(); count];
    for at in 0..count {
        while graph[at].len() < 3 {
            let other = random.below(count);
            if other != at && graph[other].len() < 12 {
                graph[at].insert(other);
                graph[other].insert(at);
            }
        }
    }
    graph
}

fn overlay(seed: u64, count: usize, hops: u8, ipv6: bool, faults: Faults) -> World<Node> {
    let mut world = World::new(seed);
    world.faults = faults;
    for (at, neighbours) in graph(seed, count).into_iter().enumerate() {
        let neighbours: Vec<SocketAddr> = neighbours
            .into_iter()
            .map(|other| address(other, ipv6))
            .collect();
        let mut config = Config::new("files", address(at, ipv6), neighbours);
        config.hops = hops;
        config.walk = 12;
        world.add(address(at, ipv6), |now, random| {
            Node::new(now, config, random)
        });
    }
    world.run_for(Duration::from_secs(30));
    world.events.clear();
    world
}

/// Share of searches that find something, and what the formula says.
fn success(
    world: &mut World<Node>,
    replicas: usize,
    walkers: usize,
    searches: usize,
) -> (f64, f64) {
    let count = world.nodes.len();
    let mean = (0..count)
        .map(|at| world.node(at).neighbourhood())
        .sum::<usize>() as f64
        / count as f64;
    let (mut found, mut expected) = (0, 0.0);
    for _ in 0..searches {
        let key = u64::from_be_bytes(world.random.octets());
        let (from, by) = (world.random.below(count), world.random.below(count));
        world.act(from, |node, now| node.store(now, key, "here", replicas));
        world.run_for(Duration::from_secs(11));
        // Two replicas that came to one place count once.
        let kept = (0..count).filter(|at| world.node(*at).keeps(key)).count();
        let hits: usize = world
            .events
            .drain(..)
            .map(|(_, _, event)| match event {
                Event::Ended { hits, .. } => hits,
                Event::Found { .. } => 0,
            })
            .sum();
        assert!(hits <= kept && kept <= replicas);
        world.act(by, |node, now| node.find(now, key, walkers));
        world.run_for(Duration::from_secs(11));
        let ended = world
            .events
            .iter()
            .filter(|(_, _, event)| matches!(event, Event::Ended { .. }));
        assert_eq!(ended.count(), 1);
        found += usize::from(
            world
                .events
                .iter()
                .any(|(_, _, event)| matches!(event, Event::Found { .. })),
        );
        world.events.clear();
        expected += 1.0 - (-(kept as f64) * walkers as f64 * mean / count as f64).exp();
    }
    (found as f64 / searches as f64, expected / searches as f64)
}

/// 1 - exp(-r s d_h / n), within three points where many are asked.
#[test]
fn success_follows_the_formula() {
    let count = size(400, 2000);
    let mut world = overlay(1, count, 2, false, Faults::default());
    let searches = size(200, 2000);
    let tolerance = if cfg!(debug_assertions) { 0.10 } else { 0.03 };
    for (replicas, walkers) in [(2, 2), (4, 3), (6, 5)] {
        let (found, formula) = success(&mut world, replicas, walkers, searches);
        println!(
            "{count} nodes, r = {replicas}, s = {walkers}: {:.1} % found, {:.1} % by the formula",
            100.0 * found,
            100.0 * formula
        );
        assert!((found - formula).abs() <= tolerance, "{found} {formula}");
    }
    let sum = |of: fn(&xcast_overlay::walks::lms::Counters) -> u64| {
        (0..count)
            .map(|at| of(&world.node(at).counters()))
            .sum::<u64>()
    };
    println!(
        "starts: {} packets for {} walkers, then {} steps; hellos: {} packets to {} receivers",
        sum(|c| c.starts),
        sum(|c| c.walkers),
        sum(|c| c.steps),
        sum(|c| c.hellos),
        sum(|c| c.hello_receivers)
    );
    // As many walkers as neighbours share a packet.
    assert!(sum(|c| c.walkers) > 2 * sum(|c| c.starts));
}

#[test]
fn operations_end_in_rough_weather() {
    let mut world = overlay(2, 100, 1, true, ROUGH);
    let mut found = 0;
    for key in 0..20 {
        let by = world.random.below(100);
        world.act(0, |node, now| node.store(now, key, "here", 10));
        world.run_for(Duration::from_secs(12));
        world.events.clear();
        world.act(by, |node, now| node.find(now, key, 10));
        world.run_for(Duration::from_secs(12));
        let ended = world
            .events
            .iter()
            .filter(|(_, _, event)| matches!(event, Event::Ended { .. }));
        assert_eq!(ended.count(), 1);
        found += usize::from(
            world
                .events
                .iter()
                .any(|(_, _, event)| matches!(event, Event::Found { .. })),
        );
    }
    assert!(found >= 10, "{found}");
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = |seed| {
        let mut world = overlay(seed, 30, 2, false, ROUGH);
        world.act(0, |node, now| node.store(now, 7, "here", 4));
        world.run_for(Duration::from_secs(10));
        world.digest
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_may_come(
        kinds in prop::collection::vec((0u8..5, prop::collection::vec(any::<u8>(), 0..120)), 0..60),
    ) {
        let mut world = overlay(3, 10, 2, false, Faults::default());
        let id = xcast_overlay::id::Id::hash_of(&[b"xcast lms 1", b"files"]);
        for (kind, rest) in kinds {
            let mut datagram = b"XCLM\x01".to_vec();
            datagram.push(kind);
            datagram.extend(&id.octets()[..8]);
            datagram.extend(rest);
            let (from, to) = (world.random.below(12), world.random.below(10));
            world.inject(address(from, false), to, datagram);
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(Duration::from_secs(20));
    }
}
