//! A member of a tree, as a protocol.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;

use super::{
    children::{Child, Children},
    config::Config,
    message::{Beat, DATA_OCTETS, Data, Found, Message, Refusal, Report, TreeKey, ranges},
    place::{Change, Place},
    repairs::Repairs,
    status::{Cause, Counters, Event, Status},
    stream::{Bounds, Delivery, Newness, Stream},
};
use crate::runtime::{OctetPace, Outbox, Protocol, Random, Transmit};

/// Most messages of one request that are looked at.
const MAX_WANTED: usize = 4096;
/// A member this deep takes no children.
const MAX_DEPTH: u8 = 64;

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CannotSend {
    /// Only the source can send.
    #[error("this member is not the source: it has no signing key")]
    NotTheSource,
    /// It is longer than [`Config::max_payload_octets`].
    #[error("a message may have {most} octets, and this one has {octets}")]
    TooLong {
        /// What it has.
        octets: usize,
        /// What it may have.
        most: usize,
    },
}

/// What relatives know of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Where it is.
    pub address: SocketAddr,
    /// What its parent knows it by.
    token: u64,
    /// What its children know it by.
    family: u64,
}

/// What somebody was asked for last.
#[derive(Clone, Debug, Default)]
struct AskedFor {
    /// Proves this member's address to it; 0 as long as it has not told one.
    cookie: u64,
    /// Whether it may tell one.
    may_prove: bool,
    ranges: Vec<(u64, u16)>,
}

impl AskedFor {
    fn want(&self, token: u64) -> Message {
        Message::Want {
            token,
            cookie: self.cookie,
            ranges: self.ranges.clone(),
        }
    }
}

