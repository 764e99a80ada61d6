//! The types that cross the border between the BPF programs and user space.
//!
//! Every type here is `repr(C)` with explicit padding. Addresses and ports inside packets are kept
//! in network byte order, as [`Be32`](crate::wire::Be32) and [`Be16`](crate::wire::Be16). [`counter`] has the names
//! of everything that is counted, and [`lpm`] the form of the route map.

pub(crate) mod address;
pub mod counter;
pub(crate) mod fanout;
pub(crate) mod limit;
pub mod lpm;
pub(crate) mod next_hop;
#[cfg(feature = "pod")]
mod pod;
pub(crate) mod port;
pub(crate) mod settings;
pub(crate) mod tunnel;

pub use self::{
    address::{
        ADDRESS_ANYCAST, ADDRESS_OWN, MAX_OWN_ADDRESSES, MAX_POLICY_SOURCES, MAX_PORT_SOURCES,
        MAX_UDP_SOURCES, PeerSource, PortSource,
    },
    counter::{PortCounters, Tally},
    fanout::{
        FanoutEntry, FanoutKey, GROUP_PRESETS, MAX_FANOUTS, MAX_REPEATS, PRESET_FANOUTS,
        PresetFanout, SLOT_GROUPS,
    },
    limit::{Bucket, LIMIT_BUCKETS},
    next_hop::{
        ECMP_BUCKETS, EGRESS_ANY, EGRESS_NONE, EGRESS_OTHER, EcmpGroup, InTunnel, MAX_ECMP_GROUPS,
        MAX_NEXT_HOPS, NEXT_HOP_ENTRIES, NEXT_HOP_NEVER, NEXT_HOP_NEVER_DESTINATION,
        NEXT_HOP_NO_ROUTE, NEXT_HOP_ON_LINK, NEXT_HOP_STACK_MTU, NEXT_HOP_STACK_ORPHAN,
        NEXT_HOP_STACK_POLICY, NEXT_HOP_STACK_ROOM, NEXT_HOP_TUNNEL, NEXT_HOP_TUNNEL_ONLY,
        NEXT_HOP_XCAST, NextHop, NextHopKind, port_bit,
    },
    port::{
        MAX_PORT_MACS, MAX_PORTS, MAX_REAL_PORTS, PORT_ASK_SOURCE, PORT_ASK_SOURCE6, PORT_FIRST,
        PORT_GROUP_MAC, PORT_MORE_MACS, PORT_PLACES, PORT_RECIRCULATE, PORT_STACK,
        PORT_TABLE_ENTRIES, PORT_TO_STACK, PORT_TO_STACK6, PORT_TRUSTED, Port, PortMac, SourceMode,
        port_place, source_mode_of,
    },
    settings::{ARRIVAL_PROGRAMS, ARRIVAL_TUNNEL, GENERATIONS, IcmpRequests, Prune, Settings},
    tunnel::{COOKIE_LEN, MAX_TUNNEL_PEERS, MAX_TUNNELS, Tunnel, TunnelCookies, TunnelPeer},
};
