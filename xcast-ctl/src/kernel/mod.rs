//! Questions to the kernel, one at a time: interfaces and what XDP can do on them, routes,
//! neighbours, settings. [`sync`](crate::sync) is what follows the kernel.

mod addressed_socket;
mod ethtool;
mod features;
mod filter;
mod ipsec;
mod limits;
mod link;
pub(crate) mod local_port;
mod managed;
mod memory;
mod netfilter;
mod netlink;
mod packet_socket;
mod peer;
mod proc;
mod route;
mod rule;
mod xdp;

pub(crate) use self::{
    addressed_socket::AddressedSocket,
    ethtool::{gro, leaves_vlan_tags_out, set_gro, statistics, takes_vlan_tags_off},
    features::merging_offloads,
    filter::{
        FilterPlace, TrafficControl, ingress_filters, ingress_filters_before, traffic_control,
    },
    ipsec::ipsec_destinations,
    limits::{may_mount, missing_capabilities, raise_open_files},
    link::{
        Barred, Link, XdpPlace, ipv4_addresses, link, link_named, links, remove_link, take_xdp_off,
    },
    managed::{ADDRESS_ORIGIN, ORIGIN, is_managed, is_of_others, kept_neighbour, release_managed},
    memory::{MemoryLimit, ROUTER_NEEDS_BYTES, mebibytes, memory_limit},
    netfilter::{Chain, Hook, Netfilter, netfilter},
    packet_socket::{Instruction, PacketSocket},
    peer::peer_is_in_group,
    proc::{ancestors, random, release, set_sysctl, sysctl, transmit_drops, udp_port_in_use},
    route::{Neighbour, neighbour, route},
    rule::{Rule, rules},
    xdp::{XdpFeatures, program_name, xdp_features},
};
