//! Look-ups for several keys at once, among nodes that understand `xc_get_many`.
//!
//! A query of BEP 5 has one target, so look-ups for several keys, for example those of adjacent
//! places, share no packet. `xc_get_many` has the list of keys. The look-ups go in step: whom any of
//! them would ask next is asked, once, for all of them. So a round of all look-ups is one packet.
//!
//! Unmodified nodes answer that the method is unknown, or do not answer. They are asked once more, for
//! each key by itself (`get_peers`, BEP 5), and name nodes closer to it; nodes that are known to be strangers
//! are asked so at once. Where only nodes of this kind will do, because they store entries of services,
//! strangers closer to a key are passed by.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use super::{
    event::Event,
    lookup::{Lookup, Token},
    many::{Many, ManyRun, OfTarget, Then},
    node::Node,
    operation::OperationId,
    request::{Answered, Purpose, Tag},
    scope::is_unicast,
};
use crate::{
    id::Id,
    krpc::{Contact, Family, MAX_TARGETS, Query, Response},
};

/// Closest nodes of each key that are asked. What is stored lies at more of them.
const NODES_PER_KEY: usize = 3;
/// Nodes that each look-up would ask in a round.
const ALPHA: usize = 1;
/// Nodes of the table that each look-up begins with.
const SEEDS: usize = 8;

impl Node {
    /// Finds what is stored under several keys, by rounds that are one packet each among nodes of this kind.
    /// It ends with [`Event::FinishedMany`]. Keys after the first 16 are left out. Of strangers, peers are
    /// found and items are not: see [`find_item`](Self::find_item).
    pub fn find_many(&mut self, now: Instant, targets: &[Id]) -> OperationId {
        self.begin_many(now, targets, Then::End)
    }

    pub(super) fn begin_many(&mut self, now: Instant, targets: &[Id], then: Then) -> OperationId {
        let mut targets: Vec<Id> = targets.to_vec();
        targets.sort_unstable();
        targets.dedup();
        targets.truncate(MAX_TARGETS);
        let lookups = |(family, table): (&Family, &super::table::Table)| {
            let lookup = |target: &Id| {
                // Among strangers, the closest of this kind may be far.
                let mut seeds = table.closest(now, *target, SEEDS);
                seeds.extend(table.closest_of_own_kind(now, *target, SEEDS));
                Lookup::new(*target, NODES_PER_KEY, ALPHA, seeds)
            };
            (*family, ManyRun::new(targets.iter().map(lookup).collect()))
        };
        let mut many = Many {
            then,
            tokens: BTreeMap::new(),
            holders: BTreeMap::new(),
            waiting: None,
            pages: 0,
            stored: 0,
            refused: Vec::new(),
            started: now,
            runs: self.tables.iter().map(lookups).collect(),
            found: targets
                .iter()
                .map(|target| (*target, OfTarget::default()))
                .collect(),
            rounds: 0,
            asked: 0,
            answered: 0,
        };
        if let Then::Fetch = many.then {
            // What this node stores itself, nobody else need have.
            for (key, found) in &mut many.found {
                found.entries = self.server.entries(now, *key);
            }
        }
        let id = self.new_operation();
        self.many.insert(id, many);
        self.advance_many(now, id);
        self.settle(now);
        id
    }

    /// A node has answered for all keys.
    pub(super) fn many_answered(&mut self, now: Instant, id: OperationId, answered: Answered) {
        let Answered {
            contact,
            tag,
            in_list,
            response,
            ..
        } = answered;
        let family = Family::of(&contact.address);
        let nodes: Vec<Vec<Contact>> = response
            .many
            .iter()
            .map(|one| self.credible(&contact.address, one))
            .collect();
        let Some(many) = self.many.get_mut(&id) else {
            return;
        };
        let Some(run) = many.runs.get_mut(&family) else {
            return;
        };
        run.in_flight.remove(&contact.address);
        // Its answer may come after it was taken for one.
        run.strangers.remove(&contact.address);
        many.answered += 1;
        if let Some(octets) = response.token {
            many.tokens
                .insert(contact.address, (contact.id, Token { octets, in_list }));
        }
        // A key that is not answered for has an empty answer: its look-up must go on as well.
        let nothing = std::iter::repeat_with(|| (Response::default(), Vec::new()));
        let answers = response.many.into_iter().zip(nodes).chain(nothing);
        for (lookup, (one, nodes)) in run.lookups.iter_mut().zip(answers) {
            let nodes = nodes
                .into_iter()
                .filter(|node| Family::of(&node.address) == family);
            lookup.answered(contact, tag.expected, None, nodes);
            if let Some(found) = many.found.get_mut(&lookup.target()) {
                let peers = one.values.into_iter();
                found
                    .peers
                    .extend(peers.filter(|p| Family::of(p) == family && is_unicast(p)));
                found.seq = found.seq.max(one.seq);
                if one.entry_count.is_some_and(|count| count > 0) {
                    let holders = many.holders.entry(lookup.target()).or_default();
                    holders.push((contact.address, Some(contact.id)));
                }
                let item = one.item.filter(|item| {
                    let newer = found
                        .item
                        .as_ref()
                        .is_none_or(|known| item.seq() > known.seq());
                    newer && item.target() == lookup.target() && item.check().is_ok()
                });
                found.item = item.or(found.item.take());
            }
        }
        self.advance_many(now, id);
    }

