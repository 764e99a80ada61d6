//! The stream as one member knows it: what is kept for others, what is missing, what is due.
//!
//! Messages are delivered in order, each once. A message that comes too early waits; what is missing
//! between is asked for. Memory is bounded: a number of messages and of octets.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// How long a message may be late before it is asked for: packets overtake each other.
const REORDERING: Duration = Duration::from_millis(30);
/// How long to wait for a message that was asked for, before it is asked for elsewhere.
const FIRST_WAIT: Duration = Duration::from_millis(300);
const LONGEST_WAIT: Duration = Duration::from_millis(1500);
/// Messages that may be asked for at a time, at first and at least.
const FIRST_WINDOW: f64 = 64.0;
const LEAST_WINDOW: f64 = 4.0;

/// Bounds of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub messages: usize,
    pub octets: usize,
    /// After this time a missing message is given up.
    pub patience: Duration,
}

/// What there is to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Message(u64, Bytes),
    /// Messages from one number to below another are lost.
    Lost(u64, u64),
}

/// What a message is to this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newness {
    New,
    /// It was missing, and has been asked for.
    Repaired,
    Known,
    /// Given up, or further ahead than there is room.
    Outside,
}

#[derive(Clone, Debug)]
struct Missing {
    since: Instant,
    due: Instant,
    attempts: u32,
    lack: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    bounds: Bounds,
    /// The next message to deliver; `None` before the first is known.
    next: Option<u64>,
    /// One more than the highest message known of.
    head: u64,
    /// Datagrams by number, those before `next` for others.
    kept: BTreeMap<u64, Bytes>,
    octets: usize,
    missing: BTreeMap<u64, Missing>,
    /// No missing message is due before this: it need not be looked for at each datagram.
    due: Option<Instant>,
    out: VecDeque<Delivery>,
    window: f64,
    /// The window is halved once for each wait.
    halved: Option<Instant>,
}

