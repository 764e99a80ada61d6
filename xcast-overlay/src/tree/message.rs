//! The messages of a tree.
//!
//! All are binary, begin with `XCTR`, the version, the kind, and eight octets that stand for the
//! tree, and have numbers in network byte order. Other datagrams are not read.

use std::net::SocketAddr;

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::{
    id::Id,
    signed::{Purpose, Signed},
    wire::{self, Magic, Reader, Writer},
};

const PROTOCOL: Magic = Magic {
    magic: *b"XCTR",
    version: 1,
};
/// Octets of a message of the stream in front of its payload.
pub(super) const DATA_OCTETS: usize = Magic::OCTETS + 8 + 64 + 8;
/// Most members that a message names.
pub(super) const MAX_NAMED: usize = 8;
/// Most ranges of messages that one request asks for.
pub(super) const MAX_RANGES: usize = 32;

/// Whether a datagram is one of a tree's members, for programs that share a port between protocols.
pub fn is_for_tree(datagram: &[u8]) -> bool {
    PROTOCOL.is_of(datagram)
}

/// A tree: its name and the key of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TreeKey {
    /// Stands for the tree where octets are dear.
    pub tag: [u8; 8],
    id: Id,
    source: [u8; 32],
}

impl TreeKey {
    pub fn new(name: &[u8], source: [u8; 32]) -> Self {
        let id = Id::hash_of(&[b"xcast tree 1", &source, name]);
        let tag = wire::tag("tree", &[&source, name]);
        Self { tag, id, source }
    }

    /// A message of the stream, signed.
    pub fn sign(&self, key: &SigningKey, seq: u64, payload: &[u8]) -> Bytes {
        let body = Bytes::from([&seq.to_be_bytes()[..], payload].concat());
        let signed = Signed::new(key, Purpose::Stream, self.id.octets(), body);
        let mut w = begin(kind::DATA, self.tag);
        w.octets(&signed.signature);
        w.octets(&signed.body);
        w.finish()
    }

    /// A pulse, signed.
    pub fn sign_pulse(&self, key: &SigningKey, number: u64, head: u64) -> Pulse {
        let body = Pulse::body(number, head);
        let signed = Signed::new(key, Purpose::Pulse, self.id.octets(), body);
        Pulse {
            number,
            head,
            signature: signed.signature,
        }
    }

    /// Whether the source has signed a pulse.
    pub fn is_pulse_signed(&self, pulse: &Pulse) -> bool {
        let body = Pulse::body(pulse.number, pulse.head);
        self.is_of_source(Purpose::Pulse, body, pulse.signature)
    }

    /// Whether the source has signed a message of the stream.
    pub fn is_signed(&self, data: &Data) -> bool {
        self.is_of_source(Purpose::Stream, data.body.clone(), data.signature)
    }

    fn is_of_source(&self, purpose: Purpose, body: Bytes, signature: [u8; 64]) -> bool {
        let key = self.source;
        let signed = Signed {
            body,
            key,
            signature,
        };
        signed.is_valid(purpose, self.id.octets())
    }
}

/// A member somebody else can be told of, and the token that its children know.
pub(super) type Named = (SocketAddr, u64);

/// A sign of life of the source, which goes down the tree as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pulse {
    /// Grows from pulse to pulse.
    pub number: u64,
    /// One more than the highest message that there was.
    pub head: u64,
    /// The source's, over both.
    signature: [u8; 64],
}

impl Pulse {
    /// One that nobody has signed, for a member that has heard none.
    pub fn unsigned(number: u64) -> Self {
        Self {
            number,
            head: number,
            signature: [0; 64],
        }
    }

    fn body(number: u64, head: u64) -> Bytes {
        [number, head].map(u64::to_be_bytes).concat().into()
    }
}

/// What a parent tells its children again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// The parent's token.
    pub token: u64,
    /// The latest pulse of the source that it knows.
    pub pulse: Pulse,
    /// How far it is from the source.
    pub depth: u8,
    /// Its own parent.
    pub grandparent: Option<Named>,
    /// Some of its children.
    pub siblings: Vec<SocketAddr>,
}

