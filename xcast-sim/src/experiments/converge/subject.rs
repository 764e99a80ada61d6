//! What an overlay has to say of itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use xcast_overlay::{
    krpc::Family,
    memory::{World, address},
    ring::Position,
    runtime::{Protocol, Random},
};

/// Who is to come into being.
pub struct Newcomer<'a> {
    /// Its number, which says where it is.
    pub identity: usize,
    /// Nodes by way of which it joins; nobody for the first.
    pub by: &'a [SocketAddr],
    /// How many nodes there are to be.
    pub count: usize,
    /// Of all of this run's choices.
    pub seed: u64,
}

impl Newcomer<'_> {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        at(self.identity)
    }
}

/// The address of a number.
pub fn at(identity: usize) -> SocketAddr {
    address(identity, Family::Ipv4)
}

/// Who is there.
#[derive(Debug, Default)]
pub struct Truth {
    /// Living nodes by their positions on a ring.
    pub ring: BTreeMap<Position, SocketAddr>,
    /// Number of the operation that begins.
    pub serial: u64,
}

impl Truth {
    /// Whether a position belongs to a node: the first at or after it of all that are there, or of those
    /// that are ready.
    pub fn owns(
        &self,
        key: Position,
        owner: SocketAddr,
        mut is_ready: impl FnMut(SocketAddr) -> bool,
    ) -> bool {
        let mut first = true;
        for (_, node) in self.ring.range(key..).chain(self.ring.range(..key)) {
            if (first || is_ready(*node)) && *node == owner {
                return true;
            }
            if is_ready(*node) {
                return false;
            }
            first = false;
        }
        false
    }
}

/// An overlay's node, and what is right for it.
pub trait Subject: Protocol + Sized {
    /// How long nodes wait for the one before to have joined.
    const JOIN_PAUSE: Duration = Duration::from_millis(50);
    /// Where more nodes than this take part, as many more come in that time: a larger network can take them.
    const JOIN_CROWD: usize = usize::MAX;
    /// How long all have time, before it begins.
    const SETTLE: Duration = Duration::from_secs(60);
    /// An operation has ended after this time.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// Whether who goes comes back at its address, because neighbours are given.
    const RESTARTS: bool = false;
    /// Whether all begin at one time, knowing each other, as if they had joined.
    const TOGETHER: bool = false;

    /// What a message is for, where several kinds of messages go to several.
    fn purpose(_datagram: &[u8]) -> Option<&'static str> {
        None
    }

    /// What the network is like, if it is not as usual.
    fn prepare(_world: &mut World<Self>, _count: usize, _seed: u64) {}

    /// How long nodes wait after the one with this number has begun to join.
    fn join_pause(number: usize) -> Duration {
        match number {
            // The first ones need time to get to know each other.
            ..50 => Self::JOIN_PAUSE * 10,
            _ => Self::JOIN_PAUSE * Self::JOIN_CROWD.min(number) as u32 / number as u32,
        }
    }

    /// Makes a node.
    fn create(now: Instant, random: Random, newcomer: &Newcomer<'_>) -> Self;

    /// Lets it join; many do so by themselves.
    fn start(&mut self, _now: Instant, _by: &[SocketAddr]) {}

    /// Whether it takes part.
    fn is_ready(&self, _now: Instant) -> bool {
        true
    }

    /// Begins an operation at a node: who has to say what came of it.
    fn ask(world: &mut World<Self>, truth: &Truth, place: usize) -> Vec<usize>;

    /// What came of an operation: how right it is, from 0 to 1; `None` for what ends none.
    fn outcome(
        world: &World<Self>,
        truth: &Truth,
        place: usize,
        event: &Self::Event,
    ) -> Option<f64>;
}
