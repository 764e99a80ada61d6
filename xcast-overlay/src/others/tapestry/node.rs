//! A node in the manner of Tapestry, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    message::{MAX_NODES, MAX_WAYS, Message, Purpose, Route, Way},
    table::{DIGITS, Table, common},
};
use crate::{
    krpc::Family,
    ring::{Contact, Position},
    runtime::{
        Body, Fanouts, Outbox, Pace, Peers, Policy, Protocol, Random, TransactionId, Transmit,
    },
    wire::{self, Header, Overlay},
};

/// Most peers whose round-trip times are remembered.
const MAX_MEASURED: usize = 512;
/// Most things of which it is remembered who has them, and most that have one.
const MAX_POINTERS: usize = 10_000;
const MAX_HOLDERS: usize = 8;
/// Nodes that are asked for their tables at a time.
const ASKED: usize = 8;
/// How long a request of this node's own waits, and how often it starts.
const TRY: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;
/// How often a node that has no place yet asks for one.
const RETRY: Duration = Duration::from_secs(3);

/// Settings of a [`Node`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: String,
    /// This node's address. All nodes of an overlay are of one family.
    pub address: SocketAddr,
    /// Nodes by way of which to join; nobody for the first.
    pub seeds: Vec<SocketAddr>,
    /// Roots of each thing, at most 8: what is published or looked for goes to all of them, and starts as
    /// one packet. Default: 3.
    pub roots: usize,
    /// How often some of the nodes of the table are asked for theirs, by one packet. Default: 10 s.
    pub upkeep: Duration,
    /// How often things are published anew. Default: 60 s.
    pub publish: Duration,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one node.
    pub pace: Pace,
}

impl Config {
    /// The usual settings.
    pub fn new(name: impl Into<String>, address: SocketAddr, seeds: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            address,
            seeds,
            roots: 3,
            upkeep: Duration::from_secs(10),
            publish: Duration::from_secs(60),
            policy: Policy {
                retries: 1,
                transaction_octets: wire::TRANSACTION_OCTETS,
                ..Policy::default()
            },
            pace: Pace::new(100, Duration::from_millis(20)),
        }
    }
}

/// Number of a request of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node has a place.
    Joined,
    /// A look-up has ended.
    Root {
        /// Which one.
        request: RequestId,
        /// What was looked for.
        key: Position,
        /// Its root; `None` if nobody has said so.
        root: Option<SocketAddr>,
        /// How often it was passed on.
        hops: u8,
    },
    /// It is known who has something: the first answer.
    Located {
        /// Which request.
        request: RequestId,
        /// Who.
        holders: Vec<SocketAddr>,
    },
    /// None of the roots has said who has it.
    NotLocated {
        /// Which request.
        request: RequestId,
    },
}

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Packets by which newcomers were told of.
    pub newcomers: u64,
    /// Their receivers.
    pub newcomer_receivers: u64,
    /// Packets by which requests start.
    pub starts: u64,
    /// Ways that they start by.
    pub ways: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// What a request to others is for.
#[derive(Clone, Debug)]
enum Tag {
    /// Pass this on.
    Route(Route),
    /// Tell yours of a newcomer.
    Newcomer(SocketAddr),
    /// Are you there, and who is in your table?
    Table,
}

#[derive(Clone, Debug)]
struct Request {
    number: RequestId,
    goal: Goal,
    again: Instant,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Root(Position),
    Holders(Position),
}

