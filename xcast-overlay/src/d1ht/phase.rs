//! Where a peer is in its life.

use std::{net::SocketAddr, time::Instant};

use crate::ring::Contact;

/// Where a peer is in its life.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// It has not been told to join.
    Alone,
    Joining(Joining),
    Member,
    Leaving {
        /// Whether the successor knows of it.
        is_known: bool,
        /// How often somebody else is told instead of one that does not answer.
        redirects: u32,
    },
    Left,
}

#[derive(Clone, Debug)]
pub(super) struct Joining {
    pub by: Vec<SocketAddr>,
    pub hops: u32,
    /// The successor that has said welcome.
    pub successor: Option<Contact>,
    pub retry: Option<Instant>,
}
