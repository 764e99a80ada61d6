//! A node of CAN, as a protocol.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    message::{Known, MAX_NODES, MAX_PAYLOAD, MAX_ZONES, Message},
    zone::{Point, Zone, merge},
};
use crate::{
    ring::Position,
    runtime::{Lately, Outbox, Protocol, Random, Transmit},
    wire,
};

/// Beats of silence after which a neighbour is gone.
const GONE_AFTER: u32 = 3;
/// Most nodes that are known.
const MAX_KNOWN: usize = 128;
/// Nodes by way of which to join, with those that conflicts have brought.
const MAX_SEEDS: usize = 64;
/// A request that was passed on so often ends.
const MAX_HOPS: u8 = 250;
/// What is told to all, and was here lately.
const MAX_SEEN: usize = 4096;
/// How long a look-up waits before it starts again, and how often it does.
const TRY: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;

/// Settings of a [`Node`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// This node's address, where answers go.
    pub address: SocketAddr,
    /// Nodes by way of which to join; nobody for the first.
    pub seeds: Vec<SocketAddr>,
    /// Ways by which a look-up starts, by one packet: the first that arrives counts. Default: 2.
    pub parallel: usize,
    /// How often neighbours hear of each other. Default: 5 s.
    pub beat: Duration,
}

impl Config {
    /// The usual settings.
    pub fn new(name: impl Into<Bytes>, address: SocketAddr, seeds: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            seeds,
            parallel: 2,
            beat: Duration::from_secs(5),
        }
    }
}

/// Number of a look-up of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookupId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node has a zone.
    Joined,
    /// A look-up has ended.
    Found {
        /// Which one.
        lookup: LookupId,
        /// What was looked for.
        key: Position,
        /// Who has its point; `None` if nobody has said so.
        owner: Option<SocketAddr>,
        /// How often it was passed on.
        hops: u8,
    },
    /// Somebody has told everybody.
    Heard {
        /// What.
        payload: Bytes,
    },
}

/// What a node has sent to lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets by which neighbours were told of zones, and of what is for all.
    pub told: u64,
    /// Their receivers.
    pub told_receivers: u64,
    /// Packets with look-ups that start.
    pub starts: u64,
    /// Ways that they start by.
    pub ways: u64,
    /// Zones of silent neighbours that this node has taken.
    pub taken: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

#[derive(Clone, Debug)]
struct Neighbour {
    zones: Vec<Zone>,
    heard: Instant,
    /// Its own neighbours, and their zones, as it has said.
    others: Vec<Known>,
}

#[derive(Clone, Debug)]
struct Lookup {
    number: LookupId,
    key: Position,
    again: Instant,
    tries: u32,
}

