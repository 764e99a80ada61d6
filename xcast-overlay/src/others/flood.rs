//! Flooding, in the manner of Gnutella (protocol 0.4) and of FastTrack.
//!
//! A *servent* of Gnutella passes a query on to all its neighbours, one packet to a list, until its time
//! to live is over; each query once. FastTrack's super nodes do the same among themselves; its leaves
//! only tell their super nodes what they have, and ask them.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     others::flood::{Config, Event, Node, Role},
//!     runtime::{Protocol as _, Random},
//! };
//!
//! let now = Instant::now();
//! let [hub, leaf] = ["192.0.2.1:9", "192.0.2.2:9"].map(|address| address.parse().unwrap());
//! let config = Config::new("files", hub, vec![]);
//! let mut a = Node::new(now, config, Random::from_number(1));
//! let mut config = Config::new("files", leaf, vec![hub]);
//! config.role = Role::Leaf;
//! let mut b = Node::new(now, config, Random::from_number(2));
//! b.share([7]);
//! b.handle_timeout(now);
//! while let Some(transmit) = b.poll_transmit() {
//!     a.handle(now, leaf, transmit.datagram(0));
//! }
//! a.search(now, 7);
//! assert!(matches!(a.poll_event(), Some(Event::Found { holders, .. }) if holders == [leaf]));
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::flood_message::{MAX_KEYS, MAX_NODES, Message};
use crate::{
    runtime::{Lately, Outbox, Protocol, Random, Transmit},
    wire,
};

/// Messages that were here lately.
const MAX_SEEN: usize = 8192;
/// Most leaves of a super node, and most keys of each.
const MAX_LEAVES: usize = 200;
const MAX_INDEX: usize = 2000;
/// How many silent periods make a leaf gone.
const GONE_AFTER: u32 = 3;

/// What a node does for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It floods: a servent of Gnutella, or a super node of FastTrack.
    #[default]
    Peer,
    /// It tells its neighbours what it has, and asks them.
    Leaf,
}

/// Settings of a [`Node`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// This node's address, where answers go.
    pub address: SocketAddr,
    /// Its neighbours: peers, or a leaf's super nodes.
    pub neighbours: Vec<SocketAddr>,
    /// What it does for others.
    pub role: Role,
    /// How far a query goes. Default: 7.
    pub ttl: u8,
    /// How often a leaf tells what it has. Default: 30 s.
    pub tell: Duration,
    /// How long a search waits for its first hit. Default: 10 s.
    pub timeout: Duration,
}

