//! Routes into tunnels.
//!
//! A tunnel is a next hop like any other, preferred to the kernel's routes for the same prefix while it works. Packets to
//! its other end go as the kernel's routes say, and never through a tunnel.

use std::net::IpAddr;

use ipnet::IpNet;
use xcast_common::maps::{NEXT_HOP_NO_ROUTE, NextHopKind, counter::Counter};
use xcast_overlay::backbone::tunnels::Carriage;

use super::{
    edit::Edit,
    event::{Hop, Via},
    fib::{self, By},
    next_hops::{
        FIXED, Key, NEXT_HOP_BLACKHOLE, NEXT_HOP_LOCAL, NEXT_HOP_NO_PORT, NEXT_HOP_UNREACHABLE,
    },
    path::PathId,
    prefix,
    rib::Hops,
    route_sync::RouteSync,
    tunnels::{NoWay, Outer, TunnelSpec},
};

impl RouteSync {
    /// How a tunnel carries packets from now on, if it does.
    pub fn set_carriage(&mut self, tunnel: usize, carriage: Carriage, edits: &mut Vec<Edit>) {
        let works = |sync: &Self| sync.tunnels.works(tunnel as u16);
        let before = works(self);
        let Some(state) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        state.carriage = carriage;
        if works(self) != before {
            let routes = self.tunnels.routes_of(tunnel as u16);
            self.rib.changes.prefixes.extend(routes);
        }
        self.update(edits);
    }

    /// The way to the other end of a tunnel.
    ///
    /// # Errors
    ///
    /// There is none, or there is no such tunnel.
    pub fn outer(&self, tunnel: usize) -> Result<Outer, NoWay> {
        self.tunnels
            .get(tunnel)
            .map_or(Err(NoWay::Unknown), |state| state.outer)
    }

    /// The tunnel that a route of the Xcast routing table leads into, as its gateway is the far end, or its interface the kernel's
    /// device to there: `None` if it leads elsewhere, and no tunnel if none of those works.
    pub(super) fn tunnel_of(&self, path: PathId) -> Option<Option<u16>> {
        let path = &self.rib.paths[path];
        if self.tunnels.len() == 0 || !path.spec.for_lists {
            return None;
        }
        let hops = match self.rib.hops(path)? {
            Hops::One(hop) => vec![hop],
            Hops::Many(_, hops) => hops,
            Hops::Blackhole => return None,
        };
        let tunnels: Vec<u16> = hops.iter().flat_map(|hop| self.tunnels_by(hop)).collect();
        if tunnels.is_empty() {
            return None;
        }
        Some(
            tunnels
                .into_iter()
                .find(|&tunnel| self.tunnels.works(tunnel)),
        )
    }

    /// The tunnels that a next hop of a route for lists stands for.
    pub(super) fn tunnels_by(&self, hop: &Hop) -> impl Iterator<Item = u16> {
        let gateway = match hop.via {
            Via::Gateway(gateway) => Some(gateway),
            Via::Link | Via::Kernel => None,
        };
        self.tunnels.to(gateway, self.rib.link(hop.ifindex))
    }

    /// The tunnel that a next hop leads into, and the way to its other end.
    pub fn tunnel_of_next_hop(&self, id: u32) -> Option<(&TunnelSpec, Result<Outer, NoWay>)> {
        let Key::Tunnel { tunnel, .. } = self.next_hops.get(id)?.key else {
            return None;
        };
        let state = self.tunnels.get(usize::from(tunnel))?;
        Some((&state.spec, state.outer))
    }

    /// The name of the tunnel that a next hop leads into.
    pub fn tunnel_name(&self, id: u32) -> Option<&str> {
        let (spec, _) = self.tunnel_of_next_hop(id)?;
        Some(&spec.name)
    }

    /// The next hop that one destination alone has in place of another one, which may lead into a tunnel.
    pub fn without_tunnel(&self, id: u32) -> u32 {
        match self.next_hops.get(id).map(|slot| &slot.key) {
            Some(&Key::Tunnel { native, .. }) => native,
            _ => id,
        }
    }

    /// The tunnels that lists for an address would go by if they worked, the preferred ones first: their places in the
    /// configuration.
    pub fn idle_tunnels(&self, address: IpAddr) -> Vec<usize> {
        let host = prefix::host(address);
        let Some((prefix, tunnels)) = self.tunnels.idle(host) else {
            return Vec::new();
        };
        let used = self.fib.routes.longest(host, |_| Some(()));
        match used {
            Some((used, ())) if used.prefix_len() > prefix.prefix_len() => Vec::new(),
            _ => tunnels.into_iter().map(usize::from).collect(),
        }
    }

