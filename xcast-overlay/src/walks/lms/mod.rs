//! LMS, local minima search (Morselli, Bhattacharjee, Srinivasan, Marsh, PODC 2005).
//!
//! Each node has a random identifier, and knows those within `h` hops (its *neighbourhood*, of size
//! d_h). A walker goes some steps at random, and then down: to whoever in the neighbourhood is
//! closest to the key, until nobody is closer. Such a *local minimum* is one of about n / d_h. If each
//! were as likely as the other, s walkers would find one of r replicas with probability
//! 1 - exp(-r s d_h / n). Some have larger basins than others, so more is found: the formula is a lower bound,
//! even without what walkers meet on their way ([`Config::look_on_the_way`]).
//!
//! All walkers of an operation start as one packet to as many neighbours; if there are more walkers
//! than neighbours, as a few packets. What nodes tell their neighbours of each other is one packet, too.
//!
//! Which nodes are neighbours is given ([`Config::neighbours`]): the topology is the overlay's.
//! Walkers carry the origin's address, and the last node answers there.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     runtime::{Protocol as _, Random},
//!     walks::lms::{Config, Event, Node},
//! };
//!
//! let mut now = Instant::now();
//! let [one, other] = ["192.0.2.1:9", "192.0.2.2:9"].map(|address| address.parse().unwrap());
//! let mut a = Node::new(now, Config::new("files", one, vec![other]), Random::from_number(1));
//! let mut b = Node::new(now, Config::new("files", other, vec![one]), Random::from_number(2));
//! let mut found = None;
//! for step in 0..200 {
//!     match step {
//!         20 => drop(a.store(now, 7, "hello", 1)),
//!         100 => drop(b.find(now, 7, 2)),
//!         _ => {}
//!     }
//!     for node in [&mut a, &mut b] {
//!         node.handle_timeout(now);
//!     }
//!     while let Some(transmit) = a.poll_transmit() {
//!         b.handle(now, one, transmit.datagram(0));
//!     }
//!     while let Some(transmit) = b.poll_transmit() {
//!         a.handle(now, other, transmit.datagram(0));
//!     }
//!     if let Some(Event::Found { value, .. }) = b.poll_event() {
//!         found = Some(value);
//!     }
//!     now += std::time::Duration::from_millis(100);
//! }
//! assert_eq!(found.unwrap(), "hello");
//! ```

mod message;
mod node;

pub use self::{
    message::{is_for_lms, purpose},
    node::{Config, Counters, Event, Node, OperationId},
};
