//! Simulates multi-destination packets (Xcast, RFC 5058) on router graphs, and counts what crosses
//! each link.
//!
//! No part of the library reads a clock, and every random choice comes from a [seed](random): the
//! same seed gives the same bytes. Only the readers of [`topology`] and the writers of
//! [`experiments`] do I/O.
//!
//! In reading order:
//!
//! | | |
//! |---|---|
//! | [`random`] | numbers from a seed, the same on every machine |
//! | [`topology`] | router graphs: from generators and from files |
//! | [`routing`] | next hops along shortest paths, with a rule for ties |
//! | [`fanout`] | the copies of one packet to many hosts, link by link |
//! | [`frames`] | the same with frames, by the forwarding code of the router |
//! | [`statistics`] | means over seeds, with confidence intervals |
//! | [`events`] | simulated time: a queue of events, links with rate, queue and loss |
//! | [`address`] | addresses of hosts and routers |
//! | [`latencies`] | round trips that were measured between hosts |
//! | [`world`] | the real protocols on hosts, in simulated time |
//! | [`replay`] | what a testbed's senders sent, counted on its links |
//! | [`experiments`] | what is measured, and how it is shown |

pub mod address;
pub mod events;
pub mod experiments;
pub mod fanout;
pub mod frames;
pub mod latencies;
pub mod random;
pub mod replay;
pub mod routing;
pub mod statistics;
pub mod topology;
pub mod world;
