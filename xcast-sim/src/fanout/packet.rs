//! Packets, and where they are.

use super::link::Link;
use crate::topology::{HostId, RouterId};

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a host.
    Host(HostId),
    /// At a router.
    Router(RouterId),
}

/// A packet on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// To one host.
    Unicast(HostId),
    /// With a list.
    Xcast(List),
    /// With a list, inside a unicast packet to a router, which takes it out.
    Tunnel(RouterId, List),
}

/// The list of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Whom the packet serves, at least one.
    pub to: Vec<HostId>,
    /// How many hosts its list has: more, where bits were cleared.
    pub listed: u32,
}

/// A packet on a link, and what arrives at the link's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Which link.
    pub link: Link,
    /// Length of the packet, in octets, from the outermost IP header on.
    pub octets: u32,
    /// The packet.
    pub packet: Packet,
}
