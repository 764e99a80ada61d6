//! Nodes, their timers, and datagrams on their way.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::faults::{Faults, Sent};
use crate::{
    krpc::Family,
    runtime::{Mode, Protocol, Random, Transmit},
};

/// How long a datagram takes from one place to another.
pub type Latency = Box<dyn Fn(usize, usize) -> Duration>;

/// Whether a datagram from one place to another is stopped.
pub type Blocked = Box<dyn Fn(usize, usize, &Bytes) -> bool>;

/// Is shown each message that leaves, with when and from where.
pub type Watch = Box<dyn FnMut(Instant, usize, &Transmit)>;

/// Nodes of one protocol, by place: the number in which order they came.
pub struct World<P: Protocol> {
    /// When the world began.
    pub start: Instant,
    /// Its time.
    pub now: Instant,
    /// Its nodes; `None` where one is gone.
    pub nodes: Vec<Option<P>>,
    /// What goes wrong.
    pub faults: Faults,
    /// How long datagrams take. Default: [`star`].
    pub latency: Latency,
    /// What was sent so far.
    pub sent: Sent,
    /// What nodes told, when and which.
    pub events: Vec<(Instant, usize, P::Event)>,
    /// The world's own random numbers.
    pub random: Random,
    /// Datagrams of which this says true arrive nowhere.
    pub blocked: Option<Blocked>,
    /// Is shown each message.
    pub watch: Option<Watch>,
    /// Lists are served by unicast, so that each receiver's datagram is lost by itself.
    pub apart: bool,
    /// A digest of all that was sent, in order: two runs with the same one were the same.
    pub digest: u64,
    addresses: Vec<Vec<SocketAddr>>,
    places: HashMap<SocketAddr, usize, RandomState>,
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
pub fn address(at: usize, family: Family) -> SocketAddr {
    let at = at as u32;
    match family {
        Family::Ipv4 => (Ipv4Addr::from(0x1400_0000 + (at << 8) + 1), 6881).into(),
        Family::Ipv6 => {
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
    /// A network without nodes.
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
            watch: None,
            apart: false,
            digest: 0xcbf2_9ce4_8422_2325,
            addresses: Vec::new(),
            places: HashMap::default(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            in_flight: BinaryHeap::new(),
            serial: 0,
        }
    }

    /// Adds a node at this address, with random numbers of its own: its place.
    pub fn add(&mut self, address: SocketAddr, make: impl FnOnce(Instant, Random) -> P) -> usize {
        let seed = self.random.octets();
        let node = make(self.now, Random::new(seed));
        self.put(&[address], node)
    }

    /// Adds a node at these addresses, at least one: its place. It sends from the one of the receiver's
    /// family. Who had an address before loses it.
    pub fn put(&mut self, addresses: &[SocketAddr], node: P) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Some(node));
        self.places.extend(addresses.iter().map(|own| (*own, at)));
        self.addresses.push(addresses.to_vec());
        self.timer_of.push(None);
        self.flush(at);
        at
    }

    /// The node at a place.
    ///
    /// # Panics
    ///
    /// It is gone, or never was.
    pub fn node(&self, at: usize) -> &P {
        match self.nodes.get(at) {
            Some(Some(node)) => node,
            _ => panic!("there is no node {at}"),
        }
    }

    /// The first address of a place.
    ///
    /// # Panics
    ///
    /// There never was a node.
    pub fn address(&self, at: usize) -> SocketAddr {
        self.addresses[at][0]
    }

    /// The place of the node that came last to an address.
    pub fn place(&self, address: SocketAddr) -> Option<usize> {
        self.places.get(&address).copied()
    }

    /// The places whose nodes live.
    pub fn living(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|at| self.nodes[*at].is_some()).collect()
    }

    /// A place whose node lives, each as likely.
    ///
    /// # Panics
    ///
    /// Nobody lives.
    pub fn random_living(&mut self) -> usize {
        assert!(self.nodes.iter().any(Option::is_some), "nobody lives");
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
    ///
    /// # Panics
    ///
    /// It is gone, or never was.
    pub fn act<T>(&mut self, at: usize, command: impl FnOnce(&mut P, Instant) -> T) -> T {
        let now = self.now;
        let result = match self.nodes.get_mut(at) {
            Some(Some(node)) => command(node, now),
            _ => panic!("there is no node {at}"),
        };
        self.flush(at);
        result
    }

    /// A datagram from an address that need not be a node's.
    pub fn inject(&mut self, from: SocketAddr, to: usize, content: impl Into<Bytes>) {
        let content = content.into();
        self.act(to, |node, now| node.handle(now, from, content));
    }

    /// Goes on for this time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until `is_done`, at most so long: whether it is. It is asked each second.
    pub fn run_until(&mut self, most: Duration, mut is_done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + most;
        loop {
            if is_done(self) {
                return true;
            }
            let next = (self.now + Duration::from_secs(1)).min(end);
            if next == self.now {
                return false;
            }
            self.run_for(next - self.now);
        }
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Instant> {
        let arrives = self
            .in_flight
            .peek()
            .map(|Reverse(datagram)| datagram.arrives);
        let timer = self.timers.first().map(|(at, _)| *at);
        [arrives, timer].into_iter().flatten().min()
    }

    /// Goes on to what happens next: a timer, or a datagram that arrives.
    ///
    /// # Panics
    ///
    /// A node's timer does not move on by what is done when it is due: it would never end.
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
            if let Some(watch) = &mut self.watch {
                watch(self.now, at, &transmit);
            }
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
        assert!(!transmit.to.is_empty(), "node {at} sends to nobody");
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
            let (words, rest) = datagram.as_chunks::<8>();
            for word in words {
                self.note(u64::from_le_bytes(*word));
            }
            for octet in rest.iter().chain(&to.port().to_be_bytes()) {
                self.note(u64::from(*octet));
            }
            self.sent.octets += datagram.len() as u64;
            self.sent.longest_octets = self.sent.longest_octets.max(datagram.len());
            let lost = all_lost
                || (!shared && self.happens(self.faults.first_link_loss))
                || self.happens(self.faults.loss);
            if !lost {
                self.send(at, *to, datagram);
            }
        }
    }

    fn send(&mut self, from: usize, to_address: SocketAddr, mut content: Bytes) {
        let Some(to) = self.place(to_address) else {
            return;
        };
        self.note(to as u64);
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
        let own = self.addresses[from].iter();
        let mut own = own.filter(|own| own.is_ipv4() == to_address.is_ipv4());
        let Some(own) = own.next().copied() else {
            return;
        };
        let copies = 1 + usize::from(self.happens(self.faults.duplicates));
        for _ in 0..copies {
            let part = self.random.below(1000) as f64 / 1000.0;
            let jitter = self.faults.jitter.mul_f64(part);
            self.serial += 1;
            self.in_flight.push(Reverse(Datagram {
                arrives: self.now + (self.latency)(from, to) + jitter,
                serial: self.serial,
                from: own,
                to,
                content: content.clone(),
            }));
        }
    }

    /// Takes something into the digest, in the manner of FNV-1a, of which a step leaves the low bits alone
    /// that the next one is to mix.
    fn note(&mut self, word: u64) {
        self.digest = (self.digest ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(29);
    }

    fn happens(&mut self, per_thousand: usize) -> bool {
        per_thousand > 0 && self.random.below(1000) < per_thousand
    }
}

impl<P: Protocol> fmt::Debug for World<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let living = self.nodes.iter().flatten().count();
        f.debug_struct("World")
            .field("time", &(self.now - self.start))
            .field("living", &living)
            .field("in_flight", &self.in_flight.len())
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
