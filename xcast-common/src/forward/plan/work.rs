//! Memory that grouping needs beside the plan.

use super::{
    decision::{DESTINATION_SLOTS, Plan, boxed},
    recent::Recent,
    verdict::Verdict,
};
use crate::{
    family::traits::Family,
    maps::{
        lpm::{LookUps, Reader},
        next_hop::{MAX_NEXT_HOPS, NextHop},
    },
    packet::{Opened, Packet},
    verifier::{fresh, store},
};

/// Slots of the duplicate check's table; sparse, so that probing stays short.
pub(super) const SEEN_SLOTS: usize = 4096;

/// Branch by next-hop id. Never cleared: an entry counts only where the plan confirms it (a sparse
/// set).
#[repr(C)]
pub struct Scratch {
    branch_of: [u8; MAX_NEXT_HOPS as usize],
}

impl Scratch {
    /// A candidate for the branch of routes with this next-hop id; see [`Plan::is_branch_of`].
    #[inline(always)]
    pub(super) fn branch_of(&self, id: u16) -> u8 {
        fresh(&self.branch_of[id as usize % MAX_NEXT_HOPS as usize])
    }

    #[inline(always)]
    pub(super) fn remember(&mut self, id: u16, b: u8) {
        store(&mut self.branch_of[id as usize % MAX_NEXT_HOPS as usize], b);
    }
}

/// Who pays for a packet's copies, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Payer {
    /// When the packet arrived, in nanoseconds of the coarse monotonic clock.
    pub now: u64,
    /// The bucket of its source.
    pub bucket: u32,
    /// What a copy costs, in nanoseconds of the source's budget.
    pub copy_ns: u32,
}

/// What is only needed while a packet is grouped, and the serial number of its plan.
#[repr(C)]
pub struct Work {
    /// Serial number of the next plan, of [`mark::SERIAL_BITS`](crate::forward::mark::SERIAL_BITS).
    pub serial: u32,
    /// Not 0 if no controller has kept the tables up to date for so long that only the kernel stack can be
    /// trusted. Then no plan may be reused, either.
    pub orphaned: u32,
    /// See [`through_memory`](Self::through_memory).
    pub(super) packet: Packet,
    /// Who pays for the packet; kept here and not in registers while it is planned.
    payer: Payer,
    /// See [`opened_through_memory`](Self::opened_through_memory).
    opened: Opened,
    /// Not 0 if the bit of some destination is clear.
    pub(super) cleared: u32,
    /// Each destination's look-up.
    pub(super) look_ups: LookUps<DESTINATION_SLOTS>,
    /// Each branch's next hop, until something has been decided about it.
    pub(super) next_hops: [NextHop; DESTINATION_SLOTS],
    /// What becomes of the branch under consideration.
    pub(super) verdict: Verdict,
    /// Where each destination is in `seen`.
    pub(super) seen_at: [u16; DESTINATION_SLOTS],
    /// Destination by hash of address and port; like [`Scratch`], never cleared.
    pub(super) seen: [u8; SEEN_SLOTS],
    /// Plans that may be reused.
    pub recent: Recent,
}

boxed! {
    Scratch;
    Work;
}

impl Work {
    /// The same length of headers before the Xcast header, written to memory and read back, so that the
    /// verifier loses track of it: otherwise each code path that led here would be verified separately from here on.
    #[inline(always)]
    pub fn ext_len_through_memory(&mut self, ext_len: u16) -> u16 {
        store(&mut self.packet.ext_len, ext_len);
        fresh(&self.packet.ext_len)
    }

    /// Keeps who pays for the packet.
    #[inline(always)]
    pub fn keep_payer(&mut self, payer: Payer) {
        store(&mut self.payer, payer);
    }

    /// What was kept.
    #[inline(always)]
    pub fn payer(&self) -> Payer {
        fresh(&self.payer)
    }

    /// The same for what is known of a datagram whose packet is to be taken out.
    #[inline(always)]
    pub fn opened_through_memory(&mut self, opened: Opened) -> Opened {
        store(&mut self.opened, opened);
        fresh(&self.opened)
    }

    /// The same for what is known of a packet.
    #[inline(always)]
    pub fn through_memory(&mut self, packet: Packet) -> Packet {
        store(&mut self.packet, packet);
        fresh(&self.packet)
    }

    /// The next step of the packet's look-ups, by this octet of its destinations; whether any is still
    /// not at its end.
    #[inline(always)]
    pub fn step<F: Family>(&mut self, plan: &Plan<F>, map: &impl Reader, octet: u32) -> bool {
        let count = move || fresh(&plan.packet.dest_count) as usize;
        let address = move |i: usize| plan.destinations[i].address;
        self.look_ups.step(map, octet, count, address)
    }
}
