//! Searches by random walks in overlays without structure (WO 2007/030742, paragraph 41).
//!
//! Walkers start together, so the first hop is one message to a list. After that each goes its own
//! way: over a whole walk the saving is small, and [`gia::Config::branch`] makes later hops lists, too.
//!
//! | | |
//! |---|---|
//! | [`gia`] | walkers go to whoever can do most; each node knows what its neighbours have |
//! | [`lms`] | walkers go down to local minima, where replicas are |

pub mod gia;
pub mod lms;
