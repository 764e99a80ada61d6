//! A KRPC datagram.

use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use super::{
    bencode::{BencodeError, Bencoded, Writer},
    compact::{self, Contact, Family},
    error::{ErrorCode, QueryError},
    item::{Item, MAX_VALUE_OCTETS, Signed},
};
use crate::{id::Id, runtime::Body};

/// Longest datagram that is sent, in octets (BEP 32), unless it carries an item.
pub const MAX_DATAGRAM_OCTETS: usize = 1024;

/// Longest datagram that carries an item, in octets.
///
/// A value of 1000 octets, which BEP 44 allows, leaves no room for key, signature, salt and token
/// within the 1024 octets of BEP 32. This still fits an IPv4 packet of 1500 octets with twenty
/// destinations.
pub const MAX_ITEM_DATAGRAM_OCTETS: usize = 1350;

/// A KRPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Ties an answer to its query (`t`).
    pub transaction: Bytes,
    /// Which program sent it (`v`); for people only.
    pub version: Option<Bytes>,
    /// Version of this project's extensions that the sender understands (`xc`); strangers neither
    /// send it nor mind it.
    pub extension: Option<i64>,
    /// What it says.
    pub kind: Kind,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A query.
    Query {
        /// Who asks.
        sender: Id,
        /// Whether the sender serves no queries itself (`ro`, BEP 43).
        read_only: bool,
        /// What is asked.
        query: Query,
    },
    /// An answer.
    Response {
        /// Who answers.
        sender: Id,
        /// The receiver's address as the sender sees it (`ip`, BEP 42).
        external: Option<SocketAddr>,
        /// The answer. Boxed, because it is large beside the rest.
        response: Box<Response>,
    },
    /// A refusal.
    Error(QueryError),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Are you there? (BEP 5)
    Ping,
    /// Who is closest to `target`? (BEP 5)
    FindNode {
        /// An identifier.
        target: Id,
        /// Nodes of which family.
        want: Option<Want>,
    },
    /// Who has announced itself under `info_hash`? (BEP 5)
    GetPeers {
        /// A key.
        info_hash: Id,
        /// Nodes of which family.
        want: Option<Want>,
    },
    /// I am to be found under `info_hash`. (BEP 5)
    AnnouncePeer {
        /// A key.
        info_hash: Id,
        /// The port; `None` is the one the query comes from (`implied_port`).
        port: Option<u16>,
        /// The token that the receiver gave out.
        token: Bytes,
    },
    /// Which item is stored under `target`? (BEP 44)
    Get {
        /// A key.
        target: Id,
        /// Leave out the item unless it is newer than this.
        seq: Option<i64>,
        /// Nodes of which family.
        want: Option<Want>,
    },
    /// Store this item. (BEP 44)
    Put {
        /// The item.
        item: Item,
        /// Only if the stored item has this sequence number.
        cas: Option<i64>,
        /// The token that the receiver gave out.
        token: Bytes,
    },
    /// What is stored under each of these keys, and who is closest to them? (`xc_get_many`, an
    /// extension of this project)
    GetMany {
        /// The keys, at most [`MAX_TARGETS`].
        targets: Vec<Id>,
    },
    /// Store this entry of a service under those of the keys that you are close to. (`xc_put_entry`,
    /// an extension of this project)
    PutEntry {
        /// The keys, at most [`MAX_TARGETS`].
        keys: Vec<Id>,
        /// The entry, signed.
        entry: Bytes,
        /// Tokens that the receivers gave out.
        token: Bytes,
    },
    /// Which entries of services are stored under this key? (`xc_get_entries`, an extension of this
    /// project)
    GetEntries {
        /// The key.
        target: Id,
        /// Where to go on, as the answer before said; empty to begin.
        after: Bytes,
    },
}

/// Most keys of one [`Query::GetMany`]: an answer has room for little more than a contact of each.
pub const MAX_TARGETS: usize = 16;

/// Which nodes an answer should have (BEP 32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// `n4`.
    pub ipv4: bool,
    /// `n6`.
    pub ipv6: bool,
}

impl Want {
    /// Of one family.
    pub fn only(family: Family) -> Self {
        Self {
            ipv4: family == Family::Ipv4,
            ipv6: family == Family::Ipv6,
        }
    }

    /// Of both.
    pub const BOTH: Self = Self {
        ipv4: true,
        ipv6: true,
    };

