//! Which next hop each prefix gets, in a map that longest-prefix match alone decides.
//!
//! The kernel consults one table after the other and takes the first that has any matching route; the
//! datapath has a single map. So a route goes into the map where its table is the one that decides
//! for its own prefix, and not where a route of an earlier table covers it. Where a `throw` route
//! sends packets on to later tables, the map repeats what those decide.
//!
//! The Xcast routing table (RFC 5058 section 11.1) is none of the kernel's for this: what it says is weighed
//! against what the kernel's tables decide, and the longer prefix wins, see [`decide`].

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use xcast_common::maps::{NEXT_HOP_NEVER, NEXT_HOP_NEVER_DESTINATION, NEXT_HOP_NO_ROUTE};

use super::{
    next_hops::{Key, NEXT_HOP_BLACKHOLE, NEXT_HOP_LOCAL, NEXT_HOP_POLICY, NEXT_HOP_UNREACHABLE},
    node::{Choice, Standing},
    path::{OnLink, PathId, Resolution},
    prefix::PrefixMap,
    rib::{Consulted, Rib, Table},
};

/// Prefixes that are never a destination, whatever the kernel's routes say, and their next-hop ids.
pub(super) const NEVER: [(IpNet, u32); 12] = [
    (net([0, 0, 0, 0], 8), NEXT_HOP_NEVER_DESTINATION),
    (net([0, 0, 0, 0], 32), NEXT_HOP_NEVER),
    (net([127, 0, 0, 0], 8), NEXT_HOP_NEVER),
    (net([169, 254, 0, 0], 16), NEXT_HOP_NEVER_DESTINATION),
    (net([224, 0, 0, 0], 4), NEXT_HOP_NEVER),
    (net([240, 0, 0, 0], 4), NEXT_HOP_NEVER_DESTINATION),
    (net([255, 255, 255, 255], 32), NEXT_HOP_NEVER),
    (net6([0, 0, 0, 0, 0, 0, 0, 0], 128), NEXT_HOP_NEVER),
    (net6([0, 0, 0, 0, 0, 0, 0, 1], 128), NEXT_HOP_NEVER),
    // IPv4-mapped: IPv4 in programs, not IPv6 on links.
    (net6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), NEXT_HOP_NEVER),
    // RFC 4291 section 2.5.6: link-local sources are not forwarded either.
    (net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), NEXT_HOP_NEVER),
    (net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), NEXT_HOP_NEVER),
];

/// Why a prefix has the next hop it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// What decides.
    pub(super) by: By,
    /// The deciding route's prefix: the prefix itself, or one that contains it.
    pub(super) prefix: IpNet,
    pub(super) id: u32,
    pub(super) on_link: Option<OnLink>,
    /// Lists go into this tunnel, whatever the id is.
    pub(super) tunnel: Option<u16>,
}

/// What decides about a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A route: index of its table, and its path.
    Route { table: usize, path: PathId },
    /// Routes for some packets only: index of their table.
    Scope { table: usize },
    /// Routes of which the kernel chooses one by the interface of arrival: index of their table.
    Arrival { table: usize },
    /// A policy rule: its place in the order.
    Rule(usize),
}

/// What the map should say at a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: what contains the prefix holds for it, too.
    Absent,
    /// This next-hop id.
    Id(u32),
    /// A next hop that its routes hold: of an on-link neighbour, or of a tunnel.
    Held(Key),
    /// A tunnel, where single destinations go as the kernel says.
    Tunnel(u16),
}

/// The map as it was written.
#[derive(Debug, Default)]
pub(super) struct Fib {
    pub(super) routes: PrefixMap<u32>,
    pub(super) own_addresses: HashMap<IpAddr, u32>,
    /// How many routes lead to each next-hop id.
    users: HashMap<u32, u32>,
    /// Prefixes with a route that sends packets on to later tables: of the type `throw`, or one that a policy rule
    /// suppresses.
    throws: BTreeSet<IpNet>,
}

impl Fib {
    /// Writes a route; returns the id it had before.
    pub(super) fn insert(&mut self, prefix: IpNet, id: u32) -> Option<u32> {
        *self.users.entry(id).or_default() += 1;
        let old = self.routes.insert(prefix, id);
        if let Some(old) = old {
            self.forget_user(old);
        }
        old
    }

