//! The neighbours of a node, and whether they are good enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use super::{
    config::Config,
    message::Account,
    tokens::{Grant, Purse},
};

/// How many neighbours more than a newcomer one must have to be given up for it. The paper's H is 5.
const HYSTERESIS: u16 = 5;

#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    /// What it calls this node by.
    pub own_tag: u32,
    /// What this node calls it by.
    pub tag: u32,
    pub capacity: u32,
    pub degree: u16,
    pub heard: Instant,
    /// Whether it gets what is sent to its address: nobody else is sent many octets for few.
    pub is_proven: bool,
    /// What it has.
    pub keys: BTreeSet<u64>,
    /// Tokens that it has given to this node.
    pub purse: Purse,
    /// Tokens that this node has given to it.
    pub grant: Grant,
}

impl Neighbour {
    /// What it is told of tokens.
    pub fn account(&self) -> Account {
        (self.tag, self.grant.given(), self.purse.spent())
    }
}

/// What to do with somebody who wants to be a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Accept, and give this one up.
    Instead(SocketAddr),
    Reject,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours(pub BTreeMap<SocketAddr, Neighbour>);

impl Neighbours {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that get what is sent to their addresses.
    pub fn proven(&self) -> Vec<SocketAddr> {
        let proven = self.0.iter().filter(|(_, neighbour)| neighbour.is_proven);
        proven.map(|(address, _)| *address).collect()
    }

    /// Whether any has given a token that is left.
    pub fn any_token(&self) -> bool {
        self.0.values().any(|neighbour| neighbour.purse.left() > 0)
    }

    /// Whether somebody with this capacity and so many neighbours is taken (figure 3 of the paper).
    pub fn judge(&self, config: &Config, capacity: u32, degree: u16) -> Verdict {
        if self.len() < config.most_neighbours() {
            return Verdict::Accept;
        }
        if !config.parts.adaptation {
            return Verdict::Reject;
        }
        let lesser = self
            .0
            .iter()
            .filter(|(_, neighbour)| neighbour.capacity <= capacity);
        // Not one that would be left alone.
        let lesser =
            lesser.filter(|(_, neighbour)| usize::from(neighbour.degree) > config.min_neighbours);
        let Some((address, highest)) = lesser.max_by_key(|(_, neighbour)| neighbour.degree) else {
            return Verdict::Reject;
        };
        let best = self.0.values().map(|neighbour| neighbour.capacity).max();
        let is_best = best.is_none_or(|best| capacity > best);
        match is_best || highest.degree > degree.saturating_add(HYSTERESIS) {
            true => Verdict::Instead(*address),
            false => Verdict::Reject,
        }
    }

    /// How much of this node's capacity its neighbours can use, 1 for all (section 3.2.1 of the paper).
    pub fn satisfaction(&self, config: &Config) -> f64 {
        if self.len() < config.min_neighbours {
            return 0.0;
        }
        if self.len() >= config.most_neighbours() {
            return 1.0;
        }
        let share = |neighbour: &Neighbour| {
            f64::from(neighbour.capacity) / f64::from(neighbour.degree.max(1))
        };
        let sum: f64 = self.0.values().map(share).sum();
        (sum / f64::from(config.capacity)).min(1.0)
    }

    /// Gives neighbours tokens, in proportion to their capacity. Nobody gets more than it wants, as
    /// far as is known: that is for those that want more (start-time fair queueing's shares).
    pub fn give(&mut self, tokens: f64, most_saved: u32) {
        let mut all: Vec<(f64, f64, &mut Grant)> = self
            .0
            .values_mut()
            .map(|neighbour| {
                let wanted = neighbour.grant.wanted(most_saved);
                (
                    wanted,
                    f64::from(neighbour.capacity.max(1)),
                    &mut neighbour.grant,
                )
            })
            .collect();
        // Who is content first comes first, and leaves the rest to the others.
        all.sort_by(|(wanted, weight, _), (other, other_weight, _)| {
            (wanted * other_weight).total_cmp(&(other * weight))
        });
        let mut weights: f64 = all.iter().map(|(_, weight, _)| weight).sum();
        let mut left = tokens;
        for (wanted, weight, grant) in all {
            let given = wanted.min(left * weight / weights);
            grant.give(given);
            left -= given;
            weights -= weight;
        }
    }

