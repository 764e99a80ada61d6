//! The combining queue: messages wait a moment, and those whose content overlaps leave as one
//! packet (WO 2007/030742, paragraphs 26 to 28).
//!
//! A [`Queue`] does no I/O and has no clock. The caller says what time it is, and sends what comes
//! out; [`tokio::CombiningSender`](crate::tokio::CombiningSender) does both.
//!
//! * [`push`](Queue::push) puts a [`Message`] in, or returns it if the queue is full.
//! * [`poll`](Queue::poll) takes out the next packet that is due, a [`Transmit`].
//! * [`deadline`](Queue::deadline) says when to poll again.
//! * [`flush`](Queue::flush) makes everything due.
//!
//! ```
//! use std::{net::SocketAddr, time::Instant};
//! use xcast_host::queue::{Form, Message, Queue, QueueLimits};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Instant::now();
//! let mut queue = Queue::new(QueueLimits::default());
//! for to in ["192.0.2.1:5000", "192.0.2.2:5000"] {
//!     let to: SocketAddr = to.parse()?;
//!     queue.push(now, Message::to_one(to, ["the same for both".into()]))?;
//! }
//! assert!(queue.poll(now).is_none());
//!
//! let deadline = queue.deadline().expect("two messages wait");
//! let packet = queue.poll(deadline).expect("they are due");
//! assert_eq!((packet.form(), packet.destinations().len()), (Form::Multicast, 2));
//! # Ok(())
//! # }
//! ```
//!
//! # What is combined
//!
//! * Messages with the **same content** become one ordinary datagram to all their destinations.
//!   Receivers need to know nothing.
//! * Messages that **share segments** become one [envelope](crate::envelope): shared segments once,
//!   each destination's own beside them. Only receivers in [`EnvelopePeers`] are sent envelopes.
//! * Everything else leaves as the datagram it is.
//!
//! The caller divides content into segments: a header, a body, a block of a file. Only whole segments
//! are compared, so equal octets that are divided differently are not found.
//!
//! # What is promised
//!
//! * No message waits longer than [`QueueLimits::max_delay`], if the queue is polled at its deadlines.
//! * Each destination is sent its messages once each, in the order in which they were pushed. A
//!   destination that is listed twice in one message counts once.
//! * Memory is bounded by [`QueueLimits::max_messages`] and [`QueueLimits::max_octets`].
//! * A push costs no more than [`QueueLimits::budget`] comparisons.

mod backlog;
mod batch;
mod by_address;
mod candidate;
mod envelope_peers;
mod index;
mod limits;
mod message;
#[cfg(test)]
mod tests;
mod transmit;

use std::{
    collections::{BTreeSet, HashSet, VecDeque, hash_map::Entry},
    hash::BuildHasher as _,
    net::SocketAddr,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use tracing::trace;

use self::{
    backlog::Backlog,
    batch::{Batch, Rejection, Size},
    by_address::ByAddress,
    candidate::{Candidate, Recipient},
    index::Index,
};
pub use self::{
    envelope_peers::{EnvelopePeers, TagTaken},
    limits::QueueLimits,
    message::{Message, Refusal, Refused},
    transmit::{Form, Transmit},
};
use crate::{
    envelope::{MAGIC, MAX_MESSAGE, Tag},
    statistics::statistics,
};

/// Most segments a message is compared by; one of more pieces is put together first.
const MAX_SEGMENTS: usize = 64;

statistics! {
    /// What a queue has done. Messages in: `pushed`; out: `alone`, `whole` and `partial`.
    QueueStatistics {
        /// Messages taken.
        pushed,
        /// Messages refused because the queue was full.
        refused_full,
        /// Messages refused because they were too long.
        refused_too_long,
        /// Messages that left without a partner.
        alone,
        /// Messages that left with others of the same content.
        whole,
        /// Messages that left in an envelope with others.
        partial,
        /// Packets given out.
        packets,
        /// Of the destinations, those that got a packet of their own: unicast.
        unicast,
        /// Comparisons of a message with a packet.
        comparisons,
        /// Comparisons that failed for [`QueueLimits::min_overlap_percent`].
        reject_min_overlap,
        /// Comparisons that failed for [`QueueLimits::max_payload`] or [`QueueLimits::max_packet`].
        reject_payload,
        /// Comparisons that failed for [`QueueLimits::max_destinations`].
        reject_destinations,
        /// Comparisons that failed because a destination has not opted in.
        reject_not_opted_in,
        /// Comparisons that failed because it would change a destination's order.
        reject_order,
        /// Messages for which [`QueueLimits::budget`] ended the search.
        budget_spent,
        /// Messages that shared nothing with any that waited.
        no_overlap,
        /// Messages that exceed a limit by themselves and did not wait.
        oversize,
        /// Packets that left because their time was up.
        left_deadline,
        /// Packets that left because they were full.
        left_full,
        /// Packets that left because a later one to the same destination did.
        left_order,
        /// Packets that left because of a flush.
        left_flush,
        /// Longest time a message waited, in microseconds.
        longest_delay_us,
    }
}

/// Why a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Deadline,
    Full,
    Oversize,
    Order,
    Flush,
}

