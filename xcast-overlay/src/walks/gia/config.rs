//! Settings of a node of Gia.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

/// Settings of a [`Node`](super::Node). [`Config::new`] has those of the paper.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the overlay: nodes of others are not heard.
    pub name: Bytes,
    /// This node's address, where answers go.
    pub address: SocketAddr,
    /// Nodes by way of which to join.
    pub seeds: Vec<SocketAddr>,
    /// Queries that this node can work on in a second. The paper has 1, 10, 100, 1000 and 10 000, of
    /// 20, 45, 30, 4.9 and 0.1 % of nodes.
    pub capacity: u32,
    /// Fewest neighbours. Default: 3.
    pub min_neighbours: usize,
    /// Most neighbours. A node takes one for each four queries a second that it can work on, too.
    /// Default: 128.
    pub max_neighbours: usize,
    /// Walkers of a query that start by one packet. Default: 1, as in the paper.
    pub walkers: usize,
    /// Into how many a walker splits at each later hop, by one packet; each has its share of the
    /// steps left. Default: 1.
    pub branch: usize,
    /// Steps of a walker. Default: 1024, as in the paper.
    pub ttl: u16,
    /// How often a node that is content looks for better neighbours. Default: 10 s.
    pub adaptation: Duration,
    /// How often neighbours hear of each other, and get tokens. Default: 1 s.
    pub beat: Duration,
    /// How long a query waits for its walkers. Default: 20 s.
    pub timeout: Duration,
    /// Which of Gia's parts are in use.
    pub parts: Parts,
}

/// The parts of Gia, each of which can be left out to see what it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Nodes know what their neighbours have.
    pub replication: bool,
    /// Nodes look for neighbours until their capacity is used.
    pub adaptation: bool,
    /// Queries go only to neighbours that have given a token.
    pub flow_control: bool,
    /// Walkers go to the neighbour with the largest capacity, not to any.
    pub bias: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            replication: true,
            adaptation: true,
            flow_control: true,
            bias: true,
        }
    }
}

impl Config {
    /// The usual settings.
    pub fn new(
        name: impl Into<Bytes>,
        address: SocketAddr,
        seeds: Vec<SocketAddr>,
        capacity: u32,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            seeds,
            capacity: capacity.max(1),
            min_neighbours: 3,
            max_neighbours: 128,
            walkers: 1,
            branch: 1,
            ttl: 1024,
            adaptation: Duration::from_secs(10),
            beat: Duration::from_secs(1),
            timeout: Duration::from_secs(20),
            parts: Parts::default(),
        }
    }

    /// Most queries that may come at once: the tokens of a beat, and those saved up, which are as many or
    /// one for each neighbour.
    pub(super) fn most_at_once(&self) -> u32 {
        let saved = self.capacity.max(self.most_neighbours() as u32);
        self.capacity.saturating_add(saved)
    }

    /// Most neighbours of a node of its capacity.
    pub(super) fn most_neighbours(&self) -> usize {
        let by_capacity = (self.capacity / 4) as usize;
        by_capacity
            .max(self.min_neighbours + 2)
            .min(self.max_neighbours)
    }
}
