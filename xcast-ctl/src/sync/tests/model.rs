//! Random histories of a kernel, compared with what its final state means.
//!
//! [`Kernel`] is a small imitation of the kernel's side: it carries operations out, refuses what the
//! kernel refuses, drops silently what the kernel drops silently, and announces the rest. What its
//! state means for an address is worked out naively, from the list of all routes. Of IPv6, that list has
//! a route for each next hop, as the kernel's.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::select};
use xcast_common::maps::{NEXT_HOP_ON_LINK, NEXT_HOP_XCAST, counter::Counter};

use super::*;
use crate::sync::{fib::NEVER, next_hops::FIXED};

const TABLES: [u32; 3] = [TABLE_LOCAL, TABLE_MAIN, 100];
/// A table that the kernel does not consult.
const XCAST_TABLE: u32 = 200;
const PREFIXES: [&str; 15] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.0.0/30",
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.0.0.5/32",
    "10.0.1.0/24",
    "127.0.0.1/32",
    "169.254.0.0/16",
    "169.254.1.1/32",
    "224.0.0.0/3",
];
const ADDRESSES: [&str; 16] = [
    "0.0.0.1",
    "8.8.8.8",
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.5",
    "10.0.0.9",
    "10.0.1.1",
    "10.0.2.1",
    "10.1.1.1",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.5",
    "240.0.0.1",
    "192.0.2.1",
];
const NEIGHBOURS: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.5",
    "10.0.1.1",
    "169.254.1.1",
];

#[derive(Clone, Debug)]
enum Operation {
    Link(Link),
    RemoveLink(u32),
    /// Of IPv6, `None` says nothing.
    IgnoreLinkDown(Option<u32>, bool),
    /// Of IPv4.
    MultipathUsesNeighbours(bool),
    Neighbour(Neighbour),
    RemoveNeighbour(u32, IpAddr),
    Object(u32, NextHopObjectKind),
    RemoveObject(u32),
    Route(Route, Placement),
    /// With its siblings, if it has any.
    RemoveRoute(prop::sample::Index, bool),
    Attach(u32),
    Detach(u32),
    /// A gateway proves that it speaks Xcast, or does so no longer.
    Prove(u32, IpAddr, bool),
    /// The router hears what happened so far.
    Deliver,
    /// What happened since the last delivery is lost, and a dump follows.
    Overrun,
}

fn hop() -> impl Strategy<Value = Hop> {
    let via = prop_oneof![
        2 => Just(Via::Link),
        4 => select(&NEIGHBOURS[..]).prop_map(|address| Via::Gateway(ip(address))),
        1 => Just(Via::Kernel),
    ];
    (1_u32..4, via, 1_u32..4).prop_map(|(ifindex, via, weight)| Hop {
        ifindex,
        via,
        weight,
    })
}

