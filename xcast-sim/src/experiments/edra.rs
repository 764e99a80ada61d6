//! EDRA among so many peers that not all of them fit into memory: one that has no news is not there.
//!
//! Peers are the real ones, and share one table of all. A peer comes into being with the first datagram
//! for it, and is forgotten when it has told what it knows and nothing is under way. Those without news
//! would send a sign of life in each interval, which is left out, and there are no routers. So what is
//! counted is one thing: whom each event reaches, how often, when, and by how many messages.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Serialize;
use xcast_overlay::{
    d1ht::{Change, Config, Counters, Event, Grouping, Peer, Theta, levels, theta},
    ring::{Contact, Position},
    runtime::{self, Protocol as _},
};

use crate::{
    address,
    fanout::Family,
    random::{Random, hash},
    topology::HostId,
};

/// How long datagrams take.
const LATENCY: Duration = Duration::from_millis(40);

/// An experiment: peers vanish, one after another, and each time all others are told.
#[derive(Clone, Debug)]
pub struct Edra {
    /// Peers, at most [`address::MAX_HOSTS`].
    pub peers: usize,
    /// Peers that vanish.
    pub events: usize,
    /// How long peers stay, on average: what Theta follows from.
    pub session: Duration,
    /// Which messages of an interval share a packet.
    pub grouping: Grouping,
    /// Of all random choices.
    pub seed: u64,
}

/// What it brings.
#[derive(Clone, Debug, Serialize)]
pub struct EdraRow {
    /// What this is, and what it is not.
    pub label: &'static str,
    /// Peers.
    pub peers: usize,
    /// Events.
    pub events: usize,
    /// Length of an interval, in seconds.
    pub theta_s: f64,
    /// rho, the number of levels.
    pub levels: u32,
    /// Times that an event came to a peer that was to hear of it, all events together.
    pub told: u64,
    /// Peers that never heard of an event, all events together.
    pub never: u64,
    /// Times that an event came to a peer once more.
    pub again: u64,
    /// When the last peer heard of an event after it was reported, in intervals: at most rho.
    pub last_intervals: f64,
    /// When a peer heard of it, on average, in intervals.
    pub mean_intervals: f64,
    /// Messages for each event, those without events of peers that have news included.
    pub messages: f64,
    /// Packets by which they left.
    pub packets: f64,
    /// Octets of these packets at both ends, in percent of those by unicast.
    pub octets_percent: f64,
    /// Most peers that were in memory at one time.
    pub most_in_memory: usize,
}

/// Peers that exist, and what is on its way to them.
struct Ring {
    table: Arc<[Contact]>,
    config: Config,
    seed: u64,
    now: Instant,
    peers: HashMap<SocketAddr, Box<Peer>>,
    /// Who has vanished.
    gone: Contact,
    due: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    number: u64,
    sum: Sum,
    /// When it was first told.
    first: Option<Instant>,
    /// Who has heard of it, by rank in the table.
    heard: Vec<bool>,
}

/// What all events together bring.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    told: u64,
    again: u64,
    last: Duration,
    after: Duration,
    most: usize,
    counters: Counters,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Wake(SocketAddr),
    Datagram(SocketAddr, SocketAddr, Bytes),
}

impl Edra {
    /// Runs it; `progress` is told how often events have come to peers so far, and how many peers are in
    /// memory.
    pub fn run(&self, mut progress: impl FnMut(u64, usize)) -> EdraRow {
        let mut random = Random::for_purpose(self.seed, "nodes");
        let theta = theta(0.01, self.session, self.peers);
        let at = |host: usize| address::of_host(host as HostId, Family::V4);
        let mut table: Vec<Contact> = (0..self.peers).map(|host| Contact::of(at(host))).collect();
        table.sort_unstable_by_key(|contact| contact.position);
        let table: Arc<[Contact]> = table.into();
        let config = Config {
            theta: Theta::Fixed(theta),
            grouping: self.grouping,
            compare_intervals: None,
            ..Config::new("simulated", at(0))
        };
        let mut sum = Sum::default();
        for rank in random.distinct(self.events, self.peers) {
            let mut ring = Ring {
                config: config.clone(),
                table: Arc::clone(&table),
                seed: self.seed,
                now: Instant::now(),
                peers: HashMap::new(),
                gone: table[rank],
                due: BinaryHeap::new(),
                number: 0,
                sum,
                first: None,
                heard: vec![false; table.len()],
            };
            // Who comes after the peer that has vanished finds out that it is silent, and reports it.
            let watcher = table[(rank + 1) % table.len()].address;
            if let Some(peer) = ring.create(watcher) {
                ring.peers.insert(watcher, peer);
                ring.pump(watcher);
            }
            let mut told = ring.sum.told;
            while ring.step() {
                if ring.sum.told / 100_000 > told / 100_000 {
                    progress(ring.sum.told, ring.peers.len());
                }
                told = ring.sum.told;
            }
            sum = ring.sum;
        }
        self.row(theta, &sum)
    }

