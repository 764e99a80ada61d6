//! D1HT: everybody knows everybody, and a look-up asks one peer. EDRA tells all of each join and
//! leave; its messages of one interval leave as few packets (WO 2007/030742, paragraphs 39 and 40).
//!
//! # EDRA
//!
//! Monnerat and Amorim, *D1HT: a distributed one hop hash table* (IPDPS 2006), and *An effective
//! single-hop distributed hash table with high lookup performance and low traffic overhead*
//! (arXiv 1408.7070). In a ring of n peers, rho = ceil(log2 n):
//!
//! 1. Time is divided into intervals of Theta, each peer's its own. At the end of each, a peer sends
//!    M(l), for 0 <= l < rho, to its successor number 2^l.
//! 2. M(l) has the events of this interval that came with a TTL above l, and for its receiver they
//!    have the TTL l. Events that a peer sees itself have the TTL rho.
//! 3. M(0) is always sent, others only with events. So a peer that is not heard of for two intervals
//!    by its successor is asked, and if it is silent, its successor reports that it left.
//! 4. Events that happened between sender and receiver are left out: who is there knows.
//! 5. Messages are acknowledged and repeated. If a receiver is gone, the next one gets the message.
//!
//! So each event reaches each peer exactly once, within rho x Theta: the peer at a distance d from
//! the reporter has it from the one at d without its lowest bit. [`theta()`] has the formula that
//! bounds the share of stale entries.
//!
//! # As one packet
//!
//! A packet for several levels has a list of \[peer, level\] and the events of the lowest level, each
//! with *its own* TTL: a receiver of level l takes those with a TTL above l only. (The seed has one set
//! of events for all; without a TTL for each, events would come several times.) [`Grouping`] says
//! which levels share one.
//!
//! # Beyond the papers
//!
//! * A peer joins through its successor with a cookie that proves its address, and gets the table
//!   from it in pages. Until all know it, the successor passes on to it what it hears.
//! * Who is wrongly said to be gone, and hears of it, says that it is not.
//! * Now and then a stretch of the table is compared with that of the successor
//!   ([`Config::compare_intervals`]), which mends what mass failures break.
//!
//! Events are not signed: a peer that lies can disturb the tables of all others. Addresses cannot be
//! forged to join, but to tell events; a network where that is to be feared needs
//! [`members`](crate::members)' signatures instead.
//!
//! # Use
//!
//! ```
//! use std::time::{Duration, Instant};
//! use xcast_overlay::{
//!     d1ht::{Config, Event, Peer},
//!     ring::Position,
//!     runtime::{Protocol, Random},
//! };
//!
//! let mut now = Instant::now();
//! let mut peers: Vec<Peer> = (1..=2)
//!     .map(|number| {
//!         let address = ([198, 51, 100, number], 4000).into();
//!         Peer::new(Config::new("example", address), Random::from_number(number.into()))
//!     })
//!     .collect();
//! peers[0].found_overlay(now);
//! let first = peers[0].contact().address;
//! peers[1].join(now, &[first]);
//! // Two peers and no network: a program sends datagrams, and waits for them.
//! while !peers[1].is_member() {
//!     for at in 0..2 {
//!         while let Some(transmit) = peers[at].poll_transmit() {
//!             let from = peers[at].contact().address;
//!             peers[1 - at].handle(now, from, transmit.datagram(0));
//!         }
//!     }
//! }
//! assert_eq!(peers[1].table().len(), 2);
//! peers[1].lookup(now, Position::of_key(b"a key"));
//! ```

mod comparison;
mod config;
mod dissemination;
mod event;
mod grouping;
mod membership;
mod message;
mod news;
mod peer;
mod phase;
mod table;
mod theta;

pub use self::{
    config::Config,
    event::{Counters, Event, LookupId},
    grouping::Grouping,
    news::{Change, News},
    peer::Peer,
    table::Table,
    theta::{Theta, estimated_messages, expected_messages, levels, theta},
};
