//! Gia: what its parts bring, and that tokens are never overdrawn.

use std::time::Duration;

use proptest::prelude::*;
use xcast_overlay::{
    runtime::Random,
    walks::gia::{Config, Counters, Event, Node, Parts},
};

use crate::world::{Faults, ROUGH, World, address, size};

/// Capacities as in the paper: 1, 10, 100, 1000, 10 000 with 20, 45, 30, 4.9 and 0.1 % of nodes.
fn capacity(random: &mut Random) -> u32 {
    match random.below(1000) {
        0..200 => 1,
        200..650 => 10,
        650..950 => 100,
        950..999 => 1000,
        _ => 10_000,
    }
}

fn overlay(seed: u64, count: usize, parts: Parts, change: impl Fn(&mut Config)) -> World<Node> {
    let mut world = World::new(seed);
    for at in 0..count {
        let seeds = (0..3.min(at))
            .map(|_| address(world.random.below(at), false))
            .collect();
        let capacity = capacity(&mut world.random);
        let mut config = Config::new("files", address(at, false), seeds, capacity);
        config.parts = parts;
        change(&mut config);
        world.add(address(at, false), |now, random| {
            Node::new(now, config, random)
        });
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(60));
    world
}

fn sum(world: &World<Node>, of: fn(&Counters) -> u64) -> u64 {
    let living = world.living().into_iter();
    living.map(|at| of(&world.node(at).status().counters)).sum()
}

/// Runs searches at so many a second for things that each hundredth node has: share found, and mean hops.
fn searches(world: &mut World<Node>, count: usize, a_second: usize) -> (f64, f64) {
    let nodes = world.nodes.len();
    let holders = (nodes / 100).max(1);
    for key in 0..20u64 {
        for _ in 0..holders {
            let at = world.random.below(nodes);
            world.act(at, |node, now| node.share(now, [key]));
        }
    }
    world.run_for(Duration::from_secs(12));
    world.events.clear();
    for _ in 0..count {
        let (at, key) = (world.random.below(nodes), world.random.below(20) as u64);
        world.act(at, |node, now| node.search(now, key));
        world.run_for(Duration::from_secs(1) / a_second as u32);
    }
    world.run_for(Duration::from_secs(25));
    let (mut found, mut hops, mut ended) = (0, 0u64, 0);
    for (_, _, event) in &world.events {
        ended += 1;
        if let Event::Found { hops: h, .. } = event {
            found += 1;
            hops += u64::from(*h);
        }
    }
    assert_eq!(ended, count, "each search ends once");
    (
        found as f64 / count as f64,
        hops as f64 / f64::from(found.max(1)),
    )
}

/// At a load that the whole carries, each part that is left out costs hops or answers; replication
/// most.
#[test]
fn what_each_part_brings() {
    let count = size(300, 1000);
    let all = Parts::default();
    let run = |name: &str, parts: Parts| {
        let mut world = overlay(1, count, parts, |_| {});
        let (found, hops) = searches(&mut world, size(200, 1000), 50);
        println!(
            "{name}: {:.1} % found, {hops:.1} hops; {} queries beyond capacity, {} waited, {} overdrawn",
            100.0 * found,
            sum(&world, |c| c.overload),
            sum(&world, |c| c.waited),
            sum(&world, |c| c.overdrawn),
        );
        (found, hops, sum(&world, |c| c.overload))
    };
    let (found, hops, overload) = run("all of Gia", all);
    let without_replication = run(
        "without replication",
        Parts {
            replication: false,
            ..all
        },
    );
    let without_adaptation = run(
        "without adaptation",
        Parts {
            adaptation: false,
            ..all
        },
    );
    let without_flow_control = run(
        "without flow control",
        Parts {
            flow_control: false,
            ..all
        },
    );
    let without_bias = run("without bias", Parts { bias: false, ..all });
    assert!(found >= 0.95, "{found}");
    // In what it costs: steps for each answer.
    let cost = |(found, hops, _): (f64, f64, u64)| (hops + 1.0) / found.max(0.01);
    let whole = cost((found, hops, overload));
    assert!(
        cost(without_replication) > 2.0 * whole,
        "{without_replication:?}"
    );
    assert!(cost(without_replication) > cost(without_adaptation));
    assert!(
        cost(without_adaptation) > whole,
        "{without_adaptation:?} {hops}"
    );
    // Walkers that go to any neighbour take longer.
    assert!(cost(without_bias) > whole, "{without_bias:?} {hops}");
    // Nobody is beyond capacity at this load, so tokens bring nothing, and cost nothing.
    assert_eq!(overload, 0);
    assert!(without_flow_control.0 >= 0.95 && cost(without_flow_control) >= 0.9 * whole);
}

