//! A node in the manner of Freenet, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::message::{MAX_VALUE, Message};
use crate::{
    runtime::{Lately, Outbox, Protocol, Random, Transmit},
    wire,
};

/// Most nodes that are known, and values that are kept.
const MAX_KNOWN: usize = 64;
const MAX_VALUES: usize = 1024;
/// Requests that are under way here, at most.
const MAX_PASSED: usize = 4096;
/// How long a request that was passed on is waited for, before another way is tried.
const PATIENCE: Duration = Duration::from_secs(2);
/// How far an announcement goes.
const ANNOUNCE_TTL: u8 = 8;

/// Settings of a [`Node`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// This node's address.
    pub address: SocketAddr,
    /// Nodes by way of which to join.
    pub seeds: Vec<SocketAddr>,
    /// Neighbours that a request starts by, by one packet. Default: 3.
    pub parallel: usize,
    /// How far a request goes. Default: 20.
    pub ttl: u8,
    /// How often a node announces itself. Default: 60 s.
    pub announce: Duration,
    /// How long a request of this node's own may take. Default: 20 s.
    pub timeout: Duration,
}

impl Config {
    /// The usual settings.
    pub fn new(name: impl Into<Bytes>, address: SocketAddr, seeds: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            seeds,
            parallel: 3,
            ttl: 20,
            announce: Duration::from_secs(60),
            timeout: Duration::from_secs(20),
        }
    }
}

/// Number of a request of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request has found something.
    Found {
        /// Which one.
        request: RequestId,
        /// What.
        value: Bytes,
        /// How far away it was.
        hops: u8,
    },
    /// A request has found nothing.
    NotFound {
        /// Which one.
        request: RequestId,
    },
}

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets with requests that start.
    pub starts: u64,
    /// Ways that they start by.
    pub ways: u64,
    /// Announcements: packets.
    pub announces: u64,
    /// Their receivers.
    pub announce_receivers: u64,
    /// Requests that came back, and were sent another way.
    pub backtracked: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// A request that is under way.
#[derive(Clone, Debug)]
struct Passed {
    /// Who wants it; `None` for this node itself.
    from: Option<SocketAddr>,
    key: u64,
    ttl: u8,
    tried: BTreeSet<SocketAddr>,
    /// Who is waited for.
    waits_for: BTreeSet<SocketAddr>,
    until: Instant,
    own: Option<(RequestId, Instant)>,
}

/// A node in the manner of Freenet. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    id: u64,
    /// What stands for a neighbour: its own identifier, or a key of which it had the value.
    known: BTreeMap<SocketAddr, BTreeSet<u64>>,
    silent: BTreeMap<SocketAddr, u32>,
    values: BTreeMap<u64, (Bytes, SocketAddr)>,
    order: VecDeque<u64>,
    passed: BTreeMap<[u8; 8], Passed>,
    seen: Lately<[u8; 8]>,
    announced: Lately<(u64, u8)>,
    announce_at: Instant,
    serial: u64,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

/// Keys and identifiers are on a ring: how far apart two are.
fn distance(one: u64, other: u64) -> u64 {
    one.wrapping_sub(other).min(other.wrapping_sub(one))
}

impl Node {
    /// A node that knows its seeds only. It joins by itself.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let id = u64::from_be_bytes(random.octets());
        let known = config.seeds.iter().map(|seed| (*seed, BTreeSet::new()));
        Self {
            tag: wire::tag("freenet", &[&config.name]),
            id,
            known: known.collect(),
            silent: BTreeMap::new(),
            values: BTreeMap::new(),
            order: VecDeque::new(),
            passed: BTreeMap::new(),
            seen: Lately::new(MAX_PASSED),
            announced: Lately::new(MAX_PASSED),
            announce_at: now,
            serial: 0,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The nodes that it knows.
    pub fn known(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.known.keys().copied()
    }

    /// Looks for a value. The request starts by several neighbours, by one packet.
    pub fn request(&mut self, now: Instant, key: u64) -> RequestId {
        self.serial += 1;
        let request = RequestId(self.serial);
        if let Some((value, _)) = self.values.get(&key) {
            let value = value.clone();
            self.out.tell(Event::Found {
                request,
                value,
                hops: 0,
            });
            return request;
        }
        let id = self.random.octets();
        self.seen.is_new(id);
        let passed = Passed {
            from: None,
            key,
            ttl: self.config.ttl,
            tried: BTreeSet::new(),
            waits_for: BTreeSet::new(),
            until: now,
            own: Some((request, now + self.config.timeout)),
        };
        self.passed.insert(id, passed);
        self.go_on(now, id, self.config.parallel.max(1));
        request
    }

    /// Stores a value, at most 1000 octets, at nodes on the way to its key; as with requests, by several
    /// ways that start by one packet.
    pub fn insert(&mut self, key: u64, value: impl Into<Bytes>) {
        let mut value = value.into();
        value.truncate(MAX_VALUE);
        let source = self.config.address;
        self.keep(key, value.clone(), source);
        let mut to = self.closest(key, &BTreeSet::new());
        to.truncate(self.config.parallel.max(1));
        self.counters.starts += 1;
        self.counters.ways += to.len() as u64;
        let id = self.random.octets();
        self.seen.is_new(id);
        let ttl = self.config.ttl;
        self.send(
            to,
            &Message::Insert {
                id,
                key,
                source,
                ttl,
                value,
            },
        );
    }

    fn send(&mut self, to: impl Into<Vec<SocketAddr>>, message: &Message) {
        self.out.send(to, message.encode(self.tag));
    }

    /// Known nodes by how close what stands for them is to a key, the closest first.
    fn closest(&self, key: u64, but: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        let others = self
            .known
            .iter()
            .filter(|(address, _)| !but.contains(*address));
        let mut all: Vec<(u64, SocketAddr)> = others
            .map(|(address, keys)| {
                let least = keys.iter().map(|known| distance(*known, key)).min();
                (least.unwrap_or(u64::MAX), *address)
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, address)| address).collect()
    }

    fn learn(&mut self, address: SocketAddr, key: u64) {
        if address == self.config.address {
            return;
        }
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&address) {
            // Any may go, but those that are closest to this node: it is them who make the ring whole.
            let mut near = self.closest(self.id, &BTreeSet::new());
            near.drain(..MAX_KNOWN / 4);
            let at = self.random.below(near.len());
            near.get(at).map(|victim| self.known.remove(victim));
        }
        let keys = self.known.entry(address).or_default();
        keys.insert(key);
        if keys.len() > 16 {
            keys.pop_first();
        }
    }

