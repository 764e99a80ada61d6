//! The generator.
//!
//! Test runs on live frames recycle their pages without restoring them, so the whole frame is
//! written anew each time. Its length cannot be: that is the length of the test run's own frame.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::XDP_ABORTED,
    btf_maps::{Array, DevMap},
    helpers::bpf_xdp_store_bytes,
    macros::btf_map,
    programs::XdpContext,
};

use crate::shared::{DEVICES, FRAME_LEN, FRAMES, Frames, Orders};

/// What to do; written by the benchmark.
#[btf_map]
pub static ORDERS: Array<Orders, 1> = Array::new();

/// The frames, written by the benchmark through a memory mapping (BPF_F_MMAPABLE).
#[btf_map]
pub static TO_SEND: Array<Frames, 1, 1024> = Array::new();

/// The next frame's number; the program's own.
#[btf_map]
pub static TURN: Array<u32, 1> = Array::new();

/// Where to send; written by the benchmark.
#[btf_map]
pub static OUTPUT: DevMap<DEVICES> = DevMap::new();

/// Entry point.
#[inline(always)]
pub fn generate(ctx: &XdpContext) -> u32 {
    attempt(ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn attempt(ctx: &XdpContext) -> Option<u32> {
    let orders = ORDERS.get(0)?;
    let turn = TURN.get_ptr_mut(0)?;
    // SAFETY: only one test run at a time uses these maps.
    let index = unsafe {
        let index = *turn;
        *turn = if index + 1 < orders.frames {
            index + 1
        } else {
            0
        };
        index
    };
    let frames = TO_SEND.get(0)?;
    let len = orders.frame_len;
    if len == 0 || len > FRAME_LEN as u32 || index >= FRAMES as u32 {
        return None;
    }
    let frame = &raw const frames.octets[(index * len) as usize];
    // SAFETY: the context is valid, and the frames at least as many and as long as was just checked.
    let stored =
        unsafe { bpf_xdp_store_bytes(ctx.as_ptr().cast(), 0, frame.cast_mut().cast(), len) };
    if stored != 0 {
        return None;
    }
    OUTPUT.redirect(orders.device, 0).ok()
}
