//! The messages of Gia: binary, with `XCGI`, version and kind in front, and eight octets that stand for
//! the overlay.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCGI",
    version: 1,
};
/// Most neighbours that one message is for.
pub(super) const MAX_PARTS: usize = 64;
/// Most keys in one message.
pub(super) const MAX_KEYS: usize = 100;

/// Whether a datagram is one of Gia, for programs that share a port between protocols.
pub fn is_for_gia(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

/// What a message is for, in a few words; none if it is not one of this protocol. For counts.
pub fn purpose(datagram: &[u8]) -> Option<&'static str> {
    Some(match PROTOCOL.kind(datagram)? {
        5 => "beats and tokens to neighbours",
        6 => "keys to neighbours",
        7 => "walkers",
        _ => "other",
    })
}

/// A receiver's part of a message for several: the tag that the receiver has given to the sender,
/// and a number.
pub(super) type Part = (u32, u32);

/// What a neighbour is told of tokens: by its tag, how many were given to it in all, and how many of
/// its own are spent.
pub(super) type Account = (u32, u32, u32);

/// A node, and its capacity as far as that is known.
pub(super) type Known = (SocketAddr, u32);

/// A walker on its way, to one receiver or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub id: [u8; 8],
    pub origin: SocketAddr,
    pub key: u64,
    pub ttl: u16,
    pub hops: u16,
    /// For each receiver the number of the token that it is sent with; 0 for none.
    pub tokens: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// May we be neighbours? The tag is what the asker is to be called by.
    Connect {
        tag: u32,
        capacity: u32,
        degree: u16,
    },
    /// Yes; the tag is what the asked one is to be called by.
    Accept {
        tag: u32,
        capacity: u32,
        degree: u16,
    },
    /// No; but here are others.
    Reject {
        others: Vec<Known>,
    },
    /// We are no longer neighbours.
    Drop {
        tag: u32,
    },
    /// To all neighbours: how this node is, some others, and how it stands with tokens.
    Beat {
        capacity: u32,
        degree: u16,
        others: Vec<Known>,
        tokens: Vec<Account>,
    },
    /// To all neighbours: keys that this node has.
    Keys {
        keys: Vec<u64>,
    },
    Query(Query),
    /// These nodes have it.
    Hit {
        id: [u8; 8],
        hops: u16,
        holders: Vec<SocketAddr>,
    },
    /// A walker has come to its end. The number is the sender's, so that one that a network doubles is
    /// known.
    End {
        id: [u8; 8],
        number: u32,
        hops: u16,
    },
}

/// Most nodes that one message names.
pub(super) const MAX_OTHERS: usize = 16;

fn write_parts(w: &mut Writer, parts: &[Part]) {
    w.list(parts, |w, (tag, number)| {
        w.u32(*tag);
        w.u32(*number);
    });
}

fn write_others(w: &mut Writer, others: &[Known]) {
    w.list(others, |w, (address, capacity)| {
        w.address(address);
        w.u32(*capacity);
    });
}

fn read_others(r: &mut Reader) -> Option<Vec<Known>> {
    r.list(MAX_OTHERS, |r| Some((r.address()?, r.u32()?)))
}

fn read_parts(r: &mut Reader) -> Option<Vec<Part>> {
    r.list(MAX_PARTS, |r| Some((r.u32()?, r.u32()?)))
}

