//! What arrives through tunnels: outer headers come off, in a program of its own.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use xcast_common::{forward::tunnelled::open, packet::Reject};

use crate::{
    frame::XdpFrame,
    maps::{ARRIVALS, arrival, counters, port_in_place, settings_in_place},
    tables::KernelTables,
};

/// Takes a packet out of its tunnel, and has the program serve it that serves packets of its family.
#[inline(always)]
pub fn take_out(ctx: XdpContext) -> u32 {
    let settings = settings_in_place();
    let mut frame = XdpFrame::new(&ctx);
    let Some(port) = port_in_place(frame.ingress_ifindex()) else {
        return XDP_PASS;
    };
    let Some(counters) = counters(port.slot) else {
        return XDP_DROP;
    };
    match open(&mut frame, port, settings, &KernelTables, counters) {
        Ok(version) => {
            let own = arrival(version, settings.generation());
            // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
            unsafe { ARRIVALS.tail_call(&ctx, own) };
            XDP_DROP
        }
        Err(Reject::Pass) => XDP_PASS,
        Err(Reject::Drop(reason)) => {
            counters.bump(reason);
            XDP_DROP
        }
    }
}
