//! The sinks: where every copy has to arrive.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, xdp_action::XDP_DROP},
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes},
    macros::btf_map,
    programs::{TcContext, XdpContext},
};

use crate::shared::{Arrived, INTERFACES, SAMPLE_EVERY, SAMPLE_LEN, Sample};

/// What arrived, by interface index.
#[btf_map]
pub static ARRIVED: PerCpuArray<Arrived, INTERFACES> = PerCpuArray::new();

/// The last sample, by interface index.
#[btf_map]
pub static SAMPLES: Array<Sample, INTERFACES> = Array::new();

/// Where frames arrive as XDP sends them.
#[inline(always)]
pub fn frame(ctx: &XdpContext) -> u32 {
    let len = (ctx.data_end() - ctx.data()) as u32;
    // SAFETY: the kernel passes a valid context.
    let interface = unsafe { (*ctx.ctx).ingress_ifindex };
    if let Some(sample) = count(interface, len) {
        // SAFETY: the sample has room for this frame.
        unsafe {
            bpf_xdp_load_bytes(
                ctx.as_ptr().cast(),
                0,
                (*sample).octets.as_mut_ptr().cast(),
                one_to_most(len),
            )
        };
    }
    XDP_DROP
}

/// Where frames arrive as socket buffers.
#[inline(always)]
pub fn buffer(ctx: &TcContext) -> i32 {
    let len = ctx.len();
    // SAFETY: the kernel passes a valid context.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    if let Some(sample) = count(interface, len) {
        // SAFETY: the sample has room for this frame.
        unsafe {
            bpf_skb_load_bytes(
                ctx.as_ptr(),
                0,
                (*sample).octets.as_mut_ptr().cast(),
                one_to_most(len),
            )
        };
    }
    TC_ACT_SHOT
}

/// Counts a frame; says where to keep it if it is one to keep.
#[inline(always)]
fn count(interface: u32, len: u32) -> Option<*mut Sample> {
    let arrived = ARRIVED.get_ptr_mut(interface)?;
    // SAFETY: this CPU's own.
    let number = unsafe {
        (*arrived).frames += 1;
        (*arrived).octets += u64::from(len);
        (*arrived).frames
    };
    if number % SAMPLE_EVERY != 1 {
        return None;
    }
    let sample = SAMPLES.get_ptr_mut(interface)?;
    // SAFETY: a plain word, read when nothing is under way.
    unsafe { (*sample).frame_len = len };
    Some(sample)
}

/// The length, for the verifier, to which two comparisons would become one that it cannot follow.
#[inline(always)]
fn one_to_most(len: u32) -> u32 {
    (len.wrapping_sub(1) & (SAMPLE_LEN as u32 - 1)) + 1
}
