use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::runtime::Random;

const CONFIG: TableConfig = TableConfig {
    k: 8,
    max_per_network: Some(2),
    enforce_bep42: false,
};

fn address(network: u32, host: u8) -> SocketAddr {
    (
        Ipv4Addr::from(0xc612_0000 + (network << 8) + u32::from(host)),
        6881,
    )
        .into()
}

/// A node in bucket `bucket` and network `network`.
fn contact(own: Id, bucket: usize, network: u32, random: &mut Random) -> Contact {
    Contact {
        id: own.random_with_prefix(bucket, random),
        address: address(network, 1),
    }
}

#[test]
fn a_network_full_of_attackers_gets_two_places_a_bucket() {
    let mut random = Random::from_number(1);
    let now = Instant::now();
    let own = Id::random(&mut random);
    for ipv6 in [false, true] {
        let mut table = Table::new(own, CONFIG);
        for attacker in 0..1000u32 {
            let bucket = random.below(10);
            let address = if ipv6 {
                let ip: u128 = 0x2001_0db8 << 96 | u128::from(random.octets::<1>()[0]);
                (std::net::Ipv6Addr::from(ip | u128::from(attacker) << 8), 1).into()
            } else {
                SocketAddr::from(([198, 51, 100, attacker as u8], (attacker >> 8) as u16 + 1))
            };
            let id = own.random_with_prefix(bucket, &mut random);
            let _ = table.answered(now, Contact { id, address });
        }
        assert!(
            table.buckets(now).iter().all(|bucket| bucket.good <= 2),
            "{:?}",
            table.buckets(now)
        );
        assert!(table.len() >= 15, "two places in each of ten buckets");
        assert!(table.refusals()[&Refusal::SameNetwork] > 900);
        // Honest nodes find their places all the same.
        for bucket in 0..10 {
            for network in 0..6 {
                let honest = contact(own, bucket, 1000 + network, &mut random);
                let honest = Contact {
                    address: address(network * 10 + bucket as u32, 9),
                    ..honest
                };
                assert_eq!(table.answered(now, honest), Ok(()));
            }
        }
    }
}

#[test]
fn the_replacement_cache_is_not_filled_by_one_network_either() {
    let mut random = Random::from_number(1);
    let now = Instant::now();
    let own = Id::random(&mut random);
    let mut table = Table::new(own, CONFIG);
    for network in 0..8 {
        assert_eq!(
            table.answered(now, contact(own, 0, network, &mut random)),
            Ok(())
        );
    }
    for host in 0..20 {
        let attacker = Contact {
            address: address(99, host + 1),
            ..contact(own, 0, 99, &mut random)
        };
        assert!(table.answered(now, attacker).is_err());
    }
    assert_eq!(table.buckets(now)[0].replacements, 2);
}

#[test]
fn good_questionable_bad_and_replaced() {
    let mut random = Random::from_number(1);
    let start = Instant::now();
    let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
    let own = Id::random(&mut random);
    let mut table = Table::new(own, CONFIG);
    let nodes: Vec<Contact> = (0..10)
        .map(|network| contact(own, 3, network, &mut random))
        .collect();
    for node in &nodes[..8] {
        assert_eq!(table.answered(start, *node), Ok(()));
    }
    assert_eq!(
        table.answered(minutes(1), nodes[8]),
        Err(Refusal::BucketFull)
    );
    assert!(
        !table.asked(minutes(1), nodes[9]),
        "a full bucket of good nodes needs nobody"
    );
    let state = |table: &Table, now| {
        let bucket = table.buckets(now)[0];
        (
            bucket.good,
            bucket.questionable,
            bucket.bad,
            bucket.replacements,
        )
    };
    assert_eq!(state(&table, minutes(14)), (8, 0, 0, 1));
    assert_eq!(state(&table, minutes(15)), (0, 8, 0, 1));
    // It answered once and now asks: good again.
    assert!(!table.asked(minutes(15), nodes[0]));
    assert!(
        table.asked(minutes(15), nodes[9]),
        "there are questionable nodes"
    );
    assert_eq!(state(&table, minutes(16)), (1, 7, 0, 1));
    let check = table.to_check(minutes(16));
    assert_eq!(check.len(), 1, "one of each bucket");
    assert!(nodes[1..8].contains(&check[0]));
    table.failed(&check[0].address);
    assert!(table.contains(&check[0]), "one loss says little");
    table.failed(&check[0].address);
    assert!(!table.contains(&check[0]));
    assert!(
        table.contains(&nodes[8]),
        "its place is taken by who waited"
    );
    // A bad node without a replacement stays until somebody comes.
    table.failed(&nodes[2].address);
    table.failed(&nodes[2].address);
    if table.contains(&nodes[2]) {
        assert_eq!(state(&table, minutes(15)).2, 1);
        assert_eq!(table.answered(minutes(16), nodes[9]), Ok(()));
        assert!(!table.contains(&nodes[2]));
    }
}

