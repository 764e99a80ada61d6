//! A peer of Chord or of EpiChord.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    event::{Event, LookupId},
    goodbyes::Goodbyes,
    lookup::Lookup,
    message::{Entry, Message},
    neighbours::Neighbours,
    routes::Routes,
    settings::Settings,
};
use crate::{
    krpc::Family,
    ring::{Contact, Position},
    runtime::{Body, Fanouts, Outbox, Peers, Protocol, Random, Transmit},
    wire::{self, Header, Overlay},
};

/// Most peers whose round-trip times are remembered.
const MAX_MEASURED: usize = 1024;
/// Peers that a look-up may fall back on.
const SPARE: usize = 16;
/// Entries that a newcomer is told.
const SAMPLE: usize = 50;
/// When a join that did not succeed is tried again; the actual time varies by half.
const RETRY: Duration = Duration::from_secs(3);
/// Who was heard of within so long is there, even if it did not answer an older question: it may
/// not have been a member yet.
const HEARD: Duration = Duration::from_secs(4);
/// After how many periods, on average, it is made sure that there is one ring only.
const MERGE_PERIODS: usize = 8;
/// A predecessor that has not asked for so many periods is forgotten.
const SILENT_PERIODS: u32 = 3;

/// A peer, whose routing state is `R`.
#[derive(Clone, Debug)]
pub struct Node<R> {
    settings: Settings,
    overlay: Overlay,
    family: Family,
    me: Contact,
    neighbours: Neighbours,
    routes: R,
    phase: Phase,
    goodbyes: Goodbyes,
    bootstrap: Vec<SocketAddr>,
    random: Random,
    peers: Peers,
    fanouts: Fanouts<Tag>,
    out: Outbox<Event>,
    lookups: BTreeMap<u64, Running>,
    next_lookup: u64,
    stabilise_at: Option<Instant>,
    upkeep_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Alone,
    Joining { retry: Option<Instant> },
    Member,
    Left,
}

#[derive(Clone, Debug)]
struct Running {
    lookup: Lookup,
    purpose: Purpose,
    began: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    User,
    Join,
    /// Whether others have another idea of who is next: then there are two rings.
    Merge,
    Upkeep(usize),
}

#[derive(Clone, Copy, Debug)]
enum Tag {
    Lookup(u64),
    Stabilise,
    Table,
    Leave,
}

