//! Routers that take Xcast inside UDP, as the command line names them.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use xcast_host::RouterAddresses;

/// The address of a router that takes Xcast inside UDP.
pub(in crate::tools) fn udp_router(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not ADDRESS:PORT (of IPv6, with brackets)"))?;
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return Err(format!("{address} is no address of a router"));
    }
    Ok(address)
}

/// One router by its addresses, at most one of each family.
///
/// # Errors
///
/// There are two of one family.
pub(in crate::tools) fn udp_routers(addresses: &[SocketAddr]) -> Result<RouterAddresses> {
    let mut router = RouterAddresses::default();
    for &address in addresses {
        let twice = match address {
            SocketAddr::V4(address) => router.ipv4.replace(address).is_some(),
            SocketAddr::V6(address) => router.ipv6.replace(address).is_some(),
        };
        ensure!(!twice, "--udp {address}: give one address of each family");
    }
    Ok(router)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_that_are_none() {
        assert!(udp_router("10.0.0.1:4242").is_ok() && udp_router("[fd00::1]:4242").is_ok());
        for text in [
            "0.0.0.0:4242",
            "224.0.0.1:4242",
            "10.0.0.1:0",
            "10.0.0.1",
            "fd00::1:4242",
        ] {
            assert!(udp_router(text).is_err(), "{text}");
        }
    }
}
