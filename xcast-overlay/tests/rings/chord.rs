//! Chord and EpiChord, on the same work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use xcast_overlay::{
    chord::{Chord, Event, Node, Settings},
    epichord::{Cache, CacheConfig, EpiChord},
    krpc::Family,
    ring::{Contact, Position},
    runtime::{Protocol, Random, Transmit},
};

use crate::network::{LOSSY, Network, address, addresses, note, peers};

/// What Chord and EpiChord have in common, for tests.
pub trait Ring: Protocol<Event = Event> + Sized {
    fn create(at: usize, family: Family, now: Instant, random: Random) -> Self;
    fn start(&mut self, now: Instant, by: &[SocketAddr]);
    fn find(&mut self, now: Instant, key: Position);
    fn next(&self) -> Option<Contact>;
    fn previous(&self) -> Option<Contact>;
    fn is_ready(&self) -> bool;
    /// How long to wait before the next one joins.
    fn pause() -> Duration {
        Duration::from_millis(100)
    }
}

macro_rules! ring {
    ($node:ty, $create:expr) => {
        impl Ring for $node {
            fn create(at: usize, family: Family, _now: Instant, random: Random) -> Self {
                $create(at, family, random)
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
        }
    };
}

/// Stabilising is quicker than usual, so that networks are ready sooner.
fn quick(settings: Settings) -> Settings {
    Settings {
        stabilise: Duration::from_secs(10),
        ..settings
    }
}

ring!(Chord, |at, family, random| {
    Chord::new(quick(Chord::settings("test", address(at, family))), random)
});
ring!(EpiChord, |at, family, random| {
    let settings = quick(EpiChord::settings("test", address(at, family)));
    EpiChord::new(settings, CacheConfig::default(), random)
});

fn epichord(parallel: usize) -> impl Fn(usize, Instant, Random) -> EpiChord {
    move |at, _, random| {
        let settings = quick(EpiChord::settings("test", address(at, Family::Ipv4)));
        let cache = CacheConfig {
            parallel,
            ..CacheConfig::default()
        };
        Node::<Cache>::new(settings, cache, random)
    }
}

/// A network that grew from one peer.
pub fn grown<P: Ring>(
    seed: u64,
    count: usize,
    create: impl Fn(usize, Instant, Random) -> P,
    family: Family,
) -> Network<P> {
    let mut network = Network::new(seed);
    for at in 0..count {
        let random = Random::new(network.random.octets());
        let by: Vec<_> = (0..2.min(at))
            .map(|_| {
                let other = network.random.below(at);
                network.address(other)
            })
            .collect();
        let peer = create(at, network.now, random);
        network.put(&[address(at, family)], peer);
        network.act(at, |peer, now| peer.start(now, &by));
        let pause = if at < 50 {
            Duration::from_millis(500)
        } else {
            Duration::ZERO
        };
        network.run_for(pause.max(P::pause()));
    }
    let right = network.run_until(Duration::from_secs(600), |network| wrong(network) == 0);
    assert!(right, "{} of the ring are wrong", wrong(&network));
    network.events.clear();
    network
}

/// How many peers have another successor or predecessor than they should have.
pub fn wrong<P: Ring>(network: &Network<P>) -> usize {
    let mut all: Vec<(Contact, usize)> = network
        .living()
        .into_iter()
        .map(|at| (Contact::of(network.address(at)), at))
        .collect();
    all.sort();
    let pairs = all.iter().zip(all.iter().cycle().skip(1));
    pairs
        .filter(|((peer, at), (next, next_at))| {
            !network.node(*at).is_ready()
                || network.node(*at).next() != Some(*next)
                || network.node(*next_at).previous() != Some(*peer)
        })
        .count()
}

pub fn owner<P: Ring>(network: &Network<P>, key: Position) -> Contact {
    let living = network.living().into_iter();
    let living = living.map(|at| Contact::of(network.address(at)));
    living
        .min_by_key(|peer| key.distance_to(peer.position))
        .expect("somebody")
}

/// What look-ups cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub right: usize,
    pub count: usize,
    pub hops: f64,
    pub latency_ms: f64,
    /// Peers that were asked.
    pub asked: f64,
}

