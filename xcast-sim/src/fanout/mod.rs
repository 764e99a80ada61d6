//! The copies of one packet to many hosts, link by link.
//!
//! A [`Scheme`] says which routers speak Xcast and what their copies look like, a [`Message`] who
//! sends to whom. [`Network::send`] tells of every [`Transmission`], and
//! [`Network::send_unicast`] does so for a packet to each host.
//!
//! What a router does with a list is written out here as rules on lists, not on frames: copies for
//! each next hop, unicast (X2U) where one destination is left.

mod deployment;
mod format;
mod network;
mod scheme;

pub use deployment::{Deployment, Islands, Placement};
pub use format::{Family, PacketFormat};
pub use network::Network;
pub use scheme::{EcmpKey, Link, Message, Prune, Scheme, TooManyDestinations, Transmission};
