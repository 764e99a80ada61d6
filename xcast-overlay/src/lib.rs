//! Overlay protocols whose parallel messages leave as one packet (WO 2007/030742).
pub mod id;
pub mod kademlia;
pub mod krpc;
pub mod runtime;
