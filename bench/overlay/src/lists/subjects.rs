//! The overlays: how their nodes are made, and what they are for. Settings and work are those of
//! `simulate lists`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use xcast_overlay::{
    accordion::{self, Accordion},
    chord::{self, Chord},
    d1ht,
    epichord::{CacheConfig, EpiChord},
    id::Id,
    kademlia,
    krpc::{Family, signing_key},
    meridian,
    others::{can, flood, freenet, tapestry},
    ring::{Contact, Position},
    runtime::Random,
    tree::{self, Member},
    walks::{gia, lms},
};
use xcast_sim::experiments::work;

use super::field::{Field, Newcomer, Subject};

/// Name of all overlays.
const NAME: &str = "lists";

/// A key that an operation has to itself.
fn key_of(serial: u64) -> Position {
    Position::of_key(&serial.to_be_bytes())
}

impl Subject for kademlia::Node {
    fn create(now: Instant, mut random: Random, newcomer: &Newcomer) -> Self {
        let mut config = kademlia::Config::own_network();
        config.id = Some(Id::random(&mut random));
        config.families = vec![Family::of(&newcomer.address)];
        config.bootstrap = newcomer.by.clone();
        Self::new(now, config, random)
    }

    fn start(&mut self, now: Instant, _by: &[SocketAddr]) {
        self.join(now);
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_idle()
    }

    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let target = Id::random(&mut Random::from_number(field.serial()));
        field.act(asker, move |node, now| node.find_node(now, target))?;
        Ok(1)
    }

    fn is_done(event: &kademlia::Event) -> bool {
        matches!(event, kademlia::Event::Finished { .. })
    }
}

impl Subject for d1ht::Peer {
    /// All but newcomers know each other, as if they had joined.
    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let config = d1ht::Config::new(NAME, newcomer.address);
        if newcomer.number >= newcomer.first.len() {
            return Self::new(config, random);
        }
        let mut all: Vec<Contact> = newcomer.first.iter().copied().map(Contact::of).collect();
        all.sort_unstable_by_key(|contact| contact.position);
        Self::with_table(now, config, random, all.into())
    }

    fn start(&mut self, now: Instant, by: &[SocketAddr]) {
        if !self.is_member() {
            self.join(now, by);
        }
    }

    fn is_ready(&self, _now: Instant) -> bool {
        self.is_member()
    }

    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let key = key_of(field.serial());
        field.act(asker, move |peer, now| peer.lookup(now, key))?;
        Ok(1)
    }

    fn is_done(event: &d1ht::Event) -> bool {
        matches!(event, d1ht::Event::Found { owner: Some(_), .. })
    }
}

/// The three rings have the same commands and events.
macro_rules! ring {
    ($node:ty, $settle:literal, $create:expr) => {
        impl Subject for $node {
            const SETTLE: Duration = Duration::from_secs($settle);

            fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
                $create(now, random, newcomer.address)
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

            fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
                let key = key_of(field.serial());
                field.act(asker, move |peer, now| peer.lookup(now, key))?;
                Ok(1)
            }

            fn is_done(event: &chord::Event) -> bool {
                matches!(event, chord::Event::Found { owner: Some(_), .. })
            }
        }
    };
}

ring!(Chord, 75, |_, random, address| Self::new(
    Self::settings(NAME, address),
    random
));
ring!(EpiChord, 75, |_, random, address| Self::new(
    Self::settings(NAME, address),
    CacheConfig::default(),
    random
));
// It stabilises less often.
ring!(Accordion, 300, |now, random, address| Self::new(
    now,
    accordion::Config::new(NAME, address, 100),
    random
));

impl Subject for meridian::Node {
    const SETTLE: Duration = Duration::from_secs(90);

    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let config = meridian::Config::new(NAME, newcomer.by.clone());
        Self::new(now, config, random)
    }

    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let mut target = asker;
        while target == asker {
            target = field.random_living()?;
        }
        let target = field.address(target);
        field.act(asker, move |node, now| {
            node.query(now, meridian::Goal::closest(target))
        })?;
        Ok(1)
    }

    fn is_done(event: &meridian::Event) -> bool {
        matches!(event, meridian::Event::Found { .. })
    }
}

impl Subject for gia::Node {
    const SETTLE: Duration = Duration::from_secs(60);

    fn create(now: Instant, mut random: Random, newcomer: &Newcomer) -> Self {
        let capacity = work::capacity(&mut random);
        let config = gia::Config::new(NAME, newcomer.address, newcomer.by.clone(), capacity);
        let things = work::things(newcomer.number, newcomer.first.len());
        let mut node = Self::new(now, config, random);
        node.share(now, things);
        node
    }

