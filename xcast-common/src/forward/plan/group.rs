//! The passes, in order.

use super::{
    decision::{DESTINATION_SLOTS, NONE, PORT_SPLIT, Plan},
    list::{bit, each_address, each_bitmap_word, each_ds, each_port, leading_ones},
    split::split,
    verdict::{Verdict, judge},
    work::{Scratch, Work},
};
use crate::{
    family::traits::Family,
    forward::tables::Tables,
    maps::{
        counter::{Counter, Tally},
        lpm::Entry,
        next_hop::{
            ECMP_BUCKETS, NEXT_HOP_STACK_MTU, NEXT_HOP_STACK_ORPHAN, NEXT_HOP_STACK_POLICY,
            NextHopKind,
        },
        settings::Settings,
    },
    packet::Packet,
    verifier::{fresh, store},
    wire::{
        frame::{Frame, View},
        transport,
    },
};

/// Instead of a route, for a destination whose bit is clear.
const CLEARED: Entry = Entry::route(0xffff, 0);

/// What grouping writes to.
pub struct Memory<'a, F: Family> {
    /// The packet's plan, begun.
    pub plan: &'a mut Plan<F>,
    /// Branch by next hop.
    pub scratch: &'a mut Scratch,
    /// Working memory.
    pub work: &'a mut Work,
}

/// Groups the destinations of an accepted packet, whose look-ups are at their end: fills the plan, after
/// [`look_up`]. Skipped destinations are counted in `counters`. `None` if the frame is shorter than it was when
/// it was accepted.
#[inline(always)]
pub fn group<F: Family>(
    frame: &mut impl Frame,
    packet: &Packet,
    settings: &Settings,
    tables: &impl Tables<F>,
    memory: Memory<'_, F>,
    counters: Tally<'_>,
) -> Option<()> {
    let Memory {
        plan,
        scratch,
        work,
    } = memory;
    let bucket = bucket_of::<F>(frame.view(), packet)?;
    read_rest(frame, plan, work)?;
    collect(plan, work, scratch, tables, bucket, counters);
    note_uses(plan, tables);
    decide(plan, work, settings, counters);
    if plan.split != 0 {
        split(plan, work, settings, tables, counters);
    }
    Some(())
}

/// Pass 1, after [`Plan::begin`]: reads the addresses of an accepted packet and starts to look all of them up. Whether
/// look-ups have to go on, by [`Work::step`], before the next pass. `None` if the frame is shorter than it was when it
/// was accepted.
///
/// Takes a new view for every loop: what the verifier learned about the old one's range would be
/// another difference between cases.
#[inline(always)]
pub fn look_up<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    work: &mut Work,
    tables: &impl Tables<F>,
) -> Option<bool> {
    plan.revision = tables.revision();
    // Whether any bit is clear, and whether any look-up takes more than one step.
    let mut cleared = 0;
    let mut unfinished = 0;
    each_bitmap_word(frame, plan, |plan, word, count, bits| {
        plan.bits[word] = bits;
        cleared |= bits ^ leading_ones(count.saturating_sub(32 * word as u32));
    })?;
    each_address(frame, plan, |plan, i, address| {
        unfinished |= start(plan, work, tables, i, address);
    })?;
    store(&mut work.cleared, cleared);
    Some(Entry::from_word(unfinished).block().is_some())
}

/// The rest of the list: which destinations do not count, and what the others have besides an address.
#[inline(always)]
fn read_rest<F: Family>(frame: &mut impl Frame, plan: &mut Plan<F>, work: &mut Work) -> Option<()> {
    if fresh(&work.cleared) != 0 {
        for i in 0..F::MAX_DESTINATIONS {
            if i >= fresh(&plan.packet.dest_count) as usize {
                break;
            }
            if fresh(&plan.bits[i >> 5]) & bit(i) == 0 {
                work.look_ups.set(i, CLEARED);
            }
        }
    }
    each_ds(frame, plan, |plan, i, ds| plan.destinations[i].ds = ds)?;
    each_port(frame, plan, |plan, i, port| {
        plan.destinations[i].port = port;
    })
}

/// The first step of destination `i`'s look-up, also where its bit is clear: a branch less, in the loop that waits
/// for memory. Returns the entry's word.
#[inline(always)]
fn start<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    tables: &impl Tables<F>,
    i: usize,
    address: F::Address,
) -> u32 {
    plan.destinations[i].address = address;
    let entry = tables.route_entry(address);
    work.look_ups.set(i, entry);
    entry.word()
}

