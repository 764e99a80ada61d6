//! A network in memory: many nodes, a virtual clock, latency and loss.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node, Report},
    krpc::Family,
    runtime::{Mode, Protocol as _, Random, Transmit},
};

/// What happens to datagrams on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of a thousand messages, so many are lost on the sender's first link: for all receivers, if
    /// they share a packet.
    pub first_link_loss: usize,
    /// Of a thousand datagrams, so many are lost after that.
    pub loss: usize,
    /// Of a thousand datagrams, so many arrive twice.
    pub duplicates: usize,
    /// Of a thousand datagrams, so many are cut at a random place.
    pub truncated: usize,
    /// How much longer than usual a datagram may take, so that order is lost.
    pub jitter: Duration,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Messages to lists that may share a packet.
    pub shared: u64,
    /// Their receivers.
    pub shared_receivers: u64,
    /// Datagrams by unicast.
    pub unicast: u64,
    /// The longest datagram in octets.
    pub longest_octets: usize,
}

pub struct Network {
    pub now: Instant,
    pub nodes: Vec<Option<Node>>,
    pub faults: Faults,
    pub sent: Sent,
    pub events: Vec<(usize, Event)>,
    pub random: Random,
    /// For each pair, when messages were sent lately, if this is watched.
    pub most_in_ten_seconds: Option<usize>,
    /// What node 0 sends, if this is watched.
    pub sent_by_0: Option<Vec<Transmit>>,
    recent: HashMap<(usize, SocketAddr), Vec<Instant>>,
    places: HashMap<SocketAddr, usize>,
    timers: BTreeSet<(Instant, usize)>,
    timer_of: Vec<Option<Instant>>,
    in_flight: BinaryHeap<Reverse<Datagram>>,
    serial: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    arrives: Instant,
    serial: u64,
    from: SocketAddr,
    to: usize,
    content: Bytes,
}

