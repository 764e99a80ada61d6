//! The cache of plans: which plan a list had.

use crate::{
    forward::mark,
    verifier::{fresh, store},
};

/// A plan may be reused while it is among the latest so many, of both families together. A packet's plan must
/// last through the rest of the poll in which it arrived: 64 packets, each with a plan of its own.
pub const MAX_AGE: u32 = 32;
/// Places for the serial numbers of plans.
const PLACES: usize = 256;

/// Serial numbers of plans by the checksum of their packets' Xcast headers, which serves as a hash of the list.
#[repr(C)]
pub struct Recent {
    serials: [u16; PLACES],
}

impl Recent {
    /// Serial number of a recent plan that may belong to a packet whose Xcast header has this checksum; the next
    /// plan will have the number `next`. Other checksums share the place, so the plan has to be
    /// [checked](super::Plan::applies).
    #[inline(always)]
    pub fn find(&self, checksum: u16, next: u32) -> Option<u32> {
        let serial = u32::from(fresh(&self.serials[Self::place(checksum)]));
        // The latest plan has age 0.
        let age = next.wrapping_sub(serial).wrapping_sub(1) & mark::MAX_SERIAL;
        (age < MAX_AGE).then_some(serial)
    }

    /// Remembers the plan of a packet whose Xcast header has this checksum.
    #[inline(always)]
    pub fn remember(&mut self, checksum: u16, serial: u32) {
        store(&mut self.serials[Self::place(checksum)], serial as u16);
    }

    #[inline(always)]
    fn place(checksum: u16) -> usize {
        (checksum ^ checksum >> 8) as usize % PLACES
    }
}