/// A node in the manner of Tapestry. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    overlay: Overlay,
    family: Family,
    me: Contact,
    is_member: bool,
    table: Table,
    pointers: BTreeMap<Position, BTreeMap<SocketAddr, Instant>>,
    published: BTreeSet<Position>,
    requests: BTreeMap<u64, Request>,
    /// Nodes that are being asked for their tables, of which nothing is known yet.
    asking: BTreeSet<SocketAddr>,
    /// Newcomers that others were told of lately, and when.
    told: BTreeMap<SocketAddr, Instant>,
    peers: Peers,
    fanouts: Fanouts<Tag>,
    join_at: Option<Instant>,
    upkeep_at: Instant,
    publish_at: Instant,
    serial: u64,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node that knows its seeds only. It joins by itself; without seeds it is the first.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let me = Contact::of(config.address);
        let is_first = config.seeds.is_empty();
        let mut out = Outbox::default();
        if is_first {
            out.tell(Event::Joined);
        }
        Self {
            overlay: Overlay::named(&config.name),
            family: Family::of(&config.address),
            me,
            is_member: is_first,
            table: Table::new(me),
            pointers: BTreeMap::new(),
            published: BTreeSet::new(),
            requests: BTreeMap::new(),
            asking: BTreeSet::new(),
            told: BTreeMap::new(),
            peers: Peers::new(MAX_MEASURED, config.pace),
            fanouts: Fanouts::new(),
            join_at: (!is_first).then_some(now),
            upkeep_at: now + random.jitter(config.upkeep, 0.5),
            publish_at: now + random.jitter(config.publish, 0.5),
            // Who is not asked cannot guess what an answer has to have.
            serial: u64::from_be_bytes(random.octets()) >> 1,
            random,
            out,
            counters: Counters::default(),
            config,
        }
    }

    /// Whether it has a place.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    /// How many nodes it knows.
    pub fn known(&self) -> usize {
        self.table.len()
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// This node has something. Nodes on the ways to its roots remember that, for some time; it is told
    /// again and again.
    pub fn publish(&mut self, now: Instant, key: Position) {
        self.published.insert(key);
        let number = self.next_number();
        self.start(now, key, true, number);
    }

    /// Looks for whoever has published something.
    pub fn locate(&mut self, now: Instant, key: Position) -> RequestId {
        self.begin(now, Goal::Holders(key))
    }

    /// Looks for the root of a key.
    pub fn lookup(&mut self, now: Instant, key: Position) -> RequestId {
        self.begin(now, Goal::Root(key))
    }

    fn next_number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn begin(&mut self, now: Instant, goal: Goal) -> RequestId {
        let serial = self.next_number();
        let number = RequestId(serial);
        let request = Request {
            number,
            goal,
            again: now,
            tries: 0,
        };
        self.requests.insert(serial, request);
        self.try_again(now, serial);
        number
    }

    fn try_again(&mut self, now: Instant, serial: u64) {
        let Some(request) = self.requests.get_mut(&serial) else {
            return;
        };
        request.tries += 1;
        request.again = now + TRY;
        let (goal, tries) = (request.goal, request.tries);
        if tries > TRIES {
            return self.end(serial, None, 0, Vec::new());
        }
        match goal {
            Goal::Root(key) => {
                let origin = self.me.address;
                let purpose = Purpose::Lookup;
                let (level, hops, number) = (0, 0, serial);
                self.route(
                    now,
                    Route {
                        purpose,
                        key,
                        level,
                        hops,
                        number,
                        origin,
                    },
                );
            }
            Goal::Holders(key) => self.start(now, key, false, serial),
        }
    }

    fn end(&mut self, serial: u64, root: Option<SocketAddr>, hops: u8, holders: Vec<SocketAddr>) {
        let Some(Request { number, goal, .. }) = self.requests.remove(&serial) else {
            return;
        };
        let request = number;
        self.out.tell(match goal {
            Goal::Root(key) => Event::Root {
                request,
                key,
                root,
                hops,
            },
            Goal::Holders(_) if holders.is_empty() => Event::NotLocated { request },
            Goal::Holders(_) => Event::Located { request, holders },
        });
    }

    /// The keys whose roots know of a thing.
    fn keys(&self, key: Position) -> impl Iterator<Item = Position> {
        let roots = self.config.roots.clamp(1, MAX_WAYS);
        (0..roots as u8).map(move |salt| match salt {
            0 => key,
            _ => Position::of_key(&[&key.0.to_be_bytes()[..], &[salt]].concat()),
        })
    }

    /// Publishes something, or looks for it, at all of its roots: by one packet.
    fn start(&mut self, now: Instant, key: Position, publish: bool, number: u64) {
        let origin = self.me.address;
        let purpose = if publish {
            Purpose::Publish
        } else {
            Purpose::Locate
        };
        let keys: Vec<Position> = self.keys(key).collect();
        let mut ways: Vec<(SocketAddr, Way)> = Vec::new();
        for key in keys {
            let (level, hops) = (0, 0);
            let route = Route {
                purpose,
                key,
                level,
                hops,
                number,
                origin,
            };
            match self.table.next_hop(key, 0) {
                Some((next, level)) => ways.push((next.address, (tag(next), key, level as u8))),
                None => self.arrived(now, route),
            }
            if publish {
                self.remember(now, key, origin);
            }
        }
        let mut to: Vec<SocketAddr> = ways.iter().map(|(to, _)| *to).collect();
        to.sort_unstable();
        to.dedup();
        if to.is_empty() {
            return;
        }
        let ways: Vec<Way> = ways.into_iter().map(|(_, way)| way).collect();
        self.counters.starts += 1;
        self.counters.ways += ways.len() as u64;
        let message = Message::Start {
            publish,
            number,
            origin,
            ways,
        };
        // Nobody answers: who asks hears of the end, or starts again.
        let id = TransactionId::random(&mut self.random, wire::TRANSACTION_OCTETS);
        let header = Header::request(wire::Protocol::Tapestry, self.overlay, message.kind(), &id);
        self.out.send(to, message.write(header));
    }

    fn ask(&mut self, now: Instant, to: Vec<(SocketAddr, Tag)>, message: &Message) {
        let overlay = self.overlay;
        let body = |transaction: &TransactionId| {
            let kind = message.kind();
            let header = Header::request(wire::Protocol::Tapestry, overlay, kind, transaction);
            Body::shared(message.write(header))
        };
        self.fanouts.start(
            now,
            &mut self.peers,
            &mut self.random,
            self.config.policy,
            to,
            body,
        );
    }

    fn say(&mut self, to: SocketAddr, message: &Message) {
        let id = TransactionId::random(&mut self.random, wire::TRANSACTION_OCTETS);
        let header = Header::request(wire::Protocol::Tapestry, self.overlay, message.kind(), &id);
        self.out.send([to], message.write(header));
    }

    fn remember(&mut self, now: Instant, key: Position, holder: SocketAddr) {
        if self.pointers.len() >= MAX_POINTERS && !self.pointers.contains_key(&key) {
            return;
        }
        let holders = self.pointers.entry(key).or_default();
        if holders.len() < MAX_HOLDERS || holders.contains_key(&holder) {
            holders.insert(holder, now + self.config.publish * 2);
        }
    }

    /// Passes a route on, or does what it is for.
    fn route(&mut self, now: Instant, mut route: Route) {
        match route.purpose {
            Purpose::Publish => self.remember(now, route.key, route.origin),
            Purpose::Locate => {
                if let Some(holders) = self.pointers.get(&route.key) {
                    let holders: Vec<SocketAddr> = holders.keys().copied().collect();
                    let number = route.number;
                    return match route.origin == self.me.address {
                        true => self.end(number, None, 0, holders),
                        false => self.say(route.origin, &Message::There { number, holders }),
                    };
                }
            }
            Purpose::Lookup | Purpose::Join => {}
        }
        match self
            .table
            .next_hop(route.key, usize::from(route.level).min(DIGITS))
        {
            // A newcomer that comes again is in tables, and no way to itself.
            Some((next, _)) if route.purpose == Purpose::Join && next.address == route.origin => {
                self.arrived(now, route);
            }
            Some((next, level)) if route.hops < u8::MAX => {
                let kept = route.clone();
                (route.level, route.hops) = (level as u8, route.hops + 1);
                let to = vec![(next.address, Tag::Route(kept))];
                self.ask(now, to, &Message::Route(route));
            }
            _ => self.arrived(now, route),
        }
    }

    /// This node is the root.
    fn arrived(&mut self, now: Instant, route: Route) {
        let Route {
            purpose,
            key,
            hops,
            number,
            origin,
            ..
        } = route;
        match purpose {
            Purpose::Lookup if origin == self.me.address => {
                self.end(number, Some(origin), hops, Vec::new());
            }
            Purpose::Lookup => self.say(origin, &Message::Root { number, key, hops }),
            // What it is looked for by says who it is: so no other address can be told of to others.
            Purpose::Join if origin != self.me.address && key == Position::of(&origin) => {
                let nodes = self.some();
                self.say(origin, &Message::Nodes { nodes });
                self.tell_of(now, Contact::of(origin), common(self.me.position, key));
            }
            Purpose::Join | Purpose::Publish | Purpose::Locate => {}
        }
    }

    /// Nodes of the table, and this one.
    fn some(&mut self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.table.all().map(|node| node.address).collect();
        self.random.choose(&mut all, MAX_NODES - 1);
        all.truncate(MAX_NODES - 1);
        all.push(self.me.address);
        all
    }

    /// Tells all nodes that share so many digits with this one of a newcomer: one for each digit at each
    /// level from there on by one packet, and these go on from the level that they know from whom they
    /// have it (acknowledged multicast; Hildrum, Kubiatowicz, Rao, Zhao, SPAA 2002).
    fn tell_of(&mut self, now: Instant, newcomer: Contact, level: usize) {
        // It may come again, but not at once.
        let told = self.told.get(&newcomer.address);
        if told.is_some_and(|told| now < *told + RETRY / 2) {
            return;
        }
        self.told.insert(newcomer.address, now);
        let all = self.table.representatives(level);
        let to: Vec<(SocketAddr, Tag)> = all
            .iter()
            .filter(|node| **node != newcomer)
            .map(|node| (node.address, Tag::Newcomer(newcomer.address)))
            .collect();
        if !to.is_empty() {
            self.counters.newcomers += 1;
            self.counters.newcomer_receivers += to.len() as u64;
            let address = newcomer.address;
            self.ask(now, to, &Message::Newcomer { address });
        }
        self.table.insert(newcomer);
        self.say(newcomer.address, &Message::Here);
    }

    /// Nodes that others know of are asked whether they are there, if they would have a place in the
    /// table, by one packet: a newcomer hears of the same ones many times before they have answered.
    fn hear_of(&mut self, now: Instant, nodes: Vec<SocketAddr>) {
        let mut new: Vec<SocketAddr> = nodes
            .into_iter()
            .filter(|node| *node != self.me.address && !self.asking.contains(node))
            .filter(|node| self.table.wants(Contact::of(*node)))
            .collect();
        new.truncate(MAX_NODES);
        self.asking.extend(&new);
        let to = new.into_iter().map(|node| (node, Tag::Table)).collect();
        self.ask(now, to, &Message::Table);
    }

    fn upkeep(&mut self, now: Instant) {
        self.upkeep_at = now + self.random.jitter(self.config.upkeep, 0.3);
        let mut all: Vec<Contact> = self.table.all().collect();
        if all.is_empty() && self.is_member && !self.config.seeds.is_empty() {
            // Alone, but not the first.
            self.join_at = Some(now);
        }
        let quarter = all.len().div_ceil(4).max(ASKED);
        self.random.choose(&mut all, quarter);
        all.truncate(quarter.min(MAX_NODES));
        let to = all
            .into_iter()
            .map(|node| (node.address, Tag::Table))
            .collect();
        self.ask(now, to, &Message::Table);
        self.told.retain(|_, told| now < *told + RETRY);
        for holders in self.pointers.values_mut() {
            holders.retain(|_, until| *until > now);
        }
        self.pointers.retain(|_, holders| !holders.is_empty());
    }

    fn silent(&mut self, now: Instant, peer: SocketAddr, tag: Tag) {
        self.asking.remove(&peer);
        let gone = Contact::of(peer);
        let instead = self.table.instead_of(gone);
        if self.table.remove(gone) {
            // Somebody else may know another for its place.
            self.upkeep_at = self.upkeep_at.min(now + Duration::from_secs(1));
        }
        match tag {
            Tag::Route(route) => self.route(now, route),
            Tag::Newcomer(address) => {
                if let Some(instead) = instead.filter(|instead| instead.address != address) {
                    let to = vec![(instead.address, Tag::Newcomer(address))];
                    self.ask(now, to, &Message::Newcomer { address });
                }
            }
            Tag::Table => {}
        }
    }

    fn answer(&mut self, now: Instant, from: SocketAddr, header: Header, message: Message) {
        let there = Contact::of(from);
        if self.is_member || !matches!(message, Message::Route(_)) {
            self.table.insert(there);
        }
        let answer = match message {
            Message::Route(route) => {
                if !self.is_member {
                    return;
                }
                self.route(now, route);
                Message::Here
            }
            Message::Newcomer { address } => {
                let level = common(self.me.position, there.position) + 1;
                if address != self.me.address {
                    self.tell_of(now, Contact::of(address), level);
                }
                Message::Here
            }
            Message::Start {
                publish,
                number,
                origin,
                ways,
            } => {
                let purpose = if publish {
                    Purpose::Publish
                } else {
                    Purpose::Locate
                };
                let own = tag(self.me);
                for (_, key, level) in ways.into_iter().filter(|(to, _, _)| *to == own) {
                    let hops = 1;
                    self.route(
                        now,
                        Route {
                            purpose,
                            key,
                            level,
                            hops,
                            number,
                            origin,
                        },
                    );
                }
                return;
            }
            Message::Table => Message::Nodes { nodes: self.some() },
            // What nobody has asked for: of a root, and greetings.
            Message::Nodes { nodes } => {
                if self.join_at.take().is_some() && !self.is_member {
                    self.is_member = true;
                    self.out.tell(Event::Joined);
                }
                return self.hear_of(now, nodes);
            }
            Message::Root { number, hops, .. } => {
                return self.end(number, Some(from), hops, Vec::new());
            }
            Message::There { number, holders } => {
                if !holders.is_empty() {
                    self.end(number, None, 0, holders);
                }
                return;
            }
            Message::Here => return,
        };
        if self.peers.reserve(now, from, Duration::ZERO).is_some() {
            let datagram = answer.write(header);
            self.out.send([from], datagram);
        }
    }

    fn settle(&mut self, now: Instant) {
        while let Some(silent) = self.fanouts.poll_silent() {
            if silent.asked {
                self.silent(now, silent.peer, silent.tag);
            } else {
                self.asking.remove(&silent.peer);
            }
        }
    }
}

