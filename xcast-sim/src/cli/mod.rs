//! The program's verbs.

mod common;
pub mod fanouts;
pub mod kademlia;
pub mod replay;
pub mod soak;
