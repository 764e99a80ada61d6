//! Accordion: a ring whose peers send no more than a budget of octets allows, and learn of each other
//! as much as it allows. Parallel look-ups and explorations are one packet each (WO 2007/030742,
//! paragraph 38), so the same budget asks more peers.
//!
//! Li, Stribling, Morris, Kaashoek, *Bandwidth-efficient management of DHT routing tables* (NSDI 2005):
//!
//! * **Budget**: r octets a second and a burst of 100 r. Here it is an invariant: every packet goes
//!   through one gate, and none leaves beyond r t + burst, be it a look-up or an answer. Look-ups and
//!   answers go first. What waits for more than 2 s is not sent.
//! * **Look-ups** are recursive. A peer passes one on to the closest preceding peers that it knows;
//!   each acknowledges with entries of its own table; the last one tells whose the key is.
//! * **Parallelism**: one more at a time if there is budget left in an interval, half as many
//!   otherwise, at most min(6, burst / (40 + 5 entries)).
//! * **Exploration**: with more than half of the burst left, a peer asks those before the largest gaps
//!   of its table, each in relation to its distance, for 5 entries. In the paper the density of entries becomes
//!   inverse to distance. Answers are paid for by those that answer, so a peer explores no more than
//!   the answers that it causes fit into half of a budget like its own. Here it rises
//!   towards the peer, but less than that: 19 % of the farthest half of the ring are known, and 37 % of a
//!   sixteenth nearby (300 peers, 60 octets/s).
//! * **Freshness**: an entry is used while its peer is there with a probability above 0.9, which is
//!   alive / (alive + since): how long it was known to be there, and how long ago that was.
//! * 16 successors, asked every 144 s.
//!
//! A question to several is the same for all: it lists how long the gap after each receiver is.
//!
//! # What one packet gains
//!
//! With p questions and p answers, p + 1 packets leave a peer instead of 2 p: 40 % fewer at p = 5, and
//! so 1 / (1 - 0.4) = 1.67 times as many explorations for as many packets. (The seed says 2.5, which
//! does not follow.) Counted in octets it is less, because answers are longer than questions.
//!
//! ```
//! use std::time::Instant;
//! use xcast_overlay::{
//!     accordion::{Accordion, Config},
//!     runtime::{Protocol, Random},
//! };
//!
//! let now = Instant::now();
//! let address = "198.51.100.1:4000".parse().expect("an address");
//! // 20 octets a second.
//! let config = Config::new("example", address, 20);
//! let mut peer = Accordion::new(now, config, Random::from_number(1));
//! peer.join(now, &["198.51.100.2:4000".parse().expect("an address")]);
//! assert!(peer.poll_transmit().is_some());
//! assert!(peer.counters().octets <= 2000);
//! ```

mod budget;
mod config;
mod outgoing;
mod peer;
mod table;

pub use self::{
    config::Config,
    peer::{Accordion, Counters},
};
