//! Events in any order: whatever is delivered late, twice, never, damaged or from somebody else, and
//! whenever a node is woken, it does not panic, does not wake itself for ever, answers each event with few
//! messages, and what it remembers is bounded.

use std::{
    fmt::Debug,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use xcast_overlay::{
    accordion::{self, Accordion},
    chord::Chord,
    d1ht,
    epichord::{CacheConfig, EpiChord},
    id::Id,
    kademlia,
    krpc::{Family, signing_key},
    members::{Members, MembersConfig},
    meridian,
    others::{can, flood, freenet, tapestry},
    ring::Position,
    runtime::{Protocol, Random},
    tree::{self, Member},
    walks::{gia, lms},
};

/// Nodes that talk.
const NODES: usize = 5;
/// Most messages that one event brings, by receivers.
const MOST_AT_ONCE: usize = 400;
/// Most octets of what a node is when it is written out: what it remembers is some of that.
const MOST_STATE: usize = 4 << 20;

trait Subject: Protocol + Debug {
    fn create(at: usize, now: Instant, random: Random) -> Self;
    /// Something that a user asks for.
    fn command(&mut self, now: Instant, what: u16);
}

fn address(at: usize) -> SocketAddr {
    ([20, 0, at as u8, 1], 4000).into()
}

fn others(at: usize) -> Vec<SocketAddr> {
    (0..NODES)
        .filter(|other| *other != at)
        .map(address)
        .collect()
}

/// Who joins by whom: the first by nobody.
fn earlier(at: usize) -> Vec<SocketAddr> {
    (0..at).map(address).collect()
}

fn key(what: u16) -> Position {
    Position::of_key(&what.to_be_bytes())
}

impl Subject for kademlia::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let mut config = kademlia::Config::own_network();
        config.families = vec![Family::Ipv4];
        config.bootstrap = others(at);
        let mut node = Self::new(now, config, random);
        node.join(now);
        node
    }

    fn command(&mut self, now: Instant, what: u16) {
        let id = Id::hash_of(&[&what.to_be_bytes()]);
        match what % 5 {
            0 => drop(self.announce(now, id, None)),
            1 => drop(self.find_peers(now, id)),
            2 => drop(self.find_many(now, &[id, Id::default()])),
            3 => drop(self.ping(now, address(usize::from(what) % NODES))),
            _ => drop(self.find_node(now, id)),
        }
    }
}

impl Subject for d1ht::Peer {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let mut peer = Self::new(d1ht::Config::new("orders", address(at)), random);
        match at {
            0 => peer.found_overlay(now),
            _ => peer.join(now, &earlier(at)),
        }
        peer
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 8 {
            0 => self.leave(now),
            1 => self.join(now, &[address(0), address(1)]),
            _ => drop(self.lookup(now, key(what))),
        }
    }
}

impl Subject for Members {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let key = signing_key([at as u8 + 1; 32]);
        let mut member = Self::new(MembersConfig::new("orders", key, vec![address(at)]), random);
        member.join(now, &earlier(at));
        member
    }

    fn command(&mut self, now: Instant, what: u16) {
        let others: Vec<Id> = self.present().collect();
        match what % 8 {
            0 => self.leave(now),
            1 => self.join(now, &[address(0), address(1)]),
            2 => self.push_table(now, &others, &others),
            3 => self.exchange_state(now, &others, what.to_be_bytes().to_vec()),
            4 | 5 => {
                for other in others {
                    self.subscribe(now, other, "topic", what % 16 < 8);
                }
            }
            _ => {
                self.publish(now, "topic", what.to_be_bytes().to_vec());
            }
        }
    }
}

macro_rules! ring {
    ($node:ty, $create:expr) => {
        impl Subject for $node {
            fn create(at: usize, now: Instant, random: Random) -> Self {
                let mut peer: Self = $create(address(at), now, random);
                match at {
                    0 => peer.found_overlay(now),
                    _ => peer.join(now, &earlier(at)),
                }
                peer
            }

            fn command(&mut self, now: Instant, what: u16) {
                match what % 8 {
                    0 => self.leave(now),
                    1 => self.join(now, &[address(0), address(1)]),
                    _ => drop(self.lookup(now, key(what))),
                }
            }
        }
    };
}

