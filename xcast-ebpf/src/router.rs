//! Arrival: check, plan, and send on.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use xcast_common::{
    counter::Counter,
    ingress::{Reject, accept, is_xcast},
    maps::{PORT_TRUSTED, Port, PortCounters, Settings},
    plan::{Memory, group},
    tunnel,
    view::Frame,
    wire::ETH_LEN,
};

use crate::{
    fanout,
    frame::XdpFrame,
    maps::{KernelTables, PLANS, PLANS_PER_CPU, SCRATCH, WORK, counters, port, settings},
};

/// Entry point of the program on the ports.
#[inline(always)]
pub fn arrive(ctx: XdpContext) -> u32 {
    let settings = settings();
    let mut frame = XdpFrame::new(&ctx);
    let in_udp = !is_xcast(frame.view(), &settings);
    if in_udp && !tunnel::is_candidate(frame.view(), &settings) {
        return XDP_PASS;
    }
    let Some(port) = port(frame.ingress_ifindex()) else {
        return XDP_PASS;
    };
    forward(&mut frame, port, &settings, in_udp).unwrap_or(XDP_DROP)
}

/// Everything after the frame turned out to be Xcast, or perhaps Xcast inside UDP; `None` drops it
/// where no counter is at hand.
#[inline(always)]
fn forward(frame: &mut XdpFrame, port: Port, settings: &Settings, in_udp: bool) -> Option<u32> {
    let counters = counters(port.slot)?;
    let opened = match in_udp {
        true => take_out(frame, &port, settings, counters),
        false => Ok(()),
    };
    let accepted = opened.and_then(|()| accept(frame.view(), &port, settings, &KernelTables));
    let packet = match accepted {
        Ok(packet) => packet,
        Err(Reject::Pass) => return Some(XDP_PASS),
        Err(Reject::Drop(reason)) => {
            counters.bump(reason);
            // Two numbers that the controller turns into names. Unless it asked for them while
            // it loaded the program, the kernel removes this as code that cannot be reached.
            debug!(frame, "{} {}", port.slot, reason as u8);
            return None;
        }
    };
    // Metadata crosses a veth pair: only what comes through our own is ours.
    let comes_round = port.flags & PORT_TRUSTED != 0 && frame.metadata().is_some();
    if !comes_round {
        counters.bump(Counter::Received);
    }
    let padding = frame.view().len() as u32 - (ETH_LEN as u32 + u32::from(packet.total_len));
    if !frame.strip_metadata() || !frame.trim(padding) {
        counters.bump(Counter::DropNoRoom);
        return None;
    }

    // SAFETY: these are this CPU's own, each a map of its own.
    let (work, scratch) = unsafe { (&mut *WORK.get_ptr_mut(0)?, &mut *SCRATCH.get_ptr_mut(0)?) };
    let nonce = work.serial;
    // SAFETY: this CPU's own.
    let plan = unsafe { &mut *PLANS.get_ptr_mut(nonce % PLANS_PER_CPU)? };
    plan.begin(&packet, nonce);
    if group(
        frame,
        &packet,
        settings,
        &KernelTables,
        Memory {
            plan: &mut *plan,
            scratch,
            work: &mut *work,
        },
        counters,
    )
    .is_none()
    {
        counters.bump(Counter::DropTruncated);
        return None;
    }
    match plan.copies {
        0 => None,
        1 => fanout::single(frame, plan, settings, counters),
        _ => {
            // The copies leave later and need their plan until then.
            work.serial = nonce.wrapping_add(1);
            fanout::several(frame, plan, counters)
        }
    }
}

/// Takes the packet out of its datagram. From then on it is one that arrived natively.
#[inline(always)]
fn take_out(
    frame: &mut XdpFrame,
    port: &Port,
    settings: &Settings,
    counters: &mut PortCounters,
) -> Result<(), Reject> {
    tunnel::open(frame.view(), port, settings, &KernelTables)?;
    tunnel::take_out(frame).ok_or(Reject::Drop(Counter::DropNoRoom))?;
    counters.bump(Counter::Decapsulated);
    Ok(())
}
