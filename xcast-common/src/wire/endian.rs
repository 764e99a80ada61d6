//! Fields as they lie in packets, in network byte order: of 16, 32 and 128 bits.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A 16-bit field as it lies in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Be16(u16);

/// A 32-bit field as it lies in a packet; an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Be32(u32);

/// A 128-bit field as it lies in a packet; an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Be128 {
    /// The first eight octets, read as a native integer.
    high: u64,
    /// The last eight octets, read as a native integer.
    low: u64,
}

macro_rules! big_endian {
    ($name:ident, $native:ty) => {
        impl $name {
            /// From a number.
            #[inline(always)]
            pub const fn new(value: $native) -> Self {
                Self(value.to_be())
            }

            /// From the field's memory, read as a native integer.
            #[inline(always)]
            pub const fn from_memory(raw: $native) -> Self {
                Self(raw)
            }

            /// The field's memory, read as a native integer: what one's complement sums add up.
            #[inline(always)]
            pub const fn memory(self) -> $native {
                self.0
            }

            /// The number the field stands for.
            #[inline(always)]
            pub const fn value(self) -> $native {
                <$native>::from_be(self.0)
            }
        }
    };
}

big_endian!(Be16, u16);
big_endian!(Be32, u32);

impl Be128 {
    /// From the field's memory, read as two native integers.
    #[inline(always)]
    pub(crate) const fn from_memory(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    /// The field's memory, read as two native integers: the first eight octets, and the last eight.
    #[inline(always)]
    pub(crate) const fn memory(self) -> (u64, u64) {
        (self.high, self.low)
    }

    /// From a number.
    #[inline(always)]
    pub const fn new(value: u128) -> Self {
        Self {
            high: ((value >> 64) as u64).to_be(),
            low: (value as u64).to_be(),
        }
    }

    /// The address's last four octets, as a number.
    #[inline(always)]
    pub const fn low32(self) -> u32 {
        u64::from_be(self.low) as u32
    }
}

impl From<Ipv4Addr> for Be32 {
    fn from(address: Ipv4Addr) -> Self {
        Self::new(address.to_bits())
    }
}

impl From<Be32> for Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from_bits(address.value())
    }
}

impl From<Ipv6Addr> for Be128 {
    fn from(address: Ipv6Addr) -> Self {
        Self::new(address.to_bits())
    }
}

impl From<Be128> for Ipv6Addr {
    fn from(address: Be128) -> Self {
        let high = u128::from(u64::from_be(address.high));
        Self::from_bits(high << 64 | u128::from(u64::from_be(address.low)))
    }
}
