//! Overlay protocols whose parallel messages leave as one packet.
//!
//! Peers of an overlay send the same message to several others all the time: a look-up's round, a
//! store, news of members. Each of these is one Xcast packet (RFC 5058) where there is a router that
//! understands it (WO 2007/030742, paragraphs 19 to 34). This crate has the protocols, without
//! sockets and without a clock: for programs, which give them both, and for simulators, which make
//! them up. A driver for programs is here, too.
//!
//! # What is here
//!
//! | | |
//! |---|---|
//! | [`runtime`] | what protocols are made of: sends to lists, requests with a fan-out, timers |
//! | [`kademlia`] | a node of the BitTorrent DHT (BEP 5, 32, 42, 43, 44) |
//! | [`krpc`] | that DHT's messages |
//! | [`places`] | places as keys, areas as cells of a grid |
//! | [`services`] | services described, signed, and found by type, text and place |
//! | [`members`] | who is in an overlay, what they tell each other, for overlays to come |
//! | [`d1ht`] | everybody knows everybody: D1HT, and EDRA's news of members |
//! | [`chord`], [`epichord`] | rings: one question at a time, or several by one packet |
//! | [`accordion`] | a ring whose peers learn as much as a budget of octets allows |
//! | [`ring`] | positions on a ring |
//! | [`wire`] | compact messages for overlays of their own |
//! | [`tree`] | multicast trees: a source's stream to all members, by lists |
//! | [`meridian`] | who is close: rings, closest nodes, central leaders |
//! | [`walks`] | searches by random walks: Gia, LMS |
//! | [`backbone`] | what routers do among themselves: which neighbours speak Xcast |
//! | [`others`] | in the manner of CAN, Tapestry, Freenet, Gnutella, FastTrack |
//! | [`memory`] | networks in memory: a virtual clock, latency, loss |
//! | [`id`] | identifiers and their distance |
//! | `net` | a protocol on a UDP socket, by routers of Xcast (feature `net`) |
//!
//! # A node
//!
//! Whoever drives a protocol has one loop: hand in what arrived, and the time; send what comes out;
//! sleep until the time it names.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use xcast_overlay::{
//!     kademlia::{Config, Event, Node},
//!     krpc::Item,
//!     runtime::{Protocol as _, Random},
//! };
//!
//! let mut now = Instant::now();
//! let mut config = Config::mainline();
//! config.bootstrap = vec!["198.51.100.1:6881".parse().expect("an address")];
//! // A node on a network takes the seed from the kernel.
//! let mut node = Node::new(now, config, Random::from_number(1));
//! node.join(now);
//! node.put(now, Item::immutable("5:hello"), None).expect("a good item");
//! for _ in 0..10 {
//!     while let Some(transmit) = node.poll_transmit() {
//!         // xcast-host sends one packet to all of `transmit.to`.
//!         println!("{:?} to {:?}", transmit.mode, transmit.to);
//!     }
//!     while let Some(event) = node.poll_event() {
//!         if let Event::Finished { report, .. } = event {
//!             println!("{report:?}");
//!         }
//!     }
//!     // A program waits for a datagram, at most until this time.
//!     now = node.poll_timeout().unwrap_or(now + Duration::from_secs(1));
//!     node.handle_timeout(now);
//! }
//! let status = node.status(now);
//! // Nobody answers at an address that exists in documents only.
//! println!("{}", status.families[0].why_empty.expect("an empty table"));
//! ```
//!
//! # An overlay of your own
//!
//! Implement [`runtime::Protocol`]. Keep outstanding requests in [`runtime::Fanouts`]: give it the
//! receivers and one message, and it gives back a [`runtime::Transmit`] with the list, matches
//! answers by transaction identifier and source address, measures round trips, and tells who stayed
//! silent. A packet that is lost on the first link is lost for all of its receivers, so a round that
//! nobody answers is asked again by unicast, to half of them.
//!
//! Three rules make an overlay fit for lists:
//!
//! * **Wait for rounds.** Requests that are begun together share a packet; those that are begun one
//!   after the other do not.
//! * **Say the same to all.** What differs between receivers goes into a
//!   [`Segment::Own`](runtime::Segment::Own), or better into a list that each receiver finds its own
//!   part in: then receivers of one packet need to know nothing of each other.
//! * **Take everything random from [`runtime::Random`]**, and keep nothing in maps without an order.
//!   Then the same seed gives the same octets, and a failure can be repeated.
//!
//! # Features
//!
//! * `net`: drives protocols on sockets, with tokio. `examples/join.rs` is a node in 40 lines.
//! * `serde`: what status consists of implements `Serialize` and `Deserialize`.

pub mod accordion;
pub mod backbone;
pub mod chord;
pub mod d1ht;
pub mod epichord;
pub mod id;
pub mod kademlia;
pub mod krpc;
pub mod members;
pub mod memory;
pub mod meridian;
#[cfg(feature = "net")]
pub mod net;
mod octets;
pub mod others;
pub mod places;
pub mod ring;
pub mod runtime;
pub mod services;
mod signed;
pub mod tree;
pub mod walks;
pub mod wire;
