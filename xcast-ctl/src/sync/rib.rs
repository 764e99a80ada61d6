//! What the kernel has: links, addresses, neighbours, nexthop objects and routes.
//!
//! [`Rib::apply`] follows the kernel's state and notes in [`Changes`] what forwarding has to look at
//! again; it decides nothing itself. The kernel does not announce every route it drops: those that
//! leave by a link that goes down, use a nexthop object that is removed, or prefer a source address
//! that is removed, go silently. What the kernel does then is repeated here.
//!
//! Routes are many, the ways they go are few. As in the kernel, routes that differ only in prefix
//! and metric share one [`Path`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    event::{
        Address, Hop, KernelEvent, Link, Neighbour, NextHopObject, NextHopObjectKind, Placement,
        Route, RouteKind, Via,
    },
    node::{Candidate, Node},
    path::{Next, Path, PathId, Paths},
    prefix::PrefixMap,
    rules::Step,
    siblings::{self, same_hop},
};

/// The kernel's main table (`RT_TABLE_MAIN`).
pub(super) const TABLE_MAIN: u32 = 254;
/// The kernel's local table (`RT_TABLE_LOCAL`).
pub(super) const TABLE_LOCAL: u32 = 255;

/// The kernel's state.
#[derive(Debug)]
pub(super) struct Rib {
    /// Routing tables, consulted or not.
    pub(super) tables: Vec<Table>,
    /// What is consulted, in order, for IPv4 and IPv6.
    order: [Vec<Consulted>; 2],
    /// What the order is made from.
    steps: [Vec<Step>; 2],
    /// The Xcast routing table (RFC 5058 section 11.1), by number.
    xcast_table: Option<u32>,
    pub(super) paths: Paths,
    pub(super) changes: Changes,
    links: HashMap<u32, Seen<Link>>,
    ipv6_mtus: HashMap<u32, u32>,
    /// By family, whether it is IPv6, and by interface.
    ignore_link_down: HashMap<(bool, Option<u32>), Seen<bool>>,
    addresses: HashMap<Address, Seen<()>>,
    neighbours: BTreeMap<(IpAddr, u32), Seen<Neighbour>>,
    /// The sysctl `fib_multipath_use_neigh`.
    multipath_uses_neighbours: bool,
    objects: HashMap<u32, Seen<NextHopObjectKind>>,
    /// Groups that each nexthop object is a member of.
    groups_of: HashMap<u32, HashSet<u32>>,
    /// Counts dumps. What a dump does not mention keeps an older number and is dropped at its end.
    generation: u32,
    resyncing: bool,
}

/// What changed since forwarding last looked. Entries may repeat.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Prefixes whose routes changed.
    pub(super) prefixes: Vec<IpNet>,
    /// Paths that may lead elsewhere, or have no users any more.
    pub(super) paths: Vec<PathId>,
    /// Links whose properties changed.
    pub(super) links: HashSet<u32>,
    /// Neighbours, as (interface, address).
    pub(super) neighbours: Vec<(u32, IpAddr)>,
    /// Addresses that became or ceased to be this host's.
    pub(super) addresses: Vec<IpAddr>,
}

/// A value, and the dump that mentioned it last.
#[derive(Debug)]
struct Seen<T> {
    value: T,
    generation: u32,
}

/// A routing table, or what is in one for packets that only the kernel knows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) id: u32,
    /// Whom its routes are for.
    pub(super) scope: Scope,
    pub(super) routes: PrefixMap<Node>,
}

/// For which packets a route is.
///
/// The kernel keeps routes of different scopes apart, each with its own order and its own replacements, and
/// decides among those of a destination by the packet. Routes that are not for all stand for the stack here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// Type of service; 0 for any.
    pub(super) tos: u8,
    /// Sources.
    pub(super) source: Option<IpNet>,
}

impl Scope {
    fn of(route: &Route) -> Self {
        Self {
            tos: route.tos,
            source: route.source.filter(|source| source.prefix_len() > 0),
        }
    }

    pub(super) fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// Something that decides about destinations.
#[derive(Debug)]
pub(super) enum Consulted {
    /// A routing table.
    Table {
        /// Where its routes are: for all packets, and for some.
        tables: Vec<usize>,
        /// Routes count only if their prefix is longer than this.
        longer_than: Option<u8>,
    },
    /// These destinations go to the stack.
    Stack {
        prefix: IpNet,
        /// The policy rule that says so.
        rule: String,
    },
}

/// Where a path leads, nexthop objects looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hops {
    Blackhole,
    One(Hop),
    /// The members of a multipath route, or of this nexthop group.
    Many(Option<u32>, Vec<Hop>),
}

