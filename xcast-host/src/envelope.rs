//! The wire form of a combined message: what several receivers are sent, in one datagram.
//!
//! ```text
//!  0               1               2               3
//! +---------------+---------------+---------------+---------------+
//! | MAGIC: f8 58 63 65                                            |
//! +---------------+---------------+---------------+---------------+
//! | VERSION = 1   | SEGMENTS      | CONTENTS      | RECIPIENTS    |
//! +---------------+---------------+---------------+---------------+
//! | SEGMENTS lengths, 2 octets each, in octets                    |
//! | CONTENTS lists: 1 octet count, then that many segment numbers |
//! | RECIPIENTS entries: 4 octets tag, 1 octet content number      |
//! | the segments, one after the other, to the datagram's end      |
//! +---------------------------------------------------------------+
//! ```
//!
//! Numbers are big endian and count from 0. A segment that several messages share is there once. A
//! *content* is a message's segments in their order; several recipients may have the same one.
//! Recipients know themselves by a [`Tag`] that they gave the sender when they opted in, so that
//! it does not matter what their address looks like from where (NAT), and an envelope names nobody's
//! address. Everyone in it can read all of it.
//!
//! Whatever does not parse is an ordinary datagram: it is the sender's business to wrap messages
//! that happen to look like an envelope, which the combining queue does.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;

/// First octets of every envelope; no text in UTF-8 begins so.
pub const MAGIC: [u8; 4] = xcast_common::wire::origin::MAGIC;

/// Version of the form described in [the module](self).
pub const VERSION: u8 = 1;

/// Length of the fixed part, in octets.
pub const FIXED_LEN: usize = 8;

/// Most octets in a message that comes out of an envelope: those of a UDP datagram over IPv4. A
/// forged envelope that lists a large segment over and over is worth no more memory than that.
pub const MAX_MESSAGE: usize = 65_507;

/// What a receiver knows itself by in envelopes from a sender.
///
/// A receiver draws one at random and tells it to senders when it opts in. Senders refuse a tag that
/// somebody else uses; see [`EnvelopePeers`](crate::queue::EnvelopePeers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl Tag {
    /// A tag that hardly anybody else has drawn.
    pub fn random() -> Self {
        // Every RandomState has keys of its own, from the operating system's randomness.
        Self(RandomState::new().hash_one(()) as u32)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Why octets are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// They do not begin with the magic number.
    #[error("no envelope: the magic number is missing")]
    Magic,
    /// It has another version.
    #[error("envelope of version {0}: only version {VERSION} is known")]
    Version(u8),
    /// A field lies beyond the end.
    #[error("the envelope is cut short")]
    Truncated,
    /// The segments do not end where the datagram does.
    #[error("the envelope is {0} octets longer than its segments")]
    TrailingOctets(usize),
    /// A list names a segment or content that is not there.
    #[error("number {0} names nothing in the envelope")]
    NoSuchNumber(u8),
}

