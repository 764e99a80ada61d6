//! The copies of one packet to many hosts, link by link.
//!
//! A [`Scheme`] says which routers speak Xcast and what their copies look like, a [`Message`] who
//! sends to whom. [`Network::send`] tells of every [`Transmission`], and
//! [`Network::send_unicast`] does so for a packet to each host.
//!
//! What a router does with a list is written out here as rules on lists, not on frames: copies for
//! each next hop, unicast (X2U) where one destination is left. [`Network::forward`] has them, for
//! one place; what goes from place to place uses nothing else. [`frames`](crate::frames) has
//! routers that take frames, by the real forwarding code, and tests that both agree.

mod deployment;
mod format;
mod forward;
mod link;
mod network;
mod packet;
mod scheme;
mod send;

pub use deployment::{Deployment, Islands, Placement};
pub use format::{Family, MTU_OCTETS, PacketFormat};
pub use link::{Link, Transmission};
pub use network::Network;
pub use packet::{Hop, List, Packet, Place};
pub use scheme::{EcmpKey, Message, Prune, Scheme, TooManyDestinations};