    fn keep(&mut self, key: u64, value: Bytes, source: SocketAddr) {
        if self.values.insert(key, (value, source)).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MAX_VALUES
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    /// Sends a request on, by so many ways; back, if there is none left.
    fn go_on(&mut self, now: Instant, id: [u8; 8], ways: usize) {
        let Some(passed) = self.passed.get(&id) else {
            return;
        };
        let (key, ttl) = (passed.key, passed.ttl);
        let mut but = passed.tried.clone();
        but.extend(passed.from);
        let mut to = self.closest(key, &but);
        to.truncate(ways);
        if to.is_empty() || ttl == 0 {
            return self.give_up(id);
        }
        let is_start = passed.own.is_some() && passed.tried.is_empty();
        if let Some(passed) = self.passed.get_mut(&id) {
            passed.tried.extend(to.iter().copied());
            passed.waits_for = to.iter().copied().collect();
            // Further on they wait, too: whoever has more hops left, longer.
            passed.until = now + PATIENCE + PATIENCE * u32::from(ttl) / 4;
            passed.ttl -= 1;
        }
        if is_start {
            self.counters.starts += 1;
            self.counters.ways += to.len() as u64;
        }
        let ttl = ttl - 1;
        self.send(to, &Message::Request { id, key, ttl });
    }

    fn give_up(&mut self, id: [u8; 8]) {
        let Some(passed) = self.passed.remove(&id) else {
            return;
        };
        if let Some((request, _)) = passed.own {
            self.out.tell(Event::NotFound { request });
        }
        if let Some(from) = passed.from {
            let ttl = passed.ttl;
            self.send([from], &Message::Fail { id, ttl });
        }
    }

    fn announce(&mut self, now: Instant) {
        self.announce_at = now + self.random.jitter(self.config.announce, 0.3);
        let mut to: Vec<SocketAddr> = self.known.keys().copied().collect();
        self.random.choose(&mut to, 8);
        to.truncate(8);
        let near = self.closest(self.id, &BTreeSet::new());
        to.extend(near.into_iter().take(4));
        to.sort_unstable();
        to.dedup();
        self.counters.announces += 1;
        self.counters.announce_receivers += to.len() as u64;
        let (id, address) = (self.id, self.config.address);
        self.send(
            to,
            &Message::Announce {
                id,
                address,
                ttl: ANNOUNCE_TTL,
            },
        );
    }

    fn take(&mut self, now: Instant, from: SocketAddr, message: Message) {
        self.silent.remove(&from);
        match message {
            Message::Request { id, key, ttl } => {
                let ttl = ttl.min(self.config.ttl);
                if let Some((value, source)) = self.values.get(&key).cloned() {
                    let hops = 1;
                    return self.send(
                        [from],
                        &Message::Data {
                            id,
                            key,
                            source,
                            hops,
                            value,
                        },
                    );
                }
                // A loop, or too much: the asker tries another way.
                if !self.seen.is_new(id) || self.passed.len() >= MAX_PASSED {
                    return self.send([from], &Message::Fail { id, ttl });
                }
                let passed = Passed {
                    from: Some(from),
                    key,
                    ttl,
                    tried: BTreeSet::new(),
                    waits_for: BTreeSet::new(),
                    until: now,
                    own: None,
                };
                self.passed.insert(id, passed);
                self.go_on(now, id, 1);
            }
            Message::Data {
                id,
                key,
                source,
                hops,
                value,
            } => {
                let Some(passed) = self.passed.get(&id) else {
                    return;
                };
                if passed.key != key || !passed.tried.contains(&from) {
                    return;
                }
                let Some(passed) = self.passed.remove(&id) else {
                    return;
                };
                self.learn(source, key);
                self.keep(key, value.clone(), source);
                if let Some((request, _)) = passed.own {
                    let value = value.clone();
                    self.out.tell(Event::Found {
                        request,
                        value,
                        hops,
                    });
                }
                if let Some(to) = passed.from {
                    let hops = hops.saturating_add(1);
                    self.send(
                        [to],
                        &Message::Data {
                            id,
                            key,
                            source,
                            hops,
                            value,
                        },
                    );
                }
            }
            Message::Fail { id, ttl } => {
                let Some(passed) = self.passed.get_mut(&id) else {
                    return;
                };
                if passed.waits_for.remove(&from) && passed.waits_for.is_empty() {
                    passed.ttl = passed.ttl.min(ttl);
                    self.counters.backtracked += 1;
                    self.go_on(now, id, 1);
                }
            }
            Message::Insert {
                id,
                key,
                source,
                ttl,
                value,
            } => {
                if !self.seen.is_new(id) {
                    return;
                }
                self.keep(key, value.clone(), source);
                self.learn(source, key);
                let but = BTreeSet::from([from, source]);
                if ttl > 0
                    && let Some(next) = self.closest(key, &but).first().copied()
                {
                    // Nobody is closer: it is where it belongs, and at one node more.
                    let ttl = match self.is_closer(next, key) {
                        true => ttl - 1,
                        false => 0,
                    };
                    self.send(
                        [next],
                        &Message::Insert {
                            id,
                            key,
                            source,
                            ttl,
                            value,
                        },
                    );
                }
            }
            Message::Announce { id, address, ttl } => {
                let ttl = ttl.min(ANNOUNCE_TTL);
                if address == self.config.address || !self.announced.is_new((id, ttl)) {
                    return;
                }
                self.learn(address, id);
                self.send([address], &Message::Known { id: self.id });
                // On to whoever is closest to it, so that it comes to know those around it.
                let but = BTreeSet::from([from, address]);
                if ttl > 0
                    && let Some(next) = self.closest(id, &but).first().copied()
                {
                    let ttl = ttl - 1;
                    self.send([next], &Message::Announce { id, address, ttl });
                }
            }
            Message::Known { id } => self.learn(from, id),
        }
    }

    fn is_closer(&self, next: SocketAddr, key: u64) -> bool {
        let its = self
            .known
            .get(&next)
            .and_then(|keys| keys.iter().map(|known| distance(*known, key)).min());
        its.is_some_and(|its| its < distance(self.id, key))
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match Message::decode(&datagram, self.tag) {
            Some(message) if from != self.config.address => self.take(now, from, message),
            _ => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.announce_at <= now {
            self.announce(now);
        }
        let own_late = |passed: &Passed| passed.own.is_some_and(|(_, end)| end <= now);
        let ended = self.passed.iter().filter(|(_, passed)| own_late(passed));
        let ended: Vec<[u8; 8]> = ended.map(|(id, _)| *id).collect();
        for id in ended {
            self.give_up(id);
        }
        let late = self.passed.iter().filter(|(_, passed)| passed.until <= now);
        let late: Vec<[u8; 8]> = late.map(|(id, _)| *id).collect();
        for id in late {
            if self.silent.len() > 4 * MAX_KNOWN {
                self.silent.clear();
            }
            let silent = self.passed.get(&id).map(|passed| passed.waits_for.clone());
            for address in silent.into_iter().flatten() {
                let count = self.silent.entry(address).or_default();
                *count += 1;
                // It has not been heard of since, and others have waited for it in vain, too.
                if *count >= 2 {
                    self.known.remove(&address);
                    self.silent.remove(&address);
                }
            }
            self.counters.backtracked += 1;
            self.go_on(now, id, 1);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let passed = self.passed.values().map(|passed| {
            let end = passed.own.map_or(passed.until, |(_, end)| end);
            passed.until.min(end)
        });
        passed.chain([self.announce_at]).min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The latest are kept, however small their keys are and however often they come.
    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let now = Instant::now();
        let address = SocketAddr::from(([198, 51, 100, 1], 4000));
        let config = Config::new("test", address, Vec::new());
        let mut node = Node::new(now, config, Random::from_number(1));
        for _ in 0..3 {
            for key in (0..2 * MAX_VALUES as u64).rev() {
                node.keep(key, Bytes::from_static(b"here"), address);
                assert!(node.values.contains_key(&key));
                assert!(node.values.len() <= MAX_VALUES && node.order.len() == node.values.len());
            }
        }
        assert!(node.values.keys().copied().eq(0..MAX_VALUES as u64));
    }
}
