//! How a host reaches its first router. No I/O.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::cause::UnicastCause;
use crate::{
    code_points::CodePoints,
    relay::choice::{Preference, SourceAddress, Timing},
};

/// How Xcast packets reach the first router.
///
/// Each family of addresses has an uplink of its own. IPv6 has one if [`CodePoints::ipv6`] is given
/// and, in UDP, if the router has an IPv6 address. A family without an uplink is served by unicast.
///
/// # How a sender knows that the router works
///
/// It probes it with small Xcast packets that have one destination. A working router turns them into
/// ordinary unicast, which causes an answer; [`liveness`](crate::liveness) says when probes are sent
/// and how long an answer counts.
///
/// * *Native*: the destination is the probe's own socket. The router hands the packet to this
///   host's kernel, which delivers it.
/// * *In UDP*: the destination is the router's own address, at a port where nobody listens. The
///   router hands the packet to its kernel, which answers with ICMP port unreachable; a datagram
///   from a program that does listen there counts as well. (A destination on this host would not
///   do: the kernel drops packets from the network that have its own address as their source.) If
///   there is no Xcast router, the kernel's port unreachable for the outer port says so at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// Raw packets into the interface of a router on this host. Needs `CAP_NET_RAW`.
    Native {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// Name of the router's own interface.
        interface: String,
    },
    /// Xcast packets inside UDP, to a router on the network. Needs no privileges.
    ///
    /// The router accepts them only if the inner source is the outer source. Behind a NAT it does not
    /// answer, and messages leave as unicast.
    Udp {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The router's own addresses, with the UDP port at which it takes Xcast packets.
        router: RouterAddresses,
        /// UDP port of the router's addresses for probes: one where nobody listens, or where a
        /// program answers. [`Uplink::udp`] uses 9, the discard port.
        probe_port: u16,
    },
    /// Xcast packets inside UDP, to one of several [relays](crate::relay). Needs no privileges, and works from behind a
    /// NAT.
    Relays {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The relays, and how one is chosen.
        relays: Relays,
    },
    /// No router: every destination gets a datagram of its own.
    Unicast,
}

/// Relays, and how one is chosen.
///
/// What receivers see as the source depends on [`source`](Self::source) and on where the sender is:
///
/// | source | sender | receivers see | replies come to |
/// |---|---|---|---|
/// | [`Own`](SourceAddress::Own) | with an address of its own | its socket's address and port | its socket |
/// | [`Own`](SourceAddress::Own) | behind a NAT | an address and port of the NAT | [`take_reply`](crate::Sender::take_reply), from those that the NAT lets in |
/// | [`Relayed`](SourceAddress::Relayed) | anywhere | an address and port of the relay | [`take_reply`](crate::Sender::take_reply) |
/// | [`Enveloped`](SourceAddress::Enveloped) | anywhere | the relay's port of Xcast inside UDP, and the sender in the envelope | [`take_reply`](crate::Sender::take_reply), from those that a NAT lets in |
///
/// Many NATs let in only what comes from where something was sent to (RFC 4787 section 5; Linux MASQUERADE is one). To
/// receivers nothing was sent by the socket that has the NAT's port: what they answer to the NAT's address is lost then. Their
/// answers to a relay's address come in any case. Datagrams that the sender falls back to have its own socket's address, as ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relays {
    /// Where they take packets: addresses of relays, or anycast addresses that several relays have.
    pub list: Vec<RouterAddresses>,
    /// Which one is preferred. Default: the first that can be used.
    pub preference: Preference,
    /// What address packets come from.
    pub source: SourceAddress,
    /// A relay, not in the list, that questions are relayed to, to see whether copies with the sender's own address get past a
    /// relay: needed for [`SourceAddress::Tested`]. One that is near the receivers says most.
    pub witness: Option<RouterAddresses>,
    /// How often they are asked.
    pub timing: Timing,
}

impl Relays {
    /// These relays, with the default of everything else.
    pub fn new(list: impl IntoIterator<Item = impl Into<RouterAddresses>>) -> Self {
        Self {
            list: list.into_iter().map(Into::into).collect(),
            preference: Preference::default(),
            source: SourceAddress::default(),
            witness: None,
            timing: Timing::default(),
        }
    }

    pub(super) fn addresses(&self, ipv6: bool) -> impl Iterator<Item = SocketAddr> {
        self.list
            .iter()
            .filter_map(move |relay| relay.address(ipv6))
    }
}

/// Where a router takes Xcast packets in UDP: an address for each family, since the inner and the
/// outer packet must be of the same one.
///
/// Made from a [`SocketAddr`], or from a pair of one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterAddresses {
    /// For Xcast packets of IPv4.
    pub ipv4: Option<SocketAddrV4>,
    /// For Xcast packets of IPv6. Not a link-local address, because the source address of the
    /// packets is chosen to match.
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
    /// To a router on this host, by the interface `xcast0`, which is its name by default.
    pub fn native(code_points: CodePoints) -> Self {
        Self::Native {
            code_points,
            interface: "xcast0".to_owned(),
        }
    }

    /// Inside UDP, to a router on the network; probes go to the discard port, 9.
    pub fn udp(code_points: CodePoints, router: impl Into<RouterAddresses>) -> Self {
        Self::Udp {
            code_points,
            router: router.into(),
            probe_port: PROBE_PORT,
        }
    }

    pub(crate) fn code_points(&self) -> Option<CodePoints> {
        match self {
            Self::Native { code_points, .. }
            | Self::Udp { code_points, .. }
            | Self::Relays { code_points, .. } => Some(*code_points),
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
            Self::Relays {
                code_points,
                relays,
            } => marked(code_points) && relays.addresses(ipv6).next().is_some(),
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
            Self::Relays { relays, .. }
                if relays
                    .list
                    .iter()
                    .any(|relay| *relay == RouterAddresses::default())
                    || relays.list.is_empty() =>
            {
                Err("relays: name an address of each, and at least one")
            }
            Self::Relays { relays, .. }
                if relays.source == SourceAddress::Tested && relays.witness.is_none() =>
            {
                Err(
                    "relays: name a witness, by which to test whether copies with this host's address get \
                     past a relay",
                )
            }
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
