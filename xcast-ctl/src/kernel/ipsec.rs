//! Policies of IPsec (RFC 4301 section 4.4.1), which apply to packets that the kernel forwards.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_XFRM;

use super::netlink::ask;

/// XFRM_MSG_NEWPOLICY, XFRM_MSG_GETPOLICY and XFRM_MSG_GETDEFAULT of linux/xfrm.h.
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;
const GET_DEFAULT: u16 = 0x28;
/// Length of `struct xfrm_userpolicy_id`: a selector, an index, and the direction, padded.
const ID_LEN: usize = 64;
/// Length of `struct xfrm_userpolicy_default`.
const DEFAULT_LEN: usize = 3;

/// The destinations of all policies for packets that are forwarded, and all destinations if packets without a policy
/// are refused; nothing where the kernel has no IPsec.
///
/// # Errors
///
/// The kernel does not tell.
pub(crate) fn ipsec_destinations() -> Result<Vec<IpNet>> {
    let policies = about(Message::Policies)?;
    // Since Linux 5.15. One that does not know the question refuses nothing.
    let default = about(Message::Default)?;
    let mut destinations: Vec<_> = policies
        .into_iter()
        .chain(default)
        .flat_map(|answer| match answer {
            Message::Destinations(destinations) => destinations,
            _ => Vec::new(),
        })
        .collect();
    destinations.sort_unstable();
    destinations.dedup();
    Ok(destinations)
}

fn about(question: Message) -> Result<Vec<Message>> {
    let flags = match question {
        Message::Default => NLM_F_ACK,
        _ => NLM_F_DUMP,
    };
    match ask(NETLINK_XFRM, question, flags) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        answer => answer.context("cannot list the policies of IPsec"),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ECONNREFUSED | libc::EINVAL)
    )
}

/// A question about IPsec, or what is of interest in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    /// Which policies are there?
    Policies,
    /// What becomes of packets without a policy?
    Default,
    /// Packets that are forwarded to these are not as those without IPsec.
    Destinations(Vec<IpNet>),
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Default => GET_DEFAULT,
            _ => GET_POLICY,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Default => DEFAULT_LEN,
            _ => ID_LEN,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let destinations = match header.message_type {
            NEW_POLICY => destinations(payload).into_iter().collect(),
            GET_DEFAULT if refuses(payload) => EVERYTHING.to_vec(),
            _ => Vec::new(),
        };
        Ok(Self::Destinations(destinations))
    }
}

const EVERYTHING: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// Reads a `struct xfrm_userpolicy_default`: what becomes of packets for this host, of those that are forwarded, and of
/// those that leave. Both latter hold for what is forwarded.
fn refuses(payload: &[u8]) -> bool {
    const BLOCK: u8 = 1;
    matches!(payload, [_, forwarded, leaving, ..] if [*forwarded, *leaving].contains(&BLOCK))
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
    fn packets_without_a_policy_may_be_refused() {
        let (unset, block, accept) = (0, 1, 2);
        assert!(!refuses(&[block, accept, unset]) && !refuses(&[block]));
        assert!(refuses(&[accept, block, accept]) && refuses(&[accept, accept, block]));
    }

    #[test]
    fn the_kernel_answers() {
        ipsec_destinations().unwrap();
    }
}
