//! CAN: zones that cover the square, also after nodes have gone.

use std::{collections::BTreeSet, time::Duration};

use xcast_overlay::{
    others::can::{Config, Event, Node, Point, Zone},
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
    world.run_for(Duration::from_secs(30));
    world.events.clear();
    world
}

/// How many points of a sample belong to nobody, and how many to more than one.
fn uncovered_and_disputed(world: &World<Node>) -> (usize, usize) {
    let zones: Vec<Zone> = world
        .living()
        .into_iter()
        .flat_map(|at| world.node(at).zones().to_vec())
        .collect();
    let (mut none, mut several) = (0, 0);
    for at in 0..4096_u64 {
        let point = Point((at << 52) | (at * 0x9e37_79b9));
        match zones.iter().filter(|zone| zone.contains(point)).count() {
            0 => none += 1,
            1 => {}
            _ => several += 1,
        }
    }
    (none, several)
}

/// Share of look-ups that name who has the point, and mean hops.
fn look_up(world: &mut World<Node>, count: usize) -> (f64, f64) {
    world.events.clear();
    for _ in 0..count {
        let (at, key) = (
            world.random_living(),
            Position(u64::from_be_bytes(world.random.octets())),
        );
        world.act(at, |node, now| node.lookup(now, key));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(Duration::from_secs(15));
    let (mut right, mut far) = (0, 0u64);
    for (_, _, event) in &world.events {
        let Event::Found {
            key, owner, hops, ..
        } = event
        else {
            continue;
        };
        far += u64::from(*hops);
        let owner = owner.and_then(|owner| world.place(owner));
        let node = owner.and_then(|owner| world.nodes[owner].as_ref());
        let has = |node: &Node| node.zones().iter().any(|zone| zone.contains(Point(key.0)));
        right += usize::from(node.is_some_and(has));
    }
    (right as f64 / count as f64, far as f64 / count as f64)
}

#[test]
fn zones_cover_the_square_and_look_ups_find_them() {
    for ipv6 in [false, true] {
        let count = size(150, 1000);
        let mut world = overlay(1, count, ipv6);
        assert_eq!(uncovered_and_disputed(&world), (0, 0));
        let (right, hops) = look_up(&mut world, 200);
        // A way of sqrt(n) / 2 zones in two dimensions.
        let expected = (count as f64).sqrt() / 2.0;
        println!("{count} nodes: {hops:.1} hops, {expected:.1} expected");
        assert!(right >= 0.99 && hops < 1.6 * expected, "{right} {hops}");
        let told: Vec<_> = world
            .living()
            .iter()
            .map(|at| world.node(*at).counters())
            .collect();
        let sum =
            |of: fn(&xcast_overlay::others::can::Counters) -> u64| told.iter().map(of).sum::<u64>();
        println!(
            "{} packets to {} neighbours; look-ups: {} packets, {} ways",
            sum(|c| c.told),
            sum(|c| c.told_receivers),
            sum(|c| c.starts),
            sum(|c| c.ways)
        );
        assert!(sum(|c| c.told_receivers) > 3 * sum(|c| c.told));
        assert!(sum(|c| c.ways) > sum(|c| c.starts));
    }
}

#[test]
fn zones_of_the_dead_are_taken() {
    let mut world = overlay(2, size(100, 500), false);
    world.faults = ROUGH;
    for at in world.living().into_iter().skip(1) {
        match world.random.below(10) {
            0 => world.kill(at),
            1 => {
                world.act(at, |node, _| node.leave());
                world.kill(at);
            }
            _ => {}
        }
    }
    world.run_for(Duration::from_secs(300));
    let (none, several) = uncovered_and_disputed(&world);
    assert!(none <= 20 && several <= 20, "{none} {several}");
    let (right, _) = look_up(&mut world, 200);
    assert!(right >= 0.95, "{right}");
}

/// Each node hears it once, and passes it on by one packet.
#[test]
fn everybody_hears_what_is_for_all() {
    let mut world = overlay(3, size(100, 500), false);
    let sent = world.sent;
    world.act(7, |node, _| node.tell_all("news"));
    world.run_for(Duration::from_secs(4));
    let heard = world
        .events
        .iter()
        .filter(|(_, _, event)| matches!(event, Event::Heard { .. }));
    let heard: Vec<usize> = heard.map(|(_, at, _)| *at).collect();
    let once: BTreeSet<usize> = heard.iter().copied().collect();
    assert_eq!(
        (heard.len(), once.len()),
        (world.nodes.len() - 1, world.nodes.len() - 1)
    );
    println!(
        "{} packets to {} receivers",
        world.sent.packets() - sent.packets(),
        world.sent.receivers() - sent.receivers()
    );
}
