//! The routing table of one address family (BEP 5, "Routing table").
//!
//! Bucket `b` holds nodes that share exactly `b` leading bits with this node. Only nodes that have
//! answered a request of ours are in it: what strangers say of others, or of themselves, is checked
//! first.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    bep42,
    scope::{is_unicast, network},
};
use crate::{id::Id, krpc::Contact};

/// After this time without a sign of life a node is questionable, and a bucket is to be refreshed.
pub const QUESTIONABLE_AFTER: Duration = Duration::from_secs(15 * 60);
/// So many requests without answer in a row make a node bad.
const BAD_AFTER: u32 = 2;

/// How a table is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// Nodes in a bucket: 8 on mainline, 20 in Kademlia's paper.
    pub k: usize,
    /// Most nodes of one /24 (IPv4) or /64 (IPv6) in a bucket; `None` where all nodes share one.
    ///
    /// Somebody with many addresses in one network then fills two places of a bucket, not all.
    pub max_per_network: Option<usize>,
    /// Whether nodes whose identifier does not follow from their address are kept out (BEP 42).
    pub enforce_bep42: bool,
}

/// Why a node is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Refusal {
    /// It has this node's own identifier.
    OwnId,
    /// Its address is no unicast address, or its port is 0.
    NotUnicast,
    /// Its bucket has as many of its /24 or /64 as may be.
    SameNetwork,
    /// Its identifier does not follow from its address (BEP 42).
    IdNotOfAddress,
    /// Another address has this identifier, and still answers.
    IdTaken,
    /// Its bucket is full of good nodes: it waits in the replacement cache.
    BucketFull,
    /// It says that it serves no queries (BEP 43).
    ReadOnly,
}

/// State of a node by BEP 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It answered within 15 minutes; or it ever answered, and asked within 15 minutes.
    Good,
    /// Nothing was heard of it for 15 minutes.
    Questionable,
    /// It left several requests in a row unanswered.
    Bad,
}

/// The routing table.
#[derive(Clone, Debug)]
pub struct Table {
    own: Id,
    config: TableConfig,
    buckets: Vec<Bucket>,
    /// Which identifier an address has in the table.
    addresses: BTreeMap<SocketAddr, Id>,
    refusals: BTreeMap<Refusal, u64>,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    entries: Vec<Entry>,
    /// Nodes that answered while the bucket was full, the latest at the end.
    replacements: VecDeque<Entry>,
    /// When the bucket last changed, or a look-up in it began.
    refreshed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    contact: Contact,
    answered: Instant,
    asked: Option<Instant>,
    failures: u32,
    /// Whether it understands this project's extensions.
    extensions: bool,
}

impl Entry {
    fn heard(&self) -> Instant {
        self.asked
            .map_or(self.answered, |asked| asked.max(self.answered))
    }

    fn standing(&self, now: Instant) -> Standing {
        if self.failures >= BAD_AFTER {
            Standing::Bad
        } else if now.saturating_duration_since(self.heard()) < QUESTIONABLE_AFTER {
            Standing::Good
        } else {
            Standing::Questionable
        }
    }
}

/// How many nodes of a bucket are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BucketStatus {
    /// Leading bits that the bucket's nodes share with this node.
    pub prefix_bits: usize,
    /// Good nodes.
    pub good: usize,
    /// Questionable nodes.
    pub questionable: usize,
    /// Bad nodes that nobody has replaced yet.
    pub bad: usize,
    /// Nodes in the replacement cache.
    pub replacements: usize,
}

impl Table {
    /// Whose table it is.
    pub fn own(&self) -> Id {
        self.own
    }

