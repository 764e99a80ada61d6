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
        limits::bucket_of,
        mark,
        plan::{Memory, Payer, Plan, group, look_up},
        tunnel, tunnelled,
    },
    maps::{PORT_TRUSTED, Port, Settings, Tally, counter::Counter},
    packet::{Opened, Packet, Reject},
    verifier::fresh,
    wire::{
        ETH_LEN,
        frame::{Frame, View},
    },
};

use crate::{
    content, fanout,
    frame::XdpFrame,
    limits::{COPIES, PACKET, now, xcast_charge},
    maps::{
        ARRIVALS, arrival, count, counters, is_orphaned, port, scratch, settings, tunnel_arrival,
        work,
    },
    tables::FamilyMaps,
};

/// Entry point of the program on the ports: serves IPv4, and has a program of its own serve IPv6.
#[inline(always)]
pub fn dispatch(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let view = frame.view();
    let settings = &settings();
    if tunnelled::is_candidate(view, settings) {
        let own = tunnel_arrival(settings.generation());
        // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
        unsafe { ARRIVALS.tail_call(&ctx, own) };
        return XDP_PASS;
    }
    if is_family::<V6>(view) {
        if settings.ipv6 != 0 && is_ours::<V6>(view, settings).is_some() {
            let own = arrival(6, settings.generation());
            // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
            unsafe { ARRIVALS.tail_call(&ctx, own) };
        }
        return XDP_PASS;
    }
    arrive::<V4>(ctx)
}

/// Whether a frame is Xcast, or perhaps Xcast inside UDP.
#[inline(always)]
fn is_ours<F: Family>(view: View<'_>, settings: &Settings) -> Option<Found> {
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
    if port.flags & PORT_TRUSTED != 0 && mark::is_of_other_generation(frame.view(), settings) {
        let other = arrival(F::VERSION, settings.generation() ^ 1);
        // SAFETY: nothing is left to be dropped; where the program is missing, this returns.
        unsafe { ARRIVALS.tail_call(frame, other) };
        return None;
    }
    let counters = counters(port.slot)?;
    let mut port = port;
    let mut payer = 0;
    let mut ext_len = match found {
        Found::Native(ext_len) => {
            if settings.tunnels != 0 {
                // The source of what came through a tunnel need not be behind this port.
                let opened = Opened::native(tunnelled::is_sealed(frame.view(), settings));
                let opened = work()?.opened_through_memory(opened);
                port = port.for_permitted(F::VERSION, opened.permitted());
            }
            Ok(ext_len)
        }
        Found::InUdp => decapsulate::<F>(frame, &mut port, &mut payer, settings, counters),
    };
    if F::VERSION == 6 {
        let work = work()?;
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
    if port.flags & PORT_TRUSTED == 0 {
        let reason = content::check::<F>(frame, &packet, port.relayed_port);
        if reason != content::FINE {
            counters.bump_index(reason);
            debug!(frame, "{} {}", port.slot, reason);
            return None;
        }
    }
    let mark = match port.flags & PORT_TRUSTED {
        0 => None,
        _ => mark::read::<F>(frame.view(), settings),
    };
    match mark {
        None => counters.bump(Counter::Received),
        Some(mark) => {
            packet.arrival = mark.arrival();
            // What is left of a packet goes the way of the rest.
            packet.to_stack |= mark.is_to_stack();
            count(packet.arrival_slot(), Counter::Returned);
        }
    }
    let bucket = match mark {
        None => bucket_of::<F>(frame.view(), payer, &port, settings)?,
        Some(mark) => mark.payer(),
    };
    // Once for each packet: reading the clock is a call.
    let now = now();
    if xcast_charge(bucket, port.packet_ns.into(), PACKET, now) == 0 {
        counters.bump(Counter::DropPacketLimit);
        return None;
    }
    let padding = frame.view().len() as u32 - (ETH_LEN as u32 + u32::from(packet.total_len));
    if !frame.strip_metadata() || !frame.trim(padding) {
        counters.bump(Counter::DropNoRoom);
        return None;
    }

    let memory = work()?;
    let packet = memory.through_memory(packet);
    memory.keep_payer(Payer {
        now,
        bucket,
        copy_ns: port.copy_ns,
    });
    let Some(plan) = plan::<F>(frame, &packet, settings, counters) else {
        counters.bump(Counter::DropTruncated);
        return None;
    };
    let copies = fresh(&plan.copies);
    let payer = work()?.payer();
    let price_ns = u64::from(copies) * u64::from(payer.copy_ns);
    if xcast_charge(payer.bucket, price_ns, COPIES, payer.now) == 0 {
        counters.bump(Counter::DropCopyLimit);
        return None;
    }
    match copies {
        0 => None,
        // The tunnel's headers are added where a copy leaves.
        1 if !plan.is_tunnelled() => fanout::single(frame, plan, settings, counters),
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
    counters: Tally<'_>,
) -> Option<&'a mut Plan<F>> {
    let checksum = F::xcast(frame.view(), packet.ext_len).be16(F::CHECKSUM)?;
    let checksum = checksum.memory();
    let memory = work()?;
    let payer = memory.payer();
    let orphaned = is_orphaned(payer.now);
    memory.orphaned = orphaned as u32;
    let serial = memory.serial;
    if !orphaned && let Some(recent) = memory.recent.find(checksum, serial) {
        let plan = F::plan(recent)?;
        if plan.applies(recent, frame, packet, payer.bucket, &F::TABLES)? {
            counters.bump(Counter::PlanReused);
            return Some(plan);
        }
    }
    let plan = F::plan(serial)?;
    plan.begin(packet, payer.bucket, serial);
    if look_up(frame, plan, work()?, &F::TABLES)? {
        // The steps find the plan and the look-ups by themselves: nothing here refers to them meanwhile.
        F::finish_look_ups();
    }
    let (plan, work) = (F::plan(serial)?, work()?);
    let memory = Memory {
        plan: &mut *plan,
        scratch: scratch()?,
        work: &mut *work,
    };
    group(frame, packet, settings, &F::TABLES, memory, counters)?;
    if plan.copies > 1 || !plan.is_private() || plan.is_tunnelled() {
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
    port: &mut Port,
    payer: &mut u64,
    settings: &Settings,
    counters: Tally<'_>,
) -> Result<u16, Reject> {
    let opened = tunnel::check::<F>(frame.view(), port, settings, &F::TABLES)?;
    let work = work().ok_or(Reject::Drop(Counter::DropNoRoom))?;
    let opened = work.opened_through_memory(opened);
    *port = port.for_permitted(F::VERSION, opened.permitted());
    port.relayed_port = opened.relayed_port;
    *payer = opened.payer;
    tunnel::decapsulate::<F>(frame, opened).ok_or(Reject::Drop(Counter::DropNoRoom))?;
    counters.bump(Counter::Decapsulated);
    is_xcast::<F>(frame.view(), settings).ok_or(Reject::Drop(Counter::DropUdpContent))
}
