//! Distributed hash tables: each looks up keys of its own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use xcast_overlay::{
    accordion::{self, Accordion},
    chord::{self, Chord},
    d1ht::{self, Peer, Theta},
    epichord::{CacheConfig, EpiChord},
    kademlia::{Event, Node},
    krpc::Item,
    ring::{Contact, Position},
    runtime::Protocol,
};

use super::crowd::{Crowd, Job};
use crate::{bed::Bed, swarm};

/// Octets a second and peer of Accordion.
const BUDGET: u32 = 4000;

/// Items are put by each node, and got by another one.
pub(super) fn kademlia(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let family = bed.setup().family;
    let crowd = Crowd::start(bed, port, move |number, all, now, random| {
        let id = swarm::id(all[number], number);
        Node::new(now, swarm::config(family, id, vec![all[0]]), random)
    })?;
    // Those that join at the same time find each other afterwards.
    for _ in 0..2 {
        for node in &crowd.nodes {
            node.act(|node, now| node.join(now))?;
        }
        for node in &crowd.nodes {
            node.wait(swarm::joined)?;
        }
    }
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        let report = |event| match event {
            Event::Finished { report, .. } => Some(report),
            _ => None,
        };
        let item = |number: usize| Item::immutable(format!("6:item{:02}", number % 100));
        for (number, node) in crowd.nodes.iter().enumerate() {
            let item = item(number);
            let put = node.act(move |node, now| node.put(now, item, None))?;
            put.map_err(|error| anyhow!("put: {error}"))?;
        }
        for node in &crowd.nodes {
            node.wait(report)?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let target = item((number + 1) % count).target();
            node.act(move |node, now| node.find_item(now, target, ""))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let found = node.wait(report)?.item;
            done += usize::from(found == Some(item((number + 1) % count)));
        }
        crowd.end("Kademlia", "put, and got by another", count, done)
    }))
}

/// All know all; look-ups are answered by whom the key belongs to; and all hear that one has left.
pub(super) fn d1ht(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let mut crowd = Crowd::start(bed, port, |number, all, _, random| {
        let mut config = d1ht::Config::new("together", all[number]);
        config.theta = Theta::Fixed(Duration::from_millis(500));
        Peer::new(config, random)
    })?;
    let first = crowd.addresses[0];
    for (number, node) in crowd.nodes.iter().enumerate() {
        node.act(move |peer, now| match number {
            0 => peer.found_overlay(now),
            _ => peer.join(now, &[first]),
        })?;
        node.wait(|event| matches!(event, d1ht::Event::Joined).then_some(()))?;
    }
    let count = crowd.nodes.len();
    crowd.until("all know all", move |peer, _| peer.table().len() == count)?;
    Ok(Box::new(move || {
        let keys = keys(count);
        for (node, key) in crowd.nodes.iter().zip(&keys) {
            let key = *key;
            node.act(move |peer, now| peer.lookup(now, key))?;
        }
        let mut done = 0;
        for (node, key) in crowd.nodes.iter().zip(&keys) {
            let owner = node.wait(|event| match event {
                d1ht::Event::Found { owner, .. } => Some(owner),
                _ => None,
            })?;
            done += usize::from(owner == Some(owner_of(*key, &crowd.addresses)));
        }
        let leaver = crowd.nodes.pop().context("a peer")?;
        leaver.act(Peer::leave)?;
        leaver.wait(|event| matches!(event, d1ht::Event::Left).then_some(()))?;
        leaver.stop()?;
        crowd.until("all have heard that one has left", move |peer, _| {
            peer.table().len() == count - 1
        })?;
        done += crowd.nodes.len();
        let asked = 2 * count - 1;
        crowd.end("D1HT", "looked up; heard of a leave", asked, done)
    }))
}

/// What the rings have in common.
trait Ring: Protocol<Event = chord::Event> + Send + 'static {
    fn found(&mut self, now: Instant);
    fn enter(&mut self, now: Instant, by: &[SocketAddr]);
    fn look_up(&mut self, now: Instant, key: Position);
    fn next(&self) -> Option<Contact>;
    fn before(&self) -> Option<Contact>;
}

