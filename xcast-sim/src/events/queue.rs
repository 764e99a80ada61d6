//! Events in order of time.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::time::Time;

/// A queue of events. Those of one time come out in the order they were put in, so that a run is
/// the same every time.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    now: Time,
    next_number: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            now: Time::default(),
            next_number: 0,
        }
    }
}

impl<E> Queue<E> {
    /// The time of the event that came out last.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Puts an event in.
    ///
    /// # Panics
    ///
    /// Its time is over.
    pub fn push(&mut self, at: Time, event: E) {
        assert!(
            at >= self.now,
            "an event for {at:?} comes at {:?}",
            self.now
        );
        self.heap.push(Entry {
            at,
            number: self.next_number,
            event,
        });
        self.next_number += 1;
    }

    /// Takes the next event out, and time goes on to it.
    pub fn pop(&mut self) -> Option<(Time, E)> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some((entry.at, entry.event))
    }

    /// The same, unless the next event is after `last`; then time goes on to `last` and the event
    /// stays.
    pub fn pop_until(&mut self, last: Time) -> Option<(Time, E)> {
        if self.heap.peek().is_some_and(|entry| entry.at <= last) {
            return self.pop();
        }
        self.now = self.now.max(last);
        None
    }
}

impl<E> Ord for Entry<E> {
    /// The heap has its greatest entry on top: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a stable sort by time would order them, also when some are put in on the way.
        #[test]
        fn in_order_of_time_and_then_of_arrival(
            times in prop::collection::vec(0_u64..20, 0..200),
            later in prop::collection::vec(0_u64..20, 0..200),
        ) {
            let mut queue = Queue::default();
            let mut expected = Vec::new();
            for (number, time) in times.iter().enumerate() {
                queue.push(Time(*time), number);
                expected.push((Time(*time), number));
            }
            let mut later = later.into_iter();
            let mut found = Vec::new();
            while let Some((at, number)) = queue.pop() {
                prop_assert_eq!(queue.now(), at);
                found.push((at, number));
                if let Some(delay) = later.next() {
                    let number = expected.len();
                    queue.push(at + delay, number);
                    expected.push((at + delay, number));
                }
            }
            expected.sort_by_key(|(at, _)| *at);
            prop_assert_eq!(found, expected);
            prop_assert!(queue.is_empty());
        }
    }

    #[test]
    fn time_stops_where_it_is_told_to() {
        let mut queue = Queue::default();
        queue.push(Time(5), 'a');
        queue.push(Time(9), 'b');
        assert_eq!(queue.pop_until(Time(7)), Some((Time(5), 'a')));
        assert_eq!(queue.pop_until(Time(7)), None);
        assert_eq!((queue.now(), queue.len()), (Time(7), 1));
        assert_eq!(queue.pop_until(Time(9)), Some((Time(9), 'b')));
    }

    #[test]
    #[should_panic(expected = "an event for Time(3) comes at Time(4)")]
    fn the_past_is_over() {
        let mut queue = Queue::default();
        queue.push(Time(4), ());
        queue.pop();
        queue.push(Time(3), ());
    }
}