impl Message {
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| {
            let mut w = PROTOCOL.write(kind);
            w.octets(&tag);
            w
        };
        let me = |kind, tag: u32, capacity: u32, degree: u16| {
            let mut w = begin(kind);
            w.u32(tag);
            w.u32(capacity);
            w.u16(degree);
            w
        };
        let mut w;
        match self {
            Self::Connect {
                tag,
                capacity,
                degree,
            } => w = me(1, *tag, *capacity, *degree),
            Self::Accept {
                tag,
                capacity,
                degree,
            } => w = me(2, *tag, *capacity, *degree),
            Self::Reject { others } => {
                w = begin(3);
                write_others(&mut w, others);
            }
            Self::Drop { tag } => {
                w = begin(4);
                w.u32(*tag);
            }
            Self::Beat {
                capacity,
                degree,
                others,
                tokens,
            } => {
                w = begin(5);
                w.u32(*capacity);
                w.u16(*degree);
                write_others(&mut w, others);
                w.list(tokens, |w, (tag, given, spent)| {
                    w.u32(*tag);
                    w.u32(*given);
                    w.u32(*spent);
                });
            }
            Self::Keys { keys } => {
                w = begin(6);
                w.list(keys, |w, key| w.u64(*key));
            }
            Self::Query(query) => {
                w = begin(7);
                w.octets(&query.id);
                w.address(&query.origin);
                w.u64(query.key);
                w.u16(query.ttl);
                w.u16(query.hops);
                write_parts(&mut w, &query.tokens);
            }
            Self::Hit { id, hops, holders } => {
                w = begin(8);
                w.octets(id);
                w.u16(*hops);
                w.list(holders, Writer::address);
            }
            Self::End { id, number, hops } => {
                w = begin(9);
                w.octets(id);
                w.u32(*number);
                w.u16(*hops);
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
            1 => Self::Connect {
                tag: r.u32()?,
                capacity: r.u32()?,
                degree: r.u16()?,
            },
            2 => Self::Accept {
                tag: r.u32()?,
                capacity: r.u32()?,
                degree: r.u16()?,
            },
            3 => Self::Reject {
                others: read_others(&mut r)?,
            },
            4 => Self::Drop { tag: r.u32()? },
            5 => Self::Beat {
                capacity: r.u32()?,
                degree: r.u16()?,
                others: read_others(&mut r)?,
                tokens: r.list(MAX_PARTS, |r| Some((r.u32()?, r.u32()?, r.u32()?)))?,
            },
            6 => Self::Keys {
                keys: r.list(MAX_KEYS, Reader::u64)?,
            },
            7 => Self::Query(Query {
                id: r.array()?,
                origin: r.address()?,
                key: r.u64()?,
                ttl: r.u16()?,
                hops: r.u16()?,
                tokens: read_parts(&mut r)?,
            }),
            8 => Self::Hit {
                id: r.array()?,
                hops: r.u16()?,
                holders: r.list(MAX_OTHERS, Reader::address)?,
            },
            9 => Self::End {
                id: r.array()?,
                number: r.u32()?,
                hops: r.u16()?,
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
        let tag = *b"overlay!";
        let one = SocketAddr::from(([192, 0, 2, 1], 5));
        let (capacity, degree) = (100, 7);
        let holders = vec![one, "[2001:db8::1]:1".parse().expect("an address")];
        let others: Vec<Known> = holders.iter().map(|holder| (*holder, 9)).collect();
        let query = Query {
            id: [1; 8],
            origin: one,
            key: 3,
            ttl: 4,
            hops: 5,
            tokens: vec![(1, 2), (3, 4)],
        };
        for message in [
            Message::Connect {
                tag: 1,
                capacity,
                degree,
            },
            Message::Accept {
                tag: 2,
                capacity,
                degree,
            },
            Message::Reject {
                others: others.clone(),
            },
            Message::Drop { tag: 3 },
            Message::Beat {
                capacity,
                degree,
                others,
                tokens: vec![(1, 2, 3), (4, 5, 6)],
            },
            Message::Keys {
                keys: vec![1, 2, 3],
            },
            Message::Query(query),
            Message::Hit {
                id: [1; 8],
                hops: 9,
                holders,
            },
            Message::End {
                id: [1; 8],
                number: 8,
                hops: 9,
            },
        ] {
            let datagram = message.encode(tag);
            assert!(is_for_gia(&datagram));
            assert_eq!(Message::decode(&datagram, tag), Some(message));
            assert_eq!(Message::decode(&datagram, [0; 8]), None);
            for end in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram.slice(..end), tag), None);
            }
        }
    }
}
