//! What a host or a router does with a packet: the rules, one place after the other.

use super::{
    deployment::Islands,
    link::Link,
    network::Network,
    packet::{Hop, List, Packet, Place},
    scheme::{EcmpKey, Prune, Scheme},
};
use crate::{
    random::hash,
    routing::Towards,
    topology::{HostId, RouterId},
};

/// Where a destination's copy goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Over a link to a router that speaks Xcast.
    Neighbour(Link),
    /// To a router further on that does.
    Tunnel(RouterId),
    /// To the destination alone.
    Unicast,
}

impl Network<'_> {
    /// What a packet becomes at a place: each copy, with the link it leaves by. Nothing at the host
    /// that a unicast packet is for. Hop limits are ignored.
    pub fn forward(
        &mut self,
        scheme: &Scheme,
        at: Place,
        packet: Packet,
        flow: u64,
        hops: &mut Vec<Hop>,
    ) {
        match packet {
            Packet::Unicast(host) => self.unicast(scheme, at, host, flow, hops),
            Packet::Tunnel(end, list) if at == Place::Router(end) => {
                self.split(scheme, at, list, flow, hops);
            }
            Packet::Tunnel(end, list) => self.tunnel(scheme, at, end, list, flow, hops),
            Packet::Xcast(list) => self.split(scheme, at, list, flow, hops),
        }
    }

    /// A copy for each branch.
    fn split(&mut self, scheme: &Scheme, at: Place, list: List, flow: u64, hops: &mut Vec<Hop>) {
        for (next, to) in self.branches(scheme, at, &list, flow) {
            let listed = match scheme.prune {
                Prune::Truncate => to.len() as u32,
                Prune::Bitmap => list.listed,
            };
            match next {
                Next::Neighbour(link) if to.len() > 1 => hops.push(Hop {
                    link,
                    octets: scheme.format.xcast_octets(listed),
                    packet: Packet::Xcast(List { to, listed }),
                }),
                Next::Tunnel(end) if to.len() > 1 => {
                    self.tunnel(scheme, at, end, List { to, listed }, flow, hops);
                }
                // X2U: one destination is left, or no router on the way splits the list.
                _ => to
                    .into_iter()
                    .for_each(|host| self.unicast(scheme, at, host, flow, hops)),
            }
        }
    }

    fn unicast(
        &mut self,
        scheme: &Scheme,
        at: Place,
        host: HostId,
        flow: u64,
        hops: &mut Vec<Hop>,
    ) {
        if at == Place::Host(host) {
            return;
        }
        let towards = self.routing.towards(self.hosts.router(host));
        let flow = hash(&[flow, host.into()]);
        hops.push(Hop {
            link: self.step(at, &towards, flow).unwrap_or(Link::Down(host)),
            octets: scheme.format.unicast_octets(),
            packet: Packet::Unicast(host),
        });
    }

    fn tunnel(
        &mut self,
        scheme: &Scheme,
        at: Place,
        end: RouterId,
        list: List,
        flow: u64,
        hops: &mut Vec<Hop>,
    ) {
        let towards = self.routing.towards(end);
        let flow = hash(&[flow, end.into()]);
        if let Some(link) = self.step(at, &towards, flow) {
            hops.push(Hop {
                link,
                octets: scheme.format.xcast_octets(list.listed) + scheme.format.tunnel_octets(),
                packet: Packet::Tunnel(end, list),
            });
        }
    }

    /// A list's destinations by where they go next.
    fn branches(
        &mut self,
        scheme: &Scheme,
        at: Place,
        list: &List,
        flow: u64,
    ) -> Vec<(Next, Vec<HostId>)> {
        let mut branches: Vec<(Next, Vec<HostId>)> = Vec::new();
        for &host in &list.to {
            let flow = match scheme.ecmp_key {
                EcmpKey::Flow => flow,
                EcmpKey::Destination => hash(&[flow, host.into()]),
            };
            let next = self.next(scheme, at, host, flow);
            match branches.iter_mut().find(|branch| branch.0 == next) {
                Some((_, to)) => to.push(host),
                None => branches.push((next, vec![host])),
            }
        }
        branches
    }

    fn next(&mut self, scheme: &Scheme, at: Place, host: HostId, flow: u64) -> Next {
        let towards = self.routing.towards(self.hosts.router(host));
        let Some(link) = self.step(at, &towards, flow) else {
            return Next::Unicast;
        };
        let mut router = self.router_behind(link);
        if scheme.deployment.is_capable(router) {
            return Next::Neighbour(link);
        }
        if scheme.deployment.islands() == Islands::PrematureX2u {
            return Next::Unicast;
        }
        while let Some(link) = self.step(Place::Router(router), &towards, flow) {
            router = self.router_behind(link);
            if scheme.deployment.is_capable(router) {
                return Next::Tunnel(router);
            }
        }
        Next::Unicast
    }

    /// The link towards a router; at the router itself, none.
    fn step(&self, at: Place, towards: &Towards, flow: u64) -> Option<Link> {
        match at {
            Place::Host(host) => Some(Link::Up(host)),
            Place::Router(at) => towards
                .next_hop(self.routing.graph(), at, flow)
                .map(Link::Between),
        }
    }

    /// The router that a link leads to; of a link to a host, the one it comes from.
    fn router_behind(&self, link: Link) -> RouterId {
        match link {
            Link::Up(host) | Link::Down(host) => self.hosts.router(host),
            Link::Between(link) => self.routing.graph().to(link),
        }
    }
}
