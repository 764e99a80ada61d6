//! Settings of a node.

use std::{net::SocketAddr, time::Duration};

use super::{limits::AnswerLimits, storage::StorageConfig, table::TableConfig};
use crate::{
    id::Id,
    krpc::Family,
    runtime::{Choice, Pace, Policy},
    services::ShelfConfig,
};

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's identifier; `None` for a random one, which is changed into one that follows from
    /// the node's address when others have told it that (BEP 42).
    ///
    /// A node that knows its address takes one that follows from it at once
    /// ([`bep42::random_id`](super::bep42::random_id)).
    pub id: Option<Id>,
    /// Address families that the node has sockets for.
    pub families: Vec<Family>,
    /// Routing tables.
    pub table: TableConfig,
    /// Requests in a round of a look-up. They leave as one packet, so more of them cost the first
    /// link little.
    pub alpha: usize,
    /// Whom to ask in a round, of the k closest that are known; `None` for the very closest.
    pub choice: Option<Choice>,
    /// How requests are asked.
    pub policy: Policy,
    /// Budget of messages to one peer, requests and answers together. libtorrent bans for five
    /// minutes whoever sends it 50 messages in 10 seconds.
    pub pace: Pace,
    /// Most peers whose round-trip times and budgets are remembered.
    pub max_peers: usize,
    /// How much is answered.
    pub answers: AnswerLimits,
    /// How much is stored for others.
    pub storage: StorageConfig,
    /// How many entries of services are stored for others.
    pub shelf: ShelfConfig,
    /// Seconds since 1970 when the node begins: entries of services say so when they expire.
    pub started_unix_s: i64,
    /// The node asks and is not asked, for example because it is behind a firewall (BEP 43).
    pub read_only: bool,
    /// What the node calls itself in its messages (`v`): two letters and two digits of a version.
    pub version: [u8; 4],
    /// Whether the node says that it understands this project's extensions, and uses them with nodes
    /// that say so too. Strangers do not mind. A node that does not is a stranger itself: it neither
    /// sends nor answers the extensions' methods.
    pub extensions: bool,
    /// Nodes to begin with.
    pub bootstrap: Vec<SocketAddr>,
    /// How often the node looks after its tables. The actual time varies by a fifth.
    pub tick: Duration,
    /// How often what the node publishes is announced anew; the actual time varies by a fifth.
    pub announce_interval: Duration,
    /// How often items that the node publishes are put anew (BEP 44: once an hour).
    pub put_interval: Duration,
}

impl Config {
    /// For the BitTorrent DHT: k = 8.
    pub fn mainline() -> Self {
        Self {
            id: None,
            families: Family::ALL.to_vec(),
            table: TableConfig {
                k: 8,
                max_per_network: Some(2),
                enforce_bep42: false,
            },
            alpha: 4,
            choice: None,
            policy: Policy {
                short_transaction_octets: Some(4),
                ..Policy::default()
            },
            // At most 45 messages in 10 seconds; a partner that looks up and stores in one go needs some 25.
            pace: Pace::new(30, Duration::from_millis(670)),
            max_peers: 4096,
            answers: AnswerLimits::default(),
            storage: StorageConfig::default(),
            shelf: ShelfConfig::default(),
            started_unix_s: 0,
            read_only: false,
            version: *b"XC01",
            extensions: true,
            bootstrap: Vec::new(),
            tick: Duration::from_secs(30),
            announce_interval: Duration::from_secs(15 * 60),
            put_interval: Duration::from_secs(60 * 60),
        }
    }

    /// For a network of nodes of this kind only: k = 20.
    pub fn own_network() -> Self {
        let mainline = Self::mainline();
        Self {
            table: TableConfig {
                k: 20,
                ..mainline.table
            },
            policy: Policy::default(),
            ..mainline
        }
    }
}