    /// A node does not understand a question for all keys, or does not answer it: that may be for the same
    /// reason, unless it is known to understand.
    pub(super) fn many_not_understood(
        &mut self,
        now: Instant,
        id: OperationId,
        peer: SocketAddr,
        tag: Tag,
    ) {
        let family = Family::of(&peer);
        let contact = tag.expected.map(|id| Contact { id, address: peer });
        let known = contact.and_then(|contact| self.tables.get(&family)?.extensions(&contact));
        let run = self.many.get_mut(&id);
        let Some(run) = run.and_then(|many| many.runs.get_mut(&family)) else {
            return;
        };
        if known == Some(true) {
            run.in_flight.remove(&peer);
            for lookup in &mut run.lookups {
                lookup.silent(&peer, tag.expected, false);
            }
        } else {
            run.take_for_stranger(peer, tag.expected);
        }
        self.advance_many(now, id);
    }

    /// A node has answered for one key.
    pub(super) fn one_of_many_answered(
        &mut self,
        now: Instant,
        (id, key): (OperationId, Id),
        answered: Answered,
    ) {
        let Answered {
            contact,
            tag,
            in_list,
            response,
            nodes,
            ..
        } = answered;
        let family = Family::of(&contact.address);
        let Some(many) = self.many.get_mut(&id) else {
            return;
        };
        let (Some(run), Some(found)) = (many.runs.get_mut(&family), many.found.get_mut(&key))
        else {
            return;
        };
        run.one_in_flight.remove(&(contact.address, key));
        many.answered += 1;
        let peers = response.values.into_iter();
        let of_family = |peer: &SocketAddr| Family::of(peer) == family && is_unicast(peer);
        found.peers.extend(peers.filter(of_family));
        // It understands after all: an answer of its was lost.
        if in_list {
            run.strangers.remove(&contact.address);
            if let Some(octets) = response.token {
                let token = Token { octets, in_list };
                many.tokens.insert(contact.address, (contact.id, token));
            }
            let holders = many.holders.entry(key).or_default();
            holders.push((contact.address, Some(contact.id)));
        }
        let counts = in_list || matches!(many.then, Then::End);
        let nodes = nodes.into_iter();
        let nodes = nodes.filter(|node| Family::of(&node.address) == family);
        let lookups = run.lookups.iter_mut();
        for lookup in lookups.filter(|lookup| lookup.target() == key) {
            match counts {
                true => lookup.answered(contact, tag.expected, None, nodes.clone()),
                false => lookup.passed(contact, tag.expected, nodes.clone()),
            }
        }
        self.advance_many(now, id);
    }

    /// A node that was asked for one key was given up, or has refused.
    pub(super) fn one_of_many_silent(
        &mut self,
        now: Instant,
        (id, key): (OperationId, Id),
        peer: SocketAddr,
        tag: Tag,
    ) {
        let run = self.many.get_mut(&id);
        let Some(run) = run.and_then(|many| many.runs.get_mut(&Family::of(&peer))) else {
            return;
        };
        run.one_in_flight.remove(&(peer, key));
        let lookups = run.lookups.iter_mut();
        for lookup in lookups.filter(|lookup| lookup.target() == key) {
            lookup.silent(&peer, tag.expected, false);
        }
        self.advance_many(now, id);
    }

    fn advance_many(&mut self, now: Instant, id: OperationId) {
        for family in self.config.families.clone() {
            let Some(many) = self.many.get_mut(&id) else {
                return;
            };
            let Some(run) = many.runs.get_mut(&family) else {
                continue;
            };
            let (table, extensions) = (self.tables.get(&family), self.config.extensions);
            let round = run.next_round(|contact| {
                let known = table.and_then(|table| table.extensions(contact));
                !extensions || known == Some(false)
            });
            let targets = run.lookups.iter().map(Lookup::target).collect();
            let mut requests = Vec::new();
            if !round.all.is_empty() {
                requests.push((Purpose::Many(id), Query::GetMany { targets }, round.all));
            }
            for (key, to) in round.one {
                let query = Query::GetPeers {
                    info_hash: key,
                    want: None,
                };
                requests.push((Purpose::OneOfMany(id, key), query, to));
            }
            many.rounds += requests.len() as u32;
            many.asked += requests
                .iter()
                .map(|(_, _, to)| to.len() as u32)
                .sum::<u32>();
            for (purpose, query, to) in requests {
                let to: Vec<_> = to.into_iter().collect();
                self.ask(now, self.config.policy, purpose, query, &to, &[]);
            }
        }
        let found = |many: &Many| many.runs.values().all(ManyRun::is_finished);
        if self
            .many
            .get(&id)
            .is_some_and(|many| many.waiting.is_none() && found(many))
        {
            self.after_look_ups(now, id);
            self.end_many(now, id);
        }
    }

    /// Ends the operation, if nothing more is to come.
    pub(super) fn end_many(&mut self, now: Instant, id: OperationId) {
        if self
            .many
            .get(&id)
            .is_some_and(|many| many.waiting == Some(0))
            && let Some(many) = self.many.remove(&id)
        {
            let report = Box::new(many.report(now));
            self.events.push_back(Event::FinishedMany {
                operation: id,
                report,
            });
        }
    }
}
