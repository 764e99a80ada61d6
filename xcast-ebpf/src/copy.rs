//! Departure: runs once per copy, at the port it leaves by.
//!
//! The kernel runs this when the port's bulk queue is flushed, some packets later: everything it
//! needs comes from the metadata in front of the copy and from the plan that names.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use xcast_common::{
    branch::{emit, emit_rest},
    counter::Counter,
    maps::{PORT_RECIRCULATE, Port},
};

use crate::{
    fanout::count_sent,
    frame::XdpFrame,
    maps::{NEXT_HOPS, PLANS, PLANS_PER_CPU, counters, port, settings},
};

/// Entry point of the device maps' program.
#[inline(always)]
pub fn leave(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    // Single copies were finished before they were redirected.
    let Some(metadata) = frame.metadata() else {
        return XDP_PASS;
    };
    let Some(Port { slot, .. }) = port(frame.egress_ifindex()) else {
        return XDP_DROP;
    };
    match finish(&mut frame, metadata.nonce, slot) {
        Ok(()) => XDP_PASS,
        Err(reason) => {
            if let Some(counters) = counters(slot) {
                counters.bump(reason);
            }
            XDP_DROP
        }
    }
}

#[inline(always)]
fn finish(frame: &mut XdpFrame, nonce: u32, slot: u8) -> Result<(), Counter> {
    let plan = PLANS
        .get_ptr_mut(nonce % PLANS_PER_CPU)
        .ok_or(Counter::DropPlanLost)?;
    // SAFETY: this CPU's own.
    let plan = unsafe { &mut *plan };
    if plan.nonce != nonce {
        return Err(Counter::DropPlanLost);
    }
    if slot == PORT_RECIRCULATE {
        // The metadata stays: it tells the second round from a new packet.
        return emit_rest(frame, plan).ok_or(Counter::DropNoRoom);
    }
    let b = plan.take(slot).ok_or(Counter::DropPlanLost)?;
    let next_hop = NEXT_HOPS
        .get(u32::from(plan.branches[b as usize].next_hop))
        .ok_or(Counter::SkipNextHop)?;
    let next_hop = *next_hop;
    if !frame.strip_metadata() {
        return Err(Counter::DropNoRoom);
    }
    let form = emit(frame, plan, b, &next_hop, &settings()).ok_or(Counter::DropNoRoom)?;
    count_sent(slot, form);
    Ok(())
}
