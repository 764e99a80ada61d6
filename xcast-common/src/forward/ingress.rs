//! Is this frame ours, and is it well formed?

use super::tables::Tables;
use crate::{
    family::traits::Family,
    maps::{
        address::ADDRESS_OWN,
        counter::Counter,
        next_hop::NEXT_HOP_NEVER,
        port::{PORT_GROUP_MAC, PORT_TRUSTED, Port},
        settings::Settings,
    },
    packet::{Packet, Reject, TRUNCATED},
    wire::{address::Address as _, eth, frame::View},
};

/// Whether a frame carries Xcast of this family, and what [`Family::find`] found before it;
/// everything else costs no more than this.
#[inline(always)]
pub fn is_xcast<F: Family>(view: View, settings: &Settings) -> Option<u16> {
    if is_family::<F>(view) {
        F::find(view, settings)
    } else {
        None
    }
}

/// Whether a frame has this family's EtherType.
#[inline(always)]
pub fn is_family<F: Family>(view: View) -> bool {
    matches!(view.be16(eth::ETHER_TYPE), Some(t) if t.value() == F::ETHER_TYPE)
}

/// Checks a frame in which [`is_xcast`] found an Xcast header.
#[inline(always)]
pub fn accept<F: Family>(
    view: View,
    ext_len: u16,
    port: &Port,
    settings: &Settings,
    tables: &impl Tables<F>,
) -> Result<Packet, Reject> {
    // The first checks only say whether the packet is meant for us: what fails them passes.
    if !to_our_mac::<F>(view, port, settings).ok_or(Reject::Pass)? {
        return Err(Reject::Pass);
    }
    let destination = F::Address::read(view, F::DESTINATION).ok_or(Reject::Pass)?;
    let to_own = destination.difference(F::group(settings)) != 0;
    if to_own && tables.address_flags(destination) == 0 {
        return Err(Reject::Pass);
    }

    // From here on it is ours, and what is wrong with it is counted.
    let packet = F::check(view, ext_len, settings)?;
    let source = F::Address::read(view, F::SOURCE).ok_or(TRUNCATED)?;
    check_source(source, port, tables)?;
    let is_ipv6 = F::VERSION == 6;
    let to_stack =
        port.is_to_stack(is_ipv6) || port.asks_source(is_ipv6) && tables.is_policy_source(source);
    Ok(Packet {
        to_own,
        to_stack,
        ..packet
    })
}

/// Whether the frame's destination MAC is one the port accepts.
#[inline(always)]
fn to_our_mac<F: Family>(view: View, port: &Port, settings: &Settings) -> Option<bool> {
    if port.flags & PORT_TRUSTED != 0 {
        return Some(true);
    }
    if is_to_mac(view, port.mac)? {
        return Some(true);
    }
    Some(port.flags & PORT_GROUP_MAC != 0 && is_to_mac(view, F::group_mac(settings))?)
}

/// Whether this is the frame's destination MAC.
#[inline(always)]
pub(super) fn is_to_mac(view: View, mac: [u8; 6]) -> Option<bool> {
    let high = view.be32(eth::DESTINATION)?.memory();
    let low = view.be16(eth::DESTINATION + 4)?.memory();
    Some(
        high == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]])
            && low == u16::from_ne_bytes([mac[4], mac[5]]),
    )
}

/// Source policy: the special sources are routes of the kind "never", so one look-up tells.
#[inline(always)]
fn check_source<F: Family>(
    source: F::Address,
    port: &Port,
    tables: &impl Tables<F>,
) -> Result<(), Reject> {
    let id = tables.route(source);
    if id == NEXT_HOP_NEVER {
        return Err(Reject::Drop(Counter::DropSource));
    }
    // The hash of own addresses is only asked about what the kernel delivers locally.
    let local = tables
        .next_hop(id)
        .is_some_and(|next_hop| next_hop.reason == Counter::StackLocal as u8);
    if local && port.flags & PORT_TRUSTED == 0 && tables.address_flags(source) & ADDRESS_OWN != 0 {
        return Err(Reject::Drop(Counter::DropSpoofed));
    }
    Ok(())
}
