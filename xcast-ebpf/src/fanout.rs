//! How copies are made: none for one next hop, a broadcast over a device map that holds exactly
//! the wanted ports for several, and where there is no such map (yet) as many copies as a preset fan-out
//! has, and recirculation for the rest.

use aya_ebpf::{bindings::BPF_F_BROADCAST, btf_maps::DevMap, helpers::bpf_jiffies64};
use xcast_common::{
    family::Family,
    forward::{
        emit::{Form, emit, strip},
        mark::{self, Mark, State},
        plan::{BRANCH_SLOTS, Plan},
    },
    maps::{
        FanoutKey, GROUP_PRESETS, PORT_STACK, PresetFanout, SLOT_GROUPS, Settings, Tally,
        counter::Counter,
    },
    verifier::fresh,
    wire::{ETH_LEN, frame::Frame as _},
};

use crate::{
    frame::XdpFrame,
    limits::{charge_stack, stack_takes},
    maps::{DEVICES, FANOUTS, MISSES, NEXT_HOPS, PLANNED, SUBSETS, USUAL, count, counters},
};

/// One copy: the frame itself.
#[inline(always)]
pub fn single<F: Family>(
    frame: &mut XdpFrame,
    plan: &mut Plan<F>,
    settings: &Settings,
    arrival: Tally<'_>,
) -> Option<u32> {
    let b = fresh(&plan.last_branch);
    let slot = fresh(&plan.branches[b as usize].port);
    let next_hop = NEXT_HOPS.get(u32::from(plan.branches[b as usize].next_hop))?;
    counters(slot)?.bump(Counter::Planned);
    if slot == PORT_STACK {
        arrival.bump_index(next_hop.reason);
        if stack_takes(plan.payer, plan.packet.arrival_slot(), 1) == 0 {
            counters(slot)?.bump(Counter::DropStackLimit);
            return None;
        }
        charge_stack(plan.payer, plan.packet.arrival_slot(), 1);
    }
    let Some(form) = emit(frame, plan, b, next_hop, settings, None) else {
        arrival.bump(Counter::DropNoRoom);
        return None;
    };
    // Read again: what it was found not to be would keep cases apart.
    let slot = fresh(&plan.branches[b as usize].port);
    // It may have changed since it was looked at.
    if fresh(&next_hop.port) != slot {
        counters(slot)?.bump(Counter::DropNextHop);
        return None;
    }
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

/// Several copies, of which the kernel stack may not take all.
#[inline(always)]
pub fn several<F: Family>(
    frame: &mut XdpFrame,
    plan: &mut Plan<F>,
    settings: &Settings,
    arrival: Tally<'_>,
) -> Option<u32> {
    let for_stack = fresh(&plan.fanout.copies[PORT_STACK as usize]);
    let mut takes = 1;
    if for_stack != 0 {
        takes = stack_takes(plan.payer, plan.packet.arrival_slot(), for_stack);
    }
    if !plan.bound_stack(takes) {
        count_refused(plan);
        count_for_stack(plan, BRANCH_SLOTS as u32 / 2, arrival);
        return None;
    }
    let action = broadcast(frame, plan, settings, arrival);
    // No other packet may find the plan without the copies that this one does not get.
    plan.restore();
    action
}

/// Each copy's list is pruned by the device map's program, when it leaves.
#[inline(always)]
fn broadcast<F: Family>(
    frame: &mut XdpFrame,
    plan: &mut Plan<F>,
    settings: &Settings,
    arrival: Tally<'_>,
) -> Option<u32> {
    let preset = plan.fanout.preset();
    let devices = if preset.is_all {
        USUAL.get(preset.index())
    } else {
        exact(&plan.fanout)
    };
    // What all copies have in common is done before they are made. Where the rest has to recirculate,
    // the packet is still needed as it is.
    let state = if devices.is_some() && plan.is_unicast() {
        strip(frame, plan, settings).map(State::Stripped)
    } else {
        let len = ETH_LEN as u32 + plan.least_mtu_bytes();
        mark::hide(frame, len).map(|hidden| State::Whole { hidden })
    };
    let Some(state) = state else {
        arrival.bump(Counter::DropNoRoom);
        return None;
    };
    let mark = Mark {
        serial: plan.serial,
        state,
    };
    mark::write::<F>(frame.view(), settings, mark)?;
    let Some(devices) = devices else {
        return some(plan, preset, arrival);
    };
    let Ok(action) = devices.redirect(0, u64::from(BPF_F_BROADCAST)) else {
        arrival.bump(Counter::DropRedirect);
        return None;
    };
    if preset.is_all && preset.repeats == 1 {
        count_preset(preset.group, preset.index());
    } else {
        count_exact(&plan.fanout);
    }
    charge_for_stack(plan, (BRANCH_SLOTS / 2) as u8);
    count_refused(plan);
    count_for_stack(plan, BRANCH_SLOTS as u32 / 2, arrival);
    Some(action)
}

/// The device map of exactly these ports, if there is one.
#[inline(always)]
fn exact(key: &FanoutKey) -> Option<&'static DevMap<2>> {
    let Some(entry) = SUBSETS.get_ptr_mut(key) else {
        // Full means the controller has enough to do; the fan-out will miss again.
        let _ = MISSES.output(key, 0);
        return None;
    };
    // SAFETY: a plain word; whichever CPU writes last is right.
    let index = unsafe {
        let now = (bpf_jiffies64() >> 10) as u32;
        if (*entry).last_used != now {
            (*entry).last_used = now;
        }
        (*entry).index
    };
    FANOUTS.get(index)
}

