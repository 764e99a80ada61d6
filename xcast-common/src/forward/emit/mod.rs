//! Turn one copy of the frame into what its branch asks for.
//!
//! A copy arrives here as the whole frame. It leaves as ordinary unicast (X2U, RFC 5058 section
//! 6), as an Xcast packet with a shorter list, or as an Xcast packet with the same list and fewer
//! bits. Lists are written from the plan, last destination first, and end where the payload
//! begins; so nothing that is still to be read is ever overwritten. A copy that leaves inside a tunnel is
//! [encapsulated](encapsulate()) afterwards.

mod bitmap;
mod encapsulate;
mod truncate;
mod x2u;

use self::{
    bitmap::{clear_bits, write_bitmap},
    truncate::truncate,
    x2u::readdress,
};
pub use self::{
    encapsulate::{encapsulate, encapsulate_packet},
    x2u::strip,
};
use super::{
    mark::Stripped,
    plan::{Plan, bit},
};
use crate::{
    family::traits::Family,
    maps::{
        next_hop::{NextHop, NextHopKind},
        settings::{Prune, Settings},
    },
    verifier::fresh,
    wire::{FLAG_X, frame::Frame},
};

/// What a copy became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ordinary unicast to the one destination that was left.
    Unicast,
    /// Still an Xcast packet.
    Xcast,
    /// An Xcast packet that is to be [encapsulated](encapsulate()).
    Tunnel,
}

/// Rewrites the frame for branch `b` of `plan`, to leave by `next_hop`. `None` if the frame has no room for it; it must
/// be dropped then. `stripped` if that was done before the frame was copied.
#[inline(always)]
pub fn emit<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    b: u8,
    next_hop: &NextHop,
    settings: &Settings,
    stripped: Option<Stripped>,
) -> Option<Form> {
    let to_stack = next_hop.kind == NextHopKind::Stack as u8;
    let len = fresh(&plan.branches[b as usize].len);
    let in_tunnel = next_hop.in_tunnel(len, fresh(&plan.packet.flags)).holds();
    if len == 1 && !in_tunnel && (to_stack || !plan.has(FLAG_X)) {
        let stripped = match stripped {
            Some(stripped) => stripped,
            None => strip(frame, plan, settings)?,
        };
        readdress(frame.view(), plan, b, next_hop, stripped)?;
        return Some(Form::Unicast);
    }
    if settings.prune == Prune::Bitmap as u8 {
        clear_bits(frame, plan, b, next_hop, settings)?;
    } else {
        truncate(frame, plan, b, next_hop, settings)?;
    }
    Some(if in_tunnel { Form::Tunnel } else { Form::Xcast })
}

/// Rewrites the frame into what is left when the branches that [leave](Plan::leave) in this round have
/// been served: an Xcast packet for the others' destinations, to be forwarded by this router once more.
/// The IP header stays as it is.
#[inline(always)]
pub fn emit_rest<F: Family>(frame: &mut impl Frame, plan: &mut Plan<F>) -> Option<()> {
    plan.kept = [0; 4];
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.packet.dest_count) as usize {
            break;
        }
        if plan.stays(i) {
            plan.kept[i >> 5] |= bit(i);
        }
    }
    write_bitmap(F::xcast(frame.view(), plan.ext_len()), plan)
}
