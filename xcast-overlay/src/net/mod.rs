//! A protocol on a UDP socket, with the kernel's clock and random numbers (feature `net`).
//!
//! A [`Driver`] owns a [`Protocol`](crate::runtime::Protocol) and its socket. It has no task of its
//! own: it works while somebody awaits [`Driver::next`], which returns what the protocol has to
//! tell.
//!
//! ```no_run
//! use xcast_overlay::{
//!     kademlia::{Config, Node},
//!     net::{self, Driver},
//! };
//!
//! # async fn run() -> Result<(), net::NetError> {
//! let local = "0.0.0.0:6881".parse().expect("an address");
//! let mut config = Config::mainline();
//! config.families = net::families(local);
//! let settings = net::Settings::default();
//! let mut driver = Driver::bind(local, settings, |now, random| Node::new(now, config, random))?;
//! driver.command(|node, now| node.join(now));
//! loop {
//!     println!("{:?}", driver.next().await?);
//! }
//! # }
//! ```
//!
//! # What becomes of a message
//!
//! * A message to a list ([`Mode::Shared`](crate::runtime::Mode)) passes the combining queue of
//!   [`xcast_host::queue`], where messages of other operations may join it, and leaves as one Xcast
//!   packet: by a router on this host, or inside UDP to one on the network (the `uplink` of its settings).
//!   Without a router that works it leaves as unicast.
//! * A message that must be unicast leaves at once, as a datagram for each receiver. Answers are
//!   such: nothing can be gained by letting them wait.
//! * Parts of a message that differ between receivers are segments of the queue. They share a packet
//!   with receivers that open envelopes ([`Driver::opt_in`]), and leave as datagrams to others.
//!
//! Answers come as ordinary datagrams to the same socket.

mod driver;
mod error;
mod fanout;
mod outbox;
mod settings;
mod statistics;

pub use self::{
    driver::{Driver, families},
    error::NetError,
    fanout::{Fanout, Via},
    settings::Settings,
    statistics::Statistics,
};