fn a_route() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![
        12 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Local),
        1 => Just(RouteKind::Broadcast),
        1 => Just(RouteKind::Blackhole),
        1 => Just(RouteKind::Unreachable),
        2 => Just(RouteKind::Throw),
    ];
    let next = prop_oneof![
        3 => hop().prop_map(|hop| (vec![Hop { weight: 1, ..hop }], None)),
        1 => prop::collection::vec(hop(), 2..4).prop_map(|hops| (hops, None)),
        2 => (1_u32..7).prop_map(|id| (vec![], Some(id))),
    ];
    let table = select(vec![
        TABLE_LOCAL,
        TABLE_MAIN,
        TABLE_MAIN,
        100,
        XCAST_TABLE,
        XCAST_TABLE,
    ]);
    let prefix = select(&PREFIXES[..]);
    let mtu_bytes = prop_oneof![4 => Just(None), 1 => select(vec![Some(1000), Some(9000)])];
    (table, prefix, 0_u32..2, kind, next, mtu_bytes).prop_map(
        |(table, prefix, metric, kind, (hops, object), mtu_bytes)| {
            let unicast = kind == RouteKind::Unicast;
            Route {
                table,
                metric,
                kind,
                mtu_bytes: mtu_bytes.filter(|_| unicast),
                hops: if unicast { hops } else { vec![] },
                object: object.filter(|_| unicast),
                ..route(prefix, &[])
            }
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let placement = select(vec![
        Placement::Only,
        Placement::Replace,
        Placement::First,
        Placement::Last,
    ]);
    let a_link = (1_u32..4, any::<[bool; 2]>(), select(vec![1500, 1200])).prop_map(
        |(ifindex, [up, carrier], mtu_bytes)| Link {
            up,
            carrier: up && carrier,
            mtu_bytes,
            ..link(ifindex)
        },
    );
    let state = select(vec![
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Permanent,
        NeighbourState::Incomplete,
        NeighbourState::Failed,
    ]);
    let a_neighbour =
        (1_u32..4, select(&NEIGHBOURS[..]), state).prop_map(|(ifindex, address, state)| {
            Neighbour {
                state,
                ..neighbour(ifindex, address)
            }
        });
    let object = prop_oneof![
        1 => Just(NextHopObjectKind::Blackhole),
        6 => hop().prop_map(|hop| NextHopObjectKind::Hop(Hop { weight: 1, ..hop })),
    ];
    let group = prop::collection::btree_map(1_u32..5, 1_u32..4, 1..4)
        .prop_map(|members| NextHopObjectKind::Group(members.into_iter().collect()));
    prop_oneof![
        3 => a_link.prop_map(Operation::Link),
        1 => (1_u32..4).prop_map(Operation::RemoveLink),
        1 => (prop::option::of(1_u32..4), any::<bool>())
            .prop_map(|(ifindex, ignore)| Operation::IgnoreLinkDown(ifindex, ignore)),
        1 => any::<bool>().prop_map(Operation::MultipathUsesNeighbours),
        6 => a_neighbour.prop_map(Operation::Neighbour),
        2 => (1_u32..4, select(&NEIGHBOURS[..]))
            .prop_map(|(ifindex, address)| Operation::RemoveNeighbour(ifindex, ip(address))),
        3 => (1_u32..5, object).prop_map(|(id, kind)| Operation::Object(id, kind)),
        2 => (5_u32..7, group).prop_map(|(id, kind)| Operation::Object(id, kind)),
        1 => (1_u32..7).prop_map(Operation::RemoveObject),
        12 => (a_route(), placement).prop_map(|(route, at)| Operation::Route(route, at)),
        4 => any::<(prop::sample::Index, bool)>()
            .prop_map(|(route, all)| Operation::RemoveRoute(route, all)),
        2 => (1_u32..4).prop_map(Operation::Attach),
        1 => (1_u32..4).prop_map(Operation::Detach),
        3 => (1_u32..4, select(&NEIGHBOURS[..]), any::<bool>())
            .prop_map(|(ifindex, address, yes)| Operation::Prove(ifindex, ip(address), yes)),
        6 => Just(Operation::Deliver),
        1 => Just(Operation::Overrun),
    ]
}

/// Routes of the same prefix that only their order sets apart.
fn same_place(one: &Route, other: &Route) -> bool {
    (one.table, one.prefix, one.metric) == (other.table, other.prefix, other.metric)
}

/// Such routes of IPv6 may be siblings.
fn shares(route: &Route) -> bool {
    route.object.is_none()
        && !route.hops.is_empty()
        && route.hops.iter().all(|hop| hop.via != Via::Link)
}

#[derive(Default)]
struct Kernel {
    links: BTreeMap<u32, Link>,
    ignore_link_down: BTreeMap<Option<u32>, bool>,
    multipath_uses_neighbours: bool,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    objects: BTreeMap<u32, NextHopObjectKind>,
    /// Routes of the same table, prefix and metric are in their order.
    routes: Vec<Route>,
    ports: BTreeMap<u32, u8>,
    announced: Vec<KernelEvent>,
    /// Whether routes are for lists that are in the table for them.
    has_xcast_table: bool,
    /// Gateways that proved that they speak Xcast.
    proven: BTreeSet<(u32, IpAddr)>,
}

/// Which route decides about an address, and what becomes of its packets.
struct Decided {
    prefix_len: u8,
    /// This host delivers it, or finds it on a link.
    is_here: bool,
    fate: Fate,
}

impl Kernel {
    fn is_up(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(|link| link.up)
    }

    fn set_link(&mut self, link: Link) {
        let ifindex = link.ifindex;
        let old = self.links.insert(ifindex, link.clone());
        self.announced.push(KernelEvent::Link(link.clone()));
        let (was_up, had_carrier) = old.map_or((true, false), |old| (old.up, old.carrier));
        if had_carrier && !link.carrier {
            self.flush(ifindex);
        }
        // What is said again of a link that is down takes nothing more away.
        if !link.up && was_up {
            self.flush(ifindex);
            if family() == Family::Ipv6 {
                self.take_down_ipv6(ifindex);
                return;
            }
            let links = self.links.clone();
            let up = |hop: &Hop| links.get(&hop.ifindex).is_some_and(|link| link.up);
            self.routes.retain(|route| {
                let over = route.hops.iter().any(|hop| hop.ifindex == ifindex);
                !over || route.hops.iter().any(up)
            });
        }
    }

    fn remove_link(&mut self, ifindex: u32) {
        if self.links.remove(&ifindex).is_none() {
            return;
        }
        self.flush(ifindex);
        self.routes
            .retain(|route| route.hops.iter().all(|hop| hop.ifindex != ifindex));
        self.ignore_link_down.remove(&Some(ifindex));
        self.announced.push(KernelEvent::LinkRemoved { ifindex });
    }

    /// Routes over a link go, and siblings when none of them has another link. The kernel passes over
    /// siblings that stay, and over what stands between them.
    fn take_down_ipv6(&mut self, ifindex: u32) {
        let mut passed: Vec<usize> = Vec::new();
        let mut gone = Vec::new();
        for (at, route) in self.routes.iter().enumerate() {
            if passed.contains(&at) || gone.contains(&at) {
                continue;
            }
            let siblings = self.siblings(route);
            let dead = |&at: &usize| {
                self.routes[at]
                    .hops
                    .iter()
                    .all(|hop| !self.is_up(hop.ifindex))
            };
            let over = |&at: &usize| {
                self.routes[at]
                    .hops
                    .iter()
                    .any(|hop| hop.ifindex == ifindex)
            };
            let stays = !siblings.iter().all(dead) || !siblings.iter().any(over);
            match siblings.as_slice() {
                [] | [_] => gone.extend(over(&at).then_some(at)),
                [first, .., last] if stays => {
                    let between = *first..=*last;
                    passed.extend(between.filter(|&at| same_place(&self.routes[at], route)));
                }
                _ => gone.extend(siblings),
            }
        }
        let mut at = 0..;
        self.routes
            .retain(|_| at.next().is_none_or(|at| !gone.contains(&at)));
    }

    /// Where the siblings of a route are, with the route itself; none if it can have none.
    fn siblings(&self, route: &Route) -> Vec<usize> {
        let sibling = |other: &Route| shares(route) && shares(other) && same_place(route, other);
        let all = self.routes.iter().enumerate();
        all.filter_map(|(at, other)| sibling(other).then_some(at))
            .collect()
    }

    /// A dump of IPv6's routes does not mention those that stand between siblings.
    fn dumps_lie(&self) -> bool {
        family() == Family::Ipv6
            && self.routes.iter().any(|route| {
                let [first, .., last] = self.siblings(route)[..] else {
                    return false;
                };
                let mut between = self.routes[first..last].iter();
                between.any(|other| same_place(other, route) && !shares(other))
            })
    }

    /// The siblings as one multipath route, those from `first` on before the others.
    fn multipath(&self, siblings: &[usize], first: usize) -> Route {
        let (old, new): (Vec<usize>, _) = siblings.iter().partition(|&&at| at < first);
        let hops = new
            .iter()
            .chain(&old)
            .flat_map(|&at| self.routes[at].hops.clone());
        let mut hops: Vec<Hop> = hops.collect();
        if let [alone] = hops.as_mut_slice() {
            alone.weight = 1;
        }
        let route = self.routes[siblings[0]].clone();
        Route { hops, ..route }
    }

    /// A route as the kernel names it: those that use an object that discards are blackholes.
    fn named(&self, route: &Route) -> Route {
        let mut route = route.clone();
        if route.kind == RouteKind::Unicast && self.hops(&route).is_none() {
            route.kind = RouteKind::Blackhole;
        }
        route
    }

    /// Neighbours and objects on a link go with its carrier, the objects without a word.
    fn flush(&mut self, ifindex: u32) {
        let gone: Vec<_> = self
            .neighbours
            .extract_if(.., |key, _| key.0 == ifindex)
            .collect();
        for ((ifindex, address), _) in gone {
            self.announced
                .push(KernelEvent::NeighbourRemoved { ifindex, address });
        }
        let over = |kind: &NextHopObjectKind| matches!(kind, NextHopObjectKind::Hop(hop) if hop.ifindex == ifindex);
        let objects: Vec<u32> = self
            .objects
            .iter()
            .filter_map(|(&id, kind)| over(kind).then_some(id))
            .collect();
        for id in objects {
            self.remove_object(id, false);
        }
    }

    fn remove_object(&mut self, id: u32, announce: bool) {
        if self.objects.remove(&id).is_none() {
            return;
        }
        if announce {
            self.announced
                .push(KernelEvent::NextHopObjectRemoved { id });
        }
        self.routes.retain(|route| route.object != Some(id));
        for (group, mut members) in self.groups() {
            if !members.iter().any(|member| member.0 == id) {
                continue;
            }
            members.retain(|member| member.0 != id);
            if members.is_empty() {
                self.remove_object(group, announce);
            } else {
                self.set_object(group, NextHopObjectKind::Group(members), announce);
            }
        }
    }

    fn groups(&self) -> Vec<(u32, Vec<(u32, u32)>)> {
        let groups = self.objects.iter().filter_map(|(&id, kind)| match kind {
            NextHopObjectKind::Group(members) => Some((id, members.clone())),
            _ => None,
        });
        groups.collect()
    }

    fn set_object(&mut self, id: u32, kind: NextHopObjectKind, announce: bool) {
        self.objects.insert(id, kind.clone());
        if announce {
            let object = NextHopObject { id, kind };
            self.announced.push(KernelEvent::NextHopObject(object));
            let groups = self.groups().into_iter();
            let groups = groups.filter(|(_, members)| members.iter().any(|member| member.0 == id));
            let ids: Vec<u32> = groups.map(|(group, _)| group).chain([id]).collect();
            let using = |route: &&Route| route.object.is_some_and(|object| ids.contains(&object));
            for route in self.routes.iter().filter(using) {
                self.announced.push(KernelEvent::Route {
                    route: self.named(route),
                    placement: Placement::Replace,
                });
            }
        }
    }

    /// What the kernel checks before it takes an object.
    fn accepts_object(&self, id: u32, kind: &NextHopObjectKind) -> bool {
        let in_group = |id| {
            self.groups()
                .iter()
                .any(|group| group.1.iter().any(|m| m.0 == id))
        };
        match kind {
            NextHopObjectKind::Blackhole => !in_group(id),
            NextHopObjectKind::Hop(hop) => {
                let link = self.links.get(&hop.ifindex);
                link.is_some_and(|link| link.up && link.carrier)
            }
            NextHopObjectKind::Group(members) | NextHopObjectKind::ResilientGroup(members) => {
                members.iter().all(|(member, _)| {
                    let kind = self.objects.get(member);
                    matches!(kind, Some(NextHopObjectKind::Hop(_)))
                })
            }
        }
    }

    fn add_route(&mut self, route: Route, placement: Placement) {
        let links_up = route.hops.iter().all(|hop| self.is_up(hop.ifindex));
        let object_known = route.object.is_none_or(|id| self.objects.contains_key(&id));
        if !links_up || !object_known || self.routes.contains(&route) {
            return;
        }
        if family() == Family::Ipv6 {
            self.add_route_ipv6(route, placement);
            return;
        }
        let same = |other: &Route| same_place(other, &route);
        let first = self.routes.iter().position(same);
        let placement = match (first, placement) {
            (None, _) => {
                self.routes.push(route.clone());
                Placement::Only
            }
            (Some(_), Placement::Only | Placement::Dump) => return,
            (Some(first), Placement::Replace) => {
                self.routes[first] = route.clone();
                placement
            }
            (Some(first), Placement::First) => {
                self.routes.insert(first, route.clone());
                placement
            }
            (Some(_), Placement::Last) => {
                self.routes.push(route.clone());
                placement
            }
        };
        let route = self.named(&route);
        self.announced.push(KernelEvent::Route { route, placement });
    }

    fn add_route_ipv6(&mut self, mut route: Route, placement: Placement) {
        let on_link = route.hops.iter().any(|hop| hop.via == Via::Link);
        let same: Vec<usize> = (0..self.routes.len())
            .filter(|&at| same_place(&self.routes[at], &route))
            .collect();
        // Of the same way there can be only one, but for what replaces another: the kernel then says the
        // same as when an object changes, and nobody can tell.
        let known = |hop: &Hop| {
            let is = |other: &Hop| (other.ifindex, other.via) == (hop.ifindex, hop.via);
            same.iter().any(|&at| self.routes[at].hops.iter().any(is))
        };
        let twice = match placement {
            Placement::Replace => {
                !shares(&route) && same.iter().any(|&at| self.routes[at] == route)
            }
            _ if route.object.is_some() || route.hops.is_empty() => {
                let like = |at: &usize| {
                    self.routes[*at].object == route.object && self.routes[*at].hops.is_empty()
                };
                same.iter().any(like)
            }
            _ => route.hops.iter().any(known),
        };
        let ways: BTreeSet<_> = route
            .hops
            .iter()
            .map(|hop| (hop.ifindex, hop.via))
            .collect();
        if twice
            || on_link && route.hops.len() > 1
            || ways.len() < route.hops.len()
            || placement == Placement::Only && !same.is_empty()
        {
            return;
        }
        let old = self.siblings(&route);
        // What siblings have in common is what the oldest has.
        if let (Some(&oldest), true) = (old.first(), placement != Placement::Replace) {
            route.mtu_bytes = self.routes[oldest].mtu_bytes;
        }
        let mut parts: Vec<Route> = route
            .hops
            .iter()
            .map(|&hop| Route {
                hops: vec![hop],
                ..route.clone()
            })
            .collect();
        if parts.is_empty() {
            parts.push(route.clone());
        }
        let sort = |at: &&usize| shares(&self.routes[**at]) == shares(&route);
        let replaced = same.iter().find(sort).or(same.first()).copied();
        let mut first = self.routes.len();
        if let (Some(at), Placement::Replace) = (replaced, placement) {
            first = at;
            let gone = match self.siblings(&self.routes[at]) {
                siblings if siblings.is_empty() => vec![at],
                siblings => siblings,
            };
            for &at in gone.iter().rev() {
                self.routes.remove(at);
            }
            self.routes.insert(first, parts.remove(0));
        }
        self.routes.extend(parts);
        let siblings = self.siblings(&route);
        let route = match (siblings.as_slice(), placement) {
            ([], _) => self.named(&route),
            (_, Placement::Last) => self.multipath(&siblings, 0),
            _ => self.multipath(&siblings, first),
        };
        let placement = match placement {
            Placement::Replace if replaced.is_none() => Placement::Only,
            placement => placement,
        };
        self.announced.push(KernelEvent::Route { route, placement });
    }

    fn remove_route(&mut self, at: usize, all: bool) {
        let siblings = self.siblings(&self.routes[at]);
        if family() == Family::Ipv6 && all && !siblings.is_empty() {
            let route = self.multipath(&siblings, 0);
            self.announced.push(KernelEvent::RouteRemoved(route));
            for at in siblings.into_iter().rev() {
                self.routes.remove(at);
            }
        } else {
            let route = self.named(&self.routes[at]);
            self.announced.push(KernelEvent::RouteRemoved(route));
            self.routes.remove(at);
        }
    }

    fn dump(&self) -> Vec<KernelEvent> {
        let mut dump = vec![KernelEvent::ResyncBegin];
        dump.extend(self.links.values().cloned().map(KernelEvent::Link));
        let ignore = self.ignore_link_down.iter();
        dump.extend(
            ignore.map(|(&ifindex, &ignore)| KernelEvent::IgnoreLinkDown {
                ipv6: family() == Family::Ipv6,
                ifindex,
                ignore,
            }),
        );
        dump.extend(
            self.neighbours
                .values()
                .copied()
                .map(KernelEvent::Neighbour),
        );
        let objects = self.objects.clone().into_iter();
        dump.extend(
            objects.map(|(id, kind)| KernelEvent::NextHopObject(NextHopObject { id, kind })),
        );
        let once = |(at, route): (usize, &Route)| match self.siblings(route)[..] {
            [first, ..] if family() == Family::Ipv6 => {
                (at == first).then(|| self.multipath(&self.siblings(route), 0))
            }
            _ => Some(self.named(route)),
        };
        let mut routes: Vec<Route> = self.routes.iter().enumerate().filter_map(once).collect();
        routes.sort_by_key(|route| (route.table, route.prefix, route.metric));
        dump.extend(routes.into_iter().map(|route| KernelEvent::Route {
            route,
            placement: Placement::Dump,
        }));
        dump.push(KernelEvent::ResyncEnd);
        dump
    }

    fn carry_out(&mut self, operation: Operation, router: &mut Router) {
        match operation {
            Operation::Link(link) => self.set_link(link),
            Operation::RemoveLink(ifindex) => self.remove_link(ifindex),
            Operation::IgnoreLinkDown(ifindex, ignore) => {
                let everywhere = family() == Family::Ipv4;
                if ifindex.map_or(everywhere, |ifindex| self.links.contains_key(&ifindex)) {
                    self.ignore_link_down.insert(ifindex, ignore);
                    self.announced.push(KernelEvent::IgnoreLinkDown {
                        ipv6: family() == Family::Ipv6,
                        ifindex,
                        ignore,
                    });
                }
            }
            Operation::MultipathUsesNeighbours(yes) => {
                self.multipath_uses_neighbours = yes;
                // No message says so, and so none can be lost: the controller looks at the setting.
                router.apply([KernelEvent::MultipathUsesNeighbours(yes)]);
            }
            Operation::Neighbour(neighbour) => {
                let link = self.links.get(&neighbour.ifindex);
                if link.is_some_and(|link| link.up && link.carrier) {
                    let key = (neighbour.ifindex, neighbour.address);
                    self.neighbours.insert(key, neighbour);
                    self.announced.push(KernelEvent::Neighbour(neighbour));
                }
            }
            Operation::RemoveNeighbour(ifindex, address) => {
                if self.neighbours.remove(&(ifindex, address)).is_some() {
                    self.announced
                        .push(KernelEvent::NeighbourRemoved { ifindex, address });
                }
            }
            Operation::Object(id, kind) => {
                if self.accepts_object(id, &kind) {
                    self.set_object(id, kind, true);
                }
            }
            Operation::RemoveObject(id) => self.remove_object(id, true),
            Operation::Route(route, placement) => self.add_route(route, placement),
            Operation::RemoveRoute(index, all) => {
                if !self.routes.is_empty() {
                    self.remove_route(index.index(self.routes.len()), all);
                }
            }
            Operation::Attach(ifindex) => {
                self.ports.insert(ifindex, ifindex as u8 + 1);
                router.attach(ifindex, ifindex as u8 + 1);
            }
            Operation::Detach(ifindex) => {
                self.ports.remove(&ifindex);
                router.detach(ifindex);
            }
            Operation::Prove(ifindex, gateway, yes) => {
                let gateway = (ifindex, gateway);
                if yes {
                    self.proven.insert(gateway);
                } else {
                    self.proven.remove(&gateway);
                }
                router.prove(gateway, yes);
            }
            Operation::Deliver => {
                router.apply(std::mem::take(&mut self.announced));
            }
            Operation::Overrun if self.dumps_lie() => {
                router.apply(std::mem::take(&mut self.announced));
            }
            Operation::Overrun => {
                self.announced.clear();
                router.apply(self.dump());
            }
        }
    }

    /// What should become of packets to an address.
    fn fate(&self, address: IpAddr) -> Fate {
        let never = match address {
            IpAddr::V4(address) => {
                let [first, second, ..] = address.octets();
                [0, 127].contains(&first) || first >= 224 || (first, second) == (169, 254)
            }
            IpAddr::V6(address) => {
                address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.is_unicast_link_local()
                    || address.to_ipv4_mapped().is_some()
            }
        };
        if never {
            return Fate::skip(Counter::SkipNever);
        }
        let mut tables = TABLES.into_iter();
        let kernel = tables.find_map(|table| self.decided_by(table, address));
        let lists = self.decided_by(XCAST_TABLE, address);
        let lists = lists.filter(|_| self.has_xcast_table);
        match (kernel, lists) {
            (Some(kernel), Some(lists)) => {
                let is_longer = lists.prefix_len > kernel.prefix_len;
                let is_as_long = lists.prefix_len == kernel.prefix_len && !kernel.is_here;
                if is_longer || is_as_long {
                    lists.fate
                } else {
                    kernel.fate
                }
            }
            (Some(one), None) | (None, Some(one)) => one.fate,
            (None, None) => Fate::stack(Counter::StackNoRoute),
        }
    }

    /// What a table says, if anything.
    fn decided_by(&self, table: u32, address: IpAddr) -> Option<Decided> {
        let for_lists = table == XCAST_TABLE;
        let mut matching: Vec<&Route> = self
            .routes
            .iter()
            .filter(|route| route.table == table && route.prefix.contains(&address))
            .collect();
        matching.sort_by_key(|route| (128 - route.prefix.prefix_len(), route.metric));
        for route in matching {
            if for_lists && route.kind != RouteKind::Unicast {
                continue;
            }
            if !for_lists && self.is_by_arrival(route, address) {
                return Some(Decided {
                    prefix_len: route.prefix.prefix_len(),
                    is_here: false,
                    fate: Fate::stack(Counter::StackPolicy),
                });
            }
            let fate = self.route_fate(&self.with_siblings(route), address);
            let hops = self.hops(route);
            let is_on_link = |hops: &Vec<Hop>| matches!(hops[..], [hop] if hop.via == Via::Link);
            let unicast = route.kind == RouteKind::Unicast;
            match fate {
                Some(fate) if !for_lists || takes_lists(&fate) => {
                    return Some(Decided {
                        prefix_len: route.prefix.prefix_len(),
                        is_here: route.kind == RouteKind::Local
                            || unicast && hops.as_ref().is_some_and(is_on_link),
                        fate,
                    });
                }
                None if route.kind == RouteKind::Throw => return None,
                _ => {}
            }
        }
        None
    }

    /// The multipath route that a route is one next hop of, or the route itself.
    fn with_siblings(&self, route: &Route) -> Route {
        match self.siblings(route).as_slice() {
            siblings if family() == Family::Ipv6 && !siblings.is_empty() => {
                self.multipath(siblings, 0)
            }
            _ => route.clone(),
        }
    }

    /// A usable route of IPv6 that the kernel exchanges, for packets that come by some interface, for another one: one of
    /// the same metric, or of any if none of the lowest is usable.
    fn is_by_arrival(&self, route: &Route, address: IpAddr) -> bool {
        let Some(way) = self.way(route, address) else {
            return false;
        };
        let same = |other: &&Route| (other.table, other.prefix) == (route.table, route.prefix);
        let all = || self.routes.iter().filter(same);
        let lowest = all().map(|other| other.metric).min();
        let rivals = all().filter(|other| match Some(route.metric) == lowest {
            true => other.metric == route.metric,
            false => Some(other.metric) != lowest,
        });
        let mut ways = rivals.filter_map(|rival| self.way(rival, address));
        family() == Family::Ipv6 && ways.any(|other| other != way)
    }

    /// Where a usable route leads, whether that can be reached or not.
    fn way(&self, route: &Route, address: IpAddr) -> Option<String> {
        let route = self.with_siblings(route);
        if route.kind == RouteKind::Throw {
            return Some("throw".to_owned());
        }
        self.route_fate(&route, address)?;
        let Some(hops) = self.hops(&route) else {
            return Some(format!("{:?}", RouteKind::Blackhole));
        };
        if route.kind != RouteKind::Unicast {
            return Some(format!("{:?}", route.kind));
        }
        let lowered = |ifindex: u32| {
            let mtu_bytes = route.mtu_bytes;
            mtu_bytes.filter(|&mtu| mtu < self.links[&ifindex].mtu_bytes)
        };
        let to = |hop: &Hop| (hop.ifindex, hop.via, lowered(hop.ifindex), hop.weight);
        Some(match (hops.as_slice(), route.object) {
            ([hop], _) => format!("{:?}", to(&Hop { weight: 1, ..*hop })),
            (_, Some(object)) => format!("object {object}, {:?}", route.mtu_bytes),
            (hops, None) => format!("{:?}", hops.iter().map(to).collect::<Vec<_>>()),
        })
    }

    fn route_fate(&self, route: &Route, address: IpAddr) -> Option<Fate> {
        match route.kind {
            RouteKind::Local => return Some(Fate::stack(Counter::StackLocal)),
            RouteKind::Broadcast => return Some(Fate::skip(Counter::SkipNever)),
            RouteKind::Blackhole => return Some(Fate::skip(Counter::SkipBlackhole)),
            RouteKind::Unreachable => return Some(Fate::stack(Counter::StackUnreachable)),
            RouteKind::Throw => return None,
            _ => {}
        }
        let Some(hops) = self.hops(route) else {
            return Some(Fate::skip(Counter::SkipBlackhole));
        };
        let ignore = |ifindex| {
            let ignored = |key| self.ignore_link_down.get(&key) == Some(&true);
            ignored(None) || ignored(Some(ifindex))
        };
        let live = |hop: &&Hop| self.links[&hop.ifindex].carrier;
        let tried = |hop: &&Hop| self.is_up(hop.ifindex) && !ignore(hop.ifindex) || live(hop);
        let mut usable: Vec<&Hop> = hops.iter().filter(live).collect();
        if usable.is_empty() {
            usable = hops.iter().filter(tried).collect();
        }
        let asks =
            route.object.is_some() || family() == Family::Ipv4 && self.multipath_uses_neighbours;
        let answers = |hop: &&Hop| match hop.via {
            Via::Gateway(gateway) => !matches!(
                self.neighbours.get(&(hop.ifindex, gateway)),
                Some(Neighbour {
                    state: NeighbourState::Incomplete | NeighbourState::Failed,
                    ..
                })
            ),
            _ => true,
        };
        if asks && hops.len() > 1 && usable.iter().any(&answers) {
            usable.retain(|hop| answers(hop));
        }
        match (usable.as_slice(), hops.as_slice()) {
            ([], _) => None,
            ([hop], [_]) => Some(self.hop_fate(hop, route.mtu_bytes, Some(address))),
            (usable, _) => {
                let fates = usable
                    .iter()
                    .map(|hop| self.hop_fate(hop, route.mtu_bytes, None));
                Some(Fate::Ecmp(fates.map(|fate| (fate, 0)).collect()))
            }
        }
    }

    /// A route's next hops; `None` for a blackhole.
    fn hops(&self, route: &Route) -> Option<Vec<Hop>> {
        let Some(object) = route.object else {
            return Some(route.hops.clone());
        };
        match &self.objects[&object] {
            NextHopObjectKind::Blackhole => None,
            NextHopObjectKind::Hop(hop) => Some(vec![*hop]),
            NextHopObjectKind::Group(members) | NextHopObjectKind::ResilientGroup(members) => {
                let hop = |&(id, _): &(u32, u32)| match self.objects[&id] {
                    NextHopObjectKind::Hop(hop) => hop,
                    _ => panic!("group of {id}"),
                };
                Some(members.iter().map(hop).collect())
            }
        }
    }

    /// `destination` is given where an on-link neighbour may be the next hop.
    fn hop_fate(&self, hop: &Hop, mtu_bytes: Option<u32>, destination: Option<IpAddr>) -> Fate {
        let (to, flags) = match hop.via {
            Via::Kernel => return Fate::stack(Counter::StackPolicy),
            Via::Link => (destination, NEXT_HOP_ON_LINK),
            Via::Gateway(gateway) => {
                let proven = self.proven.contains(&(hop.ifindex, gateway));
                (Some(gateway), if proven { NEXT_HOP_XCAST } else { 0 })
            }
        };
        let Some(&port) = self.ports.get(&hop.ifindex) else {
            return Fate::stack(Counter::StackNoPort);
        };
        let link = &self.links[&hop.ifindex];
        let neighbour = to.and_then(|to| self.neighbours.get(&(hop.ifindex, to)));
        match neighbour.map(|neighbour| (neighbour.state, neighbour.mac)) {
            Some((
                NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Permanent,
                Some(destination_mac),
            )) => Fate::Forward {
                port,
                flags,
                mtu_bytes: mtu_bytes.map_or(link.mtu_bytes, |mtu| mtu.min(link.mtu_bytes)) as u16,
                destination_mac,
                source_mac: link.mac.unwrap(),
            },
            _ => Fate::stack(Counter::StackNoNeighbour),
        }
    }

    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let local = |route: &&Route| route.kind == RouteKind::Local;
        let hosts = self.routes.iter().filter(local).map(|route| route.prefix);
        let hosts = hosts.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
        hosts
            .map(|prefix| prefix.addr())
            .filter(|a| !a.is_loopback())
            .collect()
    }

    fn gateways(&self) -> BTreeSet<(u32, IpAddr)> {
        let hops = self
            .routes
            .iter()
            .filter_map(|route| self.hops(route))
            .flatten();
        let sends = |ifindex| {
            self.ports.contains_key(&ifindex) && self.links.get(&ifindex).is_some_and(|l| l.carrier)
        };
        hops.filter_map(|hop| match hop.via {
            Via::Gateway(gateway) if sends(hop.ifindex) => Some((hop.ifindex, gateway)),
            _ => None,
        })
        .collect()
    }

    fn check(&self, router: &Router) -> Result<(), TestCaseError> {
        for address in ADDRESSES {
            let fate = match router.fate(address) {
                Fate::Ecmp(members) => {
                    Fate::Ecmp(members.into_keys().map(|fate| (fate, 0)).collect())
                }
                fate => fate,
            };
            prop_assert_eq!(
                fate,
                self.fate(ip(address)),
                "{}\n{:#?}",
                address,
                self.routes
            );
        }
        let own: BTreeSet<_> = router.maps.own_addresses.keys().copied().collect();
        prop_assert_eq!(own, self.own_addresses());
        prop_assert_eq!(&router.maps.resolving, &self.gateways());
        Ok(())
    }
}

