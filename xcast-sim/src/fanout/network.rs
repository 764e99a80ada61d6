//! Routers, their routes, and hosts.

use super::{link::Link, packet::Place};
use crate::{routing::Routing, topology::Hosts};

/// Routers, their routes, and hosts.
#[derive(Debug)]
pub struct Network<'g> {
    /// The routers and their next hops.
    pub routing: Routing<'g>,
    /// The hosts.
    pub hosts: Hosts,
}

impl Network<'_> {
    /// Where a link leads.
    #[must_use]
    pub fn end_of(&self, link: Link) -> Place {
        match link {
            Link::Up(host) => Place::Router(self.hosts.router(host)),
            Link::Between(link) => Place::Router(self.routing.graph().to(link)),
            Link::Down(host) => Place::Host(host),
        }
    }
}