    /// Looks at the ways to all tunnels' other ends again. Returns the prefixes that lead elsewhere because of that.
    pub(super) fn update_tunnels(&mut self, edits: &mut Vec<Edit>) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for tunnel in 0..self.tunnels.len() {
            let Some(state) = self.tunnels.get(tunnel) else {
                continue;
            };
            let new = self.outer_of(&state.spec);
            let (old, written, remote) = (state.outer, state.written, state.spec.remote);
            // What arrives may do so by another way.
            let known = match &new {
                Ok(outer) => Some((outer.local, outer.macs())),
                Err(_) => written.or(state.spec.local.map(|local| (local, [0; 12]))),
            };
            if let Some((local, macs)) = known.filter(|_| known != written) {
                edits.push(Edit::Tunnel {
                    tunnel,
                    local,
                    macs,
                });
            }
            if let Err(NoWay::Unresolved { ifindex, address }) = new
                && address == remote
                && new != old
            {
                edits.push(Edit::ResolveRemote { ifindex, address });
            }
            if old.is_ok() != new.is_ok() {
                prefixes.extend(self.tunnels.routes_of(tunnel as u16));
            }
            if let Some(state) = self.tunnels.get_mut(tunnel) {
                state.outer = new;
                state.written = known;
            }
        }
        prefixes
    }

    /// Asks again for the other ends of tunnels that are on a link, and not resolved.
    pub(super) fn tend_remotes(&self, edits: &mut Vec<Edit>) {
        for tunnel in 0..self.tunnels.len() {
            if let Some(state) = self.tunnels.get(tunnel)
                && let Err(NoWay::Unresolved { ifindex, address }) = state.outer
                && address == state.spec.remote
            {
                edits.push(Edit::ResolveRemote { ifindex, address });
            }
        }
    }

    /// The next hop that a prefix has without a tunnel; 0 if there is none that delivers.
    pub(super) fn native_next_hop(&self, prefix: IpNet) -> u32 {
        let decision = fib::decide_as_kernel(&self.rib, prefix);
        let id = decision.map_or(NEXT_HOP_NO_ROUTE, |decision| decision.id);
        match id {
            NEXT_HOP_UNREACHABLE | NEXT_HOP_BLACKHOLE => NEXT_HOP_NO_ROUTE,
            // Those who never are destinations.
            id if (id as usize) < FIXED.len()
                && FIXED[id as usize].kind == NextHopKind::Skip as u8 =>
            {
                NEXT_HOP_NO_ROUTE
            }
            id => id,
        }
    }

    fn outer_of(&self, spec: &TunnelSpec) -> Result<Outer, NoWay> {
        let remote = prefix::host(spec.remote);
        if fib::never(remote).is_some() {
            return Err(NoWay::NoRoute);
        }
        let decision = fib::decide_as_kernel(&self.rib, remote).ok_or(NoWay::NoRoute)?;
        let (ifindex, address, mtu_bytes) = match decision.on_link {
            Some(on_link) => (on_link.ifindex, spec.remote, on_link.mtu_bytes),
            None => self.gateway_of(decision.id)?,
        };
        let entry = self.context().forward(ifindex, address, mtu_bytes, 0);
        if entry.kind != NextHopKind::Forward as u8 {
            return Err(if entry.reason == Counter::StackNoPort as u8 {
                NoWay::NoPort
            } else {
                NoWay::Unresolved { ifindex, address }
            });
        }
        let preferred = match decision.by {
            By::Route { path, .. } => self.rib.paths[path].spec.preferred_source,
            _ => None,
        };
        let local = spec
            .local
            .or(preferred)
            .or_else(|| self.rib.source_towards(ifindex, address))
            .filter(|local| local.is_ipv6() == spec.remote.is_ipv6());
        Ok(Outer {
            neighbour: (ifindex, address),
            entry,
            local: local.ok_or(NoWay::NoSource)?,
        })
    }

    /// The gateway of a next hop; of a multipath route, that of one that is in use.
    fn gateway_of(&self, id: u32) -> Result<(u32, IpAddr, Option<u16>), NoWay> {
        match id {
            NEXT_HOP_NO_ROUTE => return Err(NoWay::NoRoute),
            NEXT_HOP_LOCAL => return Err(NoWay::Own),
            NEXT_HOP_NO_PORT => return Err(NoWay::NoPort),
            _ => {}
        }
        let slot = self.next_hops.get(id).ok_or(NoWay::NotForwarded)?;
        match (&slot.key, &slot.group) {
            (
                &Key::Gateway {
                    ifindex,
                    gateway,
                    mtu_bytes,
                },
                _,
            ) => Ok((ifindex, gateway, mtu_bytes)),
            (_, Some(group)) => self.gateway_of(group.buckets.buckets[0]),
            _ => Err(NoWay::NotForwarded),
        }
    }
}
