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
