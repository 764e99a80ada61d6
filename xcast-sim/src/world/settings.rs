//! What a world is like.

use xcast_host::queue::QueueLimits;

use crate::{
    events::LineSettings,
    fanout::{Deployment, EcmpKey, Family, Prune},
};

/// How hosts reach the first router that speaks Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They send Xcast packets; what becomes of them where the router at their link does not speak
    /// Xcast is up to the deployment.
    Native,
    /// They send inside UDP to the nearest router that speaks Xcast, which is what programs without
    /// privileges do. Of equally near ones, the one with the lowest number. Where there is none they
    /// send unicast.
    Udp,
    /// They send a datagram to each.
    Unicast,
}

/// What a world is like.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    /// Of which version of IP all addresses are.
    pub family: Family,
    /// Which routers speak Xcast.
    pub deployment: Deployment,
    /// How copies' lists are pruned.
    pub prune: Prune,
    /// What multipath hashes.
    pub ecmp_key: EcmpKey,
    /// How hosts reach routers.
    pub access: Access,
    /// By which criteria hosts combine messages, and how long messages wait for that (d_q).
    pub combining: QueueLimits,
    /// Whether receivers open envelopes, which messages need that are the same in part.
    pub envelopes: bool,
    /// Links between routers, both directions. The latency of each is between half and one and a half
    /// of this.
    pub links: LineSettings,
    /// Access links, both directions.
    pub access_links: LineSettings,
    /// Of latencies and losses.
    pub seed: u64,
}

impl WorldSettings {
    /// A full deployment of Xcast4: links of 5 ms between routers and of 1 ms to hosts, as fast as one
    /// likes, without loss.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        let line = |latency_ns| LineSettings {
            latency_ns,
            bits_per_second: None,
            queue_octets: 0,
            loss: 0.0,
        };
        Self {
            family: Family::V4,
            deployment: Deployment::full(),
            prune: Prune::Truncate,
            ecmp_key: EcmpKey::Flow,
            access: Access::Native,
            combining: QueueLimits::default(),
            envelopes: false,
            links: line(5_000_000),
            access_links: line(1_000_000),
            seed,
        }
    }
}
