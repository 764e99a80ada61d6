//! Chord and EpiChord on the same work, while peers come and go: the two loads of EpiChord's paper
//! (Leong, Liskov, Demaine, *EpiChord: Parallelizing the Chord Lookup Algorithm with Reactive Routing State
//! Management*, MIT-LCS-TR-963).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;
use xcast_overlay::{
    chord::{Chord, Event, LookupId},
    epichord::{CacheConfig, EpiChord},
    krpc::Family,
    memory::{World, address},
    ring::Position,
    runtime::{Protocol, Random},
};

use super::{converge::Truth, work};
use crate::statistics::Estimate;

/// Pause between two peers that join; ten times as long for the first fifty.
const JOIN_PAUSE: Duration = Duration::from_millis(100);
/// How long the ring has to become right before the work begins.
const SETTLE: Duration = Duration::from_secs(300);
/// A look-up has ended after this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Peers by way of which one joins.
const BY: usize = 3;

/// An experiment: peers in a network in memory, without routers, look up random keys. Sessions are
/// exponential, and each peer that goes is replaced by one that joins at the same moment.
#[derive(Clone, Debug)]
pub struct Rings {
    /// Peers.
    pub peers: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// How long peers stay, on average.
    pub session: Duration,
    /// How long a peer waits between two look-ups, on average.
    pub pause: Duration,
    /// How long there are look-ups and churn before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub time: Duration,
}

/// Which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ring {
    /// Chord, which asks one peer after the other.
    Chord,
    /// EpiChord.
    EpiChord {
        /// Peers that a look-up asks at once.
        parallel: usize,
    },
}

impl Ring {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Chord => "Chord".to_owned(),
            Self::EpiChord { parallel } => format!("EpiChord, p = {parallel}"),
        }
    }
}

/// A ring's result. Means are of look-ups that found the owner.
#[derive(Clone, Debug, Serialize)]
pub struct RingRow {
    /// Which ring.
    pub ring: Ring,
    /// Peers.
    pub peers: usize,
    /// How long a peer waits between two look-ups, in seconds.
    pub pause_s: f64,
    /// How long peers stay, on average, in seconds.
    pub session_s: f64,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Look-ups that found the owner, in percent of those whose asker stayed.
    pub right_percent: Estimate,
    /// Peers, one after the other, that led to who knew.
    pub hops: Estimate,
    /// How long it took, in milliseconds.
    pub took_ms: Estimate,
    /// Peers that were asked.
    pub asked: Estimate,
    /// Packets that left all peers, a look-up, with answers and upkeep: a list is one.
    pub packets: Estimate,
    /// Their receivers, which are the packets without lists.
    pub receivers: Estimate,
    /// Peers that a peer knows.
    pub known: Estimate,
}

/// One seed's sums.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    begun: u64,
    /// Whose asker went.
    gone: u64,
    right: u64,
    hops: f64,
    took_ms: f64,
    asked: f64,
    packets: u64,
    receivers: u64,
    known: f64,
}

impl Rings {
    /// Runs it for one ring; `progress` is told of each step. None without seeds.
    pub fn run(&self, ring: Ring, mut progress: impl FnMut(&str)) -> Option<RingRow> {
        let seeds = self.seeds.iter();
        let samples: Vec<Sample> = seeds
            .map(|seed| match ring {
                Ring::Chord => self.sample(*seed, &mut progress, |address, random| {
                    Chord::new(Chord::settings("simulated", address), random)
                }),
                Ring::EpiChord { parallel } => {
                    self.sample(*seed, &mut progress, |address, random| {
                        let settings = EpiChord::settings("simulated", address);
                        let cache = CacheConfig {
                            parallel,
                            ..CacheConfig::default()
                        };
                        EpiChord::new(settings, cache, random)
                    })
                }
            })
            .collect();
        let of = |value: &dyn Fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        let each_right = |sum: fn(&Sample) -> f64| of(&|s| sum(s) / s.right.max(1) as f64);
        Some(RingRow {
            ring,
            peers: self.peers,
            pause_s: self.pause.as_secs_f64(),
            session_s: self.session.as_secs_f64(),
            seeds: self.seeds.clone(),
            right_percent: of(&|s| 100.0 * s.right as f64 / (s.begun - s.gone).max(1) as f64)?,
            hops: each_right(|sample| sample.hops)?,
            took_ms: each_right(|sample| sample.took_ms)?,
            asked: each_right(|sample| sample.asked)?,
            packets: of(&|s| s.packets as f64 / s.begun.max(1) as f64)?,
            receivers: of(&|s| s.receivers as f64 / s.begun.max(1) as f64)?,
            known: of(&|sample| sample.known)?,
        })
    }

