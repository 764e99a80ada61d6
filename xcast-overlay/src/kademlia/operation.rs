//! What a node was asked to do, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::lookup::Lookup;
use crate::{
    id::Id,
    krpc::{Contact, Family, Item, QueryError},
};

/// Names an operation of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub(super) u64);

/// What an operation is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// See whether a node is there.
    Ping,
    /// Find the closest nodes.
    FindNode,
    /// Find who has announced itself.
    GetPeers,
    /// Announce this node to the closest nodes.
    Announce {
        /// The port; `None` is the one messages leave from.
        port: Option<u16>,
    },
    /// Find an item.
    Get {
        /// Salt of a mutable item.
        salt: Bytes,
    },
    /// Store an item at the closest nodes.
    Put {
        /// The item.
        item: Item,
        /// Only over an item with this sequence number.
        cas: Option<i64>,
    },
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it was to do.
    pub goal: Goal,
    /// The identifier it was about.
    pub target: Id,
    /// How long it took.
    pub took: Duration,
    /// What came of it in each address family.
    pub families: Vec<FamilyReport>,
    /// Who has announced itself.
    pub peers: BTreeSet<SocketAddr>,
    /// The item: the one with the largest sequence number if it is mutable.
    pub item: Option<Item>,
}

/// What came of an operation in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyReport {
    /// The family.
    pub family: Family,
    /// The closest nodes that answered, the closest first.
    pub closest: Vec<Contact>,
    /// Rounds, each of which was one fan-out.
    pub rounds: u32,
    /// Nodes asked in these rounds.
    pub asked: u32,
    /// Nodes that answered.
    pub answered: u32,
    /// Nodes given up, or not asked because their budget of messages was used up.
    pub silent: u32,
    /// Nodes that stored.
    pub stored: u32,
    /// Nodes that refused, and why.
    pub refused: Vec<(SocketAddr, QueryError)>,
}

/// Who began an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The node's owner, who is told the result.
    Owner,
    /// The node, to find its place.
    Join,
    /// The node, to fill a bucket.
    Refresh,
    /// The node, to keep alive what it publishes.
    Republish,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub origin: Origin,
    pub goal: Goal,
    pub target: Id,
    pub started: Instant,
    pub runs: BTreeMap<Family, Run>,
    pub peers: BTreeSet<SocketAddr>,
    pub item: Option<Item>,
}

/// An operation in one address family.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub lookup: Lookup,
    pub stage: Stage,
    pub answered: u32,
    pub silent: u32,
    pub stored: u32,
    pub refused: Vec<(SocketAddr, QueryError)>,
    /// Who has a mutable item: these are sent `cas`.
    pub holders: BTreeSet<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Finding the closest nodes.
    Search,
    /// Storing, with so many answers to come.
    Store {
        waiting: usize,
    },
    Done,
}

impl Run {
    pub fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            stage: Stage::Search,
            answered: 0,
            silent: 0,
            stored: 0,
            refused: Vec::new(),
            holders: BTreeSet::new(),
        }
    }

    /// One of the nodes that are to store has answered, or was given up.
    pub fn stored_or_not(&mut self) {
        if let Stage::Store { waiting } = &mut self.stage {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.stage = Stage::Done;
            }
        }
    }
}

impl Operation {
    pub fn is_done(&self) -> bool {
        self.runs.values().all(|run| run.stage == Stage::Done)
    }

    /// Takes an item that was found, if it is what is looked for, and newer than what there is:
    /// whether it was taken.
    pub fn found(&mut self, mut item: Item) -> bool {
        let salt = match &self.goal {
            Goal::Get { salt } => salt.clone(),
            Goal::Put { item, .. } => item
                .signed
                .as_ref()
                .map(|signed| signed.salt.clone())
                .unwrap_or_default(),
            _ => return false,
        };
        if let Some(signed) = &mut item.signed {
            signed.salt = salt;
        }
        let newer = match &self.item {
            None => true,
            Some(known) => item.seq() > known.seq(),
        };
        if !newer || item.target() != self.target || item.check().is_err() {
            return false;
        }
        if item.signed.is_none() && matches!(self.goal, Goal::Get { .. }) {
            // There is only one value with this hash.
            self.runs.values_mut().for_each(|run| run.lookup.finish());
        }
        self.item = Some(item);
        true
    }

    pub fn report(self, now: Instant) -> Report {
        let family = |(family, run): (Family, Run)| FamilyReport {
            family,
            closest: run
                .lookup
                .closest()
                .into_iter()
                .map(|found| found.contact)
                .collect(),
            rounds: run.lookup.rounds(),
            asked: run.lookup.asked(),
            answered: run.answered,
            silent: run.silent,
            stored: run.stored,
            refused: run.refused,
        };
        Report {
            goal: self.goal,
            target: self.target,
            took: now - self.started,
            families: self.runs.into_iter().map(family).collect(),
            peers: self.peers,
            item: self.item,
        }
    }
}
