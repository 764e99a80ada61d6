//! BPF programs that send, copy and count: entry points only.
//!
//! [`generate`] sends, [`sink`] counts what arrives, [`rivals`] are the ways of making copies that
//! the router is compared with.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the program macros drop the entry points' documentation"
)]

mod generate;
mod rivals;
#[expect(dead_code, reason = "some of it is for other programs and user space")]
mod shared;
mod sink;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Run by BPF_PROG_TEST_RUN on live frames: writes the packet and sends it.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    generate::generate(&ctx)
}

/// Counts and drops.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    sink::frame(&ctx)
}

/// Counts and drops, where frames arrive as socket buffers.
#[classifier]
pub fn sink_tc(ctx: TcContext) -> i32 {
    sink::buffer(&ctx)
}

/// Sends every frame to all devices of a map.
#[xdp]
pub fn broadcast(ctx: XdpContext) -> u32 {
    rivals::broadcast(&ctx)
}

/// Runs once per copy and does nothing: what the kernel takes to run a program there.
#[xdp(map = "devmap")]
pub fn pass(_ctx: XdpContext) -> u32 {
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// Runs once per copy and gives it another destination: the least that any router has to do to copies
/// that go to different hosts.
#[xdp(map = "devmap")]
pub fn readdress(ctx: XdpContext) -> u32 {
    rivals::readdress(&ctx)
}

/// Sends every packet to a list of devices.
#[classifier]
pub fn clone_redirect(ctx: TcContext) -> i32 {
    rivals::clone_redirect(&ctx)
}

/// As the router's own programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