ring!(Chord, |at, _, random| Chord::new(
    Chord::settings("orders", at),
    random
));
ring!(EpiChord, |at, _, random| EpiChord::new(
    EpiChord::settings("orders", at),
    CacheConfig::default(),
    random
));
ring!(Accordion, |at, now, random| Accordion::new(
    now,
    accordion::Config::new("orders", at, 100),
    random
));

impl Subject for meridian::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        Self::new(now, meridian::Config::new("orders", others(at)), random)
    }

    fn command(&mut self, now: Instant, what: u16) {
        let target = address(usize::from(what) % NODES);
        let bound = Duration::from_millis(u64::from(what));
        let goal = match what % 3 {
            0 => meridian::Goal::closest(target),
            1 => meridian::Goal::central(others(0)),
            _ => meridian::Goal::Within(vec![(target, bound), (address(1), bound)]),
        };
        self.query(now, goal);
    }
}

impl Subject for gia::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let mut config = gia::Config::new("orders", address(at), others(at), 100);
        (config.walkers, config.branch) = (3, 2);
        Self::new(now, config, random)
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 2 {
            0 => self.share(now, [u64::from(what)]),
            _ => drop(self.search(now, u64::from(what) - 1)),
        }
    }
}

impl Subject for lms::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        Self::new(
            now,
            lms::Config::new("orders", address(at), others(at)),
            random,
        )
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 2 {
            0 => drop(self.store(now, u64::from(what), "value", 3)),
            _ => drop(self.find(now, u64::from(what) - 1, 3)),
        }
    }
}

impl Subject for flood::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let mut config = flood::Config::new("orders", address(at), others(at));
        if at == NODES - 1 {
            config.role = flood::Role::Leaf;
        }
        Self::new(now, config, random)
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 3 {
            0 => self.share([u64::from(what)]),
            1 => self.ping(),
            _ => drop(self.search(now, u64::from(what) - 2)),
        }
    }
}

impl Subject for Member {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        let secret = signing_key([1; 32]);
        let config = match at {
            0 => tree::Config::source("orders", secret, 1),
            _ => tree::Config::receiver("orders", secret.verifying_key().to_bytes(), others(at)),
        };
        Self::new(now, config, random)
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 64 {
            0 => self.leave(now),
            // Only the source can.
            _ => drop(self.send(now, &what.to_be_bytes())),
        }
    }
}

impl Subject for can::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        Self::new(
            now,
            can::Config::new("orders", address(at), earlier(at)),
            random,
        )
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 16 {
            0 => self.leave(),
            1..4 => self.tell_all(what.to_be_bytes().to_vec()),
            _ => drop(self.lookup(now, key(what))),
        }
    }
}

impl Subject for tapestry::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        Self::new(
            now,
            tapestry::Config::new("orders", address(at), earlier(at)),
            random,
        )
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 3 {
            0 => self.publish(now, key(what)),
            1 => drop(self.locate(now, key(what - 1))),
            _ => drop(self.lookup(now, key(what))),
        }
    }
}

impl Subject for freenet::Node {
    fn create(at: usize, now: Instant, random: Random) -> Self {
        Self::new(
            now,
            freenet::Config::new("orders", address(at), others(at)),
            random,
        )
    }

    fn command(&mut self, now: Instant, what: u16) {
        match what % 2 {
            0 => self.insert(u64::from(what), "value"),
            _ => drop(self.request(now, u64::from(what) - 1)),
        }
    }
}

/// What happens next, and to what.
type Step = (u8, u16, u16);

struct Run<S> {
    now: Instant,
    nodes: Vec<S>,
    /// Datagrams that were sent and may come, or come again.
    pool: Vec<(SocketAddr, usize, Bytes)>,
}

impl<S: Subject> Run<S> {
    fn new() -> Self {
        let now = Instant::now();
        let create = |at: usize| S::create(at, now, Random::from_number(at as u64));
        let mut run = Self {
            now,
            nodes: (0..NODES).map(create).collect(),
            pool: Vec::new(),
        };
        for at in 0..NODES {
            run.flush(at);
        }
        run
    }

