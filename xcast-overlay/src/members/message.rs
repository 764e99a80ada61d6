//! The messages of members.

use bytes::Bytes;

use crate::{
    id::Id,
    krpc::bencode::{Bencoded, Writer},
    runtime::Body,
    signed::Signed,
};

/// Version of these messages.
const VERSION: i64 = 1;

/// A message of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub transaction: Bytes,
    pub overlay: Bytes,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request(Request),
    /// What a member answers to any request: who it is, and its state if it was asked for.
    Answer {
        sender: Id,
        state: Option<Bytes>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Records of members, the sender's own or others'.
    News(Vec<Signed>),
    /// The sender's state: the answer has the receiver's.
    State {
        sender: Id,
        state: Bytes,
    },
    Subscribe(Signed),
    Event(Signed),
}

impl Request {
    fn method(&self) -> &'static str {
        match self {
            Self::News(_) => "xc_news",
            Self::State { .. } => "xc_state",
            Self::Subscribe(_) => "xc_subscribe",
            Self::Event(_) => "xc_event",
        }
    }
}

/// Whether a datagram is a query for [`Members`](super::Members), and not for a node of the DHT.
pub fn is_for_members(datagram: &[u8]) -> bool {
    let methods: [&[u8]; 4] = [b"xc_news", b"xc_state", b"xc_subscribe", b"xc_event"];
    let item = Bencoded::read(datagram).ok();
    let method = item.as_ref().and_then(|item| item.key(b"q")?.octets());
    method.is_some_and(|method| methods.contains(&method))
}

impl Message {
    /// Reads a datagram; `None` if it is no message of members of version 1.
    pub fn decode(datagram: &Bytes) -> Option<Self> {
        let all = Bencoded::read(datagram).ok()?;
        let octets = |key: &[u8]| Some(datagram.slice_ref(all.key(key)?.octets()?));
        if !all.is_canonical() || all.key(b"xc")?.integer()? != VERSION {
            return None;
        }
        let inner = |key: &[u8], field: &[u8]| {
            Some(datagram.slice_ref(all.key(key)?.key(field)?.octets()?))
        };
        let id = |octets: Bytes| Id::try_from(octets.as_ref()).ok();
        let kind = match octets(b"y")?.as_ref() {
            b"q" => {
                let args = all.key(b"a")?;
                let signed = || Signed::read(args.key(b"n")?, datagram);
                Kind::Request(match octets(b"q")?.as_ref() {
                    b"xc_news" => {
                        let records = args.key(b"n")?.list()?.iter();
                        Request::News(records.filter_map(|r| Signed::read(r, datagram)).collect())
                    }
                    b"xc_state" => Request::State {
                        sender: id(inner(b"a", b"id")?)?,
                        state: inner(b"a", b"s")?,
                    },
                    b"xc_subscribe" => Request::Subscribe(signed()?),
                    b"xc_event" => Request::Event(signed()?),
                    _ => return None,
                })
            }
            b"r" => Kind::Answer {
                sender: id(inner(b"r", b"id")?)?,
                state: inner(b"r", b"s"),
            },
            _ => return None,
        };
        Some(Self {
            transaction: octets(b"t")?,
            overlay: octets(b"o")?,
            kind,
        })
    }

    /// Writes it.
    pub fn encode(&self) -> Body {
        let mut writer = Writer::default();
        writer.dict(|w| {
            match &self.kind {
                Kind::Request(request) => {
                    w.octets(b"a");
                    w.dict(|w| match request {
                        Request::News(records) => {
                            w.octets(b"n");
                            w.list(|w| records.iter().for_each(|record| record.write(w)));
                        }
                        Request::State { sender, state } => {
                            w.key_octets("id", sender.octets());
                            w.key_octets("s", state);
                        }
                        Request::Subscribe(signed) | Request::Event(signed) => {
                            w.octets(b"n");
                            signed.write(w);
                        }
                    });
                    w.key_octets("o", &self.overlay);
                    w.key_octets("q", request.method().as_bytes());
                }
                Kind::Answer { sender, state } => {
                    w.key_octets("o", &self.overlay);
                    w.octets(b"r");
                    w.dict(|w| {
                        w.key_octets("id", sender.octets());
                        if let Some(state) = state {
                            w.key_octets("s", state);
                        }
                    });
                }
            }
            w.key_octets("t", &self.transaction);
            w.key_integer("xc", VERSION);
            let kind: &[u8] = match self.kind {
                Kind::Request(_) => b"q",
                Kind::Answer { .. } => b"r",
            };
            w.key_octets("y", kind);
        });
        writer.finish()
    }
}
