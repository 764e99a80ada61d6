//! In the manner of Tapestry: routing by digits, things at several roots (Zhao, Huang, Stribling, Rhea,
//! Joseph, Kubiatowicz, *Tapestry: a resilient global-scale overlay for service deployment*, 2004).
//!
//! A node's identifier is a hash of its address. Requests come to nodes that share one digit more with a
//! key each time; where nobody has its next digit, the next larger one takes its place. So each key has
//! one root. Nodes on the way to it remember who has a thing.
//!
//! What leaves as one packet to a list: news of a newcomer, to one node for each digit at each level,
//! which pass it on in the same way; what is published or looked for at several roots
//! ([`Config::roots`]), where each receiver finds its own way by a tag; and questions whether nodes are
//! there, and whom they know.
//!
//! What is not here: choosing nearby nodes for tables, and backpointers.
//!
//! ```
//! use std::time::Duration;
//! use xcast_overlay::{
//!     krpc::Family,
//!     memory::{World, address},
//!     others::tapestry::{Config, Event, Node},
//!     ring::Position,
//! };
//!
//! let at = |number| address(number, Family::Ipv4);
//! let mut world = World::new(1);
//! for number in 0..3 {
//!     let seeds = if number == 0 { vec![] } else { vec![at(0)] };
//!     let config = Config::new("example", at(number), seeds);
//!     world.add(at(number), |now, random| Node::new(now, config, random));
//!     world.run_for(Duration::from_secs(1));
//! }
//! let key = Position::of_key(b"a thing");
//! world.act(0, |node, now| node.publish(now, key));
//! world.run_for(Duration::from_secs(1));
//! world.events.clear();
//! world.act(1, |node, now| node.locate(now, key));
//! world.run_for(Duration::from_secs(1));
//! assert!(matches!(&world.events[0].2, Event::Located { holders, .. } if holders == &[at(0)]));
//! ```

mod message;
mod node;
mod table;

pub use self::{
    node::{Config, Counters, Event, Node, RequestId},
    table::root_of,
};
