//! The search for a parent: who was asked, who has room, and who is best.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{children::common_bits, config::Parents, message::Found};

/// Members that are asked at once, by one packet.
const WIDTH: usize = 16;
/// Rounds in which to look for somebody better.
const MAX_ROUNDS: u32 = 12;

/// Somebody who may become the parent.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub address: SocketAddr,
    pub found: Found,
    pub cost: u64,
}

/// A search goes down the tree from whoever is known: each round asks children of the best so far,
/// until nobody better is found.
#[derive(Clone, Debug)]
pub(super) struct Search {
    parents: Parents,
    asked: BTreeSet<SocketAddr>,
    pool: Vec<SocketAddr>,
    pub candidates: Vec<Candidate>,
    best_before: Option<u64>,
    rounds: u32,
    /// Take the first that is good enough: there are children who wait.
    hurry: bool,
}

impl Search {
    pub fn new(parents: Parents, first: Vec<SocketAddr>, hurry: bool) -> Self {
        Self {
            parents,
            asked: BTreeSet::new(),
            pool: first,
            candidates: Vec::new(),
            best_before: None,
            rounds: 0,
            hurry,
        }
    }

    /// An answer of somebody, with the round-trip time.
    pub fn found(&mut self, from: SocketAddr, found: Found, rtt: Option<Duration>) {
        let depth = u64::from(found.depth);
        let cost = match self.parents {
            Parents::Latency { level } => {
                // Not measured, because it answered to a repetition only: not near.
                let rtt = rtt.unwrap_or(Duration::from_secs(1));
                (rtt.as_micros() + level.as_micros() * u128::from(depth)) as u64
            }
            Parents::Prefix { level_bits } => {
                let bits = common_bits(found.seen.ip(), from.ip());
                // Twice, so that between equals the nearer wins by a half.
                let near = u64::from(rtt.is_some_and(|rtt| rtt < Duration::from_millis(50)));
                2 * (128 - u64::from(bits) + depth * u64::from(level_bits)) + 1 - near
            }
        };
        self.pool.extend(&found.children);
        self.candidates.retain(|known| known.address != from);
        self.candidates.push(Candidate {
            address: from,
            found,
            cost,
        });
    }

    /// Who is to be asked next, all at once; nobody if the search is over.
    pub fn round(&mut self) -> Vec<SocketAddr> {
        let best = self.best(0).map(|best| best.cost);
        let better = best.is_none() || self.best_before.is_none_or(|before| best < Some(before));
        let go_on = best.is_none() || (better && !self.hurry) || self.rounds == 0;
        self.best_before = best;
        if !go_on || self.rounds >= MAX_ROUNDS {
            return Vec::new();
        }
        self.rounds += 1;
        let mut round = Vec::new();
        // Children of the best first, those with room or near before others.
        let mut by_cost: Vec<&Candidate> = self.candidates.iter().collect();
        by_cost.sort_by_key(|candidate| candidate.cost);
        let children = by_cost
            .iter()
            .flat_map(|candidate| &candidate.found.children);
        for address in children.chain(&self.pool) {
            if round.len() < WIDTH && self.asked.insert(*address) {
                round.push(*address);
            }
        }
        self.pool.clear();
        round
    }

    /// The best that has room, and a pulse above this.
    pub fn best(&self, pulse: u64) -> Option<&Candidate> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.found.room > 0 && candidate.found.pulse >= pulse)
            .min_by_key(|candidate| candidate.cost)
    }

    /// Somebody has refused.
    pub fn remove(&mut self, address: SocketAddr) {
        self.candidates.retain(|known| known.address != address);
    }
}
