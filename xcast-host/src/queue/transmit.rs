//! What leaves the queue.

use std::{net::SocketAddr, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    batch::{Batch, Content},
    candidate::Recipient,
};
use crate::envelope::{Tag, emit_head};

/// A packet to send: one payload, and its destinations.
#[derive(Clone, Debug)]
pub struct Transmit(pub(super) Box<Batch>);

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A message to one destination.
    Unicast,
    /// The content of one message, or of several that were equal, to several destinations.
    Multicast,
    /// An [envelope](crate::envelope) around messages that overlap in part.
    Envelope,
}

impl Transmit {
    /// What the payload is.
    pub fn form(&self) -> Form {
        match (self.0.is_envelope(), self.0.recipients.len()) {
            (true, _) => Form::Envelope,
            (false, 1) => Form::Unicast,
            (false, _) => Form::Multicast,
        }
    }

    /// Its destinations, each once.
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.0.recipients.iter().map(|recipient| recipient.address)
    }

    /// When the first of its messages was pushed.
    pub fn since(&self) -> Instant {
        self.0.since
    }

    pub(super) fn messages(&self) -> usize {
        self.0.messages
    }

    pub(super) fn cost(&self) -> usize {
        self.0.cost
    }

    /// The payload. No octet is copied where it is a message of one segment.
    pub fn payload(&self) -> Bytes {
        match self.0.contents.first() {
            Some(content) if !self.0.is_envelope() => self.message(content),
            _ => {
                let entry = |recipient: &Recipient| {
                    // Only those with a tag get into envelopes.
                    let tag = recipient.tag.unwrap_or(Tag(0));
                    (tag, recipient.content)
                };
                let recipients = self.0.recipients.iter().map(entry);
                let segments = self.0.segments.iter().map(|segment| &segment.octets);
                let contents = self
                    .0
                    .contents
                    .iter()
                    .map(|content| self.0.list_of(content));
                let head = emit_head(segments.clone(), contents, recipients);
                concat([&head].into_iter().chain(segments))
            }
        }
    }

    /// The same messages without the envelope around several of them: each content with its
    /// destinations. This is for a sender without a router, which sends a datagram to each anyway.
    /// A message that itself begins like an envelope stays wrapped in one.
    pub fn apart(&self) -> Vec<(Vec<SocketAddr>, Bytes)> {
        if self.0.contents.len() < 2 {
            return vec![(self.destinations().collect(), self.payload())];
        }
        let contents = self.0.contents.iter().enumerate();
        let part = |(number, content): (usize, &Content)| {
            let recipients = self.0.recipients.iter();
            let here = recipients.filter(|recipient| usize::from(recipient.content) == number);
            let addresses = here.map(|recipient| recipient.address).collect();
            (addresses, self.message(content))
        };
        contents.map(part).collect()
    }

    fn message(&self, content: &Content) -> Bytes {
        let mut segments = self.0.segments_of(content);
        match self.0.list_of(content).len() {
            1 => segments.next().cloned().unwrap_or_default(),
            _ => concat(segments),
        }
    }
}

fn concat<'a>(parts: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut whole = BytesMut::with_capacity(parts.clone().map(Bytes::len).sum());
    parts.for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}
