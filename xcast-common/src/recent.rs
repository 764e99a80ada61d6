//! A packet with the same list as one just before goes by that one's plan.
//!
//! Sources of streams name the same destinations again and again, and RFC 5058 expects routers to keep what they
//! found out about a list (sections 6 and 8.3). A [`Plan`] is kept in any case until its copies have left,
//! and then until its memory is needed; as long as it is there, a packet to which it applies saves look-ups and grouping.
//! So this is no state for flows, and nobody has to be told when a flow ends.
//!
//! A plan says what follows from the packet's list, lengths, flags and time to live, from its flow where a route has
//! several paths, and from the router's tables, which have a [revision](Tables::revision). All of that has to be the
//! same, but that a packet may be shorter: nothing is taken to be so from a hash or a channel identifier. What else
//! there is to a packet is checked for each, and no plan says anything about it.

use crate::{
    address::Address as _,
    family::Family,
    ingress::Packet,
    mark,
    plan::{
        NONE, Plan, Tables, bucket_of, each_address, each_bitmap_word, each_ds, each_port, fresh,
    },
    view::{Frame, store},
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

impl<F: Family> Plan<F> {
    /// Whether this is plan number `serial` and applies to an accepted packet. `None` if the frame is shorter
    /// than it was when it was accepted.
    #[inline(always)]
    pub fn applies(
        &mut self,
        serial: u32,
        frame: &mut impl Frame,
        packet: &Packet,
        tables: &impl Tables<F>,
    ) -> Option<bool> {
        let revision = tables.revision();
        let differs = self.nonce ^ serial
            | self.revision ^ revision
            | revision & 1
            | u32::from(self.header_len ^ packet.header_len)
            | u32::from(self.before ^ packet.before)
            | u32::from(self.dest_count ^ packet.dest_count)
            | u32::from(self.flags ^ packet.flags)
            | u32::from(self.ttl ^ packet.ttl)
            | u32::from(self.protocol ^ packet.protocol)
            | u32::from(self.to_own ^ packet.to_own as u8)
            | u32::from(self.checksum_at ^ F::checksum_at(packet))
            | u32::from(self.is_private);
        // Where the longer packet fits, the shorter one does.
        let differs = differs != 0 || packet.total_len > self.total_len;
        if differs || self.crowded != 0 && !self.subset.usual().is_all {
            return Some(false);
        }
        if self.bucket != NONE && u32::from(self.bucket) != bucket_of::<F>(frame.view(), packet)? {
            return Some(false);
        }
        self.is_list(frame)
    }

    /// Whether the frame's list is the one that the plan was made for.
    #[inline(always)]
    fn is_list(&mut self, frame: &mut impl Frame) -> Option<bool> {
        let mut differs = 0;
        each_bitmap_word(frame, self, |plan, word, _, bits| {
            differs |= u64::from(bits ^ plan.bits[word]);
        })?;
        each_address(frame, self, |plan, i, address| {
            differs |= address.difference(plan.destinations[i].address);
        })?;
        each_ds(frame, self, |plan, i, ds| {
            differs |= u64::from(ds ^ plan.destinations[i].ds);
        })?;
        each_port(frame, self, |plan, i, port| {
            differs |= u64::from(port.memory() ^ plan.destinations[i].port.memory());
        })?;
        Some(differs == 0)
    }
}
