//! Sends one packet to many destinations: the host's side of Xcast (Explicit Multicast, RFC 5058).
//!
//! A [`Sender`] takes a payload and a list of addresses. Where there is an Xcast router, it sends
//! one packet that carries the list in its header; the routers on the way make copies only where
//! paths part. Where there is none, it sends a datagram to each destination, and
//! [counts them](SenderStatistics). Receivers need nothing: what arrives is ordinary UDP, from the
//! sender's own address and port.
//!
//! # A first example
//!
//! ```no_run
//! use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
//! use std::time::Duration;
//! use xcast_host::{CodePoints, Sender, Settings, Uplink};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The numbers that the network's routers are configured with. There are no defaults.
//! let code_points = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254))?;
//! // A router on the network. For one on this host, use Uplink::native(code_points).
//! let router: SocketAddr = "192.0.2.1:4242".parse()?;
//! let uplink = Uplink::udp(code_points, router);
//!
//! let socket = UdpSocket::bind("0.0.0.0:0")?;
//! let mut sender = Sender::new(socket, Settings::new(uplink))?;
//! // Optional: a sender uses unicast until the router has answered.
//! sender.wait_for_router(Duration::from_millis(200))?;
//!
//! let to: Vec<SocketAddr> = vec!["198.51.100.7:5000".parse()?, "203.0.113.9:5000".parse()?];
//! let sent = sender.send(&to, b"hello, all")?;
//! println!("{} Xcast packets, {} datagrams", sent.xcast_packets, sent.unicast_packets);
//! # Ok(())
//! # }
//! ```
//!
//! # What is here, in reading order
//!
//! 1. **Sending.** [`Sender`], or [`tokio::Sender`], with its [`Settings`]: the [`Uplink`] to the
//!    first router or to one of several [`relay`]s, [`Options`] of messages, [`PacketLimits`], and when to ask whether the router
//!    is there ([`liveness`]). A list is made of [`Destination`]s, or of plain socket addresses.
//! 2. **Receiving.** Any UDP socket will do. A [`Receiver`], or [`tokio::Receiver`], also opens
//!    combined messages.
//! 3. **Choosing.** A [`policy`] says which destinations share a packet where a list is too long
//!    for one, and which of several candidates to choose.
//! 4. **Combining.** A [`Queue`], or [`tokio::CombiningSender`], makes one packet of messages whose
//!    content overlaps. Module [`queue`] has the rules, [`envelope`] the wire format.
//! 5. **Underneath.** [`split`](mod@split) decides what packets a list becomes, [`packet`] builds
//!    them, and a [`RawSocket`] sends them: for simulators, overlays and tools.
//!
//! Modules that decide ([`liveness`], [`split`](mod@split), [`policy`], [`queue`], [`envelope`],
//! [`packet`]) have neither I/O nor a clock. Blocking and asynchronous types are thin shells around
//! the same code. They log with `tracing`, at levels debug and trace, and a warning when a router
//! is lost.
//!
//! # IPv4 and IPv6
//!
//! A packet has addresses of one family, so a list with both is split. A socket that is bound to
//! `[::]` serves both families, one that is bound to `0.0.0.0` serves IPv4. For IPv6 the uplink
//! needs [`CodePoints::with_ipv6`] and, in UDP, the router's IPv6 address ([`RouterAddresses`]).
//!
//! # Requirements
//!
//! Linux 3.13 or newer, which can set TTL and DSCP for a single datagram; a router needs a newer one.
//! [`Uplink::Udp`] and [`Uplink::Relays`] need no privileges, [`Uplink::Native`] and [`RawSocket`] need `CAP_NET_RAW`.
//!
//! # Features
//!
//! * `tokio` (default): the module [`tokio`].
//! * `serde`: statistics implement `Serialize`.

mod code_points;
pub mod envelope;
pub mod packet;
pub mod policy;
pub mod queue;
mod raw_socket;
mod receiver;
pub mod relay;
mod sender;
mod statistics;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(test)]
mod what_policies_bring;

pub use code_points::{CodePointError, CodePoints, Ipv6CodePoints};
pub use queue::{Message, Queue};
pub use raw_socket::RawSocket;
pub use receiver::{Received, Receiver, ReceiverStatistics};
pub use sender::{
    Destination, Options, PacketLimits, RelayStatus, Relays, Reply, RouterAddresses, SendError,
    Sender, SenderStatistics, Sent, Settings, UnicastCause, Unreached, Unusable, Uplink,
    liveness::{self, Probing, Watch},
    split,
};