    /// An empty table of the node `own`.
    pub fn new(own: Id, config: TableConfig) -> Self {
        Self {
            own,
            config,
            buckets: vec![Bucket::default(); Id::BITS],
            addresses: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// How often nodes were refused, by reason.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    /// Counts a node that somebody else refused.
    pub fn refuse(&mut self, refusal: Refusal) {
        *self.refusals.entry(refusal).or_default() += 1;
    }

    /// State of each bucket that has nodes.
    pub fn buckets(&self, now: Instant) -> Vec<BucketStatus> {
        let used = self.buckets.iter().enumerate();
        used.filter(|(_, bucket)| !bucket.entries.is_empty())
            .map(|(prefix_bits, bucket)| {
                let count = |standing| {
                    bucket
                        .entries
                        .iter()
                        .filter(|entry| entry.standing(now) == standing)
                        .count()
                };
                BucketStatus {
                    prefix_bits,
                    good: count(Standing::Good),
                    questionable: count(Standing::Questionable),
                    bad: count(Standing::Bad),
                    replacements: bucket.replacements.len(),
                }
            })
            .collect()
    }

    /// A node has answered a request: it is in the table from now on, if there is a place.
    ///
    /// # Errors
    ///
    /// Why it is not. With [`Refusal::BucketFull`] it waits in the replacement cache.
    pub fn answered(&mut self, now: Instant, contact: Contact) -> Result<(), Refusal> {
        let result = self.insert(now, contact);
        if let Err(refusal) = result {
            self.refuse(refusal);
        }
        result
    }

    /// A node of the table has said whether it understands this project's extensions.
    pub fn set_extensions(&mut self, contact: &Contact, extensions: bool) {
        let Some(at) = self.bucket_of(contact.id) else {
            return;
        };
        let bucket = &mut self.buckets[at];
        let entries = bucket.entries.iter_mut().chain(&mut bucket.replacements);
        for entry in entries.filter(|entry| entry.contact == *contact) {
            entry.extensions = extensions;
        }
    }

    /// Whether a node understands this project's extensions; `None` if it is not in the table.
    pub fn extensions(&self, contact: &Contact) -> Option<bool> {
        let bucket = self.buckets.get(self.bucket_of(contact.id)?)?;
        let mut entries = bucket.entries.iter();
        let entry = entries.find(|entry| entry.contact == *contact)?;
        Some(entry.extensions)
    }

    /// A node has sent a request. Whether it is unknown and would have a place: then it is worth a
    /// ping.
    pub fn asked(&mut self, now: Instant, contact: Contact) -> bool {
        let Some(at) = self.bucket_of(contact.id) else {
            return false;
        };
        let known = self.buckets[at]
            .entries
            .iter_mut()
            .find(|entry| entry.contact.id == contact.id);
        if let Some(entry) = known {
            if entry.contact.address == contact.address {
                entry.asked = Some(now);
            }
            return false;
        }
        let admissible = self.admissible(at, &contact);
        if let Err(refusal) = admissible {
            self.refuse(refusal);
            return false;
        }
        let bucket = &self.buckets[at];
        bucket.entries.len() < self.config.k
            || bucket
                .entries
                .iter()
                .any(|entry| entry.standing(now) != Standing::Good)
    }

    /// A node has not answered. When that makes it bad, a node of the replacement cache takes its
    /// place.
    pub fn failed(&mut self, address: &SocketAddr) {
        let Some(id) = self.addresses.get(address) else {
            return;
        };
        let Some(at) = self.bucket_of(*id) else {
            return;
        };
        let bucket = &mut self.buckets[at];
        let Some(place) = bucket
            .entries
            .iter()
            .position(|e| e.contact.address == *address)
        else {
            return;
        };
        let entry = &mut bucket.entries[place];
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < BAD_AFTER {
            return;
        }
        let bad = bucket.entries.remove(place);
        if self.promote(at) {
            self.addresses.remove(address);
        } else {
            self.buckets[at].entries.push(bad);
        }
    }

    /// Takes a node out, for example because it has said that it leaves.
    pub fn remove(&mut self, contact: &Contact) -> bool {
        let Some(at) = self.bucket_of(contact.id) else {
            return false;
        };
        let bucket = &mut self.buckets[at];
        bucket
            .replacements
            .retain(|entry| entry.contact != *contact);
        let Some(place) = bucket
            .entries
            .iter()
            .position(|entry| entry.contact == *contact)
        else {
            return false;
        };
        bucket.entries.remove(place);
        self.addresses.remove(&contact.address);
        self.promote(at);
        true
    }

    /// Whether this very node is in the table.
    pub fn contains(&self, contact: &Contact) -> bool {
        self.addresses.get(&contact.address) == Some(&contact.id)
    }

    /// The `count` closest nodes to `target` that are not bad, the closest first.
    pub fn closest(&self, now: Instant, target: Id, count: usize) -> Vec<Contact> {
        self.closest_of(target, count, |entry| entry.standing(now) != Standing::Bad)
    }

    /// The `count` closest good nodes to `target`, the closest first: what others are told.
    pub fn closest_good(&self, now: Instant, target: Id, count: usize) -> Vec<Contact> {
        self.closest_of(target, count, |entry| {
            entry.failures == 0 && entry.standing(now) == Standing::Good
        })
    }

    /// The `count` closest good nodes to `target` that understand this project's extensions, the closest
    /// first.
    pub fn closest_of_own_kind(&self, now: Instant, target: Id, count: usize) -> Vec<Contact> {
        self.closest_of(target, count, |entry| {
            entry.extensions && entry.failures == 0 && entry.standing(now) == Standing::Good
        })
    }

    /// All good nodes, for example to begin with after a restart.
    pub fn good(&self, now: Instant) -> Vec<Contact> {
        let entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        entries
            .filter(|entry| entry.standing(now) == Standing::Good)
            .map(|entry| entry.contact)
            .collect()
    }

    /// The questionable node of each bucket that was heard least recently: these are to be pinged.
    pub fn to_check(&self, now: Instant) -> Vec<Contact> {
        let oldest = |bucket: &Bucket| {
            bucket
                .entries
                .iter()
                .filter(|entry| entry.standing(now) == Standing::Questionable)
                .min_by_key(|entry| entry.heard())
                .map(|entry| entry.contact)
        };
        self.buckets.iter().filter_map(oldest).collect()
    }

    /// How many of the buckets are worth refreshing: those up to the closest node.
    pub fn depth(&self) -> usize {
        self.buckets
            .iter()
            .rposition(|bucket| !bucket.entries.is_empty())
            .map_or(0, |at| at + 1)
    }

    /// The bucket up to [`depth`](Self::depth) that has not changed for 15 minutes, the oldest
    /// first.
    pub fn stale_bucket(&self, now: Instant) -> Option<usize> {
        let fresh = |refreshed: Option<Instant>| {
            refreshed.is_some_and(|at| now.saturating_duration_since(at) < QUESTIONABLE_AFTER)
        };
        (0..self.depth())
            .filter(|at| !fresh(self.buckets[*at].refreshed))
            .min_by_key(|at| self.buckets[*at].refreshed)
    }

    /// A look-up for an identifier in this bucket begins.
    pub fn refreshing(&mut self, now: Instant, bucket: usize) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.refreshed = Some(now);
        }
    }

