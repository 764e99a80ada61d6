//! Limits per source: what packets and their copies cost, and whether that is left.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): one number
//! for each budget, the time until which it is used up. What is taken moves that time on by a price in
//! nanoseconds; a budget is never further ahead than [`BURST_NS`].

use crate::{
    family::traits::Family,
    maps::{limit::LIMIT_BUCKETS, port::Port, settings::Settings},
    packet::Packet,
    wire::{Be16, Be128, address::Address as _, frame::View, origin, udp},
};

/// What may be taken at once after a pause: as much as in one second.
pub const BURST_NS: u64 = 1_000_000_000;

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

/// Price of one of `per_second`, in nanoseconds; 0, which is no limit, for 0.
pub const fn price_ns(per_second: u32) -> u32 {
    match BURST_NS.checked_div(per_second as u64) {
        // At least 1: a limit stays one.
        Some(0) => 1,
        Some(price) => price as u32,
        None => 0,
    }
}

/// The bucket of an accepted packet's source: of its address for IPv4, of its /64 for IPv6, and of its port where that is a
/// relayed one. Where an envelope says who the source is, it is that one's. `None` if the frame ends before.
#[inline(always)]
pub fn bucket_of<F: Family>(
    view: View<'_>,
    packet: &Packet,
    port: &Port,
    settings: &Settings,
) -> Option<u32> {
    let mut source = F::Address::read(view, F::SOURCE)?.octets_from(0);
    if port.relayed_port != Be16::new(0) && port.relayed_port == settings.udp_port {
        let header_len = packet.header_len as usize & F::LEN_MASK;
        let content = F::xcast(view, packet.ext_len).skip(header_len);
        let address = Be128::read(content, F::XCAST_AT + udp::HEADER_LEN + origin::ADDRESS)?;
        // The /64 of IPv6 and, as that of mapped addresses is 0, the rest of those.
        let network = address.octets_from(0);
        source = network | address.octets_from(8) & ((network == 0) as u64).wrapping_neg();
    }
    let which = u64::from(port.relayed_port.memory()) << 8 | u64::from(port.slot);
    let key = source ^ which;
    // Multiplying by a secret odd number and keeping the high bits is universal hashing: nobody can choose
    // addresses that share a bucket.
    let hash = key.wrapping_mul(settings.hash_key | 1);
    Some((hash >> (u64::BITS - LIMIT_BUCKETS.ilog2())) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
