//! What verbs and a node say to each other: JSON lines. A verb asks once; the node answers with
//! its progress as often as it likes, and then with the outcome.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use xcast_overlay::{id::Id, kademlia::Status, krpc::Family};

/// What a verb asks a node for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(super) enum Request {
    /// Answered by [`Response::Status`].
    Status,
    /// Keeps the routing tables as they are, for [`Run::comparing`]. Answered by
    /// [`Response::Done`].
    KeepTables,
    /// Answered by [`Response::Done`].
    Run(Box<Run>),
    /// No longer keeps alive what is stored under a key. Answered by [`Response::Done`], in which
    /// `stored` says whether there was something.
    Withdraw {
        /// The key; for a service, the one that its publication was answered with.
        key: Id,
    },
    /// Answered by [`Response::Done`] when the node has nothing more to do. Then it ends.
    Leave,
}

/// An operation, and how to run it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// What to do.
    pub(super) operation: Operation,
    /// Begin with the tables that were kept, answer when nothing is under way any more, and send so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comparing: Option<Delivery>,
}

/// How messages to lists are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Delivery {
    /// As a datagram for each receiver.
    Unicast,
    /// As Xcast packets, where a router takes them.
    Xcast,
}

/// What a node can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub(super) enum Operation {
    /// See whether nodes are there.
    Ping {
        /// Their addresses.
        to: Vec<SocketAddr>,
    },
    /// Find the closest nodes to a key, or who is stored under it.
    Lookup {
        /// The key.
        key: Id,
        /// Whether to find who is stored.
        peers: bool,
    },
    /// Find what is stored under several keys, by common questions.
    LookupMany {
        /// The keys.
        keys: Vec<Id>,
    },
    /// Store this node's address under a key.
    Store {
        /// The key.
        key: Id,
        /// The port, if it is not that of the node.
        port: Option<u16>,
        /// Whether to keep it alive.
        keep: bool,
    },
    /// Store an item.
    Put {
        /// The value, bencoded, as hexadecimal digits.
        value: String,
        /// For a mutable one, its salt and sequence number. The node signs it.
        mutable: Option<(String, i64)>,
        /// Only over an item with this sequence number.
        cas: Option<i64>,
        /// Whether to keep it alive.
        keep: bool,
    },
    /// Find an item.
    Get {
        /// The key.
        key: Id,
        /// The salt of a mutable item.
        salt: String,
    },
    /// Publish a service, and keep it alive.
    Publish(Service),
    /// Find services.
    Find {
        /// Its mechanism.
        kind: Option<String>,
        /// Patterns of words.
        text: Vec<String>,
        /// A place, in degrees: the nearest services come first.
        near: Option<(f64, f64)>,
        /// Where to look.
        area: Option<Where>,
        /// Most of them.
        limit: Option<u32>,
    },
}

/// Where to look for services; places are degrees of latitude and longitude.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Where {
    /// The cell around a place, and so many rings of cells around that.
    Neighbourhood {
        /// In the middle.
        around: (f64, f64),
        /// How many rings.
        rings: u32,
        /// Size of the cells: 0 is the largest, 3 the smallest.
        size: usize,
    },
    /// Everything so near.
    Circle {
        /// In the middle.
        around: (f64, f64),
        /// Greatest distance in metres.
        radius_m: f64,
    },
    /// Everything within these corners.
    Polygon(Vec<(f64, f64)>),
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    /// What finds or is found there.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// How to reach it.
    pub(super) uri: String,
    /// What else there is to know.
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
    /// Where it is, in degrees of latitude and longitude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<(f64, f64)>,
    /// How far it is from the place that was named, in metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) distance_m: Option<f64>,
    /// How long it is true, in seconds.
    pub(super) life_s: i64,
}

/// What a node answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "response", content = "report", rename_all = "snake_case")]
pub(super) enum Response {
    /// It is at work; more is to come.
    Progress(Progress),
    /// To [`Request::Status`].
    Status(Box<NodeStatus>),
    /// To everything else.
    Done(Box<Report>),
    /// Why it is not done.
    Error(String),
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Nodes that were asked since it began, by this node altogether.
    pub(super) asked: u64,
    /// Nodes that answered since.
    pub(super) answered: u64,
}

