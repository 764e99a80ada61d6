//! Tools for hosts: they make Xcast packets of their own, and receive what arrives.
//!
//! A tool knows of a router only what [`control`](crate::control) tells. [`first_hop`] finds where
//! packets leave this host, [`probe`] makes the packets that [`ping`] and [`trace`] send, [`icmp`]
//! reads the answers, and [`receiver`] waits for them. [`exec`] has other programs
//! send Xcast packets, and [`backbone`] asks relays. An [`interrupt`] ends a tool, but not before it has
//! said what it did.

pub(crate) mod backbone;
pub(crate) mod dht;
pub(crate) mod exec;
mod first_hop;
mod icmp;
mod interrupt;
pub(crate) mod ping;
mod probe;
mod receiver;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod trace;
pub(crate) mod tree;
