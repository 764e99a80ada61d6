//! Neighbours that a router has the kernel keep resolved.

use std::{collections::HashSet, net::IpAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressProtocol,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
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
    let has = |wanted: NeighbourAttribute| neighbour.attributes.contains(&wanted);
    !is_static
        && has(NeighbourAttribute::Protocol(ORIGIN))
        && has(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed))
}
