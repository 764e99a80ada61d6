//! Hand-over: what the kernel stack gets arrives by the port that its Xcast packet arrived by (ADR 13).
//!
//! A copy for the stack arrives on `xcast0`. From there it goes on into the port that its Ethernet header names, so
//! that reverse path filter, netfilter, policy rules and VRFs see what they would see of unicast.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT},
    helpers::bpf_redirect,
    programs::TcContext,
};
use xcast_common::{
    maps::{PORT_FIRST, PORT_STACK, counter::Counter},
    wire::eth,
};

use crate::maps::{SLOTS, count};

/// Hands a frame that arrived on `xcast0` to the port that it arrived by in truth; what originates here, or by a port
/// that is none any more, stays where it is.
#[inline(always)]
pub fn hand_over(ctx: &TcContext) -> i32 {
    count(PORT_STACK, Counter::Sent);
    let Ok(slot) = ctx.load::<u8>(eth::ARRIVAL) else {
        return TC_ACT_SHOT;
    };
    if slot < PORT_FIRST {
        return TC_ACT_OK;
    }
    let Some(port) = SLOTS.get(u32::from(slot)) else {
        return TC_ACT_OK;
    };
    if port.ifindex == 0 {
        return TC_ACT_OK;
    }
    // Whose address it is decides whether the frame is for this host.
    if ctx.store(eth::DESTINATION, &port.mac, 0).is_err() {
        return TC_ACT_SHOT;
    }
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(port.ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}
