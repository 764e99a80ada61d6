//! A network in memory for any protocol: a virtual clock, latency, loss, and what was sent.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use xcast_overlay::runtime::{Mode, Protocol, Random, Transmit};

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

/// Everything at once, in doses that protocols have to live with.
pub const ROUGH: Faults = Faults {
    first_link_loss: 10,
    loss: 20,
    duplicates: 20,
    truncated: 5,
    jitter: Duration::from_millis(40),
};

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages to lists that may share a packet.
    pub shared: u64,
    /// Their receivers.
    pub shared_receivers: u64,
    /// Datagrams by unicast.
    pub unicast: u64,
    /// Octets of all datagrams, each counted once for each receiver.
    pub octets: u64,
}

/// How long a datagram takes from one place to another.
pub type Latency = Box<dyn Fn(usize, usize) -> Duration>;

/// Whether a datagram from one place to another is stopped.
pub type Blocked = Box<dyn Fn(usize, usize, &Bytes) -> bool>;

pub struct World<P: Protocol> {
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Option<P>>,
    pub faults: Faults,
    pub latency: Latency,
    pub sent: Sent,
    pub events: Vec<(Instant, usize, P::Event)>,
    pub random: Random,
    /// Datagrams of which this says true arrive nowhere.
    pub blocked: Option<Blocked>,
    /// Lists are served by unicast, so that each receiver's datagram is lost by itself.
    pub apart: bool,
    /// A digest of all that was sent, in order.
    pub digest: u64,
    addresses: Vec<SocketAddr>,
    places: BTreeMap<SocketAddr, usize>,
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

/// The address of place `at`: each has a /24 or a /64 of its own.
pub fn address(at: usize, ipv6: bool) -> SocketAddr {
    let at = at as u32;
    match ipv6 {
        false => (Ipv4Addr::from(0x1400_0000 + (at << 8) + 1), 6881).into(),
        true => {
            let ip = 0x2001_0db8 << 96 | u128::from(at) << 64 | 1;
            (Ipv6Addr::from(ip), 6881).into()
        }
    }
}

/// Each place is 5 to 45 ms from the middle of the network.
pub fn star(from: usize, to: usize) -> Duration {
    let distance = |at: usize| Duration::from_millis(5 + (at as u64 * 7919) % 41);
    distance(from) + distance(to)
}

impl<P: Protocol> World<P> {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            nodes: Vec::new(),
            faults: Faults::default(),
            latency: Box::new(star),
            sent: Sent::default(),
            events: Vec::new(),
            random: Random::from_number(seed),
            blocked: None,
            apart: false,
            digest: 0xcbf2_9ce4_8422_2325,
            addresses: Vec::new(),
            places: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            in_flight: BinaryHeap::new(),
            serial: 0,
        }
    }

    /// Adds a node at this address.
    pub fn add(&mut self, address: SocketAddr, make: impl FnOnce(Instant, Random) -> P) -> usize {
        let at = self.nodes.len();
        let seed = self.random.octets();
        self.nodes.push(Some(make(self.now, Random::new(seed))));
        self.addresses.push(address);
        self.places.insert(address, at);
        self.timer_of.push(None);
        self.flush(at);
        at
    }

    pub fn node(&self, at: usize) -> &P {
        self.nodes[at].as_ref().expect("a node that lives")
    }

    pub fn address(&self, at: usize) -> SocketAddr {
        self.addresses[at]
    }

    pub fn place(&self, address: SocketAddr) -> Option<usize> {
        self.places.get(&address).copied()
    }

    pub fn living(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|at| self.nodes[*at].is_some()).collect()
    }

    /// The node is gone, without a word.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at] = None;
        if let Some(timer) = self.timer_of[at].take() {
            self.timers.remove(&(timer, at));
        }
    }

    /// Gives a command to a node, and takes what comes of it.
    pub fn act<T>(&mut self, at: usize, command: impl FnOnce(&mut P, Instant) -> T) -> T {
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

    fn next(&self) -> Option<Instant> {
        let arrives = self
            .in_flight
            .peek()
            .map(|Reverse(datagram)| datagram.arrives);
        let timer = self.timers.first().map(|(at, _)| *at);
        [arrives, timer].into_iter().flatten().min()
    }

    pub fn step(&mut self) {
        let timer = self.timers.first().copied();
        let arrives = self
            .in_flight
            .peek()
            .map(|Reverse(datagram)| datagram.arrives);
        match (timer, arrives) {
            (Some((timer, at)), arrives) if arrives.is_none_or(|arrives| timer < arrives) => {
                self.now = self.now.max(timer);
                self.act(at, |node, now| node.handle_timeout(now));
                let after = self.nodes[at].as_ref().and_then(P::poll_timeout);
                assert!(
                    after.is_none_or(|after| after > timer),
                    "the timer of node {at} does not move"
                );
            }
            (_, Some(_)) => {
                let Some(Reverse(datagram)) = self.in_flight.pop() else {
                    return;
                };
                self.now = self.now.max(datagram.arrives);
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
        while let Some(transmit) = self.nodes[at].as_mut().and_then(P::poll_transmit) {
            self.transmit(at, &transmit);
        }
        while let Some(event) = self.nodes[at].as_mut().and_then(P::poll_event) {
            self.events.push((self.now, at, event));
        }
        let timer = self.nodes[at].as_ref().and_then(P::poll_timeout);
        if timer != self.timer_of[at] {
            if let Some(old) = self.timer_of[at] {
                self.timers.remove(&(old, at));
            }
            self.timers.extend(timer.map(|timer| (timer, at)));
            self.timer_of[at] = timer;
        }
    }

    fn transmit(&mut self, at: usize, transmit: &Transmit) {
        assert!(!transmit.to.is_empty());
        let shared = transmit.mode == Mode::Shared && transmit.to.len() > 1 && !self.apart;
        if shared {
            self.sent.shared += 1;
            self.sent.shared_receivers += transmit.to.len() as u64;
        } else {
            self.sent.unicast += transmit.to.len() as u64;
        }
        let all_lost = shared && self.happens(self.faults.first_link_loss);
        for (place, to) in transmit.to.iter().enumerate() {
            let datagram = transmit.datagram(place);
            for octet in datagram.iter().chain(to.to_string().as_bytes()) {
                self.digest = (self.digest ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
            }
            self.sent.octets += datagram.len() as u64;
            let lost = all_lost
                || (!shared && self.happens(self.faults.first_link_loss))
                || self.happens(self.faults.loss);
            if !lost {
                self.send(at, *to, datagram);
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, mut content: Bytes) {
        let Some(to) = self.place(to) else { return };
        if self
            .blocked
            .as_ref()
            .is_some_and(|blocked| blocked(from, to, &content))
        {
            return;
        }
        if self.happens(self.faults.truncated) {
            content.truncate(self.random.below(content.len()));
        }
        let copies = 1 + usize::from(self.happens(self.faults.duplicates));
        for _ in 0..copies {
            let part = self.random.below(1000) as f64 / 1000.0;
            let jitter = self.faults.jitter.mul_f64(part);
            self.serial += 1;
            self.in_flight.push(Reverse(Datagram {
                arrives: self.now + (self.latency)(from, to) + jitter,
                serial: self.serial,
                from: self.addresses[from],
                to,
                content: content.clone(),
            }));
        }
    }

    fn happens(&mut self, per_thousand: usize) -> bool {
        per_thousand > 0 && self.random.below(1000) < per_thousand
    }
}

/// Debug builds do less.
pub fn size(debug: usize, release: usize) -> usize {
    if cfg!(debug_assertions) {
        debug
    } else {
        release
    }
}
