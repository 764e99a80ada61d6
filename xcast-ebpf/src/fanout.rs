//! How copies are made: none for one next hop, a broadcast over a device map that holds exactly
//! the wanted ports for several, and where there is no such map (yet) as many copies as a usual set
//! has, and another round for the rest.

use aya_ebpf::{
    bindings::{BPF_F_BROADCAST, xdp_action::XDP_DROP},
    helpers::bpf_jiffies64,
};
use xcast_common::{
    branch::{Form, emit},
    counter::Counter,
    family::Family,
    maps::{Metadata, PORT_STACK, PortCounters, Settings, UsualSet},
    plan::{BRANCH_SLOTS, Plan, fresh},
};

use crate::{
    frame::XdpFrame,
    maps::{DEVICES, FANOUTS, MISSES, NEXT_HOPS, SUBSETS, USUAL, counters},
};

/// One copy: the frame itself.
#[inline(always)]
pub fn single<F: Family>(
    frame: &mut XdpFrame,
    plan: &mut Plan<F>,
    settings: &Settings,
    arrival: &mut PortCounters,
) -> Option<u32> {
    let b = fresh(&plan.last_branch);
    let slot = fresh(&plan.branches[b as usize].port);
    let next_hop = *NEXT_HOPS.get(u32::from(plan.branches[b as usize].next_hop))?;
    commit(plan, b, arrival);
    let Some(form) = emit(frame, plan, b, &next_hop, settings) else {
        arrival.bump(Counter::DropNoRoom);
        return None;
    };
    match DEVICES.redirect(u32::from(slot), 0) {
        Ok(action) => {
            count_sent(slot, form);
            Some(action)
        }
        Err(_) => {
            arrival.bump(Counter::DropRedirect);
            None
        }
    }
}

/// Several copies: each one's list is pruned by the device map's program, when it leaves.
#[inline(always)]
pub fn several<F: Family>(
    frame: &mut XdpFrame,
    plan: &mut Plan<F>,
    arrival: &mut PortCounters,
) -> Option<u32> {
    let metadata = Metadata {
        magic: F::METADATA_MAGIC,
        nonce: plan.nonce,
    };
    if !frame.set_metadata(metadata) {
        arrival.bump(Counter::DropNoRoom);
        return None;
    }
    let usual = plan.subset.usual();
    if let Some(action) = broadcast(plan, usual) {
        for b in 0..BRANCH_SLOTS - 1 {
            if b >= fresh(&plan.branch_count) as usize {
                break;
            }
            commit(plan, b as u8, arrival);
        }
        return Some(action);
    }
    some(plan, usual, arrival)
}

/// Broadcasts over the device map of the plan's exact set of ports, if there is one.
#[inline(always)]
fn broadcast<F: Family>(plan: &Plan<F>, usual: UsualSet) -> Option<u32> {
    if usual.is_all {
        return send(usual.index(false));
    }
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value, the key would be copied to the stack for each look-up"
    )]
    let Some(subset) = SUBSETS.get_ptr_mut(&plan.subset) else {
        // Full means the controller has enough to do; the subset will miss again.
        let _ = MISSES.output(plan.subset, 0);
        return None;
    };
    // SAFETY: a plain word; whichever CPU writes last is right.
    let index = unsafe {
        let now = (bpf_jiffies64() >> 10) as u32;
        if (*subset).last_used != now {
            (*subset).last_used = now;
        }
        (*subset).index
    };
    FANOUTS
        .get(index)?
        .redirect(0, u64::from(BPF_F_BROADCAST))
        .ok()
}

/// Broadcasts over a device map of the usual sets.
#[inline(always)]
fn send(index: u32) -> Option<u32> {
    USUAL
        .get(index)?
        .redirect(0, u64::from(BPF_F_BROADCAST))
        .ok()
}

/// A copy leaves by each port of a usual set; the rest comes round through `xcast0`.
#[inline(always)]
fn some<F: Family>(plan: &mut Plan<F>, usual: UsualSet, arrival: &mut PortCounters) -> Option<u32> {
    let Some(action) = send(usual.index(true)) else {
        arrival.bump(Counter::DropRedirect);
        return Some(XDP_DROP);
    };
    for slot in 0..8 {
        if let Some(b) = plan.leave((usual.group * 8 + slot) as u8) {
            commit(plan, b, arrival);
        }
    }
    arrival.bump(Counter::Recirculated);
    Some(action)
}

/// Counts a branch as planned, if it makes a copy.
#[inline(always)]
fn commit<F: Family>(plan: &Plan<F>, b: u8, arrival: &mut PortCounters) {
    let Some(branch) = plan.copy_of(b) else {
        return;
    };
    let slot = fresh(&branch.port);
    if slot == PORT_STACK
        && let Some(next_hop) = NEXT_HOPS.get(u32::from(branch.next_hop))
    {
        arrival.bump_index(next_hop.reason);
    }
    if let Some(port) = counters(slot) {
        port.bump(Counter::Planned);
    }
}

/// Counts a copy as sent.
#[inline(always)]
pub fn count_sent(slot: u8, form: Form) {
    if let Some(port) = counters(slot) {
        port.bump(Counter::Sent);
        if form == Form::Unicast {
            port.bump(Counter::X2u);
        }
    }
}
