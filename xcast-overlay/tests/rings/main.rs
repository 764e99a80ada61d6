//! Overlays on rings, in whole networks in one process, without sockets and in virtual time.
//!
//! Debug builds run small networks. `XCAST_PEERS=10000 cargo test --release -p xcast-overlay --test
//! rings -- --nocapture` runs large ones.

mod accordion;
mod chord;
mod d1ht;
mod network;
