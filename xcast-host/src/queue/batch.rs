//! A packet in the making.

use std::{net::IpAddr, ops::Range, time::Instant};

use bytes::Bytes;
use xcast_common::wire::FLAG_P;

use super::{
    candidate::{Candidate, Recipient},
    limits::QueueLimits,
};
use crate::{
    envelope::head_len,
    packet::{self, packet_len},
};

/// Most segments or contents in an envelope: their counts have eight bits.
const MAX_COUNT: usize = 255;

/// A segment that some of the messages have.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub hash: u64,
    pub octets: Bytes,
    /// The batch before this one with a segment of this hash.
    pub older: Option<u64>,
}

/// The content of a message, or of several.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub hash: u64,
    /// Where the numbers of its segments are in the batch's list.
    list: Range<usize>,
    /// The batch before this one with this content.
    pub older: Option<u64>,
}

/// Messages that will leave together.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// When its first message came.
    pub since: Instant,
    pub deadline: Instant,
    /// An envelope, even around a single content.
    pub wrapped: bool,
    /// Whether all recipients take envelopes.
    pub opted_in: bool,
    /// Each of them once.
    pub segments: Vec<Segment>,
    /// Each of them once.
    pub contents: Vec<Content>,
    pub recipients: Vec<Recipient>,
    count: Count,
    /// Batches that must leave before.
    pub after: Vec<u64>,
    pub messages: usize,
    pub cost: usize,
    /// Segment numbers of all contents.
    list: Vec<u8>,
    segment_octets: usize,
}

/// How much there is in a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub segments: usize,
    pub contents: usize,
    pub recipients: usize,
}

/// How many recipients of each family: they get packets of their own.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ipv4: usize,
    ipv6: usize,
}

impl Count {
    fn of(recipients: &[Recipient]) -> Self {
        let addresses = recipients
            .iter()
            .map(|recipient| recipient.address.ip().to_canonical());
        let ipv6 = addresses.filter(IpAddr::is_ipv6).count();
        let ipv4 = recipients.len() - ipv6;
        Self { ipv4, ipv6 }
    }

    fn and(self, other: Self) -> Self {
        Self {
            ipv4: self.ipv4 + other.ipv4,
            ipv6: self.ipv6 + other.ipv6,
        }
    }

    fn all(self) -> usize {
        self.ipv4 + self.ipv6
    }

    fn fit(self, limits: &QueueLimits) -> Result<(), Rejection> {
        let most = packet::max_destinations(true, FLAG_P);
        match self.all() <= limits.max_destinations && self.ipv6 <= most {
            true => Ok(()),
            false => Err(Rejection::Destinations),
        }
    }
}

/// Why a message cannot join a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    MinOverlap,
    Payload,
    Destinations,
    NotOptedIn,
    Order,
}

impl Batch {
    pub fn new(since: Instant, deadline: Instant, first: Candidate, wrapped: bool) -> Self {
        let mut batch = Self {
            since,
            deadline,
            wrapped,
            opted_in: true,
            segments: Vec::with_capacity(first.segments.len()),
            contents: Vec::new(),
            recipients: Vec::new(),
            count: Count::default(),
            after: Vec::new(),
            messages: 0,
            cost: 0,
            list: Vec::new(),
            segment_octets: 0,
        };
        batch.join(first);
        batch
    }

    pub fn size(&self) -> Size {
        Size {
            segments: self.segments.len(),
            contents: self.contents.len(),
            recipients: self.recipients.len(),
        }
    }

    /// The number of the message's content, if it is here.
    pub fn content_of(&self, candidate: &Candidate) -> Option<u8> {
        let same = |content: &Content| {
            let segments = candidate.segments.iter().map(|(_, octets)| octets);
            content.hash == candidate.content && self.segments_of(content).eq(segments)
        };
        self.contents
            .iter()
            .position(same)
            .map(|number| number as u8)
    }

    /// Whether a message of a content that is here may join.
    pub fn accepts_whole(
        &self,
        candidate: &Candidate,
        limits: &QueueLimits,
    ) -> Result<(), Rejection> {
        if self.is_envelope() && !candidate.opted_in {
            return Err(Rejection::NotOptedIn);
        }
        let recipients = self.count.and(Count::of(&candidate.recipients));
        recipients.fit(limits)?;
        self.fits(recipients, self.payload(recipients.all()), limits)
    }

