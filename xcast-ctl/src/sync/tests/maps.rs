//! The datapath's maps, for tests: carries edits out and complains about unsafe ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use xcast_common::maps::{
    EcmpGroup, NEXT_HOP_NO_ROUTE, NextHop, NextHopKind,
    counter::{self, Counter},
};

use super::{Edit, KernelEvent, RouteSync, SyncConfig, ip};
use xcast_overlay::backbone::tunnels::Carriage;

/// Route synchronisation with maps at its end.
pub(super) struct Router {
    pub(super) sync: RouteSync,
    pub(super) maps: Maps,
    /// The edits of the last step.
    pub(super) edits: Vec<Edit>,
}

/// The datapath's maps.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) next_hops: BTreeMap<u32, NextHop>,
    pub(super) groups: BTreeMap<u16, EcmpGroup>,
    pub(super) routes: BTreeMap<IpNet, u32>,
    pub(super) own_addresses: BTreeMap<IpAddr, u32>,
    pub(super) resolving: BTreeSet<(u32, IpAddr)>,
    pub(super) policy_sources: HashSet<IpNet>,
}

/// What becomes of packets to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Forward {
        port: u8,
        flags: u8,
        mtu_bytes: u16,
        destination_mac: [u8; 6],
        source_mac: [u8; 6],
    },
    Stack(&'static str),
    Skip(&'static str),
    /// One of several; with the number of buckets of each.
    Ecmp(BTreeMap<Self, usize>),
}

impl Fate {
    pub(super) fn stack(reason: Counter) -> Self {
        Self::Stack(reason.name())
    }

    pub(super) fn skip(reason: Counter) -> Self {
        Self::Skip(reason.name())
    }
}

impl Router {
    pub(super) fn new(config: SyncConfig) -> Self {
        Self {
            sync: RouteSync::new(config),
            maps: Maps::default(),
            edits: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, events: impl IntoIterator<Item = KernelEvent>) -> &mut Self {
        self.step(|sync, edits| sync.apply_all(events, edits))
    }

    pub(super) fn attach(&mut self, ifindex: u32, slot: u8) -> &mut Self {
        self.step(|sync, edits| sync.attach_port(ifindex, slot, edits))
    }

    pub(super) fn arrive(&mut self, ifindex: u32, arrival: Option<(u8, Vec<u32>)>) -> &mut Self {
        self.step(|sync, edits| sync.set_arrival(ifindex, arrival, edits))
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> &mut Self {
        self.step(|sync, edits| sync.detach_port(ifindex, edits))
    }

    pub(super) fn carry(&mut self, tunnel: usize, carriage: Carriage) -> &mut Self {
        self.step(|sync, edits| sync.set_carriage(tunnel, carriage, edits))
    }

    pub(super) fn prove(&mut self, gateway: (u32, IpAddr), proven: bool) -> &mut Self {
        self.step(|sync, edits| sync.set_proven(gateway, proven, edits))
    }

    pub(super) fn fate(&self, address: &str) -> Fate {
        self.maps.fate(ip(address))
    }

    fn step(&mut self, step: impl FnOnce(&mut RouteSync, &mut Vec<Edit>)) -> &mut Self {
        self.edits.clear();
        step(&mut self.sync, &mut self.edits);
        for edit in &self.edits {
            self.maps.carry_out(edit);
        }
        self
    }
}

impl Maps {
    fn carry_out(&mut self, edit: &Edit) {
        match edit {
            Edit::NextHop { id, entry } => {
                if entry.kind == NextHopKind::Ecmp as u8 {
                    assert!(self.groups.contains_key(&entry.group_or_tunnel), "{edit:?}");
                }
                self.next_hops.insert(*id, *entry);
            }
            Edit::Ecmp { group, buckets } => {
                for id in buckets.buckets {
                    let kind = self.next_hops[&id].kind;
                    assert_ne!(kind, NextHopKind::Ecmp as u8, "{edit:?}");
                }
                self.groups.insert(*group, **buckets);
            }
            Edit::Route { prefix, next_hop } => {
                assert!(self.next_hops.contains_key(next_hop), "{edit:?}");
                let old = self.routes.insert(*prefix, *next_hop);
                assert_ne!(old, Some(*next_hop), "needless {edit:?}");
            }
            Edit::RemoveRoute { prefix } => {
                assert!(self.routes.remove(prefix).is_some(), "needless {edit:?}");
            }
            Edit::OwnAddress { address, flags } => {
                let old = self.own_addresses.insert(*address, *flags);
                assert_ne!(old, Some(*flags), "needless {edit:?}");
            }
            Edit::RemoveOwnAddress { address } => {
                assert!(self.own_addresses.remove(address).is_some(), "{edit:?}");
            }
            Edit::PolicySource { source, is_there } => {
                let changed = if *is_there {
                    self.policy_sources.insert(*source)
                } else {
                    self.policy_sources.remove(source)
                };
                assert!(changed, "needless {edit:?}");
            }
            Edit::Resolve { ifindex, gateway } => {
                self.resolving.insert((*ifindex, *gateway));
            }
            Edit::Use { .. } | Edit::Tunnel { .. } | Edit::ResolveRemote { .. } => {}
            Edit::Release { ifindex, gateway } => {
                assert!(self.resolving.remove(&(*ifindex, *gateway)), "{edit:?}");
            }
        }
    }

    /// The next-hop id of an address.
    pub(super) fn lookup(&self, address: IpAddr) -> u32 {
        let host = IpNet::from(address);
        let containing = (0..=host.max_prefix_len())
            .rev()
            .map(|len| IpNet::new_assert(address, len).trunc());
        let mut ids = containing.filter_map(|prefix| self.routes.get(&prefix));
        ids.next().copied().unwrap_or(NEXT_HOP_NO_ROUTE)
    }

    pub(super) fn fate(&self, address: IpAddr) -> Fate {
        self.fate_of(self.lookup(address))
    }

    fn fate_of(&self, id: u32) -> Fate {
        let entry = self.next_hops[&id];
        let reason = counter::NAMES[usize::from(entry.reason)];
        match entry.kind {
            kind if kind == NextHopKind::Forward as u8 => Fate::Forward {
                port: entry.port,
                flags: entry.flags,
                mtu_bytes: entry.mtu_bytes,
                destination_mac: entry.destination_mac,
                source_mac: entry.source_mac,
            },
            kind if kind == NextHopKind::Stack as u8 => Fate::Stack(reason),
            kind if kind == NextHopKind::Skip as u8 => Fate::Skip(reason),
            kind if kind == NextHopKind::Ecmp as u8 => {
                let mut members = BTreeMap::new();
                for id in self.groups[&entry.group_or_tunnel].buckets {
                    *members.entry(self.fate_of(id)).or_default() += 1;
                }
                Fate::Ecmp(members)
            }
            kind => panic!("next hop {id} has kind {kind}"),
        }
    }
}