    /// Neighbours that are known to have this.
    pub fn holders(&self, key: u64) -> Vec<SocketAddr> {
        let holders = self
            .0
            .iter()
            .filter(|(_, neighbour)| neighbour.keys.contains(&key));
        holders.map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(capacity: u32, degree: u16) -> Neighbour {
        Neighbour {
            own_tag: 0,
            tag: 0,
            capacity,
            degree,
            heard: Instant::now(),
            is_proven: true,
            keys: BTreeSet::new(),
            purse: Purse::default(),
            grant: Grant::default(),
        }
    }

    fn address(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 1).into()
    }

    #[test]
    fn who_is_taken_and_who_is_given_up() {
        let config = Config::new("test", address(1), Vec::new(), 20);
        assert_eq!(config.most_neighbours(), 5);
        let mut all = Neighbours::default();
        assert_eq!(all.judge(&config, 1, 0), Verdict::Accept);
        assert_eq!(all.satisfaction(&config), 0.0);
        for (n, degree) in [(2, 4), (3, 20), (4, 6), (5, 3)] {
            all.0.insert(address(n), neighbour(10, degree));
        }
        assert!(all.satisfaction(&config) < 1.0);
        all.0.insert(address(6), neighbour(100, 50));
        assert_eq!(all.satisfaction(&config), 1.0);
        // Better than none; as good as four, with few neighbours; the same with many; the best.
        assert_eq!(all.judge(&config, 1, 0), Verdict::Reject);
        assert_eq!(all.judge(&config, 10, 3), Verdict::Instead(address(3)));
        assert_eq!(all.judge(&config, 10, 18), Verdict::Reject);
        assert_eq!(all.judge(&config, 1000, 90), Verdict::Instead(address(6)));
    }

    /// One beat, in which these use all that they have: what is given to each.
    fn beat(all: &mut Neighbours, tokens: f64, busy: &[u8]) -> Vec<u32> {
        let before: Vec<u32> = all.0.values().map(|known| known.grant.given()).collect();
        for n in busy {
            let known = all.0.get_mut(&address(*n)).expect("a neighbour");
            for number in 1..=known.grant.given() {
                known.grant.take(number);
            }
        }
        all.give(tokens, 4);
        let after = all.0.values().map(|known| known.grant.given());
        after
            .zip(before)
            .map(|(after, before)| after - before)
            .collect()
    }

    /// Who wants more than there is gets it in proportion to its capacity.
    #[test]
    fn tokens_by_capacity() {
        let mut all = Neighbours::default();
        for (n, capacity) in [(2, 10), (3, 30), (4, 60)] {
            all.0.insert(address(n), neighbour(capacity, 1));
        }
        for _ in 0..20 {
            beat(&mut all, 1000.0, &[2, 3, 4]);
        }
        assert_eq!(beat(&mut all, 1000.0, &[2, 3, 4]), [100, 300, 600]);
    }

    /// What one does not want is for the others, however small they are; and for nobody if nobody
    /// wants it.
    #[test]
    fn unused_tokens_are_for_others() {
        let mut all = Neighbours::default();
        for (n, capacity) in [(2, 10), (3, 1000), (4, 10_000)] {
            all.0.insert(address(n), neighbour(capacity, 1));
        }
        for _ in 0..20 {
            let given: u32 = beat(&mut all, 1000.0, &[2]).iter().sum();
            assert!(given <= 1000, "{given}");
        }
        assert_eq!(beat(&mut all, 1000.0, &[2]), [1000, 0, 0]);
        assert_eq!(beat(&mut all, 1000.0, &[]), [0, 0, 0]);
    }
}
