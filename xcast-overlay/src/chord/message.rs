//! The messages of Chord, EpiChord and Accordion.
//!
//! | kind | | what follows the [header](crate::wire) |
//! |---|---|---|
//! | 1 | whose is this key? | position (8), how many are to be named (1) |
//! | 2 | the owner, or peers that are closer | 1 if it is the owner (1), entries |
//! | 3 | your neighbours? | |
//! | 4 | neighbours | 1 if there is a predecessor (1), its address, those of the successors |
//! | 5 | your table? | |
//! | 6 | entries | entries |
//! | 7 | are you there? / leaving | 1 if the sender leaves (1), addresses of its neighbours |
//! | 8 | yes | |
//! | 9 | look up and pass on | position (8), look-up (4), hops (1), uptime (2), who asks (address) |
//! | 10 | found | look-up (4), hops (1), owner (address) |
//! | 11 | some of your table? | uptime (2), and for each receiver its tag (2) and how far ahead (1) |
//!
//! An entry is an address, for how many seconds the peer is known to have been there, and how many
//! seconds ago it was last heard of: two octets each. Uptimes are the sender's, in seconds, too. A tag is the end of the
//! receiver's position; how far ahead is told as the exponent of a power of two.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    krpc::Family,
    ring::{Contact, Position},
    wire::{Header, Overlay, Protocol, Reader, Writer},
};

/// A peer, and what is known of its being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub peer: Contact,
    /// For how long it is known to have been there, in seconds.
    pub alive_s: u16,
    /// How long ago it was last heard of, in seconds.
    pub since_s: u16,
}

impl Entry {
    pub fn octets(family: Family) -> usize {
        family.address_octets() + 4
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Find {
        key: Position,
        want: u8,
    },
    Found {
        is_owner: bool,
        entries: Vec<Entry>,
    },
    Stabilise,
    Neighbours {
        predecessor: Option<Contact>,
        successors: Vec<Contact>,
    },
    Table,
    Entries(Vec<Entry>),
    Ping {
        leaving: bool,
        neighbours: Vec<Contact>,
    },
    Pong,
    Forward(Forward),
    Result {
        lookup: u32,
        hops: u8,
        owner: Contact,
    },
    Explore {
        uptime_s: u16,
        spans: Vec<(u16, u8)>,
    },
}

/// A look-up that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub key: Position,
    pub lookup: u32,
    pub hops: u8,
    /// Of the peer that passes it on.
    pub uptime_s: u16,
    /// Which of the receivers has the primary copy; the others' are there in case that it gets lost.
    pub primary: u16,
    pub origin: SocketAddr,
}

impl Message {
    /// Reads a message of this overlay, between peers of one family.
    pub fn read(overlay: Overlay, family: Family, datagram: &Bytes) -> Option<(Header, Self)> {
        let (header, mut reader) = Header::read(Protocol::Ring, overlay, datagram)?;
        let r = &mut reader;
        let contact = |r: &mut Reader| r.compact(family).map(Contact::of);
        let message = match header.kind {
            1 => Self::Find {
                key: Position(r.u64()?),
                want: r.u8()?,
            },
            2 => Self::Found {
                is_owner: r.u8()? == 1,
                entries: entries(r, family)?,
            },
            3 => Self::Stabilise,
            4 => Self::Neighbours {
                predecessor: if r.u8()? == 1 {
                    Some(contact(r)?)
                } else {
                    None
                },
                successors: contacts(r, family)?,
            },
            5 => Self::Table,
            6 => Self::Entries(entries(r, family)?),
            7 => Self::Ping {
                leaving: r.u8()? == 1,
                neighbours: contacts(r, family)?,
            },
            8 => Self::Pong,
            9 => Self::Forward(Forward {
                key: Position(r.u64()?),
                lookup: r.u32()?,
                hops: r.u8()?,
                uptime_s: r.u16()?,
                primary: r.u16()?,
                origin: r.compact(family)?,
            }),
            10 => Self::Result {
                lookup: r.u32()?,
                hops: r.u8()?,
                owner: contact(r)?,
            },
            11 => Self::Explore {
                uptime_s: r.u16()?,
                spans: spans(r)?,
            },
            _ => return None,
        };
        r.is_empty().then_some((header, message))
    }

