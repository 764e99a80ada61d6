//! The overlays: how their nodes are made, and what is right.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use xcast_overlay::{
    accordion::{self, Accordion},
    chord::{self, Chord},
    d1ht,
    epichord::{CacheConfig, EpiChord},
    id::Id,
    kademlia,
    krpc::{Family, signing_key},
    memory::World,
    meridian,
    others::{can, flood, freenet, tapestry},
    ring::{Contact, Position},
    runtime::Random,
    tree::{self, Member},
    walks::{gia, lms},
};

use super::subject::{Newcomer, Subject, Truth, at};
use crate::{experiments::work, random::hash};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// Look-ups: how many of the k closest nodes are found.
    Kademlia,
    /// Look-ups: whether the owner of a key is found.
    D1ht,
    /// The same.
    Chord,
    /// The same.
    EpiChord,
    /// The same.
    Accordion,
    /// Queries for the node closest to another: whether it is as close as the true one, or nearly.
    Meridian,
    /// Searches: whether anybody is found that is there.
    Gia,
    /// What one node stored some seconds ago is looked for by another.
    Lms,
    /// Searches: whether anybody is found that is there.
    Flooding,
    /// Messages of the source: whether a member gets it.
    Tree,
    /// Look-ups: whether it is known who has a point.
    Can,
    /// Look-ups: whether the root of a key is found.
    Tapestry,
    /// What one node stored some seconds ago is asked for by another.
    Freenet,
}

impl Overlay {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Kademlia,
        Self::D1ht,
        Self::Chord,
        Self::EpiChord,
        Self::Accordion,
        Self::Meridian,
        Self::Gia,
        Self::Lms,
        Self::Flooding,
        Self::Tree,
        Self::Can,
        Self::Tapestry,
        Self::Freenet,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kademlia => "Kademlia",
            Self::D1ht => "D1HT",
            Self::Chord => "Chord",
            Self::EpiChord => "EpiChord",
            Self::Accordion => "Accordion",
            Self::Meridian => "Meridian",
            Self::Gia => "Gia",
            Self::Lms => "LMS",
            Self::Flooding => "flooding",
            Self::Tree => "tree",
            Self::Can => "CAN",
            Self::Tapestry => "Tapestry",
            Self::Freenet => "Freenet",
        }
    }

    /// How many nodes there are unless something else is asked for: 10,000 where a few minutes are enough
    /// for them.
    #[must_use]
    pub const fn usual_peers(self) -> usize {
        match self {
            Self::Kademlia | Self::D1ht => 10_000,
            Self::Chord
            | Self::EpiChord
            | Self::Flooding
            | Self::Tree
            | Self::Can
            | Self::Tapestry => 2_000,
            Self::Accordion | Self::Meridian | Self::Gia | Self::Lms | Self::Freenet => 1_000,
        }
    }
}

/// A key that each operation has to itself.
fn key_of(truth: &Truth) -> Position {
    Position(hash(&[truth.serial, 6]))
}

impl Subject for kademlia::Node {
    fn create(now: Instant, mut random: Random, newcomer: &Newcomer<'_>) -> Self {
        let mut config = kademlia::Config::own_network();
        // Without one, it would take another by its address (BEP 42), and join again.
        config.id = Some(Id::random(&mut random));
        config.families = vec![Family::Ipv4];
        config.bootstrap = newcomer.by.to_vec();
        // Half a kilobyte for each peer remembered is much, where there are ten thousand nodes.
        config.max_peers = 1024;
        Self::new(now, config, random)
    }

    fn start(&mut self, now: Instant, _by: &[SocketAddr]) {
        self.join(now);
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_idle()
    }

    fn ask(world: &mut World<Self>, _truth: &Truth, place: usize) -> Vec<usize> {
        let target = Id::random(&mut world.random);
        world.act(place, |node, now| node.find_node(now, target));
        vec![place]
    }

    fn outcome(
        world: &World<Self>,
        _truth: &Truth,
        place: usize,
        event: &kademlia::Event,
    ) -> Option<f64> {
        let kademlia::Event::Finished { report, .. } = event else {
            return None;
        };
        let found = &report.families.first()?.closest;
        let others = world.nodes.iter().enumerate();
        let others = others.filter(|(other, _)| *other != place);
        let mut ids: Vec<Id> = others
            .filter_map(|(_, node)| Some(node.as_ref()?.id()))
            .collect();
        let k = 20.min(ids.len());
        ids.select_nth_unstable_by_key(k - 1, |id| id.distance(report.target));
        let right = ids[..k]
            .iter()
            .filter(|id| found.iter().any(|contact| contact.id == **id));
        Some(right.count() as f64 / k as f64)
    }
}

