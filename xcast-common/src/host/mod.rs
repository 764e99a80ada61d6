//! A router without a kernel: for tests, for `explain`, and for simulations.
//!
//! A [`Router`] takes a frame and returns the frames that leave, each with its port. Its [tables](MemoryTables) are
//! in memory, and what it does depends only on them, its settings and the frames.

mod buffer;
mod router;
mod tables;

pub use self::{
    buffer::Buffer,
    router::{Fanouts, Outcome, Router},
    tables::MemoryTables,
};
