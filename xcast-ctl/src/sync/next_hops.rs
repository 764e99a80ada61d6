//! The table of next hops: which id stands for what, and what its entry says.
//!
//! An id is held by whoever refers to it: paths, groups, and the host routes of on-link neighbours.
//! When nobody does, it is free, and it is taken again as late as possible: ids never used before come
//! first, then the one that has been free longest. So a packet that looked an id up just before it was
//! freed still finds the old entry.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use xcast_common::maps::{
    EGRESS_ANY, EGRESS_OTHER, EcmpGroup, MAX_ECMP_GROUPS, MAX_NEXT_HOPS, NEXT_HOP_NEVER,
    NEXT_HOP_NEVER_DESTINATION, NEXT_HOP_NO_ROUTE, NEXT_HOP_ON_LINK, NEXT_HOP_STACK_POLICY,
    NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST, counter::Counter,
};

use super::{
    ecmp::{self, Share},
    edit::Edit,
    event::{Link, Mac},
    rib::Rib,
    tunnels::Tunnels,
};
use crate::gateways::Gateways;

/// The ids after those that the datapath knows by name.
pub(super) const NEXT_HOP_LOCAL: u32 = 3;
pub(super) const NEXT_HOP_UNREACHABLE: u32 = 4;
pub(super) const NEXT_HOP_NO_PORT: u32 = 5;
pub(super) const NEXT_HOP_BLACKHOLE: u32 = 6;
pub(super) const NEXT_HOP_POLICY: u32 = NEXT_HOP_STACK_POLICY;

/// The entries that are always there, in order of their ids from 0.
pub(super) const FIXED: [NextHop; 8] = [
    NextHop::stack(Counter::StackNoRoute),
    NextHop::skip(Counter::SkipNever),
    NextHop::skip(Counter::SkipNever),
    NextHop::stack(Counter::StackLocal),
    NextHop::stack(Counter::StackUnreachable),
    NextHop::stack(Counter::StackNoPort),
    NextHop::skip(Counter::SkipBlackhole),
    NextHop::stack(Counter::StackPolicy),
];

const _: () = {
    assert!(NEXT_HOP_NO_ROUTE == 0);
    assert!(NEXT_HOP_NEVER == 1);
    assert!(NEXT_HOP_NEVER_DESTINATION == 2);
    assert!(NEXT_HOP_STACK_POLICY == 7);
};

/// What a next-hop id stands for, beside the ones that are always there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A gateway.
    Gateway {
        ifindex: u32,
        gateway: IpAddr,
        /// The route's MTU metric, where it is below the link's MTU.
        mtu_bytes: Option<u16>,
    },
    /// On-link destinations whose neighbour is not resolved.
    Link { ifindex: u32 },
    /// An on-link destination.
    Host {
        ifindex: u32,
        address: IpAddr,
        mtu_bytes: Option<u16>,
    },
    /// A multipath route, by what it says: which of its members are in use may change.
    Group(GroupKey),
    /// A tunnel, for destinations that have this next hop without it.
    Tunnel { tunnel: u16, native: u32 },
}

/// What tells one ECMP group from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum GroupKey {
    /// The members of a multipath route, with their weights, and whether it is of IPv6: which of them are used depends on
    /// that.
    Members(Vec<(Target, u32)>, bool),
    /// A nexthop group, with the MTU metric of the routes that use it, and whether they are of IPv6.
    Object(u32, Option<u32>, bool),
}

/// Where a next hop leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// One of the ids that are always there.
    Fixed(u32),
    /// One that has to be acquired.
    Key(Key),
}

/// A member of an ECMP group.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) target: Target,
    pub(super) weight: u32,
    pub(super) usable: bool,
}

/// What an entry is made from, besides its key.
#[derive(Clone, Copy)]
pub(super) struct EntryContext<'a> {
    pub(super) rib: &'a Rib,
    pub(super) ports: &'a HashMap<u32, u8>,
    pub(super) gateways: &'a Gateways,
    /// Gateways that proved that they speak Xcast.
    pub(super) proven: &'a HashSet<(u32, IpAddr)>,
    /// The ports by which packets arrive that belong to an interface, whether or not they can send, as bits
    /// ([`port_bit`](xcast_common::maps::port_bit)).
    pub(super) arrivals: &'a HashMap<u32, u64>,
    pub(super) tunnels: &'a Tunnels,
}

