//! Nearness against the known truth, on generated latencies.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use proptest::prelude::*;
use xcast_overlay::{
    meridian::{Config, Event, Goal, Node},
    runtime::Random,
};

use crate::world::{Faults, ROUGH, World, address, size};

/// Latencies of hosts in a square, with access links of their own, and ways that are up to a fifth
/// longer than straight: the triangle inequality does not always hold.
#[derive(Clone)]
struct Map {
    places: Vec<(f64, f64, f64)>,
}

impl Map {
    fn new(seed: u64, count: usize) -> Self {
        let mut random = Random::from_number(seed);
        let mut unit = || random.below(1_000_000) as f64 / 1e6;
        let places = (0..count).map(|_| (unit() * 60.0, unit() * 60.0, -unit().max(1e-6).ln()));
        Self {
            places: places.collect(),
        }
    }

    /// Milliseconds, one way.
    fn latency(&self, from: usize, to: usize) -> f64 {
        if from == to {
            return 0.0;
        }
        let (low, high) = (from.min(to) as u64, from.max(to) as u64);
        let detour = ((low * 7919 + high * 104_729) % 1000) as f64 / 5000.0;
        let (a, b) = (self.places[from], self.places[to]);
        (a.0 - b.0).hypot(a.1 - b.1) * (1.0 + detour) + a.2 + b.2
    }

    fn rtt(&self, from: usize, to: usize) -> f64 {
        2.0 * self.latency(from, to)
    }
}

fn overlay(seed: u64, count: usize, ipv6: bool, faults: Faults) -> (World<Node>, Map) {
    let map = Map::new(seed, count);
    let mut world = World::new(seed);
    let latencies = map.clone();
    world.latency = Box::new(move |a, b| Duration::from_secs_f64(latencies.latency(a, b) / 1e3));
    world.faults = faults;
    for at in 0..count {
        let seeds: Vec<SocketAddr> = (0..2.min(at))
            .map(|_| address(world.random.below(at), ipv6))
            .collect();
        let config = Config::new("near", seeds);
        world.add(address(at, ipv6), |now, random| {
            Node::new(now, config, random)
        });
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(180));
    world.events.clear();
    (world, map)
}

struct Answer {
    best: usize,
    distance: Duration,
    hops: u8,
    probes: u32,
}

