//! The ways routes go: what a route says apart from its prefix, table and metric.

use std::{
    collections::{HashMap, HashSet, hash_map},
    net::IpAddr,
};

use ipnet::IpNet;

use super::event::{Hop, KernelOnly, Route, RouteKind, Via};

/// Names a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PathId(u32);

/// What makes two paths the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathSpec {
    /// Of routes of IPv6.
    pub(super) ipv6: bool,
    /// Of routes of the Xcast routing table (RFC 5058 section 11.1), which are for lists only.
    pub(super) for_lists: bool,
    pub(super) kind: RouteKind,
    pub(super) protocol: u8,
    pub(super) preferred_source: Option<IpAddr>,
    pub(super) mtu_bytes: Option<u32>,
    pub(super) preference: i8,
    pub(super) kernel_only: Option<KernelOnly>,
    pub(super) next: Next,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next {
    /// To these next hops.
    Hops(Vec<Hop>),
    /// To wherever a nexthop object leads.
    Object(u32),
}

/// What a path means for forwarding, as of the last time it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Resolution {
    /// No next hop is usable: the route is passed over.
    #[default]
    Unusable,
    /// The next table decides.
    Throw,
    /// The route is one of the Xcast routing table, and what it leads to takes no lists now: it is passed over. Its
    /// next hop is held, so that a gateway is asked whether it speaks Xcast.
    Waiting { id: u32 },
    /// The route is one of the Xcast routing table, and its gateway the far end of this tunnel, which works.
    Tunnel { tunnel: u16 },
    /// Destinations get this next-hop id.
    Use {
        id: u32,
        /// The route is an on-link route: its resolved neighbours get next hops of their own.
        on_link: Option<OnLink>,
    },
}

impl Resolution {
    /// The next hop that is held.
    pub(super) fn next_hop(self) -> Option<u32> {
        match self {
            Self::Use { id, .. } | Self::Waiting { id } => Some(id),
            Self::Unusable | Self::Throw | Self::Tunnel { .. } => None,
        }
    }
}

/// Where an on-link route's neighbours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OnLink {
    pub(super) ifindex: u32,
    /// The route's MTU metric, where it is below the link's MTU.
    pub(super) mtu_bytes: Option<u16>,
}

/// A way that routes go.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) spec: PathSpec,
    /// The kernel's rendering of the nexthop object.
    pub(super) rendering: Vec<Hop>,
    /// Interfaces over which the kernel does not use this path, though their links may be fit for it:
    /// they were without an address.
    pub(super) dead: Vec<u32>,
    /// Prefixes with a route, in any table, that goes this way.
    pub(super) users: HashSet<IpNet>,
    pub(super) resolution: Resolution,
}

impl Path {
    /// One of its own next hops, not those of an object, is over this link.
    pub(super) fn leaves_by(&self, ifindex: u32) -> bool {
        matches!(&self.spec.next, Next::Hops(hops)
            if hops.iter().any(|hop| hop.ifindex == ifindex))
    }
}

impl Path {
    /// The next hops, if the kernel makes one multipath route of such routes of IPv6: each is by way
    /// of a gateway, and none by a nexthop object.
    pub(super) fn shared_hops(&self) -> Option<&[Hop]> {
        let by_gateway = |hop: &Hop| hop.via != Via::Link;
        match &self.spec.next {
            Next::Hops(hops) if !hops.is_empty() && hops.iter().all(by_gateway) => Some(hops),
            _ => None,
        }
    }
}

/// All paths.
#[derive(Debug, Default)]
pub(super) struct Paths {
    slots: Vec<Option<Path>>,
    vacant: Vec<PathId>,
    ids: HashMap<PathSpec, PathId>,
    by_object: HashMap<u32, HashSet<PathId>>,
    /// The Xcast routing table.
    xcast_table: Option<u32>,
    /// The paths of its routes.
    for_lists: HashSet<PathId>,
}

impl Paths {
    /// No paths yet; those of this table's routes are for lists only.
    pub(super) fn new(xcast_table: Option<u32>) -> Self {
        Self {
            xcast_table,
            ..Self::default()
        }
    }

