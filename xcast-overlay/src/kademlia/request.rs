//! What a node remembers of a request until it is answered.

use super::{operation::OperationId, status::Method};
use crate::{
    id::Id,
    krpc::{Contact, Response},
};

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub purpose: Purpose,
    pub method: Method,
    /// The identifier that the receiver is known under.
    pub expected: Option<Id>,
}

/// What is done with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Search(OperationId),
    Store(OperationId),
    Many(OperationId),
    /// For one of several keys, of a node that does not understand a question for all of them.
    OneOfMany(OperationId, Id),
    /// To store an entry under several keys.
    PutEntry(OperationId),
    /// For the entries under a key.
    GetEntries(OperationId, Id),
    /// To see whether a node is there, for the table.
    Check,
}

/// A node has answered a request.
pub(super) struct Answered {
    pub contact: Contact,
    pub tag: Tag,
    /// Whether it had been given up.
    pub late: bool,
    /// Whether it finds its token in a list.
    pub in_list: bool,
    pub response: Response,
    /// The nodes it names that can be believed.
    pub nodes: Vec<Contact>,
}
