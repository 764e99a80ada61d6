//! When a node looks after itself: what is due, without doing it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::operation::Goal;
use crate::{id::Id, krpc::Family, runtime::Random};

/// How far periodic actions vary, so that nodes that were started together do not act together.
const JITTER: f64 = 0.2;
/// How long nodes wait to be pinged, so that they are pinged by one packet.
const CHECK_DELAY: Duration = Duration::from_millis(500);
/// Most nodes that wait to be pinged.
const MAX_CHECKS: usize = 64;
/// Shortest and longest time between attempts to join.
const REJOIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Schedules of a node.
#[derive(Clone, Debug)]
pub(super) struct Upkeep {
    tick: Duration,
    next_tick: Instant,
    checks: BTreeMap<SocketAddr, Id>,
    next_check: Option<Instant>,
    /// Buckets to fill after joining.
    pub refreshes: VecDeque<(Family, usize)>,
    published: BTreeMap<Id, Published>,
    rejoin: BTreeMap<Family, (Instant, Duration)>,
}

#[derive(Clone, Debug)]
struct Published {
    goal: Goal,
    interval: Duration,
    next: Instant,
}

impl Upkeep {
    pub fn new(now: Instant, tick: Duration, random: &mut Random) -> Self {
        Self {
            tick,
            // The first one at any time within an interval.
            next_tick: now + random.jitter(tick / 2, 1.0),
            checks: BTreeMap::new(),
            next_check: None,
            refreshes: VecDeque::new(),
            published: BTreeMap::new(),
            rejoin: BTreeMap::new(),
        }
    }

    pub fn next(&self) -> Instant {
        let published = self.published.values().map(|published| published.next);
        published
            .chain(self.next_check)
            .fold(self.next_tick, Instant::min)
    }

    /// Whether the tables are to be looked after now.
    pub fn tick(&mut self, now: Instant, random: &mut Random) -> bool {
        let due = self.next_tick <= now;
        if due {
            self.next_tick = now + random.jitter(self.tick, JITTER);
        }
        due
    }

    /// Notes a node that is to be pinged soon.
    pub fn check(&mut self, now: Instant, address: SocketAddr, id: Id) {
        if self.checks.len() < MAX_CHECKS {
            self.checks.insert(address, id);
            self.next_check.get_or_insert(now + CHECK_DELAY);
        }
    }

    /// The nodes that are to be pinged now.
    pub fn due_checks(&mut self, now: Instant) -> Vec<(SocketAddr, Id)> {
        if self.next_check.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_check = None;
        std::mem::take(&mut self.checks).into_iter().collect()
    }

    /// Does `goal` again and again until it is withdrawn.
    pub fn publish(
        &mut self,
        now: Instant,
        target: Id,
        goal: Goal,
        interval: Duration,
        random: &mut Random,
    ) {
        let next = now + random.jitter(interval, JITTER);
        self.published.insert(
            target,
            Published {
                goal,
                interval,
                next,
            },
        );
    }

    pub fn withdraw(&mut self, target: &Id) -> bool {
        self.published.remove(target).is_some()
    }

    /// What is to be published again now.
    pub fn due_published(&mut self, now: Instant, random: &mut Random) -> Vec<(Id, Goal)> {
        let due = self
            .published
            .iter_mut()
            .filter(|(_, published)| published.next <= now);
        due.map(|(target, published)| {
            published.next = now + random.jitter(published.interval, JITTER);
            (*target, published.goal.clone())
        })
        .collect()
    }

    /// Whether to try again to join, with ever longer pauses.
    pub fn rejoin(&mut self, now: Instant, family: Family, random: &mut Random) -> bool {
        let (next, pause) = self.rejoin.entry(family).or_insert((now, REJOIN.0));
        if *next > now {
            return false;
        }
        *next = now + random.jitter(*pause, JITTER);
        *pause = (*pause * 2).min(REJOIN.1);
        true
    }

    pub fn joined(&mut self, family: Family) {
        self.rejoin.remove(&family);
    }

    /// Nothing is done any more.
    pub fn stop(&mut self) {
        self.published.clear();
        self.checks.clear();
        self.next_check = None;
        self.refreshes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes that were started at the same moment, as after a power failure.
    #[test]
    fn nodes_that_were_started_together_do_not_act_together() {
        let now = Instant::now();
        let (tick, interval) = (Duration::from_secs(30), Duration::from_secs(900));
        let mut ticks = Vec::new();
        let mut republished = Vec::new();
        for seed in 0..200 {
            let mut random = Random::from_number(seed);
            let mut upkeep = Upkeep::new(now, tick, &mut random);
            ticks.push(upkeep.next() - now);
            upkeep.publish(now, Id::default(), Goal::FindNode, interval, &mut random);
            let published = &upkeep.published[&Id::default()];
            republished.push(published.next - now);
            // The time after that is another one again.
            let due = upkeep.due_published(now + 2 * interval, &mut random);
            assert_eq!(due.len(), 1);
            let next = upkeep.published[&Id::default()].next - (now + 2 * interval);
            assert!(next >= interval.mul_f64(0.79) && next <= interval.mul_f64(1.21));
        }
        for (times, around, part) in [(ticks, tick / 2, 1.0), (republished, interval, JITTER)] {
            let within = around.mul_f64(1.0 - part)..=around.mul_f64(1.0 + part);
            assert!(times.iter().all(|time| within.contains(time)), "{times:?}");
            // In each tenth of that time, some act, and not too many.
            for tenth in 0..10 {
                let from = around.mul_f64(1.0 - part + 0.2 * part * f64::from(tenth));
                let until = from + around.mul_f64(0.2 * part);
                let count = times
                    .iter()
                    .filter(|time| (from..until).contains(time))
                    .count();
                assert!((5..=50).contains(&count), "{count} of 200 in a tenth");
            }
        }
    }

    #[test]
    fn pauses_between_attempts_to_join_grow() {
        let start = Instant::now();
        let mut random = Random::from_number(1);
        let mut upkeep = Upkeep::new(start, Duration::from_secs(30), &mut random);
        let mut attempts = Vec::new();
        for second in 0..3600 {
            if upkeep.rejoin(
                start + Duration::from_secs(second),
                Family::Ipv4,
                &mut random,
            ) {
                attempts.push(second);
            }
        }
        assert!((10..30).contains(&attempts.len()), "{attempts:?}");
        let pauses: Vec<u64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            pauses[0] <= 6 && *pauses.last().expect("some") >= 240,
            "{pauses:?}"
        );
        upkeep.joined(Family::Ipv4);
        assert!(upkeep.rejoin(start + Duration::from_secs(3600), Family::Ipv4, &mut random));
    }
}
