//! The program's verbs.

mod common;
pub mod d1ht;
pub mod fanouts;
pub mod kademlia;
pub mod replay;
pub mod soak;
