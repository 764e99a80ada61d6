//! Sends one packet to many: the host's side of Xcast (Explicit Multicast, RFC 5058).
//!
//! A [`Sender`] takes a payload and a list of addresses. Where there is an Xcast router it sends
//! one packet with the list in its header, and the routers on the way make as many of it as it
//! takes; where there is none it sends a datagram to each, and [says so](Statistics). Receivers
//! need nothing: what arrives is ordinary UDP, from the sender's own address and port.
//!
//! ```no_run
//! use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
//! use xcast_host::{CodePoints, Outlet, Sender, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The numbers that the network's routers were configured with: there are no defaults.
//! let code_points = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254))?;
//! // A router on the network; Outlet::native(code_points) is one on this host.
//! let router: SocketAddr = "192.0.2.1:4242".parse()?;
//! let outlet = Outlet::udp(code_points, router);
//!
//! let socket = UdpSocket::bind("0.0.0.0:0")?;
//! let mut sender = Sender::new(socket, Settings::new(outlet))?;
//! let to: Vec<SocketAddr> = vec!["198.51.100.7:5000".parse()?, "203.0.113.9:5000".parse()?];
//! let sent = sender.send(&to, b"hello, all")?;
//! println!("{} packets by the router, {} without", sent.xcast_packets, sent.unicast_packets);
//! # Ok(())
//! # }
//! ```
//!
//! # IPv4 and IPv6
//!
//! A list may have addresses of both families: it is split, because a packet has addresses of one.
//! A socket that is bound to `[::]` serves both, one that is bound to `0.0.0.0` IPv4. For IPv6 the
//! outlet needs [`CodePoints::with_ipv6`] and, in UDP, a router's IPv6 address
//! ([`Router`]).
//!
//! # What is here
//!
//! | | |
//! |---|---|
//! | [`Sender`], [`tokio::Sender`] | messages to lists: split, sent, or served by unicast |
//! | [`Outlet`] | the way to the router, and how it is known to be there |
//! | [`policy`] | which destinations share a packet, and whom to choose where there is a choice |
//! | [`Queue`], [`tokio::CombiningSender`] | combines messages whose content overlaps |
//! | [`Receiver`], [`tokio::Receiver`] | ordinary datagrams and combined messages alike |
//! | [`envelope`] | the wire form of combined messages |
//! | [`packet`], [`raw`] | the packets themselves, for tools |
//!
//! Decisions are in modules without I/O or clock ([`queue`], [`liveness`], [`policy`],
//! [`envelope`], [`packet`]), and blocking and asynchronous front ends are thin shells around the
//! same code. They log decisions with `tracing`, at the levels debug and trace.
//!
//! # Limits
//!
//! Linux only.
//!
//! # Features
//!
//! * `tokio` (default): the module [`tokio`].
//! * `serde`: statistics implement `Serialize`.

mod code_points;
mod destination;
mod engine;
pub mod envelope;
pub mod liveness;
mod outlet;
pub mod packet;
mod plan;
pub mod policy;
pub mod queue;
pub mod raw;
mod receiver;
mod sender;
mod side;
mod statistics;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(test)]
mod what_policies_bring;

pub use code_points::{CodePointError, CodePoints, Ipv6CodePoints};
pub use destination::{Destination, Options, Unusable};
pub use engine::{SendError, Sent, Settings, Unreached};
pub use liveness::Probing;
pub use outlet::{Outlet, Router};
pub use plan::Limits;
pub use queue::{Message, Queue};
pub use receiver::{Received, Receiver, ReceiverStatistics};
pub use sender::Sender;
pub use statistics::{Cause, Statistics};
