//! In the manner of Freenet: requests go to the neighbour that is closest to the key, and back where
//! there is no way on; what is found is kept by all on the way (Clarke, Sandberg, Wiley, Hong, *Freenet:
//! a distributed anonymous information storage and retrieval system*, 2000).
//!
//! A node knows others by their identifiers, and by keys whose values came from them, so that it comes to
//! know who has what is close. What is not here: anonymity, encryption, and keys that are hashes or
//! signed.
//!
//! What leaves as one packet to a list: requests and inserts, which start by several ways
//! ([`Config::parallel`]), and announcements.
//!
//! ```
//! use std::time::Duration;
//! use xcast_overlay::{
//!     krpc::Family,
//!     memory::{World, address},
//!     others::freenet::{Config, Event, Node},
//! };
//!
//! let at = |number| address(number, Family::Ipv4);
//! let mut world = World::new(1);
//! for number in 0..3 {
//!     let config = Config::new("example", at(number), vec![at((number + 1) % 3)]);
//!     world.add(at(number), |now, random| Node::new(now, config, random));
//! }
//! world.run_for(Duration::from_secs(1));
//! world.act(0, |node, _| node.insert(7, "value"));
//! world.run_for(Duration::from_secs(1));
//! world.act(1, |node, now| node.request(now, 7));
//! world.run_for(Duration::from_secs(1));
//! assert!(matches!(&world.events[0].2, Event::Found { value, .. } if value == "value"));
//! ```

mod message;
mod node;

pub use self::{
    message::is_for_freenet,
    node::{Config, Counters, Event, Node, RequestId},
};
