//! Questions to the kernel, one at a time: interfaces and what XDP can do on them, routes,
//! neighbours, settings. [`sync`](crate::sync) is what follows the kernel.

mod ethtool;
mod limits;
mod link;
pub(crate) mod local_port;
mod managed;
mod netfilter;
mod netlink;
mod packet_socket;
mod proc;
mod route;
mod rule;
mod xdp;

pub(crate) use self::{
    ethtool::{gro, leaves_vlan_tags_out, set_gro, statistics, takes_vlan_tags_off},
    limits::{may_mount, missing_capabilities, raise_open_files},
    link::{Link, ipv4_addresses, link, link_named, links, remove_link},
    managed::{ADDRESS_ORIGIN, ORIGIN, kept_neighbour, release_managed},
    netfilter::{Chain, Hook, Netfilter, netfilter},
    packet_socket::{Instruction, PacketSocket},
    proc::{random, release, set_sysctl, sysctl, transmit_drops, udp_port_in_use},
    route::{Neighbour, neighbour, route},
    rule::{Rule, rules},
    xdp::{XdpFeatures, program_name, xdp_features},
};