/// The table of next hops.
#[derive(Debug)]
pub(super) struct NextHops {
    /// Indexed by id; `None` where it is fixed or free.
    slots: Vec<Option<Slot>>,
    ids: HashMap<Key, u32>,
    free: VecDeque<u32>,
    /// Groups numbered below this have been used.
    groups: u16,
    free_groups: VecDeque<u16>,
    /// Ids whose entries follow a neighbour.
    by_neighbour: HashMap<(u32, IpAddr), Vec<u32>>,
    /// Number of next hops that are gateways, by their link.
    gateways_behind: HashMap<u32, usize>,
    /// Gateways whose use may have begun or ended since [`take_gateways`](Self::take_gateways).
    gateways: BTreeSet<(u32, IpAddr)>,
    /// Ids of tunnels.
    tunnels: BTreeSet<u32>,
}

/// One next hop.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: Key,
    /// The entry as it was last written.
    pub(super) entry: NextHop,
    pub(super) group: Option<Group>,
    references: u32,
}

/// The members of an ECMP group.
#[derive(Debug)]
pub(super) struct Group {
    index: u16,
    /// Ids the group refers to, usable or not.
    pub(super) members: Vec<u32>,
    pub(super) buckets: EcmpGroup,
}

impl NextHops {
    pub(super) fn new() -> Self {
        Self {
            slots: FIXED.iter().map(|_| None).collect(),
            ids: HashMap::new(),
            free: VecDeque::new(),
            groups: 0,
            free_groups: VecDeque::new(),
            by_neighbour: HashMap::new(),
            gateways_behind: HashMap::new(),
            gateways: BTreeSet::new(),
            tunnels: BTreeSet::new(),
        }
    }

