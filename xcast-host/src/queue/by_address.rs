//! Maps by destination.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::SocketAddr,
};

use foldhash::fast::RandomState;

/// A map from destinations.
pub(super) type ByAddress<T> = HashMap<Key, T, RandomState>;

/// A destination that is hashed as one number: faster than part by part, which shows in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(SocketAddr);

impl From<SocketAddr> for Key {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = u64::from(self.0.port());
        match self.0 {
            SocketAddr::V4(address) => {
                state.write_u64(u64::from(address.ip().to_bits()) << 16 | port);
            }
            SocketAddr::V6(address) => {
                state.write_u128(address.ip().to_bits());
                state.write_u64(port);
            }
        }
    }
}
