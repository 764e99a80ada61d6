//! The messages of flooding: binary, with `XCFL`, version and kind in front, and eight octets that stand
//! for the overlay.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCFL",
    version: 1,
};
/// Most keys, and most nodes, in one message.
pub(super) const MAX_KEYS: usize = 100;
pub(super) const MAX_NODES: usize = 16;

/// Whether a datagram is one of flooding, for programs that share a port between protocols.
pub fn is_for_flood(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Who is there? Passed on to all neighbours.
    Ping {
        id: [u8; 8],
        origin: SocketAddr,
        ttl: u8,
        hops: u8,
    },
    /// The sender is.
    Pong { id: [u8; 8], hops: u8 },
    /// Who has this? Passed on to all neighbours.
    Query {
        id: [u8; 8],
        origin: SocketAddr,
        ttl: u8,
        hops: u8,
        key: u64,
    },
    /// These have it.
    Hit {
        id: [u8; 8],
        hops: u8,
        holders: Vec<SocketAddr>,
    },
    /// A leaf tells a super node what it has.
    Keys { keys: Vec<u64> },
}

impl Message {
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| {
            let mut w = PROTOCOL.write(kind);
            w.octets(&tag);
            w
        };
        let flood = |kind, id: &[u8; 8], origin: &SocketAddr, ttl: u8, hops: u8| {
            let mut w = begin(kind);
            w.octets(id);
            w.address(origin);
            w.u8(ttl);
            w.u8(hops);
            w
        };
        let mut w;
        match self {
            Self::Ping {
                id,
                origin,
                ttl,
                hops,
            } => w = flood(1, id, origin, *ttl, *hops),
            Self::Pong { id, hops } => {
                w = begin(2);
                w.octets(id);
                w.u8(*hops);
            }
            Self::Query {
                id,
                origin,
                ttl,
                hops,
                key,
            } => {
                w = flood(3, id, origin, *ttl, *hops);
                w.u64(*key);
            }
            Self::Hit { id, hops, holders } => {
                w = begin(4);
                w.octets(id);
                w.u8(*hops);
                w.list(holders, Writer::address);
            }
            Self::Keys { keys } => {
                w = begin(5);
                w.list(keys, |w, key| w.u64(*key));
            }
        }
        w.finish()
    }

    pub fn decode(datagram: &Bytes, tag: [u8; 8]) -> Option<Self> {
        let (kind, mut r) = PROTOCOL.read(datagram)?;
        if r.array()? != tag {
            return None;
        }
        let message = match kind {
            1 => Self::Ping {
                id: r.array()?,
                origin: r.address()?,
                ttl: r.u8()?,
                hops: r.u8()?,
            },
            2 => Self::Pong {
                id: r.array()?,
                hops: r.u8()?,
            },
            3 => Self::Query {
                id: r.array()?,
                origin: r.address()?,
                ttl: r.u8()?,
                hops: r.u8()?,
                key: r.u64()?,
            },
            4 => Self::Hit {
                id: r.array()?,
                hops: r.u8()?,
                holders: r.list(MAX_NODES, Reader::address)?,
            },
            5 => Self::Keys {
                keys: r.list(MAX_KEYS, Reader::u64)?,
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
        let (tag, id) = (*b"overlay!", [1; 8]);
        let origin = SocketAddr::from(([192, 0, 2, 1], 5));
        for message in [
            Message::Ping {
                id,
                origin,
                ttl: 7,
                hops: 1,
            },
            Message::Pong { id, hops: 2 },
            Message::Query {
                id,
                origin,
                ttl: 7,
                hops: 1,
                key: 9,
            },
            Message::Hit {
                id,
                hops: 3,
                holders: vec![origin],
            },
            Message::Keys { keys: vec![1, 2] },
        ] {
            let datagram = message.encode(tag);
            assert!(is_for_flood(&datagram));
            assert_eq!(Message::decode(&datagram, tag), Some(message));
            assert_eq!(Message::decode(&datagram, [0; 8]), None);
            for end in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram.slice(..end), tag), None);
            }
        }
    }
}
