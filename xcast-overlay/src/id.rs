//! Identifiers of 160 bits, and Kademlia's distance between them.

use std::{
    fmt,
    ops::{BitXor, Index},
    str::FromStr,
};

use sha1::{Digest as _, Sha1};
use thiserror::Error;

use crate::runtime::Random;

/// An identifier of 160 bits: of a node, or of what is stored.
///
/// The order is that of the octets, so a smaller [`Id::distance`] is a closer node.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Self::OCTETS]);

/// A text or an octet string is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an identifier has 20 octets, or 40 hexadecimal digits")]
pub struct NotAnId;

impl Id {
    /// Length in octets.
    pub const OCTETS: usize = 20;
    /// Length in bits.
    pub const BITS: usize = Self::OCTETS * 8;

    /// An identifier of these octets, most significant first.
    pub const fn new(octets: [u8; Self::OCTETS]) -> Self {
        Self(octets)
    }

    /// A random identifier.
    pub fn random(random: &mut Random) -> Self {
        Self(random.octets())
    }

    /// The SHA-1 hash of parts that are put together.
    pub fn hash_of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha1::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Its octets, most significant first.
    pub const fn octets(&self) -> &[u8; Self::OCTETS] {
        &self.0
    }

    /// The XOR distance to another (Maymounkov and Mazières, IPTPS 2002).
    pub fn distance(self, other: Self) -> Self {
        self ^ other
    }

    /// How many leading bits are zero: 160 for zero itself.
    pub fn leading_zeros(self) -> usize {
        let mut zeros = 0;
        for octet in self.0 {
            zeros += octet.leading_zeros() as usize;
            if octet != 0 {
                break;
            }
        }
        zeros
    }

    /// How many leading bits are the same in both: 160 for the identifier itself.
    pub fn common_prefix(self, other: Self) -> usize {
        self.distance(other).leading_zeros()
    }

    /// A random identifier that shares exactly `prefix_bits` leading bits with this one; all 160
    /// for a larger number.
    pub fn random_with_prefix(self, prefix_bits: usize, random: &mut Random) -> Self {
        if prefix_bits >= Self::BITS {
            return self;
        }
        let mut id = Self::random(random);
        for bit in 0..=prefix_bits {
            id.set_bit(bit, self.bit(bit) ^ (bit == prefix_bits));
        }
        id
    }

    fn bit(self, bit: usize) -> bool {
        self.0[bit / 8] & (0x80 >> (bit % 8)) != 0
    }

    fn set_bit(&mut self, bit: usize, value: bool) {
        let mask = 0x80 >> (bit % 8);
        if value {
            self.0[bit / 8] |= mask;
        } else {
            self.0[bit / 8] &= !mask;
        }
    }
}

impl BitXor for Id {
    type Output = Self;

    fn bitxor(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }
}

impl Index<usize> for Id {
    type Output = u8;

    fn index(&self, at: usize) -> &u8 {
        &self.0[at]
    }
}

impl TryFrom<&[u8]> for Id {
    type Error = NotAnId;

    fn try_from(octets: &[u8]) -> Result<Self, NotAnId> {
        octets.try_into().map(Self).map_err(|_| NotAnId)
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::OCTETS {
            return Err(NotAnId);
        }
        let mut id = Self::default();
        for (octet, pair) in id.0.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or(NotAnId)?;
                *octet = *octet << 4 | value as u8;
            }
        }
        Ok(id)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Id {
    /// As 40 hexadecimal digits.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        let id: Id = text.parse().expect("forty digits");
        assert_eq!(id.to_string(), text);
        assert_eq!("01".parse::<Id>(), Err(NotAnId));
        assert_eq!(
            "0123456789abcdef0123456789abcdef0123456x".parse::<Id>(),
            Err(NotAnId)
        );
    }

    #[test]
    fn a_random_id_shares_the_prefix_and_no_more() {
        let mut random = Random::from_number(1);
        let id = Id::random(&mut random);
        for bits in 0..Id::BITS {
            assert_eq!(
                id.common_prefix(id.random_with_prefix(bits, &mut random)),
                bits
            );
        }
        assert_eq!(id.random_with_prefix(Id::BITS, &mut random), id);
    }
}