/// A node of CAN. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    zones: Vec<Zone>,
    neighbours: BTreeMap<SocketAddr, Neighbour>,
    lookups: BTreeMap<[u8; 8], Lookup>,
    seen: Lately<[u8; 8]>,
    /// Who was told in this beat that it is no neighbour.
    corrected: BTreeSet<SocketAddr>,
    /// Where this node joins.
    point: Point,
    join_at: Option<Instant>,
    beat_at: Instant,
    serial: u64,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node that knows its seeds only. It joins by itself; without seeds it is the first.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let is_first = config.seeds.is_empty();
        let mut out = Outbox::default();
        if is_first {
            out.tell(Event::Joined);
        }
        Self {
            tag: wire::tag("can", &[&config.name]),
            zones: if is_first {
                vec![Zone::ALL]
            } else {
                Vec::new()
            },
            neighbours: BTreeMap::new(),
            lookups: BTreeMap::new(),
            seen: Lately::new(MAX_SEEN),
            corrected: BTreeSet::new(),
            point: Point(u64::from_be_bytes(random.octets())),
            join_at: (!is_first).then_some(now),
            beat_at: now + random.jitter(config.beat, 0.5),
            serial: 0,
            random,
            out,
            counters: Counters::default(),
            config,
        }
    }

    /// Its zones: one, unless it has taken those of others.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Its neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.neighbours.keys().copied()
    }

    /// Whether it has a zone.
    pub fn is_member(&self) -> bool {
        !self.zones.is_empty()
    }

    /// What it has sent to lists.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Looks for whoever has a key's point.
    pub fn lookup(&mut self, now: Instant, key: Position) -> LookupId {
        self.serial += 1;
        let number = LookupId(self.serial);
        let lookup = Lookup {
            number,
            key,
            again: now,
            tries: 0,
        };
        let id = self.random.octets();
        self.lookups.insert(id, lookup);
        self.try_again(now, id);
        number
    }

    /// Tells everybody, at most 1000 octets: each node passes it on to all its neighbours by one packet
    /// (Ratnasamy, Handley, Karp, Shenker: Application-level multicast using content-addressable
    /// networks, NGC 2001).
    pub fn tell_all(&mut self, payload: impl Into<Bytes>) {
        let mut payload = payload.into();
        payload.truncate(MAX_PAYLOAD);
        let id = self.random.octets();
        self.seen.is_new(id);
        self.tell_neighbours(&Message::Flood { id, payload }, None);
    }

    /// Leaves: its neighbours, told by one packet, share its zones.
    pub fn leave(&mut self) {
        self.tell_neighbours(&Message::Gone, None);
        self.zones.clear();
        self.neighbours.clear();
        self.join_at = None;
    }

    fn send(&mut self, to: impl Into<Vec<SocketAddr>>, message: &Message) {
        self.out.send(to, message.encode(self.tag));
    }

    fn tell_neighbours(&mut self, message: &Message, but: Option<SocketAddr>) {
        let all = self.neighbours.keys().copied();
        let to: Vec<SocketAddr> = all.filter(|to| Some(*to) != but).collect();
        if !to.is_empty() {
            self.counters.told += 1;
            self.counters.told_receivers += to.len() as u64;
            self.send(to, message);
        }
    }

    fn known(&self) -> Vec<Known> {
        let all = self.neighbours.iter().take(MAX_NODES);
        all.map(|(address, known)| (*address, known.zones.clone()))
            .collect()
    }

    fn update(&self) -> Message {
        let zones = self.zones.iter().take(MAX_ZONES).copied().collect();
        let others = self.known();
        Message::Update { zones, others }
    }

    /// Neighbours by how near their zones are to a point, the nearest first.
    fn nearest(&self, point: Point) -> Vec<SocketAddr> {
        let distance =
            |known: &Neighbour| known.zones.iter().map(|zone| zone.distance(point)).min();
        let mut all: Vec<_> = self
            .neighbours
            .iter()
            .filter_map(|(address, known)| Some((distance(known)?, *address)))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, address)| address).collect()
    }

    fn owns(&self, point: Point) -> bool {
        self.zones.iter().any(|zone| zone.contains(point))
    }

    fn try_again(&mut self, now: Instant, id: [u8; 8]) {
        let Some(lookup) = self.lookups.get_mut(&id) else {
            return;
        };
        lookup.tries += 1;
        lookup.again = now + TRY;
        let (key, tries) = (lookup.key, lookup.tries);
        let point = Point(key.0);
        if self.owns(point) {
            return self.found(id, Some(self.config.address), 0);
        }
        if tries > TRIES {
            return self.found(id, None, 0);
        }
        let mut ways = self.nearest(point);
        // Another first hop each time, in case one is gone and nobody knows yet.
        let skip = (tries as usize - 1).min(ways.len().saturating_sub(1));
        ways.drain(..skip);
        ways.truncate(self.config.parallel.max(1));
        self.counters.starts += 1;
        self.counters.ways += ways.len() as u64;
        let origin = self.config.address;
        self.send(
            ways,
            &Message::Find {
                id,
                point,
                origin,
                hops: 1,
            },
        );
    }

    fn found(&mut self, id: [u8; 8], owner: Option<SocketAddr>, hops: u8) {
        if let Some(Lookup { number, key, .. }) = self.lookups.remove(&id) {
            let lookup = number;
            self.out.tell(Event::Found {
                lookup,
                key,
                owner,
                hops,
            });
        }
    }

    /// The next node on the way to a point. Where nobody is nearer than this one, because zones have no
    /// owner for a while, one of the two nearest.
    fn next_hop(&mut self, point: Point, from: SocketAddr) -> Option<SocketAddr> {
        let mut nearest = self.nearest(point);
        nearest.retain(|node| *node != from);
        let own = self.zones.iter().map(|zone| zone.distance(point)).min();
        let first = *nearest.first()?;
        let its = self.neighbours.get(&first)?.zones.iter();
        let its = its.map(|zone| zone.distance(point)).min();
        if its < own {
            return Some(first);
        }
        let at = self.random.below(nearest.len().min(2));
        nearest.get(at).copied()
    }

    fn join(&mut self, now: Instant, from: SocketAddr, point: Point, origin: SocketAddr, hops: u8) {
        if !self.is_member() || origin == self.config.address {
            return;
        }
        let others = |node: &Self| {
            let mut others = node.known();
            others.truncate(MAX_NODES - 1);
            others.push((
                node.config.address,
                node.zones.iter().take(MAX_ZONES).copied().collect(),
            ));
            others
        };
        // Its welcome was lost, and it asks again.
        let given = self
            .neighbours
            .get(&origin)
            .and_then(|known| known.zones.first());
        if let Some(zone) = given.copied() {
            let others = others(self);
            return self.send([origin], &Message::Welcome { zone, others });
        }
        let Some(at) = self.zones.iter().position(|zone| zone.contains(point)) else {
            if hops < MAX_HOPS
                && let Some(next) = self.next_hop(point, from)
            {
                let hops = hops + 1;
                self.send(
                    [next],
                    &Message::Join {
                        point,
                        origin,
                        hops,
                    },
                );
            }
            return;
        };
        let Some([one, other]) = self.zones[at].halves() else {
            return;
        };
        let (given, kept) = if one.contains(point) {
            (one, other)
        } else {
            (other, one)
        };
        // Who has several gives one of them away as a whole.
        let zone = if self.zones.len() > 1 {
            self.zones.remove(at)
        } else {
            self.zones[at] = kept;
            given
        };
        let welcome = others(self);
        self.send(
            [origin],
            &Message::Welcome {
                zone,
                others: welcome,
            },
        );
        self.hear(now, origin, vec![zone], Vec::new());
        self.tell_neighbours(&self.update(), None);
        self.tidy();
    }

    fn welcome(&mut self, now: Instant, zone: Zone, others: Vec<Known>) {
        if self.is_member() || self.join_at.is_none() {
            return;
        }
        self.zones = vec![zone];
        self.join_at = None;
        for (address, zones) in others {
            self.hear(now, address, zones, Vec::new());
        }
        self.tidy();
        self.out.tell(Event::Joined);
        self.tell_neighbours(&self.update(), None);
    }

    /// A node has these zones.
    fn hear(&mut self, now: Instant, address: SocketAddr, zones: Vec<Zone>, others: Vec<Known>) {
        if address == self.config.address {
            return;
        }
        // What it has now, others have no longer. If they think they have, they settle it with each other.
        let mut disputes = Vec::new();
        for (other, known) in &mut self.neighbours {
            if *other != address {
                let claimed = |zone: &Zone| zones.iter().any(|claimed| claimed.covers(*zone));
                let before = known.zones.len();
                known.zones.retain(|zone| !claimed(zone));
                disputes.extend((known.zones.len() < before).then_some(*other));
            }
        }
        self.send(disputes, &Message::Dispute { with: address });
        if self.neighbours.len() < MAX_KNOWN || self.neighbours.contains_key(&address) {
            let known = Neighbour {
                zones,
                heard: now,
                others,
            };
            self.neighbours.insert(address, known);
        }
    }

    /// Forgets who is no neighbour, or no longer.
    fn tidy(&mut self) {
        let zones = &self.zones;
        let is_next = |zone: &Zone| zones.iter().any(|own| own.is_next_to(*zone));
        self.neighbours
            .retain(|_, known| known.zones.iter().any(is_next));
    }

    fn updated(&mut self, now: Instant, from: SocketAddr, zones: Vec<Zone>, others: Vec<Known>) {
        // Two may have taken the same zone: the lower address keeps it.
        let conflicts: Vec<Zone> = zones
            .iter()
            .copied()
            .filter(|zone| {
                self.zones
                    .iter()
                    .any(|own| own.covers(*zone) || zone.covers(*own))
            })
            .collect();
        if !conflicts.is_empty() {
            if self.config.address < from {
                let update = self.update();
                return self.send([from], &update);
            }
            for conflict in conflicts {
                let own = std::mem::take(&mut self.zones);
                for zone in own {
                    if zone.covers(conflict) {
                        self.zones.extend(zone.without(conflict));
                    } else if !conflict.covers(zone) {
                        self.zones.push(zone);
                    }
                }
            }
            merge(&mut self.zones);
            if self.zones.is_empty() {
                self.neighbours.clear();
                self.join_anew(now, from);
                return;
            }
        }
        // Neighbours of a neighbour may be this node's own.
        for (address, zones) in &others {
            let is_next = zones
                .iter()
                .any(|zone| self.zones.iter().any(|own| own.is_next_to(*zone)));
            if is_next && !self.neighbours.contains_key(address) {
                self.hear(now, *address, zones.clone(), Vec::new());
            }
        }
        self.hear(now, from, zones, others);
        self.tidy();
        if !self.neighbours.contains_key(&from) && self.corrected.insert(from) {
            // It knows of zones that this node no longer has.
            let update = self.update();
            self.send([from], &update);
        }
    }

    fn join_anew(&mut self, now: Instant, by: SocketAddr) {
        self.point = Point(u64::from_be_bytes(self.random.octets()));
        if self.config.seeds.len() < MAX_SEEDS && !self.config.seeds.contains(&by) {
            self.config.seeds.push(by);
        }
        self.join_at = Some(now);
    }

    /// A neighbour is gone. The one with the smallest zone takes its zones; the others wait, each for its
    /// turn, in case that one is gone, too.
    fn takes_over(&self, gone: SocketAddr, silent: Duration) -> bool {
        let Some(known) = self.neighbours.get(&gone) else {
            return false;
        };
        let size =
            |zones: &[Zone]| Reverse(zones.iter().map(|zone| zone.depth()).min().unwrap_or(0));
        let own = (size(&self.zones), self.config.address);
        let others = known.others.iter();
        let before = others
            .filter(|(address, zones)| {
                *address != self.config.address && (size(zones), *address) < own
            })
            .count() as u32;
        silent >= self.config.beat * (GONE_AFTER + before)
    }

    fn take(&mut self, now: Instant, gone: SocketAddr) {
        let Some(known) = self.neighbours.remove(&gone) else {
            return;
        };
        self.counters.taken += known.zones.len() as u64;
        self.zones.extend(known.zones);
        merge(&mut self.zones);
        for (address, zones) in known.others {
            if address != self.config.address && !self.neighbours.contains_key(&address) {
                self.hear(now, address, zones, Vec::new());
            }
        }
        self.tell_neighbours(&self.update(), None);
        self.tidy();
    }

    fn beat(&mut self, now: Instant) {
        self.beat_at = now + self.random.jitter(self.config.beat, 0.1);
        self.corrected.clear();
        let silent = |known: &Neighbour| now - known.heard;
        let gone: Vec<SocketAddr> = self
            .neighbours
            .iter()
            .filter(|(address, known)| self.takes_over(**address, silent(known)))
            .map(|(address, _)| *address)
            .collect();
        for gone in gone {
            self.take(now, gone);
        }
        let patience = self.config.beat * GONE_AFTER * 8;
        self.neighbours
            .retain(|_, known| now < known.heard + patience);
        if self.is_member() {
            self.tell_neighbours(&self.update(), None);
        }
    }

    fn hand(&mut self, now: Instant, from: SocketAddr, message: Message) {
        match message {
            Message::Join {
                point,
                origin,
                hops,
            } => self.join(now, from, point, origin, hops),
            Message::Welcome { zone, others } => self.welcome(now, zone, others),
            Message::Update { zones, others } => {
                if self.is_member() && !zones.is_empty() {
                    self.updated(now, from, zones, others);
                }
            }
            Message::Find {
                id,
                point,
                origin,
                hops,
            } => {
                if self.owns(point) {
                    self.send([origin], &Message::Found { id, hops });
                } else if hops < MAX_HOPS
                    && let Some(next) = self.next_hop(point, from)
                {
                    let hops = hops + 1;
                    self.send(
                        [next],
                        &Message::Find {
                            id,
                            point,
                            origin,
                            hops,
                        },
                    );
                }
            }
            Message::Found { id, hops } => self.found(id, Some(from), hops),
            Message::Flood { id, payload } => {
                if self.is_member() && self.seen.is_new(id) {
                    self.out.tell(Event::Heard {
                        payload: payload.clone(),
                    });
                    self.tell_neighbours(&Message::Flood { id, payload }, Some(from));
                }
            }
            Message::Dispute { with } => {
                if self.is_member() && with != self.config.address {
                    let update = self.update();
                    self.send([with], &update);
                }
            }
            Message::Gone => {
                // As if it had been silent for long.
                let long = self.config.beat * GONE_AFTER;
                if let Some(known) = self.neighbours.get_mut(&from)
                    && let Some(then) = now.checked_sub(long)
                {
                    known.heard = then;
                }
                if self.takes_over(from, long) {
                    self.take(now, from);
                }
            }
        }
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match Message::decode(&datagram, self.tag) {
            Some(message) if from != self.config.address => self.hand(now, from, message),
            _ => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.join_at.is_some_and(|at| at <= now) {
            self.join_at = Some(now + self.random.jitter(TRY, 0.3));
            let mut seeds = self.config.seeds.clone();
            self.random.choose(&mut seeds, 1);
            let (point, origin) = (self.point, self.config.address);
            if let Some(seed) = seeds.first() {
                self.send(
                    [*seed],
                    &Message::Join {
                        point,
                        origin,
                        hops: 1,
                    },
                );
            }
        }
        if self.beat_at <= now {
            self.beat(now);
        }
        let late = self
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.again <= now);
        let late: Vec<[u8; 8]> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.try_again(now, id);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let again = self.lookups.values().map(|lookup| lookup.again).min();
        [Some(self.beat_at), self.join_at, again]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
