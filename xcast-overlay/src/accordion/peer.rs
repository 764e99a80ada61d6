//! A peer: what it does with datagrams and time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    budget::Budget,
    config::Config,
    outgoing::{Outgoing, Urgency},
    table::Table,
};
use crate::{
    chord::{
        Event, LookupId,
        goodbyes::Goodbyes,
        message::{Entry, Forward, Message},
        neighbours::Neighbours,
    },
    krpc::Family,
    octets::unicast_octets,
    ring::{Contact, Position},
    runtime::{
        Body, Fanouts, Mode, Outbox, Peers, Protocol, Random, TransactionId, Transmit, WayOut,
    },
    wire::{self, Header, Overlay},
};

/// Most peers whose round-trip times are remembered.
const MAX_MEASURED: usize = 1024;
/// Most peers that pass on a look-up, one after the other.
const MAX_HOPS: u8 = 64;
/// How long a look-up waits for its result before it is started again, and how often it is started.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(6);
const MAX_STARTS: u32 = 3;
/// Numbers that a look-up has in messages, one for each start.
const STARTS: u32 = 4;
/// How long passed-on look-ups are remembered, and how many.
const MEMORY: Duration = Duration::from_secs(20);
const MAX_PASSED: usize = 2000;
/// Of so many parts of the budget's burst, one has to be left for copies of look-ups that are not primary.
const LOOKUP_PART: usize = 4;
/// One of so many parts of the budget's burst is for neighbours on the ring only.
const RESERVED_PART: usize = 8;
/// When a join that did not succeed is tried again; the actual time varies by half.
const RETRY: Duration = Duration::from_secs(3);
/// How often a peer looks whether its budget allows to explore.
const TICK: Duration = Duration::from_secs(1);
/// Who was heard of within so long is there, even if it did not answer an older question.
const HEARD: Duration = Duration::from_secs(4);
/// How soon the ring is looked after if it seems to have changed.
const SOON: Duration = Duration::from_secs(1);
/// A predecessor that has not asked for so many periods is forgotten.
const SILENT_PERIODS: u32 = 5;
/// After how many periods, on average, it is made sure that there is one ring only.
const MERGE_PERIODS: usize = 8;

/// A peer. See the [module](super).
#[derive(Clone, Debug)]
pub struct Accordion {
    config: Config,
    overlay: Overlay,
    family: Family,
    me: Contact,
    neighbours: Neighbours,
    table: Table,
    parallel: usize,
    phase: Phase,
    goodbyes: Goodbyes,
    bootstrap: Vec<SocketAddr>,
    random: Random,
    peers: Peers,
    fanouts: Fanouts<Tag>,
    outgoing: Outgoing<Request>,
    /// What others may send because this peer explores.
    caused: Budget,
    out: Outbox<Event>,
    lookups: BTreeMap<u32, Lookup>,
    next_lookup: u32,
    /// Look-ups that were passed on, by who asks and its number.
    passed: BTreeMap<(SocketAddr, u32), Passed>,
    began: Instant,
    stabilise_at: Option<Instant>,
    tick_at: Option<Instant>,
    adapt_at: Instant,
    counters: Counters,
}

/// What a peer has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Peers asked to find out who else is there, because the budget allowed it.
    pub explored: u64,
    /// Entries that answers brought.
    pub learnt: u64,
    /// Look-ups passed on for others.
    pub passed: u64,
    /// Packets that waited too long for the budget, and were not sent.
    pub dropped: u64,
    /// How often a peer was forgotten because it had not answered.
    pub forgotten: u64,
    /// Octets sent, on the first link.
    pub octets: u64,
    /// Packets sent: a list that shares one counts once.
    pub packets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Alone,
    Joining { hops: u8, retry: Option<Instant> },
    Member,
    Left,
}

#[derive(Clone, Copy, Debug)]
struct Lookup {
    key: Position,
    began: Instant,
    again: Instant,
    starts: u32,
}

#[derive(Clone, Debug)]
struct Passed {
    at: Instant,
    forward: Forward,
    /// Whether it came as the primary copy, which is passed on to several.
    is_primary: bool,
    /// Who has yet to take on the primary copy.
    waits_for: Option<SocketAddr>,
    to: BTreeSet<Contact>,
}