    fn bucket_of(&self, id: Id) -> Option<usize> {
        let prefix = self.own.common_prefix(id);
        (prefix < Id::BITS).then_some(prefix)
    }

    /// Whether a node could be in this bucket, if there is a place.
    fn admissible(&self, at: usize, contact: &Contact) -> Result<(), Refusal> {
        if !is_unicast(&contact.address) {
            return Err(Refusal::NotUnicast);
        }
        if self.config.enforce_bep42 && !bep42::is_valid(contact.id, contact.address.ip()) {
            return Err(Refusal::IdNotOfAddress);
        }
        let bucket = &self.buckets[at];
        if let Some(max) = self.config.max_per_network {
            let entries = bucket.entries.iter();
            if same_network(entries, contact.address.ip()) >= max {
                return Err(Refusal::SameNetwork);
            }
        }
        Ok(())
    }

    fn insert(&mut self, now: Instant, contact: Contact) -> Result<(), Refusal> {
        let at = self.bucket_of(contact.id).ok_or(Refusal::OwnId)?;
        let known = self.buckets[at]
            .entries
            .iter()
            .position(|e| e.contact.id == contact.id);
        if let Some(place) = known {
            let entry = &mut self.buckets[at].entries[place];
            if entry.contact.address == contact.address {
                entry.answered = now;
                entry.failures = 0;
                self.buckets[at].refreshed = Some(now);
                return Ok(());
            }
            if entry.standing(now) == Standing::Good && entry.failures == 0 {
                return Err(Refusal::IdTaken);
            }
            let moved = entry.contact;
            self.drop_entry(&moved);
        }
        // The same address under another identifier: it was restarted.
        if let Some(id) = self.addresses.get(&contact.address).copied() {
            self.drop_entry(&Contact {
                id,
                address: contact.address,
            });
        }
        self.admissible(at, &contact)?;
        let entry = Entry {
            contact,
            answered: now,
            asked: None,
            failures: 0,
            extensions: false,
        };
        let bucket = &mut self.buckets[at];
        bucket.replacements.retain(|waiting| {
            waiting.contact.id != contact.id && waiting.contact.address != contact.address
        });
        if bucket.entries.len() < self.config.k {
            bucket.entries.push(entry);
        } else if let Some(bad) = bucket
            .entries
            .iter()
            .position(|entry| entry.standing(now) == Standing::Bad)
        {
            self.addresses.remove(&bucket.entries[bad].contact.address);
            bucket.entries[bad] = entry;
        } else {
            let max = self.config.max_per_network.unwrap_or(usize::MAX);
            if same_network(bucket.replacements.iter(), contact.address.ip()) >= max {
                return Err(Refusal::SameNetwork);
            }
            if bucket.replacements.len() >= self.config.k {
                bucket.replacements.pop_front();
            }
            bucket.replacements.push_back(entry);
            return Err(Refusal::BucketFull);
        }
        bucket.refreshed = Some(now);
        self.addresses.insert(contact.address, contact.id);
        Ok(())
    }