/// Nodes that work on ten queries a second ask as many, and have large neighbours that could take them
/// all: tokens which those do not use must not be withheld from them.
#[test]
fn flow_control_costs_nothing_while_there_is_capacity() {
    let count = size(200, 500);
    for flow_control in [true, false] {
        let parts = Parts {
            flow_control,
            ..Parts::default()
        };
        let mut world = overlay(1, count, parts, |_| {});
        let asking: Vec<usize> = (0..count)
            .filter(|at| world.node(*at).capacity() >= 10)
            .collect();
        for key in 0..20u64 {
            let at = world.random.below(count);
            world.act(at, |node, now| node.share(now, [key]));
        }
        world.run_for(Duration::from_secs(12));
        world.events.clear();
        let mut asked = 0;
        for _ in 0..300 {
            for at in &asking {
                let key = world.random.below(20) as u64;
                world.act(*at, |node, now| node.search(now, key));
                asked += 1;
            }
            world.run_for(Duration::from_millis(100));
        }
        world.run_for(Duration::from_secs(25));
        let events = world.events.iter();
        let found = events.filter(|(_, _, event)| matches!(event, Event::Found { .. }));
        let found = found.count() as f64 / f64::from(asked);
        println!(
            "flow control {flow_control}: {:.1} % found; {} waited, {} in vain, {} beyond capacity",
            100.0 * found,
            sum(&world, |c| c.waited),
            sum(&world, |c| c.given_up),
            sum(&world, |c| c.overload),
        );
        assert!(found >= 0.95, "flow control {flow_control}: {found}");
    }
}

#[test]
fn tokens_are_not_overdrawn_and_neighbours_are_bounded() {
    let mut world = overlay(2, size(150, 500), Parts::default(), |_| {});
    world.faults = Faults {
        truncated: 0,
        ..ROUGH
    };
    searches(&mut world, 100, 50);
    world.faults = Faults::default();
    // Duplicates come with a token that is used, and relations that one side has ended are not known:
    // nobody spends what it has not got.
    let (overdrawn, worked_on) = (sum(&world, |c| c.overdrawn), sum(&world, |c| c.worked_on));
    println!("{worked_on} queries worked on, {overdrawn} copies refused");
    assert!(overdrawn * 10 < worked_on, "{overdrawn} {worked_on}");
    for at in world.living() {
        let status = world.node(at).status();
        assert!(status.neighbours.len() <= 128);
        assert!((0.0..=1.0).contains(&status.satisfaction));
    }
    // High capacity draws neighbours.
    let of = |least: u32, most: u32| {
        let mut degrees = Vec::new();
        for at in world.living() {
            for (neighbour, capacity) in world.node(at).status().neighbours {
                if (least..=most).contains(&capacity) {
                    let place = world.place(neighbour).expect("a place");
                    degrees.push(world.node(place).status().neighbours.len() as f64);
                }
            }
        }
        degrees.iter().sum::<f64>() / degrees.len().max(1) as f64
    };
    let (low, high) = (of(1, 10), of(1000, 10_000));
    println!("mean degree seen: {low:.1} at low capacity, {high:.1} at high");
    assert!(high > 2.0 * low, "{low} {high}");
}

/// All walkers start by one packet; later hops are lists where that is wanted.
#[test]
fn walkers_start_together() {
    let mut world = overlay(3, size(150, 500), Parts::default(), |config| {
        config.walkers = 8;
        config.branch = 2;
        config.ttl = 60;
    });
    let (found, hops) = searches(&mut world, 60, 5);
    let (starts, walkers) = (sum(&world, |c| c.starts), sum(&world, |c| c.walkers));
    let (steps, receivers) = (sum(&world, |c| c.steps), sum(&world, |c| c.step_receivers));
    let (upkeep, to) = (
        sum(&world, |c| c.upkeep),
        sum(&world, |c| c.upkeep_receivers),
    );
    println!(
        "{:.0} % found, {hops:.1} hops; starts: {starts} packets for {walkers} walkers; later: {steps} \
         packets for {receivers}; upkeep: {upkeep} packets to {to} receivers",
        100.0 * found
    );
    assert!(found > 0.9 && walkers > 2 * starts && receivers > steps && to > 3 * upkeep);
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = |seed| {
        let mut world = overlay(seed, 20, Parts::default(), |_| {});
        world.faults = ROUGH;
        searches(&mut world, 10, 10);
        world.digest
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_may_come(
        kinds in prop::collection::vec((0u8..11, prop::collection::vec(any::<u8>(), 0..120)), 0..60),
    ) {
        let mut world = overlay(4, 8, Parts::default(), |_| {});
        let id = xcast_overlay::id::Id::hash_of(&[b"xcast gia 1", b"files"]);
        for (kind, rest) in kinds {
            let mut datagram = b"XCGI\x01".to_vec();
            datagram.push(kind);
            datagram.extend(&id.octets()[..8]);
            datagram.extend(rest);
            let (from, to) = (world.random.below(10), world.random.below(8));
            world.inject(address(from, false), to, datagram);
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(Duration::from_secs(10));
        for at in 0..8 {
            prop_assert!(!world.node(at).status().neighbours.is_empty());
        }
    }
}
