//! Requests and responses: a JSON document each.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::report::{
    Backbone, Destination, Explain, Neighbor, NextHop, Port, Route, Stats, Status, Tunnel,
};

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
        /// Only what comes after this prefix: where the page before ended.
        #[serde(default)]
        after: Option<IpNet>,
        /// Most rows to answer with; `None` for as many as a page has.
        #[serde(default)]
        limit: Option<usize>,
        /// Only routes of IPv6 (true) or IPv4 (false); `None` for both.
        #[serde(default)]
        ipv6: Option<bool>,
    },
    /// Answered by [`Response::NextHops`], in the order of ids.
    NextHops {
        /// Only what comes after this id: where the page before ended.
        #[serde(default)]
        after: Option<u32>,
    },
    /// Answered by [`Response::Ports`], in the order of the configuration.
    Ports,
    /// Answered by [`Response::Neighbors`], in the order of ports and addresses.
    Neighbors,
    /// Answered by [`Response::Tunnels`], in the order of the configuration.
    Tunnels,
    /// Answered by [`Response::Backbone`].
    Backbone,
    /// Answered by [`Response::Explain`].
    Explain(ExplainRequest),
    /// Answered by [`Response::Stopping`]. Then the router detaches and ends.
    Stop,
    /// Answered by [`Response::Stopping`]. Then the router ends, and leaves everything forwarding for another one to
    /// take over.
    Leave,
}

impl Request {
    /// It changes nothing.
    pub(super) fn is_reading(&self) -> bool {
        !matches!(self, Self::Stop | Self::Leave)
    }
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

/// Some rows of a long table: an answer is never longer, however long the table is. Each row is as of the moment at which
/// its page was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// There are more: ask for what comes after the last row.
    pub more: bool,
}

impl<T> Page<T> {
    /// Rows on a page at most.
    pub const ROWS: usize = 256;

    /// The first of these rows, as many as a page has, or `limit` if that is less.
    pub(crate) fn of(rows: impl Iterator<Item = T>, limit: Option<usize>) -> Self {
        let most = limit.unwrap_or(Self::ROWS).min(Self::ROWS);
        let mut rows = rows.fuse();
        let page = rows.by_ref().take(most).collect();
        Self {
            rows: page,
            more: rows.next().is_some(),
        }
    }
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
    Routes(Page<Route>),
    /// To [`Request::NextHops`].
    NextHops(Page<NextHop>),
    /// To [`Request::Ports`].
    Ports(Vec<Port>),
    /// To [`Request::Neighbors`].
    Neighbors(Vec<Neighbor>),
    /// To [`Request::Tunnels`].
    Tunnels(Vec<Tunnel>),
    /// To [`Request::Backbone`].
    Backbone(Box<Backbone>),
    /// To [`Request::Explain`].
    Explain(Explain),
    /// To [`Request::Stop`] and [`Request::Leave`].
    Stopping,
    /// Why the request cannot be answered.
    Error(String),
}