    pub fn kind(&self) -> u8 {
        match self {
            Self::Find { .. } => 1,
            Self::Found { .. } => 2,
            Self::Stabilise => 3,
            Self::Neighbours { .. } => 4,
            Self::Table => 5,
            Self::Entries(_) => 6,
            Self::Ping { .. } => 7,
            Self::Pong => 8,
            Self::Forward(_) => 9,
            Self::Result { .. } => 10,
            Self::Explore { .. } => 11,
        }
    }

    /// Whether it answers a request.
    pub fn is_answer(&self) -> bool {
        use Message::{Entries, Found, Neighbours, Pong};
        matches!(self, Found { .. } | Neighbours { .. } | Entries(_) | Pong)
    }

    /// Writes it, with a header of its kind.
    pub fn write(&self, header: Header) -> Bytes {
        let mut w = header.with_kind(self.kind()).write();
        match self {
            Self::Find { key, want } => {
                w.u64(key.0);
                w.u8(*want);
            }
            Self::Found { is_owner, entries } => {
                w.u8((*is_owner).into());
                write_entries(&mut w, entries);
            }
            Self::Neighbours {
                predecessor,
                successors,
            } => {
                w.u8(predecessor.is_some().into());
                write_contacts(&mut w, predecessor.as_slice());
                write_contacts(&mut w, successors);
            }
            Self::Entries(entries) => write_entries(&mut w, entries),
            Self::Ping {
                leaving,
                neighbours,
            } => {
                w.u8((*leaving).into());
                write_contacts(&mut w, neighbours);
            }
            Self::Forward(forward) => {
                w.u64(forward.key.0);
                w.u32(forward.lookup);
                w.u8(forward.hops);
                w.u16(forward.uptime_s);
                w.u16(forward.primary);
                w.compact(&forward.origin);
            }
            Self::Result {
                lookup,
                hops,
                owner,
            } => {
                w.u32(*lookup);
                w.u8(*hops);
                w.compact(&owner.address);
            }
            Self::Explore { uptime_s, spans } => {
                w.u16(*uptime_s);
                for (tag, exponent) in spans {
                    w.u16(*tag);
                    w.u8(*exponent);
                }
            }
            Self::Stabilise | Self::Table | Self::Pong => {}
        }
        w.finish()
    }
}

fn contacts(r: &mut Reader, family: Family) -> Option<Vec<Contact>> {
    let mut contacts = Vec::new();
    while !r.is_empty() {
        contacts.push(Contact::of(r.compact(family)?));
    }
    Some(contacts)
}

fn spans(r: &mut Reader) -> Option<Vec<(u16, u8)>> {
    let mut spans = Vec::new();
    while !r.is_empty() {
        spans.push((r.u16()?, r.u8()?));
    }
    Some(spans)
}

fn entries(r: &mut Reader, family: Family) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !r.is_empty() {
        entries.push(Entry {
            peer: Contact::of(r.compact(family)?),
            alive_s: r.u16()?,
            since_s: r.u16()?,
        });
    }
    Some(entries)
}

fn write_contacts(w: &mut Writer, contacts: &[Contact]) {
    contacts.iter().for_each(|peer| w.compact(&peer.address));
}

fn write_entries(w: &mut Writer, entries: &[Entry]) {
    for entry in entries {
        w.compact(&entry.peer.address);
        w.u16(entry.alive_s);
        w.u16(entry.since_s);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::{Random, TransactionId};

    proptest! {
        /// Any octets are read without panic; what can be read, is the same when it is written.
        #[test]
        fn read_and_written(kind in 0u8..16, body in prop::collection::vec(any::<u8>(), 0..90), ipv6: bool) {
            let overlay = Overlay::named("test");
            let id = TransactionId::random(&mut Random::from_number(1), 8);
            let mut writer = Header::request(Protocol::Ring, overlay, kind, &id).write();
            writer.octets(&body);
            let octets = writer.finish();
            let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
            if let Some((header, message)) = Message::read(overlay, family, &octets) {
                prop_assert_eq!(message.kind(), kind);
                let again = message.write(header);
                prop_assert_eq!(again.len(), octets.len());
                prop_assert_eq!(Message::read(overlay, family, &again), Some((header, message)));
            }
        }
    }
}
