//! Relays: hosts that run the router beside routers that know nothing of Xcast, and serve sources inside UDP.
//!
//! A source asks a relay, and the answer says at which address and port the relay sees it. It brings a cookie, which only
//! somebody can have who receives at that address; without it, a public relay multiplies nothing. Then the source asks once
//! more, by an Xcast packet to the relay itself: that answer proves that the relay forwards. [`choice`] decides whom to ask
//! when, and which relay to use, without I/O; [`message`] is the format.

pub mod choice;
pub mod message;

pub use xcast_common::wire::cookie::Wanted;

pub use self::{
    choice::{Choice, Known, Preference, SourceAddress, Standing, Timing},
    message::{Answer, Nonce, Question},
};
