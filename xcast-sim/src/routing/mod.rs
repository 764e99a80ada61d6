//! Next hops along shortest paths, counted in hops.
//!
//! [`Routing`] works a destination's part out when it is first asked for, and keeps as much as it
//! may. Where several next hops are equally near, [`Ties`] says which is taken.

mod cache;
mod ties;
mod towards;

pub use cache::Routing;
pub use ties::{LinkCosts, Ties};
pub use towards::Towards;
