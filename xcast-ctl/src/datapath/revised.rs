//! The revision of what plans are made from.

use std::{ops::Deref, sync::atomic::Ordering};

use super::mapping::Mapping;

/// Maps that plans are made from. They can be changed by [`change`](Self::change) alone, which
/// tells the programs that no plan of theirs holds any more.
pub(super) struct Revised<T> {
    maps: T,
    /// `REVISION`.
    revision: Mapping,
}

impl<T> Revised<T> {
    pub(super) fn new(maps: T, revision: Mapping) -> Self {
        Self { maps, revision }
    }

    /// Changes the maps. The revision rises before and after, so it is odd while the change is under
    /// way, and the programs then use no plan for another packet. Such a plan would have ports from
    /// before the change and take the addresses of next hops from after it.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.raise();
        let done = change(&mut self.maps);
        self.raise();
        done
    }

    fn raise(&self) {
        // In order with the change on both sides. A processor that reorders loads may all the same let
        // a program see an entry from before and the revision from after. Such a plan ends with the
        // next revision, at most a second away: routes are published that often.
        self.revision.words()[0].fetch_add(1, Ordering::SeqCst);
    }
}

impl<T> Deref for Revised<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.maps
    }
}