/// Whether a next hop may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Liveness {
    /// No: its link is down, or has no carrier and the kernel was told to mind that.
    Dead,
    /// Yes, if there is nothing better: its link has no carrier.
    NoCarrier,
    /// Yes.
    Live,
}

impl Rib {
    /// Consults these tables as long as nobody says otherwise, and for lists one more.
    pub(super) fn new(tables: &[u32], xcast_table: Option<u32>) -> Self {
        let step = |&id: &u32| Step::Table {
            id,
            longer_than: None,
        };
        let steps: Vec<Step> = tables.iter().map(step).collect();
        let mut rib = Self {
            tables: Vec::new(),
            order: [Vec::new(), Vec::new()],
            steps: [steps.clone(), steps],
            xcast_table,
            paths: Paths::new(xcast_table),
            changes: Changes::default(),
            links: HashMap::new(),
            ipv6_mtus: HashMap::new(),
            ignore_link_down: HashMap::new(),
            addresses: HashMap::new(),
            neighbours: BTreeMap::new(),
            multipath_uses_neighbours: false,
            objects: HashMap::new(),
            groups_of: HashMap::new(),
            generation: 0,
            resyncing: false,
        };
        rib.arrange();
        rib
    }

    /// What decides about destinations of a family, from now on.
    pub(super) fn set_steps(&mut self, ipv6: bool, steps: Vec<Step>) {
        let old = std::mem::replace(&mut self.steps[usize::from(ipv6)], steps);
        if old == self.steps[usize::from(ipv6)] {
            return;
        }
        self.arrange();
        let of_family = |prefix: &IpNet| is_ipv6(*prefix) == ipv6;
        let tables = self.tables.iter();
        let routes = tables.flat_map(|table| table.routes.iter());
        let routes = routes.map(|(prefix, _)| prefix).filter(of_family);
        self.changes.prefixes.extend(routes);
        let steps = old.iter().chain(&self.steps[usize::from(ipv6)]);
        let stack = steps.filter_map(|step| match step {
            Step::Stack { prefix, .. } => Some(*prefix),
            Step::Table { .. } => None,
        });
        self.changes.prefixes.extend(stack);
    }

    /// Finds the tables that the steps name.
    fn arrange(&mut self) {
        let tables = &self.tables;
        let indices = |id: u32| {
            let of = |table: &Table| table.id == id;
            let all = tables.iter().enumerate().filter(|(_, table)| of(table));
            all.map(|(at, _)| at).collect()
        };
        let consulted = |step: &Step| match step {
            Step::Table { id, longer_than } => Consulted::Table {
                tables: indices(*id),
                longer_than: *longer_than,
            },
            Step::Stack { prefix, rule } => Consulted::Stack {
                prefix: *prefix,
                rule: rule.clone(),
            },
        };
        self.order = [0, 1].map(|family| self.steps[family].iter().map(consulted).collect());
    }

    /// Number of the Xcast routing table, if there is to be one.
    pub(super) fn xcast_table(&self) -> Option<u32> {
        self.xcast_table
    }

    /// The Xcast routing table, as long as there are routes in it. Routes for some packets only are none of its.
    pub(super) fn xcast_routes(&self) -> Option<(usize, &PrefixMap<Node>)> {
        let id = self.xcast_table?;
        let mut tables = self.tables.iter().enumerate();
        let (at, table) = tables.find(|(_, table)| table.id == id && table.scope.is_all())?;
        Some((at, &table.routes))
    }

    /// What decides about a prefix, in order.
    pub(super) fn order(&self, prefix: IpNet) -> &[Consulted] {
        &self.order[usize::from(is_ipv6(prefix))]
    }

    /// A dump is under way: the state is incomplete.
    pub(super) fn resyncing(&self) -> bool {
        self.resyncing
    }