    fn is_ready(&self, _now: Instant) -> bool {
        !self.status().neighbours.is_empty()
    }

    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let thing = field.serial() % work::THINGS;
        field.act(asker, move |node, now| node.search(now, thing))?;
        Ok(1)
    }

    fn is_done(event: &gia::Event) -> bool {
        matches!(event, gia::Event::Found { .. })
    }
}

/// The neighbours of a node in a graph of rings, each in an order of its own.
fn neighbours(newcomer: &Newcomer, rings: u64) -> Vec<SocketAddr> {
    let count = newcomer.first.len();
    let all = work::neighbours(newcomer.number, count, 0..rings);
    all.into_iter().map(|other| newcomer.first[other]).collect()
}

impl Subject for flood::Node {
    const RESTARTS: bool = true;
    const SETTLE: Duration = Duration::from_secs(5);

    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let config = flood::Config::new(NAME, newcomer.address, neighbours(newcomer, 3));
        let things = work::things(newcomer.number, newcomer.first.len());
        let mut node = Self::new(now, config, random);
        node.share(things);
        node
    }

    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let thing = field.serial() % work::THINGS;
        field.act(asker, move |node, now| node.search(now, thing))?;
        Ok(1)
    }

    fn is_done(event: &flood::Event) -> bool {
        matches!(event, flood::Event::Found { .. })
    }
}

impl Subject for lms::Node {
    const RESTARTS: bool = true;

    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let config = lms::Config::new(NAME, newcomer.address, neighbours(newcomer, 2));
        Self::new(now, config, random)
    }

    /// Looks for what was stored some operations ago, and stores something else.
    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let serial = field.serial();
        let by = field.random_living()?;
        field.act(by, move |node, now| node.store(now, serial, "here", 8))?;
        let Some(key) = work::earlier(serial) else {
            return Ok(0);
        };
        field.act(asker, move |node, now| node.find(now, key, 8))?;
        Ok(1)
    }

    fn is_done(event: &lms::Event) -> bool {
        matches!(event, lms::Event::Found { .. })
    }
}

impl Subject for Member {
    const SETTLE: Duration = Duration::from_secs(10);

    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let key = signing_key([1; 32]);
        let config = if newcomer.number == 0 {
            tree::Config::source(NAME, key, 1)
        } else {
            let mut by = newcomer.by.clone();
            by.push(newcomer.first[0]);
            tree::Config::receiver(NAME, key.verifying_key().to_bytes(), by)
        };
        let config = tree::Config {
            packets: tree::Packets {
                in_udp: true,
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

    /// The source sends a message to all.
    fn ask(field: &mut Field<'_, Self>, _asker: usize) -> Result<usize> {
        let sent = field.act(0, |source, now| source.send(now, b"news").is_ok())?;
        let others = field.living().len() - 1;
        Ok(if sent { others } else { 0 })
    }

    fn is_done(event: &tree::Event) -> bool {
        matches!(event, tree::Event::Message { .. })
    }
}

/// Both join by themselves, and look keys up.
macro_rules! by_key {
    ($overlay:ident, $done:pat) => {
        impl Subject for $overlay::Node {
            fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
                let config = $overlay::Config::new(NAME, newcomer.address, newcomer.by.clone());
                Self::new(now, config, random)
            }

            fn is_ready(&self, _now: Instant) -> bool {
                self.is_member()
            }

            fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
                let key = key_of(field.serial());
                field.act(asker, move |node, now| node.lookup(now, key))?;
                Ok(1)
            }

            fn is_done(event: &$overlay::Event) -> bool {
                matches!(event, $done)
            }
        }
    };
}

by_key!(can, can::Event::Found { owner: Some(_), .. });
by_key!(tapestry, tapestry::Event::Root { root: Some(_), .. });

impl Subject for freenet::Node {
    const SETTLE: Duration = Duration::from_secs(120);

    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self {
        let config = freenet::Config::new(NAME, newcomer.address, newcomer.by.clone());
        Self::new(now, config, random)
    }

    /// Asks for what was stored some operations ago, and stores something else.
    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize> {
        let serial = field.serial();
        let by = field.random_living()?;
        field.act(by, move |node, _| node.insert(serial, "here"))?;
        let Some(key) = work::earlier(serial) else {
            return Ok(0);
        };
        field.act(asker, move |node, now| node.request(now, key))?;
        Ok(1)
    }

    fn is_done(event: &freenet::Event) -> bool {
        matches!(event, freenet::Event::Found { .. })
    }
}
