//! Requests and responses: a JSON document each.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::report::{Destination, Explain, Neighbor, NextHop, Port, Route, Stats, Status};

/// What a verb asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Response::Status`].
    Status,
    /// Answered by [`Response::Stats`].
    Stats,
    /// Answered by [`Response::Routes`], in the order of prefixes.
    Routes {
        /// Most rows to answer with; `None` for all.
        #[serde(default)]
        limit: Option<usize>,
        /// Only routes of IPv6 (true) or IPv4 (false); `None` for both.
        #[serde(default)]
        ipv6: Option<bool>,
    },
    /// Answered by [`Response::NextHops`], in the order of ids.
    NextHops,
    /// Answered by [`Response::Ports`], in the order of the configuration.
    Ports,
    /// Answered by [`Response::Neighbors`], in the order of ports and addresses.
    Neighbors,
    /// Answered by [`Response::Explain`].
    Explain(ExplainRequest),
    /// Answered by [`Response::Stopping`]. Then the router detaches and ends.
    Stop,
    /// Answered by [`Response::Stopping`]. Then the router ends, and leaves everything forwarding for another one to
    /// take over.
    Leave,
}

/// The packet [`Request::Explain`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Name of the port that the packet arrives by; absent where it makes no difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Source address of the packet.
    pub source: IpAddr,
    /// Its destination list.
    pub destinations: Vec<Destination>,
    /// The X bit is set: the packet must stay Xcast.
    #[serde(default)]
    pub x: bool,
    /// Length of the IP packet in octets, which is compared with MTUs; by default as short as the
    /// list allows.
    #[serde(default)]
    pub length: Option<u16>,
}

/// What the router answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", content = "report", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Routes`].
    Routes(Vec<Route>),
    /// To [`Request::NextHops`].
    NextHops(Vec<NextHop>),
    /// To [`Request::Ports`].
    Ports(Vec<Port>),
    /// To [`Request::Neighbors`].
    Neighbors(Vec<Neighbor>),
    /// To [`Request::Explain`].
    Explain(Explain),
    /// To [`Request::Stop`] and [`Request::Leave`].
    Stopping,
    /// Why the request cannot be answered.
    Error(String),
}