fn ask(world: &mut World<Node>, at: usize, goal: Goal) -> Option<Answer> {
    let asked = world.act(at, |node, now| node.query(now, goal));
    for _ in 0..250 {
        world.run_for(Duration::from_millis(100));
        for (_, _, event) in std::mem::take(&mut world.events) {
            match event {
                Event::Found {
                    query,
                    best,
                    distance,
                    hops,
                    probes,
                } if query == asked => {
                    return Some(Answer {
                        best: world.place(best?)?,
                        distance,
                        hops,
                        probes,
                    });
                }
                Event::NotFound { query } if query == asked => return None,
                _ => {}
            }
        }
    }
    panic!("it does not end");
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[test]
fn the_closest_node_is_found() {
    for ipv6 in [false, true] {
        let count = size(150, 1000);
        let (mut world, map) = overlay(1, count, ipv6, Faults::default());
        let sum = |world: &World<Node>, of: fn(&xcast_overlay::meridian::Counters) -> u64| {
            let living = world.living().into_iter();
            living
                .map(|at| of(&world.node(at).status().counters))
                .sum::<u64>()
        };
        let before = (
            sum(&world, |c| c.ring_asks),
            sum(&world, |c| c.ring_ask_receivers),
        );
        let (mut errors, mut by_chance, mut probes, mut hops) = (vec![], vec![], vec![], vec![]);
        let queries = size(100, 500);
        for _ in 0..queries {
            let target = world.random.below(count);
            let from = (target + 1 + world.random.below(count - 1)) % count;
            let answer =
                ask(&mut world, from, Goal::closest(address(target, ipv6))).expect("an answer");
            let others = (0..count).filter(|at| *at != target);
            let truth = others
                .map(|at| map.rtt(at, target))
                .fold(f64::INFINITY, f64::min);
            assert_ne!(answer.best, target);
            let found = map.rtt(answer.best, target);
            assert!((answer.distance.as_secs_f64() * 1e3 - found).abs() < 0.1);
            errors.push(found - truth);
            let random = (target + 1 + world.random.below(count - 1)) % count;
            by_chance.push(map.rtt(random, target) - truth);
            probes.push(f64::from(answer.probes));
            hops.push(f64::from(answer.hops));
            // Each hop halves the distance.
            let most = (map.rtt(from, target) / found).log2();
            assert!(
                f64::from(answer.hops) <= most + 0.01,
                "{} hops, {most}",
                answer.hops
            );
        }
        let asks = sum(&world, |c| c.ring_asks) - before.0;
        let asked = sum(&world, |c| c.ring_ask_receivers) - before.1;
        let exact = errors.iter().filter(|error| **error < 0.001).count();
        println!(
            "{count} nodes, ipv6 {ipv6}: median error {:.2} ms, mean {:.2} ms, {} % exact; by chance \
             {:.1} and {:.1} ms; {:.2} hops, {:.1} probes a query; {asks} ring asks to {asked} members",
            median(errors.clone()),
            mean(&errors),
            exact * 100 / queries,
            median(by_chance.clone()),
            mean(&by_chance),
            mean(&hops),
            mean(&probes),
        );
        println!(
            "gossip: {} packets to {} receivers; probes: {} to {}; rings chosen anew: {} to {}",
            sum(&world, |c| c.gossips),
            sum(&world, |c| c.gossip_receivers),
            sum(&world, |c| c.probes),
            sum(&world, |c| c.probe_receivers),
            sum(&world, |c| c.choices),
            sum(&world, |c| c.choice_receivers),
        );
        // Gossip goes to a member of each ring at once.
        assert!(sum(&world, |c| c.gossip_receivers) > 3 * sum(&world, |c| c.gossips));
        assert!(median(errors.clone()) < 5.0);
        assert!(10.0 * median(errors) <= median(by_chance.clone()));
        assert!(asked > 4 * asks);
    }
}

#[test]
fn a_central_leader_is_elected() {
    let count = size(120, 600);
    let (mut world, map) = overlay(2, count, false, Faults::default());
    let (mut errors, mut by_chance) = (vec![], vec![]);
    for _ in 0..size(40, 200) {
        let targets: Vec<usize> = (0..8).map(|_| world.random.below(count)).collect();
        let goal = Goal::central(targets.iter().map(|at| address(*at, false)).collect());
        let average = |at: usize| {
            targets
                .iter()
                .map(|target| map.rtt(at, *target))
                .sum::<f64>()
                / 8.0
        };
        let from = world.random.below(count);
        let answer = ask(&mut world, from, goal).expect("an answer");
        let truth = (0..count).map(average).fold(f64::INFINITY, f64::min);
        errors.push(average(answer.best) - truth);
        by_chance.push(average(world.random.below(count)) - truth);
    }
    let (error, chance) = (median(errors), median(by_chance));
    println!("central leader of 8: median error {error:.2} ms, by chance {chance:.2} ms");
    assert!(4.0 * error <= chance, "{error} {chance}");
}

#[test]
fn several_constraints_are_met() {
    let count = size(120, 600);
    let (mut world, map) = overlay(3, count, false, Faults::default());
    let (mut met, mut by_chance) = (0, 0);
    let queries = size(40, 200);
    for _ in 0..queries {
        // Bounds that somebody meets, with a tenth to spare.
        let hidden = world.random.below(count);
        let targets: Vec<usize> = (0..3).map(|_| world.random.below(count)).collect();
        let bounds: Vec<(usize, f64)> = targets
            .iter()
            .map(|t| (*t, 1.1 * map.rtt(hidden, *t) + 1.0))
            .collect();
        let meets = |at: usize| {
            bounds
                .iter()
                .all(|(target, bound)| map.rtt(at, *target) <= *bound)
        };
        let goal = bounds.iter().map(|(target, bound)| {
            (
                address(*target, false),
                Duration::from_secs_f64(bound / 1e3),
            )
        });
        let goal = Goal::Within(goal.collect());
        let from = world.random.below(count);
        let answer = ask(&mut world, from, goal).expect("an answer");
        met += usize::from(answer.distance.is_zero());
        assert!(!answer.distance.is_zero() || meets(answer.best));
        by_chance += usize::from(meets(world.random.below(count)));
    }
    println!("{met} of {queries} constraints met, {by_chance} by chance");
    assert!(met * 100 >= queries * 85, "{met}");
    assert!(by_chance * 2 < met);
}

/// A packet that is lost on the first link is lost for a whole list; gossip does not mind.
#[test]
fn gossip_by_lists_spreads_as_fast_as_by_unicast() {
    let known = |apart: bool| {
        let mut known = 0;
        for seed in 0..3 {
            let count = size(60, 300);
            let mut world = World::new(seed);
            world.faults.first_link_loss = 50;
            world.apart = apart;
            for at in 0..count {
                let seeds = vec![address(0, false)];
                let config = Config::new("near", seeds);
                world.add(address(at, false), |now, random| {
                    Node::new(now, config, random)
                });
            }
            world.run_for(Duration::from_secs(8));
            for at in world.living() {
                let rings = world.node(at).status().rings;
                known += rings
                    .iter()
                    .map(|(primary, secondary)| primary + secondary)
                    .sum::<usize>();
            }
        }
        known
    };
    let (lists, unicast) = (known(false), known(true));
    println!("nodes known after 8 s: {lists} by lists, {unicast} by unicast");
    assert!(lists.abs_diff(unicast) * 20 <= unicast, "{lists} {unicast}");
}

#[test]
fn queries_end_in_rough_weather_and_when_nodes_die() {
    let count = size(100, 400);
    let (mut world, map) = overlay(4, count, true, ROUGH);
    let (mut errors, mut by_chance) = (vec![], vec![]);
    let mut nothing = 0;
    let queries = size(60, 200);
    for number in 0..queries {
        let living = world.living();
        if number % 2 == 0 {
            let victim = living[world.random.below(living.len())];
            world.kill(victim);
        }
        let living = world.living();
        let target = living[world.random.below(living.len())];
        let others: Vec<usize> = living.into_iter().filter(|at| *at != target).collect();
        let from = others[world.random.below(others.len())];
        let Some(answer) = ask(&mut world, from, Goal::closest(address(target, true))) else {
            nothing += 1;
            continue;
        };
        let truth = others
            .iter()
            .map(|at| map.rtt(*at, target))
            .fold(f64::INFINITY, f64::min);
        errors.push(map.rtt(answer.best, target) - truth);
        by_chance.push(map.rtt(others[world.random.below(others.len())], target) - truth);
    }
    let (error, chance) = (median(errors), median(by_chance));
    println!(
        "rough: {nothing} of {queries} without an answer, median error {error:.1} ms, by chance {chance:.1}"
    );
    assert!(
        nothing * 10 <= queries && 5.0 * error <= chance,
        "{nothing} {error} {chance}"
    );
}

/// A node that is no longer new answers whoever measures for others, and does not measure in turn.
#[test]
fn a_ping_is_answered_by_one_datagram() {
    let (mut world, _) = overlay(5, 3, false, Faults::default());
    let stranger = address(100, false);
    let sent = Rc::new(Cell::new(0));
    let count = Rc::clone(&sent);
    world.watch = Some(Box::new(move |_, _, transmit| {
        count.set(count.get() + usize::from(transmit.to.contains(&stranger)));
    }));
    let id = xcast_overlay::id::Id::hash_of(&[b"xcast meridian 1", b"near"]);
    let ping = [&b"XCMD\x01\x01"[..], &id.octets()[..8], &[7; 8]].concat();
    world.inject(stranger, 0, ping);
    world.run_for(Duration::from_secs(10));
    assert_eq!(sent.get(), 1);
}

/// Who does not answer a question is probed, and forgotten: after some minutes nobody asks the dead, and
/// round trips that have become shorter are known.
#[test]
fn rings_follow_what_changes() {
    let (mut world, map) = overlay(6, 80, false, Faults::default());
    world.faults.jitter = Duration::from_millis(40);
    world.run_for(Duration::from_secs(300));
    world.faults.jitter = Duration::ZERO;
    for at in 0..16 {
        world.kill(at * 5);
    }
    world.run_for(Duration::from_secs(240));
    let (asked, of_these) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let counts = (Rc::clone(&asked), Rc::clone(&of_these));
    let dead: Vec<SocketAddr> = (0..16).map(|at| address(at * 5, false)).collect();
    world.watch = Some(Box::new(move |_, _, transmit| {
        let to_dead = transmit.to.iter().filter(|to| dead.contains(to));
        counts.0.set(counts.0.get() + transmit.to.len());
        counts.1.set(counts.1.get() + to_dead.count());
    }));
    world.run_for(Duration::from_secs(60));
    println!("{} of {} receivers are gone", of_these.get(), asked.get());
    assert!(of_these.get() * 1000 < asked.get());
    world.watch = None;
    let living = world.living();
    let mut errors = Vec::new();
    for _ in 0..40 {
        let target = living[world.random.below(living.len())];
        let others: Vec<usize> = living.iter().copied().filter(|at| *at != target).collect();
        let from = others[world.random.below(others.len())];
        let goal = Goal::closest(address(target, false));
        let answer = ask(&mut world, from, goal).expect("an answer");
        let rtts = others.iter().map(|at| map.rtt(*at, target));
        let truth = rtts.fold(f64::INFINITY, f64::min);
        errors.push(map.rtt(answer.best, target) - truth);
    }
    println!("mean error {:.2} ms", mean(&errors));
    assert!(mean(&errors) < 3.0, "{errors:?}");
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = |seed| overlay(seed, 20, false, ROUGH).0.digest;
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_may_come(
        kinds in prop::collection::vec((0u8..10, prop::collection::vec(any::<u8>(), 0..120)), 0..60),
    ) {
        let mut world = World::new(5);
        for at in 0..4 {
            let config = Config::new("near", vec![address(0, false)]);
            world.add(address(at, false), |now, random| Node::new(now, config, random));
        }
        world.run_for(Duration::from_secs(1));
        let id = xcast_overlay::id::Id::hash_of(&[b"xcast meridian 1", b"near"]);
        for (kind, rest) in kinds {
            let mut datagram = b"XCMD\x01".to_vec();
            datagram.push(kind);
            datagram.extend(&id.octets()[..8]);
            datagram.extend(rest);
            let (from, to) = (world.random.below(6), world.random.below(4));
            world.inject(address(from, false), to, datagram);
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(Duration::from_secs(30));
        world.events.clear();
        prop_assert!(ask(&mut world, 1, Goal::closest(address(2, false))).is_some());
    }
}
