//! What the programs look up to decide about a packet.

use std::{net::IpAddr, os::fd::AsFd as _, sync::atomic::Ordering};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use ipnet::IpNet;
use xcast_common::{
    maps::{
        COOKIE_KEYS, CookieKey, EcmpGroup, MAX_NEXT_HOPS, NEXT_HOP_STACK_MTU,
        NEXT_HOP_STACK_ORPHAN, NEXT_HOP_STACK_ROOM, NextHop, NextHopKind, PORT_STACK, PeerSource,
        PortSource, counter::Counter, lpm,
    },
    wire::{Be32, Be128, address::Address},
};

use super::{
    error::{DatapathError, ignore_missing, map},
    mapping::Mapping,
    object::{map_fd, typed},
    revised::Revised,
    routes::{Maps, RouteMap},
    veth::Macs,
};

/// Routes, next hops, addresses and permitted sources.
pub(super) struct TableMaps {
    planned_from: Revised<PlanMaps>,
    /// `USED`.
    used: Mapping,
    addresses: BpfHashMap<MapData, Be32, u32>,
    addresses6: BpfHashMap<MapData, Be128, u32>,
    udp_sources: LpmTrie<MapData, PeerSource<Be32>, u32>,
    udp_sources6: LpmTrie<MapData, PeerSource<Be128>, u32>,
    port_sources: LpmTrie<MapData, PortSource<Be32>, u32>,
    port_sources6: LpmTrie<MapData, PortSource<Be128>, u32>,
    policy_sources: LpmTrie<MapData, Be32, u32>,
    policy_sources6: LpmTrie<MapData, Be128, u32>,
    cookie_keys: Array<MapData, CookieKey>,
    stack_macs: Macs,
}

/// What plans are made from. The other maps are asked about every packet.
struct PlanMaps {
    routes: RouteMap,
    routes6: RouteMap,
    next_hops: Array<MapData, NextHop>,
    ecmp_groups: Array<MapData, EcmpGroup>,
}

impl TableMaps {
    /// Takes over the programs' maps; `stack_macs` go onto copies for the kernel stack.
    pub(super) fn open(ebpf: &mut Ebpf, stack_macs: Macs) -> Result<Self, DatapathError> {
        let revision = Mapping::new(map_fd(ebpf, "REVISION")?.as_fd(), 1).map_err(|source| {
            DatapathError::System {
                what: "cannot map the tables' revision",
                source,
            }
        })?;
        let next_hops = MAX_NEXT_HOPS as usize;
        let used = Mapping::new(map_fd(ebpf, "USED")?.as_fd(), next_hops).map_err(|source| {
            DatapathError::System {
                what: "cannot map what next hops are used",
                source,
            }
        })?;
        let maps = PlanMaps {
            routes: route_map::<Be32>(ebpf, "ROUTE_ROOT", "ROUTE_SEGMENTS", "ROUTE_BLOCKS")?,
            routes6: route_map::<Be128>(ebpf, "ROUTE_ROOT6", "ROUTE_SEGMENTS6", "ROUTE_BLOCKS6")?,
            next_hops: typed(ebpf, "NEXT_HOPS")?,
            ecmp_groups: typed(ebpf, "ECMP_GROUPS")?,
        };
        let mut tables = Self {
            planned_from: Revised::new(maps, revision),
            used,
            addresses: typed(ebpf, "ADDRESSES")?,
            addresses6: typed(ebpf, "ADDRESSES6")?,
            udp_sources: typed(ebpf, "UDP_SOURCES")?,
            udp_sources6: typed(ebpf, "UDP_SOURCES6")?,
            port_sources: typed(ebpf, "PORT_SOURCES")?,
            port_sources6: typed(ebpf, "PORT_SOURCES6")?,
            policy_sources: typed(ebpf, "POLICY_SOURCES")?,
            policy_sources6: typed(ebpf, "POLICY_SOURCES6")?,
            cookie_keys: typed(ebpf, "COOKIE_KEYS")?,
            stack_macs,
        };
        tables.set_next_hop(NEXT_HOP_STACK_MTU, NextHop::stack(Counter::StackMtu))?;
        tables.set_next_hop(NEXT_HOP_STACK_ROOM, NextHop::stack(Counter::StackNoRoom))?;
        tables.set_next_hop(NEXT_HOP_STACK_ORPHAN, NextHop::stack(Counter::StackOrphan))?;
        Ok(tables)
    }

