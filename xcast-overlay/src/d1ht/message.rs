//! The messages of peers.
//!
//! | kind | | what follows the [header](crate::wire) |
//! |---|---|---|
//! | 1 | M(l) | levels, events |
//! | 2 | acknowledgement | |
//! | 3 | whose is this key? | position (8) |
//! | 4 | the peer a key belongs to | 1 if the sender itself (1), cookie (8), address |
//! | 5 | join | cookie (8) |
//! | 6 | joined | |
//! | 7 | a page of the table | position (8) after which it begins |
//! | 8 | peers | 1 if there are no more (1), addresses |
//! | 9 | leave | |
//! | 10 | are you there? | |
//! | 11 | events for a newcomer | events |
//! | 12 | compare tables | first and last position (8, 8), sum of the positions between (8) |
//!
//! An address has 6 octets, or 18: all of an overlay are of one family.
//!
//! **Levels**: for a single receiver `80` + l. For several their number, and for each two octets: its
//! level in the upper five bits, below it its tag, the end of its position.
//!
//! **Events** come in groups of equal TTL, each with one octet (TTL in the lower five bits, `20`
//! if the peers left, `40` if ports are told), their number (1), and the addresses of the peers.
//! Where no port is told it is the overlay's usual one.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;

use super::news::{Change, News, Pending};
use crate::{
    krpc::Family,
    ring::{Contact, Position},
    wire::{Header, Overlay, Protocol, Reader, Writer},
};

const TTL: u8 = 0x1f;
const LEFT: u8 = 0x20;
const WITH_PORT: u8 = 0x40;
const SINGLE: u8 = 0x80;

/// Kinds of messages that are no answers, by number: see the [module](self).
pub(super) mod kind {
    pub const EVENTS: u8 = 1;
    pub const ACKNOWLEDGED: u8 = 2;
    pub const FIND: u8 = 3;
    pub const FOUND: u8 = 4;
    pub const JOIN: u8 = 5;
    pub const JOINED: u8 = 6;
    pub const PAGE: u8 = 7;
    pub const PEERS: u8 = 8;
    pub const LEAVE: u8 = 9;
    pub const PING: u8 = 10;
    pub const COPY: u8 = 11;
    pub const COMPARE: u8 = 12;
}

/// How many bits of two octets a tag has; the level has the others.
const TAG_BITS: u32 = 11;

/// The end of a position, by which receivers of one packet are told apart.
pub(super) fn tag(peer: &Contact) -> u16 {
    peer.position.0 as u16 & TAG
}

const TAG: u16 = (1 << TAG_BITS) - 1;

/// Who gets which message of EDRA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Levels {
    Single(u8),
    List(Vec<(u16, u8)>),
}

impl Levels {
    /// The level of a receiver.
    pub fn of(&self, me: &Contact) -> Option<u8> {
        match self {
            Self::Single(level) => Some(*level),
            Self::List(list) => {
                let own = list.iter().find(|(of, _)| *of == tag(me));
                own.map(|(_, level)| *level)
            }
        }
    }

    fn octets(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::List(list) => 1 + 2 * list.len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Events {
        levels: Levels,
        events: Vec<Pending>,
    },
    Acknowledged,
    Find {
        key: Position,
    },
    Found {
        is_sender: bool,
        cookie: u64,
        peer: Contact,
    },
    Join {
        cookie: u64,
    },
    Joined,
    Page {
        after: Position,
    },
    Peers {
        are_last: bool,
        peers: Vec<Contact>,
    },
    Leave,
    Ping,
    Copy {
        events: Vec<Pending>,
    },
    Compare {
        first: Position,
        last: Position,
        sum: u64,
    },
}

impl Message {
    /// Reads a message of this overlay, between peers of one family.
    pub fn read(
        overlay: Overlay,
        family: Family,
        port: u16,
        datagram: &Bytes,
    ) -> Option<(Header, Self)> {
        let (header, mut reader) = Header::read(Protocol::D1ht, overlay, datagram)?;
        let r = &mut reader;
        let position = |r: &mut Reader| r.u64().map(Position);
        let contact = |r: &mut Reader| r.compact(family).map(Contact::of);
        let message = match header.kind {
            kind::EVENTS => Self::Events {
                levels: read_levels(r)?,
                events: read_events(r, family, port)?,
            },
            kind::ACKNOWLEDGED => Self::Acknowledged,
            kind::FIND => Self::Find { key: position(r)? },
            kind::FOUND => Self::Found {
                is_sender: r.u8()? == 1,
                cookie: r.u64()?,
                peer: contact(r)?,
            },
            kind::JOIN => Self::Join { cookie: r.u64()? },
            kind::JOINED => Self::Joined,
            kind::PAGE => Self::Page {
                after: position(r)?,
            },
            kind::PEERS => {
                let are_last = r.u8()? == 1;
                let mut peers = Vec::new();
                while !r.is_empty() {
                    peers.push(contact(r)?);
                }
                Self::Peers { are_last, peers }
            }
            kind::LEAVE => Self::Leave,
            kind::PING => Self::Ping,
            kind::COPY => Self::Copy {
                events: read_events(r, family, port)?,
            },
            kind::COMPARE => Self::Compare {
                first: position(r)?,
                last: position(r)?,
                sum: r.u64()?,
            },
            _ => return None,
        };
        r.is_empty().then_some((header, message))
    }

