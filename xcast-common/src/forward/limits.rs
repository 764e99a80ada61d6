//! Limits per source: what packets and their copies cost, and whether that is left.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): one number
//! for each budget, the time until which it is used up. What is taken moves that time on by a price in
//! nanoseconds; a budget is never further ahead than [`BURST_NS`].

use crate::{
    family::traits::Family,
    maps::{limit::LIMIT_BUCKETS, port::Port, settings::Settings},
    wire::{address::Address as _, frame::View},
};

/// What may be taken at once after a pause: as much as in one second.
pub const BURST_NS: u64 = 1_000_000_000;

/// Which part of what the kernel stack gets one source may have: a quarter.
pub const STACK_SOURCE_SHARE: u64 = 4;
/// Which part what arrives by one port may have: half of it.
pub const STACK_PORT_SHARE: u64 = 2;

/// Takes `price_ns` from a budget that is used up until `until`, at `now`: until when it is used up then, or
/// `None` if there is not enough left. A budget that is full is enough for any price, so that something that costs
/// more than a burst gets through at the same rate in the long run.
#[inline(always)]
pub fn take(until: u64, now: u64, price_ns: u64) -> Option<u64> {
    let full = now.saturating_sub(BURST_NS);
    if until <= full {
        return Some(full.saturating_add(price_ns));
    }
    let until = until.saturating_add(price_ns);
    if until <= now { Some(until) } else { None }
}

/// Takes `price_ns` from a budget that was found to be enough: until when it is used up then. If others have taken from it
/// meanwhile, it is in debt.
#[inline(always)]
pub fn spend(until: u64, now: u64, price_ns: u64) -> u64 {
    until
        .max(now.saturating_sub(BURST_NS))
        .saturating_add(price_ns)
}

/// Price of one of `per_second`, in nanoseconds; 0, which is no limit, for 0.
pub const fn price_ns(per_second: u32) -> u32 {
    match BURST_NS.checked_div(per_second as u64) {
        // At least 1: a limit stays one.
        Some(0) => 1,
        Some(price) => price as u32,
        None => 0,
    }
}