    /// Whether nodes of this family are wanted.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// An answer. It does not say to which query; only what it has can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Close nodes with IPv4 addresses; `None` if the key is not there.
    pub nodes: Option<Vec<Contact>>,
    /// Close nodes with IPv6 addresses.
    pub nodes6: Option<Vec<Contact>>,
    /// Who has announced itself.
    pub values: Vec<SocketAddr>,
    /// Permission to store, from whom it was received.
    pub token: Option<Bytes>,
    /// A stored item. The salt is not sent; it is empty here.
    pub item: Option<Item>,
    /// The stored item's sequence number, also where the item is left out.
    pub seq: Option<i64>,
    /// Answers to [`Query::GetMany`], in the order of its keys. None of them has answers within.
    pub many: Vec<Self>,
    /// How many entries of services there are under the key.
    pub entry_count: Option<i64>,
    /// Entries of services, signed.
    pub entries: Vec<Bytes>,
    /// Where to go on, if there are more entries.
    pub next: Option<Bytes>,
}

/// Why a datagram is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// It is not bencoded.
    #[error("not bencoded: {0}")]
    Bencode(#[from] BencodeError),
    /// It is no KRPC message, or an answer without what an answer must have.
    #[error("not a KRPC message: {0}")]
    NotKrpc(&'static str),
    /// It is a query that can only be answered with an error.
    #[error("a query that is answered with {error}")]
    Query {
        /// Its transaction identifier.
        transaction: Bytes,
        /// The error to answer with.
        error: QueryError,
    },
}

impl Message {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. Only [`DecodeError::Query`] is to be answered.
    pub fn decode(datagram: &Bytes) -> Result<Self, DecodeError> {
        let all = Bencoded::read(datagram)?;
        if !all.is_dict() {
            return Err(DecodeError::NotKrpc("it is no dictionary"));
        }
        let take = |octets: &[u8]| datagram.slice_ref(octets);
        let octets = |key: &[u8]| all.key(key).and_then(Bencoded::octets);
        let transaction = octets(b"t")
            .map(take)
            .ok_or(DecodeError::NotKrpc("it has no transaction (t)"))?;
        let version = octets(b"v").map(take);
        let extension = all.key(b"xc").and_then(Bencoded::integer);
        let kind = match octets(b"y") {
            Some(b"q") => {
                let answer = |error| DecodeError::Query {
                    transaction: transaction.clone(),
                    error,
                };
                if !all.is_canonical() {
                    return Err(answer(malformed("keys of a dictionary are not in order")));
                }
                let read_only = all.key(b"ro").and_then(Bencoded::integer) == Some(1);
                let method = octets(b"q").ok_or_else(|| answer(malformed("there is no q")))?;
                let args = Args::new(all.key(b"a"), datagram).map_err(answer)?;
                let sender = args.id(b"id").map_err(answer)?;
                let query = read_query(method, &args).map_err(answer)?;
                Kind::Query {
                    sender,
                    read_only,
                    query,
                }
            }
            Some(b"r") => {
                let values = all
                    .key(b"r")
                    .ok_or(DecodeError::NotKrpc("an answer has no r"))?;
                let sender = values
                    .key(b"id")
                    .and_then(Bencoded::octets)
                    .and_then(|id| Id::try_from(id).ok())
                    .ok_or(DecodeError::NotKrpc("an answer has no id of 20 octets"))?;
                // At the top by BEP 42; some implementations write it beside the answer.
                let external = all.key(b"ip").or_else(|| values.key(b"ip"));
                let external = external
                    .and_then(Bencoded::octets)
                    .and_then(compact::read_address);
                let mut response = Box::new(read_response(values, datagram));
                let many = values.key(b"xc_many").and_then(Bencoded::list);
                let many = many.unwrap_or_default().iter().take(MAX_TARGETS);
                response.many = many.map(|one| read_response(one, datagram)).collect();
                Kind::Response {
                    sender,
                    external,
                    response,
                }
            }
            Some(b"e") => Kind::Error(read_error(all.key(b"e"))),
            _ => return Err(DecodeError::NotKrpc("its kind (y) is none of q, r, e")),
        };
        Ok(Self {
            transaction,
            version,
            extension,
            kind,
        })
    }

    /// Writes it.
    pub fn encode(&self) -> Body {
        self.encode_for(&[])
    }

    /// Writes it for several receivers, each of which gave out one of `tokens`; with no tokens, the
    /// message's own is written.
    pub fn encode_for(&self, tokens: &[Bytes]) -> Body {
        let mut writer = Writer::default();
        writer.dict(|w| match &self.kind {
            Kind::Query {
                sender,
                read_only,
                query,
            } => {
                w.octets(b"a");
                let method = write_query(w, sender, query, tokens);
                w.key_octets("q", method.as_bytes());
                if *read_only {
                    w.key_integer("ro", 1);
                }
                self.write_end(w, "q");
            }
            Kind::Response {
                sender,
                external,
                response,
            } => {
                if let Some(external) = external {
                    let mut compact = Vec::new();
                    compact::write_address(external, &mut compact);
                    w.key_octets("ip", &compact);
                }
                w.octets(b"r");
                write_response(w, Some(sender), response);
                self.write_end(w, "r");
            }
            Kind::Error(error) => {
                w.octets(b"e");
                w.list(|w| {
                    w.integer(error.code.number());
                    w.octets(error.message.as_bytes());
                });
                self.write_end(w, "e");
            }
        });
        writer.finish()
    }

    fn write_end(&self, w: &mut Writer, kind: &str) {
        w.key_octets("t", &self.transaction);
        if let Some(version) = &self.version {
            w.key_octets("v", version);
        }
        if let Some(extension) = self.extension {
            w.key_integer("xc", extension);
        }
        w.key_octets("y", kind.as_bytes());
    }
}

fn malformed(message: &str) -> QueryError {
    QueryError::new(ErrorCode::Protocol, message)
}

/// Arguments of a query.
struct Args<'a> {
    dict: &'a Bencoded<'a>,
    datagram: &'a Bytes,
}