/// Pass 2: one branch for all destinations with the same next hop.
#[inline(always)]
fn collect<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    scratch: &mut Scratch,
    tables: &impl Tables<F>,
    bucket: u32,
    counters: Tally<'_>,
) {
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.packet.dest_count) as usize {
            break;
        }
        let entry = work.look_ups.entry(i);
        let id = entry.next_hop() as u16;
        if entry == CLEARED {
            plan.branch_of[i] = NONE;
            continue;
        }
        let known = scratch.branch_of(id);
        if plan.is_branch_of(known, id) {
            plan.join(i, known);
            continue;
        }
        let Some(next_hop) = tables.next_hop(u32::from(id)) else {
            plan.skip(i);
            counters.bump(Counter::SkipNextHop);
            continue;
        };
        if next_hop.kind != NextHopKind::Ecmp as u8 {
            let b = plan.open(i, id, id);
            next_hop.copy_to(&mut work.next_hops[b as usize % DESTINATION_SLOTS]);
            scratch.remember(id, b);
            continue;
        }
        plan.bucket = bucket as u8;
        // A member of the multipath group for this flow. The choice does not depend on the destination:
        // destinations behind the same multipath route share one copy.
        let group = next_hop.group_or_tunnel;
        let Some((member, next_hop)) = tables
            .ecmp_member(group, bucket)
            .and_then(|member| Some((member as u16, tables.next_hop(member)?)))
        else {
            plan.skip(i);
            counters.bump(Counter::SkipNextHop);
            continue;
        };
        let mut b = scratch.branch_of(member);
        if plan.is_branch_of(b, member) {
            plan.join(i, b);
        } else {
            b = plan.open(i, member, id);
            next_hop.copy_to(&mut work.next_hops[b as usize % DESTINATION_SLOTS]);
            scratch.remember(member, b);
        }
        scratch.remember(id, b);
    }
}

/// Notes which next hops are used. A loop of its own: within another, its cases would multiply with those there.
#[inline(always)]
fn note_uses<F: Family>(plan: &Plan<F>, tables: &impl Tables<F>) {
    for b in 0..F::MAX_DESTINATIONS {
        if b >= fresh(&plan.branch_count) as usize {
            break;
        }
        tables.note_use(u32::from(fresh(&plan.branches[b].next_hop)));
    }
}

/// Pass 3: decides what becomes of each branch.
#[inline(always)]
fn decide<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    settings: &Settings,
    counters: Tally<'_>,
) {
    for b in 0..F::MAX_DESTINATIONS {
        if b >= fresh(&plan.branch_count) as usize {
            break;
        }
        let next_hop = &work.next_hops[b];
        let in_tunnel = next_hop.in_tunnel(fresh(&plan.branches[b].len), fresh(&plan.packet.flags));
        // One less: next hops that are no port have an MTU of 0.
        let mtu = next_hop.mtu_for(in_tunnel).wrapping_sub(1);
        let least = fresh(&plan.least_mtu_less_one).min(mtu);
        store(&mut plan.least_mtu_less_one, least);
        let orphaned = fresh(&work.orphaned) != 0;
        let verdict = judge(plan, b, settings, next_hop, in_tunnel, orphaned);
        store(&mut work.verdict, verdict);
        let verdict = fresh(&work.verdict);
        let len = fresh(&plan.branches[b].len);
        if verdict.is(Verdict::SKIP) {
            counters.add_index(verdict.number(), u64::from(len));
            plan.is_private = 1;
            continue;
        }
        if verdict.is(Verdict::OVERSIZE) {
            plan.is_private = 1;
            plan.branches[b].next_hop = NEXT_HOP_STACK_MTU as u16;
        }
        if verdict.is(Verdict::ORPHANED) {
            plan.is_private = 1;
            plan.branches[b].next_hop = NEXT_HOP_STACK_ORPHAN as u16;
        }
        if verdict.is(Verdict::POLICY) {
            plan.branches[b].next_hop = NEXT_HOP_STACK_POLICY as u16;
        }
        plan.note_tunnel(verdict.tunnel_bit());
        if len > 1 {
            if verdict.is(Verdict::SEPARATE) {
                store(&mut plan.branches[b].port, PORT_SPLIT);
                plan.split = 1;
                continue;
            }
            plan.shared = 1;
        }
        plan.schedule(b as u8, verdict.number());
    }
}

/// The bucket of multipath groups for what makes a flow, the destination left out.
#[inline(always)]
pub(super) fn bucket_of<F: Family>(view: View<'_>, packet: &Packet) -> Option<u32> {
    let protocol = packet.protocol;
    let mut flow = F::flow(view, packet.ext_len)? ^ u64::from(protocol) << 24;
    let with_ports = matches!(
        protocol,
        transport::TCP | transport::UDP | transport::DCCP | transport::UDP_LITE
    );
    if with_ports && packet.total_len >= F::IP_LEN as u16 + packet.ext_len + packet.header_len + 2 {
        let view = F::xcast(view, packet.ext_len);
        let transport_at = F::XCAST_AT + (packet.header_len as usize & F::LEN_MASK);
        flow ^= u64::from(view.be16(transport_at)?.memory());
    }
    // Fibonacci hashing: only the highest bits have seen every bit of the flow.
    let product = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some((product >> (u64::BITS - ECMP_BUCKETS.ilog2())) as u32)
}
