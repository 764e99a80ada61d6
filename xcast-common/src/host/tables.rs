//! A router's tables in memory.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use crate::{
    family::traits::Family,
    forward::tables::{Tables, TunnelPeers, UdpSenders},
    maps::{
        cookie::{COOKIE_KEYS, CookieKey, words},
        next_hop::{EcmpGroup, NEXT_HOP_NO_ROUTE, NextHop},
        tunnel::{Tunnel, TunnelCookies, TunnelPeer},
    },
};

/// Routes, next hops, ECMP groups, own addresses, and who may send inside UDP: of both families, with the ids
/// and the meaning that the kernel's maps have.
///
/// Every change raises the [`revision`](Self::revision), so no plan outlives what it was made from. Iteration is in
/// ascending order.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// What [`Tables::revision`] answers: raised by two with every change, and odd while a change is under way.
    pub revision: u32,
    routes: Prefixes<u32>,
    next_hops: BTreeMap<u32, NextHop>,
    groups: BTreeMap<u16, EcmpGroup>,
    addresses: BTreeMap<IpAddr, u32>,
    senders: BTreeMap<IpAddr, Prefixes<()>>,
    sources: BTreeMap<u8, Prefixes<()>>,
    tunnels: BTreeMap<u16, Tunnel>,
    peers: HashMap<TunnelPeer, TunnelCookies>,
    cookie_keys: [CookieKey; COOKIE_KEYS],
}

impl MemoryTables {
    /// Sets or, with `None`, removes the route of a prefix; host bits of `address` do not count.
    pub fn set_route(&mut self, address: IpAddr, prefix_len: u8, next_hop: Option<u32>) {
        self.routes.set(address, prefix_len, next_hop);
        self.revise();
    }

    /// Sets the next hop with this id.
    pub fn set_next_hop(&mut self, id: u32, entry: NextHop) {
        self.next_hops.insert(id, entry);
        self.revise();
    }

    /// Sets an ECMP group: next-hop ids by bucket.
    pub fn set_ecmp(&mut self, group: u16, buckets: EcmpGroup) {
        self.groups.insert(group, buckets);
        self.revise();
    }

    /// Sets the flags of one of the router's own addresses ([`ADDRESS_OWN`](crate::maps::ADDRESS_OWN),
    /// [`ADDRESS_ANYCAST`](crate::maps::ADDRESS_ANYCAST)); 0 for anyone else's.
    pub fn set_address(&mut self, address: IpAddr, flags: u32) {
        self.addresses.insert(address, flags);
    }

    /// Lets `peer` send packets inside UDP whose source is in a prefix.
    pub fn allow_source(&mut self, peer: IpAddr, source: IpAddr, prefix_len: u8) {
        let prefixes = self.senders.entry(peer).or_default();
        prefixes.set(source, prefix_len, Some(()));
    }

    /// Lists sources in a prefix for the port with this slot.
    pub fn allow_on_port(&mut self, slot: u8, source: IpAddr, prefix_len: u8) {
        let prefixes = self.sources.entry(slot).or_default();
        prefixes.set(source, prefix_len, Some(()));
    }

    /// Sets the outer headers that next hops with this [tunnel](NextHop::group_or_tunnel) have.
    pub fn set_tunnel(&mut self, index: u16, tunnel: Tunnel) {
        self.tunnels.insert(index, tunnel);
        self.revise();
    }

    /// Sets the cookies of what arrives by a tunnel.
    pub fn set_tunnel_peer(&mut self, peer: TunnelPeer, cookies: TunnelCookies) {
        self.peers.insert(peer, cookies);
    }

    /// The outer headers of a tunnel.
    pub fn tunnel(&self, index: u16) -> Option<&Tunnel> {
        self.tunnels.get(&index)
    }

    /// Sets the key of an epoch, instead of what is at its [place](CookieKey::place).
    pub fn set_cookie_key(&mut self, key: CookieKey) {
        self.cookie_keys[CookieKey::place(key.epoch) as usize] = key;
    }

    /// Next-hop id of the longest prefix that matches; [`NEXT_HOP_NO_ROUTE`] if none does.
    pub fn route(&self, address: IpAddr) -> u32 {
        self.routes
            .longest(address)
            .copied()
            .unwrap_or(NEXT_HOP_NO_ROUTE)
    }

    /// The next hop with this id.
    pub fn next_hop(&self, id: u32) -> Option<&NextHop> {
        self.next_hops.get(&id)
    }

    /// All next hops, by id.
    pub fn next_hops(&self) -> impl Iterator<Item = (u32, &NextHop)> {
        self.next_hops.iter().map(|(id, entry)| (*id, entry))
    }

