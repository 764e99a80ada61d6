//! A socket address in words: quick to read from what a program gives, and to compare.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{AF_INET, AF_INET6};

/// An address of IPv4 or IPv6 with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The first eight octets of a `sockaddr`: family, port, and the address of IPv4 or the flow label.
    pub head: [u8; 8],
    /// The address of IPv6, and the scope; otherwise 0.
    pub ipv6: [u64; 2],
    pub scope: u32,
}

impl Address {
    /// Of a `sockaddr_in`, which begins like this.
    pub fn v4(head: [u8; 8]) -> Self {
        Self {
            head,
            ipv6: [0; 2],
            scope: 0,
        }
    }

    fn family(self) -> i32 {
        let [low, high, ..] = self.head;
        i32::from(u16::from_ne_bytes([low, high]))
    }

    /// The address, unless it says more than an address and a port (a flow label).
    pub fn socket_address(self) -> Option<SocketAddr> {
        let [_, _, high, low, rest @ ..] = self.head;
        let port = u16::from_be_bytes([high, low]);
        if self.family() == AF_INET {
            return Some(SocketAddrV4::new(rest.into(), port).into());
        }
        let [first, second] = self.ipv6.map(u64::to_ne_bytes);
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&first);
        octets[8..].copy_from_slice(&second);
        let address = SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, self.scope);
        (rest == [0; 4]).then(|| address.into())
    }

    /// A number for it, of the port and the whole address: hosts of several networks may have the same
    /// end.
    pub fn number(self) -> u64 {
        let [first, second] = self.ipv6;
        u64::from_ne_bytes(self.head) ^ first.rotate_left(32) ^ second
    }
}

impl From<SocketAddr> for Address {
    #[inline]
    fn from(address: SocketAddr) -> Self {
        let family = match address {
            SocketAddr::V4(_) => AF_INET as u16,
            SocketAddr::V6(_) => AF_INET6 as u16,
        };
        let [low, high] = family.to_ne_bytes();
        let [port_high, port_low] = address.port().to_be_bytes();
        match address {
            SocketAddr::V4(address) => {
                let [a, b, c, d] = address.ip().octets();
                Self::v4([low, high, port_high, port_low, a, b, c, d])
            }
            SocketAddr::V6(address) => {
                let bits = address.ip().to_bits();
                Self {
                    head: [low, high, port_high, port_low, 0, 0, 0, 0],
                    ipv6: [(bits >> 64) as u64, bits as u64].map(u64::to_be),
                    scope: address.scope_id(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["10.0.0.1:5000", "[fd00:1::2]:7", "[fe80::1%3]:5000"] {
            let address: SocketAddr = text.parse().unwrap();
            let words = Address::from(address);
            assert_eq!(words.socket_address(), Some(address));
            let mut labelled = words;
            labelled.head[7] ^= 1;
            assert_ne!(labelled.socket_address(), Some(address));
            assert_ne!(labelled, words);
        }
    }
}