    /// The paths of the Xcast routing table's routes.
    pub(super) fn for_lists(&self) -> impl Iterator<Item = PathId> {
        self.for_lists.iter().copied()
    }

    /// The path of a route, which is not used over the interfaces `dead`, and whether it is new or may lead elsewhere than before.
    pub(super) fn intern(&mut self, route: &Route, dead: Vec<u32>) -> (PathId, bool) {
        let (next, rendering) = match route.object {
            Some(object) => (Next::Object(object), route.hops.clone()),
            None => (Next::Hops(route.hops.clone()), Vec::new()),
        };
        let spec = PathSpec {
            ipv6: matches!(route.prefix, IpNet::V6(_)),
            for_lists: self.xcast_table == Some(route.table),
            kind: route.kind,
            protocol: route.protocol,
            preferred_source: route.preferred_source,
            mtu_bytes: route.mtu_bytes,
            preference: route.preference,
            kernel_only: route.kernel_only,
            next,
        };
        if let Some(&id) = self.ids.get(&spec) {
            let path = &mut self[id];
            let changed = path.rendering != rendering || path.dead != dead;
            path.rendering = rendering;
            path.dead = dead;
            return (id, changed);
        }
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Each path has a route of its own, and 2^32 of them do not fit into memory.
            PathId((self.slots.len() - 1) as u32)
        });
        if let Next::Object(object) = spec.next {
            self.by_object.entry(object).or_default().insert(id);
        }
        if spec.for_lists {
            self.for_lists.insert(id);
        }
        self.ids.insert(spec.clone(), id);
        self.slots[id.0 as usize] = Some(Path {
            spec,
            rendering,
            dead,
            users: HashSet::new(),
            resolution: Resolution::Unusable,
        });
        (id, true)
    }

    /// The path of a route, if there is one. The kernel gives a route a lifetime, or takes it away, without a word.
    pub(super) fn find(&self, route: &Route) -> Option<PathId> {
        let other = match route.kernel_only {
            None => Some(KernelOnly::Lifetime),
            Some(KernelOnly::Lifetime) => None,
            same => same,
        };
        self.find_with(route, route.kernel_only)
            .or_else(|| self.find_with(route, other))
    }

    fn find_with(&self, route: &Route, kernel_only: Option<KernelOnly>) -> Option<PathId> {
        let next = match route.object {
            Some(object) => Next::Object(object),
            None => Next::Hops(route.hops.clone()),
        };
        self.ids
            .get(&PathSpec {
                ipv6: matches!(route.prefix, IpNet::V6(_)),
                for_lists: self.xcast_table == Some(route.table),
                kind: route.kind,
                protocol: route.protocol,
                preferred_source: route.preferred_source,
                mtu_bytes: route.mtu_bytes,
                preference: route.preference,
                kernel_only,
                next,
            })
            .copied()
    }

    pub(super) fn get(&self, id: PathId) -> Option<&Path> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, &Path)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(i, slot)| Some((PathId(i), slot.as_ref()?)))
    }

    /// The paths that use a nexthop object.
    pub(super) fn with_object(&self, object: u32) -> Vec<PathId> {
        self.by_object
            .get(&object)
            .map(|ids| ids.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Forgets a path.
    pub(super) fn remove(&mut self, id: PathId) -> Option<Path> {
        let path = self.slots.get_mut(id.0 as usize)?.take()?;
        self.vacant.push(id);
        self.ids.remove(&path.spec);
        self.for_lists.remove(&id);
        if let Next::Object(object) = path.spec.next
            && let hash_map::Entry::Occupied(mut entry) = self.by_object.entry(object)
        {
            entry.get_mut().remove(&id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        Some(path)
    }
}

impl std::ops::Index<PathId> for Paths {
    type Output = Path;

    /// # Panics
    ///
    /// If the path was removed: candidates keep their path alive, so this would be a bug here.
    fn index(&self, id: PathId) -> &Path {
        self.get(id).expect("a path lives as long as its users")
    }
}

impl std::ops::IndexMut<PathId> for Paths {
    fn index_mut(&mut self, id: PathId) -> &mut Path {
        self.get_mut(id).expect("a path lives as long as its users")
    }
}