    /// Removes a route; returns the id it had.
    pub(super) fn remove(&mut self, prefix: IpNet) -> Option<u32> {
        let old = self.routes.remove(prefix)?;
        self.forget_user(old);
        Some(old)
    }

    /// How many routes lead to a next-hop id.
    pub(super) fn users(&self, id: u32) -> u32 {
        self.users.get(&id).copied().unwrap_or_default()
    }

    fn forget_user(&mut self, id: u32) {
        if let Some(users) = self.users.get_mut(&id) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&id);
            }
        }
    }

    /// Takes note that the routes of `prefix` changed, and adds to `affected` the other prefixes that
    /// this concerns.
    pub(super) fn note(&mut self, rib: &mut Rib, prefix: IpNet, affected: &mut Vec<IpNet>) {
        let mut throw = false;
        for at in 0..rib.tables.len() {
            let table = &mut rib.tables[at];
            let is_scoped = !table.scope.is_all();
            let Some(node) = table.routes.get_mut(prefix) else {
                continue;
            };
            let standing = match node.choice(&rib.paths) {
                // Whether a packet goes this way is the kernel's to say, also as long as no next hop is usable.
                _ if is_scoped && !node.candidates.is_empty() => Standing::Route,
                None => Standing::Silent,
                Some(Choice {
                    path,
                    by_arrival: false,
                }) if rib.paths[path].resolution == Resolution::Throw => Standing::Throw,
                Some(_) => Standing::Route,
            };
            throw |= standing == Standing::Throw;
            let is_silent = standing == Standing::Silent;
            let changed = node.standing != standing;
            node.standing = standing;
            if node.candidates.is_empty() {
                rib.tables[at].routes.remove(prefix);
            }
            let order = rib.order(prefix);
            let consults = |step: &&Consulted| matches!(step, Consulted::Table { tables, .. } if tables.contains(&at));
            throw |= !is_silent
                && order.iter().filter(consults).any(|step| {
                    matches!(step, Consulted::Table { longer_than: Some(len), .. } if prefix.prefix_len() <= *len)
                });
            if changed {
                let later = order.iter().skip_while(|step| !consults(step)).skip(1);
                for step in later {
                    match step {
                        Consulted::Table { tables, .. } => {
                            for &table in tables {
                                affected.extend(rib.tables[table].routes.more_specific(prefix));
                            }
                        }
                        Consulted::Stack { prefix: stack, .. } if prefix.contains(stack) => {
                            affected.push(*stack);
                        }
                        Consulted::Stack { .. } => {}
                    }
                }
            }
        }
        if throw {
            self.throws.insert(prefix);
        } else {
            self.throws.remove(&prefix);
        }
        if prefix.prefix_len() < prefix.max_prefix_len() {
            let last = IpNet::from(prefix.broadcast());
            affected.extend(self.throws.range(prefix..=last));
            let neighbours = rib.neighbours_in(prefix);
            affected.extend(neighbours.map(|neighbour| IpNet::from(neighbour.address)));
        }
    }

    /// What the map should say at `prefix`.
    pub(super) fn entry(&self, rib: &Rib, prefix: IpNet, is_port: impl Fn(u32) -> bool) -> Entry {
        let here = self.throws.contains(&prefix);
        let Some(decision) = decide(rib, prefix) else {
            return if here {
                Entry::Id(NEXT_HOP_NO_ROUTE)
            } else {
                Entry::Absent
            };
        };
        if prefix.prefix_len() == prefix.max_prefix_len()
            && let Some(OnLink { ifindex, mtu_bytes }) = decision.on_link
            && is_port(ifindex)
            && let address = prefix.addr()
            && let Some(neighbour) = rib.neighbour(ifindex, address)
            && neighbour.resolved().is_some()
        {
            return Entry::Held(Key::Host {
                ifindex,
                address,
                mtu_bytes,
            });
        }
        if !here && decision.prefix != prefix {
            return Entry::Absent;
        }
        match decision.tunnel {
            Some(tunnel) => Entry::Tunnel(tunnel),
            None => Entry::Id(decision.id),
        }
    }
}

