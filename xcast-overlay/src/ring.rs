//! Positions on a ring, as Chord and its kin have them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::id::Id;

/// A place on a ring of 2^64 places: of a peer, or of a key.
///
/// Chord (SIGCOMM 2001) takes 160 bits. 64 do for the overlays here: among a million peers two have
/// the same position once in 37 million such rings.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position of a peer: the beginning of its address's SHA-1 hash, so that it need not be
    /// told, and nobody chooses it freely.
    pub fn of(address: &SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => Self::of_parts(&[&ip.octets(), &port]),
            IpAddr::V6(ip) => Self::of_parts(&[&ip.octets(), &port]),
        }
    }

    /// The position of a key.
    pub fn of_key(key: &[u8]) -> Self {
        Self::of_parts(&[key])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *Id::hash_of(parts).octets();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// How far it is to another, clockwise.
    pub fn distance_to(self, other: Self) -> u64 {
        other.0.wrapping_sub(self.0)
    }

    /// The position this far ahead, clockwise.
    pub fn ahead(self, distance: u64) -> Self {
        Self(self.0.wrapping_add(distance))
    }

    /// Whether it lies after `from`, and not after `to`: the whole ring if both are the same.
    pub fn is_within(self, from: Self, to: Self) -> bool {
        let span = from.distance_to(to).wrapping_sub(1);
        from.distance_to(self).wrapping_sub(1) <= span
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A peer on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// Its place.
    pub position: Position,
    /// Where it is.
    pub address: SocketAddr,
}

impl Contact {
    /// The peer at an address.
    pub fn of(address: SocketAddr) -> Self {
        Self {
            position: Position::of(&address),
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_goes_round() {
        let at = Position;
        assert!(at(5).is_within(at(3), at(5)));
        assert!(!at(3).is_within(at(3), at(5)));
        assert!(at(1).is_within(at(u64::MAX), at(2)));
        assert!(!at(3).is_within(at(u64::MAX), at(2)));
        assert!(at(7).is_within(at(9), at(9)));
        assert!(at(9).is_within(at(9), at(9)));
    }
}
