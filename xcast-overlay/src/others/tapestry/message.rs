//! The messages of Tapestry's manner.
//!
//! | kind | | what follows the [header](crate::wire) |
//! |---|---|---|
//! | 1 | route | what for (1), key (8), level (1), hops (1), number (8), who asks (address) |
//! | 2 | a newcomer: pass on | its address |
//! | 3 | publish, or look for, by several ways | 1 to publish (1), number (8), who asks (address), for each way its receiver's tag (2), key (8), level (1) |
//! | 4 | your table? | |
//! | 5 | yes | addresses |
//! | 6 | the root, or nobody | number (8), key (8), hops (1) |
//! | 7 | it is there | number (8), addresses |
//! | 8 | here I am | |

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    krpc::Family,
    ring::Position,
    wire::{Header, Overlay, Protocol, Reader, Writer},
};

/// Most addresses in a message.
pub(super) const MAX_NODES: usize = 60;
/// Most ways of one request.
pub(super) const MAX_WAYS: usize = 8;

/// What a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Whoever asks wants to know the root.
    Lookup,
    /// The root is to let the newcomer in.
    Join,
    /// Nodes on the way remember who has it.
    Publish,
    /// Who has it?
    Locate,
}

/// A way's part of a request that starts by several: for whom, the key, and the level.
pub(super) type Way = (u16, Position, u8);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub purpose: Purpose,
    pub key: Position,
    pub level: u8,
    pub hops: u8,
    pub number: u64,
    pub origin: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Route(Route),
    Newcomer {
        address: SocketAddr,
    },
    Start {
        publish: bool,
        number: u64,
        origin: SocketAddr,
        ways: Vec<Way>,
    },
    Table,
    Nodes {
        nodes: Vec<SocketAddr>,
    },
    Root {
        number: u64,
        key: Position,
        hops: u8,
    },
    There {
        number: u64,
        holders: Vec<SocketAddr>,
    },
    Here,
}

impl Message {
    pub fn kind(&self) -> u8 {
        match self {
            Self::Route(_) => 1,
            Self::Newcomer { .. } => 2,
            Self::Start { .. } => 3,
            Self::Table => 4,
            Self::Nodes { .. } => 5,
            Self::Root { .. } => 6,
            Self::There { .. } => 7,
            Self::Here => 8,
        }
    }

    /// Reads a message of this overlay, between nodes of one family.
    pub fn read(overlay: Overlay, family: Family, datagram: &Bytes) -> Option<(Header, Self)> {
        let (header, mut reader) = Header::read(Protocol::Tapestry, overlay, datagram)?;
        let r = &mut reader;
        let message = match header.kind {
            1 => Self::Route(Route {
                purpose: match r.u8()? {
                    0 => Purpose::Lookup,
                    1 => Purpose::Join,
                    2 => Purpose::Publish,
                    3 => Purpose::Locate,
                    _ => return None,
                },
                key: Position(r.u64()?),
                level: r.u8()?,
                hops: r.u8()?,
                number: r.u64()?,
                origin: r.compact(family)?,
            }),
            2 => Self::Newcomer {
                address: r.compact(family)?,
            },
            3 => Self::Start {
                publish: r.u8()? == 1,
                number: r.u64()?,
                origin: r.compact(family)?,
                ways: list(r, MAX_WAYS, |r| {
                    Some((r.u16()?, Position(r.u64()?), r.u8()?))
                })?,
            },
            4 => Self::Table,
            5 => Self::Nodes {
                nodes: list(r, MAX_NODES, |r| r.compact(family))?,
            },
            6 => Self::Root {
                number: r.u64()?,
                key: Position(r.u64()?),
                hops: r.u8()?,
            },
            7 => Self::There {
                number: r.u64()?,
                holders: list(r, MAX_NODES, |r| r.compact(family))?,
            },
            8 => Self::Here,
            _ => return None,
        };
        reader.is_empty().then_some((header, message))
    }

    pub fn write(&self, header: Header) -> Bytes {
        let mut w = header.with_kind(self.kind()).write();
        match self {
            Self::Route(route) => {
                w.u8(route.purpose as u8);
                w.u64(route.key.0);
                w.u8(route.level);
                w.u8(route.hops);
                w.u64(route.number);
                w.compact(&route.origin);
            }
            Self::Newcomer { address } => w.compact(address),
            Self::Start {
                publish,
                number,
                origin,
                ways,
            } => {
                w.u8(u8::from(*publish));
                w.u64(*number);
                w.compact(origin);
                write_list(&mut w, ways, |w, (tag, key, level)| {
                    w.u16(*tag);
                    w.u64(key.0);
                    w.u8(*level);
                });
            }
            Self::Table | Self::Here => {}
            Self::Nodes { nodes } => write_list(&mut w, nodes, Writer::compact),
            Self::Root { number, key, hops } => {
                w.u64(*number);
                w.u64(key.0);
                w.u8(*hops);
            }
            Self::There { number, holders } => {
                w.u64(*number);
                write_list(&mut w, holders, Writer::compact);
            }
        }
        w.finish()
    }
}

fn list<T>(
    r: &mut Reader,
    most: usize,
    mut read: impl FnMut(&mut Reader) -> Option<T>,
) -> Option<Vec<T>> {
    let count = usize::from(r.u8()?);
    if count > most {
        return None;
    }
    (0..count).map(|_| read(r)).collect()
}

fn write_list<T>(w: &mut Writer, list: &[T], mut write: impl FnMut(&mut Writer, &T)) {
    let list = &list[..list.len().min(usize::from(u8::MAX))];
    w.u8(list.len() as u8);
    for element in list {
        write(w, element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Random, TransactionId};

    #[test]
    fn what_is_written_is_read_and_nothing_shorter() {
        let overlay = Overlay::named("test");
        let id = TransactionId::random(&mut Random::from_number(1), 8);
        let address = SocketAddr::from(([192, 0, 2, 1], 5));
        let (number, key, hops) = (7, Position(9), 3);
        for message in [
            Message::Route(Route {
                purpose: Purpose::Locate,
                key,
                level: 2,
                hops,
                number,
                origin: address,
            }),
            Message::Newcomer { address },
            Message::Start {
                publish: true,
                number,
                origin: address,
                ways: vec![(1, key, 0), (2, key, 1)],
            },
            Message::Table,
            Message::Nodes {
                nodes: vec![address],
            },
            Message::Root { number, key, hops },
            Message::There {
                number,
                holders: vec![address],
            },
            Message::Here,
        ] {
            let header = Header::request(Protocol::Tapestry, overlay, message.kind(), &id);
            let datagram = message.write(header);
            let read = |octets: &Bytes| Message::read(overlay, Family::Ipv4, octets);
            assert_eq!(read(&datagram), Some((header, message)));
            for end in 0..datagram.len() {
                assert_eq!(read(&datagram.slice(..end)), None);
            }
        }
    }
}
