//! Members, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tracing::debug;

use super::{
    message::{Kind, Message, Request},
    record::{MAX_ADDRESSES, Notice, Record, Standing, Subscription, member_id},
};
use crate::{
    id::Id,
    runtime::{Body, Fanouts, Mode, Pace, Peers, Policy, Protocol, Random, Transmit},
    signed::{Purpose, Signed},
};

/// Records in one message: so many fit into 1024 octets.
const RECORDS_PER_MESSAGE: usize = 4;
/// Longest topic, state and data of an event in octets.
const MAX_TOPIC_OCTETS: usize = 64;
const MAX_STATE_OCTETS: usize = 512;
const MAX_DATA_OCTETS: usize = 700;
/// Members to which some records are passed on.
const GOSSIP: usize = 3;
/// Requests in a row without answer after which a member is gone.
const GONE_AFTER: u32 = 3;
/// How long new members wait to be asked whether they are there, and to be told of others, so that
/// all of them are by one packet.
const BATCH_DELAY: Duration = Duration::from_millis(300);

/// Settings of [`Members`].
#[derive(Clone, Debug)]
pub struct MembersConfig {
    /// Name of the overlay, at most 32 octets: members of others are not heard.
    pub overlay: Bytes,
    /// This member's key.
    pub key: SigningKey,
    /// Where this member is, at most 4 addresses.
    pub addresses: Vec<SocketAddr>,
    /// Sequence number of this member's first record: it must grow from run to run, for example the
    /// time in seconds.
    pub first_seq: i64,
    /// Most members that are known, and most that have left and are remembered.
    pub max_members: usize,
    /// Most subscribers of all topics together.
    pub max_subscribers: usize,
    /// How often some records are passed on to some members, so that in the end all know all. The
    /// actual time varies by a fifth.
    pub gossip_interval: Duration,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one peer.
    pub pace: Pace,
}

impl MembersConfig {
    /// With the usual bounds.
    pub fn new(overlay: impl Into<Bytes>, key: SigningKey, addresses: Vec<SocketAddr>) -> Self {
        Self {
            overlay: overlay.into(),
            key,
            addresses,
            first_seq: 1,
            max_members: 10_000,
            max_subscribers: 1000,
            gossip_interval: Duration::from_secs(30),
            policy: Policy {
                retries: 2,
                ..Policy::default()
            },
            pace: Pace::new(20, Duration::from_millis(500)),
        }
    }
}

/// What [`Members`] tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is there: it has answered from its address.
    Joined {
        /// The member.
        id: Id,
        /// Where it is.
        address: SocketAddr,
    },
    /// A member has said that it leaves.
    Left {
        /// The member.
        id: Id,
    },
    /// A member has not answered several times.
    Gone {
        /// The member.
        id: Id,
    },
    /// A member has told its state, asked or unasked.
    State {
        /// The member.
        id: Id,
        /// What it said.
        state: Bytes,
        /// The round-trip time to it, if it was measured.
        round_trip: Option<Duration>,
    },
    /// Something that this member has subscribed to has happened.
    Notified {
        /// Who says so.
        publisher: Id,
        /// The topic.
        topic: Bytes,
        /// The number of the event.
        seq: i64,
        /// What has happened.
        data: Bytes,
    },
}

/// What was not believed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Rejected {
    /// Datagrams that are no messages of this overlay.
    pub malformed: u64,
    /// Signatures that are wrong.
    pub forged: u64,
    /// Sequence numbers that are not larger than known ones.
    pub old: u64,
    /// From or about somebody who is not a member.
    pub stranger: u64,
    /// Beyond a bound.
    pub full: u64,
}

