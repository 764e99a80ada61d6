//! How a sender works.

use std::sync::Arc;

use super::{
    destination::Options,
    liveness::{Probing, Watch},
    uplink::Uplink,
};
use crate::{
    packet,
    policy::{ArrivalOrder, Policy},
};

/// How a sender works. [`Settings::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How Xcast packets reach the first router.
    pub uplink: Uplink,
    /// Options of messages that have none of their own. Default: those of [`Options::default`].
    pub options: Options,
    /// How large packets may be. Default: those of [`PacketLimits::default`].
    pub limits: PacketLimits,
    /// When to ask whether the router is there. With `None` it is trusted to be there until sending
    /// to it fails: messages may be lost. Default: those of [`Probing::default`].
    pub probing: Option<Probing>,
    /// What is known of the router together with other senders. Default: none, so that the sender asks
    /// for itself.
    pub watch: Option<Watch>,
    /// Which destinations share a packet where a list is too long for one. Default:
    /// [`ArrivalOrder`].
    pub policy: Arc<dyn Policy>,
}

impl Settings {
    /// The default settings with this uplink.
    pub fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            options: Options::default(),
            limits: PacketLimits::default(),
            probing: Some(Probing::default()),
            watch: None,
            policy: Arc::new(ArrivalOrder),
        }
    }
}

/// How large a packet may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// Largest packet on the wire from its outermost IP header on, in octets: larger ones would
    /// be fragmented, and routers drop fragments of Xcast packets. Default: 1500.
    pub mtu_octets: usize,
    /// Most destinations in one packet. Default and most: 127 for IPv4; for IPv6 it is 125, and 118
    /// where one has a DSCP of its own.
    pub max_destinations: usize,
}

impl Default for PacketLimits {
    fn default() -> Self {
        Self {
            mtu_octets: 1500,
            max_destinations: packet::max_destinations(false, 0),
        }
    }
}