    /// The id of `key`, if it has one.
    pub(super) fn id(&self, key: &Key) -> Option<u32> {
        self.ids.get(key).copied()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Slot> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    /// There are ids nobody holds any more.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a reference to the id of a target, which gets one if it has none yet; `None` if there are
    /// no more ids.
    ///
    /// Groups are taken with [`acquire_group`](Self::acquire_group).
    pub(super) fn acquire(
        &mut self,
        target: &Target,
        context: EntryContext<'_>,
        edits: &mut Vec<Edit>,
    ) -> Option<u32> {
        let key = match target {
            Target::Fixed(id) => return Some(*id),
            Target::Key(key) => key,
        };
        if let Some(&id) = self.ids.get(key) {
            self.slot_mut(id)?.references += 1;
            return Some(id);
        }
        let id = self.vacant_id()?;
        if let Some(neighbour) = key.neighbour() {
            self.by_neighbour.entry(neighbour).or_default().push(id);
            if key.is_gateway() {
                *self.gateways_behind.entry(neighbour.0).or_default() += 1;
                self.gateways.insert(neighbour);
            }
        }
        if let Key::Tunnel { native, .. } = *key {
            self.tunnels.insert(id);
            if let Some(slot) = self.slot_mut(native) {
                slot.references += 1;
            }
        }
        let entry = self.entry(key, context);
        edits.push(Edit::NextHop { id, entry });
        self.occupy(id, key.clone(), entry, None);
        Some(id)
    }

    /// Takes a reference to the id of a group, and lets it have these members from now on; `None` if
    /// there are no more ids. If there are no more groups, a usable member stands for all of them.
    pub(super) fn acquire_group(
        &mut self,
        key: GroupKey,
        members: &[Member],
        context: EntryContext<'_>,
        edits: &mut Vec<Edit>,
    ) -> Option<u32> {
        let shares = self.acquire_members(members, context, edits)?;
        let ports = context.egress_ports(members);
        let ids = shares.iter().map(|share| share.id).collect();
        let buckets = EcmpGroup {
            buckets: ecmp::buckets(&shares),
        };
        let key = Key::Group(key);
        if let Some(&id) = self.ids.get(&key) {
            let slot = self.slot_mut(id)?;
            slot.references += 1;
            let group = slot.group.as_mut()?;
            if group.buckets != buckets {
                group.buckets = buckets;
                edits.push(group.edit());
            }
            let entry = NextHop::ecmp(group.index, ports);
            if slot.entry != entry {
                slot.entry = entry;
                edits.push(Edit::NextHop { id, entry });
            }
            for old in std::mem::replace(&mut group.members, ids) {
                self.release(old);
            }
            return Some(id);
        }
        let Some((id, index)) = self.vacant_group() else {
            let stand_in = shares.iter().position(|share| share.usable);
            for (at, share) in shares.iter().enumerate() {
                if Some(at) != stand_in {
                    self.release(share.id);
                }
            }
            return stand_in.map(|at| shares[at].id);
        };
        let entry = NextHop::ecmp(index, ports);
        let group = Group {
            index,
            members: ids,
            buckets,
        };
        edits.push(group.edit());
        edits.push(Edit::NextHop { id, entry });
        self.occupy(id, key, entry, Some(group));
        Some(id)
    }

    /// Gives a reference back.
    pub(super) fn release(&mut self, id: u32) {
        let Some(slot) = self.slot_mut(id) else {
            return; // One of the fixed ids.
        };
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let Some(slot) = self.slots[id as usize].take() else {
            return;
        };
        self.ids.remove(&slot.key);
        self.free.push_back(id);
        if let Some(neighbour) = slot.key.neighbour() {
            if let Some(ids) = self.by_neighbour.get_mut(&neighbour) {
                ids.retain(|&other| other != id);
                if ids.is_empty() {
                    self.by_neighbour.remove(&neighbour);
                }
            }
            if slot.key.is_gateway() {
                if let Some(count) = self.gateways_behind.get_mut(&neighbour.0) {
                    *count -= 1;
                }
                self.gateways.insert(neighbour);
            }
        }
        if let Key::Tunnel { native, .. } = slot.key {
            self.tunnels.remove(&id);
            self.release(native);
        }
        if let Some(group) = slot.group {
            self.free_groups.push_back(group.index);
            for member in group.members {
                self.release(member);
            }
        }
    }

    /// Writes the entry of `id` again if it says something else now.
    pub(super) fn refresh(&mut self, id: u32, context: EntryContext<'_>, edits: &mut Vec<Edit>) {
        let Some(slot) = self.get(id).filter(|slot| slot.group.is_none()) else {
            return;
        };
        let entry = self.entry(&slot.key, context);
        if let Some(slot) = self.slot_mut(id)
            && slot.entry != entry
        {
            slot.entry = entry;
            edits.push(Edit::NextHop { id, entry });
        }
    }

    /// The ids that lead into tunnels.
    pub(super) fn of_tunnels(&self) -> Vec<u32> {
        self.tunnels.iter().copied().collect()
    }

    /// What the entry of `key` says now.
    fn entry(&self, key: &Key, context: EntryContext<'_>) -> NextHop {
        let Key::Tunnel { tunnel, native } = *key else {
            return context.entry(key);
        };
        context.tunnels.entry(tunnel, self.native(native))
    }

    /// What destinations behind a tunnel have without it, for one that is alone; of a multipath route, a member.
    fn native(&self, id: u32) -> Option<NextHop> {
        if id == NEXT_HOP_NO_ROUTE {
            return None;
        }
        if let Some(fixed) = FIXED.get(id as usize) {
            return Some(*fixed);
        }
        let slot = self.get(id)?;
        let Some(group) = &slot.group else {
            return Some(slot.entry);
        };
        // Their sources may be behind any of them.
        Some(NextHop {
            egress: EGRESS_ANY,
            ..self.native(group.buckets.buckets[0])?
        })
    }

    /// Whether lists are sent to what an id stands for, or to one of its members.
    pub(super) fn takes_lists(&self, id: u32) -> bool {
        let Some(slot) = self.get(id) else {
            return false;
        };
        match &slot.group {
            Some(group) => group.buckets.buckets.iter().any(|&id| self.takes_lists(id)),
            None => slot.entry.flags & NEXT_HOP_XCAST != 0,
        }
    }

    /// The neighbour that the entry of `id` follows.
    pub(super) fn neighbour_of(&self, id: u32) -> Option<(u32, IpAddr)> {
        self.get(id)?.key.neighbour()
    }

    /// The ids whose entries follow a neighbour.
    pub(super) fn of_neighbour(&self, ifindex: u32, address: IpAddr) -> &[u32] {
        let ids = self.by_neighbour.get(&(ifindex, address));
        ids.map(Vec::as_slice).unwrap_or_default()
    }

    /// The ids whose entries depend on one of `links`; their gateways are looked at again, too.
    pub(super) fn of_links(&mut self, links: &HashSet<u32>) -> Vec<u32> {
        let mut ids = Vec::new();
        for (id, slot) in (0..).zip(&self.slots) {
            let Some(slot) = slot else { continue };
            if slot
                .key
                .ifindex()
                .is_some_and(|ifindex| links.contains(&ifindex))
            {
                ids.push(id);
                if slot.key.is_gateway() {
                    self.gateways.extend(slot.key.neighbour());
                }
            }
        }
        ids
    }

    /// Some route leads to a gateway on this link.
    pub(super) fn has_gateway(&self, ifindex: u32) -> bool {
        self.gateways_behind.get(&ifindex).is_some_and(|&n| n > 0)
    }

    /// A route leads to this gateway.
    pub(super) fn uses_gateway(&self, ifindex: u32, gateway: IpAddr) -> bool {
        let gateway_id = |&id: &u32| self.get(id).is_some_and(|slot| slot.key.is_gateway());
        self.of_neighbour(ifindex, gateway).iter().any(gateway_id)
    }

    /// Gateways whose use, or whose link, changed since this was last asked.
    pub(super) fn take_gateways(&mut self) -> BTreeSet<(u32, IpAddr)> {
        std::mem::take(&mut self.gateways)
    }

    fn acquire_members(
        &mut self,
        members: &[Member],
        context: EntryContext<'_>,
        edits: &mut Vec<Edit>,
    ) -> Option<Vec<Share>> {
        let mut shares: Vec<Share> = Vec::with_capacity(members.len());
        for member in members {
            let Some(id) = self.acquire(&member.target, context, edits) else {
                for share in shares {
                    self.release(share.id);
                }
                return None;
            };
            shares.push(Share {
                id,
                weight: member.weight,
                usable: member.usable,
            });
        }
        Some(shares)
    }

    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    fn occupy(&mut self, id: u32, key: Key, entry: NextHop, group: Option<Group>) {
        self.ids.insert(key.clone(), id);
        self.slots[id as usize] = Some(Slot {
            key,
            entry,
            group,
            references: 1,
        });
    }

    fn vacant_id(&mut self) -> Option<u32> {
        let fresh = self.slots.len() as u32;
        if fresh < MAX_NEXT_HOPS {
            self.slots.push(None);
            return Some(fresh);
        }
        self.free.pop_front()
    }

    fn vacant_group(&mut self) -> Option<(u32, u16)> {
        let fresh = self.groups;
        if u32::from(fresh) >= MAX_ECMP_GROUPS && self.free_groups.is_empty() {
            return None;
        }
        let id = self.vacant_id()?;
        if u32::from(fresh) < MAX_ECMP_GROUPS {
            self.groups += 1;
            return Some((id, fresh));
        }
        Some((id, self.free_groups.pop_front()?))
    }
}

impl Group {
    fn edit(&self) -> Edit {
        Edit::Ecmp {
            group: self.index,
            buckets: Box::new(self.buckets),
        }
    }
}

impl Key {
    /// The neighbour its entry follows.
    fn neighbour(&self) -> Option<(u32, IpAddr)> {
        match *self {
            Self::Gateway {
                ifindex, gateway, ..
            } => Some((ifindex, gateway)),
            Self::Host {
                ifindex, address, ..
            } => Some((ifindex, address)),
            Self::Link { .. } | Self::Group(_) | Self::Tunnel { .. } => None,
        }
    }