/// Knows the members of an overlay, and talks to them. See the [module](super).
#[derive(Debug)]
pub struct Members {
    config: MembersConfig,
    id: Id,
    seq: i64,
    state: Bytes,
    members: BTreeMap<Id, Member>,
    subscribers: BTreeMap<Bytes, BTreeMap<Id, i64>>,
    subscribed: BTreeMap<(Id, Bytes), i64>,
    own: Option<Signed>,
    /// New members: to be asked whether they are there.
    verify: BTreeSet<Id>,
    /// Members that have just answered for the first time: to be told of this one, and of others.
    introduce: BTreeSet<Id>,
    batch_at: Option<Instant>,
    gossip_at: Option<Instant>,
    peers: Peers,
    fanouts: Fanouts<Option<Id>>,
    random: Random,
    replies: VecDeque<Transmit>,
    events: VecDeque<Event>,
    rejected: Rejected,
}

#[derive(Clone, Debug)]
struct Member {
    signed: Signed,
    record: Record,
    /// Whether it has answered.
    verified: bool,
}

impl Member {
    fn is_present(&self) -> bool {
        self.verified && self.record.standing == Standing::Present
    }
}

impl Members {
    /// A member that knows nobody yet.
    pub fn new(mut config: MembersConfig, random: Random) -> Self {
        config.addresses.truncate(MAX_ADDRESSES);
        config.overlay.truncate(32);
        let mut members = Self {
            id: member_id(&config.key.verifying_key().to_bytes()),
            seq: config.first_seq,
            state: Bytes::new(),
            members: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            own: None,
            verify: BTreeSet::new(),
            introduce: BTreeSet::new(),
            batch_at: None,
            gossip_at: None,
            peers: Peers::new(config.max_members, config.pace),
            fanouts: Fanouts::new(),
            random,
            replies: VecDeque::new(),
            events: VecDeque::new(),
            rejected: Rejected::default(),
            config,
        };
        members.own_record(Standing::Present);
        members
    }

