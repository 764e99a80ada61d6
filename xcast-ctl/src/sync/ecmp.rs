//! Which bucket of an ECMP group goes to which member.

use xcast_common::maps::ECMP_BUCKETS;

/// A member's claim to buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Its next-hop id.
    pub(super) id: u32,
    pub(super) weight: u32,
    pub(super) usable: bool,
}

/// Deals the buckets out by weight.
///
/// Buckets of unusable members are dealt out among the usable ones; the others stay where they are, so
/// flows through members that did not fail keep their way. At least one member must be usable.
pub(super) fn buckets(shares: &[Share]) -> [u32; ECMP_BUCKETS] {
    let mut buckets = [0; ECMP_BUCKETS];
    let mut orphans = Vec::new();
    for (bucket, owner) in deal(ECMP_BUCKETS, shares.iter()).enumerate() {
        buckets[bucket] = owner.id;
        if !owner.usable {
            orphans.push(bucket);
        }
    }
    let heirs = deal(orphans.len(), shares.iter().filter(|share| share.usable));
    for (bucket, heir) in orphans.iter().zip(heirs) {
        buckets[*bucket] = heir.id;
    }
    buckets
}

/// The owners of `count` things, in order: the n-th goes to the member in whose part of the total
/// weight its middle falls, so that no member is more than one away from its exact share.
fn deal<'a>(
    count: usize,
    shares: impl Iterator<Item = &'a Share> + Clone,
) -> impl Iterator<Item = &'a Share> {
    let total: u64 = shares.clone().map(|share| u64::from(share.weight)).sum();
    let count = count as u64;
    let mut sum = 0;
    let bounded = shares.map(move |share| {
        sum += u64::from(share.weight);
        (share, sum)
    });
    let bounded: Vec<_> = bounded.collect();
    (0..count).filter_map(move |n| {
        let middle = |&(_, end): &(&Share, u64)| (2 * n + 1) * total < 2 * count * end;
        bounded.iter().find(|part| middle(part)).map(|part| part.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(list: &[(u32, bool)]) -> Vec<Share> {
        let share = |(id, &(weight, usable)): (u32, &(u32, bool))| Share { id, weight, usable };
        (10..).zip(list).map(share).collect()
    }

    fn count(list: &[(u32, bool)]) -> Vec<usize> {
        let buckets = buckets(&shares(list));
        let of = |id: u32| buckets.iter().filter(|&&b| b == id).count();
        (10..).take(list.len()).map(of).collect()
    }

    #[test]
    fn buckets_go_by_weight() {
        assert_eq!(count(&[(1, true), (1, true)]), [32, 32]);
        assert_eq!(count(&[(1, true), (3, true)]), [16, 48]);
        assert_eq!(count(&[(5, true)]), [64]);
        assert_eq!(count(&[(1, true), (1, true), (1, true)]), [21, 22, 21]);
        assert_eq!(count(&[(65536, true), (65536, false)]), [64, 0]);
    }

    #[test]
    fn survivors_keep_their_buckets() {
        let before = buckets(&shares(&[(1, true), (1, true), (2, true)]));
        let after = buckets(&shares(&[(1, true), (1, false), (2, true)]));
        assert_eq!(count(&[(1, true), (1, false), (2, true)]), [21, 0, 43]);
        for (before, after) in before.iter().zip(after) {
            assert!(*before == after || *before == 11);
        }
    }
}