    /// All routes: prefix, its length, and next-hop id.
    pub fn routes(&self) -> impl Iterator<Item = (IpAddr, u8, u32)> {
        self.routes
            .iter()
            .map(|(address, len, id)| (address, len, *id))
    }

    /// The router's own addresses and their flags.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.addresses
            .iter()
            .map(|(address, flags)| (*address, *flags))
    }

    fn revise(&mut self) {
        self.revision = self.revision.wrapping_add(2);
    }
}

impl<F: Family> Tables<F> for MemoryTables {
    fn route(&self, address: F::Address) -> u32 {
        self.route(address.into())
    }

    fn revision(&self) -> u32 {
        self.revision
    }

    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        self.next_hop(id)
    }

    fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32> {
        let group = self.groups.get(&group)?;
        group.buckets.get(bucket as usize).copied()
    }

    fn address_flags(&self, address: F::Address) -> u32 {
        self.addresses.get(&address.into()).copied().unwrap_or(0)
    }

    fn may_arrive(&self, slot: u8, source: F::Address) -> bool {
        let prefixes = self.sources.get(&slot);
        prefixes.is_some_and(|prefixes| prefixes.longest(source.into()).is_some())
    }
}

impl TunnelPeers for MemoryTables {
    fn tunnel_cookies(&self, peer: &TunnelPeer) -> Option<TunnelCookies> {
        self.peers.get(peer).copied()
    }
}

impl<F: Family> UdpSenders<F> for MemoryTables {
    fn may_send(&self, peer: F::Address, source: F::Address) -> bool {
        let prefixes = self.senders.get(&peer.into());
        prefixes.is_some_and(|prefixes| prefixes.longest(source.into()).is_some())
    }

    fn is_cookie(&self, source: F::Address, bound: u64, hash: u64) -> bool {
        let epoch = bound as u32;
        let key = &self.cookie_keys[CookieKey::place(epoch) as usize];
        let [high, low] = words(source);
        epoch != 0 && key.epoch == epoch && key.hash_of(high, low, bound) == hash
    }
}

/// Values by prefix, of both families: by length, and by the address without its host bits.
#[derive(Clone, Debug)]
struct Prefixes<T> {
    by_len: BTreeMap<u8, BTreeMap<IpAddr, T>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            by_len: BTreeMap::new(),
        }
    }
}

impl<T> Prefixes<T> {
    fn set(&mut self, address: IpAddr, len: u8, value: Option<T>) {
        let prefix = masked(address, len);
        let prefixes = self.by_len.entry(len).or_default();
        match value {
            Some(value) => drop(prefixes.insert(prefix, value)),
            None => drop(prefixes.remove(&prefix)),
        }
        if prefixes.is_empty() {
            self.by_len.remove(&len);
        }
    }

    /// The value of the longest prefix that an address is in.
    fn longest(&self, address: IpAddr) -> Option<&T> {
        let mut longest_first = self.by_len.iter().rev();
        longest_first.find_map(|(len, prefixes)| prefixes.get(&masked(address, *len)))
    }

    fn iter(&self) -> impl Iterator<Item = (IpAddr, u8, &T)> {
        let by_len = self.by_len.iter();
        by_len.flat_map(|(len, prefixes)| {
            prefixes
                .iter()
                .map(|(prefix, value)| (*prefix, *len, value))
        })
    }
}

/// An address without the bits behind the first `len`.
fn masked(address: IpAddr, len: u8) -> IpAddr {
    let host_bits = |bits: u32| bits.saturating_sub(len.into());
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host_bits(u32::BITS)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host_bits(u128::BITS)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_prefix_of_the_right_family_wins() {
        let mut tables = MemoryTables::default();
        tables.set_route(ip("0.0.0.0"), 0, Some(16));
        tables.set_route(ip("10.1.2.3"), 8, Some(17));
        tables.set_route(ip("10.1.2.3"), 32, Some(18));
        tables.set_route(ip("a01:203::"), 32, Some(19));
        assert_eq!(tables.route(ip("9.9.9.9")), 16);
        assert_eq!(tables.route(ip("10.1.2.4")), 17);
        assert_eq!(tables.route(ip("10.1.2.3")), 18);
        assert_eq!(tables.route(ip("a01:203::1")), 19);
        assert_eq!(tables.route(ip("::1")), NEXT_HOP_NO_ROUTE);
        let before = tables.revision;
        tables.set_route(ip("10.255.0.0"), 8, None);
        assert_eq!(tables.route(ip("10.1.2.4")), 16);
        assert!(tables.revision != before && tables.revision.is_multiple_of(2));
        assert!(tables.routes().eq([
            (ip("0.0.0.0"), 0, 16),
            (ip("10.1.2.3"), 32, 18),
            (ip("a01:203::"), 32, 19),
        ]));
    }
}
