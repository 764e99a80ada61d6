//! Repairs for others: who wants what, until they are sent together.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long to wait for others that want the same: what was lost on a shared link is missed by all
/// behind it, who ask at about the same time, and are served by one packet.
const GATHER: Duration = Duration::from_millis(15);
/// Most wishes that wait.
const MAX_WISHES: usize = 8192;

#[derive(Clone, Debug, Default)]
pub(super) struct Repairs {
    wanted: BTreeMap<u64, BTreeSet<SocketAddr>>,
    wishes: usize,
    pub due: Option<Instant>,
}

impl Repairs {
    /// Somebody wants a message.
    pub fn want(&mut self, now: Instant, who: SocketAddr, seq: u64) {
        if self.wishes < MAX_WISHES && self.wanted.entry(seq).or_default().insert(who) {
            self.wishes += 1;
            self.due.get_or_insert(now + GATHER);
        }
    }

    /// All wishes that are due, the oldest message first.
    pub fn take(&mut self, now: Instant) -> BTreeMap<u64, BTreeSet<SocketAddr>> {
        if self.due.is_none_or(|due| due > now) {
            return BTreeMap::new();
        }
        (self.due, self.wishes) = (None, 0);
        std::mem::take(&mut self.wanted)
    }
}
