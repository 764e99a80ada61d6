//! Accordion.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use xcast_overlay::{
    accordion::{Accordion, Config, Counters},
    krpc::Family,
    ring::{Contact, Position},
    runtime::{Mode, Protocol as _, Random, Transmit},
};

use crate::{
    chord::{Ring, grown, leaves_once, minute, work, wrong},
    network::{LOSSY, Network, address, addresses, note, peers},
};

fn config(at: usize, family: Family, octets_per_second: u32) -> Config {
    Config {
        // Quicker than usual, so that networks are ready sooner.
        stabilise: Duration::from_secs(60),
        ..Config::new("test", address(at, family), octets_per_second)
    }
}

impl Ring for Accordion {
    fn create(at: usize, family: Family, now: Instant, random: Random) -> Self {
        Self::new(now, config(at, family, 100), random)
    }
    fn start(&mut self, now: Instant, by: &[SocketAddr]) {
        if by.is_empty() {
            self.found_overlay(now);
        } else {
            self.join(now, by);
        }
    }
    fn find(&mut self, now: Instant, key: Position) {
        self.lookup(now, key);
    }
    fn next(&self) -> Option<Contact> {
        self.successors().first().copied()
    }
    fn previous(&self) -> Option<Contact> {
        self.predecessor()
    }
    fn is_ready(&self) -> bool {
        self.is_member()
    }
    fn pause() -> Duration {
        Duration::from_secs(5)
    }
}

/// A network with a budget, in which all have been for half an hour.
fn network(seed: u64, count: usize, change: impl Fn(Config) -> Config) -> Network<Accordion> {
    let create = |at: usize, now: Instant, random| {
        Accordion::new(now, change(config(at, Family::Ipv4, 60)), random)
    };
    let mut network = grown(seed, count, create, Family::Ipv4);
    network.run_for(Duration::from_secs(1800));
    network
}

fn counters(network: &Network<Accordion>) -> Counters {
    let mut sum = Counters::default();
    for at in network.living() {
        let of = network.node(at).counters();
        sum.explored += of.explored;
        sum.learnt += of.learnt;
        sum.passed += of.passed;
        sum.dropped += of.dropped;
        sum.octets += of.octets;
        sum.packets += of.packets;
    }
    sum
}

#[test]
fn look_ups_find_owners_for_both_families() {
    for (family, seed) in Family::ALL.into_iter().zip([1, 6]) {
        let mut network = grown(
            seed,
            100,
            |at, now, random| Accordion::create(at, family, now, random),
            family,
        );
        network.run_for(Duration::from_secs(1800));
        let cost = work(&mut network, 200, Duration::from_millis(500));
        println!("{family:?}: {cost:?} {:?}", counters(&network));
        // However much is looked up, nobody's budget is too small for its neighbours.
        assert_eq!(wrong(&network), 0);
        assert!(cost.right >= 198, "{cost:?}");
    }
}

#[test]
fn the_density_of_entries_is_inverse_to_distance() {
    let count = peers(300);
    let network = network(2, count, |config| config);
    // By octaves of distance, from half of the ring to where few peers are.
    let octaves = count.ilog2() as usize - 3;
    let mut known = vec![0; octaves];
    let mut there = vec![0; octaves];
    let octave = |distance: u64| distance.leading_zeros() as usize;
    for at in network.living() {
        let peer = network.node(at);
        for distance in peer.distances(network.now) {
            if octave(distance) < octaves {
                known[octave(distance)] += 1;
            }
        }
        for address in &addresses(&network) {
            let distance = peer.contact().position.distance_to(Position::of(address));
            if octave(distance) < octaves && distance > 0 {
                there[octave(distance)] += 1;
            }
        }
    }
    println!("{count} peers know {known:?} of {there:?}, the far ones first");
    // As many of each octave are a density of 1 / distance. Known at random, the farthest would be 16 times as many as
    // those of the fifth octave.
    let mean = known.iter().sum::<u32>() as f64 / known.len() as f64;
    for known in &known {
        assert!(
            (mean / 2.0..mean * 2.0).contains(&f64::from(*known)),
            "{known} for {mean}"
        );
    }
    // From octave to octave a larger share is known; but for the first two, of which the farther has too many.
    let share = |at: usize| f64::from(known[at]) / f64::from(there[at]);
    for at in 2..octaves {
        assert!(
            share(at) > 1.2 * share(at - 1),
            "{} and {}",
            share(at),
            share(at - 1)
        );
    }
}

