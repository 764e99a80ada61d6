//! Tapestry: one root for each key, and things that are found again.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use xcast_overlay::{
    others::tapestry::{Config, Event, Node, root_of},
    ring::Position,
};

use crate::world::{ROUGH, World, address, size};

fn overlay(seed: u64, count: usize, ipv6: bool) -> World<Node> {
    let mut world = World::new(seed);
    for at in 0..count {
        let seeds = match at {
            0 => vec![],
            _ => vec![address(world.random.below(at), ipv6)],
        };
        let config = Config::new("example", address(at, ipv6), seeds);
        world.add(address(at, ipv6), |now, random| {
            Node::new(now, config, random)
        });
        world.run_for(Duration::from_millis(300));
    }
    world.run_for(Duration::from_secs(60));
    world.events.clear();
    world
}

fn key(world: &mut World<Node>) -> Position {
    Position(u64::from_be_bytes(world.random.octets()))
}

/// Share of look-ups that name the true root, and mean hops.
fn look_up(world: &mut World<Node>, count: usize) -> (f64, f64) {
    world.events.clear();
    for _ in 0..count {
        let (at, key) = (world.random_living(), key(world));
        world.act(at, |node, now| node.lookup(now, key));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(Duration::from_secs(20));
    let living: Vec<_> = world
        .living()
        .into_iter()
        .map(|at| world.address(at))
        .collect();
    let (mut right, mut far) = (0, 0u64);
    for (_, _, event) in &world.events {
        if let Event::Root {
            key, root, hops, ..
        } = event
        {
            far += u64::from(*hops);
            right += usize::from(root.is_some() && *root == root_of(*key, living.iter().copied()));
        }
    }
    (right as f64 / count as f64, far as f64 / count as f64)
}

#[test]
fn all_ways_lead_to_one_root() {
    for ipv6 in [false, true] {
        let count = size(120, 1000);
        let mut world = overlay(1, count, ipv6);
        assert!(world.living().iter().all(|at| world.node(*at).is_member()));
        let (right, hops) = look_up(&mut world, 200);
        let digits = (count as f64).log(16.0);
        println!(
            "{count} nodes: {:.1} % right, {hops:.2} hops, log16 n = {digits:.2}",
            100.0 * right
        );
        assert!(right >= 0.99 && hops <= digits + 1.0, "{right} {hops}");
        let all: Vec<_> = world
            .living()
            .iter()
            .map(|at| world.node(*at).counters())
            .collect();
        let sum = |of: fn(&xcast_overlay::others::tapestry::Counters) -> u64| {
            all.iter().map(of).sum::<u64>()
        };
        println!(
            "newcomers: {} packets to {}",
            sum(|c| c.newcomers),
            sum(|c| c.newcomer_receivers)
        );
        assert!(sum(|c| c.newcomer_receivers) > sum(|c| c.newcomers));
    }
}

#[test]
fn what_is_published_is_located_also_in_rough_weather() {
    let mut world = overlay(2, size(80, 500), false);
    world.faults = ROUGH;
    let things: Vec<_> = (0..20)
        .map(|_| (world.random_living(), key(&mut world)))
        .collect();
    for (at, key) in &things {
        world.act(*at, |node, now| node.publish(now, *key));
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(10));
    world.events.clear();
    for (_, key) in &things {
        let at = world.random_living();
        world.act(at, |node, now| node.locate(now, *key));
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(20));
    let mut found = 0;
    for (_, _, event) in &world.events {
        if let Event::Located { holders, .. } = event {
            let right = things
                .iter()
                .any(|(at, _)| holders.contains(&world.address(*at)));
            found += usize::from(right);
        }
    }
    assert!(found >= 19, "{found} of 20");
    let all: Vec<_> = world
        .living()
        .iter()
        .map(|at| world.node(*at).counters())
        .collect();
    let (starts, ways) = all
        .iter()
        .fold((0, 0), |sum, c| (sum.0 + c.starts, sum.1 + c.ways));
    println!("{starts} packets for {ways} ways to roots");
    assert!(ways > 2 * starts);
}

/// A newcomer hears of the same nodes from many before these have answered: each is asked once.
#[test]
fn a_newcomer_asks_each_node_once() {
    let mut world = overlay(4, 60, false);
    let asked = Rc::new(RefCell::new(BTreeMap::new()));
    let (notes, newcomer) = (Rc::clone(&asked), world.nodes.len());
    world.watch = Some(Box::new(move |_, from, transmit| {
        let is_table = transmit.datagram(0)[3] & 0xf == 4;
        if from == newcomer && is_table {
            for to in &transmit.to {
                *notes.borrow_mut().entry(*to).or_insert(0) += 1;
            }
        }
    }));
    let seeds = vec![address(0, false)];
    let config = Config::new("example", address(newcomer, false), seeds);
    world.add(address(newcomer, false), |now, random| {
        Node::new(now, config, random)
    });
    // Upkeep begins later.
    world.run_for(Duration::from_secs(4));
    assert!(world.node(newcomer).is_member());
    let asked = asked.borrow();
    assert!(asked.len() > 20, "{asked:?}");
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");
}

#[test]
fn tables_are_mended_after_nodes_have_gone() {
    let mut world = overlay(3, size(100, 500), false);
    for at in world.living().into_iter().skip(1) {
        if world.random.below(5) == 0 {
            world.kill(at);
        }
    }
    world.run_for(Duration::from_secs(300));
    let (right, _) = look_up(&mut world, 200);
    assert!(right >= 0.97, "{right}");
}