/// The address of node `at`: each has a /24 or a /64 of its own.
pub fn address(at: usize, family: Family) -> SocketAddr {
    let at = at as u32;
    match family {
        Family::Ipv4 => (Ipv4Addr::from(0x1400_0000 + (at << 8) + 1), 6881).into(),
        Family::Ipv6 => (
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(at) << 64 | 1),
            6881,
        )
            .into(),
    }
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            nodes: Vec::new(),
            faults: Faults::default(),
            sent: Sent::default(),
            events: Vec::new(),
            random: Random::from_number(seed),
            most_in_ten_seconds: None,
            sent_by_0: None,
            recent: HashMap::new(),
            places: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            in_flight: BinaryHeap::new(),
            serial: 0,
        }
    }

    /// A swarm of nodes that have joined, each by way of three earlier ones.
    pub fn swarm(seed: u64, count: usize, config: &Config) -> Self {
        let mut network = Self::new(seed);
        for at in 0..count {
            let mut config = config.clone();
            for _ in 0..3.min(at) {
                let other = network.random.below(at);
                let families = config.families.iter();
                config
                    .bootstrap
                    .extend(families.map(|family| address(other, *family)));
            }
            let place = network.add(config);
            network.act(place, |node, now| node.join(now));
            network.run_for(Duration::from_millis(50));
        }
        network.run_for(Duration::from_secs(20));
        network.events.clear();
        network
    }

    /// Adds a node at the next address.
    pub fn add(&mut self, config: Config) -> usize {
        let at = self.nodes.len();
        for family in &config.families {
            self.places.insert(address(at, *family), at);
        }
        let seed = self.random.octets();
        self.nodes
            .push(Some(Node::new(self.now, config, Random::new(seed))));
        self.timer_of.push(None);
        self.flush(at);
        at
    }

    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("a node that lives")
    }

    pub fn living(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_some())
            .map(|(at, _)| at)
    }

    pub fn random_living(&mut self) -> usize {
        loop {
            let at = self.random.below(self.nodes.len());
            if self.nodes[at].is_some() {
                return at;
            }
        }
    }

    /// The node is gone, without a word.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at] = None;
        if let Some(timer) = self.timer_of[at].take() {
            self.timers.remove(&(timer, at));
        }
    }

    /// Gives a command to a node, and takes what comes of it.
    pub fn act<T>(&mut self, at: usize, command: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let node = self.nodes[at].as_mut().expect("a node that lives");
        let result = command(node, self.now);
        self.flush(at);
        result
    }

    /// A datagram from an address that need not be a node's.
    pub fn inject(&mut self, from: SocketAddr, to: usize, content: impl Into<Bytes>) {
        let content = content.into();
        self.act(to, |node, now| node.handle(now, from, content));
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until an operation of `at` has ended.
    pub fn run_until_finished(&mut self, at: usize) -> Report {
        let end = self.now + Duration::from_secs(600);
        loop {
            let found = self
                .events
                .iter()
                .position(|(of, event)| *of == at && matches!(event, Event::Finished { .. }));
            if let Some(found) = found
                && let (_, Event::Finished { report, .. }) = self.events.swap_remove(found)
            {
                return *report;
            }
            assert!(
                self.next().is_some_and(|next| next < end),
                "it does not end"
            );
            self.step();
        }
    }

    /// The `count` living nodes closest to `target`, the closest first, without node `but`.
    pub fn closest(&self, target: Id, count: usize, but: usize) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .living()
            .filter(|at| *at != but)
            .map(|at| self.node(at).id())
            .collect();
        if count < ids.len() {
            ids.select_nth_unstable_by_key(count, |id| id.distance(target));
            ids.truncate(count);
        }
        ids.sort_unstable_by_key(|id| id.distance(target));
        ids
    }

    fn next(&self) -> Option<Instant> {
        let datagram = self
            .in_flight
            .peek()
            .map(|Reverse(datagram)| datagram.arrives);
        let timer = self.timers.first().map(|(at, _)| *at);
        [datagram, timer].into_iter().flatten().min()
    }

    fn step(&mut self) {
        let timer = self.timers.first().copied();
        let arrives = self
            .in_flight
            .peek()
            .map(|Reverse(datagram)| datagram.arrives);
        match (timer, arrives) {
            (Some((timer, at)), arrives) if arrives.is_none_or(|arrives| timer < arrives) => {
                self.now = self.now.max(timer);
                self.act(at, |node, now| node.handle_timeout(now));
            }
            (_, Some(_)) => {
                let Some(Reverse(datagram)) = self.in_flight.pop() else {
                    return;
                };
                self.now = datagram.arrives;
                if self.nodes[datagram.to].is_some() {
                    self.act(datagram.to, |node, now| {
                        node.handle(now, datagram.from, datagram.content);
                    });
                }
            }
            _ => {}
        }
    }

    fn flush(&mut self, at: usize) {
        while let Some(transmit) = self.nodes[at].as_mut().and_then(Node::poll_transmit) {
            if at == 0
                && let Some(sent) = &mut self.sent_by_0
            {
                sent.push(transmit.clone());
            }
            let shared = transmit.mode == Mode::Shared && transmit.to.len() > 1;
            if shared {
                self.sent.shared += 1;
                self.sent.shared_receivers += transmit.to.len() as u64;
            } else {
                self.sent.unicast += transmit.to.len() as u64;
            }
            let all_lost = shared && self.happens(self.faults.first_link_loss);
            for (place, to) in transmit.to.iter().enumerate() {
                self.watch(at, *to);
                let lost = all_lost
                    || (!shared && self.happens(self.faults.first_link_loss))
                    || self.happens(self.faults.loss);
                if !lost {
                    self.send(at, *to, transmit.datagram(place));
                }
            }
        }
        while let Some(event) = self.nodes[at].as_mut().and_then(Node::poll_event) {
            self.events.push((at, event));
        }
        let timer = self.nodes[at].as_ref().and_then(Node::poll_timeout);
        if timer != self.timer_of[at] {
            if let Some(old) = self.timer_of[at] {
                self.timers.remove(&(old, at));
            }
            self.timers.extend(timer.map(|timer| (timer, at)));
            self.timer_of[at] = timer;
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, mut content: Bytes) {
        self.sent.longest_octets = self.sent.longest_octets.max(content.len());
        let Some(to_place) = self.places.get(&to).copied() else {
            return;
        };
        if self.happens(self.faults.truncated) {
            content.truncate(self.random.below(content.len()));
        }
        let from_address = address(from, Family::of(&to));
        let copies = 1 + usize::from(self.happens(self.faults.duplicates));
        for _ in 0..copies {
            let jitter = self
                .faults
                .jitter
                .mul_f64(self.random.below(1000) as f64 / 1000.0);
            // Each node is 5 to 45 ms from the middle of the network.
            let distance = |at: usize| Duration::from_millis(5 + (at as u64 * 7919) % 41);
            self.serial += 1;
            self.in_flight.push(Reverse(Datagram {
                arrives: self.now + distance(from) + distance(to_place) + jitter,
                serial: self.serial,
                from: from_address,
                to: to_place,
                content: content.clone(),
            }));
        }
    }

    fn happens(&mut self, per_thousand: usize) -> bool {
        per_thousand > 0 && self.random.below(1000) < per_thousand
    }

    fn watch(&mut self, from: usize, to: SocketAddr) {
        if let Some(most) = &mut self.most_in_ten_seconds {
            let times = self.recent.entry((from, to)).or_default();
            let now = self.now;
            times.retain(|time| now - *time < Duration::from_secs(10));
            times.push(now);
            *most = (*most).max(times.len());
        }
    }
}
