//! A repeated list reuses the cached plan.
//!
//! Sources of streams name the same destinations again and again, and RFC 5058 expects routers to keep what they
//! found out about a list (sections 6 and 8.3). A [`Plan`] has to be kept until its copies have left, and stays
//! until its memory is needed for another. Until then, a packet to which it applies saves look-ups and grouping.
//! There is no state per flow, and nothing that has to expire.
//!
//! A plan follows from the packet's list, lengths, flags and time to live, from its flow where a route has
//! several paths, from who pays for copies for the kernel stack, and from the router's tables, which have a [revision](Tables::revision). All of these are compared,
//! and have to be the same, except that a packet may be shorter; a hash or a channel identifier alone is never
//! enough. Everything else in a packet is checked for each packet anyway.

use super::{
    decision::{NONE, Plan},
    group::bucket_of,
    list::{each_address, each_bitmap_word, each_ds, each_port},
};
use crate::{
    family::traits::Family,
    forward::tables::Tables,
    maps::port::PORT_STACK,
    packet::Packet,
    wire::{address::Address as _, frame::Frame},
};

impl<F: Family> Plan<F> {
    /// Whether this is plan number `serial` and applies to an accepted packet with this bucket of who pays for it. `None` if the frame is shorter
    /// than it was when it was accepted.
    #[inline(always)]
    pub fn applies(
        &mut self,
        serial: u32,
        frame: &mut impl Frame,
        packet: &Packet,
        payer: u32,
        tables: &impl Tables<F>,
    ) -> Option<bool> {
        let revision = tables.revision();
        let for_stack = self.fanout.copies[PORT_STACK as usize];
        let differs = self.serial ^ serial
            | self.revision ^ revision
            | revision & 1
            | u32::from(self.packet.header_len ^ packet.header_len)
            | u32::from(self.packet.ext_len ^ packet.ext_len)
            | u32::from(self.packet.dest_count ^ packet.dest_count)
            | u32::from(self.packet.flags ^ packet.flags)
            | u32::from(self.packet.ttl ^ packet.ttl)
            | u32::from(self.packet.protocol ^ packet.protocol)
            | u32::from(self.packet.to_own ^ packet.to_own)
            | u32::from(self.packet.arrival ^ packet.arrival)
            | u32::from(self.packet.to_stack ^ packet.to_stack)
            | u32::from(self.checksum_at ^ F::checksum_at(packet))
            | u32::from(self.is_private)
            | (self.payer ^ payer) & u32::from(for_stack != 0).wrapping_neg();
        // Where the longer packet fits, the shorter one does.
        let differs = differs != 0 || packet.total_len > self.packet.total_len;
        if differs || self.crowded != 0 && !self.fanout.preset().is_all {
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
