//! How a host reaches its first router: what it is told, without I/O.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::cause::UnicastCause;
use crate::code_points::CodePoints;

/// The way Xcast packets take to the first router.
///
/// It is one for each family of addresses: IPv6 has one where [`CodePoints::ipv6`] says how its
/// packets are marked and, in UDP, where the router has an IPv6 address. A family without a way is
/// served by unicast.
///
/// # How a router is known to work
///
/// By probes, small Xcast packets with one destination, which a working router turns into ordinary
/// unicast that comes back in some delivery; see [`Liveness`](crate::liveness::Liveness) for when.
///
/// * *native*: the destination is the probe's own socket. The router hands the packet to this
///   host's kernel, which delivers it.
/// * *in UDP*: a packet from the sender to itself would be dropped by its kernel when it came back
///   from the network, because its source is one of the host's own addresses. So the destination
///   is the *router's own address*, at a port where nobody listens: the router hands the packet to
///   its kernel, and that answers with ICMP port unreachable, which ends up at the probe's socket.
///   An answer from a program that does listen there counts as well. Without an Xcast router the
///   packet is never unwrapped, and the kernel's own port unreachable, for the outer port, says so
///   at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// Raw packets into the interface of a router on this host. Needs CAP_NET_RAW.
    Native {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The router's own interface.
        interface: String,
    },
    /// Xcast packets inside UDP, to a router on the network. No privileges are needed.
    ///
    /// The router accepts them only with an inner source that is the outer source, so a NAT in
    /// between means unicast.
    Udp {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The router's own addresses, and the UDP port it takes Xcast packets at.
        router: RouterAddresses,
        /// UDP port of the router's addresses where nobody listens, or where somebody answers.
        probe_port: u16,
    },
    /// None: every destination gets a datagram of its own.
    Unicast,
}

/// Where a router takes Xcast packets in UDP: an address of its own for each family, as the inner
/// and the outer packet must be of one. Made of a [`SocketAddr`], or of a pair of one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterAddresses {
    /// For Xcast packets of IPv4.
    pub ipv4: Option<SocketAddrV4>,
    /// For Xcast packets of IPv6: an address that is not link-local, because the source of the
    /// packets is chosen by it.
    pub ipv6: Option<SocketAddrV6>,
}

impl RouterAddresses {
    pub(super) fn address(self, ipv6: bool) -> Option<SocketAddr> {
        match ipv6 {
            false => self.ipv4.map(SocketAddr::V4),
            true => self.ipv6.map(SocketAddr::V6),
        }
    }
}

impl From<SocketAddr> for RouterAddresses {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self {
                ipv4: Some(address),
                ipv6: None,
            },
            SocketAddr::V6(address) => Self {
                ipv4: None,
                ipv6: Some(address),
            },
        }
    }
}

impl From<(SocketAddrV4, SocketAddrV6)> for RouterAddresses {
    fn from((ipv4, ipv6): (SocketAddrV4, SocketAddrV6)) -> Self {
        Self {
            ipv4: Some(ipv4),
            ipv6: Some(ipv6),
        }
    }
}

/// The discard port, where hardly anybody listens.
pub(super) const PROBE_PORT: u16 = 9;

impl Uplink {
    /// Into `xcast0`, as a router calls its interface unless told otherwise.
    pub fn native(code_points: CodePoints) -> Self {
        Self::Native {
            code_points,
            interface: "xcast0".to_owned(),
        }
    }

    /// Inside UDP to a router.
    pub fn udp(code_points: CodePoints, router: impl Into<RouterAddresses>) -> Self {
        Self::Udp {
            code_points,
            router: router.into(),
            probe_port: PROBE_PORT,
        }
    }

    pub(crate) fn code_points(&self) -> Option<CodePoints> {
        match self {
            Self::Native { code_points, .. } | Self::Udp { code_points, .. } => Some(*code_points),
            Self::Unicast => None,
        }
    }

    /// Whether there is a way for packets of this family.
    pub(crate) fn serves(&self, ipv6: bool) -> bool {
        let marked = |code_points: &CodePoints| !ipv6 || code_points.ipv6.is_some();
        match self {
            Self::Native { code_points, .. } => marked(code_points),
            Self::Udp {
                code_points,
                router,
                ..
            } => marked(code_points) && router.address(ipv6).is_some(),
            Self::Unicast => false,
        }
    }

    /// What contradicts itself, and what to do.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Udp { router, .. } if *router == RouterAddresses::default() => {
                Err("router: name an address of it")
            }
            Self::Udp {
                code_points: CodePoints { ipv6: None, .. },
                router: RouterAddresses { ipv6: Some(_), .. },
                ..
            } => Err(
                "router: it has an IPv6 address, so name the code points of IPv6 (CodePoints::ipv6)",
            ),
            _ => Ok(()),
        }
    }
}

/// Whether messages can go by a router at this time, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkState {
    /// They can, as Xcast packets.
    Up {
        /// Octets of other headers in front of each packet: 0, or those of an outer IP and UDP
        /// header.
        overhead_octets: usize,
        /// IP source of the packets.
        source: IpAddr,
    },
    /// They cannot, for this reason: each destination gets a datagram.
    Down(UnicastCause),
}
