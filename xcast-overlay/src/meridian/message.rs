//! The messages of Meridian: binary, with `XCMD`, version and kind in front, and eight octets that
//! stand for the overlay.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::goal::Goal;
use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCMD",
    version: 1,
};
/// Most nodes that a message names: k + l of a ring.
pub(super) const MAX_NODES: usize = 32;

/// Whether a datagram is one of Meridian, for programs that share a port between protocols.
pub fn is_for_meridian(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

/// What a message is for, in a few words; none if it is not one of this protocol. For counts.
pub fn purpose(datagram: &[u8]) -> Option<&'static str> {
    Some(match PROTOCOL.kind(datagram)? {
        kind::PING => "pings",
        kind::GOSSIP => "gossip to rings",
        kind::MEASURE => "questions to a ring",
        _ => "other",
    })
}

/// A query on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub id: [u8; 8],
    /// Who wants to know.
    pub origin: SocketAddr,
    pub goal: Goal,
    /// How often it was passed on.
    pub hops: u8,
    /// Probes sent for it so far.
    pub probes: u32,
}

/// What came of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub id: [u8; 8],
    /// `None` for the node that says so.
    pub best: Option<SocketAddr>,
    /// The goal's distance of the best.
    pub distance: Duration,
    pub hops: u8,
    pub probes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Are you there? How far?
    Ping {
        transaction: [u8; 8],
    },
    /// I am; this is your address; and these are others, if they were wanted.
    Pong {
        transaction: [u8; 8],
        seen: SocketAddr,
        nodes: Vec<SocketAddr>,
    },
    /// Here are others. With `wants`, the answer has some, too.
    Gossip {
        transaction: [u8; 8],
        wants: bool,
        nodes: Vec<SocketAddr>,
    },
    /// How far are these from you?
    Measure {
        transaction: [u8; 8],
        targets: Vec<SocketAddr>,
    },
    /// So far, in the order of the request; `None` for those that did not answer. And how many were
    /// asked for it.
    Measured {
        transaction: [u8; 8],
        rtts: Vec<Option<Duration>>,
        probes: u8,
    },
    /// A query is passed on.
    Query {
        transaction: [u8; 8],
        query: Query,
    },
    /// It is taken on.
    Accepted {
        transaction: [u8; 8],
    },
    Found(Found),
}

mod kind {
    pub const PING: u8 = 1;
    pub const PONG: u8 = 2;
    pub const GOSSIP: u8 = 3;
    pub const MEASURE: u8 = 4;
    pub const MEASURED: u8 = 5;
    pub const QUERY: u8 = 6;
    pub const ACCEPTED: u8 = 7;
    pub const FOUND: u8 = 8;
}

/// Round trips travel in microseconds: an hour fits. The largest number says that there is none.
fn write_time(w: &mut Writer, time: &Option<Duration>) {
    let micros = time.map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX - 1));
    w.u32(micros.unwrap_or(u32::MAX));
}

fn read_time(r: &mut Reader) -> Option<Option<Duration>> {
    let micros = r.u32()?;
    Some((micros != u32::MAX).then(|| Duration::from_micros(micros.into())))
}

fn whole_time(r: &mut Reader) -> Option<Duration> {
    read_time(r)?
}

