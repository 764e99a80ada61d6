//! What leaves the queue.

use std::{net::SocketAddr, time::Instant};

use bytes::{Bytes, BytesMut};

use super::batch::Recipient;
use crate::envelope::{Tag, emit_head};

/// One payload, and whom to send it to.
#[derive(Clone, Debug)]
pub struct Transmit {
    pub(super) since: Instant,
    pub(super) messages: usize,
    pub(super) cost: usize,
    pub(super) envelope: bool,
    pub(super) segments: Vec<Bytes>,
    pub(super) contents: Vec<Vec<u8>>,
    pub(super) recipients: Vec<Recipient>,
}

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
        match (self.envelope, self.recipients.len()) {
            (true, _) => Form::Envelope,
            (false, 1) => Form::Unicast,
            (false, _) => Form::Multicast,
        }
    }

    /// Whom to send it to; nobody twice.
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.recipients.iter().map(|recipient| recipient.address)
    }

    /// When the first of its messages came.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The payload. No octet is copied where it is a message of one segment.
    pub fn payload(&self) -> Bytes {
        match self.contents.first() {
            Some(content) if !self.envelope => self.message(content),
            _ => {
                let entry = |recipient: &Recipient| {
                    // Only those with a tag get into envelopes.
                    let tag = recipient.tag.unwrap_or(Tag(0));
                    (tag, recipient.content)
                };
                let recipients = self.recipients.iter().map(entry);
                let head = emit_head(&self.segments, &self.contents, recipients);
                concat([&head].into_iter().chain(&self.segments))
            }
        }
    }

    /// The same messages without an envelope: each content with its destinations, for a sender
    /// that has to send a datagram to each anyway. Contents that must be in an envelope stay in
    /// one.
    pub fn apart(&self) -> Vec<(Vec<SocketAddr>, Bytes)> {
        if self.contents.len() < 2 {
            return vec![(self.destinations().collect(), self.payload())];
        }
        let contents = self.contents.iter().enumerate();
        let part = |(number, content): (usize, &Vec<u8>)| {
            let recipients = self.recipients.iter();
            let here = recipients.filter(|recipient| usize::from(recipient.content) == number);
            let addresses = here.map(|recipient| recipient.address).collect();
            (addresses, self.message(content))
        };
        contents.map(part).collect()
    }

    fn message(&self, content: &[u8]) -> Bytes {
        match content {
            [number] => self.segments[usize::from(*number)].clone(),
            _ => {
                let numbers = content.iter();
                concat(numbers.map(|number| &self.segments[usize::from(*number)]))
            }
        }
    }
}

fn concat<'a>(parts: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut whole = BytesMut::with_capacity(parts.clone().map(Bytes::len).sum());
    parts.for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}
