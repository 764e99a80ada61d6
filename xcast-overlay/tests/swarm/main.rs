//! Whole networks of nodes in one process, without sockets and in virtual time.
//!
//! Look-ups are as many in every build as in the documentation. Of what takes longer, debug builds run small networks;
//! `cargo test --release -p xcast-overlay --test swarm` runs those that the numbers are from.

mod faults;
mod lookups;
mod network;
mod places;
mod protocol;
mod services;
