//! Departure: runs once per copy, at the port it leaves by.
//!
//! The kernel runs this when the port's bulk queue is flushed, some packets later: everything it
//! needs comes from the mark that the copy carries and from the plan that names.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use xcast_common::{
    family::{V4, V6},
    forward::{
        emit::{Form, emit, emit_rest, encapsulate},
        mark::{self, Mark, State},
    },
    maps::{PORT_RECIRCULATE, Port, Settings, counter::Counter},
    verifier::fresh,
    wire::frame::Frame as _,
};

use crate::{
    fanout::count_sent,
    frame::XdpFrame,
    maps::{DEPARTURES, NEXT_HOPS, TUNNELS, count, port_in_place, settings_in_place},
    tables::FamilyMaps,
};

/// Entry point of the device maps' program.
#[inline(always)]
pub fn leave(ctx: XdpContext) -> u32 {
    let settings = settings_in_place();
    let mut frame = XdpFrame::new(&ctx);
    let view = frame.view();
    if let Some(mark) = mark::read::<V4>(view, settings) {
        return finish::<V4>(&mut frame, mark, settings);
    }
    if let Some(mark) = mark::read::<V6>(view, settings) {
        return finish::<V6>(&mut frame, mark, settings);
    }
    if mark::is_of_other_generation(view, settings) {
        // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
        unsafe { DEPARTURES.tail_call(&frame, settings.generation() ^ 1) };
        return XDP_DROP;
    }
    // Single copies were finished before they were redirected.
    XDP_PASS
}

#[inline(always)]
fn finish<F: FamilyMaps>(frame: &mut XdpFrame, mark: Mark, settings: &Settings) -> u32 {
    let Some(port) = port_in_place(frame.egress_ifindex()) else {
        return XDP_DROP;
    };
    match prune::<F>(frame, mark, port, settings) {
        Ok(()) => XDP_PASS,
        Err(reason) => {
            count(port.slot, reason);
            XDP_DROP
        }
    }
}

/// Turns the frame into the next of the copies that leave by this port.
#[inline(always)]
fn prune<F: FamilyMaps>(
    frame: &mut XdpFrame,
    mark: Mark,
    port: &Port,
    settings: &Settings,
) -> Result<(), Counter> {
    // Read again where it has been compared: what it is not would keep cases apart.
    let slot = || fresh(&port.slot);
    let plan = F::plan(mark.serial).ok_or(Counter::DropPlanLost)?;
    if plan.serial != mark.serial {
        return Err(Counter::DropPlanLost);
    }
    let stripped = match mark.state {
        State::Stripped(sums) => Some(sums),
        State::Whole { hidden } => {
            mark::show(frame, hidden).ok_or(Counter::DropNoRoom)?;
            None
        }
    };
    if slot() == PORT_RECIRCULATE {
        emit_rest(frame, plan).ok_or(Counter::DropNoRoom)?;
        // It tells the second round from a new packet.
        let mark = Mark::of_rest(&plan.packet, plan.payer);
        return mark::write::<F>(frame.view(), settings, mark).ok_or(Counter::DropNoRoom);
    }
    let b = plan.take(slot()).ok_or(Counter::DropPlanLost)?;
    let next_hop = NEXT_HOPS
        .get(u32::from(plan.branches[b as usize].next_hop))
        .ok_or(Counter::SkipNextHop)?;
    let form = emit(frame, plan, b, next_hop, settings, stripped).ok_or(Counter::DropNoRoom)?;
    let is_tunnel = form == Form::Tunnel;
    // The next hop may be another one than when the plan was made. Read again, for its port is written before its
    // addresses: if it is still this one, so is what they belong to.
    let port = if is_tunnel {
        &next_hop.tunnel_port
    } else {
        &next_hop.port
    };
    if fresh(port) != slot() {
        return Err(Counter::DropNextHop);
    }
    if is_tunnel {
        let tunnel = TUNNELS
            .get(u32::from(fresh(&next_hop.group_or_tunnel)))
            .ok_or(Counter::SkipNextHop)?;
        encapsulate(frame, plan, tunnel).ok_or(Counter::DropNoRoom)?;
        count(slot(), Counter::TunnelSent);
        if slot() == plan.packet.arrival_slot() {
            count(slot(), Counter::TunnelHairpin);
        }
    }
    count_sent(slot(), form);
    Ok(())
}
