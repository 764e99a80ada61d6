//! Which next hop each prefix gets, in a map that longest-prefix match alone decides.
//!
//! The kernel consults one table after the other and takes the first that has any matching route; the
//! datapath has a single map. So a route goes into the map where its table is the one that decides
//! for its own prefix, and not where a route of an earlier table covers it. Where a `throw` route
//! sends packets on to later tables, the map repeats what those decide.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use xcast_common::maps::{NEXT_HOP_NEVER, NEXT_HOP_NEVER_DESTINATION, NEXT_HOP_NO_ROUTE};

use super::{
    next_hops::Key,
    node::Standing,
    path::{OnLink, PathId, Resolution},
    prefix::PrefixMap,
    rib::Rib,
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
    /// Index of the table that decides.
    pub(super) table: usize,
    /// The deciding route's prefix: the prefix itself, or one that contains it.
    pub(super) prefix: IpNet,
    pub(super) path: PathId,
    pub(super) id: u32,
    pub(super) on_link: Option<OnLink>,
}

/// What the map should say at a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: what contains the prefix holds for it, too.
    Absent,
    /// This next-hop id.
    Id(u32),
    /// The next hop of an on-link neighbour.
    Host(Key),
}

/// The map as it was written.
#[derive(Debug, Default)]
pub(super) struct Fib {
    pub(super) routes: PrefixMap<u32>,
    pub(super) own_addresses: HashMap<IpAddr, u32>,
    /// How many routes lead to each next-hop id.
    users: HashMap<u32, u32>,
    /// Prefixes with a `throw` route.
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
            let Some(node) = rib.tables[at].routes.get_mut(prefix) else {
                continue;
            };
            let standing = match node.best(&rib.paths) {
                None => Standing::Silent,
                Some(path) if rib.paths[path].resolution == Resolution::Throw => Standing::Throw,
                Some(_) => Standing::Route,
            };
            throw |= standing == Standing::Throw;
            let changed = node.standing != standing;
            node.standing = standing;
            if node.candidates.is_empty() {
                rib.tables[at].routes.remove(prefix);
            }
            if changed {
                for later in &rib.tables[at + 1..] {
                    affected.extend(later.routes.more_specific(prefix));
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
            return Entry::Host(Key::Host {
                ifindex,
                address,
                mtu_bytes,
            });
        }
        if here || decision.prefix == prefix {
            Entry::Id(decision.id)
        } else {
            Entry::Absent
        }
    }
}

/// What the kernel's tables decide for the addresses of `prefix` for which there is no more specific
/// route.
pub(super) fn decide(rib: &Rib, prefix: IpNet) -> Option<Decision> {
    for (table, routes) in rib.tables.iter().map(|table| &table.routes).enumerate() {
        let Some((prefix, path)) = routes.longest(prefix, |node| node.best(&rib.paths)) else {
            continue;
        };
        if let Resolution::Use { id, on_link } = rib.paths[path].resolution {
            return Some(Decision {
                table,
                prefix,
                path,
                id,
                on_link,
            });
        }
    }
    None
}

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
