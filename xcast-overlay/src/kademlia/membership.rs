//! How a node joins, stays and leaves.

use std::time::Instant;

use super::{
    event::Event,
    node::Node,
    operation::{Goal, OperationId, Origin},
    request::Purpose,
};
use crate::{
    id::Id,
    krpc::{Contact, Family, Item, Query, QueryError},
};

/// Buckets that are filled at the same time after joining.
const PARALLEL_REFRESHES: usize = 2;
/// Most items that a node hands over when it leaves.
const MAX_HANDED_OVER: usize = 64;

impl Node {
    /// Joins: finds this node's neighbours, and then nodes in each part of the network. Ends with
    /// [`Event::Joined`].
    pub fn join(&mut self, now: Instant) {
        self.leaving = false;
        self.joining = true;
        self.begin(now, Origin::Join, Goal::FindNode, self.id);
    }

    /// Announces this node under `info_hash` until [`withdraw`](Self::withdraw).
    pub fn publish_peer(&mut self, now: Instant, info_hash: Id, port: Option<u16>) -> OperationId {
        let goal = Goal::Announce { port };
        let interval = self.config.announce_interval;
        self.upkeep
            .publish(now, info_hash, goal, interval, &mut self.random);
        self.announce(now, info_hash, port)
    }

    /// Stores an item, and keeps it alive until [`withdraw`](Self::withdraw).
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn publish_item(&mut self, now: Instant, item: Item) -> Result<OperationId, QueryError> {
        let operation = self.put(now, item.clone(), None)?;
        let (target, goal) = (item.target(), Goal::Put { item, cas: None });
        let interval = self.config.put_interval;
        self.upkeep
            .publish(now, target, goal, interval, &mut self.random);
        Ok(operation)
    }

    /// No longer publishes under this key: what is stored expires. Whether it was published.
    pub fn withdraw(&mut self, target: &Id) -> bool {
        self.upkeep.withdraw(target)
    }

    /// Leaves: items that this node stores for others are put to those that are now the closest,
    /// at most 64 of them; otherwise nothing new is begun. What is under way goes on, and queries are
    /// answered until the owner stops, best when the node [is idle](Self::is_idle). BEP 5 has no
    /// message for it; others notice that the node is silent.
    ///
    /// The good nodes, to begin with next time.
    pub fn leave(&mut self, now: Instant) -> Vec<Contact> {
        let good = self.tables.values().flat_map(|table| table.good(now));
        let good: Vec<Contact> = good.collect();
        if !self.leaving && !good.is_empty() {
            let items = self.server.storage.items().take(MAX_HANDED_OVER);
            for item in items.cloned().collect::<Vec<_>>() {
                let (target, goal) = (item.target(), Goal::Put { item, cas: None });
                self.begin(now, Origin::Republish, goal, target);
            }
        }
        self.leaving = true;
        self.upkeep.stop();
        good
    }

    /// Does what is due from time to time.
    pub(super) fn look_after(&mut self, now: Instant) {
        if self.leaving {
            return;
        }
        self.ping_for_table(now);
        for (target, goal) in self.upkeep.due_published(now, &mut self.random) {
            self.begin(now, Origin::Republish, goal, target);
        }
        if !self.upkeep.tick(now, &mut self.random) {
            return;
        }
        self.server.expire(now);
        let mut join = false;
        for family in self.config.families.clone() {
            let Some(table) = self.tables.get_mut(&family) else {
                continue;
            };
            if table.is_empty() {
                let nobody = self
                    .config
                    .bootstrap
                    .iter()
                    .all(|n| Family::of(n) != family);
                join |= !nobody && self.upkeep.rejoin(now, family, &mut self.random);
                continue;
            }
            self.upkeep.joined(family);
            for contact in table.to_check(now) {
                self.upkeep.check(now, contact.address, contact.id);
            }
            // One bucket at a time: what is due at once need not be done at once.
            let busy = self
                .operations
                .values()
                .any(|o| o.origin == Origin::Refresh);
            if !busy && let Some(bucket) = table.stale_bucket(now) {
                self.refresh(now, family, bucket);
            }
        }
        let joining = self.operations.values().any(|o| o.origin == Origin::Join);
        if join && !joining {
            self.join(now);
        }
    }

    /// The look-up for this node's own identifier has ended.
    pub(super) fn joined(&mut self, now: Instant) {
        for (family, table) in &self.tables {
            // Farther buckets than the closest node's; a look-up for the own identifier fills the
            // close ones.
            for bucket in 0..table.depth().saturating_sub(1) {
                self.upkeep.refreshes.push_back((*family, bucket));
            }
        }
        for _ in 0..PARALLEL_REFRESHES {
            self.refresh_next(now);
        }
    }

    /// A look-up in a bucket has ended: the next one.
    pub(super) fn refresh_next(&mut self, now: Instant) {
        if let Some((family, bucket)) = self.upkeep.refreshes.pop_front() {
            self.refresh(now, family, bucket);
            return;
        }
        let busy = self
            .operations
            .values()
            .any(|o| o.origin == Origin::Refresh);
        if self.joining && !busy {
            self.joining = false;
            let nodes = self.tables.values().map(|table| table.len()).sum();
            self.events.push_back(Event::Joined { nodes });
        }
    }

    fn refresh(&mut self, now: Instant, family: Family, bucket: usize) {
        if let Some(table) = self.tables.get_mut(&family) {
            table.refreshing(now, bucket);
            let target = self.id.random_with_prefix(bucket, &mut self.random);
            self.begin_refresh(now, family, target);
        }
    }

    /// Pings nodes that may find a place in a table, those of one family by one packet.
    fn ping_for_table(&mut self, now: Instant) {
        let checks = self.upkeep.due_checks(now);
        for family in self.config.families.clone() {
            let receivers: Vec<_> = checks
                .iter()
                .filter(|(address, _)| Family::of(address) == family)
                .map(|(address, id)| (*address, Some(*id)))
                .collect();
            self.ask(
                now,
                self.config.policy,
                Purpose::Check,
                Query::Ping,
                &receivers,
                &[],
            );
        }
    }
}
