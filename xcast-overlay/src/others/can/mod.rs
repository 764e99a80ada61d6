//! CAN: a square whose opposite edges are one, each node with a zone of it (Ratnasamy, Francis, Handley,
//! Karp, Shenker, *A scalable content-addressable network*, SIGCOMM 2001).
//!
//! A key is a point. Requests go from zone to zone, always to the neighbour whose zone is nearest. Who
//! joins chooses a point, and gets half of the zone there. The zones of a neighbour that is silent go to
//! the smallest of its other neighbours.
//!
//! What leaves as one packet to a list: the beat, which tells all neighbours of a node's zones and
//! neighbours; changes of zones; look-ups that start by several ways ([`Config::parallel`]); and what is
//! told to everybody ([`Node::tell_all`]).
//!
//! In the manner of the paper, with two dimensions, and without its later parts (realities, measured
//! round trips, uniform partitioning).
//!
//! ```
//! use std::time::Duration;
//! use xcast_overlay::{
//!     krpc::Family,
//!     memory::{World, address},
//!     others::can::{Config, Event, Node},
//!     ring::Position,
//! };
//!
//! let at = |number| address(number, Family::Ipv4);
//! let mut world = World::new(1);
//! for number in 0..2 {
//!     let seeds = if number == 0 { vec![] } else { vec![at(0)] };
//!     let config = Config::new("example", at(number), seeds);
//!     world.add(at(number), |now, random| Node::new(now, config, random));
//! }
//! world.run_for(Duration::from_secs(1));
//! world.events.clear();
//! world.act(1, |node, now| node.lookup(now, Position::of_key(b"a key")));
//! world.run_for(Duration::from_secs(1));
//! assert!(matches!(world.events[0].2, Event::Found { owner: Some(_), .. }));
//! ```

mod message;
mod node;
mod zone;

pub use self::{
    message::is_for_can,
    node::{Config, Counters, Event, LookupId, Node},
    zone::{Point, Zone},
};