    fn sample<P: Peer>(
        &self,
        seed: u64,
        progress: &mut impl FnMut(&str),
        create: impl Fn(SocketAddr, Random) -> P,
    ) -> Sample {
        let mut run = Run {
            world: World::new(seed),
            truth: Truth::default(),
            next: 0,
            under_way: BTreeMap::new(),
            sample: None,
            create,
        };
        for number in 0..self.peers {
            run.join();
            let first = if number < 50 { 10 } else { 1 };
            run.world.run_for(JOIN_PAUSE * first);
        }
        progress(&format!("seed {seed}: {} have joined", self.peers));
        run.world.run_for(SETTLE);
        run.world.events.clear();
        run.work(self, self.warm_up);
        progress(&format!("seed {seed}: warm"));
        run.sample = Some(Sample::default());
        let sent = run.world.sent;
        run.work(self, self.time);
        let (packets, receivers) = (
            run.world.sent.packets() - sent.packets(),
            run.world.sent.receivers() - sent.receivers(),
        );
        let end = run.world.now + PATIENCE;
        while !run.under_way.is_empty() && run.world.next().is_some_and(|next| next <= end) {
            run.world.step();
            run.take();
        }
        let mut sample = run.sample.unwrap_or_default();
        (sample.packets, sample.receivers) = (packets, receivers);
        let living = run.world.living();
        let known: usize = living.iter().map(|at| run.world.node(*at).known()).sum();
        sample.known = known as f64 / living.len().max(1) as f64;
        sample
    }
}

/// What Chord and EpiChord have in common.
trait Peer: Protocol<Event = Event> {
    fn start(&mut self, now: Instant, by: &[SocketAddr]);
    fn find(&mut self, now: Instant, key: Position) -> LookupId;
    fn is_ready(&self) -> bool;
    fn known(&self) -> usize;
}

macro_rules! peer {
    ($node:ty) => {
        impl Peer for $node {
            fn start(&mut self, now: Instant, by: &[SocketAddr]) {
                if by.is_empty() {
                    self.found_overlay(now);
                } else {
                    self.join(now, by);
                }
            }

            fn find(&mut self, now: Instant, key: Position) -> LookupId {
                self.lookup(now, key)
            }

            fn is_ready(&self) -> bool {
                self.is_member()
            }

            fn known(&self) -> usize {
                <$node>::known(self)
            }
        }
    };
}

peer!(Chord);
peer!(EpiChord);

struct Run<P: Protocol, F> {
    world: World<P>,
    /// Who is there.
    truth: Truth,
    /// The number of the next peer that comes.
    next: usize,
    /// By who asked: look-ups that have not ended, and whether they count.
    under_way: BTreeMap<usize, BTreeMap<LookupId, bool>>,
    /// What counts, once it does.
    sample: Option<Sample>,
    create: F,
}

impl<P: Peer, F: Fn(SocketAddr, Random) -> P> Run<P, F> {
    fn join(&mut self) {
        let own = address(self.next, Family::Ipv4);
        self.next += 1;
        let by: Vec<usize> = (0..BY).filter_map(|_| self.random_member()).collect();
        let by: Vec<SocketAddr> = by.into_iter().map(|at| self.world.address(at)).collect();
        let create = &self.create;
        let at = self.world.add(own, |_, random| create(own, random));
        self.truth.ring.insert(Position::of(&own), own);
        self.world.act(at, |peer, now| peer.start(now, &by));
    }

    fn random_member(&mut self) -> Option<usize> {
        (0..50).find_map(|_| {
            let at = self.world.random.below(self.world.nodes.len().max(1));
            let peer = self.world.nodes.get(at)?.as_ref()?;
            peer.is_ready().then_some(at)
        })
    }

