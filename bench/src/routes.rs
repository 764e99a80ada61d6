//! Route sets like those of the Internet, and destinations within them.

use std::{collections::HashMap, net::Ipv4Addr};

use fastrand::Rng;
use ipnet::Ipv4Net;

/// Share of each prefix length in the Internet's IPv4 table, in tenths of a per cent, as route
/// collectors have seen it for years: the number of /24 grows, the proportions hardly change.
const LENGTHS: [(u8, u32); 17] = [
    (8, 1),
    (9, 1),
    (10, 1),
    (11, 1),
    (12, 1),
    (13, 1),
    (14, 1),
    (15, 2),
    (16, 13),
    (17, 8),
    (18, 14),
    (19, 25),
    (20, 46),
    (21, 53),
    (22, 112),
    (23, 105),
    (24, 615),
];

/// Prefixes, each with the number of its next hop.
#[derive(Clone, Debug)]
pub struct RouteSet {
    routes: Vec<(Ipv4Net, usize)>,
    /// Next hop by prefix length and network.
    index: HashMap<(u8, u32), usize>,
}

impl RouteSet {
    /// `count` different prefixes for next hops 0 to `next_hops` - 1 in turn, always the same for
    /// the same numbers.
    pub fn internet(count: usize, next_hops: usize) -> Self {
        let mut rng = Rng::with_seed(5058);
        let mut set = Self {
            routes: Vec::with_capacity(count),
            index: HashMap::with_capacity(count),
        };
        let total: u32 = LENGTHS.iter().map(|(_, share)| share).sum();
        while set.routes.len() < count {
            let mut draw = rng.u32(..total);
            let (length, _) = *LENGTHS
                .iter()
                .find(|(_, share)| match draw.checked_sub(*share) {
                    Some(rest) => {
                        draw = rest;
                        false
                    }
                    None => true,
                })
                .unwrap_or(&LENGTHS[16]);
            let network = rng.u32(..) & mask(length);
            if !is_global(network, length) {
                continue;
            }
            let next_hop = set.routes.len() % next_hops;
            if let std::collections::hash_map::Entry::Vacant(entry) =
                set.index.entry((length, network))
            {
                entry.insert(next_hop);
                let prefix = Ipv4Net::new_assert(network.into(), length);
                set.routes.push((prefix, next_hop));
            }
        }
        set
    }

    /// The prefixes and their next hops.
    pub fn routes(&self) -> &[(Ipv4Net, usize)] {
        &self.routes
    }

    /// Next hop of an address, by longest match.
    pub fn next_hop(&self, address: Ipv4Addr) -> Option<usize> {
        let address = address.to_bits();
        (8..=24)
            .rev()
            .find_map(|length| self.index.get(&(length, address & mask(length))).copied())
    }

    /// A random address within a random prefix, and its next hop.
    pub fn any_address(&self, rng: &mut Rng) -> (Ipv4Addr, Option<usize>) {
        let (prefix, _) = self.routes[rng.usize(..self.routes.len())];
        let host = rng.u32(..) & !mask(prefix.prefix_len());
        let address = Ipv4Addr::from_bits(prefix.network().to_bits() | host);
        (address, self.next_hop(address))
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// Whether a prefix is one that the Internet routes: 1.0.0.0 to 223.255.255.255 without the special
/// networks in between, of which 10.0.0.0/8 is the benchmark's own.
fn is_global(network: u32, length: u8) -> bool {
    const SPECIAL: [([u8; 4], u8); 6] = [
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 168, 0, 0], 16),
    ];
    let first = network >> 24;
    let overlaps = |&(special, other): &([u8; 4], u8)| {
        (network ^ u32::from_be_bytes(special)) & mask(length.min(other)) == 0
    };
    (1..224).contains(&first) && !SPECIAL.iter().any(overlaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_internet_s_proportions() {
        let set = RouteSet::internet(100_000, 8);
        let share = |length| {
            let of_length = |route: &&(Ipv4Net, usize)| route.0.prefix_len() == length;
            set.routes().iter().filter(of_length).count() as f64 / 100_000.0
        };
        assert!((0.58..0.65).contains(&share(24)), "{}", share(24));
        assert!((0.10..0.13).contains(&share(22)), "{}", share(22));
    }

    #[test]
    fn addresses_lead_where_they_should() {
        let mut rng = Rng::with_seed(1);
        let set = RouteSet::internet(1000, 16);
        for _ in 0..1000 {
            let (address, next_hop) = set.any_address(&mut rng);
            let best = set
                .routes()
                .iter()
                .filter(|(prefix, _)| prefix.contains(&address))
                .max_by_key(|(prefix, _)| prefix.prefix_len());
            assert_eq!(best.map(|route| route.1), next_hop);
        }
    }

    #[test]
    fn sets_are_reproducible_and_nested() {
        let small = RouteSet::internet(10, 8);
        let large = RouteSet::internet(1000, 8);
        assert_eq!(small.routes(), &large.routes()[..10]);
    }

    #[test]
    fn nobody_s_networks_are_left_out() {
        assert!(is_global(0x0808_0800, 24));
        assert!(!is_global(0x0a01_0000, 24));
        assert!(!is_global(0x0a00_0000, 8));
        assert!(!is_global(0xac00_0000, 8), "covers 172.16.0.0/12");
        assert!(!is_global(0xe000_0000, 24));
    }
}