fn takes_lists(fate: &Fate) -> bool {
    match fate {
        Fate::Forward { flags, .. } => *flags == NEXT_HOP_XCAST,
        Fate::Ecmp(members) => members.keys().any(takes_lists),
        Fate::Stack(_) | Fate::Skip(_) => false,
    }
}

both_families! {
    maps_say_what_the_kernels_state_means,
    maps_say_what_the_kernels_state_and_the_table_for_lists_mean,
}

fn maps_say_what_the_kernels_state_means() {
    compare(None);
}

fn maps_say_what_the_kernels_state_and_the_table_for_lists_mean() {
    compare(Some(XCAST_TABLE));
}

fn compare(xcast_table: Option<u32>) {
    let config = ProptestConfig {
        cases: 500,
        ..ProptestConfig::default()
    };
    proptest!(config, |(operations in prop::collection::vec(operation(), 1..80))| {
        follow(operations, xcast_table)?;
    });
}

fn follow(operations: Vec<Operation>, xcast_table: Option<u32>) -> Result<(), TestCaseError> {
    let mut kernel = Kernel {
        has_xcast_table: xcast_table.is_some(),
        ..Kernel::default()
    };
    for ifindex in 1..4 {
        kernel.set_link(link(ifindex));
    }
    let mut router = Router::new(SyncConfig {
        gateways: Gateways::default(),
        tables: TABLES.to_vec(),
        xcast_table,
        ..SyncConfig::default()
    });
    router.apply(kernel.dump());
    kernel.announced.clear();
    router.attach(1, 2).attach(2, 3);
    kernel.ports = [(1, 2), (2, 3)].into();
    for operation in operations {
        let settles = matches!(operation, Operation::Deliver | Operation::Overrun);
        kernel.carry_out(operation, &mut router);
        if settles {
            kernel.check(&router)?;
        }
    }
    kernel.carry_out(Operation::Deliver, &mut router);
    kernel.check(&router)?;
    if !kernel.dumps_lie() {
        router.apply(kernel.dump());
        prop_assert_eq!(&router.edits, &[], "a dump brought news");
    }
    // Everything goes: nothing may be left but what is always there.
    for ifindex in 1..4 {
        kernel.remove_link(ifindex);
    }
    kernel.objects.clear();
    kernel.routes.clear();
    kernel.announced.clear();
    router.apply(kernel.dump());
    prop_assert_eq!(router.sync.route_count(), NEVER.len());
    prop_assert_eq!(router.sync.next_hop_count(), FIXED.len());
    prop_assert_eq!(router.maps.routes.len(), NEVER.len());
    Ok(())
}
