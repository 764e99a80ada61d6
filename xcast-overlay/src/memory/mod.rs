//! Networks in memory, for tests and for simulations without routers.
//!
//! A [`World`] drives any [`Protocol`](crate::runtime::Protocol): a virtual clock, latency, loss,
//! disorder, and a count of what was sent. The same seed gives the same run. What links between
//! routers carry is `xcast-sim`'s to say.
//!
//! ```
//! use std::time::Duration;
//! use xcast_overlay::{
//!     krpc::Family,
//!     memory::{World, address},
//!     others::flood::{Config, Event, Node},
//! };
//!
//! let mut world = World::new(1);
//! for at in 0..2 {
//!     let config = Config::new("files", address(at, Family::Ipv4), vec![address(1 - at, Family::Ipv4)]);
//!     world.add(address(at, Family::Ipv4), |now, random| Node::new(now, config, random));
//! }
//! world.act(0, |node, _| node.share([7]));
//! world.act(1, |node, now| node.search(now, 7));
//! world.run_for(Duration::from_secs(1));
//! assert!(matches!(world.events[0], (_, 1, Event::Found { .. })));
//! ```

mod faults;
mod world;

pub use self::{
    faults::{Faults, ROUGH, Sent},
    world::{Blocked, Latency, Watch, World, address, star},
};