    /// Writes a next-hop entry.
    pub(super) fn set_next_hop(
        &mut self,
        id: u32,
        mut entry: NextHop,
    ) -> Result<(), DatapathError> {
        if entry.kind == NextHopKind::Stack as u8 {
            entry.port = PORT_STACK;
            entry.destination_mac = self.stack_macs.destination;
            entry.source_mac = self.stack_macs.source;
        }
        self.planned_from
            .change(|maps| maps.next_hops.set(id, entry, 0))
            .map_err(map("NEXT_HOPS"))
    }

    /// Writes an ECMP group.
    pub(super) fn set_ecmp(&mut self, group: u16, entry: &EcmpGroup) -> Result<(), DatapathError> {
        self.planned_from
            .change(|maps| maps.ecmp_groups.set(u32::from(group), *entry, 0))
            .map_err(map("ECMP_GROUPS"))
    }

    /// Adds or changes a route; `None` as the next hop removes it.
    pub(super) fn set_route(
        &mut self,
        prefix: IpNet,
        next_hop: Option<u32>,
    ) -> Result<(), DatapathError> {
        self.planned_from
            .change(|maps| match prefix {
                IpNet::V4(_) => maps.routes.set(prefix, next_hop),
                IpNet::V6(_) => maps.routes6.set(prefix, next_hop),
            })
            .map_err(DatapathError::Routes)
    }

