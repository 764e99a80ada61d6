//! Look up every destination and group them into branches.
//!
//! A *branch* is one output copy: a next hop and the destinations behind it (RFC 5058 section 6).
//! Grouping goes in passes, each a loop with a small body, which suits the processor (independent
//! look-ups overlap) as well as the verifier:
//!
//! 1. read the list and start to look every destination up ([`look_up`]; whoever has tables with several steps does the
//!    others, by [`Work::step`], before the other passes, [`group()`]);
//! 2. collect destinations with the same next hop into a branch;
//! 3. decide, once per branch, what becomes of it: a copy, the kernel stack, nothing;
//! 4. only where a branch's destinations cannot share a copy: a branch of its own for each.
//!
//! All state is in a [`Plan`], which the kernel keeps in per-CPU memory: the program that runs for each copy
//! reads its branch from there. A packet whose list was seen recently
//! [reuses](Plan::applies) the cached plan, which [`Recent`] finds.
//!
//! Cursors and counts are read and written volatile, on purpose: kept in a register across a loop,
//! every value they can take would be a separate state to the verifier.

mod decision;
mod group;
mod list;
mod recent;
mod reuse;
mod rings;
mod split;
mod verdict;
mod work;

pub(super) use self::list::{addresses_at, bit, ds_at, leading_ones};
pub use self::{
    decision::{BRANCH_SLOTS, Branch, DESTINATION_SLOTS, Destination, NONE, Plan},
    group::{Memory, group, look_up},
    recent::{MAX_AGE, Recent},
    work::{Payer, Scratch, Work},
};
