//! What the maps contain and why, for people.

use std::net::IpAddr;

use ipnet::IpNet;
use xcast_common::maps::{EcmpGroup, NEXT_HOP_NEVER, NEXT_HOP_NO_ROUTE, NextHop};

use super::{
    event::{Hop, Mac, RouteKind, Via},
    fib::{self, By, Decision},
    next_hops::{FIXED, Key},
    path::{PathId, Resolution},
    prefix,
    rib::{Consulted, Hops, Scope},
    route_sync::RouteSync,
};

/// What the route map says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The matching prefix; `None` if none matches.
    pub prefix: Option<IpNet>,
    /// The next-hop id.
    pub next_hop: u32,
    /// Why, in words.
    pub why: String,
}

/// One route of the route map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// Destinations.
    pub prefix: IpNet,
    /// Id of the next hop.
    pub next_hop: u32,
    /// The next hop's entry, as it was last written.
    pub entry: NextHop,
    /// The gateway, if there is one.
    pub via: Option<IpAddr>,
    /// Name of the interface, if there is one.
    pub device: Option<String>,
    /// The kernel's table that the route comes from, if it comes from one.
    pub table: Option<u32>,
    /// Why, in words.
    pub why: String,
}

/// One entry of the next-hop table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopRow {
    /// Its id.
    pub id: u32,
    /// What it says, as it was last written.
    pub entry: NextHop,
    /// IP address of the next hop, if it has one.
    pub address: Option<IpAddr>,
    /// Name of the interface, if there is one.
    pub device: Option<String>,
}

/// What a packet to a gateway has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayTo {
    /// The router's own address that the gateway would send to; `None` if there is none of the family.
    pub source: Option<IpAddr>,
    /// Link-layer address of the port.
    pub source_mac: Mac,
    /// Link-layer address of the gateway.
    pub destination_mac: Mac,
}

/// What is in the Xcast routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XcastTableRow {
    /// Its number.
    pub table: u32,
    /// Prefixes whose routes lead to where lists are taken.
    pub usable: usize,
    /// Those that are passed over, by the way they go: how many, one of them, and why.
    pub passed_over: Vec<(usize, IpNet, String)>,
}

/// A gateway that routes lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRow {
    /// Its interface.
    pub ifindex: u32,
    /// Name of the interface.
    pub device: String,
    /// Its address.
    pub address: IpAddr,
    /// The kernel knows its link-layer address.
    pub is_resolved: bool,
}

impl RouteSync {
    /// Gateways that routes lead to by ports that can send, in order.
    pub fn gateways(&self) -> Vec<GatewayRow> {
        let mut rows: Vec<_> = self
            .gateways_in_use()
            .map(|(ifindex, address)| GatewayRow {
                ifindex,
                device: self.link_name(ifindex),
                address,
                is_resolved: self.resolved(ifindex, address).is_some(),
            })
            .collect();
        rows.sort_by(|a, b| (&a.device, a.address).cmp(&(&b.device, b.address)));
        rows
    }

    /// How to reach a gateway; `None` as long as its link-layer address is not known.
    pub fn way_to(&self, ifindex: u32, gateway: IpAddr) -> Option<WayTo> {
        Some(WayTo {
            source: self.rib.source_towards(ifindex, gateway),
            source_mac: self.rib.link(ifindex)?.mac?,
            destination_mac: self.resolved(ifindex, gateway)?,
        })
    }

    /// The gateway that packets to an address are sent to, if it is one, and not one of several.
    pub fn gateway_towards(&self, address: IpAddr) -> Option<(u32, IpAddr)> {
        let id = self.lookup_id(address)?;
        match self.next_hops.get(id)?.key {
            Key::Gateway {
                ifindex, gateway, ..
            } => Some((ifindex, gateway)),
            Key::Host { .. } | Key::Link { .. } | Key::Group(_) | Key::Tunnel { .. } => None,
        }
    }

    fn lookup_id(&self, address: IpAddr) -> Option<u32> {
        let routes = &self.fib.routes;
        let found = routes.longest(prefix::host(address), |&id| Some(id));
        found.map(|(_, id)| id)
    }

    fn resolved(&self, ifindex: u32, address: IpAddr) -> Option<Mac> {
        self.rib.neighbour(ifindex, address)?.resolved()
    }

    /// Looks an address up as the datapath does.
    pub fn lookup(&self, address: IpAddr) -> Lookup {
        match self
            .fib
            .routes
            .longest(prefix::host(address), |&id| Some(id))
        {
            Some((prefix, next_hop)) => Lookup {
                prefix: Some(prefix),
                next_hop,
                why: self.why(prefix, next_hop) + &self.passed_over(prefix::host(address)),
            },
            None => Lookup {
                prefix: None,
                next_hop: NEXT_HOP_NO_ROUTE,
                why: "no route".to_owned() + &self.passed_over(prefix::host(address)),
            },
        }
    }

