//! A graph that is connected, and where hosts may be.

use super::{
    error::TopologyError,
    graph::{Graph, RouterId},
};

/// A connected graph of routers, and where hosts may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The graph; connected.
    pub graph: Graph,
    /// The routers that hosts have access links to, in ascending order; never empty.
    pub edge: Vec<RouterId>,
    /// Names of routers, if a file gave any: one for each router, or none.
    pub names: Vec<String>,
}

/// What to do with a file's graph that is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Refuse it.
    Connected,
    /// Keep its largest part.
    Largest,
}

impl Topology {
    /// Hosts may be at any router.
    ///
    /// # Errors
    ///
    /// The graph is not connected, or has fewer than two routers.
    pub fn new(graph: Graph) -> Result<Self, TopologyError> {
        let edge = graph.routers().collect();
        Self::with_edge(graph, edge)
    }

    /// Hosts may be at these routers.
    ///
    /// # Errors
    ///
    /// The graph is not connected, or has fewer than two routers, or none for hosts.
    pub fn with_edge(graph: Graph, edge: Vec<RouterId>) -> Result<Self, TopologyError> {
        let routers = graph.router_count();
        if routers < 2 || edge.is_empty() {
            return Err(TopologyError::TooSmall { routers });
        }
        if !graph.is_connected() {
            let largest = graph.largest_part().len();
            return Err(TopologyError::NotConnected { routers, largest });
        }
        Ok(Self {
            graph,
            edge,
            names: Vec::new(),
        })
    }

    /// What a file says: names of routers, and links between their numbers.
    pub(super) fn from_file(
        names: Vec<String>,
        links: &[(RouterId, RouterId)],
        parts: Parts,
    ) -> Result<Self, TopologyError> {
        let whole = Graph::new(names.len(), links);
        if parts == Parts::Connected {
            return Ok(Self {
                names,
                ..Self::new(whole)?
            });
        }
        let kept = whole.largest_part();
        let links: Vec<_> = whole
            .links()
            .filter_map(|(a, b)| {
                let number = |router| kept.binary_search(&router).ok().map(|at| at as RouterId);
                Some((number(a)?, number(b)?))
            })
            .collect();
        let names = kept.iter().map(|router| names[*router as usize].clone());
        Ok(Self {
            names: names.collect(),
            ..Self::new(Graph::new(kept.len(), &links))?
        })
    }

    /// The graph as text: a line for each link, from the lower router to the higher. The same
    /// seed gives the same text.
    #[must_use]
    pub fn to_edge_list(&self) -> String {
        let lines = self.graph.links().map(|(a, b)| format!("{a} {b}\n"));
        lines.collect()
    }
}
