//! A node of Meridian, as a protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    config::Config,
    goal::Goal,
    message::{Found, MAX_NODES, Message, Query},
    query::{Best, Hosted, Next},
    rings::Rings,
    status::{Counters, Event, QueryId, Status},
    volume,
};
use crate::{
    runtime::{Body, Fanouts, Outbox, Peers, Protocol, Random, TransactionId, Transmit},
    wire,
};

/// How long nodes that were heard of wait to be probed together.
const BATCH: Duration = Duration::from_millis(100);
/// Most nodes that wait so.
const MAX_HEARD: usize = 256;
/// Requests in a row without answer after which a node is gone.
const GONE_AFTER: u32 = 2;
/// How long a node is new.
const YOUTH: Duration = Duration::from_secs(60);
/// Longest time until an own query has an answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Most nodes whose round trips are remembered beside those of the rings.
const MAX_MEASURED: usize = 512;
/// Most queries, and most measurements for others, at a time.
const MAX_WORK: usize = 256;
/// Queries of others that are remembered, so that one that comes again is not worked on twice.
const MAX_RECENT: usize = 8192;

/// Whom a measured round trip is for.
#[derive(Clone, Debug)]
enum For {
    /// Somebody who asked.
    Asker {
        address: SocketAddr,
        transaction: [u8; 8],
    },
    /// A query here.
    Query(u64),
}

/// Targets that are being measured.
#[derive(Clone, Debug)]
struct Job {
    whom: For,
    targets: Vec<SocketAddr>,
    rtts: Vec<Option<Duration>>,
    open: usize,
    probes: usize,
}

/// The members of a ring that are asked about each other.
#[derive(Clone, Debug)]
struct Choice {
    members: Vec<SocketAddr>,
    rows: Vec<Option<Vec<Option<Duration>>>>,
    open: usize,
}

/// Why somebody was asked for a round trip.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Ring,
    Job { job: u64, at: usize },
}

/// Why somebody was asked for something else.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Query(u64),
    Choice { ring: usize, at: usize },
    Forward(u64),
}

/// A node of Meridian. See the [module](super).
#[derive(Debug)]
pub struct Node {
    config: Config,
    tag: [u8; 8],
    started: Instant,
    own: Option<SocketAddr>,
    rings: Rings,
    heard: BTreeSet<SocketAddr>,
    probe_at: Option<Instant>,
    gossip_at: Instant,
    replace_at: Instant,
    next_ring: usize,
    probes: Fanouts<Probe>,
    asks: Fanouts<Ask>,
    /// Round trips of probes alone: what takes others time to answer is not mixed with them.
    peers: Peers,
    asked_peers: Peers,
    jobs: BTreeMap<u64, Job>,
    hosted: BTreeMap<u64, Hosted>,
    /// Queries lately taken on, so that none is worked on twice.
    recent: BTreeMap<([u8; 8], u8), Instant>,
    choices: BTreeMap<usize, Choice>,
    queries: BTreeMap<[u8; 8], (QueryId, Instant)>,
    serial: u64,
    random: Random,
    out: Outbox<Event>,
    counters: Counters,
}