impl Stream {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: None,
            head: 0,
            kept: BTreeMap::new(),
            octets: 0,
            missing: BTreeMap::new(),
            due: None,
            out: VecDeque::new(),
            window: FIRST_WINDOW,
            halved: None,
        }
    }

    /// The next message to deliver.
    pub fn next(&self) -> u64 {
        self.next.unwrap_or(0)
    }

    /// One more than the highest message known of.
    pub fn head(&self) -> u64 {
        self.head
    }

    pub fn kept(&self, seq: u64) -> Option<&Bytes> {
        self.kept.get(&seq)
    }

    /// Messages and octets that are kept.
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.octets)
    }

    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Whether a message is neither here nor will be.
    pub fn lacks(&self, seq: u64) -> bool {
        seq < self.head && !self.kept.contains_key(&seq) && !self.missing.contains_key(&seq)
    }

    /// What a message of this number would be.
    pub fn newness(&self, seq: u64) -> Newness {
        let known = self.kept.contains_key(&seq);
        let far = self
            .next
            .is_some_and(|next| seq > next + u64::from(u32::MAX));
        match self.missing.get(&seq) {
            _ if known => Newness::Known,
            Some(missing) if missing.attempts > 0 => Newness::Repaired,
            Some(_) => Newness::New,
            None if self.next.is_none() || (seq >= self.head && !far) => Newness::New,
            None => Newness::Outside,
        }
    }

    /// Messages up to below `head` exist. What was before the first that is heard of does not count.
    pub fn know(&mut self, now: Instant, head: u64) {
        let next = *self.next.get_or_insert(head);
        if head <= self.head {
            return;
        }
        // Whoever was away for so long cannot get it all.
        let oldest = head.saturating_sub(self.bounds.messages as u64);
        let new = self.head.max(next).max(oldest)..head;
        if !new.is_empty() {
            self.due_by(now + REORDERING);
        }
        for seq in new {
            let missing = Missing {
                since: now,
                due: now + REORDERING,
                attempts: 0,
                lack: Vec::new(),
            };
            self.missing.insert(seq, missing);
        }
        self.head = head;
        self.give_up_before(oldest);
    }

    /// Takes a message that is [new](Self::newness), or was missing.
    pub fn take(&mut self, now: Instant, seq: u64, datagram: Bytes) {
        self.know(now, seq);
        self.head = self.head.max(seq.saturating_add(1));
        if let Some(missing) = self.missing.remove(&seq)
            && missing.attempts > 0
        {
            self.window += 1.0 / self.window;
        }
        self.octets += datagram.len();
        self.kept.insert(seq, datagram);
        self.settle();
        while self.kept.len() > self.bounds.messages || self.octets > self.bounds.octets {
            let Some((first, datagram)) = self.kept.first_key_value() else {
                break;
            };
            if self.next.is_some_and(|next| *first >= next) {
                // It waits for older ones, for which there is no time left.
                let first = *first;
                self.give_up_before(first);
                continue;
            }
            self.octets -= datagram.len();
            self.kept.pop_first();
        }
    }

    /// The next thing to deliver.
    pub fn deliver(&mut self) -> Option<Delivery> {
        self.out.pop_front()
    }

    /// Missing messages to ask for now, by who is to be asked. After `targets[0]` has not given a
    /// message it is asked for from the next, and so on.
    pub fn ask(&mut self, now: Instant, targets: &[SocketAddr]) -> BTreeMap<SocketAddr, Vec<u64>> {
        let mut asked: BTreeMap<SocketAddr, Vec<u64>> = BTreeMap::new();
        let open = |missing: &Missing| missing.attempts > 0 && missing.due > now;
        let mut outstanding = self.missing.values().filter(|m| open(m)).count();
        let mut given_up = Vec::new();
        let mut late = false;
        for (seq, missing) in &mut self.missing {
            if missing.due > now {
                continue;
            }
            let tried_all = missing.attempts as usize >= 2 * targets.len().max(1);
            let waited = now.saturating_duration_since(missing.since);
            let out_of_time =
                waited >= self.bounds.patience && tried_all || waited >= 2 * self.bounds.patience;
            let nowhere = !targets.is_empty() && targets.iter().all(|to| missing.lack.contains(to));
            if out_of_time || nowhere {
                given_up.push(*seq);
                continue;
            }
            late |= missing.attempts > 0 && missing.lack.is_empty();
            let from = missing.attempts as usize;
            let target = (0..targets.len())
                .map(|step| targets[(from + step) % targets.len()])
                .find(|target| !missing.lack.contains(target));
            let Some(target) = target else {
                missing.due = now + FIRST_WAIT;
                continue;
            };
            if outstanding as f64 >= self.window {
                missing.due = now + FIRST_WAIT / 4;
                continue;
            }
            outstanding += 1;
            missing.attempts += 1;
            let wait = FIRST_WAIT * (1 << missing.attempts.min(4)) / 2;
            missing.due = now + wait.min(LONGEST_WAIT);
            asked.entry(target).or_default().push(*seq);
        }
        if late && self.halved.is_none_or(|at| now >= at + FIRST_WAIT) {
            self.halved = Some(now);
            self.window = (self.window / 2.0).max(LEAST_WINDOW);
        }
        for seq in given_up {
            self.missing.remove(&seq);
        }
        self.due = self.missing.values().map(|missing| missing.due).min();
        self.settle();
        asked
    }

    /// Somebody has said that it has not got a message, and will not.
    pub fn lacking(&mut self, now: Instant, from: SocketAddr, seq: u64) {
        if let Some(missing) = self.missing.get_mut(&seq)
            && missing.attempts > 0
            && !missing.lack.contains(&from)
        {
            missing.lack.push(from);
            missing.due = now;
            self.due_by(now);
        }
    }

    /// There is somebody new to ask.
    pub fn ask_anew(&mut self, now: Instant) {
        for missing in self.missing.values_mut() {
            missing.attempts = 0;
            missing.lack.clear();
            missing.due = now;
        }
        self.due_by(now);
    }

    /// When to look what is to be asked for.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    fn due_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// How long the oldest of the missing messages has been missed.
    pub fn waited(&self, now: Instant) -> Duration {
        let oldest = self.missing.first_key_value();
        oldest.map_or(Duration::ZERO, |(_, missing)| {
            now.saturating_duration_since(missing.since)
        })
    }

    /// Messages before this are not waited for.
    fn give_up_before(&mut self, seq: u64) {
        if self
            .missing
            .first_key_value()
            .is_some_and(|(first, _)| *first < seq)
        {
            self.missing = self.missing.split_off(&seq);
        }
        self.settle();
    }

    /// Hands out what is next, and skips what is neither here nor missing.
    fn settle(&mut self) {
        let Some(mut next) = self.next else { return };
        while next < self.head {
            if let Some(datagram) = self.kept.get(&next) {
                self.out
                    .push_back(Delivery::Message(next, datagram.clone()));
                next += 1;
                continue;
            }
            let kept = self.kept.range(next..).next().map(|(seq, _)| *seq);
            let missing = self.missing.range(next..).next().map(|(seq, _)| *seq);
            let to = [kept, missing].into_iter().flatten().min();
            let to = to.unwrap_or(self.head).min(self.head);
            if to == next {
                break;
            }
            match self.out.back_mut() {
                Some(Delivery::Lost(_, end)) if *end == next => *end = to,
                _ => self.out.push_back(Delivery::Lost(next, to)),
            }
            next = to;
        }
        self.next = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        messages: 64,
        octets: 10_000,
        patience: Duration::from_secs(10),
    };

    fn drain(stream: &mut Stream) -> Vec<Delivery> {
        std::iter::from_fn(|| stream.deliver()).collect()
    }

    proptest! {
        /// In any order, with any duplicates and gaps: each is delivered at most once and in order,
        /// what is not delivered is said to be lost, and memory is bounded.
        #[test]
        fn each_once_and_in_order(arrivals in prop::collection::vec((0u64..300, 1usize..400), 1..500)) {
            let mut now = Instant::now();
            let mut stream = Stream::new(BOUNDS);
            let mut expected = None;
            let asked: SocketAddr = ([192, 0, 2, 1], 1).into();
            let mut check = |stream: &mut Stream| {
                for delivery in drain(stream) {
                    let (from, to) = match delivery {
                        Delivery::Message(seq, _) => (seq, seq + 1),
                        Delivery::Lost(from, to) => (from, to),
                    };
                    assert!(expected.is_none_or(|expected| expected == from) && from < to);
                    expected = Some(to);
                }
                let (messages, octets) = stream.size();
                assert!(messages <= BOUNDS.messages && octets <= BOUNDS.octets);
                assert!(stream.missing() <= BOUNDS.messages, "{}", stream.missing());
            };
            for (seq, octets) in arrivals {
                now += Duration::from_millis(7);
                if matches!(stream.newness(seq), Newness::New | Newness::Repaired) {
                    stream.take(now, seq, Bytes::from(vec![0; octets]));
                }
                stream.ask(now, &[asked]);
                check(&mut stream);
            }
            // In the end nothing is missing.
            for _ in 0..100 {
                now += Duration::from_secs(1);
                stream.ask(now, &[asked]);
                check(&mut stream);
            }
            prop_assert_eq!(stream.missing(), 0);
            prop_assert_eq!(stream.next(), stream.head());
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_here_and_there() {
        let start = Instant::now();
        let [parent, grandparent] = [1, 2].map(|n| SocketAddr::from(([192, 0, 2, n], 1)));
        let targets = [parent, grandparent];
        let mut stream = Stream::new(BOUNDS);
        stream.know(start, 5);
        stream.take(start, 8, Bytes::from_static(b"8"));
        assert_eq!(drain(&mut stream), []);
        assert!(stream.ask(start, &targets).is_empty(), "may be late only");
        let now = start + REORDERING;
        assert_eq!(stream.due(), Some(now));
        assert_eq!(stream.ask(now, &targets), [(parent, vec![5, 6, 7])].into());
        stream.lacking(now, parent, 6);
        assert_eq!(stream.ask(now, &targets), [(grandparent, vec![6])].into());
        stream.lacking(now, grandparent, 6);
        assert!(stream.ask(now, &targets).is_empty());
        assert!(stream.lacks(6) && !stream.lacks(5) && !stream.lacks(9));
        for seq in [7, 5] {
            assert_eq!(stream.newness(seq), Newness::Repaired);
            stream.take(now, seq, Bytes::from_static(b"x"));
            assert_eq!(stream.newness(seq), Newness::Known);
        }
        let told: Vec<(u64, u64)> = drain(&mut stream)
            .into_iter()
            .map(|delivery| match delivery {
                Delivery::Message(seq, _) => (seq, seq + 1),
                Delivery::Lost(from, to) => (from, to),
            })
            .collect();
        assert_eq!(told, [(5, 6), (6, 7), (7, 8), (8, 9)]);
        assert_eq!(stream.newness(6), Newness::Outside);
    }

    #[test]
    fn a_long_absence_costs_what_nobody_keeps() {
        let now = Instant::now();
        let mut stream = Stream::new(BOUNDS);
        stream.know(now, 10);
        stream.know(now, 10_000);
        assert_eq!(drain(&mut stream), [Delivery::Lost(10, 10_000 - 64)]);
        assert_eq!(stream.missing(), 64);
        let all: BTreeSet<u64> = (10_000 - 64..10_000).collect();
        let asked = stream.ask(now + REORDERING, &[([192, 0, 2, 1], 1).into()]);
        assert_eq!(
            asked.values().flatten().copied().collect::<BTreeSet<u64>>(),
            all
        );
    }
}
