//! Kademlia, as the BitTorrent DHT speaks it (BEP 5, 32, 42, 43, 44), in which a round's requests
//! leave as one packet.
//!
//! # Use
//!
//! A [`Node`] is a [`Protocol`](crate::runtime::Protocol): its owner hands it datagrams and the
//! time. Operations ([`Node::join`], [`Node::find_node`], [`Node::put`] and the like) return at
//! once; what comes of them are [`Event`]s.
//!
//! # How it works
//!
//! * [`Lookup`] decides whom to ask next; its rounds are fan-outs of the
//!   [runtime](crate::runtime::Fanouts).
//! * [`Table`] holds nodes that have answered, a table for each address family (BEP 32).
//! * Requests to store go to the closest nodes, each with the token that the very node gave out. So
//!   they are one message with a part of its own for each receiver, and leave as one packet to nodes
//!   that understand such.
//! * [`Node::status`] tells at any time why a table is empty, and what was refused.
//!
//! # What it withstands
//!
//! * A network full of attackers: two places a bucket for each /24 or /64
//!   ([`TableConfig::max_per_network`]); BEP 42 if wanted.
//! * Guessed answers: transaction identifiers of 8 random octets, matched with the source address.
//! * Poisoned answers: a node is in a table only after it answered itself; addresses of this host or
//!   network are not believed to somebody far away; look-ups end after a bounded number of rounds.
//! * Use as an amplifier: budgets of octets for each network and for all answers.
//! * Being banned: no peer is ever sent more messages than [`Config::pace`] allows.

mod area;
pub mod bep42;
mod config;
mod entries;
mod event;
mod external;
mod find_many;
mod identity;
mod limits;
mod lookup;
mod many;
mod membership;
mod node;
mod operation;
mod request;
mod scope;
mod search;
mod server;
mod status;
mod storage;
mod table;
mod tokens;
mod upkeep;

pub use self::{
    area::Asking,
    config::Config,
    event::Event,
    limits::AnswerLimits,
    lookup::{Found, Lookup, Token},
    many::{ManyReport, OfTarget},
    node::Node,
    operation::{FamilyReport, Goal, OperationId, Report},
    status::{FamilyStatus, Method, MethodCounters, ServedCounters, Status, WhyEmpty},
    storage::StorageConfig,
    table::{BucketStatus, Refusal, Standing, Table, TableConfig},
};
