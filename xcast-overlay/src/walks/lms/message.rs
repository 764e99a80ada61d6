//! The messages of LMS: binary, with `XCLM`, version and kind in front, and eight octets that stand for
//! the overlay.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCLM",
    version: 1,
};
/// Most neighbours that a message names.
pub(super) const MAX_NEIGHBOURS: usize = 40;
/// Longest value in octets.
pub(super) const MAX_VALUE: usize = 255;

/// Whether a datagram is one of LMS, for programs that share a port between protocols.
pub fn is_for_lms(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

/// What a message is for, in a few words; none if it is not one of this protocol. For counts.
pub fn purpose(datagram: &[u8]) -> Option<&'static str> {
    Some(match PROTOCOL.kind(datagram)? {
        1 => "hellos to neighbours",
        2 => "walkers",
        _ => "other",
    })
}

/// A node and its identifier.
pub(super) type Contact = (u64, SocketAddr);

/// A walker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walker {
    /// Of the operation that it belongs to.
    pub id: [u8; 8],
    /// Which packet of that operation.
    pub batch: u8,
    /// Who of that packet's receivers sent it on: two that come by the same way are two. 0 in the packet.
    pub first: u32,
    pub origin: SocketAddr,
    pub key: u64,
    /// What is to be stored; `None` to look for it.
    pub value: Option<Bytes>,
    /// Random steps still to go, before it goes down.
    pub walk: u8,
    pub hops: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// This is my identifier, and these are my neighbours.
    Hello {
        id: u64,
        neighbours: Vec<Contact>,
    },
    Walk(Walker),
    /// A walker has come to its end: what it found, or whether it left its replica. The number is the
    /// sender's, so that one that a network doubles is known.
    End {
        id: [u8; 8],
        number: u32,
        hops: u8,
        stored: bool,
        value: Option<Bytes>,
    },
}

impl Message {
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| {
            let mut w = PROTOCOL.write(kind);
            w.octets(&tag);
            w
        };
        let value = |w: &mut Writer, value: &Option<Bytes>| {
            w.list(value.as_slice(), |w, value| w.short(value));
        };
        let mut w;
        match self {
            Self::Hello { id, neighbours } => {
                w = begin(1);
                w.u64(*id);
                w.list(neighbours, |w, (id, address)| {
                    w.u64(*id);
                    w.address(address);
                });
            }
            Self::Walk(walker) => {
                w = begin(2);
                w.octets(&walker.id);
                w.u8(walker.batch);
                w.u32(walker.first);
                w.address(&walker.origin);
                w.u64(walker.key);
                value(&mut w, &walker.value);
                w.u8(walker.walk);
                w.u8(walker.hops);
            }
            Self::End {
                id,
                number,
                hops,
                stored,
                value: found,
            } => {
                w = begin(3);
                w.octets(id);
                w.u32(*number);
                w.u8(*hops);
                w.u8((*stored).into());
                value(&mut w, found);
            }
        }
        w.finish()
    }

    pub fn decode(datagram: &Bytes, tag: [u8; 8]) -> Option<Self> {
        let (kind, mut r) = PROTOCOL.read(datagram)?;
        if r.array()? != tag {
            return None;
        }
        let value = |r: &mut Reader| Some(r.list(1, Reader::short)?.pop());
        let message = match kind {
            1 => Self::Hello {
                id: r.u64()?,
                neighbours: r.list(MAX_NEIGHBOURS, |r| Some((r.u64()?, r.address()?)))?,
            },
            2 => Self::Walk(Walker {
                id: r.array()?,
                batch: r.u8()?,
                first: r.u32()?,
                origin: r.address()?,
                key: r.u64()?,
                value: value(&mut r)?,
                walk: r.u8()?,
                hops: r.u8()?,
            }),
            3 => Self::End {
                id: r.array()?,
                number: r.u32()?,
                hops: r.u8()?,
                stored: r.u8()? != 0,
                value: value(&mut r)?,
            },
            _ => return None,
        };
        r.end()?;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_shorter() {
        let address = SocketAddr::from(([192, 0, 2, 1], 5));
        let tag = *b"overlay!";
        let walker = Walker {
            id: [1; 8],
            batch: 2,
            first: 6,
            origin: address,
            key: 3,
            value: Some(Bytes::from_static(b"value")),
            walk: 4,
            hops: 5,
        };
        for message in [
            Message::Hello {
                id: 7,
                neighbours: vec![
                    (8, address),
                    (9, "[2001:db8::1]:1".parse().expect("an address")),
                ],
            },
            Message::Walk(walker),
            Message::End {
                id: [1; 8],
                number: 8,
                hops: 9,
                stored: true,
                value: None,
            },
        ] {
            let datagram = message.encode(tag);
            assert!(is_for_lms(&datagram));
            assert_eq!(Message::decode(&datagram, tag), Some(message));
            assert_eq!(Message::decode(&datagram, [0; 8]), None);
            for end in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram.slice(..end), tag), None);
            }
        }
    }
}