/// The combining queue; see [the module](self).
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    peers: EnvelopePeers,
    /// Latest time known.
    now: Option<Instant>,
    /// Packets in the making, by serial number: the order of their first messages, and so of their
    /// deadlines.
    batches: Backlog,
    /// The latest batch of each destination. Of two batches with a common destination the one with
    /// the smaller serial number leaves first; a message joins no batch before its destinations'
    /// latest.
    latest: ByAddress<u64>,
    by_content: Index,
    by_segment: Index,
    hasher: RandomState,
    ready: VecDeque<Transmit>,
    messages: usize,
    octets: usize,
    statistics: QueueStatistics,
}

impl Queue {
    /// An empty queue. Nobody takes envelopes yet; see [`opt_in`](Self::opt_in).
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            peers: EnvelopePeers::default(),
            now: None,
            batches: Backlog::default(),
            latest: ByAddress::default(),
            by_content: Index::default(),
            by_segment: Index::default(),
            hasher: RandomState::default(),
            ready: VecDeque::new(),
            messages: 0,
            octets: 0,
            statistics: QueueStatistics::default(),
        }
    }

    /// Takes a message in. One without destinations is ignored.
    ///
    /// # Errors
    ///
    /// There is no room for it. [`Refused`] has the message.
    pub fn push(&mut self, now: Instant, message: Message) -> Result<(), Refused> {
        let now = self.advance(now);
        let cost = message.cost();
        if message.octets() > MAX_MESSAGE || cost > self.limits.max_octets {
            self.statistics.refused_too_long += 1;
            let reason = Refusal::TooLong;
            return Err(Refused { message, reason });
        }
        if self.messages >= self.limits.max_messages || self.octets + cost > self.limits.max_octets
        {
            self.statistics.refused_full += 1;
            let reason = Refusal::Full;
            return Err(Refused { message, reason });
        }
        if message.destinations.is_empty() {
            return Ok(());
        }
        self.statistics.pushed += 1;
        self.messages += 1;
        self.octets += cost;
        let candidate = self.prepare(message, cost);
        if looks_like_an_envelope(&candidate.segments) {
            self.add_in_disguise(now, candidate);
        } else if self.is_oversize(&candidate) {
            self.statistics.oversize += 1;
            let serial = self.add(now, candidate, false);
            self.release(serial, Leaving::Oversize);
        } else {
            let serial = match self.find(&candidate) {
                Some(serial) => self.join(serial, candidate),
                None => self.add(now, candidate, false),
            };
            let full = |batch: &Batch| batch.is_full(&self.limits);
            if self.batches.get(serial).is_some_and(full) {
                self.release(serial, Leaving::Full);
            }
        }
        // Where the oldest waits long, and many that came later have left, their places must not
        // become more and more.
        if self.batches.places() > self.limits.max_messages
            && let Some((serial, _)) = self.batches.first()
        {
            self.release(serial, Leaving::Full);
        }
        Ok(())
    }

    /// The next packet to send now. `None` means nothing is due before the
    /// [deadline](Self::deadline).
    pub fn poll(&mut self, now: Instant) -> Option<Transmit> {
        let now = self.advance(now);
        while let Some((serial, batch)) = self.batches.first()
            && batch.deadline <= now
        {
            self.release(serial, Leaving::Deadline);
        }
        let transmit = self.ready.pop_front()?;
        self.messages -= transmit.messages();
        self.octets -= transmit.cost();
        let delay = now.saturating_duration_since(transmit.since());
        let delay = delay.as_micros() as u64;
        let longest = &mut self.statistics.longest_delay_us;
        *longest = delay.max(*longest);
        trace!(form = ?transmit.form(), destinations = transmit.destinations().len(), delay, "packet");
        Some(transmit)
    }

    /// When to poll next; at once, if that is in the past. `None` while nothing waits.
    pub fn deadline(&self) -> Option<Instant> {
        match self.ready.front() {
            Some(transmit) => Some(transmit.since()),
            None => Some(self.batches.first()?.1.deadline),
        }
    }

    /// Makes everything due, whatever its deadline: poll until nothing is left.
    pub fn flush(&mut self) {
        while let Some((serial, _)) = self.batches.first() {
            self.release(serial, Leaving::Flush);
        }
    }

    /// The destinations that take envelopes.
    pub fn peers(&self) -> &EnvelopePeers {
        &self.peers
    }

    /// From now on, messages to this destination may be combined into envelopes, which its receiver
    /// opens with this tag.
    ///
    /// If the destination had another tag, everything that waits becomes due.
    ///
    /// # Errors
    ///
    /// Another destination has the tag. Nothing has changed.
    pub fn opt_in(&mut self, destination: SocketAddr, tag: Tag) -> Result<(), TagTaken> {
        if self
            .peers
            .insert(destination, tag)?
            .is_some_and(|old| old != tag)
        {
            self.flush();
        }
        Ok(())
    }

    /// From now on, this destination gets ordinary datagrams only. Everything that waits becomes due,
    /// since the tag may get another owner.
    pub fn opt_out(&mut self, destination: SocketAddr) {
        if self.peers.remove(destination) {
            self.flush();
        }
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// What was done so far.
    pub fn statistics(&self) -> &QueueStatistics {
        &self.statistics
    }

    /// Time does not run backwards here, or deadlines would not be in the order of arrival.
    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.now.map_or(now, |latest| latest.max(now));
        self.now = Some(now);
        now
    }

    fn prepare(&self, message: Message, cost: usize) -> Candidate {
        let octets = message.octets();
        let Message {
            mut destinations,
            mut segments,
        } = message;
        if destinations.len() > 1 {
            let mut seen = HashSet::with_capacity(destinations.len());
            destinations.retain(|destination| seen.insert(*destination));
        }
        segments.retain(|segment| !segment.is_empty());
        if segments.len() > MAX_SEGMENTS {
            let mut whole = BytesMut::with_capacity(octets);
            segments.iter().for_each(|segment| whole.extend(segment));
            segments = vec![whole.freeze()];
        }
        let mut content = 0u64;
        let segments = segments.into_iter().map(|segment| {
            let hash = self.hasher.hash_one(&segment[..]);
            content = content.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash;
            (hash, segment)
        });
        let segments = segments.collect();
        let recipients: Vec<_> = destinations
            .into_iter()
            .map(|address| Recipient {
                address,
                tag: self.peers.tag(address),
                content: 0,
            })
            .collect();
        Candidate {
            opted_in: recipients.iter().all(|recipient| recipient.tag.is_some()),
            recipients,
            segments,
            content,
            octets,
            messages: 1,
            cost,
        }
    }

    fn is_oversize(&self, candidate: &Candidate) -> bool {
        let QueueLimits {
            max_payload,
            max_destinations,
            ..
        } = self.limits;
        candidate.octets > max_payload || candidate.recipients.len() > max_destinations
    }

    /// A message that begins like an envelope leaves at once: wrapped in one to those who would
    /// open it, and as it is to everyone else.
    fn add_in_disguise(&mut self, now: Instant, candidate: Candidate) {
        let (opted_in, others): (Vec<_>, Vec<_>) = candidate
            .recipients
            .into_iter()
            .partition(|recipient| recipient.tag.is_some());
        let (mut messages, mut cost) = (candidate.messages, candidate.cost);
        for (recipients, wrapped) in [(opted_in, true), (others, false)] {
            // An envelope has no room for more recipients.
            for recipients in recipients.chunks(self.limits.max_destinations.clamp(1, 127)) {
                let part = Candidate {
                    recipients: recipients.to_vec(),
                    segments: candidate.segments.clone(),
                    content: candidate.content,
                    octets: candidate.octets,
                    opted_in: wrapped,
                    messages: std::mem::take(&mut messages),
                    cost: std::mem::take(&mut cost),
                };
                let serial = self.add(now, part, wrapped);
                self.release(serial, Leaving::Oversize);
            }
        }
    }

    /// The batch for a message: one of the same content, or else the latest that shares the largest
    /// segment and accepts it.
    fn find(&mut self, candidate: &Candidate) -> Option<u64> {
        let addresses = candidate.recipients.iter();
        let latest = addresses.filter_map(|recipient| self.latest.get(&recipient.address.into()));
        let after = latest.max().copied();
        let mut search = Search {
            budget: self.limits.budget,
            statistics: &mut self.statistics,
            after,
            overlap: false,
        };
        // Only the latest of this content: where it may not be joined, earlier ones may not either,
        // or are nearly full.
        let whole = self.by_content.newest(candidate.content);
        if let Some(serial) = whole
            && let Some(batch) = self.batches.get(serial)
            && batch.content_of(candidate).is_some()
            && search.budget > 0
        {
            let verdict = batch.accepts_whole(candidate, &self.limits);
            if search.judge(serial, verdict).is_some() {
                return Some(serial);
            }
        }
        let mut found = None;
        if candidate.opted_in && !self.by_segment.is_empty() {
            found = search.by_segment(candidate, &self.by_segment, &self.batches, &self.limits);
        }
        if !search.overlap {
            self.statistics.no_overlap += 1;
        }
        found
    }

    fn join(&mut self, serial: u64, candidate: Candidate) -> u64 {
        if let Some(batch) = self.batches.get_mut(serial) {
            let before = batch.size();
            batch.join(candidate);
            self.register(serial, before);
        }
        serial
    }

    /// Starts a batch with a message.
    fn add(&mut self, now: Instant, candidate: Candidate, wrapped: bool) -> u64 {
        let deadline = now + self.limits.max_delay;
        let batch = Batch::new(now, deadline, candidate, wrapped);
        let serial = self.batches.push(batch);
        self.register(serial, Size::default());
        serial
    }

    /// Makes what a batch has got beyond `before` known.
    fn register(&mut self, serial: u64, before: Size) {
        let Some(batch) = self.batches.get_mut(serial) else {
            return;
        };
        for content in &mut batch.contents[before.contents..] {
            content.older = self.by_content.insert(content.hash, serial);
        }
        if batch.opted_in {
            for segment in &mut batch.segments[before.segments..] {
                segment.older = self.by_segment.insert(segment.hash, serial);
            }
        }
        for recipient in &batch.recipients[before.recipients..] {
            if let Some(predecessor) = self.latest.insert(recipient.address.into(), serial) {
                batch.after.push(predecessor);
            }
        }
    }

    /// Makes a batch leave, after those that must leave before it.
    fn release(&mut self, serial: u64, why: Leaving) {
        let waits = |batches: &Backlog, serial| batches.get(serial).is_some();
        let mut pending = match self.batches.get(serial) {
            Some(batch) => batch.after.clone(),
            None => return,
        };
        pending.retain(|before| waits(&self.batches, *before));
        let mut before = BTreeSet::new();
        while let Some(serial) = pending.pop() {
            if let Some(batch) = self.batches.get(serial)
                && before.insert(serial)
            {
                pending.extend(&batch.after);
            }
        }
        for each in before {
            self.release_alone(each, Leaving::Order);
        }
        self.release_alone(serial, why);
    }

    /// Makes a batch leave before which no other must.
    fn release_alone(&mut self, serial: u64, why: Leaving) {
        let Some(batch) = self.batches.remove(serial) else {
            return;
        };
        let waits = |serial: &u64| self.batches.get(*serial).is_some();
        for content in &batch.contents {
            let older = content.older.filter(waits);
            self.by_content.remove(content.hash, serial, older);
        }
        for segment in &batch.segments {
            let older = segment.older.filter(waits);
            self.by_segment.remove(segment.hash, serial, older);
        }
        for recipient in &batch.recipients {
            if let Entry::Occupied(entry) = self.latest.entry(recipient.address.into())
                && *entry.get() == serial
            {
                entry.remove();
            }
        }
        self.count(&batch, why);
        self.ready.push_back(Transmit(batch));
    }

    fn count(&mut self, batch: &Batch, why: Leaving) {
        let statistics = &mut self.statistics;
        statistics.packets += 1;
        let messages = batch.messages as u64;
        *match (batch.messages, batch.contents.len()) {
            (0 | 1, _) => &mut statistics.alone,
            (_, 1) => &mut statistics.whole,
            _ => &mut statistics.partial,
        } += messages;
        statistics.unicast += u64::from(batch.recipients.len() == 1);
        match why {
            Leaving::Deadline => statistics.left_deadline += 1,
            Leaving::Full => statistics.left_full += 1,
            Leaving::Order => statistics.left_order += 1,
            Leaving::Flush => statistics.left_flush += 1,
            // Counted when it came.
            Leaving::Oversize => {}
        }
    }
}