    fn flush(&mut self, at: usize) {
        let mut receivers = 0;
        while let Some(transmit) = self.nodes[at].poll_transmit() {
            assert!(!transmit.to.is_empty());
            receivers += transmit.to.len();
            for (place, to) in transmit.to.iter().enumerate() {
                if let Some(to) = (0..NODES).find(|other| address(*other) == *to) {
                    self.pool.push((address(at), to, transmit.datagram(place)));
                }
            }
        }
        assert!(receivers <= MOST_AT_ONCE, "{receivers} messages at once");
        while self.nodes[at].poll_event().is_some() {}
        // The oldest are lost.
        let most = 2000;
        if self.pool.len() > most {
            self.pool.drain(..self.pool.len() - most);
        }
    }

    fn wake(&mut self, at: usize) {
        // What is due is done by being told so, soon.
        for _ in 0..1000 {
            if self.nodes[at]
                .poll_timeout()
                .is_none_or(|timer| timer > self.now)
            {
                return;
            }
            self.nodes[at].handle_timeout(self.now);
            self.flush(at);
        }
        panic!("node {at} wakes itself for ever");
    }

    fn step(&mut self, (kind, one, other): Step) {
        let at = usize::from(one) % NODES;
        match kind {
            // Most of what is sent comes, in some order, the latest more often.
            0..120 => {
                if let Some(last) = self.pool.len().checked_sub(1) {
                    let back = usize::from(other) % 8;
                    let (from, to, datagram) = self.pool.swap_remove(last.saturating_sub(back));
                    self.nodes[to].handle(self.now, from, datagram);
                    self.flush(to);
                }
            }
            // Again, or from somebody else, or to somebody else, or damaged.
            120..170 => {
                if !self.pool.is_empty() {
                    let (mut from, mut to, datagram) =
                        self.pool[usize::from(one) % self.pool.len()].clone();
                    let mut octets = datagram.to_vec();
                    match other % 4 {
                        0 => {}
                        1 => from = address(usize::from(other / 4) % (NODES + 3)),
                        2 => to = usize::from(other / 4) % NODES,
                        _ => {
                            let length = octets.len().max(1);
                            match octets.get_mut(usize::from(other / 4) % length) {
                                Some(octet) => *octet = other as u8,
                                None => octets.push(0),
                            }
                            octets.truncate(length - usize::from(other / 1024) % length);
                        }
                    }
                    self.nodes[to].handle(self.now, from, octets.into());
                    self.flush(to);
                }
            }
            170..200 => {
                self.nodes[at].command(self.now, other);
                self.flush(at);
            }
            // Early is no harm.
            200..215 => {
                self.nodes[at].handle_timeout(self.now);
                self.flush(at);
            }
            215..250 => {
                self.now += Duration::from_millis(u64::from(other) % 3000);
                for at in 0..NODES {
                    self.wake(at);
                }
            }
            // One starts anew.
            250..252 => {
                self.nodes[at] = S::create(at, self.now, Random::from_number(other.into()));
                self.flush(at);
            }
            _ => self.pool.clear(),
        }
    }

    fn check(mut self) {
        self.now += Duration::from_secs(120);
        for at in 0..NODES {
            self.wake(at);
            let octets = format!("{:?}", self.nodes[at]).len();
            assert!(octets <= MOST_STATE, "node {at} is {octets} octets");
        }
    }
}

macro_rules! any_order {
    ($($name:ident: $subject:ty),*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $name(steps in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u16>()), 0..400)) {
                    let mut run = Run::<$subject>::new();
                    for step in steps {
                        run.step(step);
                    }
                    run.check();
                }
            )*
        }
    };
}

any_order! {
    kademlia: kademlia::Node,
    d1ht: d1ht::Peer,
    chord: Chord,
    epichord: EpiChord,
    accordion: Accordion,
    meridian: meridian::Node,
    gia: gia::Node,
    lms: lms::Node,
    flooding: flood::Node,
    members: Members,
    trees: Member,
    can: can::Node,
    tapestry: tapestry::Node,
    freenet: freenet::Node
}
