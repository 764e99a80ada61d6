//! A message prepared for comparison.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::envelope::Tag;

/// One destination, and what it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipient {
    pub address: SocketAddr,
    /// Its tag, if it takes envelopes.
    pub tag: Option<Tag>,
    /// Number of its content.
    pub content: u8,
}

/// A message prepared for comparison.
pub(super) struct Candidate {
    pub recipients: Vec<Recipient>,
    /// Its segments, none of them empty, with their hashes.
    pub segments: Vec<(u64, Bytes)>,
    /// Hash of all of it.
    pub content: u64,
    pub octets: usize,
    /// Whether all recipients take envelopes.
    pub opted_in: bool,
    /// Against the queue's limits.
    pub messages: usize,
    pub cost: usize,
}

impl Candidate {
    /// Hashes of its segments, that of the largest first.
    pub fn largest_first(&self) -> impl Iterator<Item = u64> {
        let segments = self.segments.iter().enumerate();
        let largest = segments.max_by_key(|(_, (_, segment))| segment.len());
        let largest = largest.map_or(0, |(at, _)| at);
        let (before, rest) = self.segments.split_at(largest);
        rest.iter().chain(before).map(|(hash, _)| *hash)
    }
}