/// An envelope that was checked: nothing in it points outside.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    lengths: &'a [[u8; 2]],
    /// The lists of the contents, one after the other.
    contents: &'a [u8],
    recipients: &'a [[u8; 5]],
    segments: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Checks octets as they came off the wire.
    ///
    /// # Errors
    ///
    /// They are no envelope.
    pub fn parse(octets: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (head, rest) = octets
            .split_first_chunk::<FIXED_LEN>()
            .ok_or(EnvelopeError::Magic)?;
        let [
            m0,
            m1,
            m2,
            m3,
            version,
            segment_count,
            content_count,
            recipient_count,
        ] = *head;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(EnvelopeError::Magic);
        }
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let (lengths, rest) = take(rest, 2 * usize::from(segment_count))?;
        let mut contents_len = 0;
        for _ in 0..content_count {
            let count = rest.get(contents_len).ok_or(EnvelopeError::Truncated)?;
            let start = contents_len + 1;
            contents_len = start + usize::from(*count);
            let list = rest.get(start..contents_len);
            let list = list.ok_or(EnvelopeError::Truncated)?;
            numbered(list.iter().copied(), segment_count)?;
        }
        let (contents, rest) = take(rest, contents_len)?;
        let (recipients, segments) = take(rest, 5 * usize::from(recipient_count))?;
        let (lengths, recipients) = (lengths.as_chunks().0, recipients.as_chunks::<5>().0);
        numbered(recipients.iter().map(|entry| entry[4]), content_count)?;
        let len: usize = lengths
            .iter()
            .map(|len| usize::from(u16::from_be_bytes(*len)))
            .sum();
        match segments.len().checked_sub(len) {
            None => Err(EnvelopeError::Truncated),
            Some(0) => Ok(Self {
                lengths,
                contents,
                recipients,
                segments,
            }),
            Some(more) => Err(EnvelopeError::TrailingOctets(more)),
        }
    }

    /// Appends the message for `tag` to `message`; false if there is none, or if it is longer than
    /// [`MAX_MESSAGE`]. Of several the first counts.
    pub fn extract(&self, tag: Tag, message: &mut Vec<u8>) -> bool {
        let tag = tag.0.to_be_bytes();
        let mut entries = self.recipients.iter();
        let Some(entry) = entries.find(|entry| entry[..4] == tag) else {
            return false;
        };
        let parts = || {
            let numbers = self.content(entry[4]).iter();
            numbers.map(|number| self.segment(*number))
        };
        if parts().map(<[u8]>::len).sum::<usize>() > MAX_MESSAGE {
            return false;
        }
        for part in parts() {
            message.extend_from_slice(part);
        }
        true
    }

    /// The tags of the recipients, in their order.
    pub fn tags(&self) -> impl Iterator<Item = Tag> {
        let entries = self.recipients.iter();
        entries.map(|[a, b, c, d, _]| Tag(u32::from_be_bytes([*a, *b, *c, *d])))
    }

    /// Segment numbers of a content that was checked to be there.
    fn content(&self, number: u8) -> &'a [u8] {
        let mut rest = self.contents;
        for _ in 0..number {
            let count = rest.first().copied().map_or(0, usize::from);
            rest = rest.get(1 + count..).unwrap_or_default();
        }
        let count = rest.first().copied().map_or(0, usize::from);
        rest.get(1..1 + count).unwrap_or_default()
    }

    /// Octets of a segment that was checked to be there.
    fn segment(&self, number: u8) -> &'a [u8] {
        let len = |len: &[u8; 2]| usize::from(u16::from_be_bytes(*len));
        let (before, after) = self.lengths.split_at(usize::from(number));
        let start = before.iter().map(len).sum();
        let end = start + after.first().map_or(0, len);
        self.segments.get(start..end).unwrap_or_default()
    }
}

fn take(octets: &[u8], len: usize) -> Result<(&[u8], &[u8]), EnvelopeError> {
    octets.split_at_checked(len).ok_or(EnvelopeError::Truncated)
}

/// Whether all numbers are below `count`.
fn numbered(numbers: impl IntoIterator<Item = u8>, count: u8) -> Result<(), EnvelopeError> {
    let mut numbers = numbers.into_iter();
    match numbers.find(|number| *number >= count) {
        Some(number) => Err(EnvelopeError::NoSuchNumber(number)),
        None => Ok(()),
    }
}

/// Length of the envelope without its segments' octets.
pub(crate) fn head_len(
    segments: usize,
    listed: usize,
    contents: usize,
    recipients: usize,
) -> usize {
    FIXED_LEN + 2 * segments + contents + listed + 5 * recipients
}