impl<'a> Args<'a> {
    fn new(dict: Option<&'a Bencoded<'a>>, datagram: &'a Bytes) -> Result<Self, QueryError> {
        match dict {
            Some(dict) if dict.is_dict() => Ok(Self { dict, datagram }),
            _ => Err(malformed("there are no arguments (a)")),
        }
    }

    fn octets(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.dict.key(key).and_then(Bencoded::octets)
    }

    fn integer(&self, key: &[u8]) -> Option<i64> {
        self.dict.key(key).and_then(Bencoded::integer)
    }

    fn bytes(&self, key: &[u8]) -> Option<Bytes> {
        self.octets(key)
            .map(|octets| self.datagram.slice_ref(octets))
    }

    fn id(&self, key: &[u8]) -> Result<Id, QueryError> {
        self.octets(key)
            .and_then(|octets| Id::try_from(octets).ok())
            .ok_or_else(|| {
                malformed(&format!(
                    "{} has not 20 octets",
                    String::from_utf8_lossy(key)
                ))
            })
    }

    /// Identifiers one after the other.
    fn ids(&self, key: &[u8]) -> Result<Vec<Id>, QueryError> {
        let octets = self.octets(key).unwrap_or_default();
        let whole = octets.len().is_multiple_of(Id::OCTETS);
        if !whole || octets.is_empty() || octets.len() > MAX_TARGETS * Id::OCTETS {
            let key = String::from_utf8_lossy(key);
            return Err(malformed(&format!(
                "{key} are not between 1 and {MAX_TARGETS} identifiers"
            )));
        }
        let ids = octets.chunks_exact(Id::OCTETS);
        Ok(ids.filter_map(|id| Id::try_from(id).ok()).collect())
    }

    fn token(&self) -> Result<Bytes, QueryError> {
        self.bytes(b"token")
            .ok_or_else(|| malformed("there is no token"))
    }

    fn want(&self) -> Option<Want> {
        let list = self.dict.key(b"want")?.list()?;
        let has = |flag: &[u8]| list.iter().any(|item| item.octets() == Some(flag));
        Some(Want {
            ipv4: has(b"n4"),
            ipv6: has(b"n6"),
        })
    }
}

