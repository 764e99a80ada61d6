//! What a node answers.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    config::Config,
    limits::AnswerBudget,
    storage::Storage,
    table::Table,
    tokens::{TOKEN_OCTETS, Tokens},
};
use crate::{
    id::Id,
    krpc::{ErrorCode, Family, Item, MAX_DATAGRAM_OCTETS, Query, QueryError, Response, Want},
    runtime::Random,
    services::{Entry, Shelf},
};

/// Room for everything in an answer but contacts, peers and items: keys, identifier, token, address,
/// version, and a transaction identifier of 32 octets.
const ENVELOPE_OCTETS: usize = 180;
/// Room for the keys in an answer for one of several targets.
const KEY_OCTETS: usize = 45;
/// Most peers in an answer for one of several targets.
const MAX_PEERS_OF_MANY: usize = 4;
/// Room for key, signature and sequence number of an item.
const SIGNED_OCTETS: usize = 150;

/// Serves queries: storage, tokens and the budget of answers.
#[derive(Clone, Debug)]
pub struct Server {
    own: Id,
    k: usize,
    started: Instant,
    started_unix_s: i64,
    tokens: Tokens,
    budget: AnswerBudget,
    /// What is stored.
    pub storage: Storage,
    shelf: Shelf,
}

impl Server {
    /// A server of the node `own` that stores nothing yet.
    pub fn new(now: Instant, own: Id, config: &Config, random: &mut Random) -> Self {
        Self {
            own,
            k: config.table.k,
            started: now,
            started_unix_s: config.started_unix_s,
            tokens: Tokens::new(now, random),
            budget: AnswerBudget::new(config.answers),
            storage: Storage::new(own, config.storage),
            shelf: Shelf::new(config.shelf),
        }
    }

    /// The node has taken another identifier.
    pub fn set_id(&mut self, id: Id) {
        self.own = id;
        self.storage.set_id(id);
    }

    /// The entries of services under a key that this node stores itself.
    pub fn entries(&self, now: Instant, key: Id) -> Vec<Entry> {
        self.shelf
            .page(self.unix_s(now), key, None, usize::MAX)
            .entries
    }

    /// Whether an answer of so many octets may be sent now.
    pub fn may_answer(&mut self, now: Instant, to: &SocketAddr, octets: usize) -> bool {
        self.budget.take(now, to, octets)
    }

    /// The answer to a query, from an address, by a node that may understand this project's extensions.
    ///
    /// # Errors
    ///
    /// The error to answer with.
    pub fn answer(
        &mut self,
        now: Instant,
        (from, extended): (SocketAddr, bool),
        query: Query,
        tables: &BTreeMap<Family, Table>,
        random: &mut Random,
    ) -> Result<Response, QueryError> {
        let mut response = Response::default();
        let ip = from.ip();
        let family = Family::of(&from);
        match query {
            Query::Ping => {}
            Query::FindNode { target, want } => {
                self.add_contacts(now, &mut response, target, want, family, tables);
            }
            Query::GetPeers { info_hash, want } => {
                response.token = Some(self.tokens.make(now, ip, random));
                self.add_contacts(now, &mut response, info_hash, want, family, tables);
                let each = family.address_octets() + 3;
                let count = room(&response) / each;
                response.values = self.storage.peers(now, info_hash, family, count, random);
            }
            Query::AnnouncePeer {
                info_hash,
                port,
                token,
            } => {
                self.check_token(now, (&from, extended), &token, random)?;
                let peer = SocketAddr::new(ip, port.unwrap_or(from.port()));
                self.storage.announce(now, info_hash, peer)?;
            }
            Query::Get { target, seq, want } => {
                response.token = Some(self.tokens.make(now, ip, random));
                if let Some(item) = self.storage.item(now, target) {
                    response.seq = item.seq();
                    let newer = seq.is_none_or(|seq| item.seq().is_none_or(|own| own > seq));
                    response.item = newer.then(|| item.clone());
                }
                self.add_contacts(now, &mut response, target, want, family, tables);
            }
            Query::GetMany { targets } => {
                response.token = Some(self.tokens.make(now, ip, random));
                let share = room(&response) / targets.len().max(1);
                for target in targets {
                    let one = self.one_of_many(now, target, family, share, tables, random);
                    response.many.push(one);
                }
            }
            Query::PutEntry { keys, entry, token } => {
                self.check_token(now, (&from, extended), &token, random)?;
                self.put_entry(now, &keys, &entry, tables.get(&family))?;
            }
            Query::GetEntries { target, after } => {
                let after = match after.split_at_checked(Id::OCTETS) {
                    None => None,
                    Some((publisher, name)) => {
                        Id::try_from(publisher).ok().zip(Id::try_from(name).ok())
                    }
                };
                let page = self
                    .shelf
                    .page(self.unix_s(now), target, after, room(&response));
                response.entries = page.entries.iter().map(Entry::encode).collect();
                response.next = page.next.map(|(publisher, name)| {
                    [publisher.octets().as_slice(), name.octets()]
                        .concat()
                        .into()
                });
            }
            Query::Put { item, cas, token } => {
                self.check_token(now, (&from, extended), &token, random)?;
                self.storage.put(now, item, cas)?;
            }
        }
        Ok(response)
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Instant) {
        self.storage.expire(now);
        self.shelf.expire(self.unix_s(now));
    }