#[test]
fn one_packet_for_several_asks_more_peers_with_the_same_packets() {
    let run = |combine: bool| {
        let mut network = network(3, 100, |config| Config {
            combine,
            parallel: (5, 5),
            ..config
        });
        let before = counters(&network);
        network.run_for(Duration::from_secs(1800));
        let after = counters(&network);
        let explored = (after.explored - before.explored) as f64;
        let packets = (after.packets - before.packets) as f64;
        let octets = (after.octets - before.octets) as f64;
        println!("combined {combine}: {explored} explored by {packets} packets, {octets} octets");
        (explored / packets, explored / octets)
    };
    let (single, single_octets) = run(false);
    let (combined, combined_octets) = run(true);
    println!(
        "gain for as many packets {:.2}, for as many octets {:.2}",
        combined / single,
        combined_octets / single_octets
    );
    // 2 p / (p + 1) at p = 5; less stabilisation, which is the same for both.
    let gain = combined / single;
    assert!((1.5..1.7).contains(&gain), "{gain}");
    assert!(combined_octets > single_octets);
}

/// In each of several networks, although look-ups take what the budget has.
#[test]
fn the_ring_is_repaired_and_look_ups_go_on_with_loss() {
    let count = peers(100);
    let mut sum = 0;
    for seed in 1..6 {
        let mut network = network(seed, count, |config| config);
        for at in 0..count {
            if network.random.below(10) < 3 {
                network.kill(at);
            }
        }
        let began = network.now;
        let right = network.run_until(Duration::from_secs(3600), |network| wrong(network) == 0);
        println!("the ring is right after {:?}", network.now - began);
        assert!(right, "{} of the ring are wrong", wrong(&network));
        network.faults = LOSSY;
        let cost = work(&mut network, 200, Duration::from_millis(500));
        println!("{cost:?}");
        assert!(cost.right >= 190, "{cost:?}");
        sum += cost.right;
    }
    assert!(sum >= 980, "{sum}");
}

#[test]
fn who_leaves_is_told_so_once() {
    leaves_once(&mut network(9, 60, |config| config), Accordion::leave);
}

/// However much strangers ask: answers to them are dropped, the ring stays as it is, and look-ups go on.
#[test]
fn many_requests_of_strangers_do_no_harm() {
    let mut network = network(10, 20, |config| config);
    let hello = hello(10);
    for stranger in 0..200_000u32 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + stranger), 4000));
        network.inject(from, 3, hello.clone());
        if stranger % 1000 == 0 {
            network.run_for(Duration::from_secs(1));
            assert_eq!(wrong(&network), 0);
        }
    }
    assert!(network.node(3).counters().dropped >= 150_000);
    network.run_for(Duration::from_secs(20));
    let cost = work(&mut network, 20, Duration::from_secs(2));
    assert_eq!(cost.right, 20, "{cost:?}");
}

/// Octets on the sender's first link, by this test's own reckoning, for IPv4.
fn octets(transmit: &Transmit) -> usize {
    let (content, count) = (transmit.datagram(0).len(), transmit.to.len());
    match (transmit.mode, count) {
        (Mode::Shared, 2..) => 28 + 16 + 4 * count + content,
        _ => count * (28 + content),
    }
}

/// A network whose peers are asked more than their budget allows.
#[test]
fn no_peer_ever_sends_more_than_its_budget() {
    let (rate, count) = (20, 60);
    let create = |at: usize, now: Instant, random| {
        Accordion::new(now, config(at, Family::Ipv4, rate), random)
    };
    let mut network = grown(6, count, create, Family::Ipv4);
    let transmits = note(&mut network);
    let start = network.now;
    for _ in 0..600 {
        let at = network.random_living();
        let key = Position(u64::from_be_bytes(network.random.octets()));
        network.act(at, |peer, now| peer.lookup(now, key));
        network.run_for(Duration::from_millis(100));
    }
    network.run_for(Duration::from_secs(300));
    let transmits = transmits.take();
    assert!(
        transmits
            .iter()
            .any(|(_, _, transmit)| transmit.to.len() > 1)
    );
    let mut sent = vec![0.0; count];
    for (at, of, transmit) in &transmits {
        sent[*of] += octets(transmit) as f64;
        let most = (*at - start).as_secs_f64() * f64::from(rate) + f64::from(rate) * 100.0;
        assert!(sent[*of] <= most + 1e-6, "{} of {most}", sent[*of]);
    }
    // The budget was used.
    assert!(counters(&network).dropped > 0);
}

