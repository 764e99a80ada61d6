//! Links, and what crosses them.

use crate::topology::{HostId, LinkId};

/// A link, in the direction of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    /// A host's access link, from the host.
    Up(HostId),
    /// A link between routers.
    Between(LinkId),
    /// A host's access link, to the host.
    Down(HostId),
}

/// A packet on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmission {
    /// Which link.
    pub link: Link,
    /// Length of the packet, in octets, from the IP header on.
    pub octets: u32,
}
