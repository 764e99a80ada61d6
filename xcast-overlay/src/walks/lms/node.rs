//! A node of LMS, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::message::{Contact, MAX_NEIGHBOURS, MAX_VALUE, Message, Walker};
use crate::{
    runtime::{Lately, Outbox, Protocol, Random, Transmit},
    wire,
};

/// A walker that is this old ends where it is.
const MAX_HOPS: u8 = 64;
/// How many silent periods make a neighbour gone.
const GONE_AFTER: u32 = 3;
/// Walkers that were here lately, so that a datagram that comes twice is one walker.
const MAX_SEEN: usize = 4096;

/// Settings of a [`Node`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// This node's address, where walkers' answers go.
    pub address: SocketAddr,
    /// Its neighbours, at most 40.
    pub neighbours: Vec<SocketAddr>,
    /// h: hops that the neighbourhood reaches, 1 or 2. Default: 2.
    pub hops: u8,
    /// Random steps of a walker before it goes down. The more, the less it matters where it
    /// started. Default: 8.
    pub walk: u8,
    /// Whether nodes that a walker only passes look, too, for what it is looking for. Default: true.
    pub look_on_the_way: bool,
    /// How often neighbours are told of each other. Default: 10 s.
    pub hello: Duration,
    /// How long an operation waits for its walkers. Default: 10 s.
    pub timeout: Duration,
    /// Most values that are kept for others. Default: 10 000.
    pub max_values: usize,
}

impl Config {
    /// The usual settings.
    pub fn new(
        name: impl Into<Bytes>,
        address: SocketAddr,
        mut neighbours: Vec<SocketAddr>,
    ) -> Self {
        neighbours.truncate(MAX_NEIGHBOURS);
        Self {
            name: name.into(),
            address,
            neighbours,
            hops: 2,
            walk: 8,
            look_on_the_way: true,
            hello: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            max_values: 10_000,
        }
    }
}

/// Number of an operation of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A value was found, by the first walker that did.
    Found {
        /// By which operation.
        operation: OperationId,
        /// What was found.
        value: Bytes,
        /// How far the walker went.
        hops: u8,
    },
    /// An operation is over: all its walkers have ended, or its time has.
    Ended {
        /// Which one.
        operation: OperationId,
        /// Walkers that have told of their end.
        walkers: usize,
        /// Replicas that were left, or walkers that found one.
        hits: usize,
    },
}

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets with walkers that start.
    pub starts: u64,
    /// The walkers in them.
    pub walkers: u64,
    /// Later steps of walkers, each one datagram.
    pub steps: u64,
    /// Packets by which neighbours were told of each other.
    pub hellos: u64,
    /// Their receivers.
    pub hello_receivers: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

#[derive(Clone, Debug)]
struct Neighbour {
    id: u64,
    heard: Instant,
    neighbours: Vec<Contact>,
}

#[derive(Clone, Debug)]
struct Operation {
    number: OperationId,
    deadline: Instant,
    walkers: usize,
    /// Whose messages of an end have come.
    ended: BTreeSet<(SocketAddr, u32)>,
    hits: usize,
    found: bool,
}