macro_rules! rings {
    ($($ring:ty),*) => {$(
        impl Ring for $ring {
            fn found(&mut self, now: Instant) {
                self.found_overlay(now);
            }

            fn enter(&mut self, now: Instant, by: &[SocketAddr]) {
                self.join(now, by);
            }

            fn look_up(&mut self, now: Instant, key: Position) {
                self.lookup(now, key);
            }

            fn next(&self) -> Option<Contact> {
                self.successors().first().copied()
            }

            fn before(&self) -> Option<Contact> {
                self.predecessor()
            }
        }
    )*};
}
rings!(Chord, EpiChord, Accordion);

pub(super) fn chord(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, _, random| {
        let mut settings = Chord::settings("together chord", all[number]);
        settings.stabilise = Duration::from_secs(1);
        Chord::new(settings, random)
    })?;
    ring(crowd, "Chord")
}

pub(super) fn epichord(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, _, random| {
        let mut settings = EpiChord::settings("together epichord", all[number]);
        settings.stabilise = Duration::from_secs(1);
        EpiChord::new(settings, CacheConfig::default(), random)
    })?;
    ring(crowd, "EpiChord")
}

pub(super) fn accordion(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let mut config = accordion::Config::new("together accordion", all[number], BUDGET);
        config.stabilise = Duration::from_secs(1);
        // Two at once from the first on, and more as the budget allows.
        config.parallel.0 = 2;
        Accordion::new(now, config, random)
    })?;
    ring(crowd, "Accordion")
}

/// All have their places on the ring, and look-ups find whom the key belongs to.
fn ring<'a, P: Ring>(crowd: Crowd<P>, name: &'static str) -> Result<Job<'a>> {
    let first = crowd.addresses[0];
    for (number, node) in crowd.nodes.iter().enumerate() {
        node.act(move |peer, now| match number {
            0 => peer.found(now),
            _ => peer.enter(now, &[first]),
        })?;
        node.wait(|event| matches!(event, chord::Event::Joined).then_some(()))?;
    }
    let contacts = sorted(&crowd.addresses);
    let count = contacts.len();
    crowd.until("everybody has its place", move |peer, _| {
        let (Some(next), Some(before)) = (peer.next(), peer.before()) else {
            return false;
        };
        // Who is before and who is after are two apart.
        let place = |who: Contact| contacts.iter().position(|contact| *contact == who);
        match (place(before), place(next)) {
            (Some(before), Some(next)) => (before + 2) % count == next,
            _ => false,
        }
    })?;
    Ok(Box::new(move || {
        let keys = keys(count);
        for (node, key) in crowd.nodes.iter().zip(&keys) {
            let key = *key;
            node.act(move |peer, now| peer.look_up(now, key))?;
        }
        let mut done = 0;
        for (node, key) in crowd.nodes.iter().zip(&keys) {
            let owner = node.wait(|event| match event {
                chord::Event::Found { owner, .. } => Some(owner),
                _ => None,
            })?;
            done += usize::from(owner == Some(owner_of(*key, &crowd.addresses)));
        }
        crowd.end(name, "looked up", count, done)
    }))
}

/// A key for each node to look up.
fn keys(count: usize) -> Vec<Position> {
    let keys = 0..count as u32;
    keys.map(|key| Position::of_key(&key.to_be_bytes()))
        .collect()
}

fn sorted(addresses: &[SocketAddr]) -> Vec<Contact> {
    let mut contacts: Vec<Contact> = addresses.iter().copied().map(Contact::of).collect();
    contacts.sort();
    contacts
}

/// Whom a key belongs to: the first at or after it.
fn owner_of(key: Position, addresses: &[SocketAddr]) -> Contact {
    let contacts = addresses.iter().copied().map(Contact::of);
    contacts
        .min_by_key(|contact| key.distance_to(contact.position))
        .unwrap_or(Contact::of(addresses[0]))
}
