//! The numbers that mark a packet as Xcast.

use std::net::Ipv4Addr;

use thiserror::Error;

/// Numbers that mark a packet as Xcast, the same on every router and source of a network.
///
/// There are no defaults: IANA has assigned none, and the experimental values of RFC 4727 must not
/// be shipped as such (RFC 3692 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePoints {
    /// IPv4 protocol number.
    pub protocol: u8,
    /// The All-Xcast-Routers group.
    pub group: Ipv4Addr,
}

/// A code point that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct CodePointError {
    /// Name of the field of [`CodePoints`].
    pub field: &'static str,
    /// What is wrong with it, and what to use.
    pub reason: String,
}

impl CodePoints {
    /// Code points that do not collide with protocols and groups in use.
    ///
    /// # Errors
    ///
    /// [`CodePointError`] names the one that does.
    pub fn new(protocol: u8, group: Ipv4Addr) -> Result<Self, CodePointError> {
        let wrong = |field, reason| Err(CodePointError { field, reason });
        if matches!(protocol, 0 | 255) {
            return wrong(
                "protocol",
                format!("{protocol} is reserved: use 253 or 254 (RFC 4727)"),
            );
        }
        if let Some((_, name)) = PROTOCOLS_IN_USE
            .iter()
            .find(|(number, _)| *number == protocol)
        {
            return wrong(
                "protocol",
                format!(
                    "{protocol} is {name}, whose packets the router would take for Xcast: use 253 or 254 (RFC 4727)"
                ),
            );
        }
        if !group.is_multicast() {
            return wrong(
                "group",
                format!("{group} is not a multicast address: use 224.0.0.254 (RFC 4727)"),
            );
        }
        if let Some((_, name)) = GROUPS_IN_USE
            .iter()
            .find(|(last_octet, _)| group == Ipv4Addr::new(224, 0, 0, *last_octet))
        {
            return wrong(
                "group",
                format!("{group} is the group of {name}: use 224.0.0.254 (RFC 4727)"),
            );
        }
        Ok(Self { protocol, group })
    }
}

/// IPv4 protocols a network is likely to use.
const PROTOCOLS_IN_USE: [(u8, &str); 27] = [
    (1, "ICMP"),
    (2, "IGMP"),
    (4, "IP in IP"),
    (6, "TCP"),
    (8, "EGP"),
    (9, "IGRP"),
    (17, "UDP"),
    (27, "RDP"),
    (33, "DCCP"),
    (41, "IPv6 in IPv4"),
    (46, "RSVP"),
    (47, "GRE"),
    (50, "ESP"),
    (51, "AH"),
    (58, "ICMPv6"),
    (88, "EIGRP"),
    (89, "OSPF"),
    (94, "IPIP"),
    (97, "EtherIP"),
    (103, "PIM"),
    (108, "IPComp"),
    (112, "VRRP"),
    (113, "PGM"),
    (115, "L2TP"),
    (132, "SCTP"),
    (136, "UDP-Lite"),
    (137, "MPLS in IP"),
];

/// Last octets of groups in 224.0.0.0/24 a network is likely to use.
const GROUPS_IN_USE: [(u8, &str); 12] = [
    (1, "all systems"),
    (2, "all routers"),
    (4, "DVMRP"),
    (5, "OSPF"),
    (6, "OSPF"),
    (9, "RIP"),
    (10, "EIGRP"),
    (13, "PIM"),
    (18, "VRRP"),
    (22, "IGMP"),
    (251, "multicast DNS"),
    (252, "LLMNR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_refused() {
        let group = Ipv4Addr::new(224, 0, 0, 254);
        assert!(CodePoints::new(253, group).is_ok());
        for (protocol, group, field) in [
            (0, group, "protocol"),
            (17, group, "protocol"),
            (253, Ipv4Addr::new(10, 0, 0, 1), "group"),
            (253, Ipv4Addr::new(224, 0, 0, 5), "group"),
        ] {
            assert_eq!(CodePoints::new(protocol, group).unwrap_err().field, field);
        }
    }
}
