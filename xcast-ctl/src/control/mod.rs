//! How the verbs talk to a running router: a JSON line each way, again and again, over an abstract Unix socket.
//!
//! Abstract sockets belong to a network namespace, as the router does: `ip netns exec R1 xcast-ctl
//! stats` finds R1's router without any path, and a killed router leaves nothing behind. Several
//! routers in one namespace differ by the name of their interface.
//!
//! A verb calls [`ask`], or goes through a long table page by page on one [`Connection`]. The router's
//! [`Server`] turns each request into a [`Call`] for the event loop, which alone knows the answer.
//! Clients are bounded in number, size and time, and so are answers, so none can stall the router or
//! fill its memory. Each end checks that the other runs as root or as the same user, since anyone may
//! bind an abstract name.

mod client;
mod error;
mod message;
mod server;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

pub use self::{
    client::{Connection, ask},
    error::ControlError,
    message::{ExplainRequest, Page, Request, Response},
    server::{Call, Server},
};
