//! Multicast trees whose inner nodes forward by lists (WO 2007/030742, paragraphs 42 to 44, claims 17
//! and 18).
//!
//! One member is the source. Each other has one parent, and gets the stream from it. A message
//! leaves each inner member as few packets, each to as many children as one packet has room for:
//! [`Packets`] computes how many. With two packets of 50 destinations 10^6 members of a full tree are
//! within three levels of the source, where unicast to 100 children would send the same octets 50 times.
//!
//! A [`Member`] is a [`Protocol`](crate::runtime::Protocol): no I/O, no clock.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     krpc::signing_key,
//!     runtime::{Protocol as _, Random},
//!     tree::{Config, Event, Member},
//! };
//!
//! let mut now = Instant::now();
//! let key = signing_key([1; 32]); // Secret octets, from the kernel.
//! let public = key.verifying_key().to_bytes();
//! let (at_source, at_sink) = ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:9".parse().unwrap());
//! let mut source = Member::new(now, Config::source("news", key, 1), Random::from_number(1));
//! let config = Config::receiver("news", public, vec![at_source]);
//! let mut sink = Member::new(now, config, Random::from_number(2));
//! let mut heard = None;
//! while heard.is_none() {
//!     while let Some(transmit) = sink.poll_transmit() {
//!         source.handle(now, at_sink, transmit.datagram(0));
//!     }
//!     while let Some(transmit) = source.poll_transmit() {
//!         sink.handle(now, at_source, transmit.datagram(0));
//!     }
//!     match sink.poll_event() {
//!         Some(Event::Joined { .. }) => drop(source.send(now, b"hello")),
//!         Some(Event::Message { payload, .. }) => heard = Some(payload),
//!         _ => {
//!             now = sink.poll_timeout().min(source.poll_timeout()).unwrap().max(now);
//!             sink.handle_timeout(now);
//!             source.handle_timeout(now);
//!         }
//!     }
//! }
//! assert_eq!(heard.unwrap(), "hello");
//! ```
//!
//! # Rules
//!
//! * **Join.** Whoever wants to join asks the members it knows, by one packet, who they are. They
//!   answer with their depth, their room, and some children: near ones, and ones with room. It asks
//!   on among those, until nobody better is found, and attaches to the best ([`Parents`]). A cookie
//!   proves that it gets what is sent to its address, so nobody can have the stream sent to others.
//! * **Pulse.** The source sends a number each [`Config::beat`], which goes down the tree. It says
//!   that the way up is whole, and which messages exist, both signed by the source. What each member adds is who the
//!   grandparent and the siblings are.
//! * **No cycles.** A member becomes a child only of one that has a *newer* pulse than itself, and it
//!   takes no pulse while it attaches. Those below a member have no newer pulse than it, so it can
//!   never attach below itself. (The sequence numbers of Babel, RFC 8966 section 3.5.1, are the same
//!   idea.)
//! * **Orphans.** A parent that is silent for 3 s is left, as is one by which no pulse has come for
//!   6 s. The orphan asks grandparent, siblings, and whom it joined by, all by one packet; its own
//!   children stay with it.
//! * **Repair.** A gap in the numbers is asked for: from the parent, then from grandparent and
//!   siblings in turn, until each of them has said that it has not got it. Who is no child proves by a cookie that it gets what
//!   is sent to its address. What several want is sent to all of them by one packet. So nothing is lost that the grandparent or a sibling still has. A beat
//!   names eight children, the next ones each time, and a child remembers those of 16 beats: with more
//!   than 128 siblings it does not know all.
//! * **Once and in order.** Messages are delivered by number; what comes again is counted and dropped.
//! * **Authentic.** The source signs each message with its number (Ed25519); members check the
//!   signature before they forward, and that of pulses before they believe them. Tokens that only parent, children and grandchildren know keep
//!   strangers from ending or faking relations. A member can starve those below it, which leave
//!   it if pulses do not come either; it cannot forge.
//! * **One slow child.** A child that misses too much asks for a pause: it gets nothing but what it
//!   asks for, with a window that grows by one and is halved like TCP's, until it has caught up. Others
//!   notice nothing, and memory is bounded: whoever is further behind than messages are kept is told
//!   what it has lost. Repairs have a budget of octets.
//!
//! The stream's rate is up to the source. Messages are datagrams ([`is_for_tree`]); other versions and
//! other trees are ignored.

mod children;
mod config;
mod member;
mod message;
mod packets;
mod place;
mod repairs;
mod search;
mod siblings;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub use self::{
    config::{Config, Parents},
    member::{CannotSend, Card, Member},
    message::is_for_tree,
    packets::Packets,
    status::{Cause, Counters, Event, Status},
};
