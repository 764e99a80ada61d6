//! Whom to ask first, of several who would all do.

use std::{fmt, net::SocketAddr, sync::Arc};

/// A rule that chooses among peers: given candidates and how many to choose at least, it returns their
/// places in the list.
///
/// A look-up goes on as well with any of its closest candidates, so it may ask those whose paths have
/// most links in common. Whoever makes the rule should go by what it has measured or knows itself,
/// never by what peers say of themselves.
#[derive(Clone)]
pub struct Choice(Arc<Rule>);

type Rule = dyn Fn(&[SocketAddr], usize) -> Vec<usize> + Send + Sync;

impl Choice {
    /// Chooses by this rule.
    pub fn new(rule: impl Fn(&[SocketAddr], usize) -> Vec<usize> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    /// The places of `count` of the candidates, or more if the rule names more, each once, in ascending
    /// order. If it names fewer, or no such places, the first of the others make up for it.
    pub fn choose(&self, candidates: &[SocketAddr], count: usize) -> Vec<usize> {
        let count = count.min(candidates.len());
        let mut chosen = (self.0)(candidates, count);
        chosen.retain(|place| *place < candidates.len());
        chosen.sort_unstable();
        chosen.dedup();
        let missing = count.saturating_sub(chosen.len());
        let others = (0..candidates.len()).filter(|place| !chosen.contains(place));
        let others: Vec<usize> = others.take(missing).collect();
        chosen.extend(others);
        chosen.sort_unstable();
        chosen
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_chosen_as_there_should_be() {
        let candidates: Vec<SocketAddr> =
            (1..=5).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let last = Choice::new(|candidates, count| {
            (candidates.len() - count..candidates.len()).rev().collect()
        });
        assert_eq!(last.choose(&candidates, 2), [3, 4]);
        assert_eq!(last.choose(&candidates, 9), [0, 1, 2, 3, 4]);
        let wrong = Choice::new(|_, _| vec![4, 4, 17]);
        assert_eq!(wrong.choose(&candidates, 3), [0, 1, 4]);
        assert!(wrong.choose(&[], 3).is_empty());
        let more = Choice::new(|_, _| vec![3, 1, 4]);
        assert_eq!(more.choose(&candidates, 2), [1, 3, 4]);
    }
}
