//! The one way out: nothing leaves that the budget does not allow.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::budget::Budget;
use crate::{
    octets::sent_octets,
    runtime::{Mode, Transmit},
};

/// How long a packet waits for the budget. Afterwards it is as if it was lost.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// How long it is remembered that somebody was not asked.
const MEMORY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    budget: Budget,
    /// Look-ups, results and answers.
    urgent: VecDeque<Waiting>,
    other: VecDeque<Waiting>,
    ready: VecDeque<Transmit>,
    unsent: BTreeMap<SocketAddr, Instant>,
    octets: u64,
    packets: u64,
    dropped: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    transmit: Transmit,
    octets: usize,
    until: Instant,
}

impl Outgoing {
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            urgent: VecDeque::new(),
            other: VecDeque::new(),
            ready: VecDeque::new(),
            unsent: BTreeMap::new(),
            octets: 0,
            packets: 0,
            dropped: 0,
        }
    }

    pub fn push(&mut self, now: Instant, transmit: Transmit, is_urgent: bool) {
        let octets = sent_octets(&transmit);
        let until = now + MAX_WAIT;
        let queue = if is_urgent {
            &mut self.urgent
        } else {
            &mut self.other
        };
        queue.push_back(Waiting {
            transmit,
            octets,
            until,
        });
    }

    /// Octets that may be sent now, beyond what waits.
    pub fn available(&mut self, now: Instant) -> usize {
        let waiting = self.urgent.iter().chain(&self.other);
        let waiting: usize = waiting.map(|waiting| waiting.octets).sum();
        self.budget.available(now).saturating_sub(waiting)
    }

    /// Whether something for a peer was dropped lately: then its silence means nothing.
    pub fn is_unsent(&self, to: &SocketAddr) -> bool {
        self.unsent.contains_key(to)
    }

    /// Lets out what the budget allows, the urgent first, and drops what has waited for too long.
    pub fn release(&mut self, now: Instant) {
        self.unsent.retain(|_, dropped| now - *dropped < MEMORY);
        for queue in [&mut self.urgent, &mut self.other] {
            while let Some(first) = queue.front() {
                if first.until <= now {
                    self.dropped += 1;
                    let to = first.transmit.to.iter();
                    self.unsent.extend(to.map(|to| (*to, now)));
                    queue.pop_front();
                    continue;
                }
                if !self.budget.take(now, first.octets) {
                    return;
                }
                self.octets += first.octets as u64;
                self.packets += match first.transmit.mode {
                    Mode::Shared => 1,
                    Mode::Unicast => first.transmit.to.len() as u64,
                };
                self.ready
                    .extend(queue.pop_front().map(|first| first.transmit));
            }
        }
    }

    pub fn pop(&mut self) -> Option<Transmit> {
        self.ready.pop_front()
    }

    /// When the next packet may leave, or is to be dropped.
    pub fn next(&self) -> Option<Instant> {
        let first = self.urgent.front().or(self.other.front())?;
        let when = self.budget.when(first.octets);
        Some(when.map_or(first.until, |when| when.min(first.until)))
    }

    /// Octets and packets that have left, and packets that were dropped.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.octets, self.packets, self.dropped)
    }
}
