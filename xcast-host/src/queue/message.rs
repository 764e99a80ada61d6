//! What goes into the queue.

use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use super::candidate::Recipient;

/// A message: what to send, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its destinations, one or several.
    pub destinations: Vec<SocketAddr>,
    /// Its content, in order. A slice of a larger buffer keeps all of that buffer in memory.
    pub segments: Vec<Bytes>,
}

impl Message {
    /// A message to one destination.
    pub fn to_one(destination: SocketAddr, segments: impl Into<Vec<Bytes>>) -> Self {
        Self::to_many([destination], segments)
    }

    /// A message to several destinations.
    pub fn to_many(
        destinations: impl Into<Vec<SocketAddr>>,
        segments: impl Into<Vec<Bytes>>,
    ) -> Self {
        Self {
            destinations: destinations.into(),
            segments: segments.into(),
        }
    }

    /// Length of its content, in octets.
    pub fn octets(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// What it counts for against [`QueueLimits::max_octets`](crate::queue::QueueLimits::max_octets).
    pub(super) fn cost(&self) -> usize {
        self.octets() + self.destinations.len() * size_of::<Recipient>()
    }
}

/// A message that the queue did not take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("message of {} octets not queued: {reason}", message.octets())]
pub struct Refused {
    /// The message.
    pub message: Message,
    /// Why.
    pub reason: Refusal,
}

/// Why the queue did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The queue is full. Send what waits, then push again.
    #[error("the queue is full, poll or flush it")]
    Full,
    /// The message is longer than a datagram, or than the whole queue.
    #[error("it is longer than a datagram or the whole queue, shorten it")]
    TooLong,
}