/// A node of LMS. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    id: u64,
    neighbours: BTreeMap<SocketAddr, Neighbour>,
    values: BTreeMap<u64, Bytes>,
    operations: BTreeMap<[u8; 8], Operation>,
    seen: Lately<([u8; 8], u8, u32, u8, SocketAddr)>,
    serial: u64,
    /// Walkers that came to their end here.
    ends: u32,
    hello_at: Instant,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node with a random identifier.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        Self {
            tag: wire::tag("lms", &[&config.name]),
            id: u64::from_be_bytes(random.octets()),
            neighbours: BTreeMap::new(),
            values: BTreeMap::new(),
            operations: BTreeMap::new(),
            seen: Lately::new(MAX_SEEN),
            serial: 0,
            ends: 0,
            hello_at: now,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Leaves so many replicas of a value, at most 255 octets, at local minima of its key.
    pub fn store(
        &mut self,
        now: Instant,
        key: u64,
        value: impl Into<Bytes>,
        replicas: usize,
    ) -> OperationId {
        let mut value = value.into();
        value.truncate(MAX_VALUE);
        self.start(now, key, Some(value), replicas)
    }

    /// Looks for a value, by so many walkers.
    pub fn find(&mut self, now: Instant, key: u64, walkers: usize) -> OperationId {
        self.start(now, key, None, walkers)
    }

    /// Size of the neighbourhood, d_h, this node itself counted.
    pub fn neighbourhood(&self) -> usize {
        self.near().len() + 1
    }

    /// Whoever is closer to the key than this node is, and closest; `None` at a local minimum.
    pub fn downhill(&self, key: u64) -> Option<SocketAddr> {
        let near = self.near();
        let best = near
            .into_iter()
            .min_by_key(|(address, id)| (id ^ key, *address));
        best.filter(|(_, id)| id ^ key < self.id ^ key)
            .map(|(address, _)| address)
    }

    /// Whether it keeps a replica for this key.
    pub fn keeps(&self, key: u64) -> bool {
        self.values.contains_key(&key)
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All within h hops, by address.
    fn near(&self) -> BTreeMap<SocketAddr, u64> {
        let direct = self
            .neighbours
            .iter()
            .map(|(address, neighbour)| (*address, neighbour.id));
        let mut near: BTreeMap<SocketAddr, u64> = direct.collect();
        if self.config.hops > 1 {
            for neighbour in self.neighbours.values() {
                for (id, address) in &neighbour.neighbours {
                    if *address != self.config.address {
                        near.entry(*address).or_insert(*id);
                    }
                }
            }
        }
        near
    }

    fn start(
        &mut self,
        now: Instant,
        key: u64,
        value: Option<Bytes>,
        mut walkers: usize,
    ) -> OperationId {
        self.serial += 1;
        let number = OperationId(self.serial);
        let id = self.random.octets();
        let mut to: Vec<SocketAddr> = self.neighbours.keys().copied().collect();
        if to.is_empty() {
            walkers = 0;
        }
        let operation = Operation {
            number,
            deadline: now + self.config.timeout,
            walkers,
            ended: BTreeSet::new(),
            hits: 0,
            found: false,
        };
        self.operations.insert(id, operation);
        for batch in 0..=u8::MAX {
            if walkers == 0 {
                break;
            }
            let count = walkers.min(to.len());
            walkers -= count;
            self.random.choose(&mut to, count);
            let walker = Walker {
                id,
                batch,
                first: 0,
                origin: self.config.address,
                key,
                value: value.clone(),
                walk: self.config.walk,
                hops: 1,
            };
            self.counters.starts += 1;
            self.counters.walkers += count as u64;
            self.send(to[..count].to_vec(), &Message::Walk(walker));
        }
        number
    }

    fn send(&mut self, to: Vec<SocketAddr>, message: &Message) {
        self.out.send(to, message.encode(self.tag));
    }

    fn hello(&mut self, now: Instant) {
        let patience = self.config.hello * GONE_AFTER;
        self.neighbours
            .retain(|_, neighbour| now < neighbour.heard + patience);
        let neighbours = self
            .neighbours
            .iter()
            .map(|(address, known)| (known.id, *address));
        let hello = Message::Hello {
            id: self.id,
            neighbours: neighbours.take(MAX_NEIGHBOURS).collect(),
        };
        // Neighbours that are silent may come back.
        let mut to = self.config.neighbours.clone();
        to.extend(self.neighbours.keys());
        to.sort_unstable();
        to.dedup();
        if !to.is_empty() {
            self.counters.hellos += 1;
            self.counters.hello_receivers += to.len() as u64;
            self.send(to, &hello);
        }
        // Soon again while those who have just been heard of are to be passed on.
        let knows_all = self.neighbours.len() >= self.config.neighbours.len();
        let period = if knows_all {
            self.config.hello
        } else {
            self.config.hello / 10
        };
        self.hello_at = now + self.random.jitter(period, 0.2);
    }

    fn walk(&mut self, from: SocketAddr, mut walker: Walker) {
        let Walker {
            id, batch, first, ..
        } = walker;
        if !self.seen.is_new((id, batch, first, walker.hops, from)) {
            return;
        }
        if walker.hops == 1 {
            walker.first = self.id as u32;
        }
        let at_end = walker.walk == 0 && self.downhill(walker.key).is_none();
        let looks = walker.value.is_none() && (at_end || self.config.look_on_the_way);
        if looks && let Some(value) = self.values.get(&walker.key) {
            let value = Some(value.clone());
            return self.end(&walker, false, value);
        }
        let next = if walker.walk > 0 {
            walker.walk -= 1;
            self.random_neighbour(from)
        } else {
            self.downhill(walker.key)
        };
        match next {
            Some(next) if walker.hops < MAX_HOPS => {
                walker.hops += 1;
                self.counters.steps += 1;
                self.send(vec![next], &Message::Walk(walker));
            }
            _ => {
                let value = walker.value.clone();
                let has_room = self.values.len() < self.config.max_values;
                // A second replica at one place is worth nothing: it is not counted.
                let stored = value.is_some() && has_room && !self.values.contains_key(&walker.key);
                if let (Some(value), true) = (value, stored) {
                    self.values.insert(walker.key, value);
                }
                self.end(&walker, stored, None);
            }
        }
    }

    fn end(&mut self, walker: &Walker, stored: bool, value: Option<Bytes>) {
        self.ends = self.ends.wrapping_add(1);
        let end = Message::End {
            id: walker.id,
            number: self.ends,
            hops: walker.hops,
            stored,
            value,
        };
        if walker.origin == self.config.address {
            return self.ended(self.config.address, end);
        }
        self.send(vec![walker.origin], &end);
    }

    /// Not back to where it came from, unless there is nowhere else.
    fn random_neighbour(&mut self, from: SocketAddr) -> Option<SocketAddr> {
        let mut others: Vec<SocketAddr> = self.neighbours.keys().copied().collect();
        if others.len() > 1 {
            others.retain(|address| *address != from);
        }
        (!others.is_empty()).then(|| others[self.random.below(others.len())])
    }

    fn ended(&mut self, from: SocketAddr, end: Message) {
        let Message::End {
            id,
            number,
            hops,
            stored,
            value,
        } = end
        else {
            return;
        };
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if !operation.ended.insert((from, number)) {
            return;
        }
        operation.hits += usize::from(stored || value.is_some());
        let number = operation.number;
        if let Some(value) = value
            && !std::mem::replace(&mut operation.found, true)
        {
            self.out.tell(Event::Found {
                operation: number,
                value,
                hops,
            });
        }
        if operation.ended.len() >= operation.walkers {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: [u8; 8]) {
        if let Some(operation) = self.operations.remove(&id) {
            self.out.tell(Event::Ended {
                operation: operation.number,
                walkers: operation.ended.len(),
                hits: operation.hits,
            });
        }
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match Message::decode(&datagram, self.tag) {
            Some(Message::Hello { id, neighbours }) => {
                let is_known = self.neighbours.contains_key(&from);
                if is_known || self.neighbours.len() < MAX_NEIGHBOURS {
                    let heard = now;
                    let neighbour = Neighbour {
                        id,
                        heard,
                        neighbours,
                    };
                    self.neighbours.insert(from, neighbour);
                }
            }
            Some(Message::Walk(walker)) => self.walk(from, walker),
            Some(end @ Message::End { .. }) => self.ended(from, end),
            None => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.hello_at <= now {
            self.hello(now);
        }
        let late = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.deadline <= now);
        let late: Vec<[u8; 8]> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.finish(id);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let late = self
            .operations
            .values()
            .map(|operation| operation.deadline)
            .min();
        Some(late.map_or(self.hello_at, |late| late.min(self.hello_at)))
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