/// The bucket of a packet's source: of its address for IPv4, of its /64 for IPv6, and of its port where that is a relayed
/// one. Where the sender has proven its address, it is that one's: `payer`, if it is not 0. `None` if the frame ends before.
#[inline(always)]
pub fn bucket_of<F: Family>(
    view: View<'_>,
    payer: u64,
    port: &Port,
    settings: &Settings,
) -> Option<u32> {
    let source = F::Address::read(view, F::SOURCE)?.octets_from(0);
    // Without a branch, which the verifier would follow to the end of the program.
    let source = source & ((payer == 0) as u64).wrapping_neg() | payer;
    let which = u64::from(port.relayed_port.memory()) << 8 | u64::from(port.slot);
    // Multiplying by a secret odd number and keeping the high bits is universal hashing: nobody can choose
    // addresses that share a bucket. Which port it is has a factor of its own, or a neighbouring /64 on another port
    // would be the same.
    let hash = source.wrapping_mul(settings.hash_key | 1);
    let hash = hash.wrapping_add(which.wrapping_mul(settings.hash_key.rotate_left(32) | 1));
    Some((hash >> (u64::BITS - LIMIT_BUCKETS.ilog2())) as u32)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        family::{V4, V6},
        host::Buffer,
        maps::port::PORT_FIRST,
        wire::{Be16, frame::Frame as _},
    };

    /// The bucket of a source by a port: of IPv4 if it has four octets.
    fn bucket(hash_key: u64, slot: u8, relayed_port: u16, source: &[u8]) -> Option<u32> {
        let settings = Settings {
            hash_key,
            ..Settings::default()
        };
        let port = Port {
            slot,
            relayed_port: Be16::new(relayed_port),
            ..Port::default()
        };
        let at = if source.len() == 4 {
            V4::SOURCE
        } else {
            V6::SOURCE
        };
        let mut frame = Buffer::new(&[&vec![0; at], source].concat());
        match source.len() {
            4 => bucket_of::<V4>(frame.view(), 0, &port, &settings),
            _ => bucket_of::<V6>(frame.view(), 0, &port, &settings),
        }
    }

    /// An address in a /64 of IPv6.
    fn address6(prefix: u64, interface: u64) -> [u8; 16] {
        (u128::from(prefix) << 64 | u128::from(interface)).to_be_bytes()
    }

    /// Packets of the relay's own address and port have the buckets of those who have sent them.
    #[test]
    fn who_has_proven_an_address_pays() {
        let (settings, port) = (
            Settings {
                hash_key: 0x1234_5678_9abc_def1,
                ..Settings::default()
            },
            Port {
                slot: PORT_FIRST,
                ..Port::default()
            },
        );
        let bucket = |source: [u8; 4], payer| {
            let mut frame = Buffer::new(&[&[0; V4::SOURCE][..], &source].concat());
            bucket_of::<V4>(frame.view(), payer, &port, &settings)
        };
        let relay = [198, 51, 100, 1];
        assert_eq!(bucket(relay, 1 << 40), bucket([192, 0, 2, 7], 1 << 40));
        assert_ne!(bucket(relay, 1 << 40), bucket(relay, 2 << 40));
        assert_ne!(bucket(relay, 1 << 40), bucket(relay, 0));
    }

    #[test]
    fn what_ends_before_its_source_has_no_bucket() {
        assert_eq!(bucket(1, PORT_FIRST, 0, &[10, 0, 0]), None);
    }

    proptest! {
        /// Whoever has a /64 has one budget, at each port.
        #[test]
        fn a_network_of_ipv6_has_one_bucket(
            key: u64, slot: u8, prefix: u64, interfaces: (u64, u64),
        ) {
            let bucket = |interface| bucket(key, slot, 0, &address6(prefix, interface));
            prop_assert!(bucket(interfaces.0).is_some_and(|bucket| bucket < LIMIT_BUCKETS));
            prop_assert_eq!(bucket(interfaces.0), bucket(interfaces.1));
        }
    }

    /// In how many of 4096 routers, each with its own secret, two sources share a bucket.
    fn shared(one: (u8, u16, &[u8]), other: (u8, u16, &[u8])) -> usize {
        let mut key = 1_u64;
        let keys = (0..4096).map(|_| {
            key = key
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            key ^ key >> 33
        });
        let bucket = |key, (slot, relayed_port, source): (u8, u16, &[u8])| {
            bucket(key, slot, relayed_port, source)
        };
        keys.filter(|&key| bucket(key, one) == bucket(key, other))
            .count()
    }

    /// Sources that differ in any bit, and one source by two ports, have budgets of their own in almost every router.
    #[test]
    fn nobody_shares_a_bucket_on_purpose() {
        const MOST: usize = 8;
        let (slot, other) = (PORT_FIRST, PORT_FIRST + 1);
        let source = [10, 66, 1, 2];
        for bit in 0..32 {
            let near = (u32::from_be_bytes(source) ^ 1 << bit).to_be_bytes();
            assert!(
                shared((slot, 0, &source), (slot, 0, &near)) < MOST,
                "bit {bit}"
            );
        }
        assert!(shared((slot, 0, &source), (other, 0, &source)) < MOST);
        assert!(shared((slot, 5000, &source), (slot, 5001, &source)) < MOST);
        let prefix = 0x2001_0db8_0000_0005;
        let source = address6(prefix, 1);
        for bit in 0..64 {
            let near = address6(prefix ^ 1 << bit, 1);
            for slot_of_near in [slot, other, slot + 2] {
                let shared = shared((slot, 0, &source), (slot_of_near, 0, &near));
                assert!(shared < MOST, "bit {bit}, slot {slot_of_near}: {shared}");
            }
        }
        assert!(shared((slot, 0, &source), (other, 0, &source)) < MOST);
        // A port's number is as long as a neighbouring /64's.
        let by_other = address6(prefix ^ u64::from(slot ^ other), 1);
        assert!(shared((slot, 0, &source), (other, 0, &by_other)) < MOST);
    }

    #[test]
    fn prices() {
        assert_eq!(price_ns(0), 0);
        assert_eq!(price_ns(1), 1_000_000_000);
        assert_eq!(price_ns(10_000), 100_000);
        assert_eq!(price_ns(u32::MAX), 1);
    }

    #[test]
    fn a_burst_at_once_and_then_the_rate() {
        let (price, mut now) = (u64::from(price_ns(1000)), 5 * BURST_NS);
        let mut until = 0;
        let mut taken = 0;
        while let Some(next) = take(until, now, price) {
            until = next;
            taken += 1;
        }
        assert_eq!(taken, 1000);
        now += price;
        until = take(until, now, price).expect("one more");
        assert_eq!(take(until, now, price), None);
    }

    #[test]
    fn what_costs_more_than_a_burst_takes_its_time() {
        let price = 127 * u64::from(price_ns(10));
        let until = take(0, 5 * BURST_NS, price).expect("full");
        assert_eq!(take(until, 5 * BURST_NS + price - 1, price), None);
        assert!(take(until, 5 * BURST_NS + price, price).is_some());
    }

    proptest! {
        /// What is enough is spent as it is taken.
        #[test]
        fn spending_is_taking_without_asking(
            behind in 0..3 * BURST_NS, ahead in 0..BURST_NS, price in 1..2 * BURST_NS,
        ) {
            let now = 10 * BURST_NS;
            for until in [0, now - behind, now + ahead] {
                let spent = spend(until, now, price);
                prop_assert!(spent >= now - BURST_NS + price && spent >= until + price);
                if let Some(taken) = take(until, now, price) {
                    prop_assert_eq!(spent, taken);
                }
            }
        }

        /// Whatever is asked for and when: a burst, one thing that was too dear for it, and the rate.
        #[test]
        fn never_more_than_a_burst_and_the_rate(
            asked in prop::collection::vec((0..BURST_NS / 4, 1..2 * BURST_NS), 1..200),
        ) {
            let start = 10 * BURST_NS;
            let (mut now, mut until, mut taken, mut dearest) = (start, 0, 0, 0);
            for (pause, price) in asked {
                now += pause;
                if let Some(next) = take(until, now, price) {
                    until = next;
                    taken += price;
                    dearest = dearest.max(price);
                }
                prop_assert!(taken <= BURST_NS + (now - start) + dearest);
            }
        }

        /// Who keeps below the rate is never refused.
        #[test]
        fn nobody_below_the_rate_is_refused(
            prices in prop::collection::vec(1..BURST_NS, 1..200),
        ) {
            let (mut now, mut until) = (10 * BURST_NS, 0);
            for price in prices {
                now += price;
                until = take(until, now, price).expect("enough left");
            }
        }
    }
}
