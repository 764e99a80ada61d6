//! Arrival: check, plan, and send on.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use xcast_common::{
    family::{Family, V4, V6},
    forward::{
        ingress::{accept, is_family, is_xcast},
        mark,
        plan::{Memory, Plan, Scratch, Work, group},
        tunnel,
    },
    maps::{PORT_TRUSTED, Port, PortCounters, Settings, counter::Counter},
    packet::{Packet, Reject},
    wire::{
        ETH_LEN,
        frame::{Frame, View},
    },
};

use crate::{
    fanout,
    frame::XdpFrame,
    maps::{IPV6, SCRATCH, WORK, counters, port, settings},
    tables::FamilyMaps,
};

/// Entry point of the program on the ports: serves IPv4, and has a program of its own serve IPv6.
#[inline(always)]
pub fn dispatch(ctx: XdpContext) -> u32 {
    let view = XdpFrame::new(&ctx).view();
    if is_family::<V6>(view) {
        let settings = &settings();
        if settings.ipv6 != 0 && is_ours::<V6>(view, settings).is_some() {
            // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
            unsafe { IPV6.tail_call(&ctx, 0) };
        }
        return XDP_PASS;
    }
    arrive::<V4>(ctx)
}

/// Whether a frame is Xcast, or perhaps Xcast inside UDP.
#[inline(always)]
fn is_ours<F: Family>(view: View, settings: &Settings) -> Option<Found> {
    match is_xcast::<F>(view, settings) {
        Some(ext_len) => Some(Found::Native(ext_len)),
        None if tunnel::is_candidate::<F>(view, settings) => Some(Found::InUdp),
        None => None,
    }
}

/// How Xcast comes.
enum Found {
    /// By itself, with this many octets before its header.
    Native(u16),
    /// Perhaps: it is a datagram to the port for Xcast inside UDP.
    InUdp,
}

/// Serves one family.
#[inline(always)]
pub fn arrive<F: FamilyMaps>(ctx: XdpContext) -> u32 {
    let settings = &settings();
    let mut frame = XdpFrame::new(&ctx);
    let Some(found) = is_ours::<F>(frame.view(), settings) else {
        return XDP_PASS;
    };
    let Some(port) = port(frame.ingress_ifindex()) else {
        return XDP_PASS;
    };
    forward::<F>(&mut frame, port, settings, found).unwrap_or(XDP_DROP)
}

/// Everything after the frame turned out to be Xcast, or perhaps Xcast inside UDP; `None` drops it
/// where no counter is at hand.
#[inline(always)]
fn forward<F: FamilyMaps>(
    frame: &mut XdpFrame,
    port: Port,
    settings: &Settings,
    found: Found,
) -> Option<u32> {
    let counters = counters(port.slot)?;
    let mut ext_len = match found {
        Found::Native(ext_len) => Ok(ext_len),
        Found::InUdp => decapsulate::<F>(frame, &port, settings, counters),
    };
    if F::VERSION == 6 {
        // SAFETY: this CPU's own.
        let work = unsafe { &mut *WORK.get_ptr_mut(0)? };
        ext_len = ext_len.map(|ext_len| work.ext_len_through_memory(ext_len));
    }
    let accepted =
        ext_len.and_then(|ext_len| accept::<F>(frame.view(), ext_len, &port, settings, &F::TABLES));
    let mut packet = match accepted {
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
    let mark = if port.flags & PORT_TRUSTED != 0 {
        mark::read::<F>(frame.view(), settings)
    } else {
        None
    };
    match mark {
        // What is left of a packet goes the way of the rest.
        Some(mark) => packet.to_stack |= mark.to_stack,
        None => counters.bump(Counter::Received),
    }
    let padding = frame.view().len() as u32 - (ETH_LEN as u32 + u32::from(packet.total_len));
    if !frame.strip_metadata() || !frame.trim(padding) {
        counters.bump(Counter::DropNoRoom);
        return None;
    }

    // SAFETY: these are this CPU's own, each a map of its own.
    let (work, scratch) = unsafe { (&mut *WORK.get_ptr_mut(0)?, &mut *SCRATCH.get_ptr_mut(0)?) };
    let packet = work.through_memory(packet);
    let Some(plan) = plan::<F>(frame, &packet, settings, work, scratch, counters) else {
        counters.bump(Counter::DropTruncated);
        return None;
    };
    match plan.copies {
        0 => None,
        1 => fanout::single(frame, plan, settings, counters),
        _ => fanout::several(frame, plan, settings, counters),
    }
}

/// The plan for an accepted packet: a cached one for the same list, or a new one. `None` if the frame is shorter than
/// it was when it was accepted.
#[inline(always)]
fn plan<'a, F: FamilyMaps>(
    frame: &mut XdpFrame,
    packet: &Packet,
    settings: &Settings,
    work: &mut Work,
    scratch: &mut Scratch,
    counters: &mut PortCounters,
) -> Option<&'a mut Plan<F>> {
    let checksum = F::xcast(frame.view(), packet.ext_len).be16(F::CHECKSUM)?;
    let checksum = checksum.memory();
    if let Some(serial) = work.recent.find(checksum, work.serial) {
        let plan = F::plan(serial)?;
        if plan.applies(serial, frame, packet, &F::TABLES)? {
            counters.bump(Counter::PlanReused);
            return Some(plan);
        }
    }
    let serial = work.serial;
    let plan = F::plan(serial)?;
    plan.begin(packet, serial);
    let memory = Memory {
        plan: &mut *plan,
        scratch,
        work: &mut *work,
    };
    group(frame, packet, settings, &F::TABLES, memory, counters)?;
    if plan.copies > 1 || !plan.is_private() {
        // The copies leave later and need their plan until then, and later packets may reuse it.
        work.recent.remember(checksum, serial);
        work.serial = serial.wrapping_add(1) & mark::MAX_SERIAL;
    }
    Some(plan)
}

/// Takes the packet out of its datagram. From then on it is one that arrived natively. Returns
/// what comes before its Xcast header.
#[inline(always)]
fn decapsulate<F: FamilyMaps>(
    frame: &mut XdpFrame,
    port: &Port,
    settings: &Settings,
    counters: &mut PortCounters,
) -> Result<u16, Reject> {
    tunnel::check::<F>(frame.view(), port, settings, &F::TABLES)?;
    tunnel::decapsulate::<F>(frame).ok_or(Reject::Drop(Counter::DropNoRoom))?;
    counters.bump(Counter::Decapsulated);
    is_xcast::<F>(frame.view(), settings).ok_or(Reject::Drop(Counter::DropUdpContent))
}