/// What a child tells its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The child's token.
    pub token: u64,
    /// The next message that it can deliver.
    pub next: u64,
    /// It is behind, and wants only what it asks for.
    pub paused: bool,
    /// How many more children it could have.
    pub room: u16,
    /// Depth of the member next to the source, among itself and those below it, that has room;
    /// 255 if there is none.
    pub room_depth: u8,
}

/// A message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    pub seq: u64,
    pub signature: [u8; 64],
    /// Number and payload.
    body: Bytes,
    /// All of it.
    pub datagram: Bytes,
}

/// Why somebody cannot be a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no room.
    Full,
    /// Not connected to the source.
    Adrift,
    /// The pulse is no newer than the asker's: it might be an ancestor.
    NotYet,
    /// The cookie is wrong.
    Stranger,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Full, Self::Adrift, Self::NotYet, Self::Stranger];
}

/// An answer to [`Message::Find`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Proves that the asker gets what is sent to its address.
    pub cookie: u64,
    /// The asker's address, as it is seen from here.
    pub seen: SocketAddr,
    pub pulse: u64,
    pub depth: u8,
    /// How many more children it could have: none if it is not connected.
    pub room: u16,
    /// Some of its children, which may be nearer or have room.
    pub children: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Who are you?
    Find {
        transaction: [u8; 8],
    },
    Found {
        transaction: [u8; 8],
        found: Found,
    },
    /// May I be your child? `token` is the asker's, `pulse` its latest.
    Attach {
        transaction: [u8; 8],
        cookie: u64,
        token: u64,
        pulse: u64,
    },
    /// Yes.
    Attached {
        transaction: [u8; 8],
        beat: Beat,
    },
    /// No.
    Refused {
        transaction: [u8; 8],
        why: Refusal,
    },
    Beat(Beat),
    Report(Report),
    /// What the child with this token is no longer, or never was.
    NoChild {
        token: u64,
    },
    /// Goodbye, to parent and children: the tokens that the one and the others know.
    Leave {
        token: u64,
        family: u64,
    },
    Data(Data),
    /// Messages that are missing: first of each range, and how many. `token` is one that the asked
    /// one knows: its own, or its parent's. `cookie` is what [`Message::Prove`] has told.
    Want {
        token: u64,
        cookie: u64,
        ranges: Vec<(u64, u16)>,
    },
    /// Of what was asked for, this is nowhere here, and will not be.
    Lack {
        token: u64,
        ranges: Vec<(u64, u16)>,
    },
    /// Ask again with this, so that nobody has messages sent to an address that is not its own.
    Prove {
        token: u64,
        cookie: u64,
    },
}

mod kind {
    pub const FIND: u8 = 1;
    pub const FOUND: u8 = 2;
    pub const ATTACH: u8 = 3;
    pub const ATTACHED: u8 = 4;
    pub const REFUSED: u8 = 5;
    pub const BEAT: u8 = 6;
    pub const REPORT: u8 = 7;
    pub const NO_CHILD: u8 = 8;
    pub const LEAVE: u8 = 9;
    pub const DATA: u8 = 10;
    pub const WANT: u8 = 11;
    pub const LACK: u8 = 12;
    pub const PROVE: u8 = 13;
}

fn begin(kind: u8, tag: [u8; 8]) -> Writer {
    let mut writer = PROTOCOL.write(kind);
    writer.octets(&tag);
    writer
}