    fn ifindex(&self) -> Option<u32> {
        match *self {
            Self::Gateway { ifindex, .. } | Self::Link { ifindex } | Self::Host { ifindex, .. } => {
                Some(ifindex)
            }
            Self::Group(_) | Self::Tunnel { .. } => None,
        }
    }

    fn is_gateway(&self) -> bool {
        matches!(self, Self::Gateway { .. })
    }
}

impl EntryContext<'_> {
    /// The slot of the interface, if it is a port that can send.
    pub(super) fn port(&self, ifindex: u32) -> Option<(u8, &Link, Mac)> {
        let slot = *self.ports.get(&ifindex)?;
        let link = self.rib.link(ifindex)?;
        Some((slot, link, link.mac?))
    }

    /// What the entry of `key` says now; groups have theirs from the start.
    fn entry(&self, key: &Key) -> NextHop {
        match *key {
            Key::Gateway {
                ifindex,
                gateway,
                mtu_bytes,
            } => {
                let stated = self.gateways.stated(gateway);
                let speaks_xcast =
                    stated.unwrap_or_else(|| self.proven.contains(&(ifindex, gateway)));
                let flags = if speaks_xcast { NEXT_HOP_XCAST } else { 0 };
                self.forward(ifindex, gateway, mtu_bytes, flags)
            }
            Key::Host {
                ifindex,
                address,
                mtu_bytes,
            } => self.forward(ifindex, address, mtu_bytes, NEXT_HOP_ON_LINK),
            Key::Link { ifindex } if self.port(ifindex).is_some() => {
                self.stack(Counter::StackNoNeighbour, ifindex)
            }
            Key::Link { ifindex } => self.stack(Counter::StackNoPort, ifindex),
            Key::Group(_) => NextHop::stack(Counter::StackNoPort),
            Key::Tunnel { tunnel, .. } => self.tunnels.entry(tunnel, None),
        }
    }

