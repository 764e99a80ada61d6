//! Addresses as they lie in packets: [`Be32`] for IPv4, [`Be128`] for IPv6.

use core::{fmt, net::IpAddr};

use super::{
    checksum::Sum,
    endian::{Be32, Be128},
    frame::View,
};

/// What the rest of the crate does with an address of either family.
pub trait Address:
    Copy + PartialEq + Default + Into<IpAddr> + TryFrom<IpAddr, Error = OtherFamily>
{
    /// Length in octets.
    const LEN: usize;

    /// The address at `at`; `None` if the frame ends before.
    fn read(view: View<'_>, at: usize) -> Option<Self>;

    /// The four addresses in a row at `at`, with one check for all; `None` if the frame ends before.
    fn read4(view: View<'_>, at: usize) -> Option<[Self; 4]>;

    /// Writes the address at `at`; `None` if the frame ends before.
    fn write(self, view: View<'_>, at: usize) -> Option<()>;

    /// A one's complement sum with the address added.
    fn add_to(self, sum: Sum) -> Sum;

    /// A one's complement sum with the address taken out.
    fn take_from(self, sum: Sum) -> Sum;

    /// The octets from `at` on, the first as the highest of the number; at least to the next multiple
    /// of eight octets or the address's end, and zeros after that.
    fn octets_from(self, at: u32) -> u64;

    /// The address as one of IPv6: an IPv4-mapped one (RFC 4291 section 2.5.5.2) for IPv4.
    fn mapped(self) -> Be128;

    /// Zero if `other` is the same address.
    fn difference(self, other: Self) -> u64;

    /// Universal hashing by multiplication: the product's high bits have seen every bit of the
    /// address, and `key` is secret.
    fn hash(self, key: u64) -> u64;
}

/// An address of the other family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherFamily(pub IpAddr);

impl fmt::Display for OtherFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is, wanted) = match self.0 {
            IpAddr::V4(_) => ("IPv4", "IPv6"),
            IpAddr::V6(_) => ("IPv6", "IPv4"),
        };
        write!(
            f,
            "{} is an {is} address, where one of {wanted} is needed",
            self.0
        )
    }
}

impl core::error::Error for OtherFamily {}

impl TryFrom<IpAddr> for Be32 {
    type Error = OtherFamily;

    fn try_from(address: IpAddr) -> Result<Self, OtherFamily> {
        match address {
            IpAddr::V4(address) => Ok(address.into()),
            IpAddr::V6(_) => Err(OtherFamily(address)),
        }
    }
}

impl TryFrom<IpAddr> for Be128 {
    type Error = OtherFamily;

    fn try_from(address: IpAddr) -> Result<Self, OtherFamily> {
        match address {
            IpAddr::V4(_) => Err(OtherFamily(address)),
            IpAddr::V6(address) => Ok(address.into()),
        }
    }
}

impl From<Be32> for IpAddr {
    fn from(address: Be32) -> Self {
        Self::V4(address.into())
    }
}

impl From<Be128> for IpAddr {
    fn from(address: Be128) -> Self {
        Self::V6(address.into())
    }
}

impl Address for Be32 {
    const LEN: usize = 4;

    #[inline(always)]
    fn read(view: View<'_>, at: usize) -> Option<Self> {
        view.be32(at)
    }

    #[inline(always)]
    fn read4(view: View<'_>, at: usize) -> Option<[Self; 4]> {
        let window = view.window::<16>(at)?;
        let address = |n: usize| Self::from_memory(window.u32(4 * n));
        Some([address(0), address(1), address(2), address(3)])
    }

    #[inline(always)]
    fn write(self, view: View<'_>, at: usize) -> Option<()> {
        view.set_be32(at, self)
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.add32(self.memory())
    }

    #[inline(always)]
    fn take_from(self, sum: Sum) -> Sum {
        sum.sub32(self.memory())
    }