/// So many look-ups, each by a random peer for a random key, this time apart.
pub fn work<P: Ring>(network: &mut Network<P>, count: usize, apart: Duration) -> Cost {
    network.events.clear();
    for _ in 0..count {
        let at = network.random_living();
        let key = Position(u64::from_be_bytes(network.random.octets()));
        network.act(at, |peer, now| peer.find(now, key));
        network.run_for(apart);
    }
    network.run_for(Duration::from_secs(20));
    let mut cost = Cost::default();
    for (_, _, event) in &network.events {
        if let Event::Found {
            key,
            owner: found,
            hops,
            asked,
            took,
            ..
        } = event
        {
            cost.count += 1;
            cost.right += usize::from(*found == Some(owner(network, *key)));
            cost.hops += f64::from(*hops);
            cost.asked += f64::from(*asked);
            cost.latency_ms += took.as_secs_f64() * 1000.0;
        }
    }
    assert_eq!(cost.count, count, "look-ups that did not end");
    let each = |sum: f64| sum / count as f64;
    Cost {
        hops: each(cost.hops),
        latency_ms: each(cost.latency_ms),
        asked: each(cost.asked),
        ..cost
    }
}

#[test]
fn chord_finds_owners_in_half_the_logarithm_of_hops() {
    for family in Family::ALL {
        let mut network = grown(
            1,
            120,
            |at, now, random| Chord::create(at, family, now, random),
            family,
        );
        // Fingers are looked up.
        network.run_for(Duration::from_secs(130));
        let cost = work(&mut network, 300, Duration::from_millis(50));
        println!("{family:?}: {cost:?}");
        assert_eq!(cost.right, 300);
        let half = 120f64.log2() / 2.0;
        assert!(
            (half - 1.0..half + 1.0).contains(&cost.hops),
            "{}",
            cost.hops
        );
    }
}

