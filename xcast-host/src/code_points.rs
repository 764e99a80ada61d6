//! The numbers that mark a packet as Xcast.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Those of Xcast6; `None` where the network has no Xcast6.
    pub ipv6: Option<Ipv6CodePoints>,
}

/// Numbers that mark a packet as Xcast6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6CodePoints {
    /// The All-Xcast-Routers group.
    pub group: Ipv6Addr,
    /// Routing type of the routing header.
    pub routing_type: u8,
    /// Type of the option that lists ports, in a destination options header.
    pub ports_option: u8,
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
        Ok(Self {
            protocol,
            group,
            ipv6: None,
        })
    }

    /// The group in the family of this address; IPv4's where there is no other.
    pub fn group_for(&self, address: IpAddr) -> IpAddr {
        match (address, self.ipv6) {
            (IpAddr::V6(_), Some(ipv6)) => ipv6.group.into(),
            _ => self.group.into(),
        }
    }

    /// With code points of Xcast6 that do not collide with those in use.
    ///
    /// # Errors
    ///
    /// [`CodePointError`] names the one that does.
    pub fn with_ipv6(self, ipv6: Ipv6CodePoints) -> Result<Self, CodePointError> {
        let wrong = |field, reason| Err(CodePointError { field, reason });
        let Ipv6CodePoints {
            group,
            routing_type,
            ports_option,
        } = ipv6;
        if let Some((_, name)) = ROUTING_TYPES_IN_USE
            .iter()
            .find(|(number, _)| *number == routing_type)
        {
            return wrong(
                "routing_type",
                format!("{routing_type} is {name}: use 253 or 254 (RFC 4727)"),
            );
        }
        // RFC 5058 section 9.3.2.2: whoever does not know the option discards the packet.
        if ports_option & 0xc0 != 0x40 {
            return wrong(
                "ports_option",
                format!(
                    "{ports_option:#04x} does not begin with the bits 01, so that receivers that do not know it would \
                     not discard the packet (RFC 5058 section 9.3.2.2): use 0x5e (RFC 4727)"
                ),
            );
        }
        if !group.is_multicast() {
            return wrong(
                "group6",
                format!("{group} is not a multicast address: use ff02::114 (RFC 4727)"),
            );
        }
        if let Some((_, name)) = GROUPS6_IN_USE
            .iter()
            .find(|(last, _)| group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, *last))
        {
            return wrong(
                "group6",
                format!("{group} is the group of {name}: use ff02::114 (RFC 4727)"),
            );
        }
        Ok(Self {
            ipv6: Some(ipv6),
            ..self
        })
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

/// Routing types with a meaning of their own.
const ROUTING_TYPES_IN_USE: [(u8, &str); 7] = [
    (0, "source routing (RFC 5095 took it out of use)"),
    (1, "Nimrod"),
    (2, "mobile IPv6"),
    (3, "RPL source routing"),
    (4, "segment routing"),
    (5, "compressed segment routing"),
    (6, "compressed segment routing"),
];

/// Groups ff02::x that a network is likely to use.
const GROUPS6_IN_USE: [(u16, &str); 11] = [
    (1, "all nodes"),
    (2, "all routers"),
    (4, "DVMRP"),
    (5, "OSPF"),
    (6, "OSPF"),
    (9, "RIP"),
    (0xa, "EIGRP"),
    (0xd, "PIM"),
    (0x12, "VRRP"),
    (0x16, "MLDv2"),
    (0xfb, "multicast DNS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_refused_for_ipv6() {
        let right = Ipv6CodePoints {
            group: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114),
            routing_type: 253,
            ports_option: 0x5e,
        };
        let ipv4 = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254)).unwrap();
        assert_eq!(ipv4.with_ipv6(right).unwrap().ipv6, Some(right));
        let refused = |ipv6| ipv4.with_ipv6(ipv6).unwrap_err().field;
        let routing_type = 4;
        assert_eq!(
            refused(Ipv6CodePoints {
                routing_type,
                ..right
            }),
            "routing_type"
        );
        let ports_option = 0x1e;
        assert_eq!(
            refused(Ipv6CodePoints {
                ports_option,
                ..right
            }),
            "ports_option"
        );
        for group in ["2001:db8::1", "ff02::5"] {
            let group = group.parse().unwrap();
            assert_eq!(refused(Ipv6CodePoints { group, ..right }), "group6");
        }
    }

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
