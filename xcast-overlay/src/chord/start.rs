//! A peer of Chord.

use std::{net::SocketAddr, time::Duration};

use super::{fingers::Fingers, node::Node, settings::Settings};
use crate::{ring::Position, runtime::Random};

/// A peer of Chord. See the [module](super).
pub type Chord = Node<Fingers>;

impl Chord {
    /// A peer that knows nobody yet. All its random numbers come from `random`.
    pub fn new(settings: Settings, random: Random) -> Self {
        let fingers = Fingers::new(Position::of(&settings.address));
        Self::with_routes(settings, fingers, random)
    }

    /// The usual settings: 8 successors, fingers looked up every minute.
    pub fn settings(overlay: &str, address: SocketAddr) -> Settings {
        Settings::new(overlay, address, 8, Duration::from_secs(60))
    }
}
