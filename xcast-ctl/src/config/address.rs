//! Addresses in the configuration.

use std::{collections::HashSet, net::IpAddr};

use super::error::{ConfigError, invalid};

/// Unicast addresses, none of them twice.
pub(super) fn check_addresses(field: &str, addresses: &[IpAddr]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for address in addresses {
        if !is_unicast(*address) {
            return Err(invalid(
                field,
                format!("{address} is not a unicast address: remove it"),
            ));
        }
        if !seen.insert(address) {
            return Err(invalid(
                field,
                format!("{address} is listed twice: remove one"),
            ));
        }
    }
    Ok(())
}

/// Whether it can be the address of an interface that talks to others.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            (1..224).contains(&first) && first != 127
        }
        IpAddr::V6(address) => {
            let mapped = address.to_ipv4_mapped().is_some();
            !address.is_multicast()
                && !address.is_loopback()
                && !address.is_unspecified()
                && !mapped
        }
    }
}
