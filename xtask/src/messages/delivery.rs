//! What arrived.

use std::collections::BTreeMap;

/// What arrived, by host.
pub type Inbox = BTreeMap<String, Delivery>;

/// What a host got.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Messages that arrived, each counted once.
    pub messages: u64,
    /// Messages that arrived again.
    pub repeated: u64,
    /// The first one: who sent it, and what it says.
    pub example: Option<(String, String)>,
}
