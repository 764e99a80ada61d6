//! Addresses of hosts and routers: each host in a network of its own, as on the Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    fanout::Family,
    topology::{HostId, RouterId},
};

/// The UDP port of all hosts' programs.
pub const PORT: u16 = 6881;

/// Most hosts that have addresses.
pub const MAX_HOSTS: usize = 1 << 20;

/// Where hosts' IPv4 addresses begin, a /24 for each: 20.0.0.0.
const HOSTS4: u32 = 0x1400_0000;
/// Where routers' IPv4 addresses begin: 100.64.0.0.
const ROUTERS4: u32 = 0x6440_0000;
/// What hosts' IPv6 addresses begin with, a /64 for each: 2001:db8::/32.
const HOSTS6: u128 = 0x2001_0db8 << 96;
/// What routers' IPv6 addresses begin with: fd78::.
const ROUTERS6: u128 = 0xfd78 << 112;

/// The address of a host's program: of [`MAX_HOSTS`] hosts at most.
#[must_use]
pub fn of_host(host: HostId, family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(HOSTS4 + (host << 8) + 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(HOSTS6 | u128::from(host) << 64 | 1)),
    };
    SocketAddr::new(ip, PORT)
}

/// The host with this address; none for others.
#[must_use]
pub fn host(address: SocketAddr) -> Option<HostId> {
    let (host, family) = match address.ip() {
        IpAddr::V4(ip) => (ip.to_bits().wrapping_sub(HOSTS4) >> 8, Family::V4),
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u32, Family::V6),
    };
    let is_host = (host as usize) < MAX_HOSTS && of_host(host, family) == address;
    is_host.then_some(host)
}

/// The address of a router.
#[must_use]
pub fn of_router(router: RouterId, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(ROUTERS4 + router).into(),
        Family::V6 => Ipv6Addr::from_bits(ROUTERS6 | u128::from(router)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_their_addresses() {
        for family in [Family::V4, Family::V6] {
            for number in [0, 1, 255, 256, 70_000, MAX_HOSTS as HostId - 1] {
                assert_eq!(host(of_host(number, family)), Some(number));
            }
            let mut other = of_host(7, family);
            other.set_port(PORT + 1);
            assert_eq!(host(other), None);
            assert_eq!(host(SocketAddr::new(of_router(7, family), PORT)), None);
        }
        assert_eq!(host(SocketAddr::from(([19, 255, 255, 1], PORT))), None);
    }
}
