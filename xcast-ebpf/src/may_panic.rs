//! What becomes of a panic: two programs for a test, which differ in that one of them can panic.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the `xdp` macro drops the entry points' documentation"
)]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use xcast_common::wire::frame::Frame as _;

#[expect(dead_code, reason = "the rest is for the router's programs")]
mod frame;

use frame::XdpFrame;

/// What to do with a frame, by a number in it.
const ACTIONS: [u32; 4] = [XDP_PASS, XDP_DROP, XDP_DROP, XDP_PASS];

/// The first octet of a frame, or 0.
#[inline(always)]
fn number(ctx: &XdpContext) -> usize {
    XdpFrame::new(ctx).view().fresh_u8(0).unwrap_or(0).into()
}

/// Panics if the number is none of the table's.
#[xdp]
pub fn may_panic(ctx: XdpContext) -> u32 {
    ACTIONS[number(&ctx)]
}

/// Has a number in the table, whatever comes.
#[xdp]
pub fn cannot_panic(ctx: XdpContext) -> u32 {
    ACTIONS[number(&ctx) % ACTIONS.len()]
}

/// As the router's own programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
