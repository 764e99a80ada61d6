//! What a node stores: entries of several publishers under each key.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{entry::Entry, keys::Keys};
use crate::id::Id;

/// Bounds of a [`Shelf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShelfConfig {
    /// Most entries of one publisher under one key: who has many services leaves room for others.
    pub max_per_publisher_and_key: usize,
    /// Most entries of one publisher under all keys.
    pub max_per_publisher: usize,
    /// Most entries under one key.
    pub max_per_key: usize,
    /// Most entries.
    pub max_entries: usize,
    /// Longest life of an entry from now on, in seconds. A publisher refreshes what is to live
    /// longer.
    pub max_life_s: i64,
}

impl Default for ShelfConfig {
    fn default() -> Self {
        Self {
            max_per_publisher_and_key: 8,
            max_per_publisher: 256,
            max_per_key: 1000,
            max_entries: 20_000,
            max_life_s: 2 * 3600,
        }
    }
}

/// Why an entry is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShelfError {
    /// It does not belong under this key.
    #[error("entry has nothing to do with this key")]
    WrongKey,
    /// It has expired, or would live too long.
    #[error("entry has expired, or would expire after {0} seconds, the most that is stored")]
    Life(i64),
    /// A newer one of the same name is stored.
    #[error("entry is older than the stored one, whose seq is {0}")]
    Old(i64),
    /// Its publisher has enough.
    #[error("publisher has {0} entries, the most that it may have here")]
    Quota(usize),
    /// There is no room.
    #[error("there is no room under this key, or on this node")]
    Full,
}

/// Part of what is stored under a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Entries, in the order of publishers and names.
    pub entries: Vec<Entry>,
    /// Where to go on, if there is more.
    pub next: Option<(Id, Id)>,
}

/// Entries under keys.
#[derive(Clone, Debug)]
pub struct Shelf {
    config: ShelfConfig,
    /// By publisher and name.
    keys: BTreeMap<Id, BTreeMap<(Id, Id), Entry>>,
    by_publisher: BTreeMap<Id, usize>,
    entries: usize,
}

impl Shelf {
    /// An empty one.
    pub fn new(config: ShelfConfig) -> Self {
        Self {
            config,
            keys: BTreeMap::new(),
            by_publisher: BTreeMap::new(),
            entries: 0,
        }
    }

    /// Number of entries, each counted under each key.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Number of entries under a key.
    pub fn count(&self, key: Id) -> usize {
        self.keys.get(&key).map_or(0, BTreeMap::len)
    }

    /// Stores an entry under one of its keys.
    ///
    /// # Errors
    ///
    /// Why it is not stored.
    pub fn put(&mut self, now_unix_s: i64, key: Id, entry: Entry) -> Result<(), ShelfError> {
        let config = self.config;
        let life = entry.expires_unix_s.saturating_sub(now_unix_s);
        if !(1..=config.max_life_s).contains(&life) {
            return Err(ShelfError::Life(config.max_life_s));
        }
        if !Keys::of(&entry.service).keys.contains(&key) {
            return Err(ShelfError::WrongKey);
        }
        let name = (entry.publisher(), entry.name());
        let under_key = self.keys.get(&key);
        if let Some(known) = under_key.and_then(|entries| entries.get(&name)) {
            if known.seq > entry.seq {
                return Err(ShelfError::Old(known.seq));
            }
        } else {
            let of_publisher = |entries: &BTreeMap<(Id, Id), Entry>| {
                let all = (name.0, Id::default())..=(name.0, Id::new([0xff; Id::OCTETS]));
                entries.range(all).count()
            };
            let here = under_key.map_or(0, of_publisher);
            let everywhere = self.by_publisher.get(&name.0).copied().unwrap_or(0);
            if here >= config.max_per_publisher_and_key {
                return Err(ShelfError::Quota(here));
            }
            if everywhere >= config.max_per_publisher {
                return Err(ShelfError::Quota(everywhere));
            }
            if under_key.map_or(0, BTreeMap::len) >= config.max_per_key
                || self.entries >= config.max_entries
            {
                return Err(ShelfError::Full);
            }
            *self.by_publisher.entry(name.0).or_default() += 1;
            self.entries += 1;
        }
        self.keys.entry(key).or_default().insert(name, entry);
        Ok(())
    }

