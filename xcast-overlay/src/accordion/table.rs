//! The peers that are known, and how likely they are there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    chord::message::Entry,
    ring::{Contact, Position},
};

/// A gap that was asked about is not asked about again for so long.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Table {
    me: Position,
    /// An entry is used while its peer is there with more than this probability.
    alive: f64,
    max_peers: usize,
    /// By their distance ahead.
    peers: BTreeMap<u64, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    address: SocketAddr,
    /// For how long it had been there when it was last heard of.
    alive: Duration,
    heard: Instant,
    asked: Option<Instant>,
}

impl Known {
    /// The probability that it is still there, where the times that peers stay are distributed as
    /// Pareto's law has it: who has been there for long stays for long.
    fn probability(&self, now: Instant) -> f64 {
        let alive = self.alive.as_secs_f64();
        alive / (alive + (now - self.heard).as_secs_f64()).max(1e-9)
    }
}

impl Table {
    pub fn new(me: Position, alive: f64, max_peers: usize) -> Self {
        Self {
            me,
            alive,
            max_peers,
            peers: BTreeMap::new(),
        }
    }

    pub fn learn(&mut self, now: Instant, entry: Entry) {
        let distance = self.me.distance_to(entry.peer.position);
        let heard = now.checked_sub(Duration::from_secs(entry.since_s.into()));
        let Some(heard) = heard.filter(|_| distance != 0) else {
            return;
        };
        let alive = Duration::from_secs(entry.alive_s.into());
        let is_full = self.peers.len() >= self.max_peers;
        match self.peers.get_mut(&distance) {
            Some(known) if heard >= known.heard => {
                // Who was there before is there for longer now.
                known.alive = alive.max(known.alive + (heard - known.heard));
                known.heard = heard;
            }
            Some(_) => {}
            None if !is_full => {
                let address = entry.peer.address;
                let asked = None;
                self.peers.insert(
                    distance,
                    Known {
                        address,
                        alive,
                        heard,
                        asked,
                    },
                );
            }
            None => {}
        }
    }

    pub fn failed(&mut self, peer: Contact) {
        self.peers.remove(&self.me.distance_to(peer.position));
    }

    /// Forgets whom nobody would believe to be there.
    pub fn expire(&mut self, now: Instant) {
        let forget = self.alive / 4.0;
        self.peers
            .retain(|_, known| known.probability(now) >= forget || now == known.heard);
    }

    fn contact(&self, distance: u64, known: &Known) -> Contact {
        Contact {
            position: self.me.ahead(distance),
            address: known.address,
        }
    }

    fn live(&self, now: Instant) -> impl DoubleEndedIterator<Item = (u64, &Known)> {
        let live = self
            .peers
            .iter()
            .map(|(distance, known)| (*distance, known));
        live.filter(move |(_, known)| known.probability(now) > self.alive)
    }

    /// How far ahead those are that may be used.
    pub fn distances(&self, now: Instant) -> Vec<u64> {
        self.live(now).map(|(distance, _)| distance).collect()
    }

    /// Those closest before a key, the closest first. `any`: even such as may be gone.
    pub fn before(&self, now: Instant, key: Position, any: bool) -> impl Iterator<Item = Contact> {
        let end = self.me.distance_to(key);
        // The key of this peer itself is a whole ring away.
        let end = if end == 0 { u64::MAX } else { end };
        let peers = self.peers.range(..end).rev();
        peers
            .filter(move |(_, known)| any || known.probability(now) > self.alive)
            .map(|(distance, known)| self.contact(*distance, known))
    }

    /// Some that lie ahead, up to a distance: for another peer, which knows less of this part.
    pub fn ahead(&self, now: Instant, span: u64, count: usize) -> Vec<Entry> {
        let all: Vec<(u64, &Known)> = self
            .live(now)
            .take_while(|(distance, _)| *distance <= span)
            .collect();
        let step = all.len().div_ceil(count.max(1)).max(1);
        let some = all.iter().step_by(step).take(count);
        some.map(|(distance, known)| self.entry(now, *distance, known))
            .collect()
    }

    fn entry(&self, now: Instant, distance: u64, known: &Known) -> Entry {
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        Entry {
            peer: self.contact(distance, known),
            alive_s: seconds(known.alive),
            since_s: seconds(now - known.heard),
        }
    }

    /// The peers before the largest gaps, each in relation to its distance, that were not asked
    /// lately, and how long the gaps are. They know best who is in the gap.
    pub fn before_gaps(&mut self, now: Instant, count: usize) -> Vec<(Contact, u64)> {
        let live: Vec<u64> = self.live(now).map(|(distance, _)| distance).collect();
        let ends = live.iter().skip(1).copied().chain([u64::MAX]);
        let mut gaps: Vec<(f64, u64, u64)> = live
            .iter()
            .zip(ends)
            .map(|(distance, end)| {
                let gap = end - distance;
                (gap as f64 / *distance as f64, *distance, gap)
            })
            .filter(|(_, distance, _)| {
                let asked = self.peers.get(distance).and_then(|known| known.asked);
                asked.is_none_or(|asked| now - asked >= ASK_AGAIN)
            })
            .collect();
        gaps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut peers = Vec::new();
        for (_, distance, gap) in gaps.into_iter().take(count) {
            if let Some(known) = self.peers.get_mut(&distance) {
                known.asked = Some(now);
                let position = self.me.ahead(distance);
                let address = known.address;
                peers.push((Contact { position, address }, gap));
            }
        }
        peers
    }
}