    /// Number of prefixes in the route map.
    pub fn route_count(&self) -> usize {
        self.fib.routes.len()
    }

    /// Number of entries of the next-hop table in use.
    pub fn next_hop_count(&self) -> usize {
        FIXED.len() + self.next_hops.iter().count()
    }

    /// Own and anycast addresses, with their flags.
    pub fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let addresses = self.fib.own_addresses.iter();
        addresses.map(|(address, flags)| (*address, *flags))
    }

    /// An entry of the next-hop table, as it was last written.
    pub fn next_hop(&self, id: u32) -> Option<NextHop> {
        let fixed = FIXED.get(id as usize).copied();
        fixed.or_else(|| self.next_hops.get(id).map(|slot| slot.entry))
    }

    /// The buckets of a next hop of kind [`Ecmp`](xcast_common::maps::NextHopKind::Ecmp), as they
    /// were last written.
    pub fn ecmp_buckets(&self, id: u32) -> Option<&EcmpGroup> {
        let slot = self.next_hops.get(id)?;
        slot.group.as_ref().map(|group| &group.buckets)
    }

    /// How many routes lead to a next hop, those of ECMP groups not counted.
    pub fn next_hop_users(&self, id: u32) -> u32 {
        self.fib.users(id)
    }

    /// The route map, in order of the prefixes.
    pub fn routes(&self) -> impl Iterator<Item = RouteRow> {
        self.routes_after(None, None)
    }

    /// The same from behind a prefix on, of IPv6 (true), IPv4 (false), or both.
    pub fn routes_after(
        &self,
        after: Option<IpNet>,
        ipv6: Option<bool>,
    ) -> impl Iterator<Item = RouteRow> {
        let routes = self.fib.routes.iter_after(after, ipv6);
        routes.map(|(prefix, &id)| self.route_row(prefix, id))
    }

    fn route_row(&self, prefix: IpNet, id: u32) -> RouteRow {
        let slot = self.next_hops.get(id);
        let (via, ifindex) = match slot.map(|slot| &slot.key) {
            Some(&Key::Gateway {
                ifindex, gateway, ..
            }) => (Some(gateway), Some(ifindex)),
            Some(&(Key::Host { ifindex, .. } | Key::Link { ifindex })) => (None, Some(ifindex)),
            Some(&Key::Tunnel { tunnel, .. }) => self.remote_row(tunnel),
            Some(Key::Group(_)) | None => (None, None),
        };
        let decision = self.decision(prefix);
        RouteRow {
            prefix,
            next_hop: id,
            entry: self.next_hop(id).unwrap_or_default(),
            via,
            device: ifindex.map(|ifindex| self.link_name(ifindex)),
            table: decision.and_then(|decision| match decision.by {
                By::Route { table, .. } | By::Scope { table } | By::Arrival { table } => {
                    Some(self.rib.tables[table].id)
                }
                By::Rule(_) => None,
            }),
            why: self.why(prefix, id),
        }
    }

    /// The other end of a tunnel, and the interface towards it.
    fn remote_row(&self, tunnel: u16) -> (Option<IpAddr>, Option<u32>) {
        let remote = self
            .tunnels
            .get(usize::from(tunnel))
            .map(|state| state.spec.remote);
        let outer = self.outer(usize::from(tunnel)).ok();
        (remote, outer.map(|outer| outer.neighbour.0))
    }

    /// The entries of the next-hop table in use, in order of their ids.
    pub fn next_hops(&self) -> impl Iterator<Item = NextHopRow> {
        self.next_hops_after(None)
    }

    /// The same from behind an id on.
    pub fn next_hops_after(&self, after: Option<u32>) -> impl Iterator<Item = NextHopRow> {
        let first = after.map_or(0, |id| id.saturating_add(1));
        let fixed = (0..).zip(FIXED).skip(first as usize);
        let fixed = fixed.map(|(id, entry)| self.next_hop_row(id, None, entry));
        let rest = self.next_hops.iter().filter(move |(id, _)| *id >= first);
        fixed.chain(rest.map(|(id, slot)| self.next_hop_row(id, Some(&slot.key), slot.entry)))
    }

    /// The IP address of a next hop, if it has one.
    pub fn next_hop_address(&self, id: u32) -> Option<IpAddr> {
        let slot = self.next_hops.get(id)?;
        self.next_hop_row(id, Some(&slot.key), slot.entry).address
    }

    fn next_hop_row(&self, id: u32, key: Option<&Key>, entry: NextHop) -> NextHopRow {
        let (ifindex, address) = match key {
            Some(&Key::Gateway {
                ifindex, gateway, ..
            }) => (Some(ifindex), Some(gateway)),
            Some(&Key::Host {
                ifindex, address, ..
            }) => (Some(ifindex), Some(address)),
            Some(&Key::Link { ifindex }) => (Some(ifindex), None),
            Some(&Key::Tunnel { tunnel, .. }) => {
                let (address, ifindex) = self.remote_row(tunnel);
                (ifindex, address)
            }
            Some(Key::Group(_)) | None => (None, None),
        };
        NextHopRow {
            id,
            entry,
            address,
            device: ifindex.map(|ifindex| self.link_name(ifindex)),
        }
    }

    /// Name of an interface; its number if it is gone.
    pub fn link_name(&self, ifindex: u32) -> String {
        match self.rib.link(ifindex) {
            Some(link) => link.name.clone(),
            None => format!("if{ifindex}"),
        }
    }

    fn decision(&self, prefix: IpNet) -> Option<Decision> {
        match fib::never(prefix) {
            Some(_) => None,
            None => fib::decide(&self.rib, prefix),
        }
    }

    /// Why `prefix` has next hop `id`.
    fn why(&self, prefix: IpNet, id: u32) -> String {
        if let Some((_, next_hop)) = fib::never(prefix) {
            return if next_hop == NEXT_HOP_NEVER {
                "never a destination, never a source".to_owned()
            } else {
                "never a destination".to_owned()
            };
        }
        let decision = fib::decide(&self.rib, prefix);
        if let Some(name) = self.tunnel_name(id) {
            let alone = match fib::decide_as_kernel(&self.rib, prefix) {
                Some(decision) => self.route_text(&decision),
                None => "no route, so it stays in the tunnel".to_owned(),
            };
            let by = match decision {
                Some(decision) if decision.tunnel.is_some() => self.text_with_table(&decision),
                _ => prefix.to_string(),
            };
            return format!("{by} through tunnel {name}; for one destination alone: {alone}");
        }
        let Some(decision) = decision else {
            return "no route".to_owned();
        };
        let mut why = self.text_with_table(&decision);
        if let Some(slot) = self.next_hops.get(id)
            && let Some(state) = self.neighbour_text(&slot.key)
        {
            why += &state;
        }
        why
    }

    /// A route, and the Xcast routing table if it is one of that.
    fn text_with_table(&self, decision: &Decision) -> String {
        let text = self.route_text(decision);
        match (decision.by, self.rib.xcast_table()) {
            (By::Route { path, .. }, Some(table)) if self.rib.paths[path].spec.for_lists => {
                format!("Xcast table {table}: {text}")
            }
            _ => text,
        }
    }

    /// What the Xcast routing table would have decided instead, if what it leads to took lists; empty if nothing.
    fn passed_over(&self, prefix: IpNet) -> String {
        let Some((_, routes)) = self.rib.xcast_routes() else {
            return String::new();
        };
        let decision = self.decision(prefix);
        let waiting = routes.longest(prefix, |node| {
            let mut paths = node.candidates.iter().map(|candidate| candidate.path);
            paths.find(|&path| self.is_passed_over(path))
        });
        match waiting {
            Some((longer, path))
                if decision
                    .as_ref()
                    .is_none_or(|decision| longer.prefix_len() >= decision.prefix.prefix_len()) =>
            {
                format!(
                    "; the Xcast table's route to {longer} is passed over: {}",
                    self.why_passed_over(path)
                )
            }
            _ => String::new(),
        }
    }

    /// A route that was meant for lists, and waits for its next hop to take them.
    fn is_passed_over(&self, path: PathId) -> bool {
        if let Some(tunnel) = self.tunnel_of(path) {
            return tunnel.is_none();
        }
        let path = &self.rib.paths[path];
        let Resolution::Waiting { .. } = path.resolution else {
            return false;
        };
        let by_gateway = |hop: &Hop| matches!(hop.via, Via::Gateway(_));
        match self.rib.hops(path) {
            Some(Hops::One(hop)) => by_gateway(&hop),
            Some(Hops::Many(_, hops)) => hops.iter().any(by_gateway),
            Some(Hops::Blackhole) | None => false,
        }
    }

    /// Why the next hops of a route take no lists.
    fn why_passed_over(&self, path: PathId) -> String {
        let path = &self.rib.paths[path];
        let hops = match self.rib.hops(path) {
            Some(Hops::One(hop)) => vec![hop],
            Some(Hops::Many(_, hops)) => hops,
            Some(Hops::Blackhole) | None => Vec::new(),
        };
        let why = hops.iter().map(|hop| {
            let device = self.link_name(hop.ifindex);
            if let Some(tunnel) = self
                .tunnels_by(hop)
                .next()
                .and_then(|tunnel| self.tunnels.get(tunnel.into()))
            {
                return format!("the tunnel to {} does not work", tunnel.spec.remote);
            }
            match hop.via {
                Via::Gateway(gateway) if !self.ports.contains_key(&hop.ifindex) => {
                    format!("{gateway} is no tunnel's far end, and {device} no port")
                }
                Via::Gateway(gateway) if self.resolved(hop.ifindex, gateway).is_none() => {
                    format!("the link-layer address of {gateway} on {device} is not known")
                }
                Via::Gateway(gateway) => {
                    format!("{gateway} on {device} has not proved that it speaks Xcast")
                }
                Via::Link | Via::Kernel => format!("no gateway on {device}"),
            }
        });
        why.collect::<Vec<_>>().join(", ")
    }

    /// What is in the Xcast routing table, if there is to be one.
    pub fn xcast_table(&self) -> Option<XcastTableRow> {
        let mut row = XcastTableRow {
            table: self.rib.xcast_table()?,
            usable: 0,
            passed_over: Vec::new(),
        };
        for id in self.rib.paths.for_lists() {
            let path = &self.rib.paths[id];
            if let Resolution::Use { .. } | Resolution::Tunnel { .. } = path.resolution {
                row.usable += path.users.len();
            } else if let Some(&example) = path.users.iter().min()
                && self.is_passed_over(id)
            {
                let why = self.why_passed_over(id);
                row.passed_over.push((path.users.len(), example, why));
            }
        }
        row.passed_over.sort_by_key(|&(_, example, _)| example);
        Some(row)
    }

    /// A route, much as `ip route` shows it.
    fn route_text(&self, decision: &Decision) -> String {
        let path = match decision.by {
            By::Route { path, .. } => &self.rib.paths[path],
            By::Scope { table } => return self.scope_text(decision.prefix, table),
            By::Arrival { .. } => {
                return format!(
                    "{} (several routes of one metric: only the kernel knows)",
                    decision.prefix
                );
            }
            By::Rule(at) => {
                return match self.rib.order(decision.prefix).get(at) {
                    Some(Consulted::Stack { rule, .. }) => format!("rule {rule}"),
                    _ => "rule".to_owned(),
                };
            }
        };
        let mut text = match path.spec.kind {
            RouteKind::Unicast => decision.prefix.to_string(),
            kind => format!("{kind} {}", decision.prefix),
        };
        if path.spec.kind == RouteKind::Unicast {
            match self.rib.hops(path) {
                None => {}
                Some(Hops::Blackhole) => text += " blackhole",
                Some(Hops::One(hop)) => text += &self.hop_text(&hop),
                Some(Hops::Many(_, hops)) => {
                    for hop in hops {
                        text += &format!(" nexthop{} weight {}", self.hop_text(&hop), hop.weight);
                    }
                }
            }
        }
        if path.spec.preference != 0 {
            text += if path.spec.preference > 0 {
                " pref high"
            } else {
                " pref low"
            };
        }
        if let Some(why) = path.spec.kernel_only {
            text += &format!(" (only the kernel knows: {why})");
        }
        if let Some(protocol) = protocol_name(path.spec.protocol) {
            text += &format!(" proto {protocol}");
        }
        text
    }

    /// What a prefix has routes for, besides those for all packets.
    fn scope_text(&self, prefix: IpNet, table: usize) -> String {
        let Scope { tos, source } = self.rib.tables[table].scope;
        let mut text = prefix.to_string();
        if tos != 0 {
            text += &format!(" tos {tos:#x}");
        }
        if let Some(source) = source {
            text += &format!(" from {source}");
        }
        text + " (a route for some packets: only the kernel knows)"
    }

    fn hop_text(&self, hop: &Hop) -> String {
        let device = self.link_name(hop.ifindex);
        let port = if self.ports.contains_key(&hop.ifindex) {
            ""
        } else {
            " (no xcast port)"
        };
        match hop.via {
            Via::Link => format!(" dev {device}{port}"),
            Via::Gateway(gateway) => format!(" via {gateway} dev {device}{port}"),
            Via::Kernel => format!(" dev {device} by what only the kernel can do"),
        }
    }

    fn neighbour_text(&self, key: &Key) -> Option<String> {
        let (ifindex, address) = match *key {
            Key::Gateway {
                ifindex, gateway, ..
            } => (ifindex, gateway),
            Key::Host {
                ifindex, address, ..
            } => (ifindex, address),
            Key::Link { .. } => return Some(", neighbour not resolved".to_owned()),
            Key::Group(_) | Key::Tunnel { .. } => return None,
        };
        Some(match self.rib.neighbour(ifindex, address) {
            Some(neighbour) => format!(", neighbour {address} {}", neighbour.state),
            None => format!(", neighbour {address} unknown"),
        })
    }
}

/// The name `ip route` has for a routing protocol number.
fn protocol_name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        _ => return None,
    })
}
