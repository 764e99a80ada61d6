//! EpiChord's cache of peers, and its slices.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    chord::{message::Entry, neighbours::Neighbours, routes::Routes},
    ring::{Contact, Position},
};

/// Settings of the cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// How many peers a look-up asks at once, by one packet: p.
    pub parallel: usize,
    /// How long after a peer was last heard of it is still believed to be there.
    pub lifetime: Duration,
    /// How many live peers each slice of the ring is to have,
    pub in_slice: usize,
    /// and to have for so long: until slices are looked after again, and a bit longer.
    pub margin: Duration,
    /// How many next hops an answer names.
    pub next_hops: u8,
    /// Most peers that are known.
    pub max_peers: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            parallel: 3,
            lifetime: Duration::from_secs(120),
            in_slice: 2,
            margin: Duration::from_secs(30),
            next_hops: 3,
            max_peers: 20_000,
        }
    }
}

/// All peers that were heard of lately.
#[derive(Clone, Debug)]
pub struct Cache {
    me: Position,
    config: CacheConfig,
    peers: BTreeMap<Position, Cached>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    address: SocketAddr,
    heard: Instant,
}

/// A part of the ring, by its distance from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Whether it is behind the peer, not ahead of it.
    pub is_behind: bool,
    /// The nearest distance that is in it.
    pub from: u64,
    /// The nearest distance that is no longer in it.
    pub to: u64,
}

impl Slice {
    /// Whether a position is in this slice of a peer's ring.
    pub fn contains(&self, me: Position, position: Position) -> bool {
        let distance = if self.is_behind {
            position.distance_to(me)
        } else {
            me.distance_to(position)
        };
        (self.from..self.to).contains(&distance)
    }

    /// Where a look-up for it aims: at its end clockwise, since who is before a key is named.
    fn end(&self, me: Position) -> Position {
        if self.is_behind {
            me.ahead((self.from - 1).wrapping_neg())
        } else {
            me.ahead(self.to)
        }
    }
}

/// The slices of a ring, seen from a peer that has neighbours this far ahead and behind: half of the
/// ring ahead and half behind, each divided in halves again and again, the nearer one.
pub(super) fn slices(ahead: u64, behind: u64) -> impl Iterator<Item = Slice> {
    let half = |is_behind: bool, near: u64| {
        (0..63)
            .map(move |number| Slice {
                is_behind,
                from: 1 << (62 - number),
                to: 1 << (63 - number),
            })
            .take_while(move |slice| slice.from >= near.max(1))
    };
    half(false, ahead).chain(half(true, behind))
}

impl Cache {
    pub(super) fn new(me: Position, config: CacheConfig) -> Self {
        Self {
            me,
            config,
            peers: BTreeMap::new(),
        }
    }

    /// The slices that are to have enough live peers, with how many they have.
    pub(super) fn state(&self, now: Instant, neighbours: &Neighbours) -> Vec<(Slice, usize)> {
        let last = neighbours.successors().last();
        let ahead = last.map_or(u64::MAX, |last| self.me.distance_to(last.position));
        let behind = neighbours.predecessor();
        let behind = behind.map_or(u64::MAX, |first| first.position.distance_to(self.me));
        // Neighbours as far behind as ahead would be, if there is only one.
        let behind = behind.saturating_mul(neighbours.successors().len() as u64);
        let slices = slices(ahead, behind);
        let live = |slice: &Slice| {
            let peers = self.live(now).map(|(peer, _)| peer.position);
            peers
                .filter(|position| slice.contains(self.me, *position))
                .count()
        };
        slices.map(|slice| (slice, live(&slice))).collect()
    }

    fn live(&self, now: Instant) -> impl DoubleEndedIterator<Item = (Contact, Instant)> + '_ {
        self.range(now, Position(0), Position(u64::MAX))
    }

    fn range(
        &self,
        now: Instant,
        from: Position,
        to: Position,
    ) -> impl DoubleEndedIterator<Item = (Contact, Instant)> + '_ {
        let lifetime = self.config.lifetime;
        self.peers
            .range(from..=to)
            .filter(move |(_, cached)| now - cached.heard < lifetime)
            .map(|(position, cached)| {
                let (position, address) = (*position, cached.address);
                (Contact { position, address }, cached.heard)
            })
    }

    /// Live peers going back from just before a position, once around the ring.
    fn before(&self, now: Instant, position: Position) -> impl Iterator<Item = (Contact, Instant)> {
        let end = Position(position.0.saturating_sub(1));
        let first = (position.0 > 0).then(|| self.range(now, Position(0), end).rev());
        let rest = self.range(now, position, Position(u64::MAX)).rev();
        first.into_iter().flatten().chain(rest)
    }

    /// Live peers going on from a position, once around the ring.
    fn from(&self, now: Instant, position: Position) -> impl Iterator<Item = (Contact, Instant)> {
        let end = Position(position.0.saturating_sub(1));
        let rest = (position.0 > 0).then(|| self.range(now, Position(0), end));
        self.range(now, position, Position(u64::MAX))
            .chain(rest.into_iter().flatten())
    }
}