    /// Gives a free place to the latest node of the replacement cache that may have it.
    fn promote(&mut self, at: usize) -> bool {
        while let Some(entry) = self.buckets[at].replacements.pop_back() {
            let taken = self.addresses.contains_key(&entry.contact.address);
            if !taken && self.admissible(at, &entry.contact).is_ok() {
                self.addresses
                    .insert(entry.contact.address, entry.contact.id);
                self.buckets[at].entries.push(entry);
                return true;
            }
        }
        false
    }

    /// Takes a node out without a replacement.
    fn drop_entry(&mut self, contact: &Contact) {
        if let Some(at) = self.bucket_of(contact.id) {
            self.buckets[at]
                .entries
                .retain(|entry| entry.contact != *contact);
        }
        self.addresses.remove(&contact.address);
    }

    /// Buckets in the order of their distance from `target`: first the one `target` lies in; then
    /// all that share more bits with this node, which are mixed; then those that share fewer, each
    /// farther than the one before.
    fn closest_of(
        &self,
        target: Id,
        count: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Vec<Contact> {
        let own = self.own.common_prefix(target).min(Id::BITS - 1);
        let mut closest: Vec<Contact> = Vec::with_capacity(count.min(self.len()));
        let mut add = |buckets: &[Bucket]| {
            let start = closest.len();
            if start < count {
                let entries = buckets.iter().flat_map(|bucket| &bucket.entries);
                closest.extend(entries.filter(|e| wanted(e)).map(|entry| entry.contact));
                closest[start..].sort_unstable_by_key(|contact| contact.id.distance(target));
                closest.truncate(count);
            }
        };
        add(&self.buckets[own..=own]);
        add(&self.buckets[own + 1..]);
        for at in (0..own).rev() {
            add(&self.buckets[at..=at]);
        }
        closest
    }
}

fn same_network<'a>(entries: impl Iterator<Item = &'a Entry>, ip: IpAddr) -> usize {
    let wanted = network(ip);
    entries
        .filter(|entry| network(entry.contact.address.ip()) == wanted)
        .count()
}

#[cfg(test)]
mod tests;
