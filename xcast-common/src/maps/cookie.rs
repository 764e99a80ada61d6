//! Keys of the cookies by which sources of Xcast inside UDP prove their address.

use crate::wire::{
    address::Address,
    cookie::{bound, relayed_port, siphash},
};

/// Places for keys: those of the epoch before, of the current one and of the next one, and a place without a key.
pub const COOKIE_KEYS: usize = 4;

/// The key of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CookieKey {
    /// Number of the epoch; 0 where there is no key.
    pub epoch: u32,
    /// Of this relay alone: a port of it is not one of another relay that has the same keys.
    pub instance: u32,
    /// SipHash's key.
    pub key: [u64; 2],
}

impl CookieKey {
    /// Where the key of an epoch is.
    #[inline(always)]
    pub const fn place(epoch: u32) -> u32 {
        epoch % COOKIE_KEYS as u32
    }

    /// The hash of the cookie for a source at this address and port, that may also use `relayed_port`.
    #[inline(always)]
    pub fn hash<A: Address>(&self, address: A, port: u16, relayed_port: u16) -> u64 {
        let [high, low] = words(address);
        self.hash_of(high, low, bound(port, relayed_port, self.epoch))
    }

    /// The same for an address as [`words`] and what [`bound`] makes of the rest.
    #[inline(always)]
    pub fn hash_of(&self, high: u64, low: u64, bound: u64) -> u64 {
        // In place of the epoch, which the key says as well. Without a branch, which the verifier would follow.
        let has_port = (relayed_port(bound) != 0) as u64;
        siphash(
            self.key,
            [high, low, bound ^ (has_port * self.instance as u64)],
        )
    }
}

/// An address as it is hashed: no address of one family is one of the other.
#[inline(always)]
pub fn words<A: Address>(address: A) -> [u64; 2] {
    let low = if A::LEN > 8 {
        address.octets_from(8)
    } else {
        4
    };
    [address.octets_from(0), low]
}

const _: () = assert!(size_of::<CookieKey>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::endian::Be32;

    #[test]
    fn address_ports_and_epoch_count() {
        let key = CookieKey {
            epoch: 7,
            instance: 0,
            key: [1, 2],
        };
        let hash =
            |key: CookieKey, address, port, relayed| key.hash(Be32::new(address), port, relayed);
        let one = hash(key, 1, 2, 3);
        assert_eq!(one, hash(key, 1, 2, 3));
        assert_ne!(one, hash(key, 2, 2, 3));
        assert_ne!(one, hash(key, 1, 3, 3));
        assert_ne!(one, hash(key, 1, 2, 0));
        assert_ne!(one, hash(CookieKey { epoch: 8, ..key }, 1, 2, 3));
        assert_ne!(CookieKey::place(7), CookieKey::place(10));
        // Relays with the same keys take each other's cookies, apart from those with a port.
        let other = CookieKey { instance: 9, ..key };
        assert_eq!(hash(key, 1, 2, 0), hash(other, 1, 2, 0));
        assert_ne!(one, hash(other, 1, 2, 3));
    }
}
