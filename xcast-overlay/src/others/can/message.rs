//! The messages of CAN: binary, with `XCCN`, version and kind in front, and eight octets that stand for
//! the overlay.

use std::net::SocketAddr;

use bytes::Bytes;

use super::zone::{Point, Zone};
use crate::wire::{Magic, Reader, Writer};

const PROTOCOL: Magic = Magic {
    magic: *b"XCCN",
    version: 1,
};
/// Most zones of one node in a message.
pub(super) const MAX_ZONES: usize = 32;
/// Most nodes in a message.
pub(super) const MAX_NODES: usize = 32;
/// Most octets of what is told to all.
pub(super) const MAX_PAYLOAD: usize = 1000;

/// Whether a datagram is one of CAN, for programs that share a port between protocols.
pub fn is_for_can(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

/// A node, and its zones.
pub(super) type Known = (SocketAddr, Vec<Zone>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A place for the origin, at this point. Passed on to whom it belongs to.
    Join {
        point: Point,
        origin: SocketAddr,
        hops: u8,
    },
    /// This zone is the receiver's from now on.
    Welcome { zone: Zone, others: Vec<Known> },
    /// To all neighbours: the sender's zones, and its neighbours.
    Update {
        zones: Vec<Zone>,
        others: Vec<Known>,
    },
    /// Who has this point? Passed on to whom it belongs to.
    Find {
        id: [u8; 8],
        point: Point,
        origin: SocketAddr,
        hops: u8,
    },
    /// The sender has.
    Found { id: [u8; 8], hops: u8 },
    /// For everybody. Passed on to all neighbours.
    Flood { id: [u8; 8], payload: Bytes },
    /// The sender leaves.
    Gone,
    /// Somebody else says that it has a zone of the receiver's.
    Dispute { with: SocketAddr },
}

fn write_zones(w: &mut Writer, zones: &[Zone]) {
    w.list(zones, |w, zone| {
        w.u64(zone.first().0);
        w.u8(zone.depth());
    });
}

fn read_zones(r: &mut Reader) -> Option<Vec<Zone>> {
    r.list(MAX_ZONES, |r| Some(Zone::around(Point(r.u64()?), r.u8()?)))
}

fn write_nodes(w: &mut Writer, nodes: &[Known]) {
    w.list(nodes, |w, (address, zones)| {
        w.address(address);
        write_zones(w, zones);
    });
}

fn read_nodes(r: &mut Reader) -> Option<Vec<Known>> {
    r.list(MAX_NODES, |r| Some((r.address()?, read_zones(r)?)))
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
            Self::Join {
                point,
                origin,
                hops,
            } => {
                w = begin(1);
                w.u64(point.0);
                w.address(origin);
                w.u8(*hops);
            }
            Self::Welcome { zone, others } => {
                w = begin(2);
                write_zones(&mut w, &[*zone]);
                write_nodes(&mut w, others);
            }
            Self::Update { zones, others } => {
                w = begin(3);
                write_zones(&mut w, zones);
                write_nodes(&mut w, others);
            }
            Self::Find {
                id,
                point,
                origin,
                hops,
            } => {
                w = begin(4);
                w.octets(id);
                w.u64(point.0);
                w.address(origin);
                w.u8(*hops);
            }
            Self::Found { id, hops } => {
                w = begin(5);
                w.octets(id);
                w.u8(*hops);
            }
            Self::Flood { id, payload } => {
                w = begin(6);
                w.octets(id);
                w.octets(payload);
            }
            Self::Gone => w = begin(7),
            Self::Dispute { with } => {
                w = begin(8);
                w.address(with);
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
            1 => Self::Join {
                point: Point(r.u64()?),
                origin: r.address()?,
                hops: r.u8()?,
            },
            2 => {
                let zones = read_zones(&mut r)?;
                let [zone] = zones[..] else { return None };
                let others = read_nodes(&mut r)?;
                Self::Welcome { zone, others }
            }
            3 => Self::Update {
                zones: read_zones(&mut r)?,
                others: read_nodes(&mut r)?,
            },
            4 => Self::Find {
                id: r.array()?,
                point: Point(r.u64()?),
                origin: r.address()?,
                hops: r.u8()?,
            },
            5 => Self::Found {
                id: r.array()?,
                hops: r.u8()?,
            },
            6 => {
                let id = r.array()?;
                let payload = r.rest();
                return (payload.len() <= MAX_PAYLOAD).then_some(Self::Flood { id, payload });
            }
            7 => Self::Gone,
            8 => Self::Dispute { with: r.address()? },
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
        let (tag, id, hops) = (*b"overlay!", [1; 8], 3);
        let origin = SocketAddr::from(([192, 0, 2, 1], 5));
        let (zone, point) = (Zone::around(Point(u64::MAX), 5), Point(7));
        let others = vec![(origin, vec![zone]), (origin, vec![])];
        for message in [
            Message::Join {
                point,
                origin,
                hops,
            },
            Message::Welcome {
                zone,
                others: others.clone(),
            },
            Message::Update {
                zones: vec![zone, Zone::ALL],
                others,
            },
            Message::Find {
                id,
                point,
                origin,
                hops,
            },
            Message::Found { id, hops },
            Message::Gone,
            Message::Dispute { with: origin },
        ] {
            let datagram = message.encode(tag);
            assert!(is_for_can(&datagram));
            assert_eq!(Message::decode(&datagram, tag), Some(message));
            assert_eq!(Message::decode(&datagram, [0; 8]), None);
            for end in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram.slice(..end), tag), None);
            }
        }
        let flood = Message::Flood {
            id,
            payload: "all".into(),
        };
        assert_eq!(Message::decode(&flood.encode(tag), tag), Some(flood));
    }
}
