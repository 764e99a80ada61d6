//! The program's verbs.

mod common;
pub mod converge;
pub mod d1ht;
pub mod edra;
pub mod fanouts;
pub mod gia;
pub mod kademlia;
pub mod lengths;
pub mod lists;
pub mod loss;
pub mod near;
pub mod operations;
pub mod replay;
pub mod rings;
pub mod soak;
mod table;
pub mod tree;