    pub(super) fn apply(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::ResyncBegin => {
                self.generation = self.generation.wrapping_add(1);
                self.resyncing = true;
            }
            KernelEvent::ResyncEnd => {
                self.sweep();
                self.resyncing = false;
            }
            KernelEvent::Link(link) => self.set_link(link),
            KernelEvent::LinkRemoved { ifindex } => self.remove_link(ifindex),
            KernelEvent::Ipv6Mtu { ifindex, mtu_bytes } => {
                if self.ipv6_mtus.insert(ifindex, mtu_bytes) != Some(mtu_bytes) {
                    self.changes.links.insert(ifindex);
                }
            }
            KernelEvent::IgnoreLinkDown {
                ipv6,
                ifindex,
                ignore,
            } => self.set_ignore_link_down(ipv6, ifindex, ignore),
            KernelEvent::MultipathUsesNeighbours(yes) => {
                if std::mem::replace(&mut self.multipath_uses_neighbours, yes) != yes {
                    let of_ipv4 = self.paths_where(|_, path| !path.spec.ipv6);
                    self.changes.paths.extend(of_ipv4);
                }
            }
            KernelEvent::Address(address) => {
                let seen = self.seen(());
                if self.addresses.insert(address, seen).is_none() {
                    self.changes.addresses.push(address.address);
                    if address.address.is_ipv4() {
                        self.revive_paths_over(address.ifindex);
                    }
                }
            }
            KernelEvent::AddressRemoved(address) => self.remove_address(address),
            KernelEvent::Neighbour(neighbour) => {
                let key = (neighbour.address, neighbour.ifindex);
                let seen = self.seen(neighbour);
                if self.neighbours.insert(key, seen).map(|old| old.value) != Some(neighbour) {
                    let key = (neighbour.ifindex, neighbour.address);
                    self.changes.neighbours.push(key);
                }
            }
            KernelEvent::NeighbourRemoved { ifindex, address } => {
                if self.neighbours.remove(&(address, ifindex)).is_some() {
                    self.changes.neighbours.push((ifindex, address));
                }
            }
            KernelEvent::NextHopObject(object) => self.set_object(object),
            KernelEvent::NextHopObjectRemoved { id } => self.remove_object(id),
            KernelEvent::Route {
                mut route,
                placement,
            } => {
                route.kind = self.own_kind(&route);
                self.insert_route(&route, placement);
            }
            KernelEvent::RouteRemoved(mut route) => {
                route.kind = self.own_kind(&route);
                self.remove_route(&route);
            }
            // For whoever says what is consulted.
            KernelEvent::SettingsChanged
            | KernelEvent::Ipsec(_)
            | KernelEvent::Rule { .. }
            | KernelEvent::RuleRemoved(_)
            | KernelEvent::RulesKnown { .. } => {}
        }
    }

    pub(super) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex).map(|seen| &seen.value)
    }

    /// The largest packet of a family that a link takes, in octets; 0 if there is no such link.
    pub(super) fn link_mtu(&self, ifindex: u32, ipv6: bool) -> u32 {
        let link_mtu = self.link(ifindex).map_or(0, |link| link.mtu_bytes);
        let ipv6_mtu = self.ipv6_mtus.get(&ifindex).filter(|_| ipv6);
        ipv6_mtu.map_or(link_mtu, |&mtu| mtu.min(link_mtu))
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values().map(|seen| &seen.value)
    }

    pub(super) fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours
            .get(&(address, ifindex))
            .map(|seen| &seen.value)
    }

    /// All neighbours.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values().map(|seen| &seen.value)
    }

    /// All neighbours whose address is in `prefix`.
    pub(super) fn neighbours_in(&self, prefix: IpNet) -> impl Iterator<Item = &Neighbour> {
        self.neighbours
            .range((prefix.network(), 0)..=(prefix.broadcast(), u32::MAX))
            .map(|(_, seen)| &seen.value)
    }

    /// The address is configured on an interface, or a local route delivers it to this host.
    pub(super) fn is_own_address(&self, address: IpAddr) -> bool {
        let local = |candidate: &Candidate| {
            self.paths
                .get(candidate.path)
                .is_some_and(|path| path.spec.kind == RouteKind::Local)
        };
        self.has_address(address)
            || self.tables.iter().any(|table| {
                let node = table.routes.get(IpNet::from(address));
                node.is_some_and(|node| node.candidates.iter().any(local))
            })
    }

    /// Where a path leads; `None` if nowhere.
    pub(super) fn hops(&self, path: &Path) -> Option<Hops> {
        let (object, hops) = match &path.spec.next {
            Next::Hops(hops) => (None, hops.clone()),
            Next::Object(object) => match self.objects.get(object).map(|seen| &seen.value) {
                Some(NextHopObjectKind::Blackhole) => return Some(Hops::Blackhole),
                Some(NextHopObjectKind::Hop(hop)) => return Some(Hops::One(*hop)),
                Some(
                    NextHopObjectKind::Group(members) | NextHopObjectKind::ResilientGroup(members),
                ) => {
                    if members.iter().any(|(member, _)| self.is_blackhole(*member)) {
                        return Some(Hops::Blackhole); // The kernel has these only alone in a group.
                    }
                    (Some(*object), self.group_hops(members))
                }
                None => (None, path.rendering.clone()),
            },
        };
        match hops.as_slice() {
            [] => None,
            [hop] => Some(Hops::One(*hop)),
            _ => Some(Hops::Many(object, hops)),
        }
    }

    /// Whether a path leads over one of `links`.
    pub(super) fn leads_over(&self, path: &Path, links: &HashSet<u32>) -> bool {
        let over = |hop: &Hop| links.contains(&hop.ifindex);
        match self.hops(path) {
            None | Some(Hops::Blackhole) => false,
            Some(Hops::One(hop)) => over(&hop),
            Some(Hops::Many(_, hops)) => hops.iter().any(over),
        }
    }

    /// Whether a path may use one of its next hops.
    pub(super) fn liveness(&self, path: &Path, hop: &Hop) -> Liveness {
        if path.dead.contains(&hop.ifindex) {
            return Liveness::Dead;
        }
        self.link_liveness(hop.ifindex, path.spec.ipv6)
    }

    /// Whether the kernel passes a member of a multipath route over because its gateway does not answer. It does so with
    /// groups of nexthop objects of both families that are not resilient, with other routes of IPv4 if it was told to, and
    /// never with those of IPv6.
    pub(super) fn passes_over(&self, path: &Path, hop: &Hop) -> bool {
        let asks = match path.spec.next {
            Next::Object(id) => {
                let kind = self.objects.get(&id).map(|seen| &seen.value);
                !matches!(kind, Some(NextHopObjectKind::ResilientGroup(_)))
            }
            Next::Hops(_) => !path.spec.ipv6 && self.multipath_uses_neighbours,
        };
        let Via::Gateway(gateway) = hop.via else {
            return false;
        };
        let neighbour = self.neighbour(hop.ifindex, gateway);
        asks && neighbour.is_some_and(|neighbour| !neighbour.is_valid())
    }

    /// The multipath routes that have one of these gateways, by interface.
    pub(super) fn multipath_by(&self, gateways: &HashSet<(u32, IpAddr)>) -> Vec<PathId> {
        let is_one = |hop: &Hop| match hop.via {
            Via::Gateway(gateway) => gateways.contains(&(hop.ifindex, gateway)),
            Via::Link | Via::Kernel => false,
        };
        self.paths_where(|rib, path| {
            matches!(rib.hops(path), Some(Hops::Many(_, hops)) if hops.iter().any(is_one))
        })
    }

    fn link_liveness(&self, ifindex: u32, ipv6: bool) -> Liveness {
        let ignored = |key| {
            self.ignore_link_down
                .get(&(ipv6, key))
                .is_some_and(|seen| seen.value)
        };
        match self.link(ifindex) {
            Some(link) if link.up && link.carrier => Liveness::Live,
            Some(link) if link.up && !ignored(None) && !ignored(Some(ifindex)) => {
                Liveness::NoCarrier
            }
            _ => Liveness::Dead,
        }
    }

    fn seen<T>(&self, value: T) -> Seen<T> {
        Seen {
            value,
            generation: self.generation,
        }
    }

    fn set_link(&mut self, link: Link) {
        let seen = self.seen(link.clone());
        let old = self.links.insert(link.ifindex, seen).map(|old| old.value);
        if old.as_ref() == Some(&link) {
            return;
        }
        self.changes.links.insert(link.ifindex);
        let Some(old) = old else { return };
        if old.carrier && !link.carrier || old.up && !link.up {
            self.remove_objects_over(link.ifindex);
        }
        if !old.up && link.up {
            self.revive_paths_over(link.ifindex);
        }
        if old.up && !link.up {
            // Local addresses of IPv4 stay: they are this host's, whatever the link does. Of IPv6 all goes,
            // without a word where the sysctl `skip_notify_on_dev_down` says so.
            let goes = |rib: &Self, path: &Path| {
                (path.spec.ipv6 || path.spec.kind != RouteKind::Local)
                    && path.leaves_by(link.ifindex)
                    && rib.is_dead(path)
            };
            self.remove_routes_where(|rib, path| !path.spec.ipv6 && goes(rib, path));
            let paths = self.paths_where(|rib, path| path.spec.ipv6 && goes(rib, path));
            for (table, prefix) in self.users_of(&paths) {
                self.rearrange(table, prefix, |node, known| {
                    node.remove_dead(&paths, known);
                });
            }
        }
    }

    fn remove_link(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.ipv6_mtus.remove(&ifindex);
        for ipv6 in [false, true] {
            self.ignore_link_down.remove(&(ipv6, Some(ifindex)));
        }
        self.changes.links.insert(ifindex);
        self.remove_objects_over(ifindex);
        self.remove_siblings_over(ifindex);
        self.remove_routes_where(|_, path| path.leaves_by(ifindex));
        let neighbours = self.neighbours.extract_if(.., |key, _| key.1 == ifindex);
        let neighbours = neighbours.map(|((address, ifindex), _)| (ifindex, address));
        self.changes.neighbours.extend(neighbours);
        let addresses = self
            .addresses
            .extract_if(|address, _| address.ifindex == ifindex);
        let addresses = addresses.map(|(address, _)| address.address);
        self.changes.addresses.extend(addresses);
    }

    /// No next hop of a path is usable, and the kernel drops its routes.
    fn is_dead(&self, path: &Path) -> bool {
        let dead = |hop: &Hop| path.dead.contains(&hop.ifindex) || !self.is_up(hop.ifindex);
        matches!(&path.spec.next, Next::Hops(hops) if hops.iter().all(dead))
    }

    fn does_ipv4(&self, ifindex: u32) -> bool {
        let there = |address: &Address| address.address.is_ipv4() && address.ifindex == ifindex;
        self.addresses.keys().any(there)
    }

    /// An interface without addresses does no IPv4: routes over it go, and multipath routes do without
    /// it until it has an address again or is set up again.
    fn kill_paths_over(&mut self, ifindex: u32) {
        let alive = |path: &Path| {
            !path.spec.ipv6 && path.leaves_by(ifindex) && !path.dead.contains(&ifindex)
        };
        for id in self.paths_where(|_, path| alive(path)) {
            self.paths[id].dead.push(ifindex);
            self.changes.paths.push(id);
            if self.is_dead(&self.paths[id]) {
                self.remove_users(id, None);
            }
        }
    }

    fn revive_paths_over(&mut self, ifindex: u32) {
        for id in self.paths_where(|_, path| path.dead.contains(&ifindex)) {
            self.paths[id].dead.retain(|&dead| dead != ifindex);
            self.changes.paths.push(id);
        }
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(|link| link.up)
    }

    fn set_ignore_link_down(&mut self, ipv6: bool, ifindex: Option<u32>, ignore: bool) {
        let seen = self.seen(ignore);
        let old = self.ignore_link_down.insert((ipv6, ifindex), seen);
        if old.is_some_and(|old| old.value) != ignore {
            self.note_ignore_link_down(ifindex);
        }
    }

    fn note_ignore_link_down(&mut self, ifindex: Option<u32>) {
        match ifindex {
            Some(ifindex) => {
                self.changes.links.insert(ifindex);
            }
            None => self.changes.links.extend(self.links.keys()),
        }
    }

    /// An address of this host that a gateway can send to: one of the same link and subnet if there is one, then one of
    /// the link, then any. Link-local ones are none, since they are no destinations of Xcast.
    pub(super) fn source_towards(&self, ifindex: u32, gateway: IpAddr) -> Option<IpAddr> {
        let is_usable = |address: IpAddr| {
            let is_special = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            address.is_ipv6() == gateway.is_ipv6() && !address.is_loopback() && !is_special
        };
        let rank = |address: &&Address| {
            let subnet = IpNet::new(address.peer, address.prefix_len).ok();
            let same_link = address.ifindex == ifindex;
            let same_subnet = subnet.is_some_and(|subnet| subnet.contains(&gateway));
            (!same_link, !same_subnet, address.ifindex, address.address)
        };
        self.addresses
            .keys()
            .filter(|address| is_usable(address.address))
            .min_by_key(rank)
            .map(|address| address.address)
    }

    fn has_address(&self, wanted: IpAddr) -> bool {
        self.addresses
            .keys()
            .any(|address| address.address == wanted)
    }

    fn remove_address(&mut self, address: Address) {
        if self.addresses.remove(&address).is_none() {
            return;
        }
        self.changes.addresses.push(address.address);
        if address.address.is_ipv6() {
            // The kernel announces what becomes of routes of IPv6.
            return;
        }
        if !self.has_address(address.address) {
            let prefers = |path: &Path| path.spec.preferred_source == Some(address.address);
            for id in self.paths_where(|_, path| prefers(path)) {
                self.remove_users(id, Some(TABLE_MAIN));
            }
        }
        if !self.does_ipv4(address.ifindex) {
            self.kill_paths_over(address.ifindex);
        }
    }

    fn set_object(&mut self, object: NextHopObject) {
        let NextHopObject { id, kind } = object;
        let seen = self.seen(kind.clone());
        let old = self.objects.insert(id, seen).map(|old| old.value);
        if old.as_ref() == Some(&kind) {
            return;
        }
        self.unlink_group(id, old.as_ref());
        for (member, _) in kind.members().unwrap_or_default() {
            self.groups_of.entry(*member).or_default().insert(id);
        }
        self.note_object(id);
    }

    /// Forgets that group `id` had members.
    fn unlink_group(&mut self, id: u32, kind: Option<&NextHopObjectKind>) {
        let members = kind.and_then(NextHopObjectKind::members);
        for (member, _) in members.unwrap_or_default() {
            if let Some(groups) = self.groups_of.get_mut(member) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.groups_of.remove(member);
                }
            }
        }
    }

    /// Whatever uses object `id` has to be looked at again.
    fn note_object(&mut self, id: u32) {
        let groups = self.groups_of.get(&id).into_iter().flatten().copied();
        for id in groups.chain([id]) {
            self.changes.paths.extend(self.paths.with_object(id));
        }
    }

    /// Removes an object as the kernel does: from its groups, groups left empty too, and with it the
    /// routes that use it.
    fn remove_object(&mut self, id: u32) {
        let Some(old) = self.objects.remove(&id) else {
            return;
        };
        self.unlink_group(id, Some(&old.value));
        for group in self.groups_of.remove(&id).unwrap_or_default() {
            let Some(seen) = self.objects.get_mut(&group) else {
                continue;
            };
            if let NextHopObjectKind::Group(members) | NextHopObjectKind::ResilientGroup(members) =
                &mut seen.value
            {
                members.retain(|(member, _)| *member != id);
                if members.is_empty() {
                    self.remove_object(group);
                } else {
                    self.changes.paths.extend(self.paths.with_object(group));
                }
            }
        }
        for path in self.paths.with_object(id) {
            self.remove_users(path, None);
        }
    }

    fn remove_objects_over(&mut self, ifindex: u32) {
        let over = |kind: &NextHopObjectKind| matches!(kind, NextHopObjectKind::Hop(hop) if hop.ifindex == ifindex);
        let objects = self.objects.iter();
        let ids: Vec<u32> = objects
            .filter_map(|(&id, seen)| over(&seen.value).then_some(id))
            .collect();
        for id in ids {
            self.remove_object(id);
        }
    }

    fn is_blackhole(&self, id: u32) -> bool {
        let object = self.objects.get(&id);
        object.is_some_and(|seen| seen.value == NextHopObjectKind::Blackhole)
    }

    /// What a route does by itself. As long as a nexthop object discards, alone or in a group, the
    /// kernel calls the routes that use it blackholes; the object may do otherwise later.
    fn own_kind(&self, route: &Route) -> RouteKind {
        let discards = |id: u32| match self.objects.get(&id).map(|seen| &seen.value) {
            Some(NextHopObjectKind::Blackhole) => true,
            Some(kind) => {
                let mut members = kind.members().unwrap_or_default().iter();
                members.any(|(member, _)| self.is_blackhole(*member))
            }
            None => false,
        };
        match route.kind {
            RouteKind::Blackhole if route.object.is_some_and(discards) => RouteKind::Unicast,
            kind => kind,
        }
    }

    fn group_hops(&self, members: &[(u32, u32)]) -> Vec<Hop> {
        let hop = |&(id, weight): &(u32, u32)| match self.objects.get(&id)?.value {
            NextHopObjectKind::Hop(hop) => Some(Hop { weight, ..hop }),
            NextHopObjectKind::Blackhole
            | NextHopObjectKind::Group(_)
            | NextHopObjectKind::ResilientGroup(_) => None,
        };
        members.iter().filter_map(hop).collect()
    }

    /// Where a route belongs, if there is such a table.
    fn table_index(&self, route: &Route) -> Option<usize> {
        let scope = Scope::of(route);
        let mut tables = self.tables.iter();
        tables.position(|table| table.id == route.table && table.scope == scope)
    }

    fn insert_route(&mut self, route: &Route, placement: Placement) {
        let table = self.table_index(route).unwrap_or_else(|| {
            self.tables.push(Table {
                id: route.table,
                scope: Scope::of(route),
                routes: PrefixMap::default(),
            });
            self.arrange();
            self.tables.len() - 1
        });
        if is_ipv6(route.prefix) {
            self.insert_route_ipv6(table, route, placement);
            return;
        }
        let new = self.candidate(route);
        let node = self.tables[table].routes.get_or_default(route.prefix);
        let Some(displaced) = node.place(new, placement) else {
            return;
        };
        self.paths[new.path].users.insert(route.prefix);
        for Candidate { path, .. } in displaced {
            self.note_route(route.prefix, self.paths[path].spec.kind);
            self.disuse(path, route.prefix);
        }
        self.note_route(route.prefix, route.kind);
    }

    fn insert_route_ipv6(&mut self, table: usize, route: &Route, placement: Placement) {
        let node = self.tables[table].routes.get(route.prefix);
        let siblings = node.and_then(|node| node.siblings(route, &self.paths));
        let grows = !matches!(placement, Placement::Dump | Placement::Replace);
        let new = match siblings.filter(|_| grows) {
            Some(siblings) => self.candidate(&siblings::grown(route, &self.paths[siblings])),
            None => self.candidate(route),
        };
        self.rearrange(table, route.prefix, |node, paths| {
            node.place_ipv6(new, placement, siblings, paths);
        });
    }

    /// A route as a candidate of its prefix, with a path that may have no users yet.
    fn candidate(&mut self, route: &Route) -> Candidate {
        // The mark also says what can be seen from the link; that is not noted, as it changes without a
        // word about the route. Of IPv6 it says nothing else.
        let unseen = |ifindex: &u32| !is_ipv6(route.prefix) && !self.does_ipv4(*ifindex);
        let dead = route.dead.iter().copied().filter(unseen).collect();
        let (path, changed) = self.paths.intern(route, dead);
        if changed {
            self.changes.paths.push(path);
        }
        Candidate {
            metric: route.metric,
            path,
            generation: self.generation,
        }
    }

    /// Changes the candidates of a prefix, and notes what that means for it and for their paths.
    fn rearrange(&mut self, table: usize, prefix: IpNet, change: impl FnOnce(&mut Node, &Paths)) {
        let node = self.tables[table].routes.get_or_default(prefix);
        let paths =
            |node: &Node| -> Vec<PathId> { node.candidates.iter().map(|c| c.path).collect() };
        let before = paths(node);
        change(node, &self.paths);
        let after = paths(node);
        if before == after {
            return;
        }
        for &path in &after {
            self.paths[path].users.insert(prefix);
            self.note_route(prefix, self.paths[path].spec.kind);
        }
        for path in before {
            if !after.contains(&path) {
                self.note_route(prefix, self.paths[path].spec.kind);
                self.disuse(path, prefix);
            }
        }
    }

    fn remove_route(&mut self, route: &Route) {
        let Some(table) = self.table_index(route) else {
            return;
        };
        if is_ipv6(route.prefix) && route.object.is_none() {
            let gone = |hop: &Hop| route.hops.iter().any(|other| same_hop(hop, other));
            let metric = |metric| metric == route.metric;
            if self.remove_next_hops(table, route.prefix, metric, gone) {
                return;
            }
        }
        let Some(path) = self.paths.find(route) else {
            return;
        };
        self.remove_candidate(table, route.prefix, route.metric, path);
    }

    fn remove_candidate(&mut self, table: usize, prefix: IpNet, metric: u32, path: PathId) {
        let Some(node) = self.tables[table].routes.get_mut(prefix) else {
            return;
        };
        let same = |c: &Candidate| c.metric == metric && c.path == path;
        if let Some(at) = node.candidates.iter().position(same) {
            node.candidates.remove(at);
            self.note_route(prefix, self.paths[path].spec.kind);
            self.disuse(path, prefix);
        }
    }

    /// Takes next hops out of an IPv6 multipath route: the kernel announces each that is removed by
    /// itself, not the route without it. False if there is no such route.
    fn remove_next_hops(
        &mut self,
        table: usize,
        prefix: IpNet,
        of: impl Fn(u32) -> bool,
        gone: impl Fn(&Hop) -> bool,
    ) -> bool {
        let Some(node) = self.tables[table].routes.get(prefix) else {
            return false;
        };
        let shares = |c: &Candidate| {
            let hops = self.paths[c.path].shared_hops()?;
            (of(c.metric) && hops.iter().any(&gone)).then(|| (c.metric, c.path, hops.to_vec()))
        };
        let Some((metric, path, hops)) = node.candidates.iter().find_map(shares) else {
            return false;
        };
        let mut left: Vec<Hop> = hops.iter().filter(|hop| !gone(hop)).copied().collect();
        if let [alone] = left.as_mut_slice() {
            alone.weight = 1; // As the kernel has it.
        }
        let rest = (!left.is_empty()).then(|| {
            let spec = &self.paths[path].spec;
            self.candidate(&Route {
                prefix,
                table: self.tables[table].id,
                tos: 0,
                source: None,
                metric,
                kind: spec.kind,
                protocol: spec.protocol,
                preferred_source: spec.preferred_source,
                mtu_bytes: spec.mtu_bytes,
                preference: spec.preference,
                kernel_only: spec.kernel_only,
                hops: left,
                object: None,
                dead: Vec::new(),
            })
        });
        self.rearrange(table, prefix, |node, _| {
            let rest = rest.map(|candidate| candidate.path);
            node.remove_siblings(metric, path, &hops, gone, rest);
        });
        true
    }

    /// A multipath route of IPv6 goes on without the link.
    fn remove_siblings_over(&mut self, ifindex: u32) {
        let paths = self.paths_where(|_, path| path.spec.ipv6 && path.leaves_by(ifindex));
        for (table, prefix) in self.users_of(&paths) {
            let gone = |hop: &Hop| hop.ifindex == ifindex;
            while self.remove_next_hops(table, prefix, |_| true, gone) {}
        }
    }

    /// The tables and prefixes where routes may go along one of these paths.
    fn users_of(&self, paths: &[PathId]) -> Vec<(usize, IpNet)> {
        let prefixes = paths.iter().flat_map(|&path| &self.paths[path].users);
        let prefixes: HashSet<IpNet> = prefixes.copied().collect();
        let tables = 0..self.tables.len();
        tables
            .flat_map(|table| prefixes.iter().map(move |&prefix| (table, prefix)))
            .collect()
    }

    fn note_route(&mut self, prefix: IpNet, kind: RouteKind) {
        self.changes.prefixes.push(prefix);
        if kind == RouteKind::Local && prefix.prefix_len() == prefix.max_prefix_len() {
            self.changes.addresses.push(prefix.addr());
        }
    }

    /// One route fewer goes from `prefix` along `path`.
    fn disuse(&mut self, path: PathId, prefix: IpNet) {
        let goes = |table: &Table| {
            let node = table.routes.get(prefix);
            node.is_some_and(|node| node.candidates.iter().any(|c| c.path == path))
        };
        if self.tables.iter().any(goes) {
            return;
        }
        let users = &mut self.paths[path].users;
        users.remove(&prefix);
        if users.is_empty() {
            self.changes.paths.push(path);
        }
    }

    fn paths_where(&self, select: impl Fn(&Self, &Path) -> bool) -> Vec<PathId> {
        let paths = self.paths.iter();
        paths
            .filter_map(|(id, path)| select(self, path).then_some(id))
            .collect()
    }

    fn remove_routes_where(&mut self, select: impl Fn(&Self, &Path) -> bool) {
        for id in self.paths_where(select) {
            self.remove_users(id, None);
        }
    }

    /// Removes the routes that go along a path, in all tables or in one.
    fn remove_users(&mut self, id: PathId, only_table: Option<u32>) {
        let path = &mut self.paths[id];
        let kind = path.spec.kind;
        for prefix in std::mem::take(&mut path.users) {
            let mut left = false;
            for table in &mut self.tables {
                let Some(node) = table.routes.get_mut(prefix) else {
                    continue;
                };
                if only_table.is_none_or(|only| only == table.id) {
                    node.candidates.retain(|candidate| candidate.path != id);
                } else {
                    left |= node.candidates.iter().any(|candidate| candidate.path == id);
                }
            }
            if left {
                self.paths[id].users.insert(prefix);
            }
            self.note_route(prefix, kind);
        }
        self.changes.paths.push(id);
    }

    /// Drops whatever the dump that just ended did not mention.
    fn sweep(&mut self) {
        let current = self.generation;
        for (ifindex, _) in self.links.extract_if(|_, seen| seen.generation != current) {
            self.changes.links.insert(ifindex);
        }
        let ignored = &mut self.ignore_link_down;
        let stale: Vec<_> = ignored
            .extract_if(|_, seen| seen.generation != current)
            .collect();
        for ((_, ifindex), _) in stale {
            self.note_ignore_link_down(ifindex);
        }
        let addresses = self
            .addresses
            .extract_if(|_, seen| seen.generation != current);
        let addresses = addresses.map(|(address, _)| address.address);
        self.changes.addresses.extend(addresses);
        let neighbours = self
            .neighbours
            .extract_if(.., |_, seen| seen.generation != current);
        let neighbours = neighbours.map(|((address, ifindex), _)| (ifindex, address));
        self.changes.neighbours.extend(neighbours);

        let stale: Vec<_> = self
            .objects
            .extract_if(|_, seen| seen.generation != current)
            .collect();
        for (id, old) in stale {
            self.unlink_group(id, Some(&old.value));
            self.note_object(id);
        }
        self.sweep_routes();
    }

    fn sweep_routes(&mut self) {
        let current = self.generation;
        let mut stale = Vec::new();
        for table in &mut self.tables {
            for (prefix, node) in table.routes.iter_mut() {
                let old = node
                    .candidates
                    .extract_if(.., |candidate| candidate.generation != current);
                stale.extend(old.map(|candidate| (prefix, candidate.path)));
            }
        }
        for (prefix, path) in stale {
            let kind = self.paths[path].spec.kind;
            self.disuse(path, prefix);
            self.note_route(prefix, kind);
        }
    }
}

fn is_ipv6(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V6(_))
}