    /// The ids of next hops that packets used since this was last asked.
    ///
    /// The programs note the use of a next hop when they make a plan. No plan lasts beyond this call if there was
    /// any use, so traffic that goes on is noted again.
    pub(super) fn take_used(&mut self) -> Vec<u32> {
        let mut used = Vec::new();
        for (id, word) in (0..).zip(self.used.words()) {
            // Other words stay unwritten, so they stay in the caches of whoever reads them.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
                used.push(id);
            }
        }
        if !used.is_empty() {
            self.planned_from.change(|_| ());
        }
        used
    }

    /// Whether an address goes to the stack because its route map is full.
    pub(super) fn lacks_room(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.planned_from.routes.lacks_room(address),
            IpAddr::V6(_) => self.planned_from.routes6.lacks_room(address),
        }
    }

    /// Makes sure that the programs see all routes as they were set.
    pub(super) fn publish_routes(&mut self) -> Result<(), DatapathError> {
        let published = self
            .planned_from
            .change(|maps| [maps.routes.publish(), maps.routes6.publish()]);
        published
            .into_iter()
            .collect::<std::io::Result<()>>()
            .map_err(|source| DatapathError::System {
                what: "cannot put a segment into a route map",
                source,
            })
    }

    /// Memory the route maps share with the programs, in octets.
    pub(super) fn route_bytes(&self) -> usize {
        self.planned_from.routes.shared_bytes() + self.planned_from.routes6.shared_bytes()
    }

    /// Adds or changes an own or anycast address: `None` as the flags removes it.
    pub(super) fn set_address(
        &mut self,
        address: IpAddr,
        flags: Option<u32>,
    ) -> Result<(), DatapathError> {
        match address {
            IpAddr::V4(address) => {
                set_flags(&mut self.addresses, Be32::from(address), flags).map_err(map("ADDRESSES"))
            }
            IpAddr::V6(address) => set_flags(&mut self.addresses6, Be128::from(address), flags)
                .map_err(map("ADDRESSES6")),
        }
    }

    /// Lets a peer send packets with these sources inside UDP, besides packets of its own.
    pub(super) fn allow_source(
        &mut self,
        peer: IpAddr,
        sources: IpNet,
    ) -> Result<(), DatapathError> {
        let len = sources.prefix_len();
        match (peer, sources.network()) {
            (IpAddr::V4(peer), IpAddr::V4(source)) => {
                let key = source_key(Be32::from(peer), Be32::from(source), len);
                self.udp_sources
                    .insert(&key, 1, 0)
                    .map_err(map("UDP_SOURCES"))
            }
            (IpAddr::V6(peer), IpAddr::V6(source)) => {
                let key = source_key(Be128::from(peer), Be128::from(source), len);
                self.udp_sources6
                    .insert(&key, 1, 0)
                    .map_err(map("UDP_SOURCES6"))
            }
            _ => Ok(()),
        }
    }

    /// Lists sources for the port with this slot.
    pub(super) fn allow_on_port(&mut self, slot: u8, sources: IpNet) -> Result<(), DatapathError> {
        let (slot, len) = (u32::from(slot), u32::from(sources.prefix_len()));
        match sources.network() {
            IpAddr::V4(source) => {
                let source = Be32::from(source);
                let key = Key::new(
                    PortSource::<Be32>::SLOT_BITS + len,
                    PortSource { slot, source },
                );
                self.port_sources
                    .insert(&key, 1, 0)
                    .map_err(map("PORT_SOURCES"))
            }
            IpAddr::V6(source) => {
                let source = Be128::from(source);
                let key = Key::new(
                    PortSource::<Be128>::SLOT_BITS + len,
                    PortSource { slot, source },
                );
                self.port_sources6
                    .insert(&key, 1, 0)
                    .map_err(map("PORT_SOURCES6"))
            }
        }
    }

    /// Writes the keys of cookies, in the order of their places.
    pub(super) fn set_cookie_keys(
        &mut self,
        keys: &[CookieKey; COOKIE_KEYS],
    ) -> Result<(), DatapathError> {
        for (place, key) in (0..).zip(keys) {
            self.cookie_keys
                .set(place, key, 0)
                .map_err(map("COOKIE_KEYS"))?;
        }
        Ok(())
    }

    /// Adds or removes sources that policy rules decide about.
    pub(super) fn set_policy_source(
        &mut self,
        sources: IpNet,
        is_there: bool,
    ) -> Result<(), DatapathError> {
        let len = u32::from(sources.prefix_len());
        match sources.network() {
            IpAddr::V4(source) => {
                let key = Key::new(len, Be32::from(source));
                set_member(&mut self.policy_sources, &key, is_there).map_err(map("POLICY_SOURCES"))
            }
            IpAddr::V6(source) => {
                let key = Key::new(len, Be128::from(source));
                set_member(&mut self.policy_sources6, &key, is_there)
                    .map_err(map("POLICY_SOURCES6"))
            }
        }
    }
}

/// Adds a key, or removes it if it is there.
fn set_member<K: aya::Pod>(
    map: &mut LpmTrie<MapData, K, u32>,
    key: &Key<K>,
    is_there: bool,
) -> Result<(), MapError> {
    if is_there {
        return map.insert(key, 1, 0);
    }
    match map.remove(key) {
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

/// The route map that lies in these maps.
fn route_map<A: lpm::Key>(
    ebpf: &Ebpf,
    root: &'static str,
    segments: &'static str,
    blocks: &'static str,
) -> Result<RouteMap, DatapathError> {
    let root = map_fd(ebpf, root)?;
    let maps = Maps {
        root: root.as_fd(),
        segments: map_fd(ebpf, segments)?,
        blocks: map_fd(ebpf, blocks)?,
    };
    RouteMap::new(maps, A::ROOT_BITS).map_err(|source| DatapathError::System {
        what: "cannot map a route map",
        source,
    })
}

fn source_key<A: Address>(peer: A, source: A, prefix_len: u8) -> Key<PeerSource<A>>
where
    PeerSource<A>: aya::Pod,
{
    let bits = PeerSource::<A>::PEER_BITS + u32::from(prefix_len);
    Key::new(bits, PeerSource { peer, source })
}

fn set_flags<A: aya::Pod>(
    addresses: &mut BpfHashMap<MapData, A, u32>,
    address: A,
    flags: Option<u32>,
) -> Result<(), MapError> {
    match flags {
        Some(flags) => addresses.insert(address, flags, 0),
        None => ignore_missing(addresses.remove(&address)),
    }
}