    /// Seconds since 1970.
    pub fn unix_s(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.started).as_secs();
        self.started_unix_s.saturating_add_unsigned(since)
    }

    /// Stores an entry under the keys to which this node is one of the k closest that it knows of: a
    /// request names the keys of all its receivers.
    ///
    /// # Errors
    ///
    /// Why it is stored under none of them.
    pub fn put_entry(
        &mut self,
        now: Instant,
        keys: &[Id],
        entry: &Bytes,
        table: Option<&Table>,
    ) -> Result<(), QueryError> {
        let refused =
            |error: &dyn ToString| QueryError::new(ErrorCode::Protocol, error.to_string());
        let entry = Entry::decode(entry).map_err(|error| refused(&error))?;
        let close = |key: &&Id| {
            // Only nodes of this kind store entries.
            let closest = table.map_or(Vec::new(), |t| t.closest_of_own_kind(now, **key, self.k));
            let farthest = closest.last().map(|contact| contact.id.distance(**key));
            closest.len() < self.k || farthest > Some(self.own.distance(**key))
        };
        let keys: Vec<Id> = keys.iter().filter(close).copied().collect();
        let mut result = Err(refused(&"this node is not close to any of the keys"));
        for key in keys {
            let put = self.shelf.put(self.unix_s(now), key, entry.clone());
            // One key is enough: the others have other nodes.
            result = result.or_else(|_| put.map_err(|error| refused(&error)));
        }
        result
    }

    /// The answer for one of several keys, within so many octets: the closest node first, because
    /// somebody has to know how to go on; then what is stored; then more nodes. An item that does not
    /// fit is left out, and its sequence number tells of it.
    fn one_of_many(
        &self,
        now: Instant,
        target: Id,
        family: Family,
        octets: usize,
        tables: &BTreeMap<Family, Table>,
        random: &mut Random,
    ) -> Response {
        let mut left = octets.saturating_sub(KEY_OCTETS);
        let mut take = |octets: usize| {
            let fits = octets <= left;
            left -= if fits { octets } else { 0 };
            fits
        };
        let table = tables.get(&family);
        let mut nodes = table.map_or(Vec::new(), |t| t.closest_good(now, target, self.k));
        let mut response = Response::default();
        let mut named = usize::from(!nodes.is_empty() && take(family.contact_octets()));
        let entries = self.shelf.count(target);
        response.entry_count = (entries > 0).then_some(entries as i64);
        if let Some(item) = self.storage.item(now, target) {
            response.seq = item.seq();
            let fits = take(item.value.len() + item.signed.as_ref().map_or(0, |_| SIGNED_OCTETS));
            response.item = fits.then(|| item.clone());
        }
        let mut peers = self
            .storage
            .peers(now, target, family, MAX_PEERS_OF_MANY, random);
        peers.retain(|_| take(family.address_octets() + 3));
        response.values = peers;
        while named < nodes.len() && take(family.contact_octets()) {
            named += 1;
        }
        nodes.truncate(named);
        match family {
            Family::Ipv4 => response.nodes = Some(nodes),
            Family::Ipv6 => response.nodes6 = Some(nodes),
        }
        response
    }

    fn check_token(
        &mut self,
        now: Instant,
        (from, extended): (&SocketAddr, bool),
        token: &[u8],
        random: &mut Random,
    ) -> Result<(), QueryError> {
        // A list of tokens is an extension.
        let understood = extended || token.len() <= TOKEN_OCTETS;
        if understood && self.tokens.check(now, from.ip(), token, random) {
            Ok(())
        } else {
            Err(QueryError::new(
                ErrorCode::Protocol,
                "invalid token: ask for one first",
            ))
        }
    }

    /// As many of the k closest nodes as there is room for (BEP 32: of the families that are wanted,
    /// or that of the query).
    fn add_contacts(
        &self,
        now: Instant,
        response: &mut Response,
        target: Id,
        want: Option<Want>,
        family: Family,
        tables: &BTreeMap<Family, Table>,
    ) {
        let want = want.unwrap_or(Want::only(family));
        let families = Family::ALL.into_iter().filter(|family| want.has(*family));
        let share = room(response) / families.clone().count().max(1);
        for family in families {
            let count = self.k.min(share / family.contact_octets());
            let nodes = tables
                .get(&family)
                .map(|table| table.closest_good(now, target, count));
            let nodes = Some(nodes.unwrap_or_default());
            match family {
                Family::Ipv4 => response.nodes = nodes,
                Family::Ipv6 => response.nodes6 = nodes,
            }
        }
    }
}

/// Octets that are left in an answer.
fn room(response: &Response) -> usize {
    let contacts = |nodes: &Option<Vec<_>>, family: Family| {
        nodes
            .as_ref()
            .map_or(0, |nodes| nodes.len() * family.contact_octets())
    };
    let item = |item: &Item| item.value.len() + SIGNED_OCTETS;
    let used = ENVELOPE_OCTETS
        + contacts(&response.nodes, Family::Ipv4)
        + contacts(&response.nodes6, Family::Ipv6)
        + response.item.as_ref().map_or(0, item);
    MAX_DATAGRAM_OCTETS.saturating_sub(used)
}
