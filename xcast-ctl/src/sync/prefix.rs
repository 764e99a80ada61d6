//! A map from IPv4 prefixes, with longest-prefix match.

use std::{
    collections::{BTreeMap, btree_map},
    net::Ipv4Addr,
    ops::Bound,
};

use ipnet::Ipv4Net;

/// An ordered map from prefixes.
///
/// A balanced tree rather than a trie: a prefix of each length in use is looked up in turn, which is
/// a handful of steps in practice, takes a quarter of a trie's memory and keeps prefixes in the order
/// in which people want to read them.
#[derive(Clone, Debug)]
pub(super) struct PrefixMap<T> {
    entries: BTreeMap<Key, T>,
    /// How many prefixes of each length there are.
    lengths: [u32; 33],
}

/// A prefix as a single number, which compares several times faster: by address, then by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl From<Ipv4Net> for Key {
    fn from(prefix: Ipv4Net) -> Self {
        Self(u64::from(prefix.addr().to_bits()) << 8 | u64::from(prefix.prefix_len()))
    }
}

impl From<Key> for Ipv4Net {
    fn from(Key(key): Key) -> Self {
        Self::new_assert(Ipv4Addr::from_bits((key >> 8) as u32), key as u8)
    }
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: [0; 33],
        }
    }
}

impl<T> PrefixMap<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, prefix: Ipv4Net) -> Option<&T> {
        self.entries.get(&prefix.into())
    }

    pub(super) fn get_mut(&mut self, prefix: Ipv4Net) -> Option<&mut T> {
        self.entries.get_mut(&prefix.into())
    }

    pub(super) fn insert(&mut self, prefix: Ipv4Net, value: T) -> Option<T> {
        let old = self.entries.insert(prefix.into(), value);
        if old.is_none() {
            self.lengths[usize::from(prefix.prefix_len())] += 1;
        }
        old
    }

    pub(super) fn get_or_default(&mut self, prefix: Ipv4Net) -> &mut T
    where
        T: Default,
    {
        match self.entries.entry(prefix.into()) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => {
                self.lengths[usize::from(prefix.prefix_len())] += 1;
                entry.insert(T::default())
            }
        }
    }

    pub(super) fn remove(&mut self, prefix: Ipv4Net) -> Option<T> {
        let old = self.entries.remove(&prefix.into());
        if old.is_some() {
            self.lengths[usize::from(prefix.prefix_len())] -= 1;
        }
        old
    }

    /// All entries, in order of address and then of length.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ipv4Net, &T)> {
        self.entries.iter().map(|(&key, value)| (key.into(), value))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Ipv4Net, &mut T)> {
        let entries = self.entries.iter_mut();
        entries.map(|(&key, value)| (key.into(), value))
    }

    /// The prefixes more specific than `prefix`.
    pub(super) fn more_specific(&self, prefix: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
        let last = Ipv4Net::from(prefix.broadcast());
        let inside = (
            Bound::Excluded(Key::from(prefix)),
            Bound::Included(Key::from(last)),
        );
        self.entries.range(inside).map(|(&key, _)| key.into())
    }

    /// What the longest prefix that contains `prefix` maps to, among those that `pick` accepts.
    pub(super) fn longest<'a, R>(
        &'a self,
        prefix: Ipv4Net,
        mut pick: impl FnMut(&'a T) -> Option<R>,
    ) -> Option<(Ipv4Net, R)> {
        (0..=prefix.prefix_len()).rev().find_map(|prefix_len| {
            if self.lengths[usize::from(prefix_len)] == 0 {
                return None;
            }
            let candidate = truncated(prefix.addr(), prefix_len);
            let value = self.entries.get(&candidate.into())?;
            Some((candidate, pick(value)?))
        })
    }
}

/// The prefix of length `prefix_len`, at most 32, that contains `address`.
pub(super) fn truncated(address: Ipv4Addr, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, prefix_len).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
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
