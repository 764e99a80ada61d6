//! What can go wrong with a socket.

use std::{io, net::SocketAddr};

use thiserror::Error;

/// A protocol cannot be driven.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// There is no socket of this address.
    #[error("cannot bind a UDP socket to {local}: name a free port of an address of this host")]
    Bind {
        /// The address.
        local: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The uplink contradicts itself, or needs a right that is missing.
    #[error("cannot use the uplink")]
    Uplink(#[source] io::Error),
    /// The kernel has no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The socket has failed.
    #[error("cannot receive")]
    Receive(#[source] io::Error),
}