impl Subject for d1ht::Peer {
    const TOGETHER: bool = true;

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let config = d1ht::Config::new("simulated", newcomer.address());
        if newcomer.identity >= newcomer.count {
            return Self::new(config, random);
        }
        let table = TABLE.with_borrow_mut(|(count, table)| {
            if *count != newcomer.count {
                let mut all: Vec<Contact> = (0..newcomer.count)
                    .map(|other| Contact::of(at(other)))
                    .collect();
                all.sort_unstable_by_key(|contact| contact.position);
                (*count, *table) = (newcomer.count, all.into());
            }
            Arc::clone(table)
        });
        Self::with_table(now, config, random, table)
    }

    fn start(&mut self, now: Instant, by: &[SocketAddr]) {
        if !self.is_member() {
            self.join(now, by);
        }
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_member()
    }

    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        world.act(place, |peer, now| peer.lookup(now, key_of(truth)));
        vec![place]
    }

    fn outcome(
        world: &World<Self>,
        truth: &Truth,
        _place: usize,
        event: &d1ht::Event,
    ) -> Option<f64> {
        match event {
            d1ht::Event::Found { key, owner, .. } => {
                Some(owned(world, truth, *key, owner.as_ref()))
            }
            _ => None,
        }
    }
}

thread_local! {
    /// The table that all peers of D1HT share which begin together.
    static TABLE: std::cell::RefCell<(usize, Arc<[Contact]>)> =
        std::cell::RefCell::new((0, Arc::from([])));
}

/// Whether a look-up found who a key belongs to.
fn owned<S: Subject>(
    world: &World<S>,
    truth: &Truth,
    key: Position,
    owner: Option<&Contact>,
) -> f64 {
    let is_ready = |address| {
        let node = world
            .place(address)
            .and_then(|place| world.nodes[place].as_ref());
        node.is_some_and(|node| node.is_ready(world.now))
    };
    let right = owner.is_some_and(|owner| truth.owns(key, owner.address, is_ready));
    f64::from(u8::from(right))
}

/// The three rings have the same commands and events.
macro_rules! ring {
    ($node:ty, $create:expr, $pause:expr, $crowd:expr) => {
        impl Subject for $node {
            const JOIN_PAUSE: Duration = $pause;
            const JOIN_CROWD: usize = $crowd;
            const SETTLE: Duration = Duration::from_secs(600);

            fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
                $create(now, random, newcomer.address())
            }

            fn start(&mut self, now: Instant, by: &[SocketAddr]) {
                if by.is_empty() {
                    self.found_overlay(now);
                } else {
                    self.join(now, by);
                }
            }

            fn is_ready(&self, _now: Instant) -> bool {
                self.is_member()
            }

            fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
                world.act(place, |peer, now| peer.lookup(now, key_of(truth)));
                vec![place]
            }

            fn outcome(
                world: &World<Self>,
                truth: &Truth,
                _place: usize,
                event: &chord::Event,
            ) -> Option<f64> {
                match event {
                    chord::Event::Found { key, owner, .. } => {
                        Some(owned(world, truth, *key, owner.as_ref()))
                    }
                    _ => None,
                }
            }
        }
    };
}

ring!(
    Chord,
    |_, random, address| Self::new(Self::settings("simulated", address), random),
    Duration::from_millis(100),
    usize::MAX
);
ring!(
    EpiChord,
    |_, random, address| Self::new(
        Self::settings("simulated", address),
        CacheConfig::default(),
        random
    ),
    Duration::from_millis(100),
    usize::MAX
);
ring!(
    Accordion,
    |now, random, address| Self::new(
        now,
        accordion::Config::new("simulated", address, 100),
        random
    ),
    Duration::from_secs(2),
    100
);

/// Milliseconds one way, of hosts in a square with access links of their own.
fn apart(one: usize, other: usize) -> f64 {
    let unit =
        |place: usize, what: u64| (hash(&[place as u64, what]) >> 11) as f64 / (1u64 << 53) as f64;
    let access = |place| -unit(place, 3).max(1e-6).ln();
    let (x, y) = (unit(one, 1) - unit(other, 1), unit(one, 2) - unit(other, 2));
    60.0 * x.hypot(y) + access(one) + access(other)
}

impl Subject for meridian::Node {
    const JOIN_CROWD: usize = 1000;
    const SETTLE: Duration = Duration::from_secs(180);
    const PATIENCE: Duration = Duration::from_secs(25);

