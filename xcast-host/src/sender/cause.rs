//! Why a destination is served by unicast.

use std::fmt;

/// Why a destination gets a datagram of its own instead of sharing an Xcast packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnicastCause {
    /// The sender has no uplink for the family.
    Configured,
    /// No router has answered a probe yet, or not recently.
    NoAnswer,
    /// Nobody listens at the router's port: ICMP port unreachable.
    Refused,
    /// There is no such interface, no permission, or no route to the router.
    Unavailable,
    /// Copies with the sender's address do not get past any relay, and none sends from its own: a reverse-path filter
    /// (rp_filter) or an ingress filter (BCP 38) drops them.
    Filtered,
    /// The relay is to send from its own address, and has no port for that.
    NotRelayed,
    /// It is alone in its packet.
    Single,
    /// Loopback, link-local, or the sender's own address: no router delivers there.
    NotRouted,
    /// The payload leaves no room for a list in a packet.
    PayloadSize,
    /// The packet is longer than the path MTU to the router, as far as the kernel knows it.
    PathMtu,
}

impl UnicastCause {
    /// Its name, as in the counters of [`SenderStatistics`](crate::SenderStatistics).
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::NoAnswer => "no_answer",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Filtered => "filtered",
            Self::NotRelayed => "not_relayed",
            Self::Single => "single",
            Self::NotRouted => "not_routed",
            Self::PayloadSize => "payload_size",
            Self::PathMtu => "path_mtu",
        }
    }
}

impl fmt::Display for UnicastCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "the sender is configured for unicast",
            Self::NoAnswer => "no router has answered",
            Self::Refused => "nobody listens on the router's port",
            Self::Unavailable => "the way to the router is not available",
            Self::Filtered => {
                "copies with this host's address do not get past any relay: a reverse-path filter (rp_filter) or an \
                 ingress filter (BCP 38) drops them, and no relay sends from its own address"
            }
            Self::NotRelayed => {
                "no relay sends from its own address (relay.relayed_ports, relay.envelopes), or has a port left"
            }
            Self::Single => "there is one destination",
            Self::NotRouted => "no router delivers there",
            Self::PayloadSize => "the payload leaves no room for a list",
            Self::PathMtu => "the packet exceeds the MTU on the way to the router",
        })
    }
}
