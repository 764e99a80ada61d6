//! The order of IPv6's routes of one prefix, and its multipath routes.
//!
//! The kernel has no multipath routes of IPv6: it has one route for each next hop, in a list by metric.
//! Routes of the same metric by way of gateways are siblings, wherever they stand among others of that
//! metric, and share the traffic. It announces all siblings when one comes, and only the one that goes.
//! Here, too, each next hop has a candidate of its own in the list, and siblings have the same path:
//! the first of them stands for its first next hop, and so on.
//!
//! The metrics and the protocol of a multipath route are those that its oldest next hop came with.

use std::iter;

use super::{
    event::{Hop, KernelOnly, Placement, Route, Via},
    node::{Candidate, Node},
    path::{Next, Path, PathId, Paths},
};

/// What makes two next hops of a route the same, whatever their weights.
pub(super) fn same_hop(one: &Hop, other: &Hop) -> bool {
    (one.ifindex, one.via) == (other.ifindex, other.via)
}

/// The next hops, if the kernel makes siblings of such routes: each is by way of a gateway, and none by
/// a nexthop object.
fn sharing(route: &Route) -> &[Hop] {
    let by_gateway = |hop: &Hop| hop.via != Via::Link;
    match route.object {
        None if route.hops.iter().all(by_gateway) => &route.hops,
        _ => &[],
    }
}

impl Node {
    /// The path of the siblings that are in a route that the kernel announces.
    ///
    /// It names all siblings, so those it does not name are none: routes that it learned from routers
    /// stay by themselves.
    pub(super) fn siblings(&self, route: &Route, paths: &Paths) -> Option<PathId> {
        let named = |hop: &Hop| sharing(route).iter().any(|other| same_hop(hop, other));
        let shares = |c: &&Candidate| {
            let hops = paths[c.path].shared_hops();
            c.metric == route.metric && hops.is_some_and(|hops| hops.iter().any(named))
        };
        self.candidates.iter().find(shares).map(|c| c.path)
    }

    /// Puts a route of IPv6 in its place; `siblings` were there before.
    pub(super) fn place_ipv6(
        &mut self,
        new: Candidate,
        placement: Placement,
        siblings: Option<PathId>,
        paths: &Paths,
    ) {
        let all = &self.candidates;
        let first = all.partition_point(|c| c.metric < new.metric);
        let last = first + all[first..].partition_point(|c| c.metric == new.metric);
        let mut list: Vec<Candidate> = self.candidates.drain(first..last).collect();

        let hops_of = |path: PathId| paths[path].shared_hops();
        let hops = hops_of(new.path).unwrap_or_default();
        match placement {
            Placement::Dump => {
                let known = |c: &&Candidate| c.path == new.path || Some(c.path) == siblings;
                let mut known = list.iter().filter(known);
                // Announced while the dump was under way: that is newer.
                if known.all(|c| c.generation != new.generation) {
                    // The dump gives the order: those it mentioned stand behind those it has not yet.
                    list.retain(|c| c.path != new.path && Some(c.path) != siblings);
                    list.extend(iter::repeat_n(new, hops.len().max(1)));
                }
            }
            // Said again: the nexthop object it uses changed.
            Placement::Replace
                if matches!(paths[new.path].spec.next, Next::Object(_))
                    && list.iter().any(|c| c.path == new.path) => {}
            // The first of its sort goes, and with a sibling all of them.
            Placement::Replace => {
                let sort = |path| hops_of(path).is_some();
                let same = list.iter().position(|c| sort(c.path) == sort(new.path));
                if let Some(at) = same.or((!list.is_empty()).then_some(0)) {
                    let old = list.remove(at).path;
                    list.retain(|c| c.path != old || !sort(old));
                    list.insert(at, new);
                }
            }
            Placement::First | Placement::Last | Placement::Only => {
                let old = siblings.and_then(hops_of).unwrap_or_default();
                let mut old = old.iter();
                list.retain_mut(|c| {
                    if Some(c.path) != siblings {
                        return true;
                    }
                    c.path = new.path;
                    let stays = |hop| hops.iter().any(|new| same_hop(hop, new));
                    old.next().is_some_and(stays)
                });
            }
        }
        if placement != Placement::Dump {
            let placed = list.iter().filter(|c| c.path == new.path).count();
            let missing = hops.len().max(1).saturating_sub(placed);
            list.extend(iter::repeat_n(new, missing));
        }
        for candidate in &mut list {
            if candidate.path == new.path {
                candidate.generation = new.generation;
            }
        }
        self.candidates.splice(first..first, list);
    }

    /// Removes the routes along paths that a link took down with it. From siblings that stay, the kernel
    /// goes on behind the last of them, and forgets the routes that stand between them.
    pub(super) fn remove_dead(&mut self, dead: &[PathId], paths: &Paths) {
        let siblings = |c: &Candidate| paths[c.path].shared_hops().map_or(0, <[Hop]>::len) > 1;
        let all = &self.candidates;
        let mut forgotten = 0;
        let mut stays = Vec::with_capacity(all.len());
        for (at, c) in all.iter().enumerate() {
            let goes = at >= forgotten && dead.contains(&c.path);
            if !goes && at >= forgotten && siblings(c) {
                let same = |other: &Candidate| (other.metric, other.path) == (c.metric, c.path);
                forgotten = all.iter().rposition(same).map_or(at, |last| last + 1);
            }
            stays.push(!goes);
        }
        let mut stays = stays.into_iter();
        self.candidates.retain(|_| stays.next().unwrap_or(true));
    }

    /// Takes next hops out of a multipath route; those that are left go along the path `rest`.
    pub(super) fn remove_siblings(
        &mut self,
        metric: u32,
        path: PathId,
        hops: &[Hop],
        gone: impl Fn(&Hop) -> bool,
        rest: Option<PathId>,
    ) {
        let mut hops = hops.iter();
        self.candidates.retain_mut(|c| {
            if (c.metric, c.path) != (metric, path) {
                return true;
            }
            let stays = hops.next().is_some_and(|hop| !gone(hop));
            c.path = rest.unwrap_or(path);
            stays
        });
    }
}

/// The route that is announced, as the siblings that were known grow by it: older ones come first.
pub(super) fn grown(route: &Route, siblings: &Path) -> Route {
    let all = &route.hops;
    let named = |hop: &Hop| all.iter().find(|other| same_hop(hop, other)).copied();
    let old = siblings.shared_hops().unwrap_or_default();
    let known = |hop: &&Hop| old.iter().any(|other| same_hop(hop, other));
    let new = all.iter().filter(|hop| !known(hop)).copied();
    let same = route.preference == siblings.spec.preference;
    Route {
        preference: siblings.spec.preference,
        kernel_only: siblings
            .spec
            .kernel_only
            .or(route.kernel_only)
            .or((!same).then_some(KernelOnly::Preference)),
        kind: siblings.spec.kind,
        protocol: siblings.spec.protocol,
        preferred_source: siblings.spec.preferred_source,
        mtu_bytes: siblings.spec.mtu_bytes,
        hops: old.iter().filter_map(named).chain(new).collect(),
        ..route.clone()
    }
}