    /// This member's identifier.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Members that are there.
    pub fn present(&self) -> impl Iterator<Item = Id> + '_ {
        self.members
            .iter()
            .filter(|(_, member)| member.is_present())
            .map(|(id, _)| *id)
    }

    /// Where a member is.
    pub fn address(&self, id: &Id) -> Option<SocketAddr> {
        self.members.get(id)?.record.addresses.first().copied()
    }

    /// The newest that is known of a member, also of one that has left or has not answered yet.
    pub fn record(&self, id: &Id) -> Option<&Record> {
        self.members.get(id).map(|member| &member.record)
    }

    /// What was not believed.
    pub fn rejected(&self) -> Rejected {
        self.rejected
    }

    /// Says that this member is there, to nodes whose identifiers need not be known.
    pub fn join(&mut self, now: Instant, to: &[SocketAddr]) {
        let news = Request::News(vec![self.own_record(Standing::Present)]);
        let to = to.iter().map(|address| (*address, None)).collect();
        self.ask(now, to, news);
    }

    /// Says to all members that this one leaves.
    pub fn leave(&mut self, now: Instant) {
        let news = Request::News(vec![self.own_record(Standing::Left)]);
        let all: Vec<Id> = self.present().collect();
        self.gossip_at = None;
        self.ask_members(now, &all, news);
    }

    /// Passes on the records of some members to others.
    pub fn push_table(&mut self, now: Instant, to: &[Id], of: &[Id]) {
        let records: Vec<Signed> = of
            .iter()
            .filter_map(|id| Some(self.members.get(id)?.signed.clone()))
            .collect();
        for records in records.chunks(RECORDS_PER_MESSAGE) {
            self.ask_members(now, to, Request::News(records.to_vec()));
        }
    }

    /// Tells this member's state, at most 512 octets, to others, who answer with theirs. It is what
    /// others get from now on.
    pub fn exchange_state(&mut self, now: Instant, to: &[Id], state: impl Into<Bytes>) {
        self.state = state.into();
        self.state.truncate(MAX_STATE_OCTETS);
        let request = self.state_request();
        self.ask_members(now, to, request);
    }

    /// Subscribes to a topic of a publisher, or unsubscribes.
    pub fn subscribe(
        &mut self,
        now: Instant,
        publisher: Id,
        topic: impl Into<Bytes>,
        wanted: bool,
    ) {
        let topic = topic.into();
        let key = (publisher, topic.clone());
        if wanted {
            // Events before the subscription are not wanted.
            self.subscribed.entry(key).or_insert(i64::MIN);
        } else {
            self.subscribed.remove(&key);
        }
        let seq = self.next_seq();
        let subscription = Subscription {
            publisher,
            topic,
            seq,
            wanted,
        };
        let signed = self.sign(Purpose::Subscription, subscription.body());
        self.ask_members(now, &[publisher], Request::Subscribe(signed));
    }

    /// Tells all subscribers of a topic that something has happened: how many there are. At most 700
    /// octets of data.
    pub fn publish(
        &mut self,
        now: Instant,
        topic: impl Into<Bytes>,
        data: impl Into<Bytes>,
    ) -> usize {
        let (topic, mut data) = (topic.into(), data.into());
        data.truncate(MAX_DATA_OCTETS);
        let to: Vec<Id> = self
            .subscribers
            .get(&topic)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect();
        let seq = self.next_seq();
        let signed = self.sign(Purpose::Event, Notice { topic, seq, data }.body());
        self.ask_members(now, &to, Request::Event(signed));
        to.len()
    }

    fn author(&self, signed: &Signed, purpose: Purpose) -> Option<Id> {
        let valid = signed.is_valid(purpose, &self.config.overlay);
        valid.then(|| member_id(&signed.key))
    }

    fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    fn sign(&self, purpose: Purpose, body: Bytes) -> Signed {
        Signed::new(&self.config.key, purpose, &self.config.overlay, body)
    }

    fn own_record(&mut self, standing: Standing) -> Signed {
        let seq = self.next_seq();
        let addresses = self.config.addresses.clone();
        let signed = self.sign(
            Purpose::Record,
            Record {
                seq,
                standing,
                addresses,
            }
            .body(),
        );
        self.own = (standing == Standing::Present).then(|| signed.clone());
        signed
    }

    /// Tells members of this one, unless it leaves, and of some others.
    fn introduce(&mut self, now: Instant, to: &[Id]) {
        let Some(own) = self.own.clone() else { return };
        let mut others: Vec<&Signed> = self
            .members
            .values()
            .filter(|m| m.is_present())
            .map(|m| &m.signed)
            .collect();
        self.random.choose(&mut others, RECORDS_PER_MESSAGE - 1);
        let others = others.into_iter().take(RECORDS_PER_MESSAGE - 1).cloned();
        let records = std::iter::once(own).chain(others).collect();
        self.ask_members(now, to, Request::News(records));
    }

    fn state_request(&self) -> Request {
        Request::State {
            sender: self.id,
            state: self.state.clone(),
        }
    }

    fn ask_members(&mut self, now: Instant, to: &[Id], request: Request) {
        let to = to
            .iter()
            .filter_map(|id| Some((self.address(id)?, Some(*id))))
            .collect();
        self.ask(now, to, request);
    }

    fn ask(&mut self, now: Instant, to: Vec<(SocketAddr, Option<Id>)>, request: Request) {
        let overlay = self.config.overlay.clone();
        let body = |transaction: &crate::runtime::TransactionId| {
            let transaction = Bytes::copy_from_slice(transaction.octets());
            Message {
                transaction,
                overlay: overlay.clone(),
                kind: Kind::Request(request.clone()),
            }
            .encode()
        };
        let policy = self.config.policy;
        self.fanouts
            .start(now, &mut self.peers, &mut self.random, policy, to, body);
    }

    fn requested(&mut self, now: Instant, from: SocketAddr, transaction: Bytes, request: Request) {
        let mut state = None;
        match request {
            Request::News(records) => {
                for signed in records.into_iter().take(RECORDS_PER_MESSAGE) {
                    self.news(now, signed);
                }
            }
            Request::State {
                sender,
                state: told,
            } => {
                state = Some(self.state.clone());
                if self.is_member_at(&sender, &from) {
                    self.told_state(sender, from, told);
                } else {
                    self.rejected.stranger += 1;
                }
            }
            Request::Subscribe(signed) => self.wants(&signed),
            Request::Event(signed) => self.notified(&signed),
        }
        // An answer is no longer than its request, but for the state.
        let kind = Kind::Answer {
            sender: self.id,
            state,
        };
        let overlay = self.config.overlay.clone();
        let body = Message {
            transaction,
            overlay,
            kind,
        }
        .encode();
        if self.peers.reserve(now, from, Duration::ZERO).is_some() {
            let body = Body::shared(body.datagram(0));
            self.replies.push_back(Transmit {
                to: vec![from],
                body,
                mode: Mode::Unicast,
            });
        }
    }

    /// A record of a member, from itself or passed on.
    fn news(&mut self, now: Instant, signed: Signed) {
        // What is passed on is mostly known: it need not be verified again.
        let known = self.members.get(&member_id(&signed.key));
        if known.is_some_and(|known| known.signed == signed) {
            return;
        }
        let Some(id) = self.author(&signed, Purpose::Record) else {
            self.rejected.forged += 1;
            return;
        };
        let Some(record) = Record::read(&signed.body) else {
            self.rejected.malformed += 1;
            return;
        };
        if id == self.id {
            return;
        }
        let known = self.members.get(&id);
        if known.is_some_and(|known| record.seq <= known.record.seq) {
            self.rejected.old += 1;
            return;
        }
        let moved = known.is_none_or(|known| known.record.addresses != record.addresses);
        let was_present = known.is_some_and(Member::is_present);
        if known.is_none() && !self.make_room() {
            self.rejected.full += 1;
            return;
        }
        let left = record.standing == Standing::Left;
        let verified = was_present && !moved;
        self.members.insert(
            id,
            Member {
                signed,
                record,
                verified,
            },
        );
        if left {
            self.forget_subscriber(&id);
            if was_present {
                debug!(%id, "left");
                self.events.push_back(Event::Left { id });
            }
        } else if !verified {
            self.verify.insert(id);
            self.batch_at.get_or_insert(now + BATCH_DELAY);
        }
    }

    /// Somebody wants events, or no longer.
    fn wants(&mut self, signed: &Signed) {
        let Some(id) = self.author(signed, Purpose::Subscription) else {
            self.rejected.forged += 1;
            return;
        };
        let Some(subscription) = Subscription::read(&signed.body) else {
            self.rejected.malformed += 1;
            return;
        };
        if subscription.publisher != self.id
            || !self.members.get(&id).is_some_and(Member::is_present)
        {
            self.rejected.stranger += 1;
            return;
        }
        let all: usize = self.subscribers.values().map(BTreeMap::len).sum();
        if all >= self.config.max_subscribers || subscription.topic.len() > MAX_TOPIC_OCTETS {
            self.rejected.full += 1;
            return;
        }
        // The sequence number of a member's record counts as well: what is older is a repetition.
        let known = self.members.get_mut(&id);
        if known
            .as_ref()
            .is_some_and(|known| subscription.seq <= known.record.seq)
        {
            self.rejected.old += 1;
            return;
        }
        let topic = self
            .subscribers
            .entry(subscription.topic.clone())
            .or_default();
        let last = topic.get(&id).copied().unwrap_or(i64::MIN);
        if subscription.seq <= last {
            self.rejected.old += 1;
        } else if subscription.wanted {
            topic.insert(id, subscription.seq);
        } else {
            topic.remove(&id);
            // So that the old subscription cannot be repeated.
            if let Some(known) = known {
                known.record.seq = subscription.seq;
            }
        }
        self.subscribers
            .retain(|_, subscribers| !subscribers.is_empty());
    }

    /// Something has happened.
    fn notified(&mut self, signed: &Signed) {
        let Some(publisher) = self.author(signed, Purpose::Event) else {
            self.rejected.forged += 1;
            return;
        };
        let Some(Notice { topic, seq, data }) = Notice::read(&signed.body) else {
            self.rejected.malformed += 1;
            return;
        };
        match self.subscribed.get_mut(&(publisher, topic.clone())) {
            Some(last) if *last < seq => {
                *last = seq;
                self.events.push_back(Event::Notified {
                    publisher,
                    topic,
                    seq,
                    data,
                });
            }
            // Retries bring the same again.
            Some(_) => self.rejected.old += 1,
            None => self.rejected.stranger += 1,
        }
    }

    fn answered(&mut self, now: Instant, from: SocketAddr, sender: Id, state: Option<Bytes>) {
        let Some(member) = self.members.get_mut(&sender) else {
            return;
        };
        if !member.record.addresses.contains(&from) || member.record.standing == Standing::Left {
            return;
        }
        if !member.verified {
            member.verified = true;
            debug!(id = %sender, %from, "joined");
            self.events.push_back(Event::Joined {
                id: sender,
                address: from,
            });
            self.introduce.insert(sender);
            if self.gossip_at.is_none() {
                let next = self.random.jitter(self.config.gossip_interval, 0.2);
                self.gossip_at = Some(now + next);
            }
            self.batch_at.get_or_insert(now + BATCH_DELAY);
        }
        if let Some(state) = state {
            self.told_state(sender, from, state);
        }
    }

    fn told_state(&mut self, id: Id, from: SocketAddr, state: Bytes) {
        let round_trip = self.peers.rtt(&from).map(|rtt| rtt.smoothed());
        self.events.push_back(Event::State {
            id,
            state,
            round_trip,
        });
    }

    fn is_member_at(&self, id: &Id, address: &SocketAddr) -> bool {
        self.members
            .get(id)
            .is_some_and(|member| member.is_present() && member.record.addresses.contains(address))
    }

    /// Makes room for a member: those that have left, and those that never answered, go first.
    fn make_room(&mut self) -> bool {
        if self.members.len() < self.config.max_members {
            return true;
        }
        let victim = self.members.iter().find(|(_, member)| !member.is_present());
        let victim = victim.map(|(id, _)| *id);
        victim.is_some_and(|id| self.members.remove(&id).is_some())
    }

    fn forget_subscriber(&mut self, id: &Id) {
        self.subscribers.retain(|_, subscribers| {
            subscribers.remove(id);
            !subscribers.is_empty()
        });
    }

    fn settle(&mut self) {
        while let Some(silent) = self.fanouts.poll_silent() {
            let Some(id) = silent.tag else { continue };
            let Some(member) = self.members.get(&id) else {
                continue;
            };
            let often = self.peers.silent_in_a_row(&silent.peer) >= GONE_AFTER;
            let gone = silent.asked && (often || !member.verified);
            if gone && member.record.addresses.contains(&silent.peer) {
                let was_present = member.is_present();
                self.members.remove(&id);
                self.forget_subscriber(&id);
                if was_present {
                    self.events.push_back(Event::Gone { id });
                }
            }
        }
    }
}

