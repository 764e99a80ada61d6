//! Neighbours that a router has the kernel keep resolved.

use std::{collections::HashSet, net::IpAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressProtocol,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::RouteProtocol,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::ask;

/// Whom the kernel names as the origin of what a router made (NDA_PROTOCOL, IFA_PROTO; `ip` tells it): a number that
/// nobody else is known to use.
const NUMBER: u8 = 158;
/// The origin of neighbours.
pub(crate) const ORIGIN: RouteProtocol = RouteProtocol::Other(NUMBER);
/// The origin of addresses.
pub(crate) const ADDRESS_ORIGIN: AddressProtocol = AddressProtocol::Other(NUMBER);

/// Removes the entries that a router made and that are managed still, apart from those on interfaces of `others`; returns how
/// many.
pub(crate) fn release_managed(others: &HashSet<u32>) -> Result<usize> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the neighbours")?;
    let mut released = 0;
    for answer in answers {
        let RouteNetlinkMessage::NewNeighbour(neighbour) = answer else {
            continue;
        };
        if !is_ours(&neighbour) || others.contains(&neighbour.header.ifindex) {
            continue;
        }
        let mut message = NeighbourMessage::default();
        message.header.family = neighbour.header.family;
        message.header.ifindex = neighbour.header.ifindex;
        let is_key = |attribute: &NeighbourAttribute| {
            matches!(attribute, NeighbourAttribute::Destination(_))
        };
        message.attributes = neighbour.attributes.into_iter().filter(is_key).collect();
        let request = RouteNetlinkMessage::DelNeighbour(message);
        match ask(NETLINK_ROUTE, request, NLM_F_ACK) {
            Ok(_) => released += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).context("cannot remove a neighbour"),
        }
    }
    Ok(released)
}

/// Interface and address of an entry, if it is one that a router made and that is managed still.
pub(crate) fn kept_neighbour(neighbour: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let address = neighbour
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some((*address).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some((*address).into())
            }
            _ => None,
        });
    let address = address.filter(|_| is_ours(neighbour));
    address.map(|address| (neighbour.header.ifindex, address))
}

fn is_ours(neighbour: &NeighbourMessage) -> bool {
    let is_static = matches!(
        neighbour.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    );
    !is_static && is_managed(neighbour) && !is_of_others(neighbour)
}

/// Whether the kernel keeps it resolved.
pub(crate) fn is_managed(neighbour: &NeighbourMessage) -> bool {
    neighbour.attributes.iter().any(|attribute| {
        matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed))
    })
}

/// Whether somebody else keeps it: a control plane that wrote it (`extern_learn`, or an origin of its own), or that has the
/// kernel keep it resolved. What the kernel itself found out is nobody's.
pub(crate) fn is_of_others(neighbour: &NeighbourMessage) -> bool {
    let mut attributes = neighbour.attributes.iter();
    let origin = attributes.find_map(|attribute| match attribute {
        NeighbourAttribute::Protocol(origin) => Some(*origin),
        _ => None,
    });
    neighbour.header.flags.contains(NeighbourFlags::ExtLearned)
        || match origin {
            None | Some(RouteProtocol::Unspec) => is_managed(neighbour),
            Some(origin) => origin != ORIGIN,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_neighbours_are_whose() {
        const MANAGED: NeighbourAttribute =
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        const BGP: NeighbourAttribute = NeighbourAttribute::Protocol(RouteProtocol::Bgp);
        const OWN: NeighbourAttribute = NeighbourAttribute::Protocol(ORIGIN);
        let judged = |flags, attributes: &[NeighbourAttribute]| {
            let mut neighbour = NeighbourMessage::default();
            neighbour.header.flags = flags;
            neighbour.attributes = attributes.to_vec();
            (is_ours(&neighbour), is_of_others(&neighbour))
        };
        let none = NeighbourFlags::empty();
        assert_eq!(judged(none, &[OWN, MANAGED]), (true, false));
        // The kernel's own.
        assert_eq!(judged(none, &[]), (false, false));
        // One of ours that somebody has written anew.
        assert_eq!(judged(none, &[OWN]), (false, false));
        for attributes in [&[MANAGED][..], &[BGP], &[BGP, MANAGED]] {
            assert_eq!(judged(none, attributes), (false, true), "{attributes:?}");
        }
        for attributes in [&[][..], &[BGP], &[OWN, MANAGED]] {
            assert_eq!(
                judged(NeighbourFlags::ExtLearned, attributes),
                (false, true)
            );
        }
    }
}
