//! A look-up for several keys at once: what is known while it is under way, and what comes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::lookup::{Lookup, Token};
use crate::{
    id::Id,
    krpc::{Contact, Family, Item, QueryError},
    services::Entry,
};

/// What is done when the closest nodes of all keys are found.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// Nothing.
    End,
    /// An entry is stored at them.
    Put(Bytes),
    /// Entries are fetched from those that have some.
    Fetch,
}

/// What came of a look-up for several keys.
#[derive(Clone, Debug, PartialEq)]
pub struct ManyReport {
    /// How long it took.
    pub took: Duration,
    /// Rounds, each of which was one fan-out, in all families together.
    pub rounds: u32,
    /// Nodes asked in these rounds.
    pub asked: u32,
    /// Nodes that answered in these rounds.
    pub answered: u32,
    /// What was found under each key.
    pub targets: BTreeMap<Id, OfTarget>,
    /// Nodes that stored the entry.
    pub stored: u32,
    /// Nodes that refused to store it, or to tell what they store.
    pub refused: Vec<(SocketAddr, QueryError)>,
}

/// What was found under a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfTarget {
    /// The closest nodes that answered.
    pub closest: Vec<Contact>,
    /// Who has announced itself.
    pub peers: BTreeSet<SocketAddr>,
    /// The item: the one with the largest sequence number if it is mutable and has no salt.
    pub item: Option<Item>,
    /// The largest sequence number that was heard of. If it is larger than the item's, the item was
    /// too long for a common answer: ask for it alone.
    pub seq: Option<i64>,
    /// Entries of services, with valid signatures.
    pub entries: Vec<Entry>,
}

/// A look-up for several keys under way.
#[derive(Clone, Debug)]
pub(super) struct Many {
    pub then: Then,
    pub started: Instant,
    pub runs: BTreeMap<Family, ManyRun>,
    pub found: BTreeMap<Id, OfTarget>,
    /// Nodes of this kind that answered, their identifiers, and their tokens.
    pub tokens: BTreeMap<SocketAddr, (Id, Token)>,
    /// Who has entries under which key.
    pub holders: BTreeMap<Id, Vec<(SocketAddr, Option<Id>)>>,
    /// Answers to come after the look-ups have ended; `None` before.
    pub waiting: Option<usize>,
    /// Pages of entries that were asked for.
    pub pages: u32,
    pub stored: u32,
    pub refused: Vec<(SocketAddr, QueryError)>,
    pub rounds: u32,
    pub asked: u32,
    pub answered: u32,
}

/// Its look-ups in one family.
#[derive(Clone, Debug)]
pub(super) struct ManyRun {
    /// One for each key, in the order in which keys are asked for.
    pub lookups: Vec<Lookup>,
    /// Who was asked for all keys.
    pub in_flight: BTreeSet<SocketAddr>,
    /// Who was asked for one key, and for which.
    pub one_in_flight: BTreeSet<(SocketAddr, Id)>,
    /// Nodes that do not understand a question for all keys.
    pub strangers: BTreeSet<SocketAddr>,
    /// Strangers that are to be asked for one key next, by the key.
    again: BTreeMap<Id, Receivers>,
}

/// Nodes, and the identifiers that they are known under.
pub(super) type Receivers = BTreeMap<SocketAddr, Option<Id>>;

/// Whom to ask next.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// For all keys.
    pub all: Receivers,
    /// For one key.
    pub one: BTreeMap<Id, Receivers>,
}

impl ManyRun {
    pub fn new(lookups: Vec<Lookup>) -> Self {
        Self {
            lookups,
            in_flight: BTreeSet::new(),
            one_in_flight: BTreeSet::new(),
            strangers: BTreeSet::new(),
            again: BTreeMap::new(),
        }
    }

    pub fn is_finished(&self) -> bool {
        let waits = !(self.in_flight.is_empty() && self.one_in_flight.is_empty());
        !waits && self.again.is_empty() && self.lookups.iter().all(Lookup::is_finished)
    }

    /// A node does not understand a question for all keys: whoever waits for it asks for its own key.
    pub fn take_for_stranger(&mut self, address: SocketAddr, id: Option<Id>) {
        if self.in_flight.remove(&address) {
            self.strangers.insert(address);
            for lookup in self
                .lookups
                .iter()
                .filter(|lookup| lookup.waits_for(&address))
            {
                let again = self.again.entry(lookup.target()).or_default();
                again.insert(address, id);
            }
        }
    }

    /// Whom any of the look-ups would ask; `is_stranger` knows of some that they do not understand a question
    /// for all keys.
    pub fn next_round(&mut self, is_stranger: impl Fn(&Contact) -> bool) -> Round {
        if !(self.in_flight.is_empty() && self.one_in_flight.is_empty()) {
            return Round::default();
        }
        let mut round = Round {
            all: BTreeMap::new(),
            one: std::mem::take(&mut self.again),
        };
        for lookup in &mut self.lookups {
            for contact in lookup.next_round() {
                let stranger = self.strangers.contains(&contact.address) || is_stranger(&contact);
                let to = match stranger {
                    true => round.one.entry(lookup.target()).or_default(),
                    false => &mut round.all,
                };
                to.insert(contact.address, Some(contact.id));
            }
        }
        self.in_flight.extend(round.all.keys());
        for (key, to) in &round.one {
            self.one_in_flight
                .extend(to.keys().map(|address| (*address, *key)));
        }
        round
    }
}

impl Many {
    /// The closest nodes of all keys that gave a token.
    pub fn receivers(&self) -> Vec<(Contact, Token)> {
        let lookups = self.runs.values().flat_map(|run| &run.lookups);
        let closest: BTreeSet<Contact> = lookups
            .flat_map(Lookup::closest)
            .map(|found| found.contact)
            .collect();
        let with_token = |contact: Contact| {
            let (_, token) = self.tokens.get(&contact.address)?;
            Some((contact, token.clone()))
        };
        closest.into_iter().filter_map(with_token).collect()
    }

    /// One of the answers after the look-ups has come, or will not.
    pub fn answered_or_not(&mut self) {
        self.waiting = self.waiting.map(|waiting| waiting.saturating_sub(1));
    }

    pub fn report(mut self, now: Instant) -> ManyReport {
        for lookup in self.runs.values().flat_map(|run| &run.lookups) {
            if let Some(found) = self.found.get_mut(&lookup.target()) {
                found
                    .closest
                    .extend(lookup.closest().iter().map(|found| found.contact));
            }
        }
        ManyReport {
            took: now - self.started,
            rounds: self.rounds,
            asked: self.asked,
            answered: self.answered,
            targets: self.found,
            stored: self.stored,
            refused: self.refused,
        }
    }
}
