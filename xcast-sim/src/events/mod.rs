//! Simulated time.
//!
//! [`Queue`] hands events out in order of time, and [`Line`] says when a packet on a link arrives,
//! if it does. Time is an integer, so that it is the same on every machine.

mod line;
mod queue;
mod time;

pub use line::{Fate, Line, LineSettings};
pub use queue::Queue;
pub use time::Time;
