//! Branches by port: what is needed where copies are made.
//!
//! The branches of a port are a ring. Copies by the same port are interchangeable: each takes the ring's head,
//! and moves it on.

use super::decision::Plan;
use crate::{
    family::traits::Family,
    maps::port::{MAX_PORTS, PORT_STACK},
    verifier::{fresh, opaque, store},
};

/// Alias of a branch whose copy leaves in this round.
const LEAVING: u16 = 0xffff;

impl<F: Family> Plan<F> {
    /// Puts branch `b` on a port's chain.
    #[inline(always)]
    pub(super) fn schedule(&mut self, b: u8, port: u8) {
        store(&mut self.branches[b as usize].port, port);
        let at = port as usize;
        if at >= MAX_PORTS {
            return;
        }
        let copies = fresh(&self.fanout.copies[at]);
        let mut next = b;
        // Heads are only set for ports with copies.
        if copies == 0 {
            self.port_branch[at] = b;
        } else {
            self.crowded = 1;
            let head = &mut self.branches[self.port_branch[at] as usize];
            next = head.next;
            head.next = b;
        }
        self.branches[b as usize].next = next;
        store(&mut self.fanout.copies[at], copies + 1);
        store(&mut self.last_branch, b);
        let all = fresh(&self.copies);
        store(&mut self.copies, all + 1);
    }

    /// The first branch on a port.
    #[inline(always)]
    pub fn first_on(&self, port: u8) -> Option<u8> {
        let at = port as usize;
        if at >= MAX_PORTS || fresh(&self.fanout.copies[at]) == 0 {
            return None;
        }
        Some(fresh(&self.port_branch[at]))
    }

    /// The branch after `b` on the same port; after the last one, the first.
    #[inline(always)]
    pub fn after(&self, b: u8) -> u8 {
        fresh(&self.branches[b as usize].next)
    }

    /// Takes the next branch of a port: the one this copy is for.
    #[inline(always)]
    pub fn take(&mut self, port: u8) -> Option<u8> {
        let b = self.first_on(port)?;
        // The look-up above checked the port.
        store(
            &mut self.port_branch[port as usize % MAX_PORTS],
            fresh(&self.branches[b as usize].next),
        );
        Some(b)
    }

    /// Leaves the copies for the kernel stack out unless it takes them, which is 1 then and else 0; whether any copy is left. They
    /// are put back by [`Self::restore`], as other packets use the plan, too.
    #[inline(always)]
    pub fn bound_stack(&mut self, takes: u32) -> bool {
        let copies = fresh(&self.fanout.copies[PORT_STACK as usize]);
        // Without a branch, which the verifier would follow to the end of the program.
        let kept = (opaque(takes.into()) as u8).wrapping_neg();
        store(&mut self.fanout.copies[PORT_STACK as usize], copies & kept);
        store(&mut self.refused, copies & !kept);
        fresh(&self.copies) != fresh(&self.refused)
    }

    /// Ends what [`Self::bound_stack`] has begun; how many copies were left out.
    #[inline(always)]
    pub fn restore(&mut self) -> u8 {
        let refused = fresh(&self.refused);
        let copies = fresh(&self.fanout.copies[PORT_STACK as usize]);
        store(
            &mut self.fanout.copies[PORT_STACK as usize],
            copies.wrapping_add(refused),
        );
        store(&mut self.refused, 0);
        refused
    }

    /// Prepares for more than one round. Which of several copies by one port leave in the first depends on the
    /// packet, which then must not share its plan.
    #[inline(always)]
    pub fn begin_rounds(&mut self) {
        self.is_private |= self.crowded;
    }

    /// Marks the branch whose copy leaves by a port in this round, while the rest recirculates.
    #[inline(always)]
    pub fn leave(&mut self, port: u8) {
        if let Some(b) = self.first_on(port) {
            store(&mut self.branches[b as usize].alias, LEAVING);
        }
    }

    /// Whether destination `i` is served in a later round.
    #[inline(always)]
    pub fn stays(&self, i: usize) -> bool {
        let branch = self.served_by(i);
        branch.is_some_and(|b| fresh(&self.branches[b as usize].alias) != LEAVING)
    }
}
