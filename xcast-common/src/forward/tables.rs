//! What forwarding asks of a router.

use crate::{
    family::traits::Family,
    maps::{
        lpm::Entry,
        next_hop::NextHop,
        port::PortMac,
        tunnel::{TunnelCookies, TunnelPeer},
    },
};

/// What a router knows of a family: route map, next-hop and ECMP tables, own addresses.
pub trait Tables<F: Family> {
    /// Next-hop id of the longest matching prefix;
    /// [`NEXT_HOP_NO_ROUTE`](crate::maps::NEXT_HOP_NO_ROUTE) if none matches.
    fn route(&self, address: F::Address) -> u32;

    /// Revision of routes, next hops and ECMP groups: differs after each change, and is odd while one is under way.
    /// Constant where nothing ever changes.
    fn revision(&self) -> u32 {
        0
    }

    /// First step of [`route`](Self::route), for addresses in a row. Tables may do everything in
    /// this step; where they do not, [`Work::step`](super::plan::Work::step) does the others.
    fn route_entry(&self, address: F::Address) -> Entry {
        Entry::route(self.route(address), 0)
    }

    /// The next hop with this id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;

    /// Takes note that a packet uses this next hop, so that its neighbour can be looked after. Plans are made anew
    /// each second in which they serve packets, so it is enough to note this when one is made.
    fn note_use(&self, _id: u32) {}

    /// Next-hop id in a bucket of an ECMP group.
    fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32>;

    /// [`ADDRESS_OWN`](crate::maps::ADDRESS_OWN) and
    /// [`ADDRESS_ANYCAST`](crate::maps::ADDRESS_ANYCAST), or 0 for anyone else's address.
    fn address_flags(&self, address: F::Address) -> u32;

    /// Whether the configuration lists `source` for the port with this slot.
    fn may_arrive(&self, slot: u8, source: F::Address) -> bool;

    /// Whether this is a further link layer address of a port.
    fn is_port_mac(&self, _mac: PortMac) -> bool {
        false
    }

    /// Whether policy rules decide about packets from this source. Only asked where a port says that there
    /// are such rules.
    fn is_policy_source(&self, _source: F::Address) -> bool {
        false
    }
}

/// Who is at the other ends of tunnels.
pub trait TunnelPeers {
    /// The cookies of what arrives by a tunnel with these outer addresses; `None` if there is no such tunnel.
    fn tunnel_cookies(&self, peer: &TunnelPeer) -> Option<TunnelCookies>;
}

/// Who may send Xcast inside UDP.
pub trait UdpSenders<F: Family> {
    /// Whether the configuration lets `peer` send packets whose source is `source`.
    fn may_send(&self, peer: F::Address, source: F::Address) -> bool;

    /// Whether `hash` is that of the cookie for a source with this address and what
    /// [`bound`](crate::wire::cookie::bound) says. Never, where there are no keys.
    fn is_cookie(&self, _source: F::Address, _bound: u64, _hash: u64) -> bool {
        false
    }
}
