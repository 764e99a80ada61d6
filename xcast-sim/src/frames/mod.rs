//! A network of routers that take frames.
//!
//! At each router that speaks Xcast there is a [`Router`](xcast_common::host::Router): the forwarding
//! code that the XDP programs are compiled from. Hosts' packets are made by
//! [`xcast_host::split`] and [`xcast_host::packet`]. Every octet is there, so this is exact, and for
//! small networks. Large ones are counted by the rules in [`fanout`](crate::fanout), and the tests
//! here say that both count the same on every link: packets and octets, for both families, both ways
//! to prune, any share of routers, and any way into the network.
//!
//! What the rules know and the forwarding code does not, so that it is not compared: tunnels between
//! routers ([`Islands::Tunnels`](crate::fanout::Islands)), and multipath, whose hash is another.

mod kernel;
mod network;
mod table;
#[cfg(test)]
mod tests;

pub use network::{Arrival, FrameError, FrameNetwork, Uplink};
