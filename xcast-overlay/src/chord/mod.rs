//! Chord: the ring that others build on, and are measured against.
//!
//! Stoica, Morris, Karger, Kaashoek, Balakrishnan, *Chord: a scalable peer-to-peer lookup service for
//! Internet applications* (SIGCOMM 2001):
//!
//! * A key belongs to the first peer at or after its [position](crate::ring::Position).
//! * Each peer knows its predecessor and some successors. It asks the successor for its neighbours
//!   every 30 s ("stabilise" and "notify" in one), takes who is between as the next one, and goes on to
//!   the next successor if one is silent.
//! * It knows a finger for each power of two, the first peer at least so far ahead, and looks them up
//!   anew every 60 s.
//! * A look-up is iterative: it asks the closest preceding peer that it knows for a closer one, until
//!   one says that the key is its own or its successor's. One at a time: nothing to share packets for.
//!
//! [`Node`] has the ring and the look-ups; what else a peer knows is its own part. EpiChord's is in
//! [`epichord`](crate::epichord). Nothing is signed: such a ring is for peers that trust each other.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     chord::{Chord, Event},
//!     ring::Position,
//!     runtime::{Protocol, Random},
//! };
//!
//! let now = Instant::now();
//! let address = "198.51.100.1:4000".parse().expect("an address");
//! let mut node = Chord::new(Chord::settings("example", address), Random::from_number(1));
//! node.found_overlay(now);
//! node.lookup(now, Position::of_key(b"a key"));
//! assert_eq!(node.poll_event(), Some(Event::Joined));
//! // Alone, all keys are one's own.
//! let found = node.poll_event();
//! assert!(matches!(found, Some(Event::Found { owner, .. }) if owner == Some(node.contact())));
//! ```

mod event;
mod fingers;
pub(crate) mod goodbyes;
mod lookup;
pub(crate) mod message;
pub(crate) mod neighbours;
mod node;
pub(crate) mod routes;
mod settings;
mod start;

pub use self::{
    event::{Event, LookupId},
    fingers::Fingers,
    node::Node,
    settings::Settings,
    start::Chord,
};
