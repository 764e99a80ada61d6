//! What route synchronisation asks for.

use std::net::IpAddr;

use ipnet::IpNet;
use xcast_common::maps::{EcmpGroup, NextHop};

/// One change to the datapath's maps, or one request to the kernel.
///
/// Edits are safe when they are carried out in order: an entry is written before anything refers to
/// it, and an id gets another meaning only after nothing refers to it any more. An id that is no
/// longer in use keeps its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Write an entry of the next-hop table.
    NextHop {
        /// Its index.
        id: u32,
        /// What it says.
        entry: NextHop,
    },
    /// Write an entry of the ECMP table.
    Ecmp {
        /// Its index.
        group: u16,
        /// What it says.
        buckets: Box<EcmpGroup>,
    },
    /// Write a route.
    Route {
        /// Destinations.
        prefix: IpNet,
        /// Index into the next-hop table.
        next_hop: u32,
    },
    /// Remove a route.
    RemoveRoute {
        /// Its destinations.
        prefix: IpNet,
    },
    /// Write one of this router's addresses.
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// [`ADDRESS_OWN`](xcast_common::maps::ADDRESS_OWN) and
        /// [`ADDRESS_ANYCAST`](xcast_common::maps::ADDRESS_ANYCAST).
        flags: u32,
    },
    /// Remove one of this router's addresses.
    RemoveOwnAddress {
        /// The address.
        address: IpAddr,
    },
    /// Add or remove sources whose packets go to the stack, since policy rules decide about them.
    PolicySource {
        /// The sources.
        source: IpNet,
        /// Whether they are to be there.
        is_there: bool,
    },
    /// Write the outer headers of a tunnel, and take what arrives by it: its address of this router is known, or another
    /// one.
    Tunnel {
        /// Its place in the configuration.
        tunnel: usize,
        /// The address.
        local: IpAddr,
        /// Link-layer addresses as they begin a frame: of the gateway towards the other end, and of the port.
        macs: [u8; 12],
    },
    /// Have the kernel keep the other end of a tunnel resolved, which is on a link. The request may be repeated.
    ResolveRemote {
        /// Interface it is on.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
    },
    /// Have the kernel keep a gateway resolved. The request may be repeated.
    Resolve {
        /// Interface the gateway is on.
        ifindex: u32,
        /// Its address.
        gateway: IpAddr,
    },
    /// Tell the kernel that traffic uses these neighbours, so that it probes those that are STALE.
    Use {
        /// Each one's interface and address.
        neighbours: Vec<(u32, IpAddr)>,
    },
    /// The gateway need not be kept resolved any more.
    Release {
        /// Interface the gateway is on.
        ifindex: u32,
        /// Its address.
        gateway: IpAddr,
    },
}
