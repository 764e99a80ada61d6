//! A message that left a sender.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A message that left a sender: a line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fanout {
    /// When, in microseconds since 1970.
    pub unix_us: u64,
    /// The sender's address.
    pub source: SocketAddr,
    /// To whom, in the order of the list, all of one family.
    pub to: Vec<SocketAddr>,
    /// Length of the payload, in octets.
    pub payload_octets: usize,
    /// How it was to leave.
    pub via: Via,
}

/// How a message was to leave: if it is for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// As a datagram to each.
    Unicast,
    /// As an Xcast packet.
    Native,
    /// As an Xcast packet inside UDP, to this address of a router.
    Udp(SocketAddr),
}
