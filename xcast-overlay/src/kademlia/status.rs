//! What a node tells of itself: above all, why a table is empty.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::table::{BucketStatus, Refusal};
use crate::{
    id::Id,
    krpc::{Family, Query},
    runtime::Counters,
};

/// A method of KRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Method {
    /// `ping`
    Ping,
    /// `find_node`
    FindNode,
    /// `get_peers`
    GetPeers,
    /// `announce_peer`
    AnnouncePeer,
    /// `get`
    Get,
    /// `put`
    Put,
    /// `xc_get_many`, an extension of this project
    GetMany,
    /// `xc_put_entry`, an extension of this project
    PutEntry,
    /// `xc_get_entries`, an extension of this project
    GetEntries,
}

impl Method {
    /// The method of a query.
    pub fn of(query: &Query) -> Self {
        match query {
            Query::Ping => Self::Ping,
            Query::FindNode { .. } => Self::FindNode,
            Query::GetPeers { .. } => Self::GetPeers,
            Query::AnnouncePeer { .. } => Self::AnnouncePeer,
            Query::Get { .. } => Self::Get,
            Query::Put { .. } => Self::Put,
            Query::GetMany { .. } => Self::GetMany,
            Query::PutEntry { .. } => Self::PutEntry,
            Query::GetEntries { .. } => Self::GetEntries,
        }
    }
}

impl fmt::Display for Method {
    /// Its name in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping",
            Self::FindNode => "find_node",
            Self::GetPeers => "get_peers",
            Self::AnnouncePeer => "announce_peer",
            Self::Get => "get",
            Self::Put => "put",
            Self::GetMany => "xc_get_many",
            Self::PutEntry => "xc_put_entry",
            Self::GetEntries => "xc_get_entries",
        })
    }
}

/// What became of requests of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MethodCounters {
    /// Receivers that were asked.
    pub asked: u64,
    /// Answers.
    pub answered: u64,
    /// Refusals.
    pub refused: u64,
    /// Receivers that were given up.
    pub silent: u64,
}

/// What became of datagrams that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ServedCounters {
    /// Queries that were answered.
    pub answered: u64,
    /// Queries that were answered with an error.
    pub refused: u64,
    /// Queries without an answer, because this node is read-only.
    pub read_only: u64,
    /// Queries without an answer, because the sender's, or all, budget of answers was used up.
    pub over_budget: u64,
    /// Datagrams that are no messages.
    pub malformed: u64,
    /// Answers under another identifier than the one that was asked.
    pub wrong_id: u64,
    /// Datagrams of a family that this node does not use.
    pub other_family: u64,
}

/// State of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FamilyStatus {
    /// The family.
    pub family: Family,
    /// Nodes in the table.
    pub nodes: usize,
    /// Each bucket that has nodes.
    pub buckets: Vec<BucketStatus>,
    /// How often nodes were refused, by reason.
    pub refusals: BTreeMap<Refusal, u64>,
    /// Requests by method.
    pub requests: BTreeMap<Method, MethodCounters>,
    /// Queries that were answered, by method.
    pub served: BTreeMap<Method, u64>,
    /// Why the table is empty, if it is.
    pub why_empty: Option<WhyEmpty>,
}

/// State of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Status {
    /// Its identifier.
    pub id: Id,
    /// Its addresses as others see them, of each family at most one.
    pub external: Vec<IpAddr>,
    /// Whether it serves no queries.
    pub read_only: bool,
    /// Each family.
    pub families: Vec<FamilyStatus>,
    /// Requests as the runtime counts them.
    pub fanouts: Counters,
    /// What came in.
    pub served: ServedCounters,
    /// Keys, peers and items that are stored for others.
    pub stored: (usize, usize, usize),
    /// Operations under way, the node's own included.
    pub operations: usize,
}