    fn purpose(datagram: &[u8]) -> Option<&'static str> {
        meridian::purpose(datagram)
    }

    fn prepare(world: &mut World<Self>, _count: usize, _seed: u64) {
        world.latency = Box::new(|one, other| Duration::from_secs_f64(apart(one, other) / 1e3));
    }

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let config = meridian::Config::new("simulated", newcomer.by.to_vec());
        Self::new(now, config, random)
    }

    fn ask(world: &mut World<Self>, _truth: &Truth, place: usize) -> Vec<usize> {
        let target = loop {
            let target = world.random_living();
            if target != place {
                break world.address(target);
            }
        };
        world.act(place, |node, now| {
            node.query(now, meridian::Goal::closest(target))
        });
        TARGETS.with_borrow_mut(|targets| targets.push((place, target)));
        vec![place]
    }

    /// Right is who is at most 5 ms farther than the closest node.
    fn outcome(
        world: &World<Self>,
        _truth: &Truth,
        place: usize,
        event: &meridian::Event,
    ) -> Option<f64> {
        // Each asks in turn, and is answered in turn, or nearly.
        let target = TARGETS.with_borrow_mut(|targets| {
            let at = targets.iter().position(|(asker, _)| *asker == place)?;
            Some(targets.remove(at).1)
        })?;
        let meridian::Event::Found { best, .. } = event else {
            return Some(0.0);
        };
        let (target, best) = (world.place(target)?, world.place((*best)?)?);
        let living = world.living().into_iter().filter(|other| *other != target);
        let closest = living
            .map(|other| apart(other, target))
            .fold(f64::MAX, f64::min);
        let is_there = world.nodes[best].is_some() && best != target;
        let near = is_there && 2.0 * (apart(best, target) - closest) <= 5.0;
        Some(f64::from(u8::from(near)))
    }
}

thread_local! {
    /// Who asked for the closest to whom.
    static TARGETS: std::cell::RefCell<Vec<(usize, SocketAddr)>> = const {
        std::cell::RefCell::new(Vec::new())
    };
}

/// Whether one of those who are said to have something is there.
fn any_lives<S: Subject>(world: &World<S>, holders: &[SocketAddr]) -> f64 {
    let lives = |holder: &SocketAddr| {
        let place = world.place(*holder);
        place.is_some_and(|place| world.nodes[place].is_some())
    };
    f64::from(u8::from(holders.iter().any(lives)))
}

impl Subject for gia::Node {
    const PATIENCE: Duration = Duration::from_secs(25);

    fn purpose(datagram: &[u8]) -> Option<&'static str> {
        gia::purpose(datagram)
    }

    fn create(now: Instant, mut random: Random, newcomer: &Newcomer<'_>) -> Self {
        let capacity = work::capacity(&mut random);
        let (address, by) = (newcomer.address(), newcomer.by.to_vec());
        let config = gia::Config::new("simulated", address, by, capacity);
        let things = work::things(newcomer.identity, newcomer.count);
        let mut node = Self::new(now, config, random);
        node.share(now, things);
        node
    }

    fn is_ready(&self, _now: Instant) -> bool {
        !self.status().neighbours.is_empty()
    }

    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        world.act(place, |node, now| {
            node.search(now, truth.serial % work::THINGS)
        });
        vec![place]
    }

    fn outcome(
        world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &gia::Event,
    ) -> Option<f64> {
        Some(match event {
            gia::Event::Found { holders, .. } => any_lives(world, holders),
            gia::Event::NotFound { .. } => 0.0,
        })
    }
}

/// The neighbours of a place in a graph of rings, each in an order of its own.
fn neighbours(newcomer: &Newcomer<'_>, rings: u64) -> Vec<SocketAddr> {
    let rings = (0..rings).map(|ring| hash(&[newcomer.seed, ring]));
    let all = work::neighbours(newcomer.identity, newcomer.count, rings);
    all.into_iter().map(at).collect()
}

impl Subject for flood::Node {
    const RESTARTS: bool = true;
    const SETTLE: Duration = Duration::from_secs(5);

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let config = flood::Config::new("simulated", newcomer.address(), neighbours(newcomer, 3));
        let things = work::things(newcomer.identity, newcomer.count);
        let mut node = Self::new(now, config, random);
        node.share(things);
        node
    }

    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        world.act(place, |node, now| {
            node.search(now, truth.serial % work::THINGS)
        });
        vec![place]
    }

    fn outcome(
        world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &flood::Event,
    ) -> Option<f64> {
        match event {
            flood::Event::Found { holders, .. } => Some(any_lives(world, holders)),
            flood::Event::NotFound { .. } => Some(0.0),
            flood::Event::Here { .. } => None,
        }
    }
}

impl Subject for lms::Node {
    const RESTARTS: bool = true;

    fn purpose(datagram: &[u8]) -> Option<&'static str> {
        lms::purpose(datagram)
    }

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let config = lms::Config::new("simulated", newcomer.address(), neighbours(newcomer, 2));
        Self::new(now, config, random)
    }

    /// Looks for what was stored some operations ago, and stores something else.
    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        let by = world.random_living();
        // As many replicas as walkers find one of with a probability of some 95 % (1 - exp(-r s d_h / n)).
        let each = (0.8 * (world.living().len() as f64).sqrt()).ceil() as usize;
        world.act(by, |node, now| node.store(now, truth.serial, "here", each));
        let Some(key) = work::earlier(truth.serial) else {
            return Vec::new();
        };
        world.act(place, |node, now| node.find(now, key, each));
        vec![place]
    }

    fn outcome(
        _world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &lms::Event,
    ) -> Option<f64> {
        match event {
            lms::Event::Found { .. } => Some(1.0),
            lms::Event::Ended { .. } => None,
        }
    }
}