#[test]
fn epichord_is_quicker_than_chord_on_the_same_work() {
    let count = peers(if cfg!(debug_assertions) { 200 } else { 1000 });
    // Each peer looks up something every 0.5 s in the paper; here as often, for less long.
    let apart = Duration::from_secs_f64(0.5 / count as f64);
    let lookups = count * 20;
    let mut network = grown(
        2,
        count,
        |at, now, random| Chord::create(at, Family::Ipv4, now, random),
        Family::Ipv4,
    );
    network.run_for(Duration::from_secs(130));
    let chord = work(&mut network, lookups, apart);
    println!("{count} peers, Chord: {chord:?}");
    for parallel in 1..=5 {
        let mut network = grown(2, count, epichord(parallel), Family::Ipv4);
        // What peers hear of each other by working.
        work(&mut network, lookups, apart);
        let sent = network.sent;
        let cost = work(&mut network, lookups, apart);
        let each = |a: u64, b: u64| (a - b) as f64 / lookups as f64;
        println!(
            "p = {parallel}: {cost:?}; packets {:.2}, receivers {:.2} a look-up with answers and upkeep",
            each(network.sent.packets(), sent.packets()),
            each(network.sent.receivers(), sent.receivers()),
        );
        assert!(cost.right * 1000 >= lookups * 999, "{cost:?}");
        if parallel >= 3 {
            assert!(
                chord.hops >= 2.5 * cost.hops,
                "{} and {} hops",
                chord.hops,
                cost.hops
            );
            assert!(chord.latency_ms >= 2.5 * cost.latency_ms);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// In a network of any size, without any look-up by users: two live entries in each slice, or as many as there are peers.
    #[test]
    fn slices_have_live_peers(seed: u64, count in 5usize..200, ipv6: bool) {
        let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        let create = |at, now, random| EpiChord::create(at, family, now, random);
        let mut network = grown(seed, count, create, family);
        network.run_for(Duration::from_secs(300));
        let all: Vec<Position> = addresses(&network).iter().map(Position::of).collect();
        let mut slices = 0;
        for at in network.living() {
            let peer = network.node(at);
            let me = peer.contact().position;
            for (slice, live) in peer.slices(network.now) {
                let there = all.iter().filter(|position| slice.contains(me, **position)).count();
                prop_assert!(live >= there.min(2), "{} of {} in {:?} of {}", live, there, slice, at);
                slices += 1;
            }
        }
        prop_assert!(slices >= count, "{}", slices);
    }
}

fn repaired<P: Ring>(create: impl Fn(usize, Instant, Random) -> P) {
    let count = peers(200);
    let mut network = grown(4, count, create, Family::Ipv4);
    work(&mut network, count * 5, Duration::from_millis(5));
    for at in 0..count {
        if network.random.below(10) < 3 {
            network.kill(at);
        }
    }
    let began = network.now;
    let right = network.run_until(Duration::from_secs(1800), |network| wrong(network) == 0);
    println!("the ring is right after {:?}", network.now - began);
    assert!(right, "{} of the ring are wrong", wrong(&network));
    let cost = work(&mut network, 200, Duration::from_millis(50));
    assert_eq!(cost.right, 200);
}

#[test]
fn the_ring_is_repaired_after_three_in_ten_died() {
    repaired(|at, now, random| Chord::create(at, Family::Ipv4, now, random));
    repaired(epichord(3));
}

/// Who leaves is told so once, when both neighbours know or do not answer, whatever the network doubles.
pub fn leaves_once<P: Ring>(network: &mut Network<P>, leave: fn(&mut P, Instant)) {
    network.faults.duplicates = 1000;
    for step in 0..10 {
        let at = network.random_living();
        if step % 2 == 0
            && let Some(next) = network.node(at).next()
            && let Some(next) = network.place(next.address)
        {
            network.kill(next);
        }
        network.events.clear();
        network.act(at, leave);
        network.act(at, leave);
        network.run_for(Duration::from_secs(60));
        let left = network.events.iter().filter(|(_, of, _)| *of == at);
        assert_eq!(left.count(), 1);
        network.kill(at);
    }
}

#[test]
fn who_leaves_is_told_so_once() {
    let create = |at, now, random| Chord::create(at, Family::Ipv4, now, random);
    leaves_once(&mut grown(8, 60, create, Family::Ipv4), Chord::leave);
    leaves_once(
        &mut grown(8, 60, epichord(3), Family::Ipv4),
        EpiChord::leave,
    );
}

#[test]
fn look_ups_succeed_with_churn_and_loss() {
    let count = peers(150);
    let mut network = grown(5, count, epichord(3), Family::Ipv4);
    network.faults = LOSSY;
    let (mut right, mut all) = (0, 0);
    for _ in 0..40 {
        // Sessions of ten minutes.
        network.run_for(Duration::from_secs_f64(600.0 / count as f64));
        let at = network.random_living();
        if network.random.below(2) == 0 {
            network.act(at, EpiChord::leave);
            network.run_for(Duration::from_millis(200));
        }
        network.kill(at);
        let new = network.nodes.len();
        let by = network.random_living();
        let by = network.address(by);
        let random = Random::new(network.random.octets());
        let peer = epichord(3)(new, network.now, random);
        network.put(&[address(new, Family::Ipv4)], peer);
        network.act(new, |peer, now| peer.join(now, &[by]));
        network.run_for(Duration::from_secs(1));
        for _ in 0..5 {
            network.events.clear();
            let at = network.random_living();
            if !network.node(at).is_member() {
                continue;
            }
            let key = Position(u64::from_be_bytes(network.random.octets()));
            network.act(at, |peer, now| peer.find(now, key));
            network.run_for(Duration::from_secs(8));
            let truth = owner(&network, key);
            let found = network.events.iter().any(|(_, of, event)| {
                *of == at && matches!(event, Event::Found { owner, .. } if *owner == Some(truth))
            });
            right += usize::from(found);
            all += 1;
        }
    }
    println!("{right} of {all} look-ups");
    assert!(right * 100 >= all * 95, "{right} of {all}");
}

proptest! {
    /// Any octets, in any order and at any time: no panic, and the peer goes on.
    #[test]
    fn any_datagrams_do_no_harm(
        seed: u64,
        steps in prop::collection::vec(
            (0u8..20, 0usize..40, 0u64..8000, prop::collection::vec(any::<u8>(), 0..80)),
            0..120,
        ),
        member: bool,
    ) {
        let mut now = Instant::now();
        let mut peer = epichord(3)(0, now, Random::from_number(seed));
        peer.join(now, &[address(1, Family::Ipv4)]);
        let mut last_sent = peer.poll_transmit().expect("a question").datagram(0).to_vec();
        if member {
            peer.found_overlay(now);
        }
        for (kind, from, wait, body) in steps {
            now += Duration::from_millis(wait);
            if peer.poll_timeout().is_some_and(|at| at <= now) {
                peer.handle_timeout(now);
            }
            last_sent.truncate(16);
            if kind < 16 {
                last_sent[3] = 0x10 | kind;
            }
            let datagram = [last_sent.as_slice(), &body].concat();
            peer.handle(now, address(from, Family::Ipv4), datagram.into());
            while let Some(transmit) = peer.poll_transmit() {
                prop_assert!(!transmit.to.is_empty());
                last_sent = transmit.datagram(0).to_vec();
            }
            prop_assert!(!peer.successors().contains(&peer.contact()));
        }
    }
}

/// What a network sends in a minute.
pub fn minute<P: Ring>(mut network: Network<P>) -> Vec<(Duration, usize, Transmit)> {
    let noted = note(&mut network);
    let began = network.now;
    work(&mut network, 40, Duration::from_secs(1));
    let all = noted.take().into_iter();
    all.map(|(at, from, transmit)| (at - began, from, transmit))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = || minute(grown(6, 40, epichord(3), Family::Ipv4));
    let first = run();
    assert!(first.len() > 500, "{}", first.len());
    assert!(first == run());
}