/// By which the receivers of one packet are told apart.
fn tag(node: Contact) -> u16 {
    node.position.0 as u16
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let is_other = Family::of(&from) == self.family && from != self.me.address;
        match Message::read(self.overlay, self.family, &datagram).filter(|_| is_other) {
            Some((header, message)) => {
                let id = &header.transaction;
                match self.fanouts.answer(now, &mut self.peers, id, from) {
                    Some(_) => {
                        self.asking.remove(&from);
                        self.table.insert(Contact::of(from));
                        if let Message::Nodes { nodes } = message {
                            self.hear_of(now, nodes);
                        }
                    }
                    None => self.answer(now, from, header, message),
                }
            }
            None => self.counters.malformed += 1,
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.fanouts.handle_timeout(now, &mut self.peers);
        self.settle(now);
        if self.join_at.is_some_and(|at| at <= now) {
            self.join_at = Some(now + self.random.jitter(RETRY, 0.3));
            let mut seeds = self.config.seeds.clone();
            self.random.choose(&mut seeds, 1);
            let (purpose, key, level, hops, number) = (Purpose::Join, self.me.position, 0, 0, 0);
            let origin = self.me.address;
            let route = Route {
                purpose,
                key,
                level,
                hops,
                number,
                origin,
            };
            if let Some(seed) = seeds.first() {
                // It is asked again anyway, perhaps somebody else.
                self.say(*seed, &Message::Route(route));
            }
        }
        if self.upkeep_at <= now {
            self.upkeep(now);
        }
        if self.publish_at <= now {
            self.publish_at = now + self.random.jitter(self.config.publish, 0.3);
            for key in self.published.clone() {
                let number = self.next_number();
                self.start(now, key, true, number);
            }
        }
        let late = self
            .requests
            .iter()
            .filter(|(_, request)| request.again <= now);
        let late: Vec<u64> = late.map(|(serial, _)| *serial).collect();
        for serial in late {
            self.try_again(now, serial);
        }
        self.settle(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out
            .poll_transmit()
            .or_else(|| self.fanouts.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let again = self.requests.values().map(|request| request.again).min();
        [
            self.fanouts.poll_timeout(),
            self.join_at,
            Some(self.upkeep_at),
            Some(self.publish_at),
            again,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
