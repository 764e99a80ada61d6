//! Entries of services: stored at, and fetched from, the closest nodes of several keys.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    many::Then,
    node::Node,
    operation::OperationId,
    request::{Answered, Purpose},
    search::{STORE_RETRIES, store_requests},
};
use crate::{
    id::Id,
    krpc::{Query, QueryError},
    runtime::Policy,
    services::{Entry, Keys},
};

/// Keys that an entry is stored under by one message: entry, keys and tokens fit into a datagram.
const KEYS_AT_ONCE: usize = 8;
/// Pages of entries that are fetched in one operation: somebody may always have one more.
const MAX_PAGES: u32 = 512;
/// Tokens in such a message: three nodes for each key.
const TOKENS_AT_ONCE: usize = 24;

impl Node {
    /// Stores an entry of a service under all of its keys, at the closest nodes of each. For each
    /// eight keys one operation, which ends with [`Event::FinishedMany`](super::Event::FinishedMany).
    ///
    /// An entry expires, so its publisher calls this again before, with some jitter.
    pub fn put_entry(&mut self, now: Instant, entry: &Entry) -> Vec<OperationId> {
        let octets = entry.encode();
        let keys = Keys::of(&entry.service).keys;
        let chunks = keys.chunks(KEYS_AT_ONCE);
        chunks
            .map(|keys| self.begin_many(now, keys, Then::Put(octets.clone())))
            .collect()
    }

    /// Finds the entries under several keys, for example those of a
    /// [query](crate::services::Query::keys). Keys after the first 16 are left out.
    pub fn find_entries(&mut self, now: Instant, keys: &[Id]) -> OperationId {
        self.begin_many(now, keys, Then::Fetch)
    }

    /// The closest nodes of all keys are found.
    pub(super) fn after_look_ups(&mut self, now: Instant, id: OperationId) {
        let Some(many) = self.many.get_mut(&id) else {
            return;
        };
        many.waiting = Some(0);
        match many.then.clone() {
            Then::End => {}
            Then::Put(entry) => {
                let keys: Vec<Id> = many.found.keys().copied().collect();
                let receivers = many.receivers();
                many.waiting = Some(receivers.len());
                // This node may be one of the closest: then it stores as well.
                if !self.config.read_only {
                    let table = self.tables.values().find(|table| !table.is_empty());
                    let _ = self.server.put_entry(now, &keys, &entry, table);
                }
                let query = |token| Query::PutEntry {
                    keys: keys.clone(),
                    entry: entry.clone(),
                    token,
                };
                let policy = Policy {
                    retries: STORE_RETRIES,
                    ..self.config.policy
                };
                let purpose = Purpose::PutEntry(id);
                for (query, to, tokens) in store_requests(TOKENS_AT_ONCE, receivers.iter(), query) {
                    self.ask(now, policy, purpose, query, &to, &tokens);
                }
            }
            Then::Fetch => {
                let holders = std::mem::take(&mut many.holders);
                many.waiting = Some(holders.values().map(Vec::len).sum());
                for (key, holders) in holders {
                    self.fetch(now, id, key, &holders, Bytes::new());
                }
            }
        }
    }

    fn fetch(
        &mut self,
        now: Instant,
        id: OperationId,
        key: Id,
        from: &[(SocketAddr, Option<Id>)],
        after: Bytes,
    ) {
        let query = Query::GetEntries { target: key, after };
        let policy = Policy {
            retries: 1,
            ..self.config.policy
        };
        self.ask(now, policy, Purpose::GetEntries(id, key), query, from, &[]);
    }

    /// A node has stored an entry, or sent a page of them.
    pub(super) fn entries_answered(&mut self, now: Instant, id: OperationId, answered: Answered) {
        let Some(many) = self.many.get_mut(&id) else {
            return;
        };
        let Answered {
            contact,
            tag,
            late,
            response,
            ..
        } = answered;
        match tag.purpose {
            Purpose::GetEntries(_, key) => {
                let empty = response.entries.is_empty();
                if let Some(found) = many.found.get_mut(&key) {
                    let valid = |octets: &Bytes| Entry::decode(octets).ok();
                    for entry in response.entries.iter().filter_map(valid) {
                        if !found.entries.contains(&entry) {
                            found.entries.push(entry);
                        }
                    }
                }
                many.pages += 1;
                if let Some(next) = response.next
                    && !(late || empty)
                    && many.pages < MAX_PAGES
                {
                    let from = [(contact.address, Some(contact.id))];
                    return self.fetch(now, id, key, &from, next);
                }
            }
            _ => many.stored += 1,
        }
        if !late {
            many.answered_or_not();
        }
        self.end_many(now, id);
    }

    /// A node that was to store or send entries was given up, or has refused.
    pub(super) fn entries_silent(
        &mut self,
        now: Instant,
        id: OperationId,
        refusal: Option<(SocketAddr, QueryError)>,
    ) {
        if let Some(many) = self.many.get_mut(&id) {
            many.refused.extend(refusal);
            many.answered_or_not();
            self.end_many(now, id);
        }
    }
}
