//! KRPC, the messages of the BitTorrent DHT: BEP 5, 32, 42, 43 and 44.
//!
//! * [`Message`]: a datagram, read and written.
//! * [`Item`]: what BEP 44 stores, with its signature.
//! * [`bencode`]: the encoding beneath.
//!
//! Reading never panics. A query that cannot be served is read as far as it takes to answer it with
//! an error.

pub mod bencode;
pub mod compact;
mod error;
mod item;
mod message;
#[cfg(test)]
mod tests;

pub use self::{
    compact::{Contact, Family},
    error::{ErrorCode, QueryError},
    item::{Item, MAX_SALT_OCTETS, MAX_VALUE_OCTETS, Signature, Signed, SigningKey, signing_key},
    message::{
        DecodeError, Kind, MAX_DATAGRAM_OCTETS, MAX_ITEM_DATAGRAM_OCTETS, MAX_TARGETS, Message,
        Query, Response, Want,
    },
};