impl Message {
    /// Writes it, for the tree of this tag.
    pub fn encode(&self, tag: [u8; 8]) -> Bytes {
        let begin = |kind| begin(kind, tag);
        let mut w;
        match self {
            Self::Find { transaction } => {
                w = begin(kind::FIND);
                w.octets(transaction);
            }
            Self::Found { transaction, found } => {
                w = begin(kind::FOUND);
                w.octets(transaction);
                w.u64(found.cookie);
                w.address(&found.seen);
                w.u64(found.pulse);
                w.u8(found.depth);
                w.u16(found.room);
                w.list(&found.children, Writer::address);
            }
            Self::Attach {
                transaction,
                cookie,
                token,
                pulse,
            } => {
                w = begin(kind::ATTACH);
                w.octets(transaction);
                w.u64(*cookie);
                w.u64(*token);
                w.u64(*pulse);
            }
            Self::Attached { transaction, beat } => {
                w = begin(kind::ATTACHED);
                w.octets(transaction);
                write_beat(&mut w, beat);
            }
            Self::Refused { transaction, why } => {
                w = begin(kind::REFUSED);
                w.octets(transaction);
                w.u8(*why as u8);
            }
            Self::Beat(beat) => {
                w = begin(kind::BEAT);
                write_beat(&mut w, beat);
            }
            Self::Report(report) => {
                w = begin(kind::REPORT);
                w.u64(report.token);
                w.u64(report.next);
                w.u8(report.paused.into());
                w.u16(report.room);
                w.u8(report.room_depth);
            }
            Self::NoChild { token } => {
                w = begin(kind::NO_CHILD);
                w.u64(*token);
            }
            Self::Leave { token, family } => {
                w = begin(kind::LEAVE);
                w.u64(*token);
                w.u64(*family);
            }
            Self::Data(data) => return data.datagram.clone(),
            Self::Want {
                token,
                cookie,
                ranges,
            } => {
                w = begin(kind::WANT);
                w.u64(*token);
                w.u64(*cookie);
                write_ranges(&mut w, ranges);
            }
            Self::Lack { token, ranges } => {
                w = begin(kind::LACK);
                w.u64(*token);
                write_ranges(&mut w, ranges);
            }
            Self::Prove { token, cookie } => {
                w = begin(kind::PROVE);
                w.u64(*token);
                w.u64(*cookie);
            }
        }
        w.finish()
    }

    /// Reads a datagram; `None` if it is no message of the tree of this tag.
    pub fn decode(datagram: &Bytes, tag: [u8; 8]) -> Option<Self> {
        let (kind, mut r) = PROTOCOL.read(datagram)?;
        if r.array()? != tag {
            return None;
        }
        let message = match kind {
            kind::FIND => Self::Find {
                transaction: r.array()?,
            },
            kind::FOUND => Self::Found {
                transaction: r.array()?,
                found: Found {
                    cookie: r.u64()?,
                    seen: r.address()?,
                    pulse: r.u64()?,
                    depth: r.u8()?,
                    room: r.u16()?,
                    children: r.list(MAX_NAMED, Reader::address)?,
                },
            },
            kind::ATTACH => Self::Attach {
                transaction: r.array()?,
                cookie: r.u64()?,
                token: r.u64()?,
                pulse: r.u64()?,
            },
            kind::ATTACHED => Self::Attached {
                transaction: r.array()?,
                beat: read_beat(&mut r)?,
            },
            kind::REFUSED => Self::Refused {
                transaction: r.array()?,
                why: *Refusal::ALL.get(usize::from(r.u8()?))?,
            },
            kind::BEAT => Self::Beat(read_beat(&mut r)?),
            kind::REPORT => Self::Report(Report {
                token: r.u64()?,
                next: r.u64()?,
                paused: r.u8()? != 0,
                room: r.u16()?,
                room_depth: r.u8()?,
            }),
            kind::NO_CHILD => Self::NoChild { token: r.u64()? },
            kind::LEAVE => Self::Leave {
                token: r.u64()?,
                family: r.u64()?,
            },
            kind::DATA => {
                let signature = r.array()?;
                let body = r.clone().rest();
                let seq = r.u64()?;
                return Some(Self::Data(Data {
                    seq,
                    signature,
                    body,
                    datagram: datagram.clone(),
                }));
            }
            kind::WANT => Self::Want {
                token: r.u64()?,
                cookie: r.u64()?,
                ranges: read_ranges(&mut r)?,
            },
            kind::LACK => Self::Lack {
                token: r.u64()?,
                ranges: read_ranges(&mut r)?,
            },
            kind::PROVE => Self::Prove {
                token: r.u64()?,
                cookie: r.u64()?,
            },
            _ => return None,
        };
        r.end()?;
        Some(message)
    }
}