    /// Whether a message of another content may join.
    pub fn accepts_partial(
        &self,
        candidate: &Candidate,
        limits: &QueueLimits,
    ) -> Result<(), Rejection> {
        if !self.opted_in {
            return Err(Rejection::NotOptedIn);
        }
        let recipients = self.count.and(Count::of(&candidate.recipients));
        recipients.fit(limits)?;
        let (mut shared, mut own, mut more) = (0, 0, 0);
        for (at, (hash, octets)) in candidate.segments.iter().enumerate() {
            let before = &candidate.segments[..at];
            if before
                .iter()
                .any(|(other, same)| other == hash && same == octets)
            {
                continue;
            }
            match self.number_of(*hash, octets) {
                Some(_) => shared += octets.len(),
                None => {
                    own += octets.len();
                    more += 1;
                }
            }
        }
        let together = self.segment_octets + own;
        if shared * 100 < together * usize::from(limits.min_overlap_percent) {
            return Err(Rejection::MinOverlap);
        }
        let (segments, contents) = (self.segments.len() + more, self.contents.len() + 1);
        if segments > MAX_COUNT || contents > MAX_COUNT || recipients.all() > MAX_COUNT {
            return Err(Rejection::Payload);
        }
        let listed = self.list.len() + candidate.segments.len();
        let payload = head_len(segments, listed, contents, recipients.all()) + together;
        self.fits(recipients, payload, limits)
    }

    /// Takes a message in that was accepted.
    pub fn join(&mut self, candidate: Candidate) {
        let content = match self.content_of(&candidate) {
            Some(content) => content,
            None => {
                let start = self.list.len();
                for (hash, octets) in candidate.segments {
                    let number = self.number_of(hash, &octets);
                    let number = number.unwrap_or(self.segments.len());
                    if number == self.segments.len() {
                        self.segment_octets += octets.len();
                        self.segments.push(Segment {
                            hash,
                            octets,
                            older: None,
                        });
                    }
                    self.list.push(number as u8);
                }
                self.contents.push(Content {
                    hash: candidate.content,
                    list: start..self.list.len(),
                    older: None,
                });
                (self.contents.len() - 1) as u8
            }
        };
        self.count = self.count.and(Count::of(&candidate.recipients));
        let recipients = candidate.recipients.into_iter();
        self.recipients
            .extend(recipients.map(|recipient| Recipient {
                content,
                ..recipient
            }));
        self.opted_in &= candidate.opted_in;
        self.messages += candidate.messages;
        self.cost += candidate.cost;
    }

    /// Whether nobody can join any more.
    pub fn is_full(&self, limits: &QueueLimits) -> bool {
        let ipv4 = Count { ipv4: 1, ipv6: 0 };
        let ipv6 = Count { ipv4: 0, ipv6: 1 };
        [ipv4, ipv6].into_iter().all(|one| {
            let recipients = self.count.and(one);
            let payload = self.payload(recipients.all());
            recipients.fit(limits).is_err() || self.fits(recipients, payload, limits).is_err()
        })
    }

    /// The batch before this one with a segment of this hash.
    pub fn older_with(&self, hash: u64) -> Option<u64> {
        let mut segments = self.segments.iter();
        segments.find(|segment| segment.hash == hash)?.older
    }

    /// Numbers of a content's segments.
    pub fn list_of(&self, content: &Content) -> &[u8] {
        &self.list[content.list.clone()]
    }

    /// A content's segments.
    pub fn segments_of(&self, content: &Content) -> impl Iterator<Item = &Bytes> + Clone {
        let numbers = self.list_of(content).iter();
        numbers.map(|number| &self.segments[usize::from(*number)].octets)
    }

    pub fn is_envelope(&self) -> bool {
        self.wrapped || self.contents.len() > 1
    }

    /// Length of the payload with this many recipients, in octets.
    fn payload(&self, recipients: usize) -> usize {
        match (self.is_envelope(), &self.contents[..]) {
            (false, [content]) => self.segments_of(content).map(Bytes::len).sum(),
            _ => {
                let (segments, contents) = (self.segments.len(), self.contents.len());
                head_len(segments, self.list.len(), contents, recipients) + self.segment_octets
            }
        }
    }

    fn fits(
        &self,
        recipients: Count,
        payload: usize,
        limits: &QueueLimits,
    ) -> Result<(), Rejection> {
        // One packet a family.
        let fits = |ipv6, count| {
            count == 0 || packet_len(ipv6, count, FLAG_P, payload) <= limits.max_packet
        };
        let packets = fits(false, recipients.ipv4) && fits(true, recipients.ipv6);
        match payload <= limits.max_payload && packets {
            true => Ok(()),
            false => Err(Rejection::Payload),
        }
    }

    fn number_of(&self, hash: u64, octets: &Bytes) -> Option<usize> {
        let same = |segment: &Segment| segment.hash == hash && segment.octets == *octets;
        self.segments.iter().position(same)
    }
}
