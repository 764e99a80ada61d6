//! Questions to the kernel, one at a time: interfaces and what XDP can do on them, routes,
//! neighbours, settings. [`sync`](crate::sync) is what follows the kernel.

mod ethtool;
mod link;
mod managed;
mod netlink;
mod proc;
mod route;
mod xdp;

pub(crate) use self::{
    ethtool::{gro, set_gro},
    link::{Link, link_named, links, remove_link},
    managed::{ORIGIN, release_managed},
    proc::{random, release, set_sysctl, sysctl, transmit_drops, udp_port_in_use},
    route::{Route, neighbour, route},
    xdp::{XdpFeatures, xdp_features},
};
