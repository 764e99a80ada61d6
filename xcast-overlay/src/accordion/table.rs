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

/// A gap that was asked about counts for less, until so long afterwards.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Table {
    me: Position,
    /// An entry is used while its peer is there with more than this probability.
    alive: f64,
    max_peers: usize,
    /// By their distance ahead.
    peers: BTreeMap<u64, Known>,
    /// When those at these distances were asked about the gaps after them.
    asked: BTreeMap<u64, Instant>,
    /// Before this nobody is to be forgotten.
    expire_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    address: SocketAddr,
    /// For how long it had been there when it was last heard of.
    alive: Duration,
    heard: Instant,
    /// Until when it is used.
    until: Instant,
}

/// Until when somebody is still there with at least this probability, where the times that peers stay are
/// distributed as Pareto's law has it: who has been there for long stays for long.
///
/// The probability is `alive / (alive + now - heard)`.
fn probable_until(heard: Instant, alive: Duration, probability: f64) -> Instant {
    heard + alive.mul_f64(1.0 / probability - 1.0)
}

impl Table {
    pub fn new(me: Position, alive: f64, max_peers: usize) -> Self {
        Self {
            me,
            alive,
            max_peers,
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            expire_at: None,
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
        let until = |heard, alive| probable_until(heard, alive, self.alive);
        match self.peers.get_mut(&distance) {
            Some(known) if heard >= known.heard => {
                // Who was there before is there for longer now.
                known.alive = alive.max(known.alive + (heard - known.heard));
                known.heard = heard;
                known.until = until(heard, known.alive);
            }
            Some(_) => {}
            None if !is_full => {
                let known = Known {
                    address: entry.peer.address,
                    alive,
                    heard,
                    until: until(heard, alive),
                };
                let forget_at = self.forget_at(&known);
                self.expire_at = Some(self.expire_at.map_or(forget_at, |at| at.min(forget_at)));
                self.peers.insert(distance, known);
            }
            None => {}
        }
    }

    /// Whether a peer has an entry.
    pub fn knows(&self, peer: Contact) -> bool {
        self.peers.contains_key(&self.me.distance_to(peer.position))
    }

    pub fn failed(&mut self, peer: Contact) {
        let distance = self.me.distance_to(peer.position);
        self.peers.remove(&distance);
        self.asked.remove(&distance);
    }

    /// After this nobody would believe it to be there, unless it is heard of again.
    fn forget_at(&self, known: &Known) -> Instant {
        probable_until(known.heard, known.alive, self.alive / 4.0)
    }

    /// Forgets whom nobody would believe to be there.
    pub fn expire(&mut self, now: Instant) {
        if self.expire_at.is_none_or(|at| now <= at) {
            return;
        }
        let mut peers = std::mem::take(&mut self.peers);
        // Whoever is heard of again is there for longer only, so this is the earliest until then.
        self.expire_at = None;
        peers.retain(|distance, known| {
            let forget_at = self.forget_at(known);
            let is_kept = now <= forget_at;
            if is_kept {
                self.expire_at = Some(self.expire_at.map_or(forget_at, |at| at.min(forget_at)));
            } else {
                self.asked.remove(distance);
            }
            is_kept
        });
        self.peers = peers;
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
        live.filter(move |(_, known)| now < known.until)
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
            .filter(move |(_, known)| any || now < known.until)
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

    /// The peers before the largest gaps, each in relation to its distance and to how long ago it was asked about, and
    /// how long the gaps are. They know best who is in the gap.
    ///
    /// `live` are the distances of all that are known, in order: of successors, too.
    pub fn before_gaps(&mut self, now: Instant, live: &[u64], count: usize) -> Vec<(Contact, u64)> {
        self.asked.retain(|_, asked| now - *asked < ASK_AGAIN);
        let ends = live.iter().skip(1).copied().chain([u64::MAX]);
        let mut gaps: Vec<(f64, u64, u64)> = live
            .iter()
            .zip(ends)
            .filter(|(distance, _)| self.peers.contains_key(distance))
            .map(|(distance, end)| {
                let gap = end - distance;
                let asked = self.asked.get(distance);
                let rested = asked.map_or(ASK_AGAIN, |asked| now - *asked);
                let weight = rested.as_secs_f64() / ASK_AGAIN.as_secs_f64();
                (gap as f64 / *distance as f64 * weight, *distance, gap)
            })
            .collect();
        let larger =
            |a: &(f64, u64, u64), b: &(f64, u64, u64)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count < gaps.len() {
            gaps.select_nth_unstable_by(count, larger);
            gaps.truncate(count);
        }
        gaps.sort_by(larger);
        let mut peers = Vec::new();
        for (_, distance, gap) in gaps {
            if let Some(known) = self.peers.get(&distance) {
                self.asked.insert(distance, now);
                peers.push((self.contact(distance, known), gap));
            }
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(port: u16, alive_s: u16) -> Entry {
        Entry {
            peer: Contact::of(SocketAddr::from(([192, 0, 2, 1], port))),
            alive_s,
            since_s: 0,
        }
    }

    /// Of 90 seconds' life, it is there ten seconds later with a probability of 0.9, and 310 seconds later
    /// with a quarter of that.
    #[test]
    fn who_is_silent_is_not_used_and_forgotten_later() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut table = Table::new(Position(0), 0.9, 10);
        table.learn(now, entry(1, 90));
        table.learn(now, entry(2, 9000));
        assert_eq!(table.distances(after(9)).len(), 2);
        assert_eq!(table.distances(after(11)).len(), 1);
        table.expire(after(309));
        assert_eq!(table.peers.len(), 2);
        table.expire(after(311));
        assert_eq!(table.peers.len(), 1);
        // Who is heard of again has been there all the time.
        table.learn(after(10_000), entry(2, 0));
        table.learn(after(10_000), entry(3, 0));
        table.expire(after(10_001));
        table.expire(after(50_000));
        assert_eq!(table.peers.len(), 1);
        table.expire(after(10_000 + 19_000 * 4));
        assert_eq!(table.peers.len(), 0);
    }
}