/// With budget left one more is asked at a time, and half as many where it is used up.
#[test]
fn more_are_asked_at_once_while_there_is_budget() {
    let began = Instant::now();
    let config = Config {
        parallel: (1, 8),
        ..config(0, Family::Ipv4, 60)
    };
    let mut peer = Accordion::new(began, config, Random::from_number(9));
    peer.found_overlay(began);
    // Asks for neighbours: a header of that kind.
    let mut question = hello(9);
    question.truncate(16);
    question[3] = question[3] & 0xf0 | 3;
    let mut seen = vec![peer.parallel()];
    for second in 1..90 {
        let now = began + Duration::from_secs(second);
        while let Some(at) = peer.poll_timeout().filter(|at| *at <= now) {
            peer.handle_timeout(at);
        }
        if second > 50 {
            for from in 1..60 {
                peer.handle(now, address(from, Family::Ipv4), question.clone().into());
            }
        }
        while peer.poll_transmit().is_some() {}
        if seen.last() != Some(&peer.parallel()) {
            seen.push(peer.parallel());
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8, 4, 2, 1]);
}

/// A peer asks more than its budget allows, so that its requests wait: whom it has not asked yet is not
/// silent.
#[test]
fn nobody_is_forgotten_who_was_not_asked_yet() {
    let create = |at: usize, now: Instant, random| {
        let rate = if at == 0 { 30 } else { 1000 };
        Accordion::new(now, config(at, Family::Ipv4, rate), random)
    };
    let mut network = grown(8, 60, create, Family::Ipv4);
    network.run_for(Duration::from_secs(600));
    let before = network.node(0).counters();
    let known = network.node(0).distances(network.now).len();
    for key in 0..600u64 {
        network.act(0, |peer, now| {
            peer.lookup(now, Position(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        });
        network.run_for(Duration::from_millis(100));
    }
    let after = network.node(0).counters();
    println!("{known} known; {before:?}, then {after:?}");
    assert!(after.dropped > before.dropped + 100, "{after:?}");
    assert_eq!(after.forgotten, 0);
}

proptest! {
    /// Whatever a peer is told and asked, in any order: it never sends more than its budget allows,
    /// in any span of time, and never panics.
    #[test]
    fn the_budget_is_kept_and_any_datagrams_do_no_harm(
        seed: u64,
        rate in 2u32..60,
        combine: bool,
        steps in prop::collection::vec(
            (0u8..20, 0usize..40, 0u64..9000, prop::collection::vec(any::<u8>(), 0..80), any::<bool>()),
            0..150,
        ),
    ) {
        let began = Instant::now();
        let mut now = began;
        let config = Config { combine, ..config(0, Family::Ipv4, rate) };
        let mut peer = Accordion::new(now, config, Random::from_number(seed));
        peer.found_overlay(now);
        let mut last_sent = hello(seed);
        let mut sent: Vec<(Duration, usize)> = Vec::new();
        for (kind, from, wait, body, lookup) in steps {
            let until = now + Duration::from_millis(wait);
            while let Some(at) = peer.poll_timeout().filter(|at| *at <= until) {
                now = now.max(at);
                peer.handle_timeout(now);
                prop_assert!(peer.poll_timeout().is_none_or(|at| at > now));
                while let Some(transmit) = peer.poll_transmit() {
                    last_sent = transmit.datagram(0).to_vec();
                    sent.push((now - began, octets(&transmit)));
                }
            }
            now = until;
            last_sent.truncate(16);
            if kind < 16 {
                last_sent[3] = 0x10 | kind;
            }
            let datagram = [last_sent.as_slice(), &body].concat();
            peer.handle(now, address(from, Family::Ipv4), datagram.into());
            if lookup {
                peer.lookup(now, Position(u64::from(kind) << 59));
            }
            while let Some(transmit) = peer.poll_transmit() {
                last_sent = transmit.datagram(0).to_vec();
                sent.push((now - began, octets(&transmit)));
            }
        }
        for (first, (from, _)) in sent.iter().enumerate() {
            let mut sum = 0;
            for (at, octets) in &sent[first..] {
                sum += octets;
                let most = (*at - *from).as_secs_f64() * f64::from(rate) + f64::from(rate) * 100.0;
                prop_assert!(sum as f64 <= most + 1e-3, "{} of {}", sum, most);
            }
        }
    }
}

/// What a peer of the overlay says first.
fn hello(seed: u64) -> Vec<u8> {
    let now = Instant::now();
    let mut peer = Accordion::new(now, config(1, Family::Ipv4, 60), Random::from_number(seed));
    peer.join(now, &[address(0, Family::Ipv4)]);
    peer.poll_transmit()
        .expect("a question")
        .datagram(0)
        .to_vec()
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = || {
        let create = |at: usize, now: Instant, random| {
            Accordion::new(now, config(at, Family::Ipv4, 60), random)
        };
        minute(grown(7, 30, create, Family::Ipv4))
    };
    let first = run();
    assert!(first.len() > 100, "{}", first.len());
    assert!(first == run());
}