fn entry(now: Instant, peer: Contact, heard: Instant) -> Entry {
    let since_s = (now - heard).as_secs();
    Entry {
        peer,
        alive_s: 0,
        since_s: u16::try_from(since_s).unwrap_or(u16::MAX),
    }
}

impl Routes for Cache {
    fn parallel(&self) -> usize {
        self.config.parallel
    }

    fn want(&self) -> u8 {
        self.config.next_hops
    }

    fn learn(&mut self, now: Instant, entry: Entry) {
        let since = Duration::from_secs(entry.since_s.into());
        let Some(heard) = now
            .checked_sub(since)
            .filter(|_| since < self.config.lifetime)
        else {
            return;
        };
        if self.peers.len() >= self.config.max_peers
            && !self.peers.contains_key(&entry.peer.position)
        {
            return;
        }
        let address = entry.peer.address;
        let cached = self.peers.entry(entry.peer.position);
        let cached = cached.or_insert(Cached { address, heard });
        cached.heard = cached.heard.max(heard);
    }

    fn failed(&mut self, peer: Contact) {
        self.peers.remove(&peer.position);
    }

    /// The first peer at or after the key, which may be its owner, and those before it.
    fn closest(
        &self,
        now: Instant,
        neighbours: &Neighbours,
        key: Position,
        count: usize,
    ) -> Vec<Entry> {
        let mut before: Vec<Entry> = self
            .before(now, key)
            .take(count)
            .map(|(peer, heard)| entry(now, peer, heard))
            .collect();
        let near = neighbours.successors().iter();
        before.extend(near.map(|peer| entry(now, *peer, now)));
        before.retain(|entry| entry.peer.position != key);
        before.sort_by_key(|entry| entry.peer.position.distance_to(key));
        before.dedup_by_key(|entry| entry.peer);
        let after = self.from(now, key).next().filter(|_| count > 1);
        let after = after.map(|(peer, heard)| entry(now, peer, heard));
        before.truncate(count - usize::from(after.is_some()));
        before.extend(after);
        before
    }

    /// Some of all distances.
    fn sample(&self, now: Instant, count: usize) -> Vec<Entry> {
        let near = self.before(now, self.me).take(count / 4);
        let next = self.from(now, self.me).take(count / 4);
        let step = (self.peers.len() / (count / 2).max(1)).max(1);
        let far = self.live(now).step_by(step).take(count / 2);
        near.chain(next)
            .chain(far)
            .map(|(peer, heard)| entry(now, peer, heard))
            .collect()
    }

    fn upkeep(&mut self, now: Instant, neighbours: &Neighbours) -> Vec<(usize, Position)> {
        let lifetime = self.config.lifetime;
        self.peers.retain(|_, cached| now - cached.heard < lifetime);
        let then = now + self.config.margin;
        let slices = self.state(then, neighbours).into_iter();
        let poor = slices.filter(|(_, live)| *live < self.config.in_slice);
        poor.map(|(slice, _)| (0, slice.end(self.me))).collect()
    }

    /// Answers brought what there is to be learnt.
    fn looked_up(&mut self, _number: usize, _owner: Contact) {}

    fn next_after(&self, position: Position) -> Option<Contact> {
        let all = self.peers.iter().map(|(position, cached)| Contact {
            position: *position,
            address: cached.address,
        });
        all.min_by_key(|peer| position.distance_to(peer.position))
    }

    fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Slices cover the ring but for what is nearer than the neighbours, once.
        #[test]
        fn slices_cover_the_ring(position: u64, me: u64, ahead in 1u64..1 << 62, behind in 1u64..1 << 62) {
            let (me, position) = (Position(me), Position(position));
            let in_slices = slices(ahead, behind).filter(|slice| slice.contains(me, position)).count();
            let (next, last) = (me.distance_to(position), position.distance_to(me));
            prop_assert!(in_slices <= 1);
            // A slice that neighbours reach into is left out.
            let is_far = next < 1 << 63 && next >= 2 * ahead || last < 1 << 63 && last >= 2 * behind;
            prop_assert!(in_slices == 1 || !is_far);
        }
    }
}
