//! Events that wait for whoever acts on them.
//!
//! What came in while the consumer was busy is shortened: of several messages about one neighbour, only
//! the last says anything. Neighbours can be made to change faster than anybody can follow (a scan, a flood of ARP),
//! and routes are not to wait for them.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
};

use super::event::KernelEvent;

/// Events that are handed on at a time at most: whoever acts on them does nothing else meanwhile.
pub(super) const BATCH_EVENTS: usize = 512;
/// More events do not wait here; the kernel's buffer has room for more.
const MOST_EVENTS: usize = 1 << 16;

/// Events in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    events: VecDeque<KernelEvent>,
    /// How many there were when they were shortened last.
    shortened_to: usize,
}

impl Backlog {
    pub(super) fn push(&mut self, event: KernelEvent) {
        self.events.push_back(event);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// There are enough to hand on.
    pub(super) fn is_due(&self) -> bool {
        self.events.len() >= BATCH_EVENTS
    }

    /// There are so many that no more should be taken in.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= MOST_EVENTS
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first ones, to be handed on.
    pub(super) fn next_batch(&mut self) -> Vec<KernelEvent> {
        let len = self.events.len().min(BATCH_EVENTS);
        self.shortened_to = self.shortened_to.saturating_sub(len);
        self.events.drain(..len).collect()
    }

    /// Leaves out what later events make void, if enough has come in since the last time for that to pay.
    pub(super) fn shorten(&mut self) {
        if self.events.len() < (2 * self.shortened_to).max(BATCH_EVENTS) {
            return;
        }
        let mut later = HashSet::new();
        let mut kept = VecDeque::with_capacity(self.events.len());
        while let Some(event) = self.events.pop_back() {
            if neighbour(&event).is_none_or(|neighbour| later.insert(neighbour)) {
                kept.push_front(event);
            }
        }
        self.events = kept;
        self.shortened_to = self.events.len();
    }
}

/// The neighbour that an event is about.
fn neighbour(event: &KernelEvent) -> Option<(u32, IpAddr)> {
    match event {
        KernelEvent::Neighbour(neighbour) => Some((neighbour.ifindex, neighbour.address)),
        KernelEvent::NeighbourRemoved { ifindex, address } => Some((*ifindex, *address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::event::{Neighbour, NeighbourState},
        *,
    };

    fn address(number: usize) -> IpAddr {
        IpAddr::from((number as u32).to_be_bytes())
    }

    fn state(number: usize, state: NeighbourState) -> KernelEvent {
        KernelEvent::Neighbour(Neighbour {
            ifindex: 1,
            address: address(number),
            mac: None,
            state,
            managed: false,
        })
    }

    fn removed(number: usize) -> KernelEvent {
        KernelEvent::NeighbourRemoved {
            ifindex: 1,
            address: address(number),
        }
    }

    #[test]
    fn only_the_last_word_about_a_neighbour_is_kept_and_the_order_stays() {
        let mut backlog = Backlog::default();
        let gone = KernelEvent::LinkRemoved { ifindex: 7 };
        for _ in 0..BATCH_EVENTS {
            backlog.push(state(1, NeighbourState::Stale));
            backlog.push(state(2, NeighbourState::Stale));
            backlog.push(removed(2));
        }
        backlog.push(gone.clone());
        backlog.push(state(1, NeighbourState::Failed));
        backlog.shorten();
        assert!(!backlog.is_due());
        let kept = backlog.next_batch();
        assert_eq!(kept, [removed(2), gone, state(1, NeighbourState::Failed)]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn other_events_are_never_left_out() {
        let mut backlog = Backlog::default();
        let count = 3 * BATCH_EVENTS;
        for ifindex in 0..count as u32 {
            backlog.push(KernelEvent::LinkRemoved {
                ifindex: ifindex % 2,
            });
        }
        backlog.shorten();
        let mut taken = backlog.next_batch();
        assert_eq!(taken.len(), BATCH_EVENTS);
        while !backlog.is_empty() {
            taken.append(&mut backlog.next_batch());
        }
        let expected = (0..count as u32).map(|ifindex| KernelEvent::LinkRemoved {
            ifindex: ifindex % 2,
        });
        assert_eq!(taken, expected.collect::<Vec<_>>());
    }

    /// However many messages come about a number of neighbours, the backlog is as long as that number.
    #[test]
    fn a_storm_of_neighbours_does_not_fill_it() {
        let mut backlog = Backlog::default();
        for round in 0..200 {
            for number in 0..5000 {
                let new = if round % 2 == 0 {
                    NeighbourState::Stale
                } else {
                    NeighbourState::Failed
                };
                backlog.push(state(number, new));
                if backlog.is_due() {
                    backlog.shorten();
                }
                assert!(!backlog.is_full());
            }
        }
    }
}
