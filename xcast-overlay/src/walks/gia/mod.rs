//! Gia (Chawathe, Ratnasamy, Breslau, Lanham, Shenker, SIGCOMM 2003).
//!
//! * **Capacity.** Nodes differ in how many queries they can work on. A walker goes to the neighbour
//!   with the largest capacity, and for one query to each neighbour once before it goes to one again.
//! * **One-hop replication.** Neighbours tell each other what they have, so that a node answers for
//!   all its neighbours.
//! * **Flow control.** A query is sent only with a token that the neighbour has given. A node gives out
//!   as many as it can work on, in proportion to its neighbours' capacity; what one does not use is
//!   for the others. Tokens are numbered, so
//!   that none counts twice; a query without a good one is dropped. Whoever has none waits.
//! * **Topology.** A node looks for more neighbours as long as they could not use all that it can do,
//!   the more often the less content it is; a node that is full gives up its neighbour of highest degree
//!   for one of more capacity.
//!
//! What leaves as one packet to a list: the walkers of a query ([`Config::walkers`]) and, if wanted, of
//! later hops ([`Config::branch`]); the beat, in which each neighbour finds its own tokens by a tag;
//! and keys for the neighbours' indices.
//!
//! Each part can be left out ([`Parts`]), to see what it brings.
//!
//! ```
//! use std::{collections::BTreeSet, time::{Duration, Instant}};
//! use xcast_overlay::{
//!     runtime::{Protocol as _, Random},
//!     walks::gia::{Config, Event, Node},
//! };
//!
//! let mut now = Instant::now();
//! let [one, other] = ["192.0.2.1:9", "192.0.2.2:9"].map(|address| address.parse().unwrap());
//! let mut a = Node::new(now, Config::new("files", one, vec![], 100), Random::from_number(1));
//! let mut b = Node::new(now, Config::new("files", other, vec![one], 10), Random::from_number(2));
//! a.share(now, [7]);
//! let mut found = BTreeSet::new();
//! for step in 0..300 {
//!     if step == 200 {
//!         b.search(now, 7);
//!     }
//!     a.handle_timeout(now);
//!     b.handle_timeout(now);
//!     while let Some(transmit) = a.poll_transmit() {
//!         b.handle(now, one, transmit.datagram(0));
//!     }
//!     while let Some(transmit) = b.poll_transmit() {
//!         a.handle(now, other, transmit.datagram(0));
//!     }
//!     if let Some(Event::Found { holders, .. }) = b.poll_event() {
//!         found.extend(holders);
//!     }
//!     now += Duration::from_millis(20);
//! }
//! assert_eq!(found, [one].into());
//! ```

mod config;
mod heard;
mod message;
mod neighbours;
mod node;
mod status;
mod tokens;

pub use self::{
    config::{Config, Parts},
    message::{is_for_gia, purpose},
    node::Node,
    status::{Counters, Event, SearchId, Status},
};
