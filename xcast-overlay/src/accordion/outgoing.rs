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
/// Most answers that wait. More are as if they were lost: else many small requests from forged addresses would
/// fill the memory.
const MAX_ANSWERS: usize = 1024;
/// Most of whom it is remembered that they were not asked.
const MAX_UNSENT: usize = 1024;
/// How long it is remembered that somebody was not asked.
const MEMORY: Duration = Duration::from_secs(10);

/// What goes before what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Neighbours on the ring: who does not answer them is taken for gone. They may use all of the budget.
    Ring,
    /// Look-ups, results, and answers.
    LookUp,
    Other,
}

/// Messages that wait for the budget, and requests `R` that begin when there is enough of it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing<R> {
    budget: Budget,
    /// Octets of it that are for neighbours on the ring only.
    reserve: usize,
    /// How what is for several leaves.
    way: WayOut,
    /// By [`Urgency`].
    waiting: [VecDeque<Waiting<R>>; 3],
    ready: VecDeque<Transmit>,
    /// How many of those that wait are no requests that begin, and not between neighbours.
    answers: usize,
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
    /// So many octets of the budget's burst are for neighbours on the ring only.
    pub fn new(budget: Budget, reserve: usize) -> Self {
        Self {
            budget,
            reserve,
            way: WayOut::default(),
            waiting: [const { VecDeque::new() }; 3],
            ready: VecDeque::new(),
            answers: 0,
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
    pub fn push(&mut self, now: Instant, transmit: Transmit, request: Option<R>, urgency: Urgency) {
        let until = now + MAX_WAIT;
        if request.is_none() && urgency != Urgency::Ring {
            if self.answers >= MAX_ANSWERS {
                self.dropped += 1;
                return;
            }
            self.answers += 1;
        }
        self.waiting[urgency as usize].push_back(Waiting {
            transmit,
            request,
            until,
        });
    }

    /// Octets that may be sent now, beyond what waits.
    pub fn available(&mut self, now: Instant) -> usize {
        let waiting = self.waiting.iter().flatten();
        let waiting: usize = waiting
            .map(|waiting| sent_octets(&waiting.transmit, self.way))
            .sum();
        self.budget.available(now).saturating_sub(waiting)
    }

    /// Whether something for a peer waits, or was dropped lately: then its silence means nothing.
    pub fn is_unsent(&self, to: &SocketAddr) -> bool {
        let mut waiting = self.waiting.iter().flatten();
        self.unsent.contains_key(to)
            || waiting.any(|waiting| waiting.request.is_none() && waiting.transmit.to.contains(to))
    }

    /// Lets out what the budget allows, the urgent first, and drops what has waited for too long. Gives
    /// back a request that is to begin now, if any: then there may be more.
    pub fn release(&mut self, now: Instant) -> Option<R> {
        self.unsent.retain(|_, dropped| now - *dropped < MEMORY);
        loop {
            let queue = self.first()?;
            let first = self.waiting[queue].front()?;
            let is_late = first.until <= now;
            let octets = sent_octets(&first.transmit, self.way);
            if !is_late {
                let is_there = self.budget.available(now) >= self.needed(queue, octets);
                if !is_there || !self.budget.take(now, octets) {
                    return None;
                }
            }
            let Waiting {
                transmit, request, ..
            } = self.waiting[queue].pop_front()?;
            let is_answer = request.is_none() && queue != Urgency::Ring as usize;
            self.answers -= usize::from(is_answer);
            match (is_late, request) {
                (false, Some(request)) => return Some(request),
                (false, None) => self.send(transmit),
                (true, request) => {
                    self.dropped += 1;
                    if request.is_none() && self.unsent.len() < MAX_UNSENT {
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
        let queue = self.first()?;
        let first = self.waiting[queue].front()?;
        let octets = sent_octets(&first.transmit, self.way);
        let when = self.budget.when(self.needed(queue, octets));
        Some(when.map_or(first.until, |when| when.min(first.until)))
    }

    /// The most urgent queue in which something waits.
    fn first(&self) -> Option<usize> {
        self.waiting.iter().position(|queue| !queue.is_empty())
    }

    /// How much of the budget has to be there for so many octets of a queue. What is too long for all but the reserve waits
    /// for a full budget.
    fn needed(&self, queue: usize, octets: usize) -> usize {
        match queue == Urgency::Ring as usize {
            true => octets,
            false => (octets + self.reserve).min(self.budget.burst()).max(octets),
        }
    }

    /// Octets and packets that have left, and packets that were dropped.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.octets, self.packets, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Body;

    #[test]
    fn answers_beyond_the_room_are_dropped_and_requests_are_not() {
        let now = Instant::now();
        let mut outgoing: Outgoing<u8> = Outgoing::new(Budget::new(now, 1, 100), 10);
        let to = |number: usize| SocketAddr::from(([192, 0, 2, 1], number as u16));
        let transmit = |number| Transmit {
            to: vec![to(number)],
            body: Body::shared(vec![0; 20]),
            mode: Mode::Unicast,
        };
        for number in 0..3 * MAX_ANSWERS {
            let urgency = [Urgency::LookUp, Urgency::Other][number % 2];
            outgoing.push(now, transmit(number), None, urgency);
        }
        outgoing.push(now, transmit(9999), Some(1), Urgency::LookUp);
        assert_eq!(outgoing.waiting.iter().flatten().count(), MAX_ANSWERS + 1);
        assert_eq!(outgoing.dropped, 2 * MAX_ANSWERS as u64);
        // When they have waited for too long, there is room again.
        let later = now + MAX_WAIT;
        while outgoing.release(later).is_some() {}
        assert_eq!(outgoing.poll_given_up(), Some(1));
        assert_eq!(
            (outgoing.answers, outgoing.unsent.len()),
            (0, MAX_UNSENT.min(MAX_ANSWERS))
        );
        outgoing.push(later, transmit(1), None, Urgency::Other);
        assert_eq!(outgoing.waiting.iter().flatten().count(), 1);
    }

    /// However much is looked up, there is something left for the neighbours' questions.
    #[test]
    fn neighbours_have_a_part_of_their_own() {
        let now = Instant::now();
        let mut outgoing: Outgoing<u8> = Outgoing::new(Budget::new(now, 1, 1000), 200);
        let transmit = |octets| Transmit {
            to: vec![([192, 0, 2, 1], 1).into()],
            body: Body::shared(vec![0; octets]),
            mode: Mode::Unicast,
        };
        for _ in 0..100 {
            outgoing.push(now, transmit(100 - 28), None, Urgency::LookUp);
        }
        assert_eq!(outgoing.release(now), None);
        assert_eq!(outgoing.counts(), (800, 8, 0));
        outgoing.push(now, transmit(200 - 28), None, Urgency::Ring);
        assert_eq!(outgoing.release(now), None);
        assert_eq!(outgoing.counts(), (1000, 9, 0));
        // What is longer than the rest of the burst leaves a full one, and no other.
        let mut outgoing: Outgoing<u8> = Outgoing::new(Budget::new(now, 1000, 1000), 200);
        for _ in 0..2 {
            outgoing.push(now, transmit(900 - 28), None, Urgency::Other);
        }
        assert_eq!(outgoing.release(now), None);
        assert_eq!(outgoing.counts(), (900, 1, 0));
        let full = now + Duration::from_millis(900);
        assert_eq!(outgoing.next(), Some(full));
        assert_eq!(outgoing.release(full), None);
        assert_eq!(outgoing.counts(), (1800, 2, 0));
    }
}
