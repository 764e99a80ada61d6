//! What a node stores for others: who announced itself (BEP 5), and items (BEP 44).
//!
//! Everything expires, and is bounded in number. When a bound is reached, what is farthest from this
//! node's identifier goes first: it is least likely to be looked for here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    id::Id,
    krpc::{ErrorCode, Family, Item, QueryError},
    runtime::Random,
};

/// Bounds of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// Most keys under which somebody announced itself.
    pub max_keys: usize,
    /// Most peers of one key.
    pub max_peers_per_key: usize,
    /// Most items.
    pub max_items: usize,
    /// How long an announcement lives. Mainline nodes announce again within 30 minutes.
    pub peer_life: Duration,
    /// How long an item lives (BEP 44: two hours).
    pub item_life: Duration,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            max_keys: 2000,
            max_peers_per_key: 500,
            max_items: 1000,
            peer_life: Duration::from_secs(45 * 60),
            item_life: Duration::from_secs(2 * 3600),
        }
    }
}

/// The storage of a node.
#[derive(Clone, Debug)]
pub struct Storage {
    own: Id,
    config: StorageConfig,
    /// By distance of the key from this node; for each peer, when it is forgotten.
    peers: BTreeMap<Id, BTreeMap<SocketAddr, Instant>>,
    items: BTreeMap<Id, (Item, Instant)>,
}

impl Storage {
    /// An empty storage of the node `own`.
    pub fn new(own: Id, config: StorageConfig) -> Self {
        Self {
            own,
            config,
            peers: BTreeMap::new(),
            items: BTreeMap::new(),
        }
    }

    /// The node has taken another identifier: keys are as far from it as they are.
    pub fn set_id(&mut self, own: Id) {
        let change = self.own.distance(own);
        let peers = std::mem::take(&mut self.peers).into_iter();
        self.peers = peers
            .map(|(distance, peers)| (distance ^ change, peers))
            .collect();
        let items = std::mem::take(&mut self.items).into_iter();
        self.items = items
            .map(|(distance, item)| (distance ^ change, item))
            .collect();
        self.own = own;
    }

    /// The items.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|(item, _)| item)
    }

    /// Number of keys, of peers under all of them, and of items.
    pub fn counts(&self) -> (usize, usize, usize) {
        (
            self.peers.len(),
            self.peers.values().map(BTreeMap::len).sum(),
            self.items.len(),
        )
    }

    /// Remembers that a peer announced itself.
    ///
    /// # Errors
    ///
    /// If there is no place for it.
    pub fn announce(&mut self, now: Instant, key: Id, peer: SocketAddr) -> Result<(), QueryError> {
        let distance = self.own.distance(key);
        if !self.peers.contains_key(&distance) {
            make_room(&mut self.peers, self.config.max_keys, distance)?;
        }
        let peers = self.peers.entry(distance).or_default();
        // One address, one announcement: more would crowd out others.
        peers.retain(|known, until| {
            *until > now && (known.ip() != peer.ip() || known.port() == peer.port())
        });
        if peers.len() >= self.config.max_peers_per_key && !peers.contains_key(&peer) {
            return Err(QueryError::new(
                ErrorCode::Server,
                "too many peers under this key",
            ));
        }
        peers.insert(peer, now + self.config.peer_life);
        Ok(())
    }

    /// Up to `count` random peers of a family that announced themselves under this key.
    pub fn peers(
        &self,
        now: Instant,
        key: Id,
        family: Family,
        count: usize,
        random: &mut Random,
    ) -> Vec<SocketAddr> {
        let Some(peers) = self.peers.get(&self.own.distance(key)) else {
            return Vec::new();
        };
        let alive = peers.iter().filter(|(_, until)| **until > now);
        let mut peers: Vec<SocketAddr> = alive
            .map(|(peer, _)| *peer)
            .filter(|peer| Family::of(peer) == family)
            .collect();
        random.choose(&mut peers, count);
        peers.truncate(count);
        peers
    }

    /// Stores an item, if `cas` and the sequence numbers allow it (BEP 44).
    ///
    /// # Errors
    ///
    /// The error to answer the `put` with.
    pub fn put(&mut self, now: Instant, item: Item, cas: Option<i64>) -> Result<(), QueryError> {
        item.check()?;
        let distance = self.own.distance(item.target());
        let stored = self.items.get(&distance).filter(|(_, until)| *until > now);
        if let Some((stored, _)) = stored
            && let (Some(old), Some(new)) = (stored.seq(), item.seq())
        {
            if let Some(cas) = cas
                && cas != old
            {
                return Err(QueryError::new(
                    ErrorCode::CasMismatch,
                    format!("cas is {cas}, the stored item's seq is {old}"),
                ));
            }
            if new < old || (new == old && stored.value != item.value) {
                return Err(QueryError::new(
                    ErrorCode::SequenceTooSmall,
                    format!("seq is {new}, the stored item's is {old}"),
                ));
            }
        }
        if !self.items.contains_key(&distance) {
            make_room(&mut self.items, self.config.max_items, distance)?;
        }
        self.items
            .insert(distance, (item, now + self.config.item_life));
        Ok(())
    }

    /// The item stored under this key.
    pub fn item(&self, now: Instant, key: Id) -> Option<&Item> {
        let (item, until) = self.items.get(&self.own.distance(key))?;
        (*until > now).then_some(item)
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Instant) {
        self.items.retain(|_, (_, until)| *until > now);
        self.peers.retain(|_, peers| {
            peers.retain(|_, until| *until > now);
            !peers.is_empty()
        });
    }
}

