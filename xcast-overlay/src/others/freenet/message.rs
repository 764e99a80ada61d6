//! The messages of Freenet's manner: binary, with `XCFN`, version and kind in front, and eight octets
//! that stand for the overlay.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCFN",
    version: 1,
};
/// Most octets of a value.
pub(super) const MAX_VALUE: usize = 1000;

/// Whether a datagram is one of this, for programs that share a port between protocols.
pub fn is_for_freenet(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Who has this? Passed on to one neighbour after the other.
    Request { id: [u8; 8], key: u64, ttl: u8 },
    /// This is it, and it came from there. Passed back the way of the request.
    Data {
        id: [u8; 8],
        key: u64,
        source: SocketAddr,
        hops: u8,
        value: Bytes,
    },
    /// Not this way.
    Fail { id: [u8; 8], ttl: u8 },
    /// Store this. Passed on to the neighbour that is closest to the key.
    Insert {
        id: [u8; 8],
        key: u64,
        source: SocketAddr,
        ttl: u8,
        value: Bytes,
    },
    /// To several: the sender is there, and has this identifier.
    Announce {
        id: u64,
        address: SocketAddr,
        ttl: u8,
    },
    /// The answer to it.
    Known { id: u64 },
}

impl Message {
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| {
            let mut w = PROTOCOL.write(kind);
            w.octets(&tag);
            w
        };
        let mut w: Writer;
        match self {
            Self::Request { id, key, ttl } => {
                w = begin(1);
                w.octets(id);
                w.u64(*key);
                w.u8(*ttl);
            }
            Self::Data {
                id,
                key,
                source,
                hops,
                value,
            } => {
                w = begin(2);
                w.octets(id);
                w.u64(*key);
                w.address(source);
                w.u8(*hops);
                w.octets(value);
            }
            Self::Fail { id, ttl } => {
                w = begin(3);
                w.octets(id);
                w.u8(*ttl);
            }
            Self::Insert {
                id,
                key,
                source,
                ttl,
                value,
            } => {
                w = begin(4);
                w.octets(id);
                w.u64(*key);
                w.address(source);
                w.u8(*ttl);
                w.octets(value);
            }
            Self::Announce { id, address, ttl } => {
                w = begin(5);
                w.u64(*id);
                w.address(address);
                w.u8(*ttl);
            }
            Self::Known { id } => {
                w = begin(6);
                w.u64(*id);
            }
        }
        w.finish()
    }

    pub fn decode(datagram: &Bytes, tag: [u8; 8]) -> Option<Self> {
        let (kind, mut r) = PROTOCOL.read(datagram)?;
        if r.array()? != tag {
            return None;
        }
        let value = |r: Reader| {
            let value = r.rest();
            (value.len() <= MAX_VALUE).then_some(value)
        };
        let message = match kind {
            1 => Self::Request {
                id: r.array()?,
                key: r.u64()?,
                ttl: r.u8()?,
            },
            2 => {
                return Some(Self::Data {
                    id: r.array()?,
                    key: r.u64()?,
                    source: r.address()?,
                    hops: r.u8()?,
                    value: value(r)?,
                });
            }
            3 => Self::Fail {
                id: r.array()?,
                ttl: r.u8()?,
            },
            4 => {
                return Some(Self::Insert {
                    id: r.array()?,
                    key: r.u64()?,
                    source: r.address()?,
                    ttl: r.u8()?,
                    value: value(r)?,
                });
            }
            5 => Self::Announce {
                id: r.u64()?,
                address: r.address()?,
                ttl: r.u8()?,
            },
            6 => Self::Known { id: r.u64()? },
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
        let (tag, id, key, ttl) = (*b"overlay!", [1; 8], 9, 7);
        let source = SocketAddr::from(([192, 0, 2, 1], 5));
        let value = Bytes::from_static(b"value");
        for message in [
            Message::Request { id, key, ttl },
            Message::Fail { id, ttl },
            Message::Announce {
                id: 3,
                address: source,
                ttl,
            },
            Message::Known { id: 3 },
        ] {
            let datagram = message.encode(tag);
            assert!(is_for_freenet(&datagram));
            assert_eq!(Message::decode(&datagram, tag), Some(message));
            assert_eq!(Message::decode(&datagram, [0; 8]), None);
            for end in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram.slice(..end), tag), None);
            }
        }
        for message in [
            Message::Data {
                id,
                key,
                source,
                hops: 2,
                value: value.clone(),
            },
            Message::Insert {
                id,
                key,
                source,
                ttl,
                value,
            },
        ] {
            assert_eq!(Message::decode(&message.encode(tag), tag), Some(message));
        }
    }
}