    /// What is stored under a key, after `after`, up to so many octets: at least one entry, if there
    /// is one.
    pub fn page(
        &self,
        now_unix_s: i64,
        key: Id,
        after: Option<(Id, Id)>,
        max_octets: usize,
    ) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut page = Page {
            entries: Vec::new(),
            next: None,
        };
        let Some(entries) = self.keys.get(&key) else {
            return page;
        };
        let start = after.map_or(Unbounded, Excluded);
        let (mut used, mut last) = (0, None);
        for (name, entry) in entries.range((start, Unbounded)) {
            if entry.expires_unix_s <= now_unix_s {
                continue;
            }
            used += entry.encode().len();
            if used > max_octets && last.is_some() {
                page.next = last;
                break;
            }
            page.entries.push(entry.clone());
            last = Some(*name);
        }
        page
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now_unix_s: i64) {
        let (by_publisher, count) = (&mut self.by_publisher, &mut self.entries);
        self.keys.retain(|_, entries| {
            entries.retain(|(publisher, _), entry| {
                let lives = entry.expires_unix_s > now_unix_s;
                if !lives {
                    *count -= 1;
                    if let Some(number) = by_publisher.get_mut(publisher) {
                        *number -= 1;
                    }
                }
                lives
            });
            !entries.is_empty()
        });
        by_publisher.retain(|_, number| *number > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        krpc::signing_key,
        services::{entry::Service, keys::by_mechanism},
    };

    fn entry(publisher: u8, number: usize, seq: i64) -> Entry {
        let service = Service {
            mechanism: "ldap".into(),
            uri: format!("ldap://{number}.example.org"),
            attributes: Default::default(),
            place: None,
        };
        Entry::sign(&signing_key([publisher; 32]), service, seq, 1000).expect("an entry")
    }

    #[test]
    fn one_publisher_leaves_room_for_others() {
        let mut shelf = Shelf::new(ShelfConfig::default());
        let key = by_mechanism("ldap");
        let stored = (0..20).filter(|number| shelf.put(0, key, entry(1, *number, 1)).is_ok());
        assert_eq!(stored.count(), 8);
        assert_eq!(
            shelf.put(0, key, entry(1, 99, 1)),
            Err(ShelfError::Quota(8))
        );
        assert_eq!(
            shelf.put(0, key, entry(1, 3, 2)),
            Ok(()),
            "a newer one takes no new place"
        );
        assert_eq!(shelf.put(0, key, entry(1, 3, 1)), Err(ShelfError::Old(2)));
        assert_eq!(shelf.put(0, key, entry(2, 3, 1)), Ok(()));
        assert_eq!(
            shelf.put(0, Id::default(), entry(2, 3, 1)),
            Err(ShelfError::WrongKey)
        );
        assert_eq!(
            shelf.put(1000, key, entry(2, 4, 1)),
            Err(ShelfError::Life(7200))
        );
        assert_eq!(
            shelf.put(-9000, key, entry(2, 4, 1)),
            Err(ShelfError::Life(7200))
        );
        assert_eq!(shelf.len(), 9);
        shelf.expire(1000);
        assert!(shelf.is_empty() && shelf.by_publisher.is_empty());
    }

    #[test]
    fn pages_have_everything_once() {
        let mut shelf = Shelf::new(ShelfConfig::default());
        let key = by_mechanism("ldap");
        for publisher in 1..=10 {
            for number in 0..3 {
                shelf
                    .put(0, key, entry(publisher, number, 1))
                    .expect("room");
            }
        }
        let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = shelf.page(0, key, after, 800);
            assert!(page.entries.iter().map(|e| e.encode().len()).sum::<usize>() <= 800);
            seen.extend(page.entries.iter().map(|e| (e.publisher(), e.name())));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(pages > 5 && seen.len() == 30 && seen.is_sorted_by(|a, b| a < b));
        assert_eq!(
            shelf.page(0, key, None, 0).entries.len(),
            1,
            "never an empty page for ever"
        );
        assert!(shelf.page(1000, key, None, 800).entries.is_empty());
    }
}
