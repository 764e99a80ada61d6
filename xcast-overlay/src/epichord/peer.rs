//! A peer of EpiChord.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::cache::{Cache, CacheConfig, Slice};
use crate::{
    chord::{Node, Settings},
    ring::Position,
    runtime::Random,
};

/// A peer of EpiChord. See the [module](super).
pub type EpiChord = Node<Cache>;

impl EpiChord {
    /// A peer that knows nobody yet. All its random numbers come from `random`.
    pub fn new(settings: Settings, cache: CacheConfig, random: Random) -> Self {
        let cache = Cache::new(Position::of(&settings.address), cache);
        Self::with_routes(settings, cache, random)
    }

    /// The usual settings: 4 successors, the cache flushed every 20 s.
    pub fn settings(overlay: &str, address: SocketAddr) -> Settings {
        Settings::new(overlay, address, 4, Duration::from_secs(20))
    }

    /// The slices that are to have enough live peers, and how many they have at present.
    pub fn slices(&self, now: Instant) -> Vec<(Slice, usize)> {
        self.routes().state(now, self.neighbours())
    }
}
