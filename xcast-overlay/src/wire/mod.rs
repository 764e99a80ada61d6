//! Compact binary messages, for overlays that speak to their own kind only.
//!
//! [`Writer`] and [`Reader`] are for all of them. A reader never panics and never reads beyond the datagram;
//! a message with octets left over is none. Messages begin in one of two ways.
//!
//! # With a header
//!
//! Where requests are answered ([`Header`]), with 16 octets, all numbers in network byte order:
//!
//! | octets | |
//! |---|---|
//! | 2 | `f5 58`: no bencoding, no STUN, no DTLS |
//! | 1 | the protocol: [`Protocol`] |
//! | 1 | version (upper four bits), kind of message (lower four bits) |
//! | 4 | the overlay: the beginning of its name's SHA-1 hash |
//! | 8 | transaction identifier, repeated by the answer |
//!
//! What follows is the protocol's. Whoever reads a message takes it through [`Header::read`], which
//! gives nothing for another protocol, version or overlay: overlays may share a port, and strangers
//! do not disturb.
//!
//! # With a magic number
//!
//! Where nodes say things to each other that need no answer ([`Magic`]): four octets that no other protocol
//! begins with, a version, a kind, and eight octets that stand for the overlay ([`tag`]).

mod header;
mod magic;
mod octets;

pub use self::{
    header::{Header, Overlay, Protocol, TRANSACTION_OCTETS},
    magic::{Magic, tag},
    octets::{Reader, Writer},
};