fn read_query(method: &[u8], args: &Args<'_>) -> Result<Query, QueryError> {
    Ok(match method {
        b"ping" => Query::Ping,
        b"find_node" => Query::FindNode {
            target: args.id(b"target")?,
            want: args.want(),
        },
        b"get_peers" => Query::GetPeers {
            info_hash: args.id(b"info_hash")?,
            want: args.want(),
        },
        b"announce_peer" => {
            let implied = args
                .integer(b"implied_port")
                .is_some_and(|implied| implied != 0);
            let port = args
                .integer(b"port")
                .and_then(|port| u16::try_from(port).ok());
            let port = match port {
                _ if implied => None,
                Some(port) if port != 0 => Some(port),
                _ => return Err(malformed("port is not between 1 and 65535")),
            };
            Query::AnnouncePeer {
                info_hash: args.id(b"info_hash")?,
                port,
                token: args.token()?,
            }
        }
        b"get" => Query::Get {
            target: args.id(b"target")?,
            seq: args.integer(b"seq"),
            want: args.want(),
        },
        b"put" => {
            let value = args
                .dict
                .key(b"v")
                .ok_or_else(|| malformed("there is no v"))?;
            let value = args.datagram.slice_ref(value.raw);
            let signed = match args.octets(b"k") {
                None => None,
                Some(key) => Some(Signed {
                    key: key
                        .try_into()
                        .map_err(|_| malformed("k has not 32 octets"))?,
                    salt: args.bytes(b"salt").unwrap_or_default(),
                    seq: args
                        .integer(b"seq")
                        .ok_or_else(|| malformed("there is no seq"))?,
                    signature: args
                        .octets(b"sig")
                        .and_then(|signature| signature.try_into().ok())
                        .ok_or_else(|| malformed("sig has not 64 octets"))?,
                }),
            };
            let item = Item { value, signed };
            Query::Put {
                item,
                cas: args.integer(b"cas"),
                token: args.token()?,
            }
        }
        b"xc_get_many" => Query::GetMany {
            targets: args.ids(b"targets")?,
        },
        b"xc_put_entry" => Query::PutEntry {
            keys: args.ids(b"keys")?,
            entry: args
                .bytes(b"entry")
                .ok_or_else(|| malformed("there is no entry"))?,
            token: args.token()?,
        },
        b"xc_get_entries" => Query::GetEntries {
            target: args.id(b"target")?,
            after: args.bytes(b"after").unwrap_or_default(),
        },
        _ => {
            let method = String::from_utf8_lossy(&method[..method.len().min(32)]).into_owned();
            return Err(QueryError::new(
                ErrorCode::MethodUnknown,
                format!("method {method} is unknown"),
            ));
        }
    })
}

/// Writes the arguments: the name of the method.
fn write_query(w: &mut Writer, sender: &Id, query: &Query, tokens: &[Bytes]) -> &'static str {
    let mut method = "";
    w.dict(|w| {
        let write_want = |w: &mut Writer, want: &Option<Want>| {
            if let Some(want) = want {
                w.octets(b"want");
                w.list(|w| {
                    for (wanted, flag) in [(want.ipv4, b"n4"), (want.ipv6, b"n6")] {
                        if wanted {
                            w.octets(flag);
                        }
                    }
                });
            }
        };
        let write_token = |w: &mut Writer, token: &Bytes| {
            w.octets(b"token");
            if tokens.is_empty() {
                w.octets(token);
            } else {
                w.own_octets(tokens);
            }
        };
        if let Query::Put { cas: Some(cas), .. } = query {
            w.key_integer("cas", *cas);
        }
        match query {
            Query::PutEntry { entry, .. } => w.key_octets("entry", entry),
            Query::GetEntries { after, .. } if !after.is_empty() => w.key_octets("after", after),
            _ => {}
        }
        w.key_octets("id", sender.octets());
        match query {
            Query::Ping => method = "ping",
            Query::FindNode { target, want } => {
                method = "find_node";
                w.key_octets("target", target.octets());
                write_want(w, want);
            }
            Query::GetPeers { info_hash, want } => {
                method = "get_peers";
                w.key_octets("info_hash", info_hash.octets());
                write_want(w, want);
            }
            Query::AnnouncePeer {
                info_hash,
                port,
                token,
            } => {
                method = "announce_peer";
                w.key_integer("implied_port", i64::from(port.is_none()));
                w.key_octets("info_hash", info_hash.octets());
                // Implementations without implied_port need a port all the same.
                w.key_integer("port", i64::from(port.unwrap_or(1)));
                write_token(w, token);
            }
            Query::Get { target, seq, want } => {
                method = "get";
                if let Some(seq) = seq {
                    w.key_integer("seq", *seq);
                }
                w.key_octets("target", target.octets());
                write_want(w, want);
            }
            Query::Put { item, token, .. } => {
                method = "put";
                if let Some(signed) = &item.signed {
                    w.key_octets("k", &signed.key);
                    if !signed.salt.is_empty() {
                        w.key_octets("salt", &signed.salt);
                    }
                    w.key_integer("seq", signed.seq);
                    w.key_octets("sig", &signed.signature);
                }
                // BEP 44 has none, but the crate `mainline` does not read a `put` without one. The
                // longest items have no room for it.
                let salt = item.signed.as_ref().map_or(0, |signed| signed.salt.len());
                if item.value.len() + salt <= MAX_VALUE_OCTETS {
                    w.key_octets("target", item.target().octets());
                }
                write_token(w, token);
                w.octets(b"v");
                w.raw(&item.value);
            }
            Query::GetMany { targets } => {
                method = "xc_get_many";
                w.key_octets("targets", &concat(targets));
            }
            Query::PutEntry { keys, token, .. } => {
                method = "xc_put_entry";
                w.key_octets("keys", &concat(keys));
                write_token(w, token);
            }
            Query::GetEntries { target, .. } => {
                method = "xc_get_entries";
                w.key_octets("target", target.octets());
            }
        }
    });
    method
}

