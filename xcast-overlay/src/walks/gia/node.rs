//! A node of Gia, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    config::Config,
    heard::Heard,
    message::{Account, Known, MAX_KEYS, MAX_OTHERS, MAX_PARTS, Message, Query},
    neighbours::{Neighbour, Neighbours, Verdict},
    status::{Counters, Event, SearchId, Status},
    tokens::{Grant, Purse, most_saved},
};
use crate::{
    runtime::{Lately, Outbox, Pace, Protocol, Random, Transmit},
    wire,
};

/// Beats of silence after which a neighbour is gone.
const GONE_AFTER: u32 = 4;
/// Beats between two times that all keys are told.
const KEYS_EVERY: u64 = 10;
/// Fewest queries that can wait for a token: more in a node that works on more in a second.
const MIN_WAITING: usize = 256;
/// Queries that are remembered.
const MAX_SEEN: usize = 4096;
/// Most keys of a neighbour that are remembered.
const MAX_INDEX: usize = 10_000;
/// K: how much more often a node looks for neighbours that has none (section 3.2.1 of the paper).
const AGGRESSIVENESS: f64 = 256.0;

/// A search of this node's own.
#[derive(Clone, Debug)]
struct Search {
    number: SearchId,
    deadline: Instant,
    walkers: usize,
    /// Whose messages of an end have come.
    ended: BTreeSet<(SocketAddr, u32)>,
}

/// A query that waits for a token.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    query: Query,
    from: SocketAddr,
}