impl Subject for Member {
    const JOIN_PAUSE: Duration = Duration::from_millis(100);
    const SETTLE: Duration = Duration::from_secs(10);

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let key = signing_key([1; 32]);
        let config = if newcomer.identity == 0 {
            tree::Config::source("simulated", key, 1)
        } else {
            let mut by = newcomer.by.to_vec();
            by.push(at(0));
            tree::Config::receiver("simulated", key.verifying_key().to_bytes(), by)
        };
        let config = tree::Config {
            packets: tree::Packets {
                max_destinations: 10,
                ..tree::Packets::default()
            },
            packets_per_message: 1,
            ..config
        };
        Self::new(now, config, random)
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.is_connected(now)
    }

    fn ask(world: &mut World<Self>, _truth: &Truth, _place: usize) -> Vec<usize> {
        let sent = world.act(0, |source, now| source.send(now, b"news").is_ok());
        let mut all = world.living();
        // Also who has no parent just now, and gets it when it has one again.
        all.retain(|place| sent && *place != 0);
        all
    }

    fn outcome(
        _world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &tree::Event,
    ) -> Option<f64> {
        matches!(event, tree::Event::Message { .. }).then_some(1.0)
    }
}

impl Subject for can::Node {
    const JOIN_PAUSE: Duration = Duration::from_millis(200);

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let by = newcomer.by.to_vec();
        let config = can::Config::new("simulated", newcomer.address(), by);
        Self::new(now, config, random)
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_member()
    }

    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        world.act(place, |node, now| node.lookup(now, key_of(truth)));
        vec![place]
    }

    /// Right is whoever has the point, and is there.
    fn outcome(
        world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &can::Event,
    ) -> Option<f64> {
        let can::Event::Found { key, owner, .. } = event else {
            return None;
        };
        let place = owner.and_then(|owner| world.place(owner));
        let node = place.and_then(|place| world.nodes[place].as_ref());
        let point = can::Point(key.0);
        let has = node.is_some_and(|node| node.zones().iter().any(|zone| zone.contains(point)));
        Some(f64::from(u8::from(has)))
    }
}

impl Subject for tapestry::Node {
    const JOIN_PAUSE: Duration = Duration::from_millis(200);
    const JOIN_CROWD: usize = 1000;

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let by = newcomer.by.to_vec();
        let config = tapestry::Config::new("simulated", newcomer.address(), by);
        Self::new(now, config, random)
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_member()
    }

    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        world.act(place, |node, now| node.lookup(now, key_of(truth)));
        vec![place]
    }

    fn outcome(
        world: &World<Self>,
        truth: &Truth,
        _place: usize,
        event: &tapestry::Event,
    ) -> Option<f64> {
        let tapestry::Event::Root { key, root, .. } = event else {
            return None;
        };
        // Who is about to join may be known to some, and not to others.
        let is_ready = |address: &SocketAddr| {
            let node = world
                .place(*address)
                .and_then(|place| world.nodes[place].as_ref());
            node.is_some_and(|node| node.is_ready(world.now))
        };
        let all = truth.ring.values().copied();
        let right = [
            tapestry::root_of(*key, all.clone()),
            tapestry::root_of(*key, all.filter(is_ready)),
        ];
        Some(f64::from(u8::from(root.is_some() && right.contains(root))))
    }
}

impl Subject for freenet::Node {
    const JOIN_PAUSE: Duration = Duration::from_millis(200);
    const SETTLE: Duration = Duration::from_secs(180);
    const PATIENCE: Duration = Duration::from_secs(25);

    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self {
        let by = newcomer.by.to_vec();
        let config = freenet::Config::new("simulated", newcomer.address(), by);
        Self::new(now, config, random)
    }

    /// Asks for what was stored some operations ago, and stores something else.
    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize> {
        let by = world.random_living();
        world.act(by, |node, _| node.insert(hash(&[truth.serial, 7]), "here"));
        let Some(then) = work::earlier(truth.serial) else {
            return Vec::new();
        };
        world.act(place, |node, now| node.request(now, hash(&[then, 7])));
        vec![place]
    }

    fn outcome(
        _world: &World<Self>,
        _truth: &Truth,
        _place: usize,
        event: &freenet::Event,
    ) -> Option<f64> {
        Some(match event {
            freenet::Event::Found { .. } => 1.0,
            freenet::Event::NotFound { .. } => 0.0,
        })
    }
}
