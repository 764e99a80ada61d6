//! Which plan a list had.

use crate::{
    forward::mark,
    verifier::{fresh, store},
};

/// A plan is used again as long as it is one of the last so many, of both families together. A packet's plan must
/// last through the rest of the poll in which it arrived: 64 packets, each with a plan of its own.
pub const MAX_AGE: u32 = 32;
/// Places for the serial numbers of plans.
const PLACES: usize = 256;

/// Serial numbers of plans by the checksum of their packets' Xcast headers, which is a good hash of the list.
#[repr(C)]
pub struct Recent {
    serials: [u16; PLACES],
}

impl Recent {
    /// The plan of a packet whose Xcast header had this checksum, or any other, if it is recent: the next
    /// plan will have the number `next`.
    #[inline(always)]
    pub fn find(&self, checksum: u16, next: u32) -> Option<u32> {
        let serial = u32::from(fresh(&self.serials[Self::place(checksum)]));
        // The one before the next is 0 behind it.
        let age = next.wrapping_sub(serial).wrapping_sub(1) & mark::MAX_SERIAL;
        (age < MAX_AGE).then_some(serial)
    }

    /// Keeps it in mind.
    #[inline(always)]
    pub fn remember(&mut self, checksum: u16, serial: u32) {
        store(&mut self.serials[Self::place(checksum)], serial as u16);
    }

    #[inline(always)]
    fn place(checksum: u16) -> usize {
        (checksum ^ checksum >> 8) as usize % PLACES
    }
}
