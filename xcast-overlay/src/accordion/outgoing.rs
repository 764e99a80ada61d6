//! The one way out: nothing leaves that the budget does not allow.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::budget::Budget;
use crate::{
    octets::sent_octets,
    runtime::{Mode, Transmit, WayOut},
};

/// How long a packet waits for the budget. Afterwards it is as if it was lost.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// How long it is remembered that somebody was not asked.
const MEMORY: Duration = Duration::from_secs(10);

/// Messages that wait for the budget, and requests `R` that begin when there is enough of it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing<R> {
    budget: Budget,
    /// How what is for several leaves.
    way: WayOut,
    /// Look-ups, results and answers.
    urgent: VecDeque<Waiting<R>>,
    other: VecDeque<Waiting<R>>,
    ready: VecDeque<Transmit>,
    /// Requests that waited for too long.
    given_up: VecDeque<R>,
    unsent: BTreeMap<SocketAddr, Instant>,
    octets: u64,
    packets: u64,
    dropped: u64,
}

#[derive(Clone, Debug)]
struct Waiting<R> {
    /// The message, or one as long as that of the request.
    transmit: Transmit,
    request: Option<R>,
    until: Instant,
}

impl<R> Outgoing<R> {
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            way: WayOut::default(),
            urgent: VecDeque::new(),
            other: VecDeque::new(),
            ready: VecDeque::new(),
            given_up: VecDeque::new(),
            unsent: BTreeMap::new(),
            octets: 0,
            packets: 0,
            dropped: 0,
        }
    }

    /// How what is for several leaves from now on.
    pub fn set_way_out(&mut self, way: WayOut) {
        self.way = way;
    }

    /// A message that may leave, or a request that may begin, when the budget allows it.
    pub fn push(&mut self, now: Instant, transmit: Transmit, request: Option<R>, is_urgent: bool) {
        let until = now + MAX_WAIT;
        let queue = if is_urgent {
            &mut self.urgent
        } else {
            &mut self.other
        };
        queue.push_back(Waiting {
            transmit,
            request,
            until,
        });
    }

    /// Octets that may be sent now, beyond what waits.
    pub fn available(&mut self, now: Instant) -> usize {
        let waiting = self.urgent.iter().chain(&self.other);
        let waiting: usize = waiting
            .map(|waiting| sent_octets(&waiting.transmit, self.way))
            .sum();
        self.budget.available(now).saturating_sub(waiting)
    }

    /// Whether something for a peer waits, or was dropped lately: then its silence means nothing.
    pub fn is_unsent(&self, to: &SocketAddr) -> bool {
        let mut waiting = self.urgent.iter().chain(&self.other);
        self.unsent.contains_key(to)
            || waiting.any(|waiting| waiting.request.is_none() && waiting.transmit.to.contains(to))
    }

    /// Lets out what the budget allows, the urgent first, and drops what has waited for too long. Gives
    /// back a request that is to begin now, if any: then there may be more.
    pub fn release(&mut self, now: Instant) -> Option<R> {
        self.unsent.retain(|_, dropped| now - *dropped < MEMORY);
        loop {
            let queue = match self.urgent.is_empty() {
                false => &mut self.urgent,
                true => &mut self.other,
            };
            let first = queue.front()?;
            let is_late = first.until <= now;
            if !is_late
                && !self
                    .budget
                    .take(now, sent_octets(&first.transmit, self.way))
            {
                return None;
            }
            let Waiting {
                transmit, request, ..
            } = queue.pop_front()?;
            match (is_late, request) {
                (false, Some(request)) => return Some(request),
                (false, None) => self.send(transmit),
                (true, request) => {
                    self.dropped += 1;
                    if request.is_none() {
                        self.unsent.extend(transmit.to.iter().map(|to| (*to, now)));
                    }
                    self.given_up.extend(request);
                }
            }
        }
    }

    /// A message for which the budget has been taken.
    pub fn send(&mut self, transmit: Transmit) {
        self.octets += sent_octets(&transmit, self.way) as u64;
        self.packets += match (transmit.mode, self.way) {
            (Mode::Shared, WayOut::Shared { .. }) => 1,
            _ => transmit.to.len() as u64,
        };
        self.ready.push_back(transmit);
    }

    /// A request that will not begin, since it has waited for too long.
    pub fn poll_given_up(&mut self) -> Option<R> {
        self.given_up.pop_front()
    }

    pub fn pop(&mut self) -> Option<Transmit> {
        self.ready.pop_front()
    }

    /// When the next packet may leave, or is to be dropped.
    pub fn next(&self) -> Option<Instant> {
        let first = self.urgent.front().or(self.other.front())?;
        let when = self.budget.when(sent_octets(&first.transmit, self.way));
        Some(when.map_or(first.until, |when| when.min(first.until)))
    }

    /// Octets and packets that have left, and packets that were dropped.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.octets, self.packets, self.dropped)
    }
}
