//! EpiChord: a ring whose peers remember whom they heard of, and ask several at once. A round of a
//! look-up is one packet (WO 2007/030742, paragraphs 36 and 37).
//!
//! Leong, Liskov, Demaine, *EpiChord: parallelizing the Chord lookup algorithm with reactive routing
//! state management* (MIT-LCS-TR-963, 2004):
//!
//! * The ring is [Chord's](crate::chord), with 4 successors.
//! * A peer remembers everybody that it heard of, for 120 s since: who asks it, who answers, and whom
//!   answers name. An answer names 3 peers, with the time since they were last heard of.
//! * A look-up asks p peers at once: the first one at or after the key and those before it. As soon as
//!   an answer names somebody closer, the next round begins.
//! * The ring ahead and behind is divided into slices, each half as wide as the next farther one. Each
//!   has to have 2 live peers; every 20 s those that have fewer are looked up. So what is known is
//!   dense nearby, and log n hops are the worst case.
//!
//! The paper sends a further question for each answer. Here questions wait for the next round, so
//! that they share a packet.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     epichord::{CacheConfig, EpiChord},
//!     ring::Position,
//!     runtime::{Protocol, Random},
//! };
//!
//! let now = Instant::now();
//! let address = "198.51.100.1:4000".parse().expect("an address");
//! let settings = EpiChord::settings("example", address);
//! let cache = CacheConfig { parallel: 5, ..CacheConfig::default() };
//! let mut node = EpiChord::new(settings, cache, Random::from_number(1));
//! let by = ["198.51.100.2:4000", "198.51.100.3:4000"].map(|by| by.parse().expect("an address"));
//! node.join(now, &by);
//! // One message, to both.
//! let first = node.poll_transmit().expect("a question");
//! assert_eq!(first.to.len(), 2);
//! ```

mod cache;
mod peer;

pub use self::{
    cache::{Cache, CacheConfig, Slice},
    peer::EpiChord,
};