fn concat(ids: &[Id]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.octets()).collect()
}

fn read_response(values: &Bencoded<'_>, datagram: &Bytes) -> Response {
    let octets = |key: &[u8]| values.key(key).and_then(Bencoded::octets);
    let contacts =
        |key: &[u8], family| octets(key).map(|nodes| compact::read_contacts(nodes, family));
    let seq = values.key(b"seq").and_then(Bencoded::integer);
    let item = values.key(b"v").and_then(|value| {
        let value = datagram.slice_ref(value.raw);
        let signed = match octets(b"k") {
            None => None,
            // A mutable item that lacks a part is none.
            Some(key) => Some(Signed {
                key: key.try_into().ok()?,
                salt: Bytes::new(),
                seq: seq?,
                signature: octets(b"sig")?.try_into().ok()?,
            }),
        };
        Some(Item { value, signed })
    });
    let addresses = values
        .key(b"values")
        .and_then(Bencoded::list)
        .unwrap_or_default();
    Response {
        nodes: contacts(b"nodes", Family::Ipv4),
        nodes6: contacts(b"nodes6", Family::Ipv6),
        values: addresses
            .iter()
            .filter_map(|address| address.octets().and_then(compact::read_address))
            .collect(),
        token: octets(b"token").map(|token| datagram.slice_ref(token)),
        item,
        seq,
        many: Vec::new(),
        entry_count: values.key(b"xc_count").and_then(Bencoded::integer),
        entries: {
            let entries = values.key(b"xc_entries").and_then(Bencoded::list);
            let entries = entries.unwrap_or_default().iter();
            entries
                .filter_map(|entry| Some(datagram.slice_ref(entry.octets()?)))
                .collect()
        },
        next: octets(b"xc_next").map(|next| datagram.slice_ref(next)),
    }
}

fn write_response(w: &mut Writer, sender: Option<&Id>, response: &Response) {
    let signed = response.item.as_ref().and_then(|item| item.signed.as_ref());
    w.dict(|w| {
        if let Some(sender) = sender {
            w.key_octets("id", sender.octets());
        }
        if let Some(signed) = signed {
            w.key_octets("k", &signed.key);
        }
        for (key, nodes) in [("nodes", &response.nodes), ("nodes6", &response.nodes6)] {
            if let Some(nodes) = nodes {
                w.key_octets(key, &compact::write_contacts(nodes));
            }
        }
        if let Some(seq) = signed.map(|signed| signed.seq).or(response.seq) {
            w.key_integer("seq", seq);
        }
        if let Some(signed) = signed {
            w.key_octets("sig", &signed.signature);
        }
        if let Some(token) = &response.token {
            w.key_octets("token", token);
        }
        if let Some(item) = &response.item {
            w.octets(b"v");
            w.raw(&item.value);
        }
        if !response.values.is_empty() {
            w.octets(b"values");
            w.list(|w| {
                for address in &response.values {
                    let mut compact = Vec::new();
                    compact::write_address(address, &mut compact);
                    w.octets(&compact);
                }
            });
        }
        if let Some(count) = response.entry_count {
            w.key_integer("xc_count", count);
        }
        if !response.entries.is_empty() {
            w.octets(b"xc_entries");
            w.list(|w| response.entries.iter().for_each(|entry| w.octets(entry)));
        }
        if !response.many.is_empty() {
            w.octets(b"xc_many");
            w.list(|w| {
                for one in &response.many {
                    write_response(w, None, one);
                }
            });
        }
        if let Some(next) = &response.next {
            w.key_octets("xc_next", next);
        }
    });
}

fn read_error(error: Option<&Bencoded<'_>>) -> QueryError {
    let list = error.and_then(Bencoded::list).unwrap_or_default();
    let code = list
        .first()
        .and_then(Bencoded::integer)
        .map_or(ErrorCode::Generic, ErrorCode::from_number);
    let message = list.get(1).and_then(Bencoded::octets).unwrap_or_default();
    QueryError::new(code, String::from_utf8_lossy(message))
}