    /// The kernel serves what is behind this interface.
    fn stack(&self, reason: Counter, ifindex: u32) -> NextHop {
        NextHop {
            egress: self.egress(ifindex),
            ..NextHop::stack(reason)
        }
    }

    /// The interface as [`NextHop::egress`] has it.
    fn egress(&self, ifindex: u32) -> u8 {
        match self.ports_of(ifindex) {
            0 => EGRESS_OTHER,
            port if port.is_power_of_two() => PORT_FIRST + port.trailing_zeros() as u8,
            // Only where there is no group left to tell them.
            _ => EGRESS_ANY,
        }
    }

    /// The ports by which packets arrive that belong to the interface: it is one, or on top of some.
    fn ports_of(&self, ifindex: u32) -> u64 {
        self.arrivals.get(&ifindex).copied().unwrap_or(0)
    }

    /// Whether there are several of them.
    pub(super) fn arrive_by_several(&self, ifindex: u32) -> bool {
        self.ports_of(ifindex).count_ones() > 1
    }

    /// The ports that members of a group leave by, usable or not: a source behind any of them is where it should be.
    fn egress_ports(&self, members: &[Member]) -> u64 {
        let ports = members.iter().map(|member| match &member.target {
            Target::Fixed(_) => u64::MAX,
            Target::Key(key) => key.ifindex().map_or(0, |ifindex| self.ports_of(ifindex)),
        });
        ports.fold(0, |all, ports| all | ports)
    }

    /// Packets are sent by this interface to this neighbour.
    pub(super) fn forward(
        &self,
        ifindex: u32,
        to: IpAddr,
        mtu_bytes: Option<u16>,
        flags: u8,
    ) -> NextHop {
        let Some((port, link, source_mac)) = self.port(ifindex) else {
            return self.stack(Counter::StackNoPort, ifindex);
        };
        let neighbour = self.rib.neighbour(ifindex, to);
        let Some(destination_mac) = neighbour.and_then(|neighbour| neighbour.resolved()) else {
            return self.stack(Counter::StackNoNeighbour, ifindex);
        };
        let link_mtu_bytes = u16::try_from(link.mtu_bytes).unwrap_or(u16::MAX);
        NextHop {
            kind: NextHopKind::Forward as u8,
            port,
            flags,
            mtu_bytes: mtu_bytes.map_or(link_mtu_bytes, |mtu| mtu.min(link_mtu_bytes)),
            destination_mac,
            source_mac,
            egress: self.egress(ifindex),
            ..NextHop::default()
        }
    }
}
