//! Where an experiment's graphs come from.

use std::borrow::Cow;

use crate::topology::{Model, Topology, TopologyError};

/// A generator, or a map of a real network.
#[derive(Clone, Debug)]
pub enum Source {
    /// Another graph for each seed.
    Generated(Model),
    /// The same graph for each seed; sources, destinations and choices between paths differ.
    Map {
        /// What it is called in tables and plots.
        name: String,
        /// The graph.
        topology: Topology,
    },
}

impl Source {
    /// What it is called in tables and plots.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Generated(model) => model.name(),
            Self::Map { name, .. } => name,
        }
    }

    /// The generator, if it is one.
    #[must_use]
    pub fn model(&self) -> Option<Model> {
        match self {
            Self::Generated(model) => Some(*model),
            Self::Map { .. } => None,
        }
    }

    pub(super) fn topology(&self, seed: u64) -> Result<Cow<'_, Topology>, TopologyError> {
        match self {
            Self::Generated(model) => model.generate(seed).map(Cow::Owned),
            Self::Map { topology, .. } => Ok(Cow::Borrowed(topology)),
        }
    }
}