/// What is decided for the addresses of `prefix` for which there is no more specific route: by the kernel's tables or by
/// the Xcast routing table, whichever has the longer match, and by the latter if they are alike. But what this host
/// delivers, or finds on a link, needs no router.
pub(super) fn decide(rib: &Rib, prefix: IpNet) -> Option<Decision> {
    let by_kernel = decide_as_kernel(rib, prefix);
    let by_table = decide_for_lists(rib, prefix);
    match (by_kernel, by_table) {
        (Some(kernel), Some(table)) => {
            let needs_router = kernel.on_link.is_none() && kernel.id != NEXT_HOP_LOCAL;
            let (kernel_len, len) = (kernel.prefix.prefix_len(), table.prefix.prefix_len());
            let prefers_table = len > kernel_len || len == kernel_len && needs_router;
            Some(if prefers_table { table } else { kernel })
        }
        (kernel, table) => kernel.or(table),
    }
}

/// What the Xcast routing table decides, by routes that lead to where lists are taken.
fn decide_for_lists(rib: &Rib, prefix: IpNet) -> Option<Decision> {
    let (table, routes) = rib.xcast_routes()?;
    let (prefix, (path, id, tunnel)) = routes.longest(prefix, |node| {
        let path = node.best(&rib.paths)?;
        match rib.paths[path].resolution {
            Resolution::Use { id, .. } => Some((path, id, None)),
            Resolution::Tunnel { tunnel } => Some((path, NEXT_HOP_NO_ROUTE, Some(tunnel))),
            _ => None,
        }
    })?;
    Some(Decision {
        by: By::Route { table, path },
        prefix,
        id,
        on_link: None,
        tunnel,
    })
}

/// What the kernel's tables decide for the addresses of `prefix` for which there is no more specific
/// route.
pub(super) fn decide_as_kernel(rib: &Rib, prefix: IpNet) -> Option<Decision> {
    let to_stack = |by, prefix| {
        Some(Decision {
            by,
            prefix,
            id: NEXT_HOP_POLICY,
            on_link: None,
            tunnel: None,
        })
    };
    for (at, step) in rib.order(prefix).iter().enumerate() {
        let (tables, longer_than) = match step {
            Consulted::Table {
                tables,
                longer_than,
            } => (tables, *longer_than),
            Consulted::Stack { prefix: stack, .. } if stack.contains(&prefix) => {
                return to_stack(By::Rule(at), *stack);
            }
            Consulted::Stack { .. } => continue,
        };
        let mut longest: Option<Match> = None;
        for &table in tables {
            let Table { scope, routes, .. } = &rib.tables[table];
            let found = if scope.is_all() {
                let found = routes.longest(prefix, |node| node.choice(&rib.paths));
                found.map(|(prefix, choice)| match choice.by_arrival {
                    true => (prefix, By::Arrival { table }),
                    false => {
                        let path = choice.path;
                        (prefix, By::Route { table, path })
                    }
                })
            } else {
                routes.longest(prefix, |node| {
                    (!node.candidates.is_empty()).then_some(By::Scope { table })
                })
            };
            let Some((prefix, by)) = found else { continue };
            let is_longer = longest.is_none_or(|(other, other_by)| {
                let is_scope =
                    matches!(by, By::Scope { .. }) && !matches!(other_by, By::Scope { .. });
                prefix.prefix_len() > other.prefix_len()
                    || prefix.prefix_len() == other.prefix_len() && is_scope
            });
            if is_longer {
                longest = Some((prefix, by));
            }
        }
        let Some((prefix, by)) = longest else {
            continue;
        };
        let By::Route { path, .. } = by else {
            return to_stack(by, prefix);
        };
        let Resolution::Use { id, on_link } = rib.paths[path].resolution else {
            continue;
        };
        // What discards with an error is never suppressed (`fib_rules_lookup`).
        let discards = id == NEXT_HOP_BLACKHOLE || id == NEXT_HOP_UNREACHABLE;
        if longer_than.is_some_and(|len| prefix.prefix_len() <= len) && !discards {
            continue;
        }
        return Some(Decision {
            by,
            prefix,
            id,
            on_link,
            tunnel: None,
        });
    }
    None
}

/// A prefix that matches, and what says so.
type Match = (IpNet, By);

/// The block of addresses that are never a destination which contains `prefix`.
pub(super) fn never(prefix: IpNet) -> Option<(IpNet, u32)> {
    NEVER
        .into_iter()
        .filter(|(block, _)| block.contains(&prefix))
        .max_by_key(|(block, _)| block.prefix_len())
}

const fn net(octets: [u8; 4], prefix_len: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len))
}

const fn net6(words: [u16; 8], prefix_len: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = words;
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    IpNet::V6(Ipv6Net::new_assert(address, prefix_len))
}