/// Why a table is empty, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum WhyEmpty {
    /// There is nobody to begin with.
    NoBootstrap,
    /// Nobody was asked yet.
    NotAsked,
    /// Requests are under way.
    Waiting,
    /// Nobody has answered.
    NoAnswer {
        /// Receivers that were given up.
        silent: u64,
    },
    /// Nodes answered, and none was taken.
    AllRefused {
        /// The most frequent reason.
        reason: Refusal,
        /// How often.
        times: u64,
    },
    /// There were nodes, and all are gone.
    Lost,
}

impl WhyEmpty {
    /// Finds the reason from what was counted.
    pub(super) fn find(
        bootstrap: usize,
        requests: &BTreeMap<Method, MethodCounters>,
        refusals: &BTreeMap<Refusal, u64>,
    ) -> Self {
        let sum = |count: fn(&MethodCounters) -> u64| requests.values().map(count).sum::<u64>();
        let (asked, answered, silent) = (
            sum(|c| c.asked),
            sum(|c| c.answered + c.refused),
            sum(|c| c.silent),
        );
        if asked == 0 {
            return if bootstrap == 0 {
                Self::NoBootstrap
            } else {
                Self::NotAsked
            };
        }
        if answered == 0 {
            return if silent < asked {
                Self::Waiting
            } else {
                Self::NoAnswer { silent }
            };
        }
        match refusals.iter().max_by_key(|(_, times)| **times) {
            Some((reason, times)) => Self::AllRefused {
                reason: *reason,
                times: *times,
            },
            None => Self::Lost,
        }
    }
}

impl fmt::Display for WhyEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBootstrap => {
                f.write_str("no bootstrap node of this family was given: name one")
            }
            Self::NotAsked => f.write_str("no node was asked yet: join first"),
            Self::Waiting => f.write_str("requests are under way"),
            Self::NoAnswer { silent } => write!(
                f,
                "none of {silent} requests was answered: check the bootstrap addresses, and that UDP gets through"
            ),
            Self::AllRefused { reason, times } => {
                write!(
                    f,
                    "nodes answered, but were refused: {reason} ({times} times)"
                )
            }
            Self::Lost => f.write_str("all nodes of the table have gone silent"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnId => "it has this node's identifier",
            Self::NotUnicast => "its address is not usable",
            Self::SameNetwork => "its bucket has enough nodes of its /24 or /64",
            Self::IdNotOfAddress => "its identifier does not follow from its address (BEP 42)",
            Self::IdTaken => "its identifier belongs to another address",
            Self::BucketFull => "its bucket is full",
            Self::ReadOnly => "it is read-only",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found() {
        let requests = |asked, answered, silent| {
            let counters = MethodCounters {
                asked,
                answered,
                silent,
                refused: 0,
            };
            BTreeMap::from([(Method::FindNode, counters)])
        };
        let none = BTreeMap::new();
        let refused = BTreeMap::from([(Refusal::OwnId, 1), (Refusal::SameNetwork, 7)]);
        assert_eq!(
            WhyEmpty::find(0, &none.clone(), &BTreeMap::new()),
            WhyEmpty::NoBootstrap
        );
        assert_eq!(
            WhyEmpty::find(1, &none, &BTreeMap::new()),
            WhyEmpty::NotAsked
        );
        let find = |asked, answered, silent, refusals: &BTreeMap<Refusal, u64>| {
            WhyEmpty::find(1, &requests(asked, answered, silent), refusals)
        };
        let empty = BTreeMap::new();
        assert_eq!(find(3, 0, 2, &empty), WhyEmpty::Waiting);
        assert_eq!(find(3, 0, 3, &empty), WhyEmpty::NoAnswer { silent: 3 });
        let reason = WhyEmpty::AllRefused {
            reason: Refusal::SameNetwork,
            times: 7,
        };
        assert_eq!(find(3, 3, 0, &refused), reason);
        assert!(reason.to_string().contains("/24"));
        assert_eq!(find(3, 3, 0, &empty), WhyEmpty::Lost);
    }
}