/// A member of a tree: its source, or not. See the [module](super).
#[derive(Debug)]
pub struct Member {
    config: Arc<Config>,
    tree: TreeKey,
    place: Place,
    children: Children,
    stream: Stream,
    repairs: Repairs,
    /// Of whom this member asks what it misses.
    asked: BTreeMap<SocketAddr, AskedFor>,
    repair_pace: OctetPace,
    /// What children and grandchildren know this member by.
    family: u64,
    secret: [u8; 16],
    paused: bool,
    left: bool,
    beat_at: Option<Instant>,
    report_at: Option<Instant>,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Member {
    /// Octets that each message has in front of its payload: what it is, and the source's signature.
    pub const OVERHEAD_OCTETS: usize = DATA_OCTETS;

    /// A member that knows nobody yet. It joins by itself; the source is there from the beginning.
    pub fn new(now: Instant, config: impl Into<Arc<Config>>, mut random: Random) -> Self {
        let config = config.into();
        let tree = TreeKey::new(&config.name, config.source_key);
        let is_source = config.signing_key.is_some();
        let mut stream = Stream::new(Bounds {
            messages: config.kept_messages.max(1),
            octets: config.kept_octets,
            patience: config.patience,
        });
        if is_source {
            stream.know(now, config.first_seq);
        }
        Self {
            tree,
            place: Place::new(now, config.clone(), tree, &mut random),
            children: Children::new(
                config.packets,
                config.packets_per_message,
                DATA_OCTETS + config.max_payload_octets,
            ),
            stream,
            repairs: Repairs::default(),
            asked: BTreeMap::new(),
            repair_pace: OctetPace::new(
                config.repair_octets_per_second,
                config.repair_octets_per_second,
            ),
            family: u64::from_be_bytes(random.octets()),
            secret: random.octets(),
            paused: false,
            left: false,
            beat_at: is_source.then_some(now),
            report_at: None,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Sends a message to all members; the source only. Gives back its number.
    ///
    /// # Errors
    ///
    /// See [`CannotSend`].
    pub fn send(&mut self, now: Instant, payload: &[u8]) -> Result<u64, CannotSend> {
        let key = self.config.signing_key.as_ref();
        let key = key.ok_or(CannotSend::NotTheSource)?;
        let most = self.config.max_payload_octets;
        if payload.len() > most {
            let octets = payload.len();
            return Err(CannotSend::TooLong { octets, most });
        }
        let seq = self.stream.head();
        let datagram = self.tree.sign(key, seq, payload);
        self.stream.take(now, seq, datagram.clone());
        // The source has no use for its own messages.
        while self.stream.deliver().is_some() {}
        self.forward(&datagram, None);
        Ok(seq)
    }

    /// What relatives know of this member, which is at this address.
    pub fn card(&self, address: SocketAddr) -> Card {
        Card {
            address,
            token: self.place.token,
            family: self.family,
        }
    }

    /// Takes a place in a tree that has been made up elsewhere, without a message: for simulations of
    /// trees that are too large to be joined member by member. All members take theirs at one time,
    /// before anything is sent, and have a source that has just begun.
    pub fn seat(
        &mut self,
        now: Instant,
        own: SocketAddr,
        depth: u8,
        parent: Option<Card>,
        children: impl IntoIterator<Item = Card>,
    ) {
        let pulse = self.config.first_seq;
        let parent = parent.map(|parent| (parent.address, parent.family));
        self.place.seat(now, own, pulse, depth, parent);
        self.stream.know(now, pulse);
        for child in children {
            let Card { address, token, .. } = child;
            self.children.all.insert(address, Child::new(now, token));
        }
    }

    /// Says goodbye to parent and children, by one packet where they fit into one. The member does
    /// nothing any more.
    pub fn leave(&mut self, _now: Instant) {
        let message = Message::Leave {
            token: self.place.token,
            family: self.family,
        };
        let mut to: Vec<SocketAddr> = self.children.all.keys().copied().collect();
        to.extend(self.place.parent.as_ref().map(|parent| parent.address));
        to.sort_unstable();
        to.dedup();
        let datagram = self.place.encode(&message);
        for to in self.config.packets.lists(&to, datagram.len()) {
            self.control(to, datagram.clone());
        }
        self.place.stop();
        self.children.all.clear();
        self.left = true;
        (self.beat_at, self.report_at, self.repairs.due) = (None, None, None);
    }

    /// Whether pulses of the source come, or this is the source.
    pub fn is_connected(&self, now: Instant) -> bool {
        self.place.is_connected(now)
    }

    /// Who sends it the stream.
    pub fn parent(&self) -> Option<SocketAddr> {
        self.place.parent.as_ref().map(|parent| parent.address)
    }

    /// Whom it sends the stream to.
    pub fn children(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.children.all.keys().copied()
    }

    /// Children that have not yet said that they can deliver all that there is.
    pub fn children_behind(&self) -> usize {
        let head = self.stream.head();
        self.children
            .all
            .values()
            .filter(|child| child.next < head)
            .count()
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Its place in the tree, and what it has done.
    pub fn status(&self, now: Instant) -> Status {
        let (kept, kept_octets) = self.stream.size();
        Status {
            connected: self.is_connected(now),
            depth: self.place.depth,
            parent: self.parent(),
            children: self.children().collect(),
            paused_children: self
                .children
                .all
                .values()
                .filter(|child| child.paused)
                .count(),
            room: self.children.room(false),
            next: self.stream.next(),
            head: self.stream.head(),
            missing: self.stream.missing(),
            kept,
            kept_octets,
            paused: self.paused,
            counters: self.counters,
        }
    }

    fn control(&mut self, to: Vec<SocketAddr>, datagram: Bytes) {
        self.counters.control_packets += 1;
        self.counters.control_receivers += to.len() as u64;
        self.out.send(to, datagram);
    }

    fn reply(&mut self, to: SocketAddr, message: &Message) {
        let datagram = self.place.encode(message);
        self.control(vec![to], datagram);
    }

    /// Passes a message on to children that are not behind.
    fn forward(&mut self, datagram: &Bytes, from: Option<SocketAddr>) {
        for to in self.children.lists(datagram.len(), true, from) {
            self.counters.stream_packets += 1;
            self.counters.stream_receivers += to.len() as u64;
            self.out.send(to, datagram.clone());
        }
    }

    fn own_beat(&mut self) -> Beat {
        let siblings = self.children.name_next();
        let parent = self.place.parent.as_ref();
        Beat {
            token: self.family,
            pulse: self.place.pulse,
            depth: self.place.depth,
            grandparent: parent.map(|parent| (parent.address, parent.token)),
            siblings,
        }
    }

    /// Passes the pulse on, and forgets children that have been silent.
    fn beat(&mut self, now: Instant) {
        let patience = self.config.silence + self.config.beat;
        let before = self.children.all.len();
        self.children
            .all
            .retain(|_, child| now < child.heard + patience);
        self.counters.silent_children += (before - self.children.all.len()) as u64;
        let beat = Message::Beat(self.own_beat());
        let datagram = self.place.encode(&beat);
        for to in self.children.lists(datagram.len(), false, None) {
            self.control(to, datagram.clone());
        }
        // The source's clock drives all others; without it they go on a little slower.
        let period = self.config.beat;
        let period = if self.place.is_source() {
            period
        } else {
            period * 3 / 2
        };
        self.beat_at = Some(now + period);
    }

    fn report(&mut self) {
        self.report_at = None;
        let Some(parent) = self.parent() else { return };
        let room = self.room(parent.is_ipv6());
        let room_depth = match room {
            0 => self.children.room_depth(),
            _ => self.place.depth,
        };
        let report = Report {
            token: self.place.token,
            next: self.stream.next(),
            paused: self.paused,
            room: room.min(usize::from(u16::MAX)) as u16,
            room_depth,
        };
        self.reply(parent, &Message::Report(report));
    }

    fn room(&self, ipv6: bool) -> usize {
        match self.place.depth < MAX_DEPTH {
            true => self.children.room(ipv6),
            false => 0,
        }
    }

    fn orphaned(&mut self, now: Instant, cause: Cause) {
        let parent = self.parent();
        if cause == Cause::NoPulse
            && let Some(parent) = parent
        {
            let leave = Message::Leave {
                token: self.place.token,
                family: 0,
            };
            self.reply(parent, &leave);
        }
        self.counters.orphaned += 1;
        self.out.tell(Event::Orphaned(cause));
        let children: Vec<SocketAddr> = self.children().collect();
        self.place.seek(now, &children, &mut self.random);
    }

    fn changed(&mut self, now: Instant, change: Option<Change>) {
        match change {
            Some(Change::Joined) => {
                // What came since that pulse is missed then, and asked for.
                self.stream.know(now, self.place.pulse.head);
                self.stream.ask_anew(now);
                if let Some(parent) = &self.place.parent {
                    self.out.tell(Event::Joined {
                        parent: parent.address,
                        depth: self.place.depth,
                    });
                }
                self.beat(now);
                self.report_at = Some(now);
                self.deliver();
            }
            Some(Change::NoParent { retry }) => self.out.tell(Event::NoParent { retry }),
            None => {}
        }
    }

    fn attach(&mut self, now: Instant, from: SocketAddr, message: Message) {
        let Message::Attach {
            transaction,
            cookie,
            token,
            pulse,
        } = message
        else {
            return;
        };
        let known = self.children.all.contains_key(&from);
        let why = if cookie != self.place.cookie(from, &self.secret) {
            Some(Refusal::Stranger)
        } else if !self.is_connected(now) {
            Some(Refusal::Adrift)
        } else if pulse >= self.place.pulse.number {
            Some(Refusal::NotYet)
        } else if !known && self.room(from.is_ipv6()) == 0 {
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(why) = why {
            return self.reply(from, &Message::Refused { transaction, why });
        }
        let child = Child::new(now, token);
        self.children.all.insert(from, child);
        let beat = self.own_beat();
        self.reply(from, &Message::Attached { transaction, beat });
        // Members further up should know soon if there is no more room here.
        if self.room(from.is_ipv6()) == 0 {
            self.report();
        }
    }

    fn data(&mut self, now: Instant, from: SocketAddr, data: &Data) {
        let newness = match self.stream.head() {
            // Before it has a place, a member cannot tell what is new.
            0 => Newness::Outside,
            _ => self.stream.newness(data.seq),
        };
        match newness {
            Newness::Known | Newness::Outside => {
                self.counters.duplicates += 1;
                return;
            }
            _ if !self.tree.is_signed(data) => {
                self.counters.forged += 1;
                return;
            }
            Newness::Repaired => self.counters.repaired += 1,
            Newness::New => {}
        }
        self.counters.received += 1;
        self.place.heard(now, from);
        self.stream.take(now, data.seq, data.datagram.clone());
        self.forward(&data.datagram, Some(from));
        self.deliver();
        self.consider_pause(now);
    }

    fn deliver(&mut self) {
        while let Some(delivery) = self.stream.deliver() {
            self.out.tell(match delivery {
                Delivery::Message(seq, datagram) => {
                    self.counters.delivered += 1;
                    let payload = datagram.slice(DATA_OCTETS.min(datagram.len())..);
                    Event::Message { seq, payload }
                }
                Delivery::Lost(from, to) => {
                    self.counters.lost += to - from;
                    Event::Lost { from, to }
                }
            });
        }
    }

    /// Far behind, more of the stream would only push aside what is asked for.
    fn consider_pause(&mut self, now: Instant) {
        let (kept, patience) = (self.config.kept_messages, self.config.patience);
        let (missing, waited) = (self.stream.missing(), self.stream.waited(now));
        let pause = if self.paused {
            missing > kept / 64 || waited > patience / 8
        } else {
            missing > kept / 8 || waited > patience / 4
        };
        if pause != self.paused {
            self.paused = pause;
            self.report();
        }
    }

    fn wanted(
        &mut self,
        now: Instant,
        from: SocketAddr,
        token: u64,
        cookie: u64,
        wanted: &[(u64, u16)],
    ) {
        if token != self.family && !self.place.is_sibling(token) {
            self.counters.malformed += 1;
            return;
        }
        // A child has proven its address. Others that know the token may have been children once.
        let proof = self.place.cookie(from, &self.secret);
        if cookie != proof && !self.children.all.contains_key(&from) {
            let cookie = proof;
            return self.reply(from, &Message::Prove { token, cookie });
        }
        let mut lack = Vec::new();
        for seq in numbers(wanted) {
            if self.stream.kept(seq).is_some() {
                self.repairs.want(now, from, seq);
            } else if self.stream.lacks(seq) {
                lack.push(seq);
            }
        }
        if !lack.is_empty() {
            let ranges = ranges(lack);
            self.reply(from, &Message::Lack { token, ranges });
        }
    }

    fn lacking(&mut self, now: Instant, from: SocketAddr, token: u64, lack: &[(u64, u16)]) {
        if !self.place.targets().contains(&(from, token)) {
            self.counters.malformed += 1;
            return;
        }
        for seq in numbers(lack) {
            self.stream.lacking(now, from, seq);
        }
    }

    /// Asks for what is missing.
    fn ask(&mut self, now: Instant) {
        let named = self.place.targets();
        let targets: Vec<SocketAddr> = named.iter().map(|(address, _)| *address).collect();
        let tokens: BTreeMap<SocketAddr, u64> = named.into_iter().rev().collect();
        self.asked.retain(|to, _| tokens.contains_key(to));
        for (to, missing) in self.stream.ask(now, &targets) {
            let token = tokens.get(&to).copied().unwrap_or_default();
            let asked = self.asked.entry(to).or_default();
            (asked.may_prove, asked.ranges) = (true, ranges(missing));
            let want = asked.want(token);
            self.reply(to, &want);
        }
        self.deliver();
        self.consider_pause(now);
    }

    /// Somebody who was asked wants a proof of this member's address first.
    fn prove(&mut self, from: SocketAddr, token: u64, cookie: u64) {
        let is_asked = self.place.targets().contains(&(from, token));
        match self.asked.get_mut(&from).filter(|_| is_asked) {
            // Once for each time that it was asked, whatever it says.
            Some(asked) if asked.may_prove => {
                (asked.may_prove, asked.cookie) = (false, cookie);
                let want = asked.want(token);
                self.reply(from, &want);
            }
            _ => self.counters.malformed += 1,
        }
    }

    /// Sends repairs, each to all that want it.
    fn repair(&mut self, now: Instant) {
        for (seq, who) in self.repairs.take(now) {
            let Some(datagram) = self.stream.kept(seq).cloned() else {
                continue;
            };
            let who: Vec<SocketAddr> = who.into_iter().collect();
            for to in self.config.packets.lists(&who, datagram.len()) {
                if !self.repair_pace.take(now, datagram.len()) {
                    // They ask again.
                    return;
                }
                self.counters.repair_packets += 1;
                self.counters.repair_receivers += to.len() as u64;
                self.out.send(to, datagram.clone());
            }
        }
    }

    fn take(&mut self, now: Instant, from: SocketAddr, message: Message) {
        match message {
            Message::Find { transaction } => {
                let connected = self.is_connected(now);
                let room = if connected {
                    self.room(from.is_ipv6())
                } else {
                    0
                };
                let found = Found {
                    cookie: self.place.cookie(from, &self.secret),
                    seen: from,
                    pulse: self.place.pulse.number,
                    depth: self.place.depth,
                    room: room.min(usize::from(u16::MAX)) as u16,
                    children: self.children.some_for(from, &mut self.random),
                };
                self.reply(from, &Message::Found { transaction, found });
            }
            Message::Found { transaction, found } => {
                let change = self
                    .place
                    .found(now, from, transaction, found, &mut self.random);
                self.changed(now, change);
            }
            Message::Attach { .. } => self.attach(now, from, message),
            Message::Attached { transaction, beat } => {
                let change = self
                    .place
                    .attached(now, from, transaction, beat, &mut self.random);
                self.changed(now, change);
            }
            Message::Refused { transaction, why } => {
                let change = self
                    .place
                    .refused(now, from, transaction, why, &mut self.random);
                self.changed(now, change);
            }
            Message::Beat(beat) => {
                let Some(is_new) = self.place.beat(now, from, beat) else {
                    return;
                };
                if is_new {
                    self.stream.know(now, self.place.pulse.head);
                    self.deliver();
                    self.beat(now);
                }
                // An old one is answered, too: the parent has lost its own, but not this child.
                let wait = self.random.below(self.config.beat.as_micros() as usize / 2);
                let at = now + Duration::from_micros(wait as u64);
                self.report_at.get_or_insert(at);
            }
            Message::Report(report) => match self.children.all.get_mut(&from) {
                Some(child) if child.token == report.token => {
                    child.heard = now;
                    child.next = report.next;
                    child.paused = report.paused;
                    child.room_depth = report.room_depth;
                }
                _ => {
                    let token = report.token;
                    self.reply(from, &Message::NoChild { token });
                }
            },
            Message::NoChild { token } => {
                if token == self.place.token && self.parent() == Some(from) {
                    self.orphaned(now, Cause::Dropped);
                }
            }
            Message::Leave { token, family } => {
                let child = self.children.all.get(&from);
                if child.is_some_and(|child| child.token == token) {
                    self.children.all.remove(&from);
                }
                let parent = self.place.parent.as_ref();
                if parent.is_some_and(|parent| parent.address == from && parent.token == family) {
                    self.orphaned(now, Cause::ParentLeft);
                }
            }
            Message::Data(data) => self.data(now, from, &data),
            Message::Want {
                token,
                cookie,
                ranges,
            } => self.wanted(now, from, token, cookie, &ranges),
            Message::Prove { token, cookie } => self.prove(from, token, cookie),
            Message::Lack { token, ranges } => self.lacking(now, from, token, &ranges),
        }
    }
}

/// The numbers in ranges, not too many.
fn numbers(ranges: &[(u64, u16)]) -> impl Iterator<Item = u64> + '_ {
    let all = ranges
        .iter()
        .flat_map(|(first, count)| *first..first.saturating_add(u64::from(*count)));
    all.take(MAX_WANTED)
}

impl Protocol for Member {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if self.left {
            return;
        }
        match Message::decode(&datagram, self.tree.tag) {
            Some(message) => self.take(now, from, message),
            None => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        if let Some(cause) = self.place.trouble(now) {
            self.orphaned(now, cause);
        }
        let children: Vec<SocketAddr> = self.children().collect();
        let change = self.place.handle_timeout(now, &children, &mut self.random);
        self.changed(now, change);
        if self.beat_at.is_some_and(|at| at <= now) {
            if self.place.is_source() {
                self.place.next_pulse(now, self.stream.head());
            }
            self.beat(now);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report();
        }
        if self.stream.due().is_some_and(|at| at <= now) {
            self.ask(now);
        }
        self.repair(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let asked = self.place.poll_transmit();
        if let Some(asked) = &asked {
            self.counters.control_packets += 1;
            self.counters.control_receivers += asked.to.len() as u64;
        }
        asked.or_else(|| self.out.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let timers = [
            self.place.poll_timeout(),
            self.beat_at,
            self.report_at,
            self.stream.due(),
            self.repairs.due,
        ];
        timers.into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