fn write_beat(w: &mut Writer, beat: &Beat) {
    w.u64(beat.token);
    w.u64(beat.pulse.number);
    w.u64(beat.pulse.head);
    w.octets(&beat.pulse.signature);
    w.u8(beat.depth);
    w.list(beat.grandparent.as_slice(), |w, (address, token)| {
        w.address(address);
        w.u64(*token);
    });
    w.list(&beat.siblings, Writer::address);
}

fn read_beat(r: &mut Reader) -> Option<Beat> {
    Some(Beat {
        token: r.u64()?,
        pulse: Pulse {
            number: r.u64()?,
            head: r.u64()?,
            signature: r.array()?,
        },
        depth: r.u8()?,
        grandparent: r.list(1, |r| Some((r.address()?, r.u64()?)))?.pop(),
        siblings: r.list(MAX_NAMED, Reader::address)?,
    })
}

fn write_ranges(w: &mut Writer, ranges: &[(u64, u16)]) {
    w.list(ranges, |w, (first, count)| {
        w.u64(*first);
        w.u16(*count);
    });
}

fn read_ranges(r: &mut Reader) -> Option<Vec<(u64, u16)>> {
    r.list(MAX_RANGES, |r| Some((r.u64()?, r.u16()?)))
}

/// Puts numbers in order into ranges, as many as one message has room for.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u16)> {
    let mut ranges: Vec<(u64, u16)> = Vec::new();
    for number in numbers {
        if let Some((first, count)) = ranges.last_mut()
            && *first + u64::from(*count) == number
            && *count < u16::MAX
        {
            *count += 1;
        } else if ranges.len() < MAX_RANGES {
            ranges.push((number, 1));
        } else {
            break;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::krpc::signing_key;

    const TAG: [u8; 8] = *b"the tree";

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ipv4 = any::<[u8; 3]>().prop_map(|ip| ([10, ip[0], ip[1], ip[2]], 1).into());
        let ipv6 = any::<u16>().prop_map(|n| ([0x2001, 0xdb8, n, 0, 0, 0, 0, 1], 9).into());
        prop_oneof![ipv4, ipv6]
    }

    fn beat() -> impl Strategy<Value = Beat> {
        let named = prop::option::of((address(), any::<u64>()));
        let siblings = prop::collection::vec(address(), 0..=MAX_NAMED);
        let pulse = any::<(u64, u64, [u8; 32])>().prop_map(|(number, head, octets)| Pulse {
            number,
            head,
            signature: std::array::from_fn(|at| octets[at % 32]),
        });
        let numbers = (any::<u64>(), pulse, any::<u8>());
        (numbers, named, siblings).prop_map(|((token, pulse, depth), grandparent, siblings)| Beat {
            token,
            pulse,
            depth,
            grandparent,
            siblings,
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let transaction = any::<[u8; 8]>;
        let ranges = || prop::collection::vec(any::<(u64, u16)>(), 0..=MAX_RANGES);
        prop_oneof![
            transaction().prop_map(|transaction| Message::Find { transaction }),
            (
                transaction(),
                any::<(u64, u64, u8, u16)>(),
                prop::collection::vec(address(), 1..8)
            )
                .prop_map(|(transaction, (cookie, pulse, depth, room), children)| {
                    let seen = children[0];
                    let found = Found {
                        cookie,
                        seen,
                        pulse,
                        depth,
                        room,
                        children,
                    };
                    Message::Found { transaction, found }
                }),
            (transaction(), any::<[u64; 3]>()).prop_map(|(transaction, [cookie, token, pulse])| {
                Message::Attach {
                    transaction,
                    cookie,
                    token,
                    pulse,
                }
            }),
            (transaction(), beat())
                .prop_map(|(transaction, beat)| Message::Attached { transaction, beat }),
            (transaction(), 0..4usize).prop_map(|(transaction, why)| Message::Refused {
                transaction,
                why: Refusal::ALL[why]
            }),
            beat().prop_map(Message::Beat),
            any::<(u64, u64, bool, u16, u8)>().prop_map(
                |(token, next, paused, room, room_depth)| Message::Report(Report {
                    token,
                    next,
                    paused,
                    room,
                    room_depth
                })
            ),
            any::<u64>().prop_map(|token| Message::NoChild { token }),
            any::<[u64; 2]>().prop_map(|[token, family]| Message::Leave { token, family }),
            (any::<[u64; 2]>(), ranges()).prop_map(|([token, cookie], ranges)| Message::Want {
                token,
                cookie,
                ranges
            }),
            any::<[u64; 2]>().prop_map(|[token, cookie]| Message::Prove { token, cookie }),
            (any::<u64>(), ranges()).prop_map(|(token, ranges)| Message::Lack { token, ranges }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message()) {
            let datagram = message.encode(TAG);
            prop_assert_eq!(Message::decode(&datagram, TAG), Some(message));
            prop_assert_eq!(Message::decode(&datagram, *b"another!"), None);
            for end in 0..datagram.len() {
                prop_assert_eq!(Message::decode(&datagram.slice(..end), TAG), None);
            }
        }

        #[test]
        fn any_octets_may_come(kind in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut writer = begin(kind, TAG);
            writer.octets(&rest);
            let datagram = writer.finish();
            if let Some(message) = Message::decode(&datagram, TAG) {
                // Flags may be written in more than one way, but mean the same.
                let again = Message::decode(&message.encode(TAG), TAG);
                let same = matches!(message, Message::Data(_)) || again.as_ref() == Some(&message);
                prop_assert!(same, "{message:?} {again:?}");
            }
        }
    }

    #[test]
    fn only_the_source_can_sign() {
        let key = signing_key([1; 32]);
        let tree = TreeKey::new(b"news", key.verifying_key().to_bytes());
        let datagram = tree.sign(&key, 7, b"hello");
        assert_eq!(datagram.len(), DATA_OCTETS + 5);
        let read = |datagram: &Bytes| match Message::decode(datagram, tree.tag) {
            Some(Message::Data(data)) => data,
            other => panic!("{other:?}"),
        };
        let data = read(&datagram);
        assert_eq!(
            (data.seq, &data.datagram[DATA_OCTETS..]),
            (7, &b"hello"[..])
        );
        assert!(tree.is_signed(&data));
        // Every octet counts.
        for at in Magic::OCTETS + 8..datagram.len() {
            let mut changed = datagram.to_vec();
            changed[at] ^= 1;
            assert!(!tree.is_signed(&read(&changed.into())), "octet {at}");
        }
        // Of the same source, but another tree.
        let other = TreeKey::new(b"other", key.verifying_key().to_bytes());
        assert!(!other.is_signed(&data));
    }

    #[test]
    fn only_the_source_has_a_pulse() {
        let key = signing_key([1; 32]);
        let tree = TreeKey::new(b"news", key.verifying_key().to_bytes());
        let pulse = tree.sign_pulse(&key, 7, 9);
        assert!(tree.is_pulse_signed(&pulse));
        for changed in [
            Pulse { number: 8, ..pulse },
            Pulse { head: 10, ..pulse },
            Pulse::unsigned(7),
            tree.sign_pulse(&signing_key([2; 32]), 7, 9),
        ] {
            assert!(!tree.is_pulse_signed(&changed), "{changed:?}");
        }
        let other = TreeKey::new(b"other", key.verifying_key().to_bytes());
        assert!(!other.is_pulse_signed(&pulse));
    }

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10]), [(1, 3), (7, 1), (9, 2)]);
        assert_eq!(ranges((0..1000).map(|n| 2 * n)).len(), MAX_RANGES);
    }
}
