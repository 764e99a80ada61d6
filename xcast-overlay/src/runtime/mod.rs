//! What every protocol here is made of: sends to lists, requests, timers, random numbers.
//!
//! A [`Protocol`] does no I/O and has no clock. Its owner hands it datagrams and the time, and takes
//! from it what is to be sent, when to call again, and what has happened. The owner is a program
//! with sockets, or a simulator; the protocol cannot tell.
//!
//! * [`Transmit`]: one message to a *list* of receivers, which is what becomes one Xcast packet.
//! * [`Fanouts`]: requests to several peers, whose answers come by unicast.
//! * [`Outbox`]: messages and events until they are taken.
//! * [`Lately`]: what was here lately, so that nothing is done twice.
//! * [`Peers`]: round-trip time (RFC 6298), silence and a budget of messages for each peer.
//! * [`Random`]: random numbers from a seed.
//! * [`Choice`]: whom to ask first, where any of several will do.

mod choice;
mod fanout;
mod lately;
mod outbox;
mod pace;
mod peers;
mod random;
mod rtt;
mod transmit;

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

pub use self::{
    choice::Choice,
    fanout::{Answer, Counters, Fanouts, Policy, Silent, TransactionId},
    lately::Lately,
    outbox::Outbox,
    pace::{OctetPace, Pace},
    peers::Peers,
    random::Random,
    rtt::Rtt,
    transmit::{Body, Mode, Segment, Transmit, WayOut},
};

/// A protocol without I/O: the interface of a state machine to sockets or a simulator.
///
/// After each [`handle`](Self::handle), each [`handle_timeout`](Self::handle_timeout) and each
/// command of the protocol's own, the owner calls the three `poll` functions: `poll_transmit` and
/// `poll_event` until they return `None`, then `poll_timeout`. Times never go back.
pub trait Protocol {
    /// What the protocol tells its owner.
    type Event;

    /// Takes a datagram that came from `from`.
    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes);

    /// Does what is due. Called at or after the time of [`poll_timeout`](Self::poll_timeout);
    /// calling it early does no harm.
    fn handle_timeout(&mut self, now: Instant);

    /// Says how messages to several receivers of a family leave from now on, for protocols that reckon with
    /// octets. Until something else is said they leave as one packet.
    fn set_way_out(&mut self, _ipv6: bool, _way: WayOut) {}

    /// The next message to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing else happens before.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The next thing that happened.
    fn poll_event(&mut self) -> Option<Self::Event>;
}
