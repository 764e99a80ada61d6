//! The rings: nodes by their distance.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use super::config::Config;
use crate::runtime::Random;

#[derive(Clone, Debug, Default)]
struct Ring {
    primary: Vec<SocketAddr>,
    /// The latest last.
    secondary: VecDeque<SocketAddr>,
}

/// Nodes with known round trips, a bounded number in each ring.
#[derive(Clone, Debug)]
pub(super) struct Rings {
    alpha: Duration,
    s: f64,
    primary: usize,
    secondary: usize,
    rings: Vec<Ring>,
    measured: HashMap<SocketAddr, (Duration, Instant), RandomState>,
}

impl Rings {
    pub fn new(config: &Config) -> Self {
        Self {
            alpha: config.alpha,
            s: config.s,
            primary: config.primary,
            secondary: config.secondary,
            rings: vec![Ring::default(); config.rings.max(1)],
            measured: HashMap::default(),
        }
    }

    /// The ring of a round-trip time: ring i has those above alpha s^(i-1), up to alpha s^i.
    pub fn ring_of(&self, rtt: Duration) -> usize {
        let mut radius = self.alpha.as_secs_f64();
        let last = self.rings.len() - 1;
        for ring in 0..last {
            if rtt.as_secs_f64() <= radius {
                return ring;
            }
            radius *= self.s;
        }
        last
    }

    pub fn contains(&self, node: &SocketAddr) -> bool {
        self.measured.contains_key(node)
    }

    /// Primary and secondary members of each ring.
    pub fn sizes(&self) -> Vec<(usize, usize)> {
        let sizes = self.rings.iter();
        sizes
            .map(|ring| (ring.primary.len(), ring.secondary.len()))
            .collect()
    }

    /// The round-trip time of a node, if it was measured no longer ago than this.
    pub fn rtt(&self, now: Instant, node: &SocketAddr, fresh: Duration) -> Option<Duration> {
        let (rtt, at) = self.measured.get(node)?;
        (now <= *at + fresh).then_some(*rtt)
    }

    /// Members of a ring that were measured longer ago than this.
    pub fn older(&self, ring: usize, now: Instant, fresh: Duration) -> Vec<SocketAddr> {
        let members = self.rings.get(ring).into_iter();
        let members = members.flat_map(|ring| ring.primary.iter().chain(&ring.secondary));
        members
            .filter(|node| self.rtt(now, node, fresh).is_none())
            .copied()
            .collect()
    }

    /// A node was measured: it becomes a primary member of its ring if there is room, and a
    /// secondary one otherwise.
    pub fn measured(&mut self, now: Instant, node: SocketAddr, rtt: Duration) {
        let ring = self.ring_of(rtt);
        if let Some((known, at)) = self.measured.get_mut(&node) {
            let before = *known;
            (*known, *at) = (rtt, now);
            if self.ring_of(before) == ring {
                return;
            }
            self.take_out(&node);
        }
        self.measured.insert(node, (rtt, now));
        let (most_primary, most_secondary) = (self.primary, self.secondary);
        let ring = &mut self.rings[ring];
        if ring.primary.len() < most_primary {
            ring.primary.push(node);
            return;
        }
        ring.secondary.push_back(node);
        if ring.secondary.len() > most_secondary
            && let Some(oldest) = ring.secondary.pop_front()
        {
            self.measured.remove(&oldest);
        }
    }

    /// A node is gone.
    pub fn remove(&mut self, node: &SocketAddr) {
        self.measured.remove(node);
        self.take_out(node);
    }

    fn take_out(&mut self, node: &SocketAddr) {
        let most = self.primary;
        for ring in &mut self.rings {
            ring.primary.retain(|member| member != node);
            ring.secondary.retain(|member| member != node);
            while ring.primary.len() < most
                && let Some(member) = ring.secondary.pop_back()
            {
                ring.primary.push(member);
            }
        }
    }

    /// A random primary member of each ring.
    pub fn one_of_each(&self, random: &mut Random) -> Vec<SocketAddr> {
        let rings = self.rings.iter().filter(|ring| !ring.primary.is_empty());
        rings
            .map(|ring| ring.primary[random.below(ring.primary.len())])
            .collect()
    }

