//! A map from prefixes of both families, with longest-prefix match.

use std::{
    collections::{BTreeMap, btree_map},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An ordered map from prefixes, those of IPv4 first.
///
/// Balanced trees rather than tries: a prefix of each length in use is looked up in turn, which is
/// a handful of steps in practice, takes a quarter of a trie's memory and keeps prefixes in the order
/// in which people want to read them.
#[derive(Clone, Debug)]
pub(super) struct PrefixMap<T> {
    ipv4: Tree<Key4, T>,
    ipv6: Tree<Key6, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            ipv4: Tree::default(),
            ipv6: Tree::default(),
        }
    }
}

/// Does the same with the tree of a prefix's family.
macro_rules! of_family {
    ($self:ident, $prefix:ident, $tree:ident, $key:ident => $what:expr) => {
        match $prefix {
            IpNet::V4(prefix) => {
                let ($tree, $key) = (&$self.ipv4, Key4::from(prefix));
                $what
            }
            IpNet::V6(prefix) => {
                let ($tree, $key) = (&$self.ipv6, Key6::from(prefix));
                $what
            }
        }
    };
    ($self:ident, $prefix:ident, mut $tree:ident, $key:ident => $what:expr) => {
        match $prefix {
            IpNet::V4(prefix) => {
                let ($tree, $key) = (&mut $self.ipv4, Key4::from(prefix));
                $what
            }
            IpNet::V6(prefix) => {
                let ($tree, $key) = (&mut $self.ipv6, Key6::from(prefix));
                $what
            }
        }
    };
}

impl<T> PrefixMap<T> {
    pub(super) fn len(&self) -> usize {
        self.ipv4.entries.len() + self.ipv6.entries.len()
    }

    pub(super) fn get(&self, prefix: IpNet) -> Option<&T> {
        of_family!(self, prefix, tree, key => tree.entries.get(&key))
    }

    pub(super) fn get_mut(&mut self, prefix: IpNet) -> Option<&mut T> {
        of_family!(self, prefix, mut tree, key => tree.entries.get_mut(&key))
    }

    pub(super) fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        of_family!(self, prefix, mut tree, key => tree.insert(key, value))
    }

    pub(super) fn get_or_default(&mut self, prefix: IpNet) -> &mut T
    where
        T: Default,
    {
        of_family!(self, prefix, mut tree, key => tree.get_or_default(key))
    }

    pub(super) fn remove(&mut self, prefix: IpNet) -> Option<T> {
        of_family!(self, prefix, mut tree, key => tree.remove(key))
    }

    /// All entries, in order of address and then of length.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let ipv4 = self.ipv4.entries.iter();
        let ipv6 = self.ipv6.entries.iter();
        ipv4.map(|(&key, value)| (key.net(), value))
            .chain(ipv6.map(|(&key, value)| (key.net(), value)))
    }

    /// The same from behind a prefix on, of IPv6 (true), IPv4 (false), or both.
    pub(super) fn iter_after(
        &self,
        after: Option<IpNet>,
        ipv6: Option<bool>,
    ) -> impl Iterator<Item = (IpNet, &T)> {
        let (after4, after6) = match after {
            Some(IpNet::V4(prefix)) => (Some(Key4::from(prefix)), None),
            Some(IpNet::V6(prefix)) => (None, Some(Key6::from(prefix))),
            None => (None, None),
        };
        // Those of IPv4 come first.
        let wants4 = ipv6 != Some(true) && after6.is_none();
        let ipv4 = wants4.then(|| self.ipv4.after(after4));
        let ipv6 = (ipv6 != Some(false)).then(|| self.ipv6.after(after6));
        let ipv4 = ipv4.into_iter().flatten();
        ipv4.chain(ipv6.into_iter().flatten())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (IpNet, &mut T)> {
        let ipv4 = self.ipv4.entries.iter_mut();
        let ipv6 = self.ipv6.entries.iter_mut();
        ipv4.map(|(&key, value)| (key.net(), value))
            .chain(ipv6.map(|(&key, value)| (key.net(), value)))
    }

    /// The prefixes more specific than `prefix`.
    pub(super) fn more_specific(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let (ipv4, ipv6) = match prefix {
            IpNet::V4(prefix) => (Some(self.ipv4.more_specific(prefix.into())), None),
            IpNet::V6(prefix) => (None, Some(self.ipv6.more_specific(prefix.into()))),
        };
        ipv4.into_iter().flatten().chain(ipv6.into_iter().flatten())
    }

    /// What the longest prefix that contains `prefix` maps to, among those that `pick` accepts.
    pub(super) fn longest<'a, R>(
        &'a self,
        prefix: IpNet,
        pick: impl FnMut(&'a T) -> Option<R>,
    ) -> Option<(IpNet, R)> {
        of_family!(self, prefix, tree, key => tree.longest(key, pick))
    }
}

/// The prefixes of one family.
#[derive(Clone, Debug)]
struct Tree<K, T> {
    entries: BTreeMap<K, T>,
    /// How many prefixes of each length there are.
    lengths: [u32; 129],
}

impl<K, T> Default for Tree<K, T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: [0; 129],
        }
    }
}

/// A prefix as a number, which compares several times faster: by address, then by length.
trait Key: Copy + Ord {
    fn prefix_len(self) -> u8;

    /// The prefix of this length that contains it.
    fn truncated(self, prefix_len: u8) -> Self;

    /// The last prefix inside it, itself not counted: its last address.
    fn last(self) -> Self;

    fn net(self) -> IpNet;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key4(u64);

impl From<Ipv4Net> for Key4 {
    fn from(prefix: Ipv4Net) -> Self {
        Self(u64::from(prefix.addr().to_bits()) << 8 | u64::from(prefix.prefix_len()))
    }
}

impl Key4 {
    fn prefix(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from_bits((self.0 >> 8) as u32), self.0 as u8)
    }
}