/// Counts the copies of any set of ports as planned.
#[inline(always)]
fn count_exact(key: &FanoutKey) {
    for group in 0..SLOT_GROUPS {
        if key.group(group) == 0 {
            continue;
        }
        for slot in 8 * group..8 * group + 8 {
            let copies = key.copies[slot];
            if copies != 0
                && let Some(port) = counters(slot as u8)
            {
                port.add_index(Counter::Planned as u8, u64::from(copies));
            }
        }
    }
}

/// The same for one copy by each port of a preset fan-out: one count instead of one for each port, which the
/// controller works out.
#[inline(always)]
fn count_preset(group: u32, index: u32) {
    if let Some(planned) = PLANNED.get_ptr_mut(group) {
        // SAFETY: this CPU's own.
        let planned = unsafe { &mut *planned };
        planned[index as usize % GROUP_PRESETS] += 1;
    }
}

/// A copy leaves by each port of a preset fan-out; the rest recirculates through `xcast0`.
#[inline(always)]
fn some<F: Family>(plan: &mut Plan<F>, preset: PresetFanout, arrival: Tally<'_>) -> Option<u32> {
    let devices = USUAL.get(preset.index_with_rest());
    let action = devices.and_then(|devices| devices.redirect(0, u64::from(BPF_F_BROADCAST)).ok());
    let Some(action) = action else {
        arrival.bump(Counter::DropRedirect);
        return None;
    };
    count_preset(preset.group, preset.index_with_rest());
    if preset.group == u32::from(PORT_STACK) / 8 {
        charge_for_stack(plan, 1);
        count_for_stack(plan, 1, arrival);
    }
    plan.begin_rounds();
    for slot in 0..8 {
        plan.leave((preset.group * 8 + slot) as u8);
    }
    count(plan.packet.arrival_slot(), Counter::Recirculated);
    Some(action)
}

/// Charges for the first `most` copies that the kernel stack gets.
#[inline(always)]
fn charge_for_stack<F: Family>(plan: &Plan<F>, most: u8) {
    let copies = fresh(&plan.fanout.copies[PORT_STACK as usize]).min(most);
    if copies != 0 {
        charge_stack(plan.payer, plan.packet.arrival_slot(), copies);
    }
}

/// Counts the copies that the kernel stack does not get, and puts them back into the plan.
#[inline(always)]
fn count_refused<F: Family>(plan: &mut Plan<F>) {
    let refused = u64::from(plan.restore());
    if refused != 0
        && let Some(stack) = counters(PORT_STACK)
    {
        stack.add_index(Counter::Planned as u8, refused);
        stack.add_index(Counter::DropStackLimit as u8, refused);
    }
}

/// Counts why the kernel stack gets the first `most` copies that it gets.
#[inline(always)]
fn count_for_stack<F: Family>(plan: &Plan<F>, most: u32, arrival: Tally<'_>) {
    let Some(mut b) = plan.first_on(PORT_STACK) else {
        return;
    };
    for n in 0..most {
        if n >= u32::from(fresh(&plan.fanout.copies[PORT_STACK as usize])) {
            break;
        }
        if let Some(next_hop) = NEXT_HOPS.get(u32::from(plan.branches[b as usize].next_hop)) {
            arrival.bump_index(next_hop.reason);
        }
        b = plan.after(b);
    }
}

/// Counts a copy as sent. What leaves for the stack is counted where it gets there.
#[inline(always)]
pub fn count_sent(slot: u8, form: Form) {
    if let Some(port) = counters(slot) {
        if slot != PORT_STACK {
            port.bump(Counter::Sent);
        }
        if form == Form::Unicast {
            port.bump(Counter::X2u);
        }
    }
}