    /// Primary members whose round trips are within one of these bounds.
    pub fn within(&self, bounds: &[(Duration, Duration)]) -> Vec<SocketAddr> {
        let is_within = |node: &&SocketAddr| {
            let (rtt, _) = self.measured[*node];
            bounds
                .iter()
                .any(|(least, most)| (*least..=*most).contains(&rtt))
        };
        let primary = self.rings.iter().flat_map(|ring| &ring.primary);
        primary.filter(is_within).copied().collect()
    }

    /// The primary member with the shortest round trip, but this one.
    pub fn nearest(&self, but: &[SocketAddr]) -> Option<SocketAddr> {
        let nodes = self.measured.iter().filter(|(node, _)| !but.contains(node));
        nodes
            .min_by_key(|(node, (rtt, _))| (*rtt, *node))
            .map(|(node, _)| *node)
    }

    /// All members of a ring, if some of them are secondary, so that there is a choice.
    pub fn choice(&self, ring: usize) -> Option<Vec<SocketAddr>> {
        let ring = self
            .rings
            .get(ring)
            .filter(|ring| !ring.secondary.is_empty())?;
        Some(
            ring.primary
                .iter()
                .chain(&ring.secondary)
                .copied()
                .collect(),
        )
    }

    /// These become the primary members of a ring, and its others secondary.
    pub fn choose(&mut self, ring: usize, chosen: &[SocketAddr]) {
        let Some(ring) = self.rings.get_mut(ring) else {
            return;
        };
        let all: Vec<SocketAddr> = ring
            .primary
            .drain(..)
            .chain(ring.secondary.drain(..))
            .collect();
        let (primary, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|node| chosen.contains(node));
        ring.primary = primary;
        ring.secondary = others.into();
        while ring.primary.len() < self.primary
            && let Some(member) = ring.secondary.pop_back()
        {
            ring.primary.push(member);
        }
        while ring.primary.len() > self.primary
            && let Some(member) = ring.primary.pop()
        {
            ring.secondary.push_back(member);
        }
        while ring.secondary.len() > self.secondary
            && let Some(oldest) = ring.secondary.pop_front()
        {
            self.measured.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(at: u8) -> SocketAddr {
        ([192, 0, 2, at], 1).into()
    }

    fn rings() -> Rings {
        let mut config = Config::new("test", Vec::new());
        (config.primary, config.secondary) = (3, 2);
        Rings::new(&config)
    }

    #[test]
    fn radii_double() {
        let rings = rings();
        let ring = |us| rings.ring_of(Duration::from_micros(us));
        let all = [
            0, 1000, 1001, 2000, 2001, 4000, 256_000, 256_001, 10_000_000,
        ];
        assert_eq!(all.map(ring), [0, 0, 1, 1, 2, 2, 8, 9, 9]);
    }

    proptest! {
        /// Whatever is measured and gone: no ring has too many, nobody is in two places, and a ring has
        /// secondary members only if its primary places are taken.
        #[test]
        fn rings_stay_in_order(steps in prop::collection::vec((any::<u8>(), 0u64..300, 0..10u8), 0..300)) {
            let mut rings = rings();
            let start = Instant::now();
            for (at, ms, what) in steps {
                match what {
                    0 => rings.remove(&node(at)),
                    1 => {
                        let ring = usize::from(at) % 10;
                        if let Some(all) = rings.choice(ring) {
                            rings.choose(ring, &all[all.len() - 3..]);
                        }
                    }
                    _ => rings.measured(start, node(at), Duration::from_millis(ms)),
                }
                let mut members = 0;
                for (at, ring) in rings.rings.iter().enumerate() {
                    prop_assert!(ring.primary.len() <= 3 && ring.secondary.len() <= 2);
                    prop_assert!(ring.secondary.is_empty() || ring.primary.len() == 3);
                    for node in ring.primary.iter().chain(&ring.secondary) {
                        members += 1;
                        prop_assert_eq!(rings.ring_of(rings.measured[node].0), at);
                    }
                }
                prop_assert_eq!(members, rings.measured.len());
            }
        }
    }
}
