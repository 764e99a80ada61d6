//! Members of an overlay, and what they tell each other: for any overlay.
//!
//! The operations of WO 2007/030742, paragraphs 20 and 32, each of which is one message to a list: a
//! node joins, or leaves; it passes on what it knows of others; nodes exchange their state and what
//! they have measured; one event goes to several subscribers.
//!
//! # Who may change what
//!
//! A member's identifier is the hash of its Ed25519 key, so nobody can speak for somebody else:
//!
//! * News of a member, that it is there or has left, is a [`Record`] that it has signed itself. It
//!   has a sequence number, so old news cannot be repeated. A forged leave evicts nobody. Whoever has
//!   a record may pass it on.
//! * A new member counts only after it has answered from its address, because a source address is
//!   easily forged.
//! * Subscriptions are signed, and name their publisher; events are signed.
//!
//! # Messages
//!
//! They are bencoded like those of the [DHT](crate::krpc), with the methods `xc_news`, `xc_state`,
//! `xc_subscribe` and `xc_event`, the name of the overlay (`o`) and version 1 (`xc`). A node of the
//! DHT answers that it does not know them. [`Members`] is a
//! [`Protocol`](crate::runtime::Protocol); where it shares a port with another,
//! [`is_for_members`] tells whose a query is, and an answer is offered to both.

mod message;
mod protocol;
mod record;
#[cfg(test)]
mod tests;

pub use self::{
    message::is_for_members,
    protocol::{Event, Members, MembersConfig, Rejected},
    record::{Record, Standing, member_id},
};