/// A node of Gia. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    neighbours: Neighbours,
    keys: BTreeSet<u64>,
    known: Heard,
    /// Who was asked to be a neighbour, the tag it may call this node by, and until when it may accept.
    asked: BTreeMap<SocketAddr, (u32, Instant)>,
    searches: BTreeMap<[u8; 8], Search>,
    /// To whom queries went from here.
    used: BTreeMap<[u8; 8], BTreeSet<SocketAddr>>,
    seen: Lately<([u8; 8], SocketAddr, u16)>,
    used_order: VecDeque<[u8; 8]>,
    waiting: VecDeque<Waiting>,
    service: Pace,
    beat_at: Instant,
    beats: u64,
    adapt_at: Instant,
    serial: u64,
    /// Walkers that came to their end here.
    ends: u32,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node that knows its seeds only. It joins by itself.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let interval = Duration::from_secs(1) / config.capacity.max(1);
        let mut known = Heard::default();
        for seed in &config.seeds {
            known.named(*seed, 0, &mut random);
        }
        Self {
            tag: wire::tag("gia", &[&config.name]),
            neighbours: Neighbours::default(),
            keys: BTreeSet::new(),
            known,
            asked: BTreeMap::new(),
            searches: BTreeMap::new(),
            used: BTreeMap::new(),
            seen: Lately::new(MAX_SEEN),
            used_order: VecDeque::new(),
            waiting: VecDeque::new(),
            service: Pace::new(config.most_at_once(), interval),
            beat_at: now,
            beats: 0,
            adapt_at: now,
            serial: 0,
            ends: 0,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// This node has something for these keys.
    pub fn share(&mut self, _now: Instant, keys: impl IntoIterator<Item = u64>) {
        let new: Vec<u64> = keys
            .into_iter()
            .filter(|key| self.keys.insert(*key))
            .collect();
        let to = self.neighbours.proven();
        self.tell_keys(&to, &new);
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
        self.searches.insert(
            id,
            Search {
                number: search,
                deadline: now + self.config.timeout,
                walkers: self.config.walkers,
                ended: BTreeSet::new(),
            },
        );
        let query = Query {
            id,
            origin: self.config.address,
            key,
            ttl: self.config.ttl,
            hops: 0,
            tokens: Vec::new(),
        };
        self.forward_or_wait(now, query, self.config.address);
        search
    }

    /// Queries that it can work on in a second.
    pub fn capacity(&self) -> u32 {
        self.config.capacity
    }

    /// Its place, and what it has done.
    pub fn status(&self) -> Status {
        let neighbours = self.neighbours.0.iter();
        Status {
            neighbours: neighbours
                .map(|(address, known)| (*address, known.capacity))
                .collect(),
            satisfaction: self.neighbours.satisfaction(&self.config),
            counters: self.counters,
        }
    }

    fn send(&mut self, to: Vec<SocketAddr>, message: &Message) {
        self.out.send(to, message.encode(self.tag));
    }

    fn degree(&self) -> u16 {
        self.neighbours.len().min(usize::from(u16::MAX)) as u16
    }

    /// Who has something for this key, as far as is known here.
    fn holders(&self, key: u64) -> Vec<SocketAddr> {
        let mut holders = self.neighbours.holders(key);
        if self.keys.contains(&key) {
            holders.insert(0, self.config.address);
        }
        holders.truncate(MAX_OTHERS);
        holders
    }

    fn tell_keys(&mut self, to: &[SocketAddr], keys: &[u64]) {
        if !self.config.parts.replication || to.is_empty() {
            return;
        }
        for keys in keys.chunks(MAX_KEYS) {
            self.counters.upkeep += 1;
            self.counters.upkeep_receivers += to.len() as u64;
            let keys = keys.to_vec();
            self.send(to.to_vec(), &Message::Keys { keys });
        }
    }

    fn tell_all_keys(&mut self, to: &[SocketAddr]) {
        let keys: Vec<u64> = self.keys.iter().copied().collect();
        self.tell_keys(to, &keys);
    }

    fn some_others(&mut self) -> Vec<Known> {
        let mut others: Vec<Known> = self.known.iter().collect();
        let neighbours = self.neighbours.0.iter();
        others.extend(neighbours.map(|(address, known)| (*address, known.capacity)));
        self.random.choose(&mut others, MAX_OTHERS / 2);
        others.truncate(MAX_OTHERS / 2);
        others
    }

    fn hear_of(&mut self, others: Vec<Known>) {
        for (address, capacity) in others {
            if address == self.config.address {
                continue;
            }
            self.known.named(address, capacity, &mut self.random);
        }
    }

    fn add(
        &mut self,
        now: Instant,
        address: SocketAddr,
        (own_tag, tag): (u32, u32),
        capacity: u32,
        degree: u16,
    ) {
        let neighbour = Neighbour {
            own_tag,
            tag,
            capacity,
            degree,
            heard: now,
            is_proven: false,
            keys: BTreeSet::new(),
            purse: Purse::default(),
            grant: Grant::default(),
        };
        self.neighbours.0.insert(address, neighbour);
        self.known.insert(address, capacity, &mut self.random);
    }

    fn drop_neighbour(&mut self, address: SocketAddr) {
        if let Some(neighbour) = self.neighbours.0.remove(&address) {
            let tag = neighbour.tag;
            self.send(vec![address], &Message::Drop { tag });
        }
    }

    fn connect(&mut self, now: Instant, from: SocketAddr, tag: u32, capacity: u32, degree: u16) {
        if let Some(known) = self.neighbours.0.get_mut(&from) {
            // Its answer was lost. Or it has started anew: then it knows of no tokens of before.
            if known.tag != tag {
                known.tag = tag;
                known.own_tag = u32::from_be_bytes(self.random.octets());
                (known.purse, known.grant) = (Purse::default(), Grant::default());
            }
            let own_tag = known.own_tag;
            return self.accept(from, own_tag);
        }
        match self.neighbours.judge(&self.config, capacity, degree) {
            Verdict::Reject => {
                let others = self.some_others();
                return self.send(vec![from], &Message::Reject { others });
            }
            Verdict::Instead(victim) => self.drop_neighbour(victim),
            Verdict::Accept => {}
        }
        let own_tag = u32::from_be_bytes(self.random.octets());
        self.accept(from, own_tag);
        self.add(now, from, (own_tag, tag), capacity, degree);
    }

    fn accept(&mut self, to: SocketAddr, tag: u32) {
        let accept = Message::Accept {
            tag,
            capacity: self.config.capacity,
            degree: self.degree(),
        };
        self.send(vec![to], &accept);
    }

    /// Looks for one more neighbour, if this node is not content.
    fn adapt(&mut self, now: Instant) {
        let satisfaction = match self.config.parts.adaptation {
            true => self.neighbours.satisfaction(&self.config),
            false if self.neighbours.len() < self.config.min_neighbours => 0.0,
            false => 1.0,
        };
        let period = self
            .config
            .adaptation
            .mul_f64(AGGRESSIVENESS.powf(satisfaction - 1.0));
        let period = period.max(Duration::from_millis(100));
        self.adapt_at = now + self.random.jitter(period, 0.3);
        self.asked.retain(|_, (_, until)| now < *until);
        if satisfaction >= 1.0 {
            return;
        }
        let is_new = |address: &SocketAddr| {
            !self.neighbours.0.contains_key(address) && !self.asked.contains_key(address)
        };
        let known = self.known.iter().filter(|(address, _)| is_new(address));
        let mut candidates: Vec<Known> = known.collect();
        self.random.choose(&mut candidates, 8);
        candidates.truncate(8);
        // Of a few, the one with the largest capacity, if it has more than this node; else any.
        let best = candidates
            .iter()
            .max_by_key(|(_, capacity)| *capacity)
            .copied();
        let best = best.filter(|(_, capacity)| {
            self.config.parts.adaptation && *capacity > self.config.capacity
        });
        let Some((address, _)) = best.or(candidates.first().copied()) else {
            return;
        };
        let tag = u32::from_be_bytes(self.random.octets());
        self.asked
            .insert(address, (tag, now + Duration::from_secs(3)));
        let connect = Message::Connect {
            tag,
            capacity: self.config.capacity,
            degree: self.degree(),
        };
        self.send(vec![address], &connect);
    }

    fn beat(&mut self, now: Instant) {
        self.beat_at = now + self.random.jitter(self.config.beat, 0.1);
        self.beats += 1;
        let patience = self.config.beat * GONE_AFTER;
        self.neighbours
            .0
            .retain(|_, neighbour| now < neighbour.heard + patience);
        let most = f64::from(self.config.capacity) * self.config.beat.as_secs_f64();
        // What waits here has yet to be sent on: so much less is let in.
        let tokens = (most - self.waiting.len() as f64).max(0.0);
        let saved = most_saved(self.config.capacity, self.neighbours.len());
        self.neighbours.give(tokens, saved);
        let all = self.neighbours.0.iter();
        let parts: Vec<(SocketAddr, Account)> = all
            .map(|(address, known)| (*address, known.account()))
            .collect();
        for parts in parts.chunks(MAX_PARTS) {
            let (to, tokens): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
            let beat = Message::Beat {
                capacity: self.config.capacity,
                degree: self.degree(),
                others: self.some_others(),
                tokens,
            };
            self.counters.upkeep += 1;
            self.counters.upkeep_receivers += to.len() as u64;
            self.send(to, &beat);
        }
        if self.beats.is_multiple_of(KEYS_EVERY) {
            let to = self.neighbours.proven();
            self.tell_all_keys(&to);
        }
        let (timeout, before) = (self.config.timeout, self.waiting.len());
        self.waiting.retain(|waiting| now < waiting.since + timeout);
        self.counters.given_up += (before - self.waiting.len()) as u64;
        self.send_waiting();
    }

    fn send_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        while self.neighbours.any_token()
            && let Some(Waiting { since, query, from }) = waiting.pop_front()
        {
            if let Err(query) = self.forward(query, from) {
                self.waiting.push_back(Waiting { since, query, from });
            }
        }
        self.waiting.append(&mut waiting);
    }

    /// Sends a walker on now, or when there is a token for it.
    fn forward_or_wait(&mut self, now: Instant, query: Query, from: SocketAddr) {
        if let Err(query) = self.forward(query, from) {
            self.counters.waited += 1;
            let since = now;
            if self.waiting.len() < MIN_WAITING.max(self.config.capacity as usize) {
                self.waiting.push_back(Waiting { since, query, from });
            } else {
                self.counters.given_up += 1;
            }
        }
    }

    fn query(&mut self, now: Instant, from: SocketAddr, query: Query) {
        let Some(neighbour) = self.neighbours.0.get_mut(&from) else {
            self.counters.overdrawn += 1;
            return;
        };
        let part = query
            .tokens
            .iter()
            .find(|(tag, _)| *tag == neighbour.own_tag);
        let is_good = part.is_some_and(|(_, number)| {
            !self.config.parts.flow_control || neighbour.grant.take(*number)
        });
        if !is_good {
            self.counters.overdrawn += 1;
            return;
        }
        let step = (query.id, from, query.hops);
        if !self.seen.is_new(step) {
            return;
        }
        if self.service.reserve(now, Duration::ZERO).is_none() {
            self.counters.overload += 1;
            return;
        }
        self.counters.worked_on += 1;
        let holders = self.holders(query.key);
        if !holders.is_empty() {
            let hit = Message::Hit {
                id: query.id,
                hops: query.hops,
                holders,
            };
            return self.send(vec![query.origin], &hit);
        }
        self.forward_or_wait(now, query, from);
    }

    /// Sends a walker on, or several from where it starts, unless nobody has given a token.
    fn forward(&mut self, mut query: Query, from: SocketAddr) -> Result<(), Query> {
        let is_start = from == self.config.address;
        if query.ttl == 0 {
            self.ends = self.ends.wrapping_add(1);
            let end = Message::End {
                id: query.id,
                number: self.ends,
                hops: query.hops,
            };
            self.send(vec![query.origin], &end);
            return Ok(());
        }
        let parts = self.config.parts;
        let used = self.used.get(&query.id);
        let others = |address: &SocketAddr| *address != from || self.neighbours.len() == 1;
        let is_fresh = |address: &SocketAddr| used.is_none_or(|used| !used.contains(address));
        let may = |fresh: bool| {
            self.neighbours
                .0
                .iter()
                .filter(move |(address, _)| others(address) && (!fresh || is_fresh(address)))
                .filter(|(_, known)| !parts.flow_control || known.purse.left() > 0)
                .map(|(address, known)| (*address, known.capacity))
                .collect::<Vec<Known>>()
        };
        // To each neighbour once, before it goes to one again.
        let mut candidates = may(true);
        if candidates.is_empty() {
            candidates = may(false);
        }
        if candidates.is_empty() {
            return Err(query);
        }
        let count = candidates.len();
        self.random.choose(&mut candidates, count);
        if parts.bias {
            candidates.sort_by_key(|(_, capacity)| std::cmp::Reverse(*capacity));
        }
        let most = if is_start {
            self.config.walkers
        } else {
            self.config.branch
        };
        candidates.truncate(most.clamp(1, MAX_PARTS));
        let ways = candidates.len() as u16;
        query.ttl -= 1;
        if !is_start {
            // Together they go as far as the one would have gone.
            query.ttl /= ways.max(1);
        }
        query.hops = query.hops.saturating_add(1);
        query.tokens.clear();
        let mut to = Vec::new();
        for (address, _) in candidates {
            if let Some(known) = self.neighbours.0.get_mut(&address) {
                query
                    .tokens
                    .push((known.tag, known.purse.spend().unwrap_or(0)));
                to.push(address);
            }
        }
        self.remember(query.id, &to);
        if is_start {
            self.counters.starts += 1;
            self.counters.walkers += to.len() as u64;
            if let Some(search) = self.searches.get_mut(&query.id) {
                search.walkers = to.len();
            }
        } else {
            self.counters.steps += 1;
            self.counters.step_receivers += to.len() as u64;
        }
        self.send(to, &Message::Query(query));
        Ok(())
    }

    fn remember(&mut self, id: [u8; 8], to: &[SocketAddr]) {
        if !self.used.contains_key(&id) {
            self.used_order.push_back(id);
            if self.used_order.len() > MAX_SEEN
                && let Some(oldest) = self.used_order.pop_front()
            {
                self.used.remove(&oldest);
            }
        }
        let neighbours = self.neighbours.len();
        let used = self.used.entry(id).or_default();
        if used.len() + to.len() > neighbours.max(to.len()) {
            used.clear();
        }
        used.extend(to);
    }

    fn take(&mut self, now: Instant, from: SocketAddr, message: Message) {
        match message {
            Message::Connect {
                tag,
                capacity,
                degree,
            } => self.connect(now, from, tag, capacity, degree),
            Message::Accept {
                tag,
                capacity,
                degree,
            } => {
                if let Some((own_tag, until)) = self.asked.remove(&from)
                    && now < until
                    && !self.neighbours.0.contains_key(&from)
                {
                    // There may be too many by now.
                    match self.neighbours.judge(&self.config, capacity, degree) {
                        Verdict::Reject => return self.send(vec![from], &Message::Drop { tag }),
                        Verdict::Instead(victim) => self.drop_neighbour(victim),
                        Verdict::Accept => {}
                    }
                    self.add(now, from, (own_tag, tag), capacity, degree);
                }
            }
            Message::Reject { others } => {
                if self.asked.contains_key(&from) {
                    self.hear_of(others);
                }
            }
            Message::Drop { tag } => {
                let known = self.neighbours.0.get(&from);
                if known.is_some_and(|known| known.own_tag == tag) {
                    self.neighbours.0.remove(&from);
                    self.adapt_at = self.adapt_at.min(now + Duration::from_millis(100));
                }
            }
            Message::Beat {
                capacity,
                degree,
                others,
                tokens,
            } => {
                let Some(known) = self.neighbours.0.get_mut(&from) else {
                    return;
                };
                known.heard = now;
                (known.capacity, known.degree) = (capacity, degree);
                let own = tokens.iter().find(|(tag, ..)| *tag == known.own_tag);
                if let Some((_, given, spent)) = own {
                    known
                        .purse
                        .told(*given, most_saved(capacity, degree.into()));
                    known.grant.heard(*spent);
                }
                // It knows what only its address was told.
                let is_new = own.is_some() && !known.is_proven;
                known.is_proven |= own.is_some();
                if is_new {
                    self.tell_all_keys(&[from]);
                }
                self.hear_of(others);
                self.send_waiting();
            }
            Message::Keys { keys } => {
                if let Some(known) = self.neighbours.0.get_mut(&from)
                    && self.config.parts.replication
                {
                    let room = MAX_INDEX.saturating_sub(known.keys.len());
                    known.keys.extend(keys.into_iter().take(room));
                }
            }
            Message::Query(query) => self.query(now, from, query),
            Message::Hit { id, hops, holders } => {
                if !holders.is_empty()
                    && let Some(search) = self.searches.remove(&id)
                {
                    self.out.tell(Event::Found {
                        search: search.number,
                        holders,
                        hops,
                    });
                }
            }
            Message::End { id, number, .. } => {
                let branches = self.config.branch > 1;
                if let Some(search) = self.searches.get_mut(&id)
                    && !branches
                {
                    search.ended.insert((from, number));
                    if search.ended.len() >= search.walkers {
                        self.fail(id);
                    }
                }
            }
        }
    }

    fn fail(&mut self, id: [u8; 8]) {
        if let Some(search) = self.searches.remove(&id) {
            let search = search.number;
            self.out.tell(Event::NotFound { search });
        }
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match Message::decode(&datagram, self.tag) {
            Some(message) => self.take(now, from, message),
            None => self.counters.malformed += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.beat_at <= now {
            self.beat(now);
        }
        if self.adapt_at <= now {
            self.adapt(now);
        }
        let late = self
            .searches
            .iter()
            .filter(|(_, search)| search.deadline <= now);
        let late: Vec<[u8; 8]> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.fail(id);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let late = self.searches.values().map(|search| search.deadline).min();
        let timers = [Some(self.beat_at), Some(self.adapt_at), late];
        timers.into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A neighbour that has started anew knows nothing of tokens of before: they count from nothing again.
    #[test]
    fn who_starts_anew_begins_with_no_tokens() {
        let now = Instant::now();
        let [own, other] = [1, 2].map(|last| SocketAddr::from(([198, 51, 100, last], 4000)));
        let config = Config::new("test", own, Vec::new(), 100);
        let mut node = Node::new(now, config, Random::from_number(1));
        node.connect(now, other, 7, 100, 1);
        let of = |node: &Node| {
            let known = &node.neighbours.0[&other];
            (known.own_tag, known.purse.left(), known.grant.given())
        };
        let known = node.neighbours.0.get_mut(&other).expect("a neighbour");
        known.purse.told(500, 10);
        known.grant.give(300.0);
        let before = of(&node);
        assert_eq!((before.1, before.2), (500, 300));
        // Its answer was lost: it asks with the same tag.
        node.connect(now, other, 7, 100, 1);
        assert_eq!(of(&node), before);
        node.connect(now, other, 8, 100, 1);
        let after = of(&node);
        assert_eq!((after.1, after.2), (0, 0));
        assert_ne!(after.0, before.0);
    }

    fn sent(node: &mut Node) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(transmit) = node.poll_transmit() {
            all.extend(Message::decode(&transmit.datagram(0), node.tag));
        }
        all
    }

    /// Whoever names an address that is not its own has few octets sent there.
    #[test]
    fn keys_are_for_those_that_have_been_heard_of() {
        let now = Instant::now();
        let [own, other] = [1, 2].map(|last| SocketAddr::from(([198, 51, 100, last], 4000)));
        let config = Config::new("test", own, Vec::new(), 100);
        let mut node = Node::new(now, config, Random::from_number(1));
        node.share(now, 0..1000);
        let connect = Message::Connect {
            tag: 7,
            capacity: 100,
            degree: 1,
        };
        node.take(now, other, connect);
        node.share(now, 1000..2000);
        let accepted = sent(&mut node);
        let [Message::Accept { tag, .. }] = accepted[..] else {
            panic!("{accepted:?}");
        };
        let beat = |tag| Message::Beat {
            capacity: 100,
            degree: 1,
            others: Vec::new(),
            tokens: vec![(tag, 0, 0)],
        };
        node.take(now, other, beat(tag ^ 1));
        assert_eq!(sent(&mut node), []);
        node.take(now, other, beat(tag));
        let keys = sent(&mut node);
        assert_eq!(keys.len(), 2000usize.div_ceil(MAX_KEYS), "{keys:?}");
        node.take(now, other, beat(tag));
        assert_eq!(sent(&mut node), []);
        // Nor does it say much that somebody accepts who has been asked.
        let third = SocketAddr::from(([198, 51, 100, 3], 4000));
        node.asked.insert(third, (9, now + Duration::from_secs(3)));
        let accept = Message::Accept {
            tag: 1,
            capacity: 100,
            degree: 1,
        };
        node.take(now, third, accept);
        assert_eq!(sent(&mut node), []);
        assert!(node.neighbours.0.contains_key(&third));
        node.take(now, third, beat(9));
        assert_eq!(sent(&mut node).len(), keys.len());
    }

    /// A search has failed when all its walkers have ended, and not when one has twice.
    #[test]
    fn an_end_that_comes_twice_counts_once() {
        let now = Instant::now();
        let [own, other] = [1, 2].map(|last| SocketAddr::from(([198, 51, 100, last], 4000)));
        let config = Config::new("test", own, Vec::new(), 100);
        let mut node = Node::new(now, config, Random::from_number(1));
        let search = node.search(now, 5);
        let id = *node.searches.keys().next().expect("a search");
        node.searches.get_mut(&id).expect("a search").walkers = 2;
        for number in [1, 1, 1, 2] {
            assert_eq!(node.poll_event(), None);
            node.take(
                now,
                other,
                Message::End {
                    id,
                    number,
                    hops: 9,
                },
            );
        }
        assert_eq!(node.poll_event(), Some(Event::NotFound { search }));
    }
}