    /// Whether it answers a request.
    pub fn is_answer(&self) -> bool {
        use Message::{Acknowledged, Found, Joined, Peers};
        matches!(self, Acknowledged | Found { .. } | Joined | Peers { .. })
    }

    pub fn kind(&self) -> u8 {
        match self {
            Self::Events { .. } => kind::EVENTS,
            Self::Acknowledged => kind::ACKNOWLEDGED,
            Self::Find { .. } => kind::FIND,
            Self::Found { .. } => kind::FOUND,
            Self::Join { .. } => kind::JOIN,
            Self::Joined => kind::JOINED,
            Self::Page { .. } => kind::PAGE,
            Self::Peers { .. } => kind::PEERS,
            Self::Leave => kind::LEAVE,
            Self::Ping => kind::PING,
            Self::Copy { .. } => kind::COPY,
            Self::Compare { .. } => kind::COMPARE,
        }
    }

    /// Writes it, with a header of its kind.
    pub fn write(&self, header: Header, port: u16) -> Bytes {
        let mut w = header.with_kind(self.kind()).write();
        match self {
            Self::Events { levels, events } => {
                write_levels(&mut w, levels);
                write_events(&mut w, events, port);
            }
            Self::Copy { events } => write_events(&mut w, events, port),
            Self::Find { key } => w.u64(key.0),
            Self::Found {
                is_sender,
                cookie,
                peer,
            } => {
                w.u8((*is_sender).into());
                w.u64(*cookie);
                w.compact(&peer.address);
            }
            Self::Join { cookie } => w.u64(*cookie),
            Self::Page { after } => w.u64(after.0),
            Self::Peers { are_last, peers } => {
                w.u8((*are_last).into());
                peers.iter().for_each(|peer| w.compact(&peer.address));
            }
            Self::Compare { first, last, sum } => {
                w.u64(first.0);
                w.u64(last.0);
                w.u64(*sum);
            }
            Self::Acknowledged | Self::Joined | Self::Leave | Self::Ping => {}
        }
        w.finish()
    }
}

fn read_levels(r: &mut Reader) -> Option<Levels> {
    let first = r.u8()?;
    if first & SINGLE != 0 {
        return Some(Levels::Single(first & !SINGLE));
    }
    let entry = |both: u16| (both & TAG, (both >> TAG_BITS) as u8);
    let list = (0..first).map(|_| r.u16().map(entry));
    list.collect::<Option<_>>().map(Levels::List)
}

fn write_levels(w: &mut Writer, levels: &Levels) {
    match levels {
        Levels::Single(level) => w.u8(SINGLE | level),
        Levels::List(list) => {
            w.u8(list.len() as u8);
            for (tag, level) in list {
                w.u16(u16::from(*level) << TAG_BITS | tag & TAG);
            }
        }
    }
}

fn read_events(r: &mut Reader, family: Family, port: u16) -> Option<Vec<Pending>> {
    let mut events = Vec::new();
    while !r.is_empty() {
        let code = r.u8()?;
        let change = if code & LEFT == 0 {
            Change::Joined
        } else {
            Change::Left
        };
        for _ in 0..r.u8()? {
            let address = if code & WITH_PORT != 0 {
                r.compact(family)?
            } else {
                let ip = r.take(family.address_octets() - 2)?;
                crate::krpc::compact::read_address(&[ip.as_ref(), &port.to_be_bytes()].concat())?
            };
            let peer = Contact::of(address);
            let ttl = code & TTL;
            events.push(Pending {
                news: News { peer, change },
                ttl,
            });
        }
    }
    Some(events)
}

fn code(event: &Pending, port: u16) -> u8 {
    let left = if event.news.change == Change::Left {
        LEFT
    } else {
        0
    };
    let with_port = if event.news.peer.address.port() == port {
        0
    } else {
        WITH_PORT
    };
    event.ttl & TTL | left | with_port
}

fn write_events(w: &mut Writer, events: &[Pending], port: u16) {
    let mut groups: BTreeMap<u8, Vec<SocketAddr>> = BTreeMap::new();
    for event in events {
        let group = groups.entry(code(event, port)).or_default();
        group.push(event.news.peer.address);
    }
    for (code, addresses) in groups {
        for some in addresses.chunks(255) {
            w.u8(code);
            w.u8(some.len() as u8);
            for address in some {
                let mut octets = Writer::default();
                octets.compact(address);
                let octets = octets.finish();
                let told = octets.len() - if code & WITH_PORT == 0 { 2 } else { 0 };
                w.octets(&octets[..told]);
            }
        }
    }
}

/// Events of one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub events: Vec<Pending>,
    /// Length of the datagram.
    pub octets: usize,
}

