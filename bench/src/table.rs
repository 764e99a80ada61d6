//! The routes of a router's kernel, of either family, and destinations that they lead to.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
};

use ::tests::family::Family;
use fastrand::Rng;
use ipnet::IpNet;

use crate::{routes::RouteSet, routes6::RouteSet6};

/// Routes like those of the Internet.
#[derive(Clone, Debug)]
pub enum Routes {
    /// Of IPv4.
    Ipv4(RouteSet),
    /// Of IPv6.
    Ipv6(RouteSet6),
}

impl Routes {
    /// `count` different prefixes for next hops 0 to `next_hops` - 1 in turn, always the same for
    /// the same numbers.
    pub fn internet(family: Family, count: usize, next_hops: usize) -> Self {
        match family {
            Family::Ipv4 => Self::Ipv4(RouteSet::internet(count, next_hops)),
            Family::Ipv6 => Self::Ipv6(RouteSet6::internet(count, next_hops)),
        }
    }

    /// Their family.
    pub fn family(&self) -> Family {
        match self {
            Self::Ipv4(_) => Family::Ipv4,
            Self::Ipv6(_) => Family::Ipv6,
        }
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        match self {
            Self::Ipv4(set) => set.routes().len(),
            Self::Ipv6(set) => set.routes().len(),
        }
    }

    /// The prefixes and their next hops.
    pub fn list(&self) -> Vec<(IpNet, usize)> {
        fn all<P: Copy + Into<IpNet>>(routes: &[(P, usize)]) -> Vec<(IpNet, usize)> {
            let routes = routes.iter();
            routes.map(|&(prefix, hop)| (prefix.into(), hop)).collect()
        }
        match self {
            Self::Ipv4(set) => all(set.routes()),
            Self::Ipv6(set) => all(set.routes()),
        }
    }

    /// Length of the prefixes that most networks have: those that come and go.
    pub fn usual_length(&self) -> u8 {
        match self {
            Self::Ipv4(_) => 24,
            Self::Ipv6(_) => 48,
        }
    }

    /// A random address within a random prefix, and its next hop.
    pub fn any_address(&self, rng: &mut Rng) -> (IpAddr, Option<usize>) {
        match self {
            Self::Ipv4(set) => {
                let (address, next_hop) = set.any_address(rng);
                (address.into(), next_hop)
            }
            Self::Ipv6(set) => {
                let (first, next_hop) = set.any_address(rng);
                (
                    Ipv6Addr::from_bits(u128::from(first) << 64).into(),
                    next_hop,
                )
            }
        }
    }

    /// A random address whose next hop is this one.
    ///
    /// # Panics
    ///
    /// No prefix leads there.
    pub fn address(&self, next_hop: usize, rng: &mut Rng) -> IpAddr {
        for _ in 0..1_000_000 {
            if let (address, Some(found)) = self.any_address(rng)
                && found == next_hop
            {
                return address;
            }
        }
        panic!("no prefix leads to next hop {next_hop}");
    }

    /// Commands for `ip -batch` that add the routes, by these gateways.
    pub fn commands(&self, gateway: impl Fn(usize) -> IpAddr) -> String {
        let mut text = String::with_capacity(64 * self.len());
        for (prefix, next_hop) in self.list() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "route add {prefix} via {}", gateway(next_hop));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_next_hop_has_addresses() {
        let mut rng = Rng::with_seed(1);
        for family in Family::ALL {
            // The smallest tables of the benchmark, for as many next hops as it needs.
            for (count, next_hops) in [(10, 8), (10_000, 16)] {
                let routes = Routes::internet(family, count, next_hops);
                assert_eq!(routes.len(), count);
                for next_hop in 0..next_hops {
                    let address = routes.address(next_hop, &mut rng);
                    assert_eq!(Family::of(address), family);
                }
            }
        }
    }
}
