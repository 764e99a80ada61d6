//! Policies of IPsec (RFC 4301 section 4.4.1), which apply to packets that the kernel forwards.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_XFRM;

use super::netlink::ask;

/// XFRM_MSG_NEWPOLICY and XFRM_MSG_GETPOLICY of linux/xfrm.h.
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;
/// Length of `struct xfrm_userpolicy_id`: a selector, an index, and the direction, padded.
const ID_LEN: usize = 64;

/// The destinations of all policies for packets that are forwarded; nothing where the kernel has no IPsec.
///
/// # Errors
///
/// The kernel does not tell.
pub(crate) fn ipsec_destinations() -> Result<Vec<IpNet>> {
    let answers = match ask(NETLINK_XFRM, Policy::default(), NLM_F_DUMP) {
        Ok(answers) => answers,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).context("cannot list the policies of IPsec"),
    };
    let mut destinations: Vec<_> = answers.into_iter().filter_map(|policy| policy.0).collect();
    destinations.sort_unstable();
    destinations.dedup();
    Ok(destinations)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ECONNREFUSED | libc::EINVAL)
    )
}

/// The destinations of a policy, if it is one for packets that are forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Policy(Option<IpNet>);

impl From<Policy> for NetlinkPayload<Policy> {
    fn from(policy: Policy) -> Self {
        Self::InnerMessage(policy)
    }
}

impl NetlinkSerializable for Policy {
    fn message_type(&self) -> u16 {
        GET_POLICY
    }

    fn buffer_len(&self) -> usize {
        ID_LEN
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Policy {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(match header.message_type {
            NEW_POLICY => destinations(payload),
            _ => None,
        }))
    }
}

/// Reads a `struct xfrm_userpolicy_info`, which begins with a `struct xfrm_selector`.
fn destinations(payload: &[u8]) -> Option<IpNet> {
    /// Where the selector has its family, and the length of the destinations' prefix.
    const FAMILY: usize = 40;
    const PREFIX_LEN: usize = 42;
    /// Where the direction is, and which is for what arrives for this host.
    const DIRECTION: usize = 160;
    const IN: u8 = 0;
    if *payload.get(DIRECTION)? == IN {
        return None;
    }
    let address: [u8; 16] = *payload.first_chunk()?;
    let family = u16::from_ne_bytes(*payload.get(FAMILY..)?.first_chunk()?);
    let len = *payload.get(PREFIX_LEN)?;
    let prefix = match i32::from(family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = address;
            IpNet::new(Ipv4Addr::new(a, b, c, d).into(), len)
        }
        libc::AF_INET6 => IpNet::new(Ipv6Addr::from(address).into(), len),
        _ => return None,
    };
    Some(prefix.ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(family: i32, address: &[u8], len: u8, direction: u8) -> Option<IpNet> {
        let mut bytes = [0; 168];
        bytes[..address.len()].copy_from_slice(address);
        bytes[40..42].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[42] = len;
        bytes[160] = direction;
        destinations(&bytes)
    }

    #[test]
    fn policies_for_what_is_forwarded() {
        let net = |text: &str| Some(text.parse().unwrap());
        let ipv4 = |direction| policy(libc::AF_INET, &[10, 1, 2, 3], 16, direction);
        assert_eq!([ipv4(0), ipv4(1)], [None, net("10.1.0.0/16")]);
        assert_eq!(ipv4(2), net("10.1.0.0/16"));
        let ipv6 = policy(libc::AF_INET6, &[0x20, 1, 0xd, 0xb8], 32, 2);
        assert_eq!(ipv6, net("2001:db8::/32"));
        assert_eq!(policy(libc::AF_INET, &[10, 1, 2, 3], 33, 1), None);
        assert_eq!(destinations(&[0; 100]), None);
    }

    #[test]
    fn the_kernel_answers() {
        ipsec_destinations().unwrap();
    }
}