#[derive(Clone, Copy, Debug)]
enum Tag {
    Join,
    /// Whether others have another idea of who is next, after so many hops.
    Merge(u8),
    Stabilise,
    /// Who asks, and the number of the look-up.
    Forward(SocketAddr, u32),
    Explore,
    Result,
    Leave,
}

/// A request that waits for the budget. Its time-outs begin when it leaves.
#[derive(Clone, Debug)]
struct Request {
    to: Vec<(SocketAddr, Tag)>,
    message: Message,
}

impl Accordion {
    /// A peer that knows nobody yet. All its random numbers come from `random`.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let me = Contact::of(config.address);
        let budget = Budget::new(now, config.octets_per_second, config.burst_octets);
        // The other half is for what nobody plans: others' look-ups, and stabilisation.
        let caused = config.octets_per_second / 2;
        let caused = Budget::new(now, caused, config.burst_octets);
        Self {
            overlay: Overlay::named(&config.overlay),
            family: Family::of(&config.address),
            me,
            neighbours: Neighbours::new(me, config.successors),
            table: Table::new(me.position, config.alive, config.max_peers),
            parallel: config.parallel.0,
            phase: Phase::Alone,
            goodbyes: Goodbyes::default(),
            bootstrap: Vec::new(),
            peers: Peers::new(MAX_MEASURED, config.pace),
            fanouts: Fanouts::new(),
            outgoing: Outgoing::new(budget, config.burst_octets as usize / RESERVED_PART),
            caused,
            out: Outbox::default(),
            lookups: BTreeMap::new(),
            // Who has not seen a look-up cannot guess its number, and name an owner.
            next_lookup: u32::from_be_bytes(random.octets()) % (u32::MAX / STARTS),
            passed: BTreeMap::new(),
            began: now,
            stabilise_at: None,
            tick_at: None,
            adapt_at: now,
            counters: Counters::default(),
            random,
            config,
        }
    }

    /// Where this peer is.
    pub fn contact(&self) -> Contact {
        self.me
    }

    /// The next peers on the ring.
    pub fn successors(&self) -> &[Contact] {
        self.neighbours.successors()
    }

    /// The peer before this one on the ring.
    pub fn predecessor(&self) -> Option<Contact> {
        self.neighbours.predecessor()
    }

    /// Whether the peer takes part.
    pub fn is_member(&self) -> bool {
        self.phase == Phase::Member
    }

    /// How many peers a look-up asks at once, at present.
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// How far ahead the peers are to which look-ups may be passed on: successors, and those of the table that are
    /// probably there. In order.
    pub fn distances(&self, now: Instant) -> Vec<u64> {
        let me = self.me.position;
        let successors = self.neighbours.successors().iter();
        let mut distances = self.table.distances(now);
        distances.extend(successors.map(|peer| me.distance_to(peer.position)));
        distances.sort_unstable();
        distances.dedup();
        distances
    }

    /// What the peer has done.
    pub fn counters(&self) -> Counters {
        let (octets, packets, dropped) = self.outgoing.counts();
        Counters {
            octets,
            packets,
            dropped,
            ..self.counters
        }
    }

    /// Becomes the first peer of an overlay.
    pub fn found_overlay(&mut self, now: Instant) {
        self.begin(now);
    }

    /// Joins an overlay of which these peers are members: [`Event::Joined`] tells when it is done.
    pub fn join(&mut self, now: Instant, by: &[SocketAddr]) {
        self.bootstrap = by.to_vec();
        self.find_successor(now, None);
        self.settle(now);
    }

    /// Leaves: tells the neighbours of each other. [`Event::Left`] tells when the peer may go.
    pub fn leave(&mut self, now: Instant) {
        if self.phase == Phase::Left {
            return;
        }
        self.phase = Phase::Left;
        self.lookups.clear();
        (self.stabilise_at, self.tick_at) = (None, None);
        let predecessor = self.neighbours.predecessor();
        let next = self.neighbours.successor();
        let neighbours: Vec<Contact> = next.into_iter().chain(predecessor).collect();
        let mut to = neighbours.clone();
        to.dedup();
        if to.is_empty() {
            self.out.tell(Event::Left);
        }
        self.goodbyes = Goodbyes::new(to.len());
        let to = to.iter().map(|peer| (peer.address, Tag::Leave)).collect();
        self.ask(
            now,
            to,
            &Message::Ping {
                leaving: true,
                neighbours,
            },
        );
        self.settle(now);
    }

    /// A neighbour knows that this peer leaves, or does not answer.
    fn said_goodbye(&mut self) {
        if self.goodbyes.said() {
            self.out.tell(Event::Left);
        }
    }

    /// Looks for the peer that a key belongs to: [`Event::Found`] tells.
    pub fn lookup(&mut self, now: Instant, key: Position) -> LookupId {
        let id = self.next_lookup;
        self.next_lookup = (id + 1) % (u32::MAX / STARTS);
        let again = now + LOOKUP_TIMEOUT;
        self.lookups.insert(
            id,
            Lookup {
                key,
                began: now,
                again,
                starts: 1,
            },
        );
        self.start(now, id);
        self.settle(now);
        LookupId(id.into())
    }

    fn start(&mut self, now: Instant, id: u32) {
        let Some(lookup) = self.lookups.get(&id) else {
            return;
        };
        let origin = self.me.address;
        let forward = Forward {
            key: lookup.key,
            // Each start is one of its own for those that pass it on.
            lookup: id.wrapping_mul(STARTS) + lookup.starts % STARTS,
            hops: 0,
            uptime_s: 0,
            primary: 0,
            origin,
        };
        self.pass(now, forward, true);
    }

    /// Passes on a look-up, or answers it. The primary copy goes on to several, each other one to one at
    /// most: else there would be more and more of them from hop to hop.
    fn pass(&mut self, now: Instant, forward: Forward, is_primary: bool) {
        let key = (forward.origin, forward.lookup);
        if let Some(passed) = self.passed.get_mut(&key) {
            if is_primary && !passed.is_primary {
                passed.is_primary = true;
                // Whoever got the other copy may have dropped it.
                passed.to.clear();
                self.pass_to(now, key, self.parallel);
            }
            return;
        }
        // However many others pass on: there is room for this peer's own.
        let is_full = self.passed.len() >= MAX_PASSED && forward.origin != self.me.address;
        // Look-ups without budget go the way of their primary copies.
        let least = self.config.burst_octets as usize / LOOKUP_PART;
        if is_full || (!is_primary && self.outgoing.available(now) < least) {
            return;
        }
        let (at, to) = (now, BTreeSet::new());
        self.passed.insert(
            key,
            Passed {
                at,
                forward,
                is_primary,
                waits_for: None,
                to,
            },
        );
        let count = if is_primary { self.parallel } else { 1 };
        self.pass_to(now, key, count);
    }

    fn pass_to(&mut self, now: Instant, key: (SocketAddr, u32), count: usize) {
        let Some(passed) = self.passed.get(&key) else {
            return;
        };
        let forward = passed.forward;
        if let Some(owner) = self.neighbours.owner(forward.key) {
            self.result(now, &forward, owner);
            return;
        }
        let me = self.me.position;
        let near = self.neighbours.successors().iter().rev().copied();
        let near = near.filter(|peer| peer.position.is_within(me, forward.key));
        let origin = forward.origin;
        let is_new = |peer: &Contact| !passed.to.contains(peer) && peer.address != origin;
        let known = self.table.before(now, forward.key, false);
        // The closest come first.
        let known = known.filter(is_new).take(count);
        let mut next: Vec<Contact> = known.chain(near.filter(is_new)).collect();
        next.sort_by_key(|peer| peer.position.distance_to(forward.key));
        next.dedup();
        next.truncate(count);
        let Some(first) = next.first().filter(|_| forward.hops < MAX_HOPS).copied() else {
            return;
        };
        // Where the copy is not the primary one, nobody's is.
        let primary = match passed.is_primary {
            true => tag(first),
            false => tag(self.me),
        };
        let asked = Tag::Forward(key.0, key.1);
        let to = next.iter().map(|peer| (peer.address, asked)).collect();
        if let Some(passed) = self.passed.get_mut(&key) {
            passed.waits_for = Some(first.address).filter(|_| passed.is_primary);
            passed.to.extend(next);
        }
        self.counters.passed += u64::from(origin != self.me.address);
        let hops = forward.hops + 1;
        let uptime_s = self.uptime_s(now);
        self.ask(
            now,
            to,
            &Message::Forward(Forward {
                hops,
                uptime_s,
                primary,
                ..forward
            }),
        );
    }

    fn result(&mut self, now: Instant, forward: &Forward, owner: Contact) {
        let Forward {
            lookup,
            hops,
            origin,
            ..
        } = *forward;
        if origin == self.me.address {
            self.found(now, lookup / STARTS, Some(owner), hops.into());
        } else {
            let to = vec![(origin, Tag::Result)];
            self.ask(
                now,
                to,
                &Message::Result {
                    lookup,
                    hops,
                    owner,
                },
            );
        }
    }

    fn found(&mut self, now: Instant, id: u32, owner: Option<Contact>, hops: u32) {
        if let Some(Lookup { key, began, .. }) = self.lookups.remove(&id) {
            let lookup = LookupId(id.into());
            let (asked, took) = (0, now - began);
            self.out.tell(Event::Found {
                lookup,
                key,
                owner,
                hops,
                asked,
                took,
            });
        }
    }

    fn begin(&mut self, now: Instant) {
        self.phase = Phase::Member;
        self.out.tell(Event::Joined);
        self.stabilise_at = Some(now);
        self.tick_at = Some(now + self.random.jitter(TICK / 2, 1.0));
        self.adapt_at = now + self.config.adapt;
    }

    fn find_successor(&mut self, now: Instant, at: Option<(SocketAddr, u8)>) {
        let (to, hops) = match at {
            Some((at, hops)) => (vec![(at, Tag::Join)], hops),
            None => (
                self.bootstrap.iter().map(|by| (*by, Tag::Join)).collect(),
                0,
            ),
        };
        self.phase = Phase::Joining { hops, retry: None };
        // A peer that joins again may still be known: its successor is the next one.
        let key = self.me.position.ahead(1);
        self.ask(now, to, &Message::Find { key, want: 1 });
    }

    /// Looks for the own place by way of another peer.
    fn merge(&mut self, now: Instant, at: SocketAddr, hops: u8) {
        let key = self.me.position.ahead(1);
        let to = vec![(at, Tag::Merge(hops))];
        self.ask(now, to, &Message::Find { key, want: 1 });
    }

    fn join_failed(&mut self, now: Instant) {
        if let Phase::Joining { retry, .. } = &mut self.phase {
            retry.get_or_insert(now + self.random.jitter(RETRY, 0.5));
        }
    }

    fn uptime_s(&self, now: Instant) -> u16 {
        u16::try_from((now - self.began).as_secs()).unwrap_or(u16::MAX)
    }

    /// Asks as soon as the budget allows it.
    fn ask(&mut self, now: Instant, to: Vec<(SocketAddr, Tag)>, message: &Message) {
        if to.is_empty() {
            return;
        }
        let any = TransactionId::random(&mut self.random, wire::TRANSACTION_OCTETS);
        let as_long = Transmit {
            to: to.iter().map(|(peer, _)| *peer).collect(),
            body: body(self.overlay, message, &any),
            mode: self.mode(),
        };
        let message = message.clone();
        let urgency = urgency(message.kind());
        let request = Request { to, message };
        self.outgoing.push(now, as_long, Some(request), urgency);
    }

    /// Asks: the budget has been taken.
    fn begin_request(&mut self, now: Instant, Request { to, message }: Request) {
        let (overlay, mut policy) = (self.overlay, self.config.policy);
        if matches!(message, Message::Forward(_)) {
            // There are other ways: asking the same again would only add to the load.
            (policy.retries, policy.repair) = (0, false);
        }
        let body = |transaction: &TransactionId| body(overlay, &message, transaction);
        self.fanouts
            .start(now, &mut self.peers, &mut self.random, policy, to, body);
        while let Some(transmit) = self.fanouts.poll_transmit() {
            let mode = self.mode();
            self.outgoing.send(Transmit { mode, ..transmit });
        }
    }

    fn mode(&self) -> Mode {
        match self.config.combine {
            true => Mode::Shared,
            false => Mode::Unicast,
        }
    }

    /// Answers to a look-up or an exploration: this peer, and some that it knows ahead.
    fn entries(&self, now: Instant, span: u64) -> Message {
        let own = Entry {
            peer: self.me,
            alive_s: self.uptime_s(now),
            since_s: 0,
        };
        let mut entries = vec![own];
        entries.extend(self.table.ahead(now, span, self.config.learnt));
        Message::Entries(entries)
    }

    /// A peer sent something itself.
    fn heard(&mut self, now: Instant, peer: Contact, uptime_s: Option<u16>) {
        if self.is_member() && peer != self.me {
            let alive_s = uptime_s.unwrap_or(0);
            self.table.learn(
                now,
                Entry {
                    alive_s,
                    ..new(peer)
                },
            );
            self.is_there(now, peer);
        }
    }

    /// A peer is there: it may be the next on the ring.
    fn is_there(&mut self, now: Instant, peer: Contact) {
        if self.neighbours.heard(peer) {
            self.stabilise_soon(now);
        }
    }

    /// A peer passes on a look-up, or explores. Most that do are close behind, for whom this peer is near: as entries they
    /// would crowd the end of the ring. So nobody becomes one by that.
    fn asked_by(&mut self, now: Instant, peer: Contact, uptime_s: u16) {
        if self.table.knows(peer) {
            self.heard(now, peer, Some(uptime_s));
        } else if self.is_member() && peer != self.me {
            self.is_there(now, peer);
        }
    }

    fn stabilise_soon(&mut self, now: Instant) {
        if self.is_member() {
            let soon = now + self.random.jitter(SOON, 0.5);
            self.stabilise_at = Some(self.stabilise_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// A peer did not answer. Its budget may have been used up: a successor is given up only if it
    /// does not tell its neighbours either, and a predecessor only if it asks no more.
    fn silent(&mut self, now: Instant, peer: Contact, tag: Tag) {
        let heard = self.peers.heard(&peer.address);
        let is_there = heard.is_some_and(|heard| now - heard < HEARD);
        if is_there || self.outgoing.is_unsent(&peer.address) {
            return;
        }
        // A look-up is asked once only: one loss is no death.
        let silences = self.peers.silent_in_a_row(&peer.address);
        if matches!(tag, Tag::Forward(..)) && silences < 2 {
            return;
        }
        self.counters.forgotten += 1;
        self.table.failed(peer);
        let is_next = self.neighbours.successor() == Some(peer);
        if is_next {
            if silences > 1 && matches!(tag, Tag::Stabilise) {
                self.neighbours.failed(peer);
            }
            self.stabilise_soon(now);
        } else if self.neighbours.predecessor() != Some(peer) {
            self.neighbours.failed(peer);
        }
    }

    fn answer(&mut self, now: Instant, from: Contact, header: Header, message: &Message) {
        if matches!(self.phase, Phase::Left | Phase::Alone) {
            return;
        }
        let was_neighbour = self.neighbours.is_one(from);
        let answer = match message {
            Message::Ping {
                leaving,
                neighbours,
            } => {
                if *leaving {
                    self.table.failed(from);
                    self.neighbours.failed(from);
                    self.stabilise_soon(now);
                    for peer in neighbours.iter().filter(|peer| **peer != self.me) {
                        self.neighbours.begin(*peer);
                    }
                }
                Message::Pong
            }
            _ if !self.is_member() => return,
            Message::Find { key, .. } => {
                let owner = self.neighbours.owner(*key);
                let is_owner = owner.is_some();
                let near = self.neighbours.successors().iter().copied();
                let near = near.filter(|peer| peer.position.is_within(self.me.position, *key));
                let closest = self.table.before(now, *key, true).take(1).chain(near);
                let closest = closest.min_by_key(|peer| peer.position.distance_to(*key));
                let named = owner.or(closest).unwrap_or(self.me);
                let entry = Entry {
                    peer: named,
                    alive_s: 0,
                    since_s: 0,
                };
                Message::Found {
                    is_owner,
                    entries: vec![entry],
                }
            }
            Message::Stabilise => {
                let told = Message::Neighbours {
                    predecessor: self.neighbours.predecessor().filter(|peer| *peer != from),
                    successors: self.neighbours.successors().to_vec(),
                };
                self.heard(now, from, None);
                self.neighbours.notified(now, from);
                told
            }
            Message::Forward(forward) => {
                self.asked_by(now, from, forward.uptime_s);
                // Nobody else begins look-ups of this peer.
                let is_own = forward.origin == self.me.address;
                if Family::of(&forward.origin) == self.family && !is_own {
                    let is_primary = forward.primary == tag(self.me);
                    self.pass(now, *forward, is_primary);
                }
                self.entries(now, self.me.position.distance_to(forward.key))
            }
            Message::Explore { uptime_s, spans } => {
                self.asked_by(now, from, *uptime_s);
                // The last quarter is for look-ups and neighbours.
                let least = self.config.burst_octets as usize / 4;
                if self.outgoing.available(now) < least {
                    return;
                }
                let own = spans.iter().find(|(of, _)| *of == tag(self.me));
                let span = own.and_then(|(_, exponent)| 1u64.checked_shl((*exponent).into()));
                self.entries(now, span.unwrap_or(u64::MAX))
            }
            Message::Result {
                lookup,
                hops,
                owner,
            } => {
                self.found(now, *lookup / STARTS, Some(*owner), u32::from(*hops));
                Message::Pong
            }
            _ => return,
        };
        if self
            .peers
            .reserve(now, from.address, Duration::ZERO)
            .is_some()
        {
            let reply = Transmit {
                to: vec![from.address],
                body: Body::shared(answer.write(header)),
                mode: Mode::Unicast,
            };
            // Only neighbours' questions are worth what is kept for neighbours.
            let is_neighbour = was_neighbour || self.neighbours.is_one(from);
            let urgency = match message {
                Message::Stabilise | Message::Ping { .. } if is_neighbour => Urgency::Ring,
                Message::Stabilise | Message::Ping { .. } => Urgency::Other,
                _ => Urgency::LookUp,
            };
            self.outgoing.push(now, reply, None, urgency);
        }
    }

    fn answered(&mut self, now: Instant, from: Contact, tag: Tag, late: bool, message: &Message) {
        match (tag, message) {
            (Tag::Join, Message::Found { is_owner, entries }) => {
                let (Phase::Joining { hops, .. }, Some(next)) = (self.phase, entries.first())
                else {
                    return;
                };
                if next.peer == self.me {
                    self.join_failed(now);
                } else if *is_owner {
                    self.neighbours.begin(next.peer);
                    self.begin(now);
                } else if hops < MAX_HOPS && next.peer != from {
                    self.find_successor(now, Some((next.peer.address, hops + 1)));
                } else {
                    self.join_failed(now);
                }
            }
            (Tag::Merge(hops), Message::Found { is_owner, entries }) => {
                let next = entries.first().map(|entry| entry.peer);
                match next.filter(|next| *next != self.me && *next != from) {
                    Some(next) if *is_owner && self.neighbours.is_next(next) => {
                        let to = vec![(next.address, Tag::Stabilise)];
                        self.ask(now, to, &Message::Stabilise);
                    }
                    Some(next) if !*is_owner && hops < MAX_HOPS => {
                        self.merge(now, next.address, hops + 1);
                    }
                    _ => {}
                }
            }
            (
                Tag::Stabilise,
                Message::Neighbours {
                    predecessor,
                    successors,
                },
            ) => {
                self.heard(now, from, None);
                let family = self.family;
                let same = |peer: &Contact| Family::of(&peer.address) == family;
                let predecessor = predecessor.filter(same);
                // Each time that they are named they have been there for longer.
                for peer in successors.iter().filter(|peer| same(peer)) {
                    self.table.learn(now, new(*peer));
                }
                if let Some(closer) = self.neighbours.told(from, predecessor, successors) {
                    self.ask(
                        now,
                        vec![(closer.address, Tag::Stabilise)],
                        &Message::Stabilise,
                    );
                }
            }
            (Tag::Forward(..) | Tag::Explore, Message::Entries(entries)) => {
                if let Tag::Forward(origin, lookup) = tag
                    && let Some(passed) = self.passed.get_mut(&(origin, lookup))
                    && passed.waits_for == Some(from.address)
                {
                    passed.waits_for = None;
                }
                let own = entries.first().filter(|entry| entry.peer == from);
                self.heard(now, from, own.map(|entry| entry.alive_s));
                for entry in entries.iter().skip(1).take(self.config.learnt) {
                    if Family::of(&entry.peer.address) == self.family {
                        self.counters.learnt += 1;
                        self.table.learn(now, *entry);
                    }
                }
            }
            (Tag::Leave, _) if !late => self.said_goodbye(),
            // An answer that says something else is worth as much as none.
            (Tag::Join, _) => self.join_failed(now),
            _ => {}
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(silent) = self.fanouts.poll_silent() {
                if silent.asked {
                    self.silent(now, Contact::of(silent.peer), silent.tag);
                }
                self.unanswered(now, silent.peer, silent.tag);
            }
            // An answer may have made a neighbour's time-out due.
            if self.fanouts.poll_timeout().is_some_and(|at| at <= now) {
                self.fanouts.handle_timeout(now, &mut self.peers);
                continue;
            }
            // Requests again.
            while let Some(mut transmit) = self.fanouts.poll_transmit() {
                if !self.config.combine {
                    transmit.mode = Mode::Unicast;
                }
                let kind = transmit.datagram(0).get(3).map_or(0, |kind| kind & 0xf);
                self.outgoing.push(now, transmit, None, urgency(kind));
            }
            if let Some(request) = self.outgoing.release(now) {
                self.begin_request(now, request);
            } else if let Some(request) = self.outgoing.poll_given_up() {
                for (peer, tag) in request.to {
                    self.unanswered(now, peer, tag);
                }
            } else {
                return;
            }
        }
    }

    /// Somebody has not answered, or was not asked.
    fn unanswered(&mut self, now: Instant, peer: SocketAddr, tag: Tag) {
        match tag {
            Tag::Join => self.join_failed(now),
            Tag::Leave => self.said_goodbye(),
            Tag::Forward(origin, lookup) => {
                // The primary copy goes on by way of another.
                let key = (origin, lookup);
                let passed = self.passed.get(&key);
                if passed.is_some_and(|passed| passed.waits_for == Some(peer)) {
                    self.pass_to(now, key, 1);
                }
            }
            Tag::Merge(_) | Tag::Stabilise | Tag::Explore | Tag::Result => {}
        }
    }

    /// Explores, if at least half of the budget's burst is there: the other half is for look-ups.
    fn explore(&mut self, now: Instant) {
        let entries = (self.config.learnt + 1) * Entry::octets(self.family);
        let question = unicast_octets(self.family, Header::OCTETS + 2 + 3 * self.parallel);
        let answer = unicast_octets(self.family, Header::OCTETS + entries);
        let octets = question + self.parallel * answer;
        let is_allowed = self.outgoing.available(now) >= self.config.burst_octets as usize / 2;
        if !is_allowed || !self.caused.take(now, octets) {
            return;
        }
        let known = self.distances(now);
        let mut gaps = self.table.before_gaps(now, &known, self.parallel);
        if gaps.is_empty() {
            gaps.extend(self.neighbours.successor().map(|next| (next, u64::MAX)));
        }
        self.counters.explored += gaps.len() as u64;
        let exponent = |gap: u64| (u64::BITS - gap.leading_zeros()) as u8;
        let spans = gaps
            .iter()
            .map(|(peer, gap)| (tag(*peer), exponent(*gap)))
            .collect();
        let to = gaps
            .iter()
            .map(|(peer, _)| (peer.address, Tag::Explore))
            .collect();
        let uptime_s = self.uptime_s(now);
        self.ask(now, to, &Message::Explore { uptime_s, spans });
    }

    fn stabilise(&mut self, now: Instant) {
        if self.neighbours.successor().is_none() {
            // The nearest ahead that is known.
            let last = self.table.before(now, self.me.position, true).last();
            if let Some(next) = last {
                self.neighbours.begin(next);
            }
        }
        if let Some(next) = self.neighbours.successor() {
            let to = vec![(next.address, Tag::Stabilise)];
            self.ask(now, to, &Message::Stabilise);
        } else if !self.bootstrap.is_empty() {
            // Alone, but not the first: a ring of its own would be none.
            self.find_successor(now, None);
        }
    }

    fn periodic(&mut self, now: Instant) {
        if let Phase::Joining {
            retry: Some(at), ..
        } = self.phase
            && at <= now
        {
            self.find_successor(now, None);
        }
        if self.stabilise_at.is_some_and(|at| at <= now) {
            let period = self.config.stabilise;
            self.stabilise_at = Some(now + self.random.jitter(period, 0.2));
            self.neighbours.expire(now, period * SILENT_PERIODS);
            self.stabilise(now);
            let by = self.random.below(self.bootstrap.len());
            let is_due = self.is_member() && self.random.below(MERGE_PERIODS) == 0;
            if let Some(by) = self.bootstrap.get(by).filter(|_| is_due) {
                self.merge(now, *by, 0);
            }
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = Some(now + self.random.jitter(TICK, 0.2));
            self.adapt(now);
            self.table.expire(now);
            self.passed.retain(|_, passed| now - passed.at < MEMORY);
            self.explore(now);
        }
        let due: Vec<u32> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.again <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            match self.lookups.get_mut(&id) {
                Some(lookup) if lookup.starts < MAX_STARTS => {
                    lookup.starts += 1;
                    lookup.again = now + LOOKUP_TIMEOUT;
                    self.start(now, id);
                }
                _ => self.found(now, id, None, 0),
            }
        }
    }

    /// One more at a time if there is budget left, half as many otherwise.
    fn adapt(&mut self, now: Instant) {
        if self.adapt_at > now {
            return;
        }
        self.adapt_at = now + self.config.adapt;
        let is_left = self.outgoing.available(now) >= self.config.burst_octets as usize / 4;
        let (least, most) = self.config.parallel;
        let parallel = if is_left {
            self.parallel + 1
        } else {
            self.parallel / 2
        };
        self.parallel = parallel.clamp(least, most.max(least));
    }
}

impl Protocol for Accordion {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        // Nobody speaks for this peer.
        if Family::of(&from) == self.family
            && from != self.me.address
            && let Some((header, message)) = Message::read(self.overlay, self.family, &datagram)
        {
            let peer = Contact::of(from);
            if message.is_answer() {
                let id = &header.transaction;
                if let Some(answer) = self.fanouts.answer(now, &mut self.peers, id, from) {
                    self.answered(now, peer, answer.tag, answer.late, &message);
                }
            } else {
                self.answer(now, peer, header, &message);
            }
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.fanouts.handle_timeout(now, &mut self.peers);
        self.settle(now);
        self.periodic(now);
        self.settle(now);
    }

    fn set_way_out(&mut self, ipv6: bool, way: WayOut) {
        if ipv6 == self.me.address.is_ipv6() {
            self.outgoing.set_way_out(way);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outgoing.pop()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let retry = match self.phase {
            Phase::Joining { retry, .. } => retry,
            _ => None,
        };
        let again = self.lookups.values().map(|lookup| lookup.again).min();
        [
            self.fanouts.poll_timeout(),
            self.outgoing.next(),
            self.stabilise_at,
            self.tick_at,
            retry,
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

/// A request with this transaction.
fn body(overlay: Overlay, message: &Message, transaction: &TransactionId) -> Body {
    let kind = message.kind();
    let header = Header::request(wire::Protocol::Ring, overlay, kind, transaction);
    Body::shared(message.write(header))
}

/// What requests of this kind go before.
fn urgency(kind: u8) -> Urgency {
    match kind {
        // Questions and goodbyes to neighbours.
        3 | 7 => Urgency::Ring,
        // Look-ups and their results.
        9 | 10 => Urgency::LookUp,
        _ => Urgency::Other,
    }
}

/// A peer of which nothing is known but that it is there.
fn new(peer: Contact) -> Entry {
    Entry {
        peer,
        alive_s: 0,
        since_s: 0,
    }
}

/// By which the receivers of one packet are told apart.
fn tag(peer: Contact) -> u16 {
    peer.position.0 as u16
}
