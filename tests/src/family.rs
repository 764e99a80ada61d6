//! The one parameter of tests that run for IPv4 and for IPv6: they are written with IPv4 addresses,
//! and [`Family`] says which address stands for it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

thread_local! {
    static UNDER_TEST: Cell<Family> = const { Cell::new(Family::Ipv4) };
}

/// Runs a test for one family: frames that this thread makes are of that family, see
/// [`Packet::frame`](crate::packet::Packet::frame).
pub fn with<T>(family: Family, test: impl FnOnce() -> T) -> T {
    let before = UNDER_TEST.replace(family);
    let result = test();
    UNDER_TEST.set(before);
    result
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The one that the running test is for.
    pub fn under_test() -> Self {
        UNDER_TEST.get()
    }

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// What stands for an IPv4 address: of IPv6, one with the same 32 bits behind 2001:db8::/32, so
    /// that prefixes contain what they contained; or the special address with the same meaning.
    pub fn address(self, address: impl Into<Ipv4Addr>) -> IpAddr {
        let address = address.into();
        let [a, b, c, d] = address.octets();
        if self == Self::Ipv4 {
            return address.into();
        }
        let last = u16::from_be_bytes([c, d]);
        let special = match (a, b, c, d) {
            (0, 0, 0, 0) => Ipv6Addr::UNSPECIFIED,
            // The group of RFC 4727 in either family.
            (224, 0, 0, 254) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114),
            (0, ..) => address.to_ipv6_mapped(),
            (127, ..) => Ipv6Addr::LOCALHOST,
            (169, 254, ..) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last),
            (224.., ..) => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, u16::from_be_bytes([a, b]), last),
            _ => {
                let bits = 0x2001_0db8_u128 << 96 | u128::from(address.to_bits()) << 64;
                Ipv6Addr::from_bits(bits)
            }
        };
        special.into()
    }

    /// What stands for the length of an IPv4 prefix: hosts stay hosts.
    pub fn prefix_len(self, prefix_len: u8) -> u8 {
        match (self, prefix_len) {
            (Self::Ipv4, len) => len,
            (Self::Ipv6, 0) => 0,
            (Self::Ipv6, 32) => 128,
            (Self::Ipv6, len) => 32 + len,
        }
    }

    /// What stands for an IPv4 prefix.
    ///
    /// # Panics
    ///
    /// With a length above 32.
    pub fn prefix(self, address: impl Into<Ipv4Addr>, prefix_len: u8) -> IpNet {
        let len = self.prefix_len(prefix_len);
        match IpNet::new(self.address(address), len) {
            Ok(prefix) => prefix.trunc(),
            Err(_) => panic!("no prefix length: {prefix_len}"),
        }
    }

    /// A command for `ip` with what stands for its IPv4 addresses and prefixes.
    pub fn command(self, command: &str) -> String {
        let word = |word: &str| {
            let (address, len) = match word.split_once('/') {
                Some((address, len)) => (address, len.parse().ok()),
                None => (word, None),
            };
            let Ok(address) = address.parse::<Ipv4Addr>() else {
                return word.to_owned();
            };
            match len {
                Some(len) => format!("{}/{}", self.address(address), self.prefix_len(len)),
                None => self.address(address).to_string(),
            }
        };
        let words: Vec<_> = command.split(' ').map(word).collect();
        let of_itself = words.iter().zip(command.split(' '));
        // Where no address says it; groups of next hops have no family.
        let unsaid =
            of_itself.into_iter().all(|(new, old)| new == old) && !command.contains("group");
        match self {
            Self::Ipv6 if unsaid => format!("-6 {command}"),
            _ => words.join(" "),
        }
    }

    /// EtherType.
    pub fn ether_type(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
        }
    }

    /// Length of an IP header without options.
    pub fn ip_len(self) -> usize {
        match self {
            Self::Ipv4 => 20,
            Self::Ipv6 => 40,
        }
    }

    /// Most destinations of a packet.
    pub fn most_destinations(self) -> usize {
        match self {
            Self::Ipv4 => 127,
            Self::Ipv6 => 125,
        }
    }
}

/// Whether the first `len` bits are the same.
pub fn same_prefix(one: IpAddr, other: IpAddr, len: u8) -> bool {
    IpNet::new(one, len).is_ok_and(|prefix| prefix.contains(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_what_is_no_address() {
        let command = "route add 10.20.0.0/16 nhid 1 via 10.0.1.2 group 1/2";
        assert_eq!(Family::Ipv4.command(command), command);
        assert_eq!(
            Family::Ipv6.command(command),
            "route add 2001:db8:a14::/48 nhid 1 via 2001:db8:a00:102:: group 1/2"
        );
        let command = "route del default";
        assert_eq!(Family::Ipv6.command(command), "-6 route del default");
    }
}
