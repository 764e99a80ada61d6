//! What lets the controller read and write the map types as bytes.

use super::{
    address::{PeerSource, PortSource},
    cookie::CookieKey,
    counter::PortCounters,
    fanout::{FanoutEntry, FanoutKey},
    next_hop::{EcmpGroup, NextHop},
    port::{Port, PortMac},
    settings::Settings,
    tunnel::{Tunnel, TunnelCookies, TunnelPeer},
};
use crate::wire::endian::{Be16, Be32, Be128};

macro_rules! pod {
    ($($ty:ty),+) => {
        $(
            // SAFETY: `repr(C)` or `repr(transparent)` integers and arrays of them, without
            // implicit padding (sizes asserted beside the types): every bit pattern is a value.
            unsafe impl aya::Pod for $ty {}
        )+
    };
}

pod!(
    Be16,
    Be32,
    Be128,
    CookieKey,
    EcmpGroup,
    NextHop,
    PeerSource<Be32>,
    PeerSource<Be128>,
    PortSource<Be32>,
    PortSource<Be128>,
    Port,
    PortCounters,
    PortMac,
    Settings,
    Tunnel,
    TunnelCookies,
    TunnelPeer,
    FanoutEntry,
    FanoutKey
);
