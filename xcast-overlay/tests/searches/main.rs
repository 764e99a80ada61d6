//! Overlays for trees, nearness and searches, whole networks in one process and in virtual time.
//!
//! Debug builds run small networks. `cargo test --release -p xcast-overlay --test searches` runs those
//! that the numbers in the documentation are from.

mod can;
mod flood;
mod freenet;
mod gia;
mod lms;
mod meridian;
mod tapestry;
mod tree;
mod world;