#[test]
fn an_identifier_stays_with_an_address_that_answers() {
    let mut random = Random::from_number(1);
    let now = Instant::now();
    let own = Id::random(&mut random);
    let mut table = Table::new(own, CONFIG);
    let node = contact(own, 3, 1, &mut random);
    assert_eq!(table.answered(now, node), Ok(()));
    let thief = Contact {
        address: address(2, 1),
        ..node
    };
    assert_eq!(table.answered(now, thief), Err(Refusal::IdTaken));
    table.failed(&node.address);
    assert_eq!(table.answered(now, thief), Ok(()), "the node moved");
    assert!(!table.contains(&node));
    let restarted = Contact {
        id: own.random_with_prefix(5, &mut random),
        ..thief
    };
    assert_eq!(table.answered(now, restarted), Ok(()));
    assert_eq!(table.len(), 1, "an address is one node");
    assert_eq!(
        table.answered(now, Contact { id: own, ..node }),
        Err(Refusal::OwnId)
    );
}

#[test]
fn bep_42_is_enforced_if_wanted() {
    let mut random = Random::from_number(1);
    let now = Instant::now();
    let own = Id::random(&mut random);
    let mut table = Table::new(
        own,
        TableConfig {
            enforce_bep42: true,
            ..CONFIG
        },
    );
    let address = address(1, 1);
    let made = Contact {
        id: bep42::random_id(address.ip(), &mut random),
        address,
    };
    let chosen = Contact {
        id: Id::random(&mut random),
        address,
    };
    assert_eq!(table.answered(now, chosen), Err(Refusal::IdNotOfAddress));
    assert_eq!(table.answered(now, made), Ok(()));
}

proptest! {
    /// Whatever happens to it, the table's parts agree, and its answers are those of a search
    /// through all nodes.
    #[test]
    fn the_closest_nodes_are_those_of_a_full_search(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u8..4, 0usize..12, 0u32..6, 0u64..2000), 1..200),
    ) {
        let mut random = Random::from_number(seed);
        let mut now = Instant::now();
        let own = Id::random(&mut random);
        let mut table = Table::new(own, CONFIG);
        let mut seen: Vec<Contact> = Vec::new();
        for (what, bucket, network, seconds) in steps {
            now += Duration::from_secs(seconds);
            let node = match what {
                0 if !seen.is_empty() => seen[random.below(seen.len())],
                _ => Contact {
                    address: address(network, random.octets::<1>()[0]),
                    ..contact(own, bucket, network, &mut random)
                },
            };
            seen.push(node);
            match what {
                0 | 1 => drop(table.answered(now, node)),
                2 => table.failed(&seen[random.below(seen.len())].address),
                _ => drop(table.remove(&seen[random.below(seen.len())])),
            }
            let entries: Vec<&Entry> = table.buckets.iter().flat_map(|b| &b.entries).collect();
            prop_assert_eq!(entries.len(), table.len());
            prop_assert!(entries.iter().all(|entry| table.contains(&entry.contact)));
            for (at, bucket) in table.buckets.iter().enumerate() {
                prop_assert!(bucket.entries.len() <= 8 && bucket.replacements.len() <= 8);
                for entry in &bucket.entries {
                    prop_assert_eq!(own.common_prefix(entry.contact.id), at);
                    let ip = entry.contact.address.ip();
                    prop_assert!(same_network(bucket.entries.iter(), ip) <= 2);
                }
            }
            let target = own.random_with_prefix(random.below(12), &mut random);
            let mut all: Vec<Contact> = entries
                .iter()
                .filter(|entry| entry.standing(now) != Standing::Bad)
                .map(|entry| entry.contact)
                .collect();
            all.sort_by_key(|contact| contact.id.distance(target));
            all.truncate(8);
            prop_assert_eq!(table.closest(now, target, 8), all);
        }
    }
}
