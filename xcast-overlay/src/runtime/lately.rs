//! What was here lately.

use std::collections::{BTreeSet, VecDeque};

/// The last things of a kind, so many at most: whoever meets one again knows it.
#[derive(Clone, Debug)]
pub struct Lately<T> {
    most: usize,
    known: BTreeSet<T>,
    order: VecDeque<T>,
}

impl<T: Ord + Clone> Lately<T> {
    /// Remembers so many.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            known: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers something, and forgets the oldest if there are too many: whether it is new.
    pub fn is_new(&mut self, thing: T) -> bool {
        if !self.known.insert(thing.clone()) {
            return false;
        }
        self.order.push_back(thing);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut lately = Lately::new(2);
        let new: Vec<bool> = [1, 2, 1, 3, 2, 1].map(|thing| lately.is_new(thing)).into();
        assert_eq!(new, [true, true, false, true, false, true]);
    }
}
