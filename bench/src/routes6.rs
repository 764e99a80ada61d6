//! Route sets like the Internet's IPv6 table, and destinations within them.
//!
//! The prefixes are made up: holders of /32s in the registries' blocks, every eighth /32 as
//! registries hand them out, and more specific prefixes inside them. A few holders announce most of
//! those, and number their networks from the start as often as not.

use std::collections::{HashMap, hash_map::Entry};

use fastrand::Rng;
use ipnet::Ipv6Net;

/// Share of each prefix length among those that are more specific than a /32, in per cent, near
/// those of the Internet's table.
const LENGTHS: [(u8, u32); 11] = [
    (48, 52),
    (44, 11),
    (40, 10),
    (36, 7),
    (46, 4),
    (45, 3),
    (47, 3),
    (42, 3),
    (34, 3),
    (38, 2),
    (64, 2),
];
/// Share of the /32s, in per cent.
const HOLDERS: usize = 12;
/// Where the registries' blocks begin, as the first 32 bits.
const BLOCKS: [u64; 6] = [
    0x2001_0000,
    0x2400_0000,
    0x2600_0000,
    0x2800_0000,
    0x2a00_0000,
    0x2c00_0000,
];

/// Prefixes, each with the number of its next hop. Addresses are given by their first 64 bits, and
/// the others are zero.
#[derive(Clone, Debug)]
pub struct RouteSet6 {
    routes: Vec<(Ipv6Net, usize)>,
    /// Next hop by prefix length and network.
    index: HashMap<(u8, u64), usize>,
}

impl RouteSet6 {
    /// `count` different prefixes for next hops 0 to `next_hops` - 1 in turn, always the same for
    /// the same numbers.
    pub fn internet(count: usize, next_hops: usize) -> Self {
        let mut rng = Rng::with_seed(5058);
        let mut set = Self {
            routes: Vec::with_capacity(count),
            index: HashMap::with_capacity(count),
        };
        let holders: Vec<_> = (0..(count * HOLDERS / 100).max(1))
            .map(|number| {
                let (block, at) = (BLOCKS[number % BLOCKS.len()], number / BLOCKS.len());
                (block + 8 * at as u64) << 32
            })
            .collect();
        for holder in &holders {
            set.add(*holder, 32, next_hops);
        }
        let total: u32 = LENGTHS.iter().map(|(_, share)| share).sum();
        while set.routes.len() < count {
            let holder = holders[(rng.f64().powi(3) * holders.len() as f64) as usize];
            let mut draw = rng.u32(..total);
            let mut lengths = LENGTHS.iter();
            let length = lengths.find(|(_, share)| match draw.checked_sub(*share) {
                Some(rest) => {
                    draw = rest;
                    false
                }
                None => true,
            });
            let length = length.map_or(48, |(length, _)| *length);
            let site = match (length, rng.bool()) {
                (64, _) => rng.u64(..1 << 32),
                (_, true) => rng.u64(..1 << 8) << 16,
                (_, false) => rng.u64(..1 << 16) << 16,
            };
            set.add((holder | site) & mask(length), length, next_hops);
        }
        set
    }

    fn add(&mut self, network: u64, length: u8, next_hops: usize) {
        let next_hop = self.routes.len() % next_hops;
        if let Entry::Vacant(entry) = self.index.entry((length, network)) {
            entry.insert(next_hop);
            let address = (u128::from(network) << 64).into();
            self.routes
                .push((Ipv6Net::new_assert(address, length), next_hop));
        }
    }

    /// The prefixes and their next hops.
    pub fn routes(&self) -> &[(Ipv6Net, usize)] {
        &self.routes
    }

    /// Next hop of an address, by longest match.
    fn next_hop(&self, address: u64) -> Option<usize> {
        let mut lengths = (32..=64).rev();
        lengths.find_map(|length| self.index.get(&(length, address & mask(length))).copied())
    }

    /// A random address within a random prefix, and its next hop.
    pub fn any_address(&self, rng: &mut Rng) -> (u64, Option<usize>) {
        let (prefix, _) = self.routes[rng.usize(..self.routes.len())];
        let host = rng.u64(..) & !mask(prefix.prefix_len());
        let address = (prefix.network().to_bits() >> 64) as u64 | host;
        (address, self.next_hop(address))
    }
}

fn mask(length: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_they_should() {
        let mut rng = Rng::with_seed(1);
        let set = RouteSet6::internet(1000, 16);
        assert_eq!(set.routes().len(), 1000);
        for _ in 0..1000 {
            let (address, next_hop) = set.any_address(&mut rng);
            let full = std::net::Ipv6Addr::from(u128::from(address) << 64);
            let best = set
                .routes()
                .iter()
                .filter(|(prefix, _)| prefix.contains(&full))
                .max_by_key(|(prefix, _)| prefix.prefix_len());
            assert_eq!(best.map(|route| route.1), next_hop);
        }
    }
}
