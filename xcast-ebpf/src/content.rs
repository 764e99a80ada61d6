//! What packets hold behind their Xcast headers, and whether that may be multiplied.

use aya_ebpf::bindings::xdp_md;
use xcast_common::{
    family::{Family, V4, V6},
    forward::ingress::{Content, check_content},
    packet::Packet,
    wire::{Be16, frame::Frame as _},
};

use crate::{frame::XdpFrame, maps::settings_in_place};

/// In place of a counter: there is no reason to drop it.
pub const FINE: u8 = 0xff;

/// [`check_content`] for an accepted packet: the counter of the reason to drop it, or [`FINE`].
#[inline(always)]
pub fn check<F: Family>(frame: &XdpFrame, packet: &Packet, relayed_port: Be16) -> u8 {
    let packed = pack(Content::of(packet, relayed_port));
    xcast_check_content(
        frame.ctx(),
        Content::at::<F>(packet),
        F::VERSION.into(),
        packed,
    ) as u8
}

/// The same for a packet of this IP version.
///
/// A global function: the kernel verifies it by itself, and does not go on with each case of what it found (Linux 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xcast_check_content(
    ctx: *mut xdp_md,
    at: u32,
    ip_version: u32,
    packed: u64,
) -> u32 {
    /// More than a linear frame has: a bound that the verifier sees.
    const MAX_AT: usize = 0xfff;
    let (content, settings) = (unpack(packed), settings_in_place());
    let mut frame = XdpFrame::of(ctx);
    let view = frame.view().skip(at as usize & MAX_AT);
    let reason = match ip_version {
        6 => check_content::<V6>(view, content, settings),
        _ => check_content::<V4>(view, content, settings),
    };
    reason.map_or(FINE, |reason| reason as u8).into()
}

/// As one number: a global function takes nothing else.
#[inline(always)]
fn pack(content: Content) -> u64 {
    u64::from(content.relayed_port.memory()) << 32
        | u64::from(content.is_verified) << 16
        | u64::from(content.dest_count) << 8
        | u64::from(content.protocol)
}

/// What was packed.
#[inline(always)]
fn unpack(packed: u64) -> Content {
    Content {
        protocol: packed as u8,
        dest_count: (packed >> 8) as u8,
        is_verified: packed >> 16 & 1 != 0,
        relayed_port: Be16::from_memory((packed >> 32) as u16),
    }
}