    /// Look-ups and churn for this time.
    fn work(&mut self, settings: &Rings, time: Duration) {
        let end = self.world.now + time;
        let lookups = settings.peers as f64 / settings.pause.as_secs_f64();
        let changes = settings.peers as f64 / settings.session.as_secs_f64();
        let mut next_lookup = self.world.now + work::wait(&mut self.world.random, lookups);
        let mut next_change = self.world.now + work::wait(&mut self.world.random, changes);
        loop {
            let next = next_lookup.min(next_change);
            if next >= end {
                break;
            }
            self.world.run_for(next - self.world.now);
            self.take();
            if next == next_lookup {
                self.look_up();
                next_lookup = next + work::wait(&mut self.world.random, lookups);
            } else {
                self.change();
                next_change = next + work::wait(&mut self.world.random, changes);
            }
        }
        self.world.run_for(end - self.world.now);
        self.take();
    }

    fn look_up(&mut self) {
        let Some(at) = self.random_member() else {
            return;
        };
        let key = Position(u64::from_be_bytes(self.world.random.octets()));
        let lookup = self.world.act(at, |peer, now| peer.find(now, key));
        let counts = self.sample.is_some();
        self.under_way.entry(at).or_default().insert(lookup, counts);
        if let Some(sample) = &mut self.sample {
            sample.begun += 1;
        }
        self.take();
    }

    /// One goes, and another one comes.
    fn change(&mut self) {
        let at = self.world.random_living();
        let own = self.world.address(at);
        self.truth.ring.remove(&Position::of(&own));
        self.world.kill(at);
        let lost = self.under_way.remove(&at).unwrap_or_default();
        if let Some(sample) = &mut self.sample {
            sample.gone += lost.values().filter(|counts| **counts).count() as u64;
        }
        self.join();
    }

    fn take(&mut self) {
        for (_, at, event) in std::mem::take(&mut self.world.events) {
            let Event::Found {
                lookup,
                key,
                owner,
                hops,
                asked,
                took,
            } = event
            else {
                continue;
            };
            let Entry::Occupied(mut own) = self.under_way.entry(at) else {
                continue;
            };
            let counts = own.get_mut().remove(&lookup);
            if own.get().is_empty() {
                own.remove();
            }
            if counts != Some(true) {
                continue;
            }
            let right = owner.is_some_and(|owner| self.owns(key, owner.address));
            if let Some(sample) = self.sample.as_mut().filter(|_| right) {
                sample.right += 1;
                sample.hops += f64::from(hops);
                sample.asked += f64::from(asked);
                sample.took_ms += 1000.0 * took.as_secs_f64();
            }
        }
    }

    fn owns(&self, key: Position, owner: SocketAddr) -> bool {
        self.truth.owns(key, owner, |address| {
            let node = self
                .world
                .place(address)
                .and_then(|at| self.world.nodes[at].as_ref());
            node.is_some_and(Peer::is_ready)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under churn, EpiChord is as right as Chord and takes fewer hops; asking more at once costs receivers,
    /// and lists save packets.
    #[test]
    fn asking_several_at_once_is_quicker() {
        let experiment = Rings {
            peers: 60,
            seeds: vec![1],
            session: Duration::from_secs(600),
            pause: Duration::from_millis(500),
            warm_up: Duration::from_secs(20),
            time: Duration::from_secs(20),
        };
        let run = |ring| experiment.run(ring, |_| {}).expect("a seed");
        let chord = run(Ring::Chord);
        let [one, three] = [1, 3].map(|parallel| run(Ring::EpiChord { parallel }));
        for row in [&chord, &one, &three] {
            println!("{row:?}");
            assert!(row.right_percent.mean > 90.0, "{row:?}");
        }
        assert_eq!(chord.packets.mean, chord.receivers.mean);
        assert!(one.hops.mean < chord.hops.mean);
        assert!(three.took_ms.mean < one.took_ms.mean);
        assert!(three.asked.mean > 2.0 * one.asked.mean);
        assert!(three.packets.mean < 0.8 * three.receivers.mean);
        let again = run(Ring::EpiChord { parallel: 3 });
        assert_eq!(
            again.took_ms.mean, three.took_ms.mean,
            "the same seed, the same run"
        );
    }
}