impl Config {
    /// A peer with the usual settings.
    pub fn new(name: impl Into<Bytes>, address: SocketAddr, neighbours: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            neighbours,
            role: Role::Peer,
            ttl: 7,
            tell: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Number of a search of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first hit of a search.
    Found {
        /// Of which search.
        search: SearchId,
        /// Who has it.
        holders: Vec<SocketAddr>,
        /// How far the query went.
        hops: u8,
    },
    /// Nobody has answered in time.
    NotFound {
        /// Of which search.
        search: SearchId,
    },
    /// A node has answered to a ping.
    Here {
        /// Which one.
        node: SocketAddr,
        /// How far the ping went.
        hops: u8,
    },
}

/// What a node has sent to lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets with pings, queries and keys.
    pub floods: u64,
    /// Their receivers.
    pub flood_receivers: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// A node that floods, or a leaf of one. See the [module](self).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    keys: BTreeSet<u64>,
    leaves: BTreeMap<SocketAddr, (Instant, BTreeSet<u64>)>,
    searches: BTreeMap<[u8; 8], (SearchId, Instant)>,
    pings: BTreeSet<[u8; 8]>,
    seen: Lately<[u8; 8]>,
    tell_at: Option<Instant>,
    serial: u64,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node with the neighbours of its settings.
    pub fn new(now: Instant, config: Config, random: Random) -> Self {
        Self {
            tag: wire::tag("flood", &[&config.name]),
            keys: BTreeSet::new(),
            leaves: BTreeMap::new(),
            searches: BTreeMap::new(),
            pings: BTreeSet::new(),
            seen: Lately::new(MAX_SEEN),
            tell_at: (config.role == Role::Leaf).then_some(now),
            serial: 0,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// This node has something for these keys.
    pub fn share(&mut self, keys: impl IntoIterator<Item = u64>) {
        let new: Vec<u64> = keys
            .into_iter()
            .filter(|key| self.keys.insert(*key))
            .collect();
        self.tell(&new);
    }

    /// Looks for whoever has something for this key.
    pub fn search(&mut self, now: Instant, key: u64) -> SearchId {
        self.serial += 1;
        let search = SearchId(self.serial);
        let holders = self.holders(key);
        if !holders.is_empty() {
            self.out.tell(Event::Found {
                search,
                holders,
                hops: 0,
            });
            return search;
        }
        let id = self.random.octets();
        self.searches
            .insert(id, (search, now + self.config.timeout));
        self.seen.is_new(id);
        let query = Message::Query {
            id,
            origin: self.config.address,
            ttl: self.config.ttl,
            hops: 1,
            key,
        };
        self.flood(&query, None);
        search
    }

    /// Asks all within reach whether they are there.
    pub fn ping(&mut self) {
        let id = self.random.octets();
        if self.pings.len() >= MAX_NODES {
            self.pings.pop_first();
        }
        self.pings.insert(id);
        self.seen.is_new(id);
        let ping = Message::Ping {
            id,
            origin: self.config.address,
            ttl: self.config.ttl,
            hops: 1,
        };
        self.flood(&ping, None);
    }

    /// What it has sent to lists.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn send(&mut self, to: Vec<SocketAddr>, message: &Message) {
        self.out.send(to, message.encode(self.tag));
    }

    /// To all neighbours, but not back.
    fn flood(&mut self, message: &Message, from: Option<SocketAddr>) {
        let all = self.config.neighbours.iter().copied();
        let to: Vec<SocketAddr> = all.filter(|neighbour| Some(*neighbour) != from).collect();
        if !to.is_empty() {
            self.counters.floods += 1;
            self.counters.flood_receivers += to.len() as u64;
            self.send(to, message);
        }
    }

    fn tell(&mut self, keys: &[u64]) {
        if self.config.role == Role::Leaf {
            for keys in keys.chunks(MAX_KEYS) {
                let keys = keys.to_vec();
                self.flood(&Message::Keys { keys }, None);
            }
        }
    }

    fn holders(&self, key: u64) -> Vec<SocketAddr> {
        let own = self.keys.contains(&key).then_some(self.config.address);
        let leaves = self
            .leaves
            .iter()
            .filter(|(_, (_, keys))| keys.contains(&key));
        let leaves = leaves.map(|(address, _)| *address);
        own.into_iter().chain(leaves).take(MAX_NODES).collect()
    }

    fn passes_on(&self, ttl: u8) -> bool {
        ttl > 1 && self.config.role == Role::Peer
    }

    fn take(&mut self, now: Instant, from: SocketAddr, message: Message) {
        let most = self.config.ttl;
        match message {
            Message::Ping {
                id,
                origin,
                ttl,
                hops,
            } if self.seen.is_new(id) => {
                self.send(vec![origin], &Message::Pong { id, hops });
                if self.passes_on(ttl) {
                    let (ttl, hops) = (ttl.min(most) - 1, hops.saturating_add(1));
                    let on = Message::Ping {
                        id,
                        origin,
                        ttl,
                        hops,
                    };
                    self.flood(&on, Some(from));
                }
            }
            Message::Query {
                id,
                origin,
                ttl,
                hops,
                key,
            } if self.seen.is_new(id) => {
                let holders = self.holders(key);
                if !holders.is_empty() {
                    self.send(vec![origin], &Message::Hit { id, hops, holders });
                }
                if self.passes_on(ttl) {
                    let (ttl, hops) = (ttl.min(most) - 1, hops.saturating_add(1));
                    let on = Message::Query {
                        id,
                        origin,
                        ttl,
                        hops,
                        key,
                    };
                    self.flood(&on, Some(from));
                }
            }
            Message::Ping { .. } | Message::Query { .. } => {}
            Message::Pong { id, hops } => {
                if self.pings.contains(&id) {
                    self.out.tell(Event::Here { node: from, hops });
                }
            }
            Message::Hit { id, hops, holders } => {
                if !holders.is_empty()
                    && let Some((search, _)) = self.searches.remove(&id)
                {
                    self.out.tell(Event::Found {
                        search,
                        holders,
                        hops,
                    });
                }
            }
            Message::Keys { keys } => {
                let has_room = self.leaves.len() < MAX_LEAVES || self.leaves.contains_key(&from);
                if self.config.role == Role::Peer && has_room {
                    let leaf = self.leaves.entry(from).or_insert((now, BTreeSet::new()));
                    leaf.0 = now;
                    let room = MAX_INDEX.saturating_sub(leaf.1.len());
                    leaf.1.extend(keys.into_iter().take(room));
                }
            }
        }
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let patience = self.config.tell * GONE_AFTER;
        self.leaves.retain(|_, (heard, _)| now < *heard + patience);
        match Message::decode(&datagram, self.tag) {
            Some(message) => self.take(now, from, message),
            None => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.tell_at.is_some_and(|at| at <= now) {
            let keys: Vec<u64> = self.keys.iter().copied().collect();
            self.tell(&keys);
            self.tell_at = Some(now + self.random.jitter(self.config.tell, 0.2));
        }
        let late = self
            .searches
            .iter()
            .filter(|(_, (_, deadline))| *deadline <= now);
        let late: Vec<[u8; 8]> = late.map(|(id, _)| *id).collect();
        for id in late {
            if let Some((search, _)) = self.searches.remove(&id) {
                self.out.tell(Event::NotFound { search });
            }
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let late = self.searches.values().map(|(_, deadline)| *deadline).min();
        [late, self.tell_at].into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
