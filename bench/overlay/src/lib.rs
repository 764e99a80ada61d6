//! A DHT on a network of namespaces: real nodes, real routers, and counters of interfaces.
//!
//! A [`bed`] is the testbed `dht` with the routers of a deployment. A [`swarm`] of nodes lives on its
//! hosts, each in its host's namespace on a thread of its own ([`node`]). The experiments are run by a
//! [`client`] that joined once and starts every operation from the same routing tables; [`links`]
//! counts what crosses each link meanwhile.
//!
//! | experiment | question |
//! |---|---|
//! | [`operations`] | same answers with and without Xcast? what does each operation cost? |
//! | [`members`] | what do join, leave, states, tables and events cost, told to many? |
//! | [`combining`] | how often do messages of different operations share a packet? |
//! | [`losses`] | what do lost packets do to look-ups? |
//! | [`implosion`] | what do many answers at one moment do to an access link? |
//! | [`reflection`] | what does a forged source bring an attacker? |
//! | [`churn`] | do look-ups survive nodes that die? |
//! | [`mod@tree`] | what does a multicast tree's stream cost? does it survive inner members that die? |
//! | [`lists`] | what do the lists of each overlay save on the links? |
//! | [`together`] | do all protocols work beside each other? |

pub mod bed;
pub mod churn;
pub mod client;
pub mod combining;
pub mod implosion;
pub mod links;
pub mod lists;
pub mod loss;
pub mod losses;
pub mod members;
pub mod node;
pub mod operations;
pub mod reflection;
pub mod replayed;
pub mod swarm;
pub mod table;
pub mod together;
pub mod tree;

/// Says on standard error what is going on.
pub(crate) fn progress(what: impl AsRef<str>) {
    eprintln!("{}", what.as_ref());
}
