//! Addresses that packets of ours may have.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use xcast_host::RouterAddresses;

/// An address that a list may name: one of one host, which routers forward to.
///
/// # Errors
///
/// Why no router serves it (RFC 1122 section 3.2.1.3, RFC 3927 section 2.7, RFC 4291 section 2.5).
pub(in crate::tools) fn destination(text: &str) -> Result<IpAddr, String> {
    let address = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address"))?;
    servable(address).map(|()| address)
}

/// Whether routers forward to this address.
///
/// # Errors
///
/// Why not.
pub(in crate::tools) fn servable(address: IpAddr) -> Result<(), String> {
    match beyond_routers(address) {
        None => Ok(()),
        Some(kind) => Err(format!("no router serves {address}: it is {kind}")),
    }
}

/// A source: an address that answers can be sent to, through routers.
///
/// # Errors
///
/// Why routers drop packets from it.
pub(super) fn source(text: &str) -> Result<IpAddr, String> {
    let address = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address"))?;
    match beyond_routers(address) {
        None => Ok(address),
        Some(kind) => Err(format!("routers drop packets from {address}: it is {kind}")),
    }
}

/// The address of a router that takes Xcast inside UDP.
///
/// # Errors
///
/// Why it is none.
pub(in crate::tools) fn router_in_udp(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not ADDRESS:PORT (of IPv6, with brackets)"))?;
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return Err(format!("{address} is no address of a router"));
    }
    Ok(address)
}

/// The addresses of a router that takes Xcast inside UDP, as given with `--udp`.
///
/// # Errors
///
/// There are two of a family.
pub(in crate::tools) fn router_addresses(given: &[SocketAddr]) -> Result<RouterAddresses> {
    let mut router = RouterAddresses::default();
    for &address in given {
        let twice = match address {
            SocketAddr::V4(address) => router.ipv4.replace(address).is_some(),
            SocketAddr::V6(address) => router.ipv6.replace(address).is_some(),
        };
        ensure!(!twice, "--udp {address}: give one address of each family");
    }
    Ok(router)
}

/// What kind of address it is, if routers forward nothing to or from it.
pub(super) fn beyond_routers(address: IpAddr) -> Option<&'static str> {
    const MULTICAST: &str = "a multicast address";
    const LOOPBACK: &str = "a loopback address";
    const LINK_LOCAL: &str = "a link-local address";
    match address {
        IpAddr::V4(address) => match address.octets() {
            [0, ..] => Some("no address of a host (0.0.0.0/8)"),
            [127, ..] => Some(LOOPBACK),
            [169, 254, ..] => Some(LINK_LOCAL),
            [224..240, ..] => Some(MULTICAST),
            [255, 255, 255, 255] => Some("the broadcast address"),
            [240..=255, ..] => Some("reserved (240.0.0.0/4)"),
            _ => None,
        },
        IpAddr::V6(address) if address.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(address) if address.is_loopback() => Some(LOOPBACK),
        IpAddr::V6(address) if address.is_multicast() => Some(MULTICAST),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(LINK_LOCAL),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Some("an address of IPv4 in the form of IPv6: write it in the form of IPv4")
        }
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_router_serves() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.9",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            let named = |result: Result<IpAddr, String>| {
                result.is_err_and(|why| why.contains(text) && !why.contains('\n'))
            };
            assert!(named(destination(text)), "{text}");
            assert!(named(source(text)), "{text}");
        }
        for text in ["10.0.0.1", "223.255.255.254", "2001:db8::1", "fd00::1"] {
            assert_eq!(destination(text), Ok(text.parse().unwrap()));
            assert_eq!(source(text), Ok(text.parse().unwrap()));
        }
        assert!(destination("host").unwrap_err().contains("\"host\""));
    }

    #[test]
    fn routers_that_are_none() {
        assert!(router_in_udp("10.0.0.1:4242").is_ok() && router_in_udp("[fd00::1]:4242").is_ok());
        for text in [
            "0.0.0.0:4242",
            "224.0.0.1:4242",
            "10.0.0.1:0",
            "10.0.0.1",
            "fd00::1:4242",
        ] {
            assert!(router_in_udp(text).is_err(), "{text}");
        }
    }
}