impl Protocol for Members {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match Message::decode(&datagram) {
            Some(message) if message.overlay == self.config.overlay => match message.kind {
                Kind::Request(request) => self.requested(now, from, message.transaction, request),
                Kind::Answer { sender, state } => {
                    let id = &message.transaction;
                    if self
                        .fanouts
                        .answer(now, &mut self.peers, id, from)
                        .is_some()
                    {
                        self.answered(now, from, sender, state);
                    }
                }
            },
            _ => self.rejected.malformed += 1,
        }
        self.settle();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.fanouts.handle_timeout(now, &mut self.peers);
        if self.batch_at.is_some_and(|at| at <= now) {
            self.batch_at = None;
            let new: Vec<Id> = std::mem::take(&mut self.verify).into_iter().collect();
            let request = self.state_request();
            self.ask_members(now, &new, request);
            let new: Vec<Id> = std::mem::take(&mut self.introduce).into_iter().collect();
            self.introduce(now, &new);
        }
        if self.gossip_at.is_some_and(|at| at <= now) {
            let mut some: Vec<Id> = self.present().collect();
            self.random.choose(&mut some, GOSSIP);
            some.truncate(GOSSIP);
            self.introduce(now, &some);
            let next = now + self.random.jitter(self.config.gossip_interval, 0.2);
            self.gossip_at = (!some.is_empty()).then_some(next);
        }
        self.settle();
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.replies
            .pop_front()
            .or_else(|| self.fanouts.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.fanouts.poll_timeout(), self.batch_at, self.gossip_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
