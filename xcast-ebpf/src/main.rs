//! The XDP programs of the Xcast router: entry points only.
//!
//! `xcast` runs where packets arrive, `xcast6` for IPv6, and `xcast_tunnel` for what comes through tunnels: they decide, and ask the kernel for copies. `xcast_copy`
//! runs once per copy, where it leaves: it prunes its copy's list. `xcast_stack` runs where copies for the kernel stack arrive. What they decide is in
//! `xcast-common`, the budgets of [`limits`], the proofs of [`cookie`] and what may be in packets ([`content`]) among it; what they remember is in [`maps`], which [`tables`] shows to `xcast-common` as a router's
//! tables. The stages are [`arrival`], [`fanout`], which makes the copies, [`departure`], and [`handover`] to
//! the stack.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the `xdp` macro drops the entry points' documentation"
)]

mod arrival;
mod content;
mod cookie;
mod departure;
mod fanout;
mod frame;
mod handover;
mod limits;
mod maps;
mod tables;
mod tunnelled;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use xcast_common::family::V6;

/// Attached to every port, and to `xcast0-dp`. Xcast6 goes on in `xcast6`.
#[xdp]
pub fn xcast(ctx: XdpContext) -> u32 {
    arrival::dispatch(ctx)
}

/// The same for IPv6, a program of its own so that each is easy to verify.
#[xdp]
pub fn xcast6(ctx: XdpContext) -> u32 {
    arrival::arrive::<V6>(ctx)
}

/// Takes packets out of tunnels, which then go on in `xcast` or `xcast6`.
#[xdp]
pub fn xcast_tunnel(ctx: XdpContext) -> u32 {
    tunnelled::take_out(ctx)
}

/// Attached to every entry of every device map.
#[xdp(map = "devmap")]
pub fn xcast_copy(ctx: XdpContext) -> u32 {
    departure::leave(ctx)
}

/// Attached where frames from `xcast0-dp` arrive on `xcast0`.
#[classifier]
pub fn xcast_stack(ctx: TcContext) -> i32 {
    handover::hand_over(&ctx)
}

/// The helpers used are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
