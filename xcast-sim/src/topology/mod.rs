//! Router graphs: from seeded generators, and from files.
//!
//! A [`Topology`] is always connected and has at least two routers; whoever makes one says so or
//! fails. Hosts are no part of the graph: each has an access link to one of the
//! [edge routers](Topology::edge).

mod barabasi_albert;
mod connected;
mod edge_list;
mod error;
mod graph;
mod graphml;
mod hosts;
mod model;
mod random_recursive_tree;
mod transit_stub;
mod waxman;

pub use barabasi_albert::BarabasiAlbert;
pub use connected::{Parts, Topology};
pub use edge_list::read_edge_list;
pub use error::TopologyError;
pub use graph::{Graph, LinkId, RouterId};
pub use graphml::read_graphml;
pub use hosts::{HostId, Hosts};
pub use model::Model;
pub use random_recursive_tree::RandomRecursiveTree;
pub use transit_stub::TransitStub;
pub use waxman::Waxman;
