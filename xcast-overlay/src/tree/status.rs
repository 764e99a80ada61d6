//! What a member tells of itself.

use std::{fmt, net::SocketAddr, time::Duration};

/// Why a member has lost its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Cause {
    /// The parent has said goodbye.
    ParentLeft,
    /// The parent has been silent.
    ParentSilent,
    /// The parent does not know this child.
    Dropped,
    /// No pulse of the source has come for long.
    NoPulse,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ParentLeft => "it has left",
            Self::ParentSilent => "it has been silent",
            Self::Dropped => "it does not know this child",
            Self::NoPulse => "no pulse of the source has come by it",
        })
    }
}

/// What happened at a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has a parent.
    Joined {
        /// The parent.
        parent: SocketAddr,
        /// How many levels it is below the source.
        depth: u8,
    },
    /// It has no parent, and looks for one.
    Orphaned(Cause),
    /// A message of the stream: in order, each once.
    Message {
        /// Its number.
        seq: u64,
        /// What the source sent.
        payload: bytes::Bytes,
    },
    /// Messages that nobody has who could be asked, or that came too late.
    Lost {
        /// The first.
        from: u64,
        /// The first that is not lost.
        to: u64,
    },
    /// Nobody answers, or has room: it tries again later.
    NoParent {
        /// How long it waits.
        retry: Duration,
    },
}

/// What a member has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Messages of the stream that came, each once.
    pub received: u64,
    /// Of these, those that had been asked for.
    pub repaired: u64,
    /// Messages that came again.
    pub duplicates: u64,
    /// Messages that the source has not signed.
    pub forged: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages that are lost.
    pub lost: u64,
    /// Packets of the stream, each to a list of children.
    pub stream_packets: u64,
    /// The children in these lists.
    pub stream_receivers: u64,
    /// Packets with repairs for others.
    pub repair_packets: u64,
    /// The receivers of these.
    pub repair_receivers: u64,
    /// Other packets: pulses, reports, searches.
    pub control_packets: u64,
    /// The receivers of these.
    pub control_receivers: u64,
    /// How often it had to look for a parent.
    pub orphaned: u64,
    /// Children that were forgotten because they had been silent.
    pub silent_children: u64,
    /// Datagrams that mean nothing here.
    pub malformed: u64,
}

/// A member's place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Status {
    /// Whether pulses of the source come, or it is the source.
    pub connected: bool,
    /// Levels below the source.
    pub depth: u8,
    /// Who sends it the stream.
    pub parent: Option<SocketAddr>,
    /// Whom it sends the stream to.
    pub children: Vec<SocketAddr>,
    /// Children that are behind, and get only what they ask for.
    pub paused_children: usize,
    /// How many more children of IPv4 it could have.
    pub room: usize,
    /// The next message to deliver.
    pub next: u64,
    /// One more than the highest message known of.
    pub head: u64,
    /// Messages that are missing.
    pub missing: usize,
    /// Messages kept for others.
    pub kept: usize,
    /// Their octets.
    pub kept_octets: usize,
    /// It is behind itself, and has asked its parent for a pause.
    pub paused: bool,
    /// What it has done.
    pub counters: Counters,
}
