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
    family::{Family as _, V4, V6},
    maps::{PORT_RECIRCULATE, Port},
};

use crate::{
    fanout::count_sent,
    frame::XdpFrame,
    maps::{NEXT_HOPS, Routed, counters, port, settings},
};

/// Entry point of the device maps' program.
#[inline(always)]
pub fn leave(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    // Single copies were finished before they were redirected.
    let Some(metadata) = frame.any_metadata() else {
        return XDP_PASS;
    };
    let is_ipv4 = metadata.magic == V4::METADATA_MAGIC;
    if !is_ipv4 && metadata.magic != V6::METADATA_MAGIC {
        return XDP_PASS;
    }
    let Some(Port { slot, .. }) = port(frame.egress_ifindex()) else {
        return XDP_DROP;
    };
    let finished = match is_ipv4 {
        true => finish::<V4>(&mut frame, metadata.nonce, slot),
        false => finish::<V6>(&mut frame, metadata.nonce, slot),
    };
    match finished {
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
fn finish<F: Routed>(frame: &mut XdpFrame, nonce: u32, slot: u8) -> Result<(), Counter> {
    let plan = F::plan(nonce).ok_or(Counter::DropPlanLost)?;
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