    #[inline(always)]
    fn octets_from(self, at: u32) -> u64 {
        (u64::from(self.value()) << 32) << (8 * at)
    }

    #[inline(always)]
    fn mapped(self) -> Be128 {
        Be128::from_memory(0, (0xffff_0000_0000 | u64::from(self.value())).to_be())
    }

    #[inline(always)]
    fn difference(self, other: Self) -> u64 {
        u64::from(self.memory() ^ other.memory())
    }

    #[inline(always)]
    fn hash(self, key: u64) -> u64 {
        u64::from(self.memory()).wrapping_mul(key | 1)
    }
}

impl Address for Be128 {
    const LEN: usize = 16;

    #[inline(always)]
    fn read(view: View<'_>, at: usize) -> Option<Self> {
        view.at::<16>(at)?;
        let high = view.be64_memory(at)?;
        Some(Self::from_memory(high, view.be64_memory(at + 8)?))
    }

    #[inline(always)]
    fn read4(view: View<'_>, at: usize) -> Option<[Self; 4]> {
        let window = view.window::<64>(at)?;
        let address = |n: usize| Self::from_memory(window.u64(16 * n), window.u64(16 * n + 8));
        Some([address(0), address(1), address(2), address(3)])
    }

    #[inline(always)]
    fn write(self, view: View<'_>, at: usize) -> Option<()> {
        let (high, low) = self.memory();
        view.at::<16>(at)?;
        view.set_be64_memory(at, high)?;
        view.set_be64_memory(at + 8, low)
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        let (high, low) = self.memory();
        sum.add64(high).add64(low)
    }

    #[inline(always)]
    fn take_from(self, sum: Sum) -> Sum {
        let (high, low) = self.memory();
        sum.add64(!high).add64(!low)
    }

    #[inline(always)]
    fn octets_from(self, at: u32) -> u64 {
        let (high, low) = self.memory();
        if at < 8 {
            u64::from_be(high) << (8 * at)
        } else {
            u64::from_be(low) << (8 * (at & 7))
        }
    }

    #[inline(always)]
    fn mapped(self) -> Be128 {
        self
    }

    #[inline(always)]
    fn difference(self, other: Self) -> u64 {
        let (high, low) = self.memory();
        let (other_high, other_low) = other.memory();
        (high ^ other_high) | (low ^ other_low)
    }

    #[inline(always)]
    fn hash(self, key: u64) -> u64 {
        let (high, low) = self.memory();
        // A product of its own for each half, by numbers that the key alone decides.
        let high = high.wrapping_mul(key | 1);
        high.wrapping_add(low.wrapping_mul(key.rotate_left(21) | 1))
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{host::Buffer, wire::frame::Frame as _};

    proptest! {
        #[test]
        fn octets_in_order(octets in any::<[u8; 16]>(), at in 0..16_u32) {
            let mut frame = Buffer::new(&octets);
            let address = Be128::read(frame.view(), 0).unwrap();
            prop_assert_eq!(core::net::Ipv6Addr::from(address).octets(), octets);
            prop_assert_eq!(Be128::from(core::net::Ipv6Addr::from(octets)), address);
            prop_assert_eq!((address.octets_from(at) >> 56) as u8, octets[at as usize]);
            let short = Be32::read(frame.view(), 0).unwrap();
            let expected: Vec<u8> = octets[..4].iter().copied().chain([0; 16]).collect();
            prop_assert_eq!((short.octets_from(at & 3) >> 56) as u8, expected[at as usize & 3]);
        }

        #[test]
        fn adding_and_taking_out_is_nothing(octets in any::<[u8; 16]>(), sum in any::<u32>()) {
            let mut frame = Buffer::new(&octets);
            let address = Be128::read(frame.view(), 0).unwrap();
            let before = Sum::default().add32(sum);
            let after = address.take_from(address.add_to(before));
            prop_assert_eq!(after.fold() % 0xffff, before.fold() % 0xffff);
        }
    }
}