/// Makes room for something at this distance: what is farthest goes, unless the new is farther.
fn make_room<T>(map: &mut BTreeMap<Id, T>, max: usize, distance: Id) -> Result<(), QueryError> {
    if map.len() >= max {
        match map.last_entry() {
            Some(farthest) if *farthest.key() > distance => drop(farthest.remove()),
            _ => {
                return Err(QueryError::new(
                    ErrorCode::Server,
                    "this node stores no more",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::krpc::signing_key;

    fn storage(max_items: usize) -> Storage {
        let config = StorageConfig {
            max_items,
            max_keys: 3,
            ..StorageConfig::default()
        };
        Storage::new(Id::new([0; 20]), config)
    }

    fn code(result: Result<(), QueryError>) -> Result<(), ErrorCode> {
        result.map_err(|error| error.code)
    }

    #[test]
    fn sequence_numbers_and_cas() {
        let now = Instant::now();
        let mut storage = storage(10);
        let key = signing_key([1; 32]);
        let item = |seq, value: &'static str| Item::sign(&key, "salt", seq, value);
        let mut put = |item: Item, cas| code(storage.put(now, item, cas));
        assert_eq!(
            put(item(5, "3:one"), Some(77)),
            Ok(()),
            "there is nothing to compare with"
        );
        assert_eq!(
            put(item(4, "3:two"), None),
            Err(ErrorCode::SequenceTooSmall)
        );
        assert_eq!(
            put(item(5, "3:two"), None),
            Err(ErrorCode::SequenceTooSmall)
        );
        assert_eq!(
            put(item(5, "3:one"), None),
            Ok(()),
            "the same again keeps it alive"
        );
        assert_eq!(put(item(6, "3:two"), Some(4)), Err(ErrorCode::CasMismatch));
        assert_eq!(put(item(6, "3:two"), Some(5)), Ok(()));
        let mut forged = item(7, "5:three");
        forged.value = "5:forty".into();
        assert_eq!(put(forged, None), Err(ErrorCode::InvalidSignature));
        let target = item(6, "3:two").target();
        assert_eq!(storage.item(now, target).and_then(Item::seq), Some(6));
        let later = now + Duration::from_secs(2 * 3600);
        assert_eq!(storage.item(later, target), None);
        assert_eq!(
            code(storage.put(later, item(1, "3:old"), None)),
            Ok(()),
            "all has expired"
        );
    }

    #[test]
    fn what_is_farthest_makes_room() {
        let now = Instant::now();
        let mut storage = storage(4);
        let items: Vec<Item> = (0..20)
            .map(|number| Item::immutable(format!("i{number}e")))
            .collect();
        for item in &items {
            let _ = storage.put(now, item.clone(), None);
        }
        let mut targets: Vec<Id> = items.iter().map(Item::target).collect();
        targets.sort();
        let kept: Vec<bool> = targets
            .iter()
            .map(|target| storage.item(now, *target).is_some())
            .collect();
        assert_eq!(
            kept.iter().position(|kept| !kept),
            Some(4),
            "the four closest stay"
        );
        assert_eq!(storage.counts().2, 4);
    }

    #[test]
    fn announcements_expire_and_are_one_for_an_address() {
        let mut random = Random::from_number(1);
        let now = Instant::now();
        let mut storage = storage(4);
        let key = Id::new([1; 20]);
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        assert_eq!(storage.announce(now, key, address(1)), Ok(()));
        assert_eq!(storage.announce(now, key, address(2)), Ok(()));
        let later = now + Duration::from_secs(44 * 60);
        assert_eq!(
            storage.announce(later, key, "[2001:db8::1]:3".parse().expect("v6")),
            Ok(())
        );
        assert_eq!(
            storage.peers(later, key, Family::Ipv4, 9, &mut random),
            [address(2)]
        );
        let later = now + Duration::from_secs(45 * 60);
        assert!(
            storage
                .peers(later, key, Family::Ipv4, 9, &mut random)
                .is_empty()
        );
        storage.expire(later);
        assert_eq!(storage.counts(), (1, 1, 0));
    }
}