    fn row(&self, theta: Duration, sum: &Sum) -> EdraRow {
        let others = (self.peers - 1) as u64 * self.events as u64;
        let events = self.events.max(1) as f64;
        let counters = sum.counters;
        EdraRow {
            label: "one shared table, no routers, peers without news are not in memory",
            peers: self.peers,
            events: self.events,
            theta_s: theta.as_secs_f64(),
            levels: levels(self.peers),
            told: sum.told,
            never: others.saturating_sub(sum.told),
            again: sum.again,
            last_intervals: sum.last.as_secs_f64() / theta.as_secs_f64(),
            mean_intervals: sum.after.as_secs_f64() / theta.as_secs_f64() / sum.told.max(1) as f64,
            messages: counters.messages as f64 / events,
            packets: counters.packets as f64 / events,
            octets_percent: 100.0 * counters.octets as f64 / counters.unicast_octets.max(1) as f64,
            most_in_memory: sum.most,
        }
    }
}

impl Ring {
    /// The peer at an address, as it is before it has heard anything; `None` if it has vanished.
    fn create(&self, at: SocketAddr) -> Option<Box<Peer>> {
        let position = Position::of(&at);
        let is_known = self
            .table
            .binary_search_by_key(&position, |contact| contact.position)
            .is_ok();
        if !is_known || position == self.gone.position {
            return None;
        }
        let config = Config {
            address: at,
            ..self.config.clone()
        };
        let numbers = runtime::Random::from_number(hash(&[self.seed, position.0, self.number]));
        let table = Arc::clone(&self.table);
        Some(Box::new(Peer::with_table(self.now, config, numbers, table)))
    }

    fn push(&mut self, at: Instant, due: Due) {
        self.number += 1;
        self.due.push(Reverse((at, self.number, due)));
    }

    /// Goes on to what is next: whether there was anything.
    fn step(&mut self) -> bool {
        let Some(Reverse((at, _, due))) = self.due.pop() else {
            return false;
        };
        self.now = at;
        match due {
            Due::Wake(to) => {
                let now = self.now;
                if let Some(peer) = self.peers.get_mut(&to)
                    && peer.poll_timeout().is_some_and(|at| at <= now)
                {
                    peer.handle_timeout(now);
                    self.pump(to);
                    self.forget(to);
                }
            }
            Due::Datagram(from, to, content) => {
                let there = self.peers.remove(&to).or_else(|| self.create(to));
                if let Some(mut peer) = there {
                    peer.handle(self.now, from, content);
                    self.peers.insert(to, peer);
                    self.pump(to);
                    self.forget(to);
                }
            }
        }
        true
    }

    /// Takes what a peer has to say.
    fn pump(&mut self, at: SocketAddr) {
        let Some(mut peer) = self.peers.remove(&at) else {
            return;
        };
        let arrives = self.now + LATENCY;
        while let Some(transmit) = peer.poll_transmit() {
            for (place, to) in transmit.to.iter().enumerate() {
                let datagram = transmit.datagram(place);
                self.push(arrives, Due::Datagram(at, *to, datagram));
            }
        }
        while let Some(event) = peer.poll_event() {
            if let Event::News { news, .. } = event
                && (news.peer, news.change) == (self.gone, Change::Left)
            {
                self.note(at);
            }
        }
        if let Some(timer) = peer.poll_timeout() {
            self.push(timer.max(self.now), Due::Wake(at));
        }
        self.peers.insert(at, peer);
    }

    fn note(&mut self, at: SocketAddr) {
        let after = self.now - *self.first.get_or_insert(self.now);
        let position = Position::of(&at);
        let rank = self
            .table
            .partition_point(|contact| contact.position < position);
        if std::mem::replace(&mut self.heard[rank], true) {
            self.sum.again += 1;
            return;
        }
        self.sum.told += 1;
        self.sum.last = self.sum.last.max(after);
        self.sum.after += after;
    }

    /// Forgets a peer that has told what it knows.
    fn forget(&mut self, at: SocketAddr) {
        self.sum.most = self.sum.most.max(self.peers.len());
        // The one that watches who has vanished has to wait until it has found out.
        let waits = self.first.is_none();
        let is_done = self.peers.get(&at).is_some_and(|peer| {
            let before = peer.table().predecessor(peer.contact().position);
            peer.is_quiet() && !(waits && before == Some(self.gone))
        });
        if is_done && let Some(peer) = self.peers.remove(&at) {
            let (sum, counters) = (&mut self.sum.counters, peer.counters());
            sum.messages += counters.messages;
            sum.packets += counters.packets;
            sum.octets += counters.octets;
            sum.unicast_octets += counters.unicast_octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_reaches_each_peer_once_within_rho_intervals() {
        for (peers, events) in [(1000, 1), (3000, 4)] {
            let edra = Edra {
                peers,
                events,
                session: Duration::from_secs(169 * 60),
                grouping: Grouping::USUAL,
                seed: 1,
            };
            let row = edra.run(|_, _| {});
            assert_eq!((row.never, row.again), (0, 0), "{row:?}");
            assert!(row.last_intervals <= f64::from(row.levels) + 0.5, "{row:?}");
            assert!(row.octets_percent <= 100.0, "{row:?}");
            assert!(row.most_in_memory < peers, "{row:?}");
        }
    }
}
