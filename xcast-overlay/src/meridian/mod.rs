//! Meridian: nearness without coordinates (Wong, Slivkins, Sirer, SIGCOMM 2005; WO 2007/030742,
//! paragraph 35).
//!
//! Each [`Node`] keeps a few others in concentric rings by their measured round trips: many near ones,
//! few far ones. What it says to several leaves as one packet to a list:
//!
//! * **Gossip.** A message to one random member of each ring names one random member of each ring.
//!   New nodes are probed, all at once.
//! * **Closest node.** A node that is asked who is closest to a target measures its own distance d,
//!   and asks all ring members between (1 - beta) d and (1 + beta) d, by one packet, to measure
//!   theirs. If the best is at most beta d away, the query goes on there; if not, the best is the
//!   answer. With beta = 1/2 there are at most log2(D/d) hops. This is the largest fan-out here.
//! * **Central leader** and **several constraints** are the same query with another distance
//!   ([`Goal`]); each node that is asked probes all targets by one packet.
//! * **Rings.** Of more than k members of a ring, those are chosen whose latencies to each other span
//!   the largest hypervolume: all are asked about all others, by one packet.
//!   Members that were not measured of late are measured anew before, by one packet as well. Who does not
//!   answer a question is probed at once, and is out of the rings if it is silent again.
//!
//! Messages are datagrams ([`is_for_meridian`]); other versions and other overlays are ignored. Whoever
//! asks to measure a target makes others send one small datagram each to it, within each node's budget of
//! messages to one address ([`Config::pace`]).
//!
//! ```
//! use std::time::{Duration, Instant};
//! use xcast_overlay::{
//!     meridian::{Config, Event, Goal, Node},
//!     runtime::{Protocol as _, Random},
//! };
//!
//! let mut now = Instant::now();
//! let [one, other] = ["192.0.2.1:9", "192.0.2.2:9"].map(|address| address.parse().unwrap());
//! let node = |seed, seeds| Node::new(now, Config::new("near", seeds), Random::from_number(seed));
//! let (mut a, mut b) = (node(1, vec![]), node(2, vec![one]));
//! let query = b.query(now, Goal::closest(one));
//! let found = loop {
//!     while let Some(transmit) = b.poll_transmit() {
//!         now += Duration::from_millis(5);
//!         a.handle(now, other, transmit.datagram(0));
//!     }
//!     while let Some(transmit) = a.poll_transmit() {
//!         now += Duration::from_millis(5);
//!         b.handle(now, one, transmit.datagram(0));
//!     }
//!     if let Some(Event::Found { best, distance, .. }) = b.poll_event() {
//!         break (best, distance);
//!     }
//!     now = b.poll_timeout().unwrap().max(now);
//!     b.handle_timeout(now);
//! };
//! // There is nobody else: b itself is closest.
//! assert_eq!(found, (Some(other), Duration::from_millis(10)));
//! ```

mod config;
mod goal;
mod message;
mod node;
mod query;
mod rings;
mod status;
mod volume;

pub use self::{
    config::Config,
    goal::Goal,
    message::{is_for_meridian, purpose},
    node::Node,
    status::{Counters, Event, QueryId, Status},
};
