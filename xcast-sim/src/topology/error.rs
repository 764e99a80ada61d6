//! Why there is no topology.

/// Why a generator or a reader made no topology.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A parameter is out of its range.
    #[error("parameter {name} is {value}: {remedy}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it has to be.
        remedy: &'static str,
    },
    /// No connected graph came up.
    #[error(
        "no connected graph of {routers} routers in {tries} tries: raise {parameter}, or make the graph smaller"
    )]
    NeverConnected {
        /// Size of the graph.
        routers: usize,
        /// How many were tried.
        tries: u32,
        /// What makes more links.
        parameter: &'static str,
    },
    /// A file's graph has parts without a link between them.
    #[error(
        "the graph is not connected: its largest part has {largest} of {routers} routers; link the parts, or keep the largest alone"
    )]
    NotConnected {
        /// Routers of the file.
        routers: usize,
        /// Routers of the largest part.
        largest: usize,
    },
    /// A file has too few routers.
    #[error("the graph has {routers} routers: at least 2 with a link between them are needed")]
    TooSmall {
        /// How many it has.
        routers: usize,
    },
    /// A line, or an element, means nothing.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Which line, from 1.
        line: usize,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// An edge names a router that the file does not have.
    #[error("an edge names `{id}`, and there is no such node: add it")]
    UnknownRouter {
        /// What it names.
        id: String,
    },
    /// A file cannot be read.
    #[error("cannot read the graph")]
    Read(#[from] std::io::Error),
}

/// Fails unless the value is good.
pub(super) fn require(
    good: bool,
    name: &'static str,
    value: impl ToString,
    remedy: &'static str,
) -> Result<(), TopologyError> {
    if good {
        return Ok(());
    }
    Err(TopologyError::Parameter {
        name,
        value: value.to_string(),
        remedy,
    })
}
