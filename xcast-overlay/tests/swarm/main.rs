//! Whole networks of nodes in one process, without sockets and in virtual time.
//!
//! Debug builds run small networks. `cargo test --release -p xcast-overlay --test swarm` runs those
//! that the numbers in the documentation are from.

mod faults;
mod lookups;
mod network;
mod places;
mod protocol;
mod services;