impl Message {
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| {
            let mut w = PROTOCOL.write(kind);
            w.octets(&tag);
            w
        };
        let mut w;
        match self {
            Self::Ping { transaction } => {
                w = begin(kind::PING);
                w.octets(transaction);
            }
            Self::Pong {
                transaction,
                seen,
                nodes,
            } => {
                w = begin(kind::PONG);
                w.octets(transaction);
                w.address(seen);
                w.list(nodes, Writer::address);
            }
            Self::Gossip {
                transaction,
                wants,
                nodes,
            } => {
                w = begin(kind::GOSSIP);
                w.octets(transaction);
                w.u8((*wants).into());
                w.list(nodes, Writer::address);
            }
            Self::Measure {
                transaction,
                targets,
            } => {
                w = begin(kind::MEASURE);
                w.octets(transaction);
                w.list(targets, Writer::address);
            }
            Self::Measured {
                transaction,
                rtts,
                probes,
            } => {
                w = begin(kind::MEASURED);
                w.octets(transaction);
                w.list(rtts, write_time);
                w.u8(*probes);
            }
            Self::Query { transaction, query } => {
                w = begin(kind::QUERY);
                w.octets(transaction);
                w.octets(&query.id);
                w.address(&query.origin);
                query.goal.write(&mut w);
                w.u8(query.hops);
                w.u32(query.probes);
            }
            Self::Accepted { transaction } => {
                w = begin(kind::ACCEPTED);
                w.octets(transaction);
            }
            Self::Found(found) => {
                w = begin(kind::FOUND);
                w.octets(&found.id);
                w.list(found.best.as_slice(), Writer::address);
                write_time(&mut w, &Some(found.distance));
                w.u8(found.hops);
                w.u32(found.probes);
            }
        }
        w.finish()
    }

    pub fn decode(datagram: &Bytes, tag: [u8; 8]) -> Option<Self> {
        let (kind, mut r) = PROTOCOL.read(datagram)?;
        if r.array()? != tag {
            return None;
        }
        let transaction = r.array()?;
        let nodes = |r: &mut Reader| r.list(MAX_NODES, Reader::address);
        let message = match kind {
            kind::PING => Self::Ping { transaction },
            kind::PONG => Self::Pong {
                transaction,
                seen: r.address()?,
                nodes: nodes(&mut r)?,
            },
            kind::GOSSIP => Self::Gossip {
                transaction,
                wants: r.u8()? != 0,
                nodes: nodes(&mut r)?,
            },
            kind::MEASURE => Self::Measure {
                transaction,
                targets: nodes(&mut r)?,
            },
            kind::MEASURED => Self::Measured {
                transaction,
                rtts: r.list(MAX_NODES, read_time)?,
                probes: r.u8()?,
            },
            kind::QUERY => Self::Query {
                transaction,
                query: Query {
                    id: r.array()?,
                    origin: r.address()?,
                    goal: Goal::read(&mut r)?,
                    hops: r.u8()?,
                    probes: r.u32()?,
                },
            },
            kind::ACCEPTED => Self::Accepted { transaction },
            kind::FOUND => Self::Found(Found {
                id: transaction,
                best: r.list(1, Reader::address)?.pop(),
                distance: whole_time(&mut r)?,
                hops: r.u8()?,
                probes: r.u32()?,
            }),
            _ => return None,
        };
        r.end()?;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: [u8; 8] = *b"meridian";

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ipv4 = any::<[u8; 3]>().prop_map(|ip| ([10, ip[0], ip[1], ip[2]], 1).into());
        let ipv6 = any::<u16>().prop_map(|n| ([0x2001, 0xdb8, n, 0, 0, 0, 0, 1], 9).into());
        prop_oneof![ipv4, ipv6]
    }

    fn message() -> impl Strategy<Value = Message> {
        let nodes = || prop::collection::vec(address(), 1..MAX_NODES);
        let time = || {
            prop::option::of((0u32..1_000_000_000).prop_map(|us| Duration::from_micros(us.into())))
        };
        let transaction = any::<[u8; 8]>;
        prop_oneof![
            transaction().prop_map(|transaction| Message::Ping { transaction }),
            (transaction(), nodes()).prop_map(|(transaction, nodes)| Message::Pong {
                transaction,
                seen: nodes[0],
                nodes,
            }),
            (transaction(), any::<bool>(), nodes()).prop_map(|(transaction, wants, nodes)| {
                Message::Gossip {
                    transaction,
                    wants,
                    nodes,
                }
            }),
            (transaction(), nodes()).prop_map(|(transaction, targets)| Message::Measure {
                transaction,
                targets
            }),
            (
                transaction(),
                prop::collection::vec(time(), 0..MAX_NODES),
                any::<u8>()
            )
                .prop_map(|(transaction, rtts, probes)| Message::Measured {
                    transaction,
                    rtts,
                    probes
                }),
            (
                transaction(),
                any::<([u8; 8], u8, u32)>(),
                nodes(),
                any::<bool>()
            )
                .prop_map(|(transaction, (id, hops, probes), nodes, central)| {
                    let origin = nodes[0];
                    let goal = match central {
                        true => Goal::central(nodes),
                        false => Goal::Within(
                            nodes
                                .iter()
                                .map(|node| (*node, Duration::from_millis(7)))
                                .collect(),
                        ),
                    };
                    let query = Query {
                        id,
                        origin,
                        goal,
                        hops,
                        probes,
                    };
                    Message::Query { transaction, query }
                }),
            transaction().prop_map(|transaction| Message::Accepted { transaction }),
            (
                transaction(),
                prop::option::of(address()),
                any::<(u8, u32)>()
            )
                .prop_map(|(id, best, (hops, probes))| {
                    Message::Found(Found {
                        id,
                        best,
                        distance: Duration::from_micros(77),
                        hops,
                        probes,
                    })
                }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message()) {
            let datagram = message.encode(TAG);
            prop_assert!(is_for_meridian(&datagram));
            prop_assert_eq!(Message::decode(&datagram, TAG), Some(message));
            prop_assert_eq!(Message::decode(&datagram, *b"another!"), None);
            for end in 0..datagram.len() {
                prop_assert_eq!(Message::decode(&datagram.slice(..end), TAG), None);
            }
        }
    }
}