impl Node {
    /// A node that knows its seeds only. It joins by itself.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let share = config.replacement / config.rings.max(1) as u32;
        Self {
            tag: wire::tag("meridian", &[&config.name]),
            started: now,
            own: None,
            rings: Rings::new(&config),
            heard: BTreeSet::new(),
            probe_at: None,
            gossip_at: now,
            replace_at: now + random.jitter(share, 0.5),
            next_ring: 0,
            probes: Fanouts::new(),
            asks: Fanouts::new(),
            peers: Peers::new(MAX_MEASURED, config.pace),
            asked_peers: Peers::new(MAX_MEASURED, config.pace),
            jobs: BTreeMap::new(),
            hosted: BTreeMap::new(),
            recent: BTreeMap::new(),
            choices: BTreeMap::new(),
            queries: BTreeMap::new(),
            serial: 0,
            random,
            out: Outbox::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Looks for the node that is best by this goal. The answer comes as an [`Event`].
    pub fn query(&mut self, now: Instant, goal: Goal) -> QueryId {
        let number = QueryId(self.next_serial());
        let id = self.random.octets();
        self.queries.insert(id, (number, now + QUERY_TIMEOUT));
        let unknown = SocketAddr::from(([192, 0, 2, 1], 9));
        let query = Query {
            id,
            origin: self.own.unwrap_or(unknown),
            goal,
            hops: 0,
            probes: 0,
        };
        self.host(now, Hosted::new(query, true));
        number
    }

    /// What it knows, and has done.
    pub fn status(&self) -> Status {
        Status {
            rings: self.rings.sizes(),
            counters: self.counters,
        }
    }

    /// The node that is closest to this one, of those it knows.
    pub fn nearest(&self) -> Option<SocketAddr> {
        self.rings.nearest(&[])
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn reply(&mut self, to: SocketAddr, message: &Message) {
        self.out.send([to], message.encode(self.tag));
    }

    /// A node was heard of.
    fn heard_of(&mut self, now: Instant, node: SocketAddr) {
        let is_known = self.rings.contains(&node) || Some(node) == self.own;
        if !is_known && self.heard.len() < MAX_HEARD && self.heard.insert(node) {
            self.probe_at.get_or_insert(now + BATCH);
        }
    }

    fn probe(&mut self, now: Instant, to: Vec<(SocketAddr, Probe)>) {
        if to.is_empty() {
            return;
        }
        self.counters.probes += 1;
        self.counters.probe_receivers += to.len() as u64;
        self.ask_for_pong(now, to, |transaction| Message::Ping { transaction });
    }

    fn ask_for_pong(
        &mut self,
        now: Instant,
        to: Vec<(SocketAddr, Probe)>,
        message: impl Fn([u8; 8]) -> Message,
    ) {
        let (tag, policy) = (self.tag, self.config.policy.of_eight_octets());
        let body = |id: &TransactionId| Body::shared(message(id.first_eight()).encode(tag));
        self.probes
            .start(now, &mut self.peers, &mut self.random, policy, to, body);
    }

    fn ask(
        &mut self,
        now: Instant,
        to: Vec<(SocketAddr, Ask)>,
        message: impl Fn([u8; 8]) -> Message,
    ) {
        let (tag, mut policy) = (self.tag, self.config.policy.of_eight_octets());
        // They have to ask others first.
        policy.min_timeout = policy.min_timeout.max(Duration::from_secs(2));
        let body = |id: &TransactionId| Body::shared(message(id.first_eight()).encode(tag));
        let peers = &mut self.asked_peers;
        self.asks
            .start(now, peers, &mut self.random, policy, to, body);
    }

    fn gossip(&mut self, now: Instant) {
        let is_young = now < self.started + YOUTH;
        let mut to = self.rings.one_of_each(&mut self.random);
        if to.is_empty() {
            to = self.config.seeds.clone();
            to.truncate(MAX_NODES);
        }
        let nodes = self.rings.one_of_each(&mut self.random);
        if !to.is_empty() {
            self.counters.gossips += 1;
            self.counters.gossip_receivers += to.len() as u64;
            let to = to.into_iter().map(|node| (node, Probe::Ring)).collect();
            self.ask_for_pong(now, to, |transaction| Message::Gossip {
                transaction,
                wants: is_young,
                nodes: nodes.clone(),
            });
        }
        let period = if is_young {
            self.config.first_gossip
        } else {
            self.config.gossip
        };
        self.gossip_at = now + self.random.jitter(period, 0.2);
    }

    /// Measures targets for somebody: those that are known well enough need no probe.
    fn measure(&mut self, now: Instant, whom: For, targets: &[SocketAddr]) {
        let job = self.next_serial();
        let mut rtts = Vec::new();
        let mut probes = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let known = match Some(*target) == self.own {
                true => Some(Duration::ZERO),
                false => self.rings.rtt(now, target, self.config.fresh),
            };
            if known.is_none() {
                probes.push((*target, Probe::Job { job, at }));
            }
            rtts.push(known);
        }
        // An address that comes twice is probed once.
        let mut seen = BTreeSet::new();
        probes.retain(|(target, _)| seen.insert(*target));
        let open = probes.len();
        self.jobs.insert(
            job,
            Job {
                whom,
                targets: targets.to_vec(),
                rtts,
                open,
                probes: open,
            },
        );
        self.probe(now, probes);
        self.finish_job(now, job);
    }

    fn finish_job(&mut self, now: Instant, job: u64) {
        if self.jobs.get(&job).is_none_or(|job| job.open > 0) {
            return;
        }
        let Some(Job {
            whom, rtts, probes, ..
        }) = self.jobs.remove(&job)
        else {
            return;
        };
        match whom {
            For::Asker {
                address,
                transaction,
            } => {
                let probes = probes.min(255) as u8;
                let measured = Message::Measured {
                    transaction,
                    rtts,
                    probes,
                };
                self.reply(address, &measured);
            }
            For::Query(query) => {
                if let Some(hosted) = self.hosted.get_mut(&query) {
                    let probes = u32::try_from(probes).unwrap_or(u32::MAX);
                    hosted.query.probes = hosted.query.probes.saturating_add(probes);
                    let distance = hosted.query.goal.distance(&rtts);
                    hosted.measured(None, distance);
                    self.ask_rings(now, query, &rtts);
                }
            }
        }
    }

    fn host(&mut self, now: Instant, hosted: Hosted) {
        self.counters.queries += 1;
        let number = self.next_serial();
        let targets = hosted.query.goal.targets();
        self.hosted.insert(number, hosted);
        self.measure(now, For::Query(number), &targets);
    }

    /// Asks all ring members that may be better, by one packet.
    fn ask_rings(&mut self, now: Instant, query: u64, rtts: &[Option<Duration>]) {
        let Some(hosted) = self.hosted.get_mut(&query) else {
            return;
        };
        let goal = &hosted.query.goal;
        let is_done = hosted.own.is_none()
            || matches!(goal, Goal::Within(_)) && hosted.own == Some(Duration::ZERO);
        let targets = goal.targets();
        let mut members = self.rings.within(&goal.band(rtts, self.config.beta));
        // A target is no answer to who is closest to it.
        members.retain(|member| targets.len() > 1 || !targets.contains(member));
        if is_done || members.is_empty() {
            return self.decide(now, query);
        }
        hosted.open = members.len();
        let own = rtts.iter().flatten().max().copied().unwrap_or_default();
        // To the member, from it to the target, and back: at most 2 + 2 beta times as far.
        let wait = own.mul_f64(2.0 + 2.0 * self.config.beta) + BATCH;
        hosted.decide_at = Some(now + wait);
        self.counters.ring_asks += 1;
        self.counters.ring_ask_receivers += members.len() as u64;
        let to = members
            .into_iter()
            .map(|member| (member, Ask::Query(query)))
            .collect();
        self.ask(now, to, |transaction| Message::Measure {
            transaction,
            targets: targets.clone(),
        });
    }

    fn decide(&mut self, now: Instant, query: u64) {
        let Some(hosted) = self.hosted.get_mut(&query) else {
            return;
        };
        hosted.decide_at = None;
        match hosted.next(self.config.beta, self.config.max_hops) {
            Next::Forward(to) => {
                // A query of a node that does not know its own address is answered to whoever took it.
                let mut query_on = hosted.query.clone();
                query_on.hops += 1;
                if hosted.is_own {
                    match self.own {
                        Some(own) => query_on.origin = own,
                        None => return self.answer(query, None),
                    }
                }
                self.ask(now, vec![(to, Ask::Forward(query))], |transaction| {
                    Message::Query {
                        transaction,
                        query: query_on.clone(),
                    }
                });
            }
            Next::Answer(best) => self.answer(query, Some(best)),
            Next::Nothing => self.answer(query, None),
        }
    }

    /// The end of a query here.
    fn answer(&mut self, query: u64, best: Option<Best>) {
        let Some(hosted) = self.hosted.remove(&query) else {
            return;
        };
        let Query {
            id,
            origin,
            hops,
            probes,
            ..
        } = hosted.query;
        // Silence lets the origin's time run out.
        let Some(best) = best else {
            if hosted.is_own
                && let Some((query, _)) = self.queries.remove(&id)
            {
                self.out.tell(Event::NotFound { query });
            }
            return;
        };
        let found = Found {
            id,
            best: best.node,
            distance: best.distance,
            hops,
            probes,
        };
        if hosted.is_own {
            self.found(None, found);
        } else {
            self.reply(origin, &Message::Found(found));
        }
    }

    fn found(&mut self, from: Option<SocketAddr>, found: Found) {
        let Some((query, _)) = self.queries.remove(&found.id) else {
            return;
        };
        self.out.tell(Event::Found {
            query,
            best: found.best.or(from).or(self.own),
            distance: found.distance,
            hops: found.hops,
            probes: found.probes,
        });
    }

    /// Asks the members of the next ring that has a choice about each other.
    fn replace(&mut self, now: Instant) {
        let ring = self.next_ring;
        self.next_ring = (ring + 1) % self.config.rings.max(1);
        let share = self.config.replacement / self.config.rings.max(1) as u32;
        self.replace_at = now + self.random.jitter(share, 0.2);
        // Those whose round trips are old are measured anew, and found out about if they are gone.
        let old = self.rings.older(ring, now, self.config.fresh);
        let old = old.into_iter().map(|node| (node, Probe::Ring)).collect();
        self.probe(now, old);
        let Some(mut members) = self.rings.choice(ring) else {
            return;
        };
        members.truncate(MAX_NODES);
        let count = members.len();
        let choice = Choice {
            members: members.clone(),
            rows: vec![None; count],
            open: count,
        };
        self.choices.insert(ring, choice);
        self.counters.choices += 1;
        self.counters.choice_receivers += count as u64;
        let to = members.iter().enumerate();
        let to = to
            .map(|(at, member)| (*member, Ask::Choice { ring, at }))
            .collect();
        self.ask(now, to, |transaction| Message::Measure {
            transaction,
            targets: members.clone(),
        });
    }

    fn chosen(&mut self, ring: usize) {
        if self.choices.get(&ring).is_none_or(|choice| choice.open > 0) {
            return;
        }
        let Some(Choice { members, rows, .. }) = self.choices.remove(&ring) else {
            return;
        };
        let present: Vec<usize> = (0..members.len())
            .filter(|at| rows[*at].is_some())
            .collect();
        let cell = |a: usize, b: usize| rows[a].as_ref()?.get(b).copied().flatten();
        let points: Vec<Vec<f64>> = present
            .iter()
            .map(|a| {
                let known = |b: &usize| match a == b {
                    true => Some(Duration::ZERO),
                    false => cell(*a, *b).or_else(|| cell(*b, *a)),
                };
                let row = present
                    .iter()
                    .map(|b| known(b).map_or(0.0, |rtt| rtt.as_secs_f64() * 1e3));
                row.collect()
            })
            .collect();
        let chosen = volume::choose(&points, self.config.primary);
        let chosen: Vec<SocketAddr> = chosen.into_iter().map(|at| members[present[at]]).collect();
        self.rings.choose(ring, &chosen);
    }

    fn gone(&mut self, peer: SocketAddr) {
        let probes = self.peers.silent_in_a_row(&peer);
        if probes + self.asked_peers.silent_in_a_row(&peer) >= GONE_AFTER {
            self.rings.remove(&peer);
        }
    }

    fn settle(&mut self, now: Instant) {
        while let Some(silent) = self.probes.poll_silent() {
            if silent.asked {
                self.gone(silent.peer);
            }
            if let Probe::Job { job, .. } = silent.tag {
                self.job_step(now, job, None);
            }
        }
        let mut suspects = Vec::new();
        while let Some(silent) = self.asks.poll_silent() {
            if silent.asked && self.rings.contains(&silent.peer) {
                suspects.push((silent.peer, Probe::Ring));
            }
            match silent.tag {
                Ask::Query(query) => self.ring_answer(now, query, silent.peer, None, 0),
                Ask::Choice { ring, .. } => {
                    if let Some(choice) = self.choices.get_mut(&ring) {
                        choice.open = choice.open.saturating_sub(1);
                    }
                    self.chosen(ring);
                }
                Ask::Forward(query) => {
                    if let Some(hosted) = self.hosted.get_mut(&query) {
                        hosted.forget(silent.peer);
                        self.decide(now, query);
                    }
                }
            }
        }
        // Is it gone, or did it wait for others?
        self.probe(now, suspects);
    }

    fn job_step(&mut self, now: Instant, number: u64, measured: Option<(usize, Duration)>) {
        if let Some(job) = self.jobs.get_mut(&number) {
            if let Some((at, rtt)) = measured {
                // Whoever is named twice was probed once.
                let target = job.targets[at];
                for (other, known) in job.targets.iter().zip(&mut job.rtts) {
                    if *other == target {
                        *known = Some(rtt);
                    }
                }
            }
            job.open = job.open.saturating_sub(1);
            self.finish_job(now, number);
        }
    }

    fn ring_answer(
        &mut self,
        now: Instant,
        query: u64,
        from: SocketAddr,
        rtts: Option<&[Option<Duration>]>,
        probes: u8,
    ) {
        let Some(hosted) = self.hosted.get_mut(&query) else {
            return;
        };
        // It has been decided already.
        if hosted.decide_at.is_none() {
            return;
        }
        if let Some(rtts) = rtts {
            hosted.query.probes = hosted.query.probes.saturating_add(probes.into());
            let distance = hosted.query.goal.distance(rtts);
            hosted.measured(Some(from), distance);
        }
        hosted.open = hosted.open.saturating_sub(1);
        if hosted.open == 0 {
            self.decide(now, query);
        }
    }

    fn take(&mut self, now: Instant, from: SocketAddr, message: Message) {
        match message {
            Message::Ping { transaction } => {
                let pong = Message::Pong {
                    transaction,
                    seen: from,
                    nodes: Vec::new(),
                };
                self.reply(from, &pong);
                // Whoever measures for others is known to many already, and would measure in turn.
                if now < self.started + YOUTH {
                    self.heard_of(now, from);
                }
            }
            Message::Gossip {
                transaction,
                wants,
                nodes,
            } => {
                let answer = match wants {
                    true => self.rings.one_of_each(&mut self.random),
                    false => Vec::new(),
                };
                let pong = Message::Pong {
                    transaction,
                    seen: from,
                    nodes: answer,
                };
                self.reply(from, &pong);
                self.heard_of(now, from);
                for node in nodes {
                    self.heard_of(now, node);
                }
            }
            Message::Pong {
                transaction,
                seen,
                nodes,
            } => {
                let heard = self.peers.heard(&from);
                let Some(answer) = self.probes.answer(now, &mut self.peers, &transaction, from)
                else {
                    return;
                };
                self.own = Some(seen);
                // Round trips of long ago say little.
                let is_old = heard.is_some_and(|heard| heard + self.config.fresh < now);
                let smoothed = self.peers.rtt(&from).map(|rtt| rtt.smoothed());
                let rtt = answer.measured.filter(|_| is_old).or(smoothed);
                if let Some(rtt) = rtt {
                    self.rings.measured(now, from, rtt);
                }
                for node in nodes {
                    self.heard_of(now, node);
                }
                if let (Probe::Job { job, at }, false) = (answer.tag, answer.late) {
                    self.job_step(now, job, rtt.map(|rtt| (at, rtt)));
                }
            }
            Message::Measure {
                transaction,
                targets,
            } => {
                if self.jobs.len() < MAX_WORK {
                    let address = from;
                    let whom = For::Asker {
                        address,
                        transaction,
                    };
                    self.measure(now, whom, &targets);
                }
                self.heard_of(now, from);
            }
            Message::Measured {
                transaction,
                rtts,
                probes,
            } => {
                let peers = &mut self.asked_peers;
                let Some(answer) = self.asks.answer(now, peers, &transaction, from) else {
                    return;
                };
                match answer.tag {
                    _ if answer.late => {}
                    Ask::Query(query) => self.ring_answer(now, query, from, Some(&rtts), probes),
                    Ask::Choice { ring, at } => {
                        if let Some(choice) = self.choices.get_mut(&ring)
                            && choice.members.get(at) == Some(&from)
                        {
                            choice.rows[at] = Some(rtts);
                            choice.open = choice.open.saturating_sub(1);
                            self.chosen(ring);
                        }
                    }
                    // That is no answer to it, and worth as much as none.
                    Ask::Forward(query) => {
                        if let Some(hosted) = self.hosted.get_mut(&query) {
                            hosted.forget(from);
                            self.decide(now, query);
                        }
                    }
                }
            }
            Message::Query { transaction, query } => {
                let key = (query.id, query.hops);
                let is_new = !self.recent.contains_key(&key);
                let is_busy = self.hosted.len() >= MAX_WORK || self.recent.len() >= MAX_RECENT;
                if is_new && is_busy {
                    return;
                }
                self.reply(from, &Message::Accepted { transaction });
                if is_new {
                    self.recent.insert(key, now);
                    self.host(now, Hosted::new(query, false));
                }
            }
            Message::Accepted { transaction } => {
                let peers = &mut self.asked_peers;
                let answer = self.asks.answer(now, peers, &transaction, from);
                if let Some(Ask::Forward(query)) = answer.map(|answer| answer.tag) {
                    // Whoever has taken it on answers to its origin.
                    self.hosted.remove(&query);
                }
            }
            Message::Found(found) => self.found(Some(from), found),
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
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.probes.handle_timeout(now, &mut self.peers);
        self.asks.handle_timeout(now, &mut self.asked_peers);
        self.settle(now);
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            let heard = std::mem::take(&mut self.heard);
            let mut new = heard
                .into_iter()
                .map(|node| (node, Probe::Ring))
                .collect::<Vec<_>>();
            self.heard.extend(
                new.split_off(new.len().min(MAX_NODES))
                    .into_iter()
                    .map(|(node, _)| node),
            );
            if !self.heard.is_empty() {
                self.probe_at = Some(now + BATCH);
            }
            self.probe(now, new);
        }
        if self.gossip_at <= now {
            self.gossip(now);
        }
        if self.replace_at <= now {
            self.replace(now);
        }
        let due = |hosted: &Hosted| hosted.decide_at.is_some_and(|at| at <= now);
        let due: Vec<u64> = self
            .hosted
            .iter()
            .filter(|(_, h)| due(h))
            .map(|(at, _)| *at)
            .collect();
        for query in due {
            self.decide(now, query);
        }
        let late: Vec<[u8; 8]> = self
            .queries
            .iter()
            .filter(|(_, (_, deadline))| *deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some((query, _)) = self.queries.remove(&id) {
                self.out.tell(Event::NotFound { query });
            }
        }
        self.recent.retain(|_, at| now < *at + QUERY_TIMEOUT);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.probes
            .poll_transmit()
            .or_else(|| self.asks.poll_transmit())
            .or_else(|| self.out.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let decide = self
            .hosted
            .values()
            .filter_map(|hosted| hosted.decide_at)
            .min();
        let late = self.queries.values().map(|(_, deadline)| *deadline).min();
        let timers = [
            self.probes.poll_timeout(),
            self.asks.poll_timeout(),
            self.probe_at,
            Some(self.gossip_at),
            Some(self.replace_at),
            decide,
            late,
        ];
        timers.into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
