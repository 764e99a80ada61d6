//! Which receivers take envelopes.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
};

use foldhash::fast::RandomState;
use thiserror::Error;

use super::by_address::ByAddress;
use crate::envelope::Tag;

/// The destinations whose receivers open envelopes, with their tags. Each tag has one owner.
#[derive(Clone, Debug, Default)]
pub struct EnvelopePeers {
    tags: ByAddress<Tag>,
    owners: HashMap<Tag, SocketAddr, RandomState>,
}

/// A tag that another destination has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("tag {tag} is that of {owner}: let the receiver draw another one")]
pub struct TagTaken {
    /// The tag.
    pub tag: Tag,
    /// The destination that has it.
    pub owner: SocketAddr,
}

impl EnvelopePeers {
    /// The tag of a destination; `None` if its receiver takes ordinary datagrams only.
    pub fn tag(&self, destination: SocketAddr) -> Option<Tag> {
        match self.tags.is_empty() {
            true => None,
            false => self.tags.get(&destination.into()).copied(),
        }
    }

    /// How many destinations have opted in.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether nobody has opted in.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Returns the destination's former tag.
    pub(super) fn insert(
        &mut self,
        destination: SocketAddr,
        tag: Tag,
    ) -> Result<Option<Tag>, TagTaken> {
        match self.owners.entry(tag) {
            Entry::Occupied(entry) if *entry.get() != destination => {
                let owner = *entry.get();
                return Err(TagTaken { tag, owner });
            }
            entry => entry.or_insert(destination),
        };
        let former = self.tags.insert(destination.into(), tag);
        if let Some(former) = former.filter(|former| *former != tag) {
            self.owners.remove(&former);
        }
        Ok(former)
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, destination: SocketAddr) -> bool {
        let former = self.tags.remove(&destination.into());
        if let Some(tag) = former {
            self.owners.remove(&tag);
        }
        former.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_owner() {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut peers = EnvelopePeers::default();
        assert_eq!(peers.insert(address(1), Tag(7)), Ok(None));
        assert_eq!(peers.insert(address(1), Tag(7)), Ok(Some(Tag(7))));
        let owner = address(1);
        let taken = TagTaken { tag: Tag(7), owner };
        assert_eq!(peers.insert(address(2), Tag(7)), Err(taken));
        assert_eq!(peers.insert(address(1), Tag(8)), Ok(Some(Tag(7))));
        assert_eq!(peers.insert(address(2), Tag(7)), Ok(None));
        assert!(peers.remove(address(1)) && !peers.remove(address(1)));
        assert_eq!((peers.len(), peers.tag(address(1))), (1, None));
    }
}
