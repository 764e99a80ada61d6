//! A network in memory for peers of any protocol: a virtual clock, latency and loss.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use xcast_overlay::{
    krpc::Family,
    runtime::{Mode, Protocol, Random, Transmit},
};

/// What happens to datagrams on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of a thousand packets, so many are lost on the sender's first link, for all receivers.
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
    /// Packets that leave: one for each list that may share one, else one for each receiver.
    pub packets: u64,
    /// Their receivers, which are the packets without Xcast.
    pub receivers: u64,
    /// Octets of the contents, for all receivers.
    pub octets: u64,
}

pub struct Network<P: Protocol> {
    pub now: Instant,
    pub peers: Vec<Option<P>>,
    pub addresses: Vec<SocketAddr>,
    pub faults: Faults,
    pub sent: Sent,
    pub events: Vec<(Instant, usize, P::Event)>,
    pub random: Random,
    /// All transmits, if this is watched.
    pub transmits: Option<Vec<(Instant, usize, Transmit)>>,
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

/// The address of peer `at`.
pub fn address(at: usize, family: Family) -> SocketAddr {
    let at = at as u32;
    match family {
        Family::Ipv4 => (Ipv4Addr::from(0x1400_0000 + (at << 8) + 1), 4000).into(),
        Family::Ipv6 => (
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(at) << 64 | 1),
            4000,
        )
            .into(),
    }
}

/// How many peers a test has: few, unless `XCAST_PEERS` says otherwise.
pub fn peers(usually: usize) -> usize {
    let given = std::env::var("XCAST_PEERS").ok();
    given.map_or(usually, |given| {
        given.parse().expect("XCAST_PEERS is a number")
    })
}

impl<P: Protocol> Network<P> {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            peers: Vec::new(),
            addresses: Vec::new(),
            faults: Faults::default(),
            sent: Sent::default(),
            events: Vec::new(),
            random: Random::from_number(seed),
            transmits: None,
            places: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            in_flight: BinaryHeap::new(),
            serial: 0,
        }
    }

    /// Adds a peer at an address.
    pub fn add(&mut self, address: SocketAddr, peer: P) -> usize {
        let at = self.peers.len();
        self.places.insert(address, at);
        self.addresses.push(address);
        self.peers.push(Some(peer));
        self.timer_of.push(None);
        self.flush(at);
        at
    }

    pub fn peer(&self, at: usize) -> &P {
        self.peers[at].as_ref().expect("a peer that lives")
    }

    pub fn living(&self) -> Vec<usize> {
        let all = 0..self.peers.len();
        all.filter(|at| self.peers[*at].is_some()).collect()
    }

    pub fn random_living(&mut self) -> usize {
        loop {
            let at = self.random.below(self.peers.len());
            if self.peers[at].is_some() {
                return at;
            }
        }
    }

    /// The peer is gone, without a word.
    pub fn kill(&mut self, at: usize) {
        self.peers[at] = None;
        if let Some(timer) = self.timer_of[at].take() {
            self.timers.remove(&(timer, at));
        }
    }

    /// Gives a command to a peer, and takes what comes of it.
    pub fn act<T>(&mut self, at: usize, command: impl FnOnce(&mut P, Instant) -> T) -> T {
        let peer = self.peers[at].as_mut().expect("a peer that lives");
        let result = command(peer, self.now);
        self.flush(at);
        result
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until `is_done`, at most so long: whether it is.
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

    fn next(&self) -> Option<Instant> {
        let datagram = self.in_flight.peek().map(|Reverse(d)| d.arrives);
        let timer = self.timers.first().map(|(at, _)| *at);
        [datagram, timer].into_iter().flatten().min()
    }

    fn step(&mut self) {
        let timer = self.timers.first().copied();
        let arrives = self.in_flight.peek().map(|Reverse(d)| d.arrives);
        match (timer, arrives) {
            (Some((timer, at)), arrives) if arrives.is_none_or(|arrives| timer < arrives) => {
                self.now = self.now.max(timer);
                self.act(at, |peer, now| peer.handle_timeout(now));
            }
            _ => {
                let Some(Reverse(datagram)) = self.in_flight.pop() else {
                    return;
                };
                self.now = datagram.arrives;
                if self.peers[datagram.to].is_some() {
                    self.act(datagram.to, |peer, now| {
                        peer.handle(now, datagram.from, datagram.content);
                    });
                }
            }
        }
    }

    fn flush(&mut self, at: usize) {
        while let Some(transmit) = self.peers[at].as_mut().and_then(P::poll_transmit) {
            let count = transmit.to.len();
            let shared = transmit.mode == Mode::Shared && count > 1;
            self.sent.packets += if shared { 1 } else { count as u64 };
            self.sent.receivers += count as u64;
            let all_lost = shared && self.happens(self.faults.first_link_loss);
            for (place, to) in transmit.to.iter().enumerate() {
                let content = transmit.datagram(place);
                self.sent.octets += content.len() as u64;
                let lost = all_lost
                    || (!shared && self.happens(self.faults.first_link_loss))
                    || self.happens(self.faults.loss);
                if !lost {
                    self.send(at, *to, content);
                }
            }
            if let Some(transmits) = &mut self.transmits {
                transmits.push((self.now, at, transmit));
            }
        }
        while let Some(event) = self.peers[at].as_mut().and_then(P::poll_event) {
            self.events.push((self.now, at, event));
        }
        let timer = self.peers[at].as_ref().and_then(P::poll_timeout);
        if timer != self.timer_of[at] {
            if let Some(old) = self.timer_of[at] {
                self.timers.remove(&(old, at));
            }
            self.timers.extend(timer.map(|timer| (timer, at)));
            self.timer_of[at] = timer;
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, mut content: Bytes) {
        let Some(to_place) = self.places.get(&to).copied() else {
            return;
        };
        if self.happens(self.faults.truncated) {
            content.truncate(self.random.below(content.len()));
        }
        let copies = 1 + usize::from(self.happens(self.faults.duplicates));
        for _ in 0..copies {
            let jitter = self
                .faults
                .jitter
                .mul_f64(self.random.below(1000) as f64 / 1000.0);
            // Each peer is 5 to 45 ms from the middle of the network.
            let distance = |at: usize| Duration::from_millis(5 + (at as u64 * 7919) % 41);
            self.serial += 1;
            self.in_flight.push(Reverse(Datagram {
                arrives: self.now + distance(from) + distance(to_place) + jitter,
                serial: self.serial,
                from: self.addresses[from],
                to: to_place,
                content: content.clone(),
            }));
        }
    }

    fn happens(&mut self, per_thousand: usize) -> bool {
        per_thousand > 0 && self.random.below(1000) < per_thousand
    }
}
