//! What becomes of a branch.

use super::decision::Plan;
use crate::{
    family::traits::Family,
    maps::{
        counter::Counter,
        next_hop::{InTunnel, NEXT_HOP_ON_LINK, NEXT_HOP_XCAST, NextHop, NextHopKind},
        port::PORT_STACK,
        settings::{Prune, Settings},
    },
    verifier::fresh,
    wire::FLAG_X,
};

/// What becomes of a branch, as one number.
///
/// It goes through memory once, where the verifier loses track of it: otherwise each code path to a
/// verdict would be verified separately from there on.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Verdict(u32);

impl Verdict {
    /// Each destination needs a copy of its own.
    pub(super) const SEPARATE: u32 = 1 << 16;
    /// The copy exceeds the egress MTU: the kernel stack fragments or answers.
    pub(super) const OVERSIZE: u32 = 1 << 17;
    /// No copy; the number is a counter, not a port.
    pub(super) const SKIP: u32 = 1 << 18;
    /// Nobody has kept the entry up to date for too long: the kernel stack knows.
    pub(super) const ORPHANED: u32 = 1 << 19;
    /// Only the kernel stack knows the way.
    pub(super) const POLICY: u32 = 1 << 20;
    /// The copy leaves inside a tunnel.
    pub(super) const TUNNEL: u32 = 1 << 21;

    #[inline(always)]
    pub(super) fn skip(counter: u8) -> Self {
        Self(Self::SKIP | counter as u32)
    }

    #[inline(always)]
    pub(super) fn send(port: u8, how: u32) -> Self {
        Self(how | port as u32)
    }

    #[inline(always)]
    pub(super) fn is(self, what: u32) -> bool {
        self.0 & what != 0
    }

    /// 1 if the copy leaves inside a tunnel, else 0: without a branch.
    #[inline(always)]
    pub(super) fn tunnel_bit(self) -> u8 {
        (self.0 >> Self::TUNNEL.trailing_zeros()) as u8 & 1
    }

    /// The port, or the counter.
    #[inline(always)]
    pub(super) fn number(self) -> u8 {
        self.0 as u8
    }
}

/// The order of the checks is the order of their precedence.
#[inline(always)]
pub(super) fn judge<F: Family>(
    plan: &Plan<F>,
    b: usize,
    settings: &Settings,
    next_hop: &NextHop,
    in_tunnel: InTunnel,
    orphaned: bool,
) -> Verdict {
    let must_stay_xcast = plan.has(FLAG_X);
    // What is delivered here, and what is never a destination, does not depend on the way.
    if fresh(&plan.packet.to_stack)
        && next_hop.reason != Counter::StackLocal as u8
        && next_hop.reason != Counter::SkipNever as u8
    {
        if must_stay_xcast {
            return Verdict::skip(Counter::SkipXStack as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE | Verdict::POLICY);
    }
    if next_hop.kind_for(in_tunnel) != NextHopKind::Forward as u8 {
        if next_hop.kind == NextHopKind::Skip as u8 {
            return Verdict::skip(next_hop.reason);
        }
        if next_hop.kind != NextHopKind::Stack as u8 {
            return Verdict::skip(Counter::SkipNextHop as u8);
        }
        if must_stay_xcast && next_hop.reason != Counter::StackLocal as u8 {
            return Verdict::skip(Counter::SkipXStack as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE);
    }
    if fresh(&plan.packet.ttl) <= 1 {
        return Verdict::skip(Counter::SkipTtl as u8);
    }
    if orphaned {
        if must_stay_xcast {
            return Verdict::skip(Counter::SkipXStack as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE | Verdict::ORPHANED);
    }
    let on_link = next_hop.flags & NEXT_HOP_ON_LINK != 0;
    let shared = next_hop.flags & NEXT_HOP_XCAST != 0 && !on_link;
    if must_stay_xcast && !shared && !on_link {
        return Verdict::skip(Counter::SkipXIncapable as u8);
    }
    let count = if shared {
        u32::from(fresh(&plan.branches[b].len))
    } else {
        1
    };
    let stays_xcast = u32::from(fresh(&plan.packet.flags) & FLAG_X) | in_tunnel.bit();
    let len = if count == 1 && stays_xcast == 0 {
        plan.unicast_len()
    } else if settings.prune == Prune::Bitmap as u8 {
        u32::from(plan.packet.total_len)
    } else {
        plan.truncated_len(count)
    };
    if len > u32::from(next_hop.mtu_for(in_tunnel)) {
        if must_stay_xcast {
            return Verdict::skip(Counter::SkipXMtu as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE | Verdict::OVERSIZE);
    }
    let how = if shared { 0 } else { Verdict::SEPARATE };
    // Without a branch.
    let tunnel = in_tunnel.bit() * Verdict::TUNNEL;
    Verdict::send(next_hop.port_for(in_tunnel), how | tunnel)
}
