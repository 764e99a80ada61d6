//! What the router is compared with, each as bare as it gets: no look-up, no change to the packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_BROADCAST, TC_ACT_SHOT, xdp_action::XDP_ABORTED},
    btf_maps::{Array, DevMap},
    helpers::{bpf_clone_redirect, bpf_redirect},
    macros::btf_map,
    programs::{TcContext, XdpContext},
};

use crate::shared::DEVICES;

/// The devices to broadcast to; resized at load, since an unused entry costs time.
#[btf_map]
pub static PORTS: DevMap<DEVICES> = DevMap::new();

/// Interface indices to clone to, ended by 0; written by the benchmark.
#[btf_map]
pub static CLONES: Array<u32, DEVICES> = Array::new();

/// XDP's own broadcast.
#[inline(always)]
pub fn broadcast(_ctx: &XdpContext) -> u32 {
    PORTS
        .redirect(0, u64::from(BPF_F_BROADCAST))
        .unwrap_or(XDP_ABORTED)
}

/// Clones for all but the last device, which gets the packet itself.
#[inline(always)]
pub fn clone_redirect(ctx: &TcContext) -> i32 {
    let mut last = 0;
    for index in 0..DEVICES as u32 {
        let Some(&next) = CLONES.get(index) else {
            break;
        };
        if next == 0 {
            break;
        }
        if last != 0 {
            // SAFETY: the kernel passes a valid context.
            unsafe { bpf_clone_redirect(ctx.as_ptr().cast(), last, 0) };
        }
        last = next;
    }
    if last == 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: a helper without memory arguments.
    unsafe { bpf_redirect(last, 0) as i32 }
}