/// What came of an operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// How long it took, in milliseconds.
    pub(super) took_ms: f64,
    /// Rounds of requests.
    pub(super) rounds: u32,
    /// Nodes asked in them.
    pub(super) asked: u32,
    /// Nodes that answered.
    pub(super) answered: u32,
    /// Nodes that did not.
    pub(super) silent: u32,
    /// Nodes that stored.
    pub(super) stored: u32,
    /// Nodes that refused, and why.
    #[serde(default)]
    pub(super) refused: Vec<(SocketAddr, String)>,
    /// What it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Id>,
    /// The closest nodes that answered, the closest first.
    #[serde(default)]
    pub(super) nodes: Vec<Peer>,
    /// Who is stored.
    #[serde(default)]
    pub(super) peers: Vec<SocketAddr>,
    /// The item that was stored or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) item: Option<Item>,
    /// What was found under each of several keys.
    #[serde(default)]
    pub(super) keys: BTreeMap<Id, UnderKey>,
    /// Services, the nearest first if a place was named.
    #[serde(default)]
    pub(super) services: Vec<Service>,
    /// Keys of a service that were left out because it has too many words.
    #[serde(default)]
    pub(super) keys_left_out: usize,
    /// What the node sent and received meanwhile, also for other purposes.
    pub(super) sent: Sent,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    /// Its identifier.
    pub(super) id: Id,
    /// Its address.
    pub(super) address: SocketAddr,
}

/// An item (BEP 44).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Its value, if that is text.
    pub(super) text: Option<String>,
    /// The value as it is, bencoded, in hexadecimal digits.
    pub(super) value: String,
    /// Public key of the author of a mutable item, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<String>,
    /// Its sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<i64>,
}

/// What was found under one of several keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnderKey {
    /// The closest nodes that answered.
    pub(super) nodes: Vec<Peer>,
    /// Who is stored.
    pub(super) peers: Vec<SocketAddr>,
    /// The item.
    pub(super) item: Option<Item>,
}

/// What a node sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    /// Messages, each to one receiver or several.
    pub(super) messages: u64,
    /// Their receivers.
    pub(super) receivers: u64,
    /// Xcast packets.
    pub(super) xcast_packets: u64,
    /// Datagrams to one receiver.
    pub(super) datagrams: u64,
    /// Messages that shared a packet with others.
    pub(super) combined: u64,
    /// Datagrams that came in.
    pub(super) received: u64,
    /// Receivers that were not sent to.
    pub(super) failed: u64,
}

impl Sent {
    /// Packets of both kinds.
    pub(super) fn packets(&self) -> u64 {
        self.xcast_packets + self.datagrams
    }

    /// What was sent since.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            receivers: self.receivers - before.receivers,
            xcast_packets: self.xcast_packets - before.xcast_packets,
            datagrams: self.datagrams - before.datagrams,
            combined: self.combined - before.combined,
            received: self.received - before.received,
            failed: self.failed - before.failed,
        }
    }
}

/// State of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeStatus {
    /// Version of this command.
    pub(super) version: String,
    /// Its process.
    pub(super) pid: u32,
    /// Since when it runs, in seconds.
    pub(super) uptime_seconds: u64,
    /// Where it listens.
    pub(super) listens: SocketAddr,
    /// How messages to lists leave.
    pub(super) uplink: String,
    /// Why they leave as unicast at the moment; absent if a router takes them.
    pub(super) unicast_because: Option<String>,
    /// Whether it has found its place.
    pub(super) joined: bool,
    /// Whether it is about to leave.
    pub(super) leaving: bool,
    /// What the protocol says.
    pub(super) node: Status,
    /// What was sent and received.
    pub(super) sent: Sent,
    /// How long messages waited for others to share a packet, on average, in microseconds.
    pub(super) mean_delay_us: u64,
    /// The nodes of the tables.
    pub(super) table: Vec<TableRow>,
    /// Services that it keeps alive.
    pub(super) published: Vec<Service>,
}

/// A node of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableRow {
    /// Which table.
    pub(super) family: Family,
    /// Which bucket: leading bits that it shares with this node.
    pub(super) prefix_bits: usize,
    /// The node.
    #[serde(flatten)]
    pub(super) peer: Peer,
    /// Its round-trip time, in microseconds.
    pub(super) rtt_us: Option<u64>,
    /// Requests in a row that it did not answer.
    pub(super) silent_in_a_row: u32,
}
