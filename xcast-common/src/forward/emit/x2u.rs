//! A copy with one destination becomes ordinary unicast (X2U, RFC 5058 section 6).

use crate::{
    family::traits::{Family, Unicast},
    forward::{
        mark::Stripped,
        plan::{DESTINATION_SLOTS, Plan},
    },
    maps::{
        next_hop::{NextHop, NextHopKind},
        settings::Settings,
    },
    verifier::fresh,
    wire::{
        FLAG_D, FLAG_P,
        address::Address as _,
        checksum::{Sum, update},
        endian::Be16,
        eth,
        frame::{Frame, View},
        transport,
    },
};

/// Bits of where a checksum is behind an IP header, in octets: a bound that the verifier sees.
const CHECKSUM_AT_MASK: usize = 0x1f;

/// The half of X2U that all unicast copies of a packet share: the Xcast header goes, and checksums are begun. Where
/// there is no other copy, this is done once, before the frame is copied.
#[inline(always)]
pub fn strip<F: Family>(
    frame: &mut impl Frame,
    plan: &Plan<F>,
    settings: &Settings,
) -> Option<Stripped> {
    let ip_sum = F::strip(frame, &plan.packet)?.fold();
    let mut transport_sum = 0;
    let checksum_at = fresh(&plan.checksum_at) as usize & CHECKSUM_AT_MASK;
    if checksum_at != 0 {
        let field = frame.view().skip(checksum_at).window::<2>(F::XCAST_AT)?;
        let checksum = field.u16(0);
        // A datagram whose source computed none has none.
        if checksum != 0 || plan.packet.protocol != transport::UDP {
            // The source computed it with the group as destination.
            transport_sum = F::group(settings).take_from(update(checksum)).fold();
        }
    }
    Some(Stripped {
        ip_sum,
        transport_sum,
    })
}

/// The other half: the one destination takes the group's place.
#[inline(always)]
pub(super) fn readdress<F: Family>(
    view: View<'_>,
    plan: &Plan<F>,
    b: u8,
    next_hop: &NextHop,
    stripped: Stripped,
) -> Option<()> {
    let i = plan.branches[b as usize].last as usize % DESTINATION_SLOTS;
    let address = plan.destinations[i].address;
    let port = plan.has(FLAG_P).then_some(plan.destinations[i].port);
    fix_transport(view, plan, address, port, stripped.transport_sum)?;
    let unicast = Unicast {
        address,
        ds: plan.has(FLAG_D).then_some(plan.destinations[i].ds),
        is_local: next_hop.kind == NextHopKind::Stack as u8,
    };
    let ip_sum = Sum::default().add16(stripped.ip_sum);
    let is_local = unicast.is_local;
    F::readdress(view, ip_sum, next_hop, unicast)?;
    if is_local {
        // Where the packet arrived, for whoever hands it to the stack (ADR 13).
        view.set_u8(eth::ARRIVAL, plan.packet.arrival)?;
    }
    Some(())
}

/// Puts the destination and its port into the transport header's checksum, and the port into the
/// header (RFC 5058 section 10.1).
#[inline(always)]
fn fix_transport<F: Family>(
    view: View<'_>,
    plan: &Plan<F>,
    address: F::Address,
    port: Option<Be16>,
    begun: u16,
) -> Option<()> {
    let checksum_at = fresh(&plan.checksum_at) as usize & CHECKSUM_AT_MASK;
    if checksum_at == 0 {
        return Some(());
    }
    let mut sum = address.add_to(Sum::default().add16(begun));
    if let Some(port) = port
        && plan.packet.protocol != transport::ICMPV6
    {
        let old = view.be16(F::XCAST_AT + 2)?;
        sum = sum.sub16(old.memory()).add16(port.memory());
        view.set_be16(F::XCAST_AT + 2, port)?;
    }
    if begun == 0 {
        return Some(());
    }
    let mut fixed = !sum.fold_few();
    if plan.packet.protocol == transport::UDP && fixed == 0 {
        fixed = 0xffff;
    }
    let field = view.skip(checksum_at).window::<2>(F::XCAST_AT)?;
    field.set_u16(0, fixed);
    Some(())
}
