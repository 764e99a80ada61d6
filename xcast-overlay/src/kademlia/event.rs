//! What a node tells its owner.

use std::net::{IpAddr, SocketAddr};

use super::{
    many::ManyReport,
    operation::{OperationId, Report},
};
use crate::krpc::Item;

/// What a node tells its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node knows its neighbours, and has looked into each part of the network.
    Joined {
        /// Nodes in all tables.
        nodes: usize,
    },
    /// Somebody named peers; more may come.
    Peers {
        /// The operation.
        operation: OperationId,
        /// New ones.
        peers: Vec<SocketAddr>,
    },
    /// An item was found; for a mutable one, a newer one may come.
    Found {
        /// The operation.
        operation: OperationId,
        /// The item, checked.
        item: Item,
    },
    /// An operation has ended.
    Finished {
        /// The operation.
        operation: OperationId,
        /// What came of it.
        report: Box<Report>,
    },
    /// A look-up for several keys at once has ended.
    FinishedMany {
        /// The operation.
        operation: OperationId,
        /// What came of it.
        report: Box<ManyReport>,
    },
    /// Others see this node at another address than before. A node whose identifier was not given
    /// has taken one that follows from it (BEP 42), and joins again; with another, see
    /// [`Node::follow_address`](super::Node::follow_address).
    ExternalAddress {
        /// The address.
        address: IpAddr,
    },
}