#[expect(private_bounds, reason = "other overlays' routes are in this crate")]
impl<R: Routes> Node<R> {
    pub(crate) fn with_routes(settings: Settings, routes: R, random: Random) -> Self {
        let me = Contact::of(settings.address);
        Self {
            overlay: Overlay::named(&settings.overlay),
            family: Family::of(&settings.address),
            me,
            neighbours: Neighbours::new(me, settings.successors),
            routes,
            phase: Phase::Alone,
            goodbyes: Goodbyes::default(),
            bootstrap: Vec::new(),
            peers: Peers::new(MAX_MEASURED, settings.pace),
            fanouts: Fanouts::new(),
            out: Outbox::default(),
            lookups: BTreeMap::new(),
            next_lookup: 0,
            stabilise_at: None,
            upkeep_at: None,
            random,
            settings,
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

    /// How many peers are known besides the neighbours.
    pub fn known(&self) -> usize {
        self.routes.len()
    }

    /// What became of requests.
    pub fn requests(&self) -> crate::runtime::Counters {
        self.fanouts.counters()
    }

    pub(crate) fn routes(&self) -> &R {
        &self.routes
    }

    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Becomes the first peer of an overlay.
    pub fn found_overlay(&mut self, now: Instant) {
        self.begin(now);
    }

    /// Joins an overlay of which these peers are members: [`Event::Joined`] tells when it is done.
    pub fn join(&mut self, now: Instant, by: &[SocketAddr]) {
        self.bootstrap = by.to_vec();
        self.find_successor(now);
    }

    /// Leaves: tells the neighbours of each other. [`Event::Left`] tells when the peer may go.
    pub fn leave(&mut self, now: Instant) {
        if self.phase == Phase::Left {
            return;
        }
        self.phase = Phase::Left;
        self.lookups.clear();
        (self.stabilise_at, self.upkeep_at) = (None, None);
        let predecessor = self.neighbours.predecessor();
        let mut neighbours: Vec<Contact> = self.neighbours.successors().to_vec();
        neighbours.extend(predecessor);
        let next = self.neighbours.successor();
        let mut to: Vec<_> = next.into_iter().chain(predecessor).collect();
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
    }

    /// Looks for the peer that a key belongs to: [`Event::Found`] tells.
    pub fn lookup(&mut self, now: Instant, key: Position) -> LookupId {
        let id = self.start(now, key, Purpose::User, Vec::new());
        self.settle(now);
        LookupId(id)
    }

    fn find_successor(&mut self, now: Instant) {
        self.phase = Phase::Joining { retry: None };
        let by = self.bootstrap.iter().copied().map(Contact::of).collect();
        // A peer that joins again may still be known: its successor is the next one.
        self.start(now, self.me.position.ahead(1), Purpose::Join, by);
    }

    fn begin(&mut self, now: Instant) {
        self.phase = Phase::Member;
        self.out.tell(Event::Joined);
        self.stabilise_at = Some(now);
        let first = self.random.jitter(self.settings.upkeep / 2, 1.0);
        self.upkeep_at = Some(now + first);
    }

    fn start(&mut self, now: Instant, key: Position, purpose: Purpose, by: Vec<Contact>) -> u64 {
        let id = self.next_lookup;
        self.next_lookup += 1;
        let parallel = self.routes.parallel();
        let mut lookup = Lookup::new(key, parallel);
        let asks_others = matches!(purpose, Purpose::Join | Purpose::Merge);
        if !asks_others {
            let known = self
                .routes
                .closest(now, &self.neighbours, key, parallel + 3);
            lookup.add(known.into_iter().map(|entry| entry.peer), 1);
        }
        lookup.add(by, 1);
        let running = Running {
            lookup,
            purpose,
            began: now,
        };
        self.lookups.insert(id, running);
        match self.neighbours.owner(key) {
            Some(owner) if !asks_others => self.found(now, id, Some(owner), 0),
            _ => self.go_on(now, id),
        }
        id
    }

    fn go_on(&mut self, now: Instant, id: u64) {
        let Some(running) = self.lookups.get_mut(&id) else {
            return;
        };
        let key = running.lookup.key;
        let next = running.lookup.next().or_else(|| {
            // All that were named are gone: others that this peer knows.
            let known = self.routes.closest(now, &self.neighbours, key, SPARE);
            running
                .lookup
                .add(known.into_iter().map(|entry| entry.peer), 1);
            running.lookup.next()
        });
        let Some(next) = next else {
            self.found(now, id, None, 0);
            return;
        };
        let to: Vec<_> = next
            .iter()
            .map(|peer| (peer.address, Tag::Lookup(id)))
            .collect();
        let want = self.routes.want();
        self.ask(now, to, &Message::Find { key, want });
    }

    fn found(&mut self, now: Instant, id: u64, owner: Option<Contact>, hops: u32) {
        let Some(running) = self.lookups.remove(&id) else {
            return;
        };
        match (running.purpose, owner) {
            (Purpose::User, owner) => self.out.tell(Event::Found {
                lookup: LookupId(id),
                key: running.lookup.key,
                owner,
                hops,
                asked: running.lookup.asked() as u32,
                took: now - running.began,
            }),
            (Purpose::Upkeep(number), Some(owner)) if owner != self.me => {
                self.routes.looked_up(number, owner);
            }
            (Purpose::Upkeep(_), _) => {}
            (Purpose::Join, Some(owner)) if owner != self.me => {
                self.neighbours.begin(owner);
                let to = vec![(owner.address, Tag::Table)];
                self.ask(now, to, &Message::Table);
            }
            (Purpose::Join, _) => self.join_failed(now),
            (Purpose::Merge, Some(owner)) if self.neighbours.is_next(owner) => {
                let to = vec![(owner.address, Tag::Stabilise)];
                self.ask(now, to, &Message::Stabilise);
            }
            (Purpose::Merge, _) => {}
        }
    }

    fn join_failed(&mut self, now: Instant) {
        if let Phase::Joining { retry } = &mut self.phase {
            *retry = Some(now + self.random.jitter(RETRY, 0.5));
        }
    }

    fn ask(&mut self, now: Instant, to: Vec<(SocketAddr, Tag)>, message: &Message) {
        let (overlay, policy) = (self.overlay, self.settings.policy);
        let body = |transaction: &crate::runtime::TransactionId| {
            let kind = message.kind();
            let header = Header::request(wire::Protocol::Ring, overlay, kind, transaction);
            Body::shared(message.write(header))
        };
        self.fanouts
            .start(now, &mut self.peers, &mut self.random, policy, to, body);
    }

    fn stabilise(&mut self, now: Instant) {
        if self.neighbours.successor().is_none()
            && let Some(next) = self.routes.next_after(self.me.position)
        {
            self.neighbours.begin(next);
        }
        if let Some(next) = self.neighbours.successor() {
            let to = vec![(next.address, Tag::Stabilise)];
            self.ask(now, to, &Message::Stabilise);
        } else if !self.bootstrap.is_empty() {
            // Alone, but not the first: a ring of its own would be none.
            self.find_successor(now);
        }
    }

    /// Now and then looks for the own place by way of those that this peer joined by.
    fn merge(&mut self, now: Instant) {
        if self.is_member() && self.random.below(MERGE_PERIODS) == 0 {
            let by = self.bootstrap.iter().copied().map(Contact::of).collect();
            self.start(now, self.me.position.ahead(1), Purpose::Merge, by);
        }
    }

    /// A peer sent something itself.
    fn heard(&mut self, now: Instant, peer: Contact) {
        if self.is_member() && peer != self.me {
            self.routes.learn(now, here(peer));
            if self.neighbours.heard(peer) {
                self.stabilise_at = Some(now);
            }
        }
    }

    fn learn(&mut self, now: Instant, entries: &[Entry]) {
        for entry in entries.iter().take(SAMPLE) {
            if entry.peer != self.me && Family::of(&entry.peer.address) == self.family {
                self.routes.learn(now, *entry);
            }
        }
    }

    /// A peer did not answer.
    fn silent(&mut self, now: Instant, peer: Contact) {
        let heard = self.peers.heard(&peer.address);
        if heard.is_none_or(|heard| now - heard >= HEARD) {
            self.gone(now, peer);
        }
    }

    /// A neighbour knows that this peer leaves, or does not answer.
    fn said_goodbye(&mut self) {
        if self.goodbyes.said() {
            self.out.tell(Event::Left);
        }
    }

    fn gone(&mut self, now: Instant, peer: Contact) {
        self.routes.failed(peer);
        if self.neighbours.failed(peer) && self.is_member() {
            self.stabilise_at = Some(now);
        }
    }

    fn answer(&mut self, now: Instant, from: Contact, header: Header, message: &Message) {
        if self.phase == Phase::Left || self.phase == Phase::Alone {
            return;
        }
        let answer = match message {
            Message::Ping {
                leaving,
                neighbours,
            } => {
                if *leaving {
                    self.gone(now, from);
                    for peer in neighbours.iter().filter(|peer| **peer != self.me) {
                        self.neighbours.begin(*peer);
                    }
                }
                Message::Pong
            }
            _ if !self.is_member() => return,
            Message::Find { key, want } => {
                let count = usize::from(*want).clamp(1, 8);
                let owner = self.neighbours.owner(*key);
                let closer = self.routes.closest(now, &self.neighbours, *key, count);
                let is_owner = owner.is_some();
                let owner = owner.map(here);
                let closer = closer.into_iter().filter(|entry| entry.peer != from);
                // Behind the owner, others that a cache can use.
                let entries = owner.into_iter().chain(closer).take(count).collect();
                Message::Found { is_owner, entries }
            }
            Message::Stabilise => Message::Neighbours {
                predecessor: self.neighbours.predecessor().filter(|peer| *peer != from),
                successors: self.neighbours.successors().to_vec(),
            },
            Message::Table => Message::Entries(self.routes.sample(now, SAMPLE)),
            _ => return,
        };
        match message {
            Message::Stabilise => {
                self.heard(now, from);
                self.neighbours.notified(now, from);
            }
            // Who only looks for its place is no neighbour yet.
            Message::Find { .. } => self.routes.learn(now, here(from)),
            _ => {}
        }
        if self
            .peers
            .reserve(now, from.address, Duration::ZERO)
            .is_some()
        {
            self.out.send([from.address], answer.write(header));
        }
    }

    fn answered(&mut self, now: Instant, from: Contact, tag: Tag, late: bool, message: &Message) {
        self.heard(now, from);
        match (tag, message) {
            (Tag::Lookup(id), Message::Found { is_owner, entries }) => {
                self.learn(now, entries);
                let Some(running) = self.lookups.get_mut(&id).filter(|_| !late) else {
                    return;
                };
                let hops = running.lookup.answered(from);
                match entries.first() {
                    Some(owner) if *is_owner => self.found(now, id, Some(owner.peer), hops),
                    _ => {
                        let closer = entries.iter().map(|entry| entry.peer);
                        let me = self.me;
                        running
                            .lookup
                            .add(closer.filter(|peer| *peer != me), hops + 1);
                        self.go_on(now, id);
                    }
                }
            }
            (
                Tag::Stabilise,
                Message::Neighbours {
                    predecessor,
                    successors,
                },
            ) => {
                let family = self.family;
                let same = |peer: &Contact| Family::of(&peer.address) == family;
                let predecessor = predecessor.filter(same);
                if let Some(closer) = self.neighbours.told(from, predecessor, successors) {
                    self.ask(
                        now,
                        vec![(closer.address, Tag::Stabilise)],
                        &Message::Stabilise,
                    );
                }
            }
            (Tag::Table, Message::Entries(entries)) => {
                if matches!(self.phase, Phase::Joining { .. }) {
                    self.begin(now);
                    self.heard(now, from);
                }
                self.learn(now, entries);
            }
            (Tag::Leave, _) if !late => self.said_goodbye(),
            // An answer that says something else is worth as much as none.
            (Tag::Lookup(id), _) if !late => {
                if let Some(running) = self.lookups.get_mut(&id) {
                    running.lookup.silent();
                    self.go_on(now, id);
                }
            }
            (Tag::Table, _) if !late => self.join_failed(now),
            _ => {}
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(silent) = self.fanouts.poll_silent() {
                let peer = Contact::of(silent.peer);
                if silent.asked {
                    self.silent(now, peer);
                }
                match silent.tag {
                    Tag::Lookup(id) => {
                        if let Some(running) = self.lookups.get_mut(&id) {
                            running.lookup.silent();
                            self.go_on(now, id);
                        }
                    }
                    Tag::Table => self.join_failed(now),
                    Tag::Leave => self.said_goodbye(),
                    Tag::Stabilise => {}
                }
            }
            // An answer may have made a neighbour's time-out due.
            if self.fanouts.poll_timeout().is_some_and(|at| at <= now) {
                self.fanouts.handle_timeout(now, &mut self.peers);
            } else {
                break;
            }
        }
    }

    fn periodic(&mut self, now: Instant) {
        if let Phase::Joining { retry: Some(at) } = self.phase
            && at <= now
        {
            self.find_successor(now);
        }
        if self.stabilise_at.is_some_and(|at| at <= now) {
            let period = self.settings.stabilise;
            self.stabilise_at = Some(now + self.random.jitter(period, 0.2));
            self.neighbours.expire(now, period * SILENT_PERIODS);
            self.stabilise(now);
            self.merge(now);
        }
        if self.upkeep_at.is_some_and(|at| at <= now) {
            self.upkeep_at = Some(now + self.random.jitter(self.settings.upkeep, 0.2));
            for (number, key) in self.routes.upkeep(now, &self.neighbours) {
                self.start(now, key, Purpose::Upkeep(number), Vec::new());
            }
        }
    }
}

impl<R: Routes> Protocol for Node<R> {
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

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out
            .poll_transmit()
            .or_else(|| self.fanouts.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let retry = match self.phase {
            Phase::Joining { retry } => retry,
            _ => None,
        };
        [
            self.fanouts.poll_timeout(),
            self.stabilise_at,
            self.upkeep_at,
            retry,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}

/// A peer that was heard of just now.
fn here(peer: Contact) -> Entry {
    Entry {
        peer,
        alive_s: 0,
        since_s: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chord::Chord;

    /// Whoever asks for a place and gets answers that say nothing of it asks again, as if there were none.
    #[test]
    fn answers_of_another_kind_are_none() {
        let mut now = Instant::now();
        let [own, other] = [1, 2].map(|last| SocketAddr::from(([198, 51, 100, last], 4000)));
        let settings = Chord::settings("test", own);
        let (overlay, family) = (Overlay::named("test"), Family::of(&own));
        let mut node = Chord::new(settings, Random::from_number(1));
        node.join(now, &[other]);
        let (end, mut asked) = (now + Duration::from_secs(300), 0);
        while now < end {
            while let Some(transmit) = node.poll_transmit() {
                let (header, _) =
                    Message::read(overlay, family, &transmit.datagram(0)).expect("a request");
                asked += 1;
                node.handle(now, other, Message::Pong.write(header));
            }
            now += Duration::from_millis(500);
            node.handle_timeout(now);
        }
        assert!(asked > 2, "asked {asked} times only");
        assert!(!node.is_member());
    }
}
