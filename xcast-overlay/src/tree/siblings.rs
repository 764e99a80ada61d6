//! The other children of a parent, as far as its beats have named them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::message::MAX_NAMED;

/// For how many beats whoever was named is remembered. A parent names all its children in turn: so much is enough for
/// 128 of them.
pub(super) const KEPT_BEATS: u32 = 16;
const MOST: usize = MAX_NAMED * KEPT_BEATS as usize;

/// Siblings, and when they were named last.
#[derive(Clone, Debug, Default)]
pub(super) struct Siblings(BTreeMap<SocketAddr, Instant>);

impl Siblings {
    /// The parent names some. Those that it has not named for as long as `kept` are forgotten, and the oldest if there are
    /// too many.
    pub fn name(&mut self, now: Instant, named: Vec<SocketAddr>, kept: Duration) {
        let named = named.into_iter().take(MAX_NAMED);
        self.0.extend(named.map(|address| (address, now)));
        self.0.retain(|_, named| now <= *named + kept);
        while self.0.len() > MOST {
            let oldest = self.0.iter().min_by_key(|(_, named)| **named);
            let Some((&oldest, _)) = oldest else { break };
            self.0.remove(&oldest);
        }
    }

    /// All but oneself, those next to oneself first, so that not all ask the same one.
    pub fn others(&self, own: Option<SocketAddr>) -> impl Iterator<Item = SocketAddr> {
        let is_after = move |address: &SocketAddr| own.is_none_or(|own| *address > own);
        let after = self.0.keys().copied().filter(is_after);
        let before = self.0.keys().copied();
        let before = before.take_while(move |address| own.is_some_and(|own| *address < own));
        after.chain(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(16);

    fn at(number: u16) -> SocketAddr {
        ([10, 0, 0, 1], number).into()
    }

    fn others(siblings: &Siblings, own: u16) -> Vec<u16> {
        let others = siblings.others(Some(at(own)));
        others.map(|address| address.port()).collect()
    }

    #[test]
    fn the_next_one_is_first_and_one_is_no_sibling_of_oneself() {
        let mut siblings = Siblings::default();
        let now = Instant::now();
        siblings.name(now, [5, 1, 9].map(at).to_vec(), KEPT);
        siblings.name(now, [3, 7].map(at).to_vec(), KEPT);
        assert_eq!(others(&siblings, 5), [7, 9, 1, 3]);
        assert_eq!(others(&siblings, 10), [1, 3, 5, 7, 9]);
        assert_eq!(siblings.others(None).count(), 5);
    }

    #[test]
    fn who_is_named_no_longer_is_forgotten() {
        let mut siblings = Siblings::default();
        let now = Instant::now();
        siblings.name(now, [1, 2].map(at).to_vec(), KEPT);
        siblings.name(now + KEPT, vec![at(2)], KEPT);
        assert_eq!(others(&siblings, 0), [1, 2]);
        siblings.name(now + 2 * KEPT, vec![], KEPT);
        assert_eq!(others(&siblings, 0), [2]);
    }

    #[test]
    fn a_parent_that_names_many_fills_no_memory() {
        let mut siblings = Siblings::default();
        let now = Instant::now();
        for number in 0..1000 {
            let named = (0..20).map(|more| at(20 * number + more)).collect();
            siblings.name(now + Duration::from_millis(number.into()), named, KEPT);
        }
        assert_eq!(siblings.0.len(), MOST);
        assert!(siblings.0.contains_key(&at(20 * 999)));
    }
}
