//! Where the kernel would send a packet.

use std::{io, net::IpAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::netlink::ask;

/// What the kernel says about a way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None` where the destination is on the link. A route of IPv4 may have one of IPv6 (RFC 8950).
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
    /// The source address the kernel would choose.
    pub(crate) source: Option<IpAddr>,
}

/// The way the kernel would take to `destination`, by `ifindex` only if one is given; `None` if
/// there is none.
pub(crate) fn route(destination: IpAddr, ifindex: Option<u32>) -> Result<Option<Route>> {
    let mut message = RouteMessage::default();
    let address = match destination {
        IpAddr::V4(address) => {
            message.header.address_family = AddressFamily::Inet;
            message.header.destination_prefix_length = 32;
            RouteAddress::Inet(address)
        }
        IpAddr::V6(address) => {
            message.header.address_family = AddressFamily::Inet6;
            message.header.destination_prefix_length = 128;
            RouteAddress::Inet6(address)
        }
    };
    message.attributes = vec![RouteAttribute::Destination(address)];
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    let answers = match ask(
        NETLINK_ROUTE,
        RouteNetlinkMessage::GetRoute(message),
        NLM_F_ACK,
    ) {
        Ok(answers) => answers,
        // Blackhole, prohibit and unreachable routes have an error of their own each.
        Err(error) if is_no_route(&error) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look up a route to {destination}"));
        }
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => Some(parse_route(&message)),
        _ => None,
    }))
}

fn is_no_route(error: &io::Error) -> bool {
    const NO_ROUTE: [Errno; 4] = [
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::EACCES,
        Errno::EINVAL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| NO_ROUTE.contains(&Errno::from_raw(code)))
}

fn parse_route(message: &RouteMessage) -> Route {
    let mut route = Route {
        gateway: None,
        ifindex: 0,
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => {
                route.gateway = Some((*address).into());
            }
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
            _ => {}
        }
    }
    route
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// It has this link layer address.
    Known([u8; 6]),
    /// It did not answer.
    Failed,
    /// Nothing, or nothing yet.
    Unknown,
}

/// What the kernel knows about the neighbour with this address.
pub(crate) fn neighbour(ifindex: u32, address: IpAddr) -> Result<Neighbour> {
    let mut message = NeighbourMessage::default();
    let wanted = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let request = RouteNetlinkMessage::GetNeighbour(message);
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the neighbours")?;
    let found = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == ifindex => message
            .attributes
            .contains(&NeighbourAttribute::Destination(wanted.clone()))
            .then_some(message),
        _ => None,
    });
    let Some(message) = found else {
        return Ok(Neighbour::Unknown);
    };
    if message.header.state == NeighbourState::Failed {
        return Ok(Neighbour::Failed);
    }
    let mut attributes = message.attributes.into_iter();
    let mac = attributes.find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => octets.try_into().ok(),
        _ => None,
    });
    Ok(mac.map_or(Neighbour::Unknown, Neighbour::Known))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_of_this_host_is_reached_by_lo() {
        let route = route(Ipv4Addr::LOCALHOST.into(), None).unwrap().unwrap();
        assert_eq!((route.gateway, route.ifindex), (None, 1));
        assert_eq!(route.source, Some(Ipv4Addr::LOCALHOST.into()));
    }
}
