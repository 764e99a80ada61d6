//! What the router is compared with, each as bare as it gets: no look-up, no change to the packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_BROADCAST, TC_ACT_SHOT,
        xdp_action::{XDP_ABORTED, XDP_PASS},
    },
    btf_maps::{Array, DevMap},
    helpers::{bpf_clone_redirect, bpf_redirect},
    macros::btf_map,
    programs::{TcContext, XdpContext},
};

use xcast_common::wire::{checksum::update, eth, frame::View, ipv4, xcast4::XCAST_AT};

use crate::shared::{Addressee, DEVICES, INTERFACES};

/// The devices to broadcast to; resized at load, since an unused entry costs time.
#[btf_map]
pub static PORTS: DevMap<DEVICES> = DevMap::new();

/// What copies get that are readdressed, by interface index; written by the benchmark.
#[btf_map]
pub static ADDRESSEES: Array<Addressee, INTERFACES> = Array::new();

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

/// Writes Ethernet addresses and an IPv4 destination, and corrects the IPv4 checksum.
#[inline(always)]
pub fn readdress(ctx: &XdpContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let interface = unsafe { (*ctx.ctx).egress_ifindex };
    let Some(addressee) = ADDRESSEES.get(interface) else {
        return XDP_ABORTED;
    };
    // SAFETY: the context's own frame.
    let view = unsafe { View::new(ctx.data() as *mut u8, ctx.data_end() as *mut u8) };
    let Some(header) = view.window::<XCAST_AT>(0) else {
        return XDP_ABORTED;
    };
    let [first, second, third] = addressee.ethernet;
    header.set_u32(eth::DESTINATION, first);
    header.set_u32(eth::DESTINATION + 4, second);
    header.set_u32(eth::DESTINATION + 8, third);
    let sum = update(header.u16(ipv4::CHECKSUM))
        .sub32(header.u32(ipv4::DESTINATION))
        .add32(addressee.ipv4);
    header.set_u32(ipv4::DESTINATION, addressee.ipv4);
    header.set_u16(ipv4::CHECKSUM, sum.checksum());
    XDP_PASS
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
