//! One query at one node: what it has measured, what its ring members have, and what follows.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::message::Query;

/// Somebody's distance from the goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Best {
    pub distance: Duration,
    /// `None` for the node itself.
    pub node: Option<SocketAddr>,
}

/// A query that this node works on.
#[derive(Clone, Debug)]
pub(super) struct Hosted {
    pub query: Query,
    /// Whether it is this node's own.
    pub is_own: bool,
    /// This node's distance.
    pub own: Option<Duration>,
    /// Ring members that are asked and have not answered.
    pub open: usize,
    /// All that is known so far.
    pub found: Vec<Best>,
    /// When not to wait any longer.
    pub decide_at: Option<Instant>,
}

/// What to do next with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Pass it on.
    Forward(SocketAddr),
    /// The answer.
    Answer(Best),
    /// The targets are out of reach.
    Nothing,
}

impl Hosted {
    pub fn new(query: Query, is_own: bool) -> Self {
        Self {
            query,
            is_own,
            own: None,
            open: 0,
            found: Vec::new(),
            decide_at: None,
        }
    }

    /// A distance was measured: this node's own, or a ring member's.
    pub fn measured(&mut self, node: Option<SocketAddr>, distance: Option<Duration>) {
        let Some(distance) = distance else { return };
        if node.is_none() {
            self.own = Some(distance);
        }
        self.found.retain(|known| known.node != node);
        self.found.push(Best { distance, node });
    }

    /// Somebody does not answer.
    pub fn forget(&mut self, node: SocketAddr) {
        self.found.retain(|known| known.node != Some(node));
    }

    /// What to do when all have answered, or waited long enough.
    pub fn next(&self, beta: f64, max_hops: u8) -> Next {
        let Some(best) = self.found.iter().min() else {
            return Next::Nothing;
        };
        match (best.node, self.own) {
            (Some(node), Some(own))
                if !best.distance.is_zero()
                    && best.distance <= own.mul_f64(beta)
                    && self.query.hops < max_hops =>
            {
                Next::Forward(node)
            }
            _ => Next::Answer(*best),
        }
    }
}