/// Everything of an envelope that comes before the segments' octets.
///
/// The caller keeps to at most 255 of each, and to segments of at most 65535 octets.
pub(crate) fn emit_head<'a>(
    segments: impl ExactSizeIterator<Item = &'a Bytes> + Clone,
    contents: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    recipients: impl ExactSizeIterator<Item = (Tag, u8)>,
) -> Bytes {
    let counts = [segments.len(), contents.len(), recipients.len()];
    let listed = contents.clone().map(<[u8]>::len).sum();
    let len = head_len(counts[0], listed, counts[1], counts[2]);
    let mut head = BytesMut::with_capacity(len);
    head.put_slice(&MAGIC);
    head.put_u8(VERSION);
    for count in counts {
        head.put_u8(count as u8);
    }
    for segment in segments {
        head.put_u16(segment.len() as u16);
    }
    for content in contents {
        head.put_u8(content.len() as u8);
        head.put_slice(content);
    }
    for (tag, content) in recipients {
        head.put_u32(tag.0);
        head.put_u8(content);
    }
    head.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(segments: &[&[u8]], contents: &[&[u8]], recipients: &[(u32, u8)]) -> Vec<u8> {
        let segments: Vec<_> = segments
            .iter()
            .map(|octets| Bytes::copy_from_slice(octets))
            .collect();
        let contents = contents.iter().copied();
        let recipients = recipients
            .iter()
            .map(|(tag, content)| (Tag(*tag), *content));
        let mut octets = emit_head(segments.iter(), contents, recipients).to_vec();
        octets.extend(segments.concat());
        octets
    }

    fn message(octets: &[u8], tag: u32) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        let envelope = Envelope::parse(octets).unwrap();
        envelope.extract(Tag(tag), &mut message).then_some(message)
    }

    /// Written out by hand: what another implementation must send.
    #[test]
    fn octet_for_octet() {
        let octets = build(
            &[b"shared", b"B", b"C"],
            &[&[0, 1], &[0, 2]],
            &[(7, 0), (9, 1)],
        );
        let expected = [
            0xf8, b'X', b'c', b'e', 1, 3, 2, 2, // magic, version, counts
            0, 6, 0, 1, 0, 1, // lengths
            2, 0, 1, 2, 0, 2, // contents
            0, 0, 0, 7, 0, 0, 0, 0, 9, 1, // recipients
            b's', b'h', b'a', b'r', b'e', b'd', b'B', b'C',
        ];
        assert_eq!(octets, expected);
        assert_eq!(message(&octets, 7).unwrap(), b"sharedB");
        assert_eq!(message(&octets, 9).unwrap(), b"sharedC");
        assert_eq!(message(&octets, 8), None);
        let envelope = Envelope::parse(&octets).unwrap();
        assert_eq!(envelope.tags().collect::<Vec<_>>(), [Tag(7), Tag(9)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = build(&[b"ab"], &[&[0]], &[(7, 0)]);
        for end in 0..good.len() {
            assert!(Envelope::parse(&good[..end]).is_err(), "{end}");
        }
        let changed = |at: usize, to: u8| {
            let mut octets = good.clone();
            octets[at] = to;
            Envelope::parse(&octets).unwrap_err()
        };
        assert_eq!(changed(0, b'x'), EnvelopeError::Magic);
        assert_eq!(changed(4, 2), EnvelopeError::Version(2));
        assert_eq!(changed(11, 1), EnvelopeError::NoSuchNumber(1));
        assert_eq!(changed(16, 5), EnvelopeError::NoSuchNumber(5));
        assert_eq!(changed(9, 3), EnvelopeError::Truncated);
        assert_eq!(changed(9, 1), EnvelopeError::TrailingOctets(1));
    }

    #[test]
    fn a_small_forged_envelope_does_not_become_a_large_message() {
        let octets = build(&[&[0; 1000]], &[&[0; 255]], &[(7, 0)]);
        assert_eq!(message(&octets, 7), None);
    }

    proptest! {
        #[test]
        fn any_octets(octets: Vec<u8>, tag: u32) {
            if let Ok(envelope) = Envelope::parse(&octets) {
                envelope.extract(Tag(tag), &mut Vec::new());
            }
        }

        #[test]
        fn any_octets_behind_the_magic_number(
            counts in prop::array::uniform3(0u8..8),
            octets in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..200),
        ) {
            let mut forged = MAGIC.to_vec();
            forged.push(VERSION);
            forged.extend(counts);
            forged.extend(octets);
            if let Ok(envelope) = Envelope::parse(&forged) {
                for tag in envelope.tags() {
                    envelope.extract(tag, &mut Vec::new());
                }
            }
        }

        #[test]
        fn round_trip(
            segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..10),
            contents in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..12), 1..10),
            recipients in prop::collection::btree_map(any::<u32>(), any::<prop::sample::Index>(), 0..20),
        ) {
            let contents: Vec<Vec<u8>> = contents
                .iter()
                .map(|list| list.iter().map(|index| index.index(segments.len()) as u8).collect())
                .collect();
            let recipients: Vec<_> = recipients
                .iter()
                .map(|(tag, index)| (*tag, index.index(contents.len()) as u8))
                .collect();
            let octets = build(
                &segments.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                &contents.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                &recipients,
            );
            for (tag, content) in recipients {
                let expected: Vec<u8> = contents[usize::from(content)]
                    .iter()
                    .flat_map(|number| segments[usize::from(*number)].clone())
                    .collect();
                prop_assert_eq!(message(&octets, tag).unwrap(), expected);
            }
        }
    }
}
