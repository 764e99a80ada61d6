//! In the manner of Freenet: what was stored is found, and the sooner the more it is asked for.

use std::time::Duration;

use xcast_overlay::others::freenet::{Config, Event, Node};

use crate::world::{Faults, ROUGH, World, address, size};

fn overlay(seed: u64, count: usize, ipv6: bool) -> World<Node> {
    let mut world = World::new(seed);
    for at in 0..count {
        let seeds = (0..3.min(at))
            .map(|_| address(world.random.below(at), ipv6))
            .collect();
        let config = Config::new("example", address(at, ipv6), seeds);
        world.add(address(at, ipv6), |now, random| {
            Node::new(now, config, random)
        });
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(180));
    world.events.clear();
    world
}

/// Share of requests that find something, and mean hops.
fn ask(world: &mut World<Node>, keys: u64, count: usize) -> (f64, f64) {
    world.events.clear();
    for _ in 0..count {
        let (at, key) = (
            world.random_living(),
            world.random.below(keys as usize) as u64,
        );
        world.act(at, |node, now| {
            node.request(now, key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        world.run_for(Duration::from_millis(200));
    }
    world.run_for(Duration::from_secs(25));
    let (mut found, mut far) = (0, 0u64);
    for (_, _, event) in &world.events {
        if let Event::Found { hops, value, .. } = event {
            assert_eq!(value, "value");
            found += 1;
            far += u64::from(*hops);
        }
    }
    assert_eq!(world.events.len(), count, "each request ends once");
    (
        f64::from(found) / count as f64,
        far as f64 / f64::from(found.max(1)),
    )
}

#[test]
fn what_was_stored_is_found_and_comes_closer() {
    for ipv6 in [false, true] {
        let mut world = overlay(1, size(100, 500), ipv6);
        for key in 0..20_u64 {
            let at = world.random_living();
            world.act(at, |node, _| {
                node.insert(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), "value");
            });
            world.run_for(Duration::from_millis(200));
        }
        world.run_for(Duration::from_secs(5));
        let first = ask(&mut world, 20, 100);
        let later = ask(&mut world, 20, 100);
        println!(
            "found {:.2} at {:.2} hops, later {:.2} at {:.2}",
            first.0, first.1, later.0, later.1
        );
        assert!(
            first.0 >= 0.9 && later.0 >= 0.95 && later.1 < first.1,
            "{first:?} {later:?}"
        );
        let all: Vec<_> = world
            .living()
            .iter()
            .map(|at| world.node(*at).counters())
            .collect();
        let (starts, ways) = all
            .iter()
            .fold((0, 0), |sum, c| (sum.0 + c.starts, sum.1 + c.ways));
        println!("{starts} packets for {ways} ways");
        assert!(ways > 2 * starts);
    }
}

#[test]
fn requests_end_in_rough_weather_and_after_nodes_have_gone() {
    let mut world = overlay(2, 80, false);
    for key in 0..20_u64 {
        let at = world.random_living();
        world.act(at, |node, _| {
            node.insert(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), "value");
        });
        world.run_for(Duration::from_millis(200));
    }
    world.faults = Faults {
        truncated: 0,
        ..ROUGH
    };
    for at in world.living() {
        if world.random.below(10) == 0 {
            world.kill(at);
        }
    }
    let (found, _) = ask(&mut world, 20, 100);
    assert!(found >= 0.7, "{found}");
}
