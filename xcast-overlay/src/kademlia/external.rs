//! This node's address as others see it (BEP 42).

use std::{collections::VecDeque, net::IpAddr};

/// Votes that count: the latest.
const VOTES: usize = 20;
/// Fewest equal votes that decide.
const MIN_EQUAL: usize = 3;

/// Votes on this node's address. One voter cannot be trusted; each has one vote.
#[derive(Clone, Debug, Default)]
pub struct ExternalAddress {
    /// Voter and vote.
    votes: VecDeque<(IpAddr, IpAddr)>,
    decided: Option<IpAddr>,
}

impl ExternalAddress {
    /// The address, if most voters agree.
    pub fn address(&self) -> Option<IpAddr> {
        self.decided
    }

    /// Counts a vote: the address, if it is another than before.
    pub fn vote(&mut self, voter: IpAddr, seen: IpAddr) -> Option<IpAddr> {
        self.votes.retain(|(known, _)| *known != voter);
        if self.votes.len() >= VOTES {
            self.votes.pop_front();
        }
        self.votes.push_back((voter, seen));
        let equal = self.votes.iter().filter(|(_, vote)| *vote == seen).count();
        let decides = equal >= MIN_EQUAL && 2 * equal > self.votes.len();
        if !decides || self.decided == Some(seen) {
            return None;
        }
        self.decided = Some(seen);
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_voters_decide_and_each_has_one_vote() {
        let ip = |last| IpAddr::from([203, 0, 113, last]);
        let mut external = ExternalAddress::default();
        for _ in 0..5 {
            assert_eq!(external.vote(ip(1), ip(66)), None, "a voter has one vote");
        }
        assert_eq!(external.vote(ip(2), ip(9)), None);
        assert_eq!(external.vote(ip(3), ip(9)), None);
        assert_eq!(external.vote(ip(4), ip(9)), Some(ip(9)));
        assert_eq!(external.vote(ip(5), ip(9)), None, "it is known");
        assert_eq!(external.address(), Some(ip(9)));
    }
}
