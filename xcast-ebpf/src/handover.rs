//! Hand-over: what the kernel stack gets arrives by the port that its Xcast packet arrived by (ADR 13).
//!
//! A copy for the stack arrives on `xcast0`. From there it goes on into the port that its Ethernet header names, so
//! that reverse path filter, netfilter, policy rules and VRFs see what they would see of unicast.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNSUPP_LWT,
        TC_ACT_OK, TC_ACT_SHOT, bpf_fib_lookup as Query,
    },
    helpers::{bpf_fib_lookup, bpf_redirect},
    programs::TcContext,
};
use xcast_common::{
    maps::{
        PORT_FIRST, PORT_IN_VRF, PORT_STACK, Port, SourceMode, counter::Counter, source_mode_of,
    },
    packet::ASK_WAY_BACK,
    wire::{eth, ipv4, ipv6},
};

use crate::maps::{SLOTS, count};

/// Hands a frame that arrived on `xcast0` to the port that it arrived by in truth; what originates here, or by a port
/// that is none any more, stays where it is.
#[inline(always)]
pub fn hand_over(ctx: &TcContext) -> i32 {
    count(PORT_STACK, Counter::Sent);
    let Ok(arrival) = ctx.load::<u8>(eth::ARRIVAL) else {
        return TC_ACT_SHOT;
    };
    let slot = arrival & !ASK_WAY_BACK;
    if slot < PORT_FIRST {
        return TC_ACT_OK;
    }
    let Some(port) = SLOTS.get(u32::from(slot)) else {
        return TC_ACT_OK;
    };
    if port.ifindex == 0 {
        return TC_ACT_OK;
    }
    if arrival & ASK_WAY_BACK != 0 && !has_way_back(ctx, port) {
        count(slot, Counter::DropReversePath);
        return TC_ACT_SHOT;
    }
    // Whose address it is decides whether the frame is for this host.
    if ctx.store(eth::DESTINATION, &port.mac, 0).is_err() {
        return TC_ACT_SHOT;
    }
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(port.ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Whether the kernel has a way back to the source such as the port asks for. It is looked for as the kernel's own
/// filter does: as of an answer that comes by the interface that the packet leaves by, as if from this host if it does not
/// leave, or from the port if that is in a VRF.
#[inline(always)]
fn has_way_back(ctx: &TcContext, port: &Port) -> bool {
    /// `LOOPBACK_IFINDEX` of the kernel.
    const THIS_HOST: u32 = 1;
    let Some((mut query, version)) = reversed(ctx) else {
        return false;
    };
    query.ifindex = match port.flags & PORT_IN_VRF {
        0 => leaves_by(ctx, port).unwrap_or(THIS_HOST),
        _ => port.receiver,
    };
    let mut answer = look_up(ctx, &mut query);
    if answer == BPF_FIB_LKUP_RET_FWD_DISABLED {
        // From where nothing is forwarded the kernel does not say. It does from the port.
        query.ifindex = port.receiver;
        answer = look_up(ctx, &mut query);
    }
    // A neighbour that is not resolved, and a packet that is too long, have a way all the same.
    let is_way = answer == BPF_FIB_LKUP_RET_SUCCESS
        || answer == BPF_FIB_LKUP_RET_NO_NEIGH
        || answer == BPF_FIB_LKUP_RET_FRAG_NEEDED
        || answer == BPF_FIB_LKUP_RET_UNSUPP_LWT;
    let is_strict = port.sources[source_mode_of(version)] == SourceMode::Strict as u8;
    is_way && (!is_strict || query.ifindex == port.receiver)
}

/// By which interface the kernel would send the packet.
#[inline(always)]
fn leaves_by(ctx: &TcContext, port: &Port) -> Option<u32> {
    let (mut query, version) = reversed(ctx)?;
    let there = query;
    // SAFETY: both are addresses of the version that the question is for.
    unsafe {
        if version == 4 {
            query.__bindgen_anon_3.ipv4_src = there.__bindgen_anon_4.ipv4_dst;
            query.__bindgen_anon_4.ipv4_dst = there.__bindgen_anon_3.ipv4_src;
        } else {
            query.__bindgen_anon_3.ipv6_src = there.__bindgen_anon_4.ipv6_dst;
            query.__bindgen_anon_4.ipv6_dst = there.__bindgen_anon_3.ipv6_src;
        }
    }
    query.ifindex = port.receiver;
    let answer = look_up(ctx, &mut query);
    // Of those that have one, these answers name the interface.
    let leaves = answer == BPF_FIB_LKUP_RET_SUCCESS
        || answer == BPF_FIB_LKUP_RET_NO_NEIGH
        || answer == BPF_FIB_LKUP_RET_FRAG_NEEDED;
    leaves.then_some(query.ifindex)
}

/// The question for the way from a packet's destination to its source, and its IP version.
#[inline(always)]
fn reversed(ctx: &TcContext) -> Option<(Query, u8)> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: zeroes are valid for this struct of integers.
    let mut query: Query = unsafe { zeroed() };
    match u16::from_be_bytes(ctx.load(eth::ETHER_TYPE).ok()?) {
        eth::TYPE_IPV4 => {
            query.family = AF_INET;
            query.__bindgen_anon_2.tos = ctx.load(ipv4::DS).ok()?;
            query.__bindgen_anon_3.ipv4_src = ctx.load(ipv4::DESTINATION).ok()?;
            query.__bindgen_anon_4.ipv4_dst = ctx.load(ipv4::SOURCE).ok()?;
            Some((query, 4))
        }
        eth::TYPE_IPV6 => {
            query.family = AF_INET6;
            query.__bindgen_anon_3.ipv6_src = ctx.load(ipv6::DESTINATION).ok()?;
            query.__bindgen_anon_4.ipv6_dst = ctx.load(ipv6::SOURCE).ok()?;
            Some((query, 6))
        }
        _ => None,
    }
}

#[inline(always)]
fn look_up(ctx: &TcContext, query: &mut Query) -> u32 {
    let len = size_of::<Query>() as i32;
    // SAFETY: the kernel reads and writes one `bpf_fib_lookup`.
    unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), query, len, 0) as u32 }
}