impl Key for Key4 {
    fn prefix_len(self) -> u8 {
        self.0 as u8
    }

    fn truncated(self, prefix_len: u8) -> Self {
        Ipv4Net::new_assert(self.prefix().addr(), prefix_len)
            .trunc()
            .into()
    }

    fn last(self) -> Self {
        Ipv4Net::from(self.prefix().broadcast()).into()
    }

    fn net(self) -> IpNet {
        self.prefix().into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key6(u128, u8);

impl From<Ipv6Net> for Key6 {
    fn from(prefix: Ipv6Net) -> Self {
        Self(prefix.addr().to_bits(), prefix.prefix_len())
    }
}

impl Key6 {
    fn prefix(self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::from_bits(self.0), self.1)
    }
}

impl Key for Key6 {
    fn prefix_len(self) -> u8 {
        self.1
    }

    fn truncated(self, prefix_len: u8) -> Self {
        Ipv6Net::new_assert(self.prefix().addr(), prefix_len)
            .trunc()
            .into()
    }

    fn last(self) -> Self {
        Ipv6Net::from(self.prefix().broadcast()).into()
    }

    fn net(self) -> IpNet {
        self.prefix().into()
    }
}

impl<K: Key, T> Tree<K, T> {
    fn insert(&mut self, key: K, value: T) -> Option<T> {
        let old = self.entries.insert(key, value);
        if old.is_none() {
            self.lengths[usize::from(key.prefix_len())] += 1;
        }
        old
    }

    fn get_or_default(&mut self, key: K) -> &mut T
    where
        T: Default,
    {
        match self.entries.entry(key) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => {
                self.lengths[usize::from(key.prefix_len())] += 1;
                entry.insert(T::default())
            }
        }
    }

    fn remove(&mut self, key: K) -> Option<T> {
        let old = self.entries.remove(&key);
        if old.is_some() {
            self.lengths[usize::from(key.prefix_len())] -= 1;
        }
        old
    }

    fn after(&self, key: Option<K>) -> impl Iterator<Item = (IpNet, &T)> {
        let first = key.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries.range((first, Bound::Unbounded));
        entries.map(|(&key, value)| (key.net(), value))
    }

    fn more_specific(&self, key: K) -> impl Iterator<Item = IpNet> {
        let inside = (Bound::Excluded(key), Bound::Included(key.last()));
        // A host has nothing inside; such a range would be refused.
        let entries = (key < key.last()).then(|| self.entries.range(inside));
        entries.into_iter().flatten().map(|(&key, _)| key.net())
    }

    fn longest<'a, R>(
        &'a self,
        key: K,
        mut pick: impl FnMut(&'a T) -> Option<R>,
    ) -> Option<(IpNet, R)> {
        (0..=key.prefix_len()).rev().find_map(|prefix_len| {
            if self.lengths[usize::from(prefix_len)] == 0 {
                return None;
            }
            let candidate = key.truncated(prefix_len);
            let value = self.entries.get(&candidate)?;
            Some((candidate.net(), pick(value)?))
        })
    }
}

/// The prefix of an address alone.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn longest_match_passes_over_what_is_not_picked() {
        let mut map = PrefixMap::default();
        for (prefix, value) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 8), ("10.1.0.0/16", 16)] {
            map.insert(net(prefix), value);
        }
        let at = |address, limit| {
            map.longest(net(address), |&v| (v <= limit).then_some(v))
                .map(|(_, value)| value)
        };
        assert_eq!(at("10.1.2.3/32", 32), Some(16));
        assert_eq!(at("10.1.2.3/32", 8), Some(8));
        assert_eq!(at("10.1.0.0/12", 32), Some(8));
        assert_eq!(at("11.0.0.0/32", 32), Some(0));
        assert_eq!(at("11.0.0.0/32", -1), None);
    }

    #[test]
    fn pages_go_on_behind_a_prefix() {
        let mut map = PrefixMap::default();
        let all = [
            "10.0.0.0/8",
            "10.0.0.0/9",
            "11.0.0.0/8",
            "::/0",
            "2001:db8::/32",
        ]
        .map(net);
        for prefix in all {
            map.insert(prefix, ());
        }
        let after = |after: Option<&str>, ipv6| {
            let rows = map.iter_after(after.map(net), ipv6);
            rows.map(|(prefix, &())| prefix).collect::<Vec<_>>()
        };
        assert_eq!(after(None, None), all);
        assert_eq!(after(None, Some(false)), all[..3]);
        assert_eq!(after(None, Some(true)), all[3..]);
        assert_eq!(after(Some("10.0.0.0/8"), None), all[1..]);
        // It may have gone by now.
        assert_eq!(after(Some("10.64.0.0/10"), None), all[2..]);
        assert_eq!(after(Some("11.0.0.0/8"), Some(false)), []);
        assert_eq!(after(Some("::/0"), None), all[4..]);
    }

    #[test]
    fn more_specific_prefixes_are_those_inside() {
        let mut map = PrefixMap::default();
        for prefix in [
            "10.0.0.0/7",
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.255.255.255/32",
            "11.0.0.0/8",
        ] {
            map.insert(net(prefix), ());
        }
        let inside: Vec<_> = map.more_specific(net("10.0.0.0/8")).collect();
        assert_eq!(inside, [net("10.0.0.0/9"), net("10.255.255.255/32")]);
        assert_eq!(map.more_specific(net("10.255.255.255/32")).count(), 0);
        let all = map.more_specific(net("0.0.0.0/0")).count();
        assert_eq!(all, 5);
    }
}
