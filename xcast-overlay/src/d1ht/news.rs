//! What has happened to peers.

use crate::ring::Contact;

/// What has happened to a peer: an event, in D1HT's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "lowercase")
)]
pub enum Change {
    /// It is there.
    Joined,
    /// It is gone.
    Left,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct News {
    /// To whom it happened.
    pub peer: Contact,
    /// What.
    pub change: Change,
}

/// An event, and how far it is to be told: to levels below `ttl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub news: News,
    pub ttl: u8,
}