/// Distributes events over as many datagrams as they need, at least one, none longer than
/// `max_octets`.
pub(super) fn chunks(
    levels: &Levels,
    events: &[Pending],
    port: u16,
    max_octets: usize,
) -> Vec<Chunk> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| code(event, port));
    let empty = || Chunk {
        events: Vec::new(),
        octets: Header::OCTETS + levels.octets(),
    };
    let mut chunks = Vec::new();
    let mut chunk = empty();
    // How many of the group are in the datagram.
    let mut in_group = 0;
    for event in events {
        let of = code(&event, port);
        let same = chunk
            .events
            .last()
            .is_some_and(|last| code(last, port) == of);
        in_group = if same { in_group } else { 0 };
        let family = Family::of(&event.news.peer.address);
        let address = family.address_octets() - if of & WITH_PORT == 0 { 2 } else { 0 };
        let needed = |in_group: usize| address + if in_group.is_multiple_of(255) { 2 } else { 0 };
        if chunk.octets + needed(in_group) > max_octets && !chunk.events.is_empty() {
            chunks.push(std::mem::replace(&mut chunk, empty()));
            in_group = 0;
        }
        chunk.octets += needed(in_group);
        chunk.events.push(event);
        in_group += 1;
    }
    chunks.push(chunk);
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::{Random, TransactionId};

    const PORT: u16 = 4000;

    fn header() -> Header {
        let id = TransactionId::random(&mut Random::from_number(1), 8);
        Header::request(Protocol::D1ht, Overlay::named("test"), 0, &id)
    }

    fn address(family: Family, at: u32, port: u16) -> SocketAddr {
        match family {
            Family::Ipv4 => (at.to_be_bytes(), port).into(),
            Family::Ipv6 => (
                [0x2001, 0xdb8, 0, 0, 0, 0, (at >> 16) as u16, at as u16],
                port,
            )
                .into(),
        }
    }

    fn pending() -> impl Strategy<Value = (u32, bool, u8, bool)> {
        (any::<u32>(), any::<bool>(), 0u8..32, any::<bool>())
    }

    fn events(family: Family, list: &[(u32, bool, u8, bool)]) -> Vec<Pending> {
        let event = |(at, left, ttl, usual): &(u32, bool, u8, bool)| Pending {
            news: News {
                peer: Contact::of(address(family, *at, if *usual { PORT } else { 5 })),
                change: if *left { Change::Left } else { Change::Joined },
            },
            ttl: *ttl,
        };
        list.iter().map(event).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Events in chunks, written and read, are the same events; chunks have the length that they
        /// say, and no more than they may; what is cut is no message, or has fewer events.
        #[test]
        fn events_and_back(
            ipv6: bool,
            list in prop::collection::vec(pending(), 0..300),
            levels in prop::option::of(prop::collection::vec((0..=TAG, 0u8..32), 0..20)),
            max_octets in 120usize..1400,
        ) {
            let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
            let sent = events(family, &list);
            let levels = levels.map_or(Levels::Single(3), Levels::List);
            let mut got = Vec::new();
            for chunk in chunks(&levels, &sent, PORT, max_octets) {
                let message = Message::Events { levels: levels.clone(), events: chunk.events };
                let octets = message.write(header(), PORT);
                prop_assert_eq!(octets.len(), chunk.octets);
                prop_assert!(octets.len() <= max_octets);
                let read = Message::read(Overlay::named("test"), family, PORT, &octets);
                let Some((_, Message::Events { levels: read, events })) = read else {
                    return Err(TestCaseError::fail("not read"));
                };
                prop_assert_eq!(&read, &levels);
                let count = events.len();
                got.extend(events);
                for end in (0..octets.len()).step_by(7) {
                    let cut = octets.slice(..end);
                    let cut = Message::read(Overlay::named("test"), family, PORT, &cut);
                    if let Some((_, Message::Events { events, .. })) = cut {
                        prop_assert!(events.len() < count);
                    }
                }
            }
            let key = |event: &Pending| (event.ttl, event.news);
            let mut sent = sent;
            sent.sort_by_key(key);
            got.sort_by_key(key);
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_octets_are_read_without_panic(kind in 0u8..16, body: Vec<u8>, ipv6: bool) {
            let mut writer = header().with_kind(kind).write();
            writer.octets(&body);
            let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
            let octets = writer.finish();
            if let Some((header, message)) = Message::read(Overlay::named("test"), family, PORT, &octets) {
                // What can be read can be written, and means the same.
                let again = message.write(header, PORT);
                let again = Message::read(Overlay::named("test"), family, PORT, &again);
                let sorted = |message: Message| match message {
                    Message::Events { levels, mut events } => {
                        events.sort_by_key(|event| (event.ttl, event.news));
                        Message::Events { levels, events }
                    }
                    Message::Copy { mut events } => {
                        events.sort_by_key(|event| (event.ttl, event.news));
                        Message::Copy { events }
                    }
                    other => other,
                };
                prop_assert_eq!(again.map(|(_, m)| sorted(m)), Some(sorted(message)));
            }
        }
    }
}
