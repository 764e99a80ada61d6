//! To whom a message goes, and how.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use thiserror::Error;

use crate::{
    code_points::CodePoints,
    packet::{Entry, MAX_DSCP, Template},
};

/// One receiver of a message.
///
/// An address and port that are listed twice are delivered to once: the first entry and its DSCP
/// count. Routers see to that, and so does a sender that falls back to unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Address and UDP port.
    pub address: SocketAddr,
    /// DSCP, 0 to 63, for the last part of the path, where a packet has this destination alone. If
    /// `None`, that of the message ([`Options::dscp`]).
    pub dscp: Option<u8>,
}

impl Destination {
    /// A receiver with a DSCP of its own, 0 to 63.
    pub fn with_dscp(address: SocketAddr, dscp: u8) -> Self {
        Self {
            address,
            dscp: Some(dscp),
        }
    }

    /// Its entry in the list of a packet. An IPv4 address in the form of IPv6, ::ffff:192.0.2.1,
    /// is an IPv4 address.
    pub(crate) fn entry(self) -> Result<Entry, Unusable> {
        let address = self.address.ip().to_canonical();
        let port = self.address.port();
        let (names_no_host, not_one_host) = match address {
            IpAddr::V4(ip) => (
                ip.octets()[0] == 0,
                ip.is_multicast() || ip.octets()[0] >= 240,
            ),
            IpAddr::V6(ip) => (ip.is_unspecified(), ip.is_multicast()),
        };
        if names_no_host {
            Err(Unusable::Unspecified)
        } else if not_one_host {
            Err(Unusable::NotOneHost)
        } else if port == 0 {
            Err(Unusable::NoPort)
        } else if let Some(dscp) = self.dscp.filter(|dscp| *dscp > MAX_DSCP) {
            Err(Unusable::Dscp(dscp))
        } else {
            Ok(Entry {
                address,
                port,
                dscp: self.dscp,
            })
        }
    }

    /// The interface of a link-local address, if it names one.
    pub(crate) fn scope(self) -> Option<(Ipv6Addr, u32)> {
        match self.address {
            SocketAddr::V6(address) if address.ip().is_unicast_link_local() => {
                Some((*address.ip(), address.scope_id()))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            dscp: None,
        }
    }
}

impl From<SocketAddrV4> for Destination {
    fn from(address: SocketAddrV4) -> Self {
        SocketAddr::V4(address).into()
    }
}

impl From<SocketAddrV6> for Destination {
    fn from(address: SocketAddrV6) -> Self {
        SocketAddr::V6(address).into()
    }
}

/// Why a destination cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The sender's socket cannot send to addresses of this family.
    #[error(
        "the sender's socket is not of this family: bind it to 0.0.0.0 for IPv4, and to [::] for \
         IPv6 and IPv4"
    )]
    Family,
    /// The list has the same link-local address on another interface, too.
    #[error("the list has this link-local address on another interface, too: send two messages")]
    Scope,
    /// An address in 0.0.0.0/8, or `::`.
    #[error("the address names no host")]
    Unspecified,
    /// Multicast, limited broadcast, or class E.
    #[error("the address is not that of one host")]
    NotOneHost,
    /// UDP port 0.
    #[error("port 0 cannot be sent to, name the receiver's port")]
    NoPort,
    /// A DSCP with more than six bits.
    #[error("DSCP {0}: it has six bits, 0 to {MAX_DSCP}")]
    Dscp(u8),
    /// Loopback, link-local, or the sender itself, where the message must stay Xcast
    /// ([`Options::stay_xcast`]).
    #[error("no router delivers there, and the message may not leave as unicast")]
    NotRouted,
}

/// Header fields of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time to live, or hop limit, of the packets as they leave the host; at least 1. Default: 64.
    pub ttl: u8,
    /// DSCP of the packets, 0 to 63. Default: 0.
    pub dscp: u8,
    /// CHANNEL IDENTIFIER (RFC 5058 section 9.2.2; of section 9.3.2 the last four octets). Only
    /// Xcast packets carry it. Default: 0, none.
    pub channel: u32,
    /// The flag X: packets stay Xcast to the receivers, which must understand it. Such a message
    /// never falls back to unicast; it fails instead. Default: off.
    pub stay_xcast: bool,
    /// The flag A: routers that keep the length of the list zero the addresses of destinations
    /// that left it. Default: off.
    pub anonymous: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: 64,
            dscp: 0,
            channel: 0,
            stay_xcast: false,
            anonymous: false,
        }
    }
}

impl Template {
    /// The template for messages with these options from a UDP socket at `source`.
    pub fn new(code_points: CodePoints, source: SocketAddr, options: &Options) -> Self {
        Self {
            code_points,
            source: source.ip(),
            to: code_points.group_for(source.ip()),
            ttl: options.ttl,
            dscp: options.dscp,
            channel: options.channel,
            x: options.stay_xcast,
            anonymous: options.anonymous,
            source_port: source.port(),
            port_list: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_host_has_is_no_destination() {
        let reason = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            Destination::from(address).entry().unwrap_err()
        };
        assert_eq!(reason("[::]:5000"), Unusable::Unspecified);
        assert_eq!(reason("[ff0e::1]:5000"), Unusable::NotOneHost);
        assert_eq!(reason("[2001:db8::1]:0"), Unusable::NoPort);
        assert_eq!(reason("[::ffff:224.0.0.1]:5000"), Unusable::NotOneHost);
        assert_eq!(reason("0.0.0.0:5000"), Unusable::Unspecified);
        assert_eq!(reason("224.0.0.1:5000"), Unusable::NotOneHost);
        assert_eq!(reason("255.255.255.255:5000"), Unusable::NotOneHost);
        assert_eq!(reason("192.0.2.1:0"), Unusable::NoPort);
        let address = "192.0.2.1:1".parse().unwrap();
        let entry = |dscp| Destination::with_dscp(address, dscp).entry();
        assert_eq!(entry(64), Err(Unusable::Dscp(64)));
        assert_eq!(entry(63).unwrap().dscp, Some(63));
    }
}