/// A search for a batch, within its budget.
struct Search<'a> {
    budget: usize,
    statistics: &'a mut QueueStatistics,
    /// Batches up to this one come before the message's destinations' latest.
    after: Option<u64>,
    overlap: bool,
}

impl Search<'_> {
    /// A batch with segments of the message: those with its largest segment first, of them the
    /// latest first.
    fn by_segment(
        &mut self,
        candidate: &Candidate,
        index: &Index,
        batches: &Backlog,
        limits: &QueueLimits,
    ) -> Option<u64> {
        let mut met = Vec::new();
        for hash in candidate.largest_first() {
            let mut next = index.newest(hash);
            while let Some(serial) = next
                && let Some(batch) = batches.get(serial)
            {
                next = batch.older_with(hash);
                if met.contains(&serial) {
                    continue;
                }
                if self.budget == 0 {
                    self.statistics.budget_spent += 1;
                    return None;
                }
                let verdict = batch.accepts_partial(candidate, limits);
                if self.judge(serial, verdict).is_some() {
                    return Some(serial);
                }
                met.push(serial);
            }
        }
        None
    }

    /// Counts a comparison; what it came to, unless the order of messages forbids it.
    fn judge<T>(&mut self, serial: u64, verdict: Result<T, Rejection>) -> Option<T> {
        self.overlap = true;
        self.budget = self.budget.saturating_sub(1);
        self.statistics.comparisons += 1;
        let verdict = match self.after {
            Some(after) if serial <= after => Err(Rejection::Order),
            _ => verdict,
        };
        let rejection = match verdict {
            Ok(value) => return Some(value),
            Err(rejection) => rejection,
        };
        *match rejection {
            Rejection::MinOverlap => &mut self.statistics.reject_min_overlap,
            Rejection::Payload => &mut self.statistics.reject_payload,
            Rejection::Destinations => &mut self.statistics.reject_destinations,
            Rejection::NotOptedIn => &mut self.statistics.reject_not_opted_in,
            Rejection::Order => &mut self.statistics.reject_order,
        } += 1;
        None
    }
}

fn looks_like_an_envelope(segments: &[(u64, Bytes)]) -> bool {
    let octets = segments.iter().flat_map(|(_, segment)| segment.iter());
    octets.take(MAGIC.len()).eq(&MAGIC)
}
