//! IP addresses in netlink attributes.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NlaBuffer};

/// The address that an attribute is; its length says of which family.
pub(super) fn ip(attribute: &NlaBuffer<&[u8]>) -> Result<IpAddr, DecodeError> {
    octets(attribute.value())
        .ok_or_else(|| format!("attribute {} is not an IP address", attribute.kind()).into())
}

/// The address that octets are, if there are 4 or 16.
pub(super) fn octets(value: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}
