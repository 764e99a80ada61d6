//! What is sent, how, and what comes of it.

use serde::{Deserialize, Serialize};

use super::{deployment::Deployment, format::PacketFormat};
use crate::topology::{HostId, RouterId};

/// A packet to many hosts.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Who sends it.
    pub source: HostId,
    /// Who is to have it, in the order of the list.
    pub to: &'a [HostId],
    /// The router that takes the source's packet, inside UDP; none: it leaves as an Xcast packet.
    pub via: Option<RouterId>,
    /// What multipath hashes: source, ports, protocol, as a number.
    pub flow: u64,
}

/// How multi-destination packets are sent.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// Which routers speak Xcast.
    pub deployment: Deployment,
    /// What the list of a copy is.
    pub prune: Prune,
    /// What multipath hashes.
    pub ecmp_key: EcmpKey,
    /// How long packets are.
    pub format: PacketFormat,
}

/// What the list of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prune {
    /// The copy's own destinations only.
    Truncate,
    /// The whole list; bits of destinations that are not the copy's are cleared (RFC 5058
    /// section 9.2.2).
    Bitmap,
}

/// What a router with equal-cost multipath hashes of a multi-destination packet. Unicast packets
/// are always hashed with their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EcmpKey {
    /// The flow without destinations: those behind the same next hops stay together.
    Flow,
    /// The flow with each destination, as if it were unicast.
    Destination,
}

/// A list is longer than one packet's can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} destinations are more than the {most} of one packet: send several")]
pub struct TooManyDestinations {
    /// How many there are.
    pub count: usize,
    /// How many there can be.
    pub most: usize,
}
