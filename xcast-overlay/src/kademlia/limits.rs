//! How much a node answers, so that nobody can aim it at others.
//!
//! A query's source address is easily forged, and an answer is up to ten times as long as a query.
//! So the octets of answers to one network, and of all answers, have a budget. In addition each
//! peer has a budget of messages, queries and answers together ([`Peers`]).
//!
//! [`Peers`]: crate::runtime::Peers

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::scope::network;
use crate::runtime::OctetPace;

/// Networks whose budgets are remembered.
const MAX_NETWORKS: usize = 4096;

/// Budgets of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Octets of answers a second, to all.
    pub total_octets_per_second: u32,
    /// Octets of answers a second to one /24 (IPv4) or /64 (IPv6).
    pub network_octets_per_second: u32,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            total_octets_per_second: 200_000,
            network_octets_per_second: 20_000,
        }
    }
}

/// What was answered lately.
#[derive(Clone, Debug)]
pub struct AnswerBudget {
    limits: AnswerLimits,
    total: OctetPace,
    networks: BTreeMap<IpAddr, (Instant, OctetPace)>,
    by_use: BTreeSet<(Instant, IpAddr)>,
}

impl AnswerBudget {
    /// Full budgets, with a burst of two seconds' worth.
    pub fn new(limits: AnswerLimits) -> Self {
        let total = limits.total_octets_per_second;
        Self {
            limits,
            total: OctetPace::new(total, total.saturating_mul(2)),
            networks: BTreeMap::new(),
            by_use: BTreeSet::new(),
        }
    }

    /// Whether an answer of so many octets may be sent now.
    pub fn take(&mut self, now: Instant, to: &SocketAddr, octets: usize) -> bool {
        let network = network(to.ip());
        if !self.networks.contains_key(&network)
            && self.networks.len() >= MAX_NETWORKS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.networks.remove(&oldest);
        }
        let rate = self.limits.network_octets_per_second;
        let fresh = OctetPace::new(rate, rate.saturating_mul(2));
        let (used, pace) = self.networks.entry(network).or_insert((now, fresh));
        self.by_use.remove(&(*used, network));
        self.by_use.insert((now, network));
        *used = now;
        pace.take(now, octets) && self.total.take(now, octets)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_network_is_answered_so_much_and_all_together_so_much() {
        let limits = AnswerLimits {
            total_octets_per_second: 5000,
            network_octets_per_second: 1000,
        };
        let mut budget = AnswerBudget::new(limits);
        let start = Instant::now();
        let address = |network, host| SocketAddr::from(([198, 51, network, host], 1));
        let count = |budget: &mut AnswerBudget, now, networks: std::ops::Range<u8>| {
            (0..200)
                .filter(|host| {
                    networks
                        .clone()
                        .any(|network| budget.take(now, &address(network, *host), 100))
                })
                .count()
        };
        assert_eq!(count(&mut budget, start, 0..1), 20);
        assert_eq!(count(&mut budget, start, 1..20), 80);
        assert_eq!(count(&mut budget, start + Duration::from_secs(1), 0..1), 10);
    }
}
