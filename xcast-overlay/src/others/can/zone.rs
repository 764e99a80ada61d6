//! Zones of a square whose opposite edges are one: parts that came about by halving.

/// A point: the bits of its two coordinates in turn, the most significant first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point(pub u64);

/// All points that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone {
    /// The bits, and zeros after them.
    bits: u64,
    depth: u8,
}

/// First and last coordinate on an axis.
type Range = (u32, u32);

impl Point {
    fn coordinates(self) -> [u32; 2] {
        let mut coordinates = [0; 2];
        for bit in 0..64 {
            let coordinate: &mut u32 = &mut coordinates[bit % 2];
            *coordinate = *coordinate << 1 | (self.0 >> (63 - bit) & 1) as u32;
        }
        coordinates
    }
}

impl Zone {
    /// The whole square.
    pub const ALL: Self = Self { bits: 0, depth: 0 };
    /// How often a zone can be halved.
    pub const MAX_DEPTH: u8 = 60;

    /// The zone of the points that begin like this one.
    pub fn around(point: Point, depth: u8) -> Self {
        let depth = depth.min(Self::MAX_DEPTH);
        let mask = u64::MAX.checked_shl(64 - u32::from(depth)).unwrap_or(0);
        Self {
            bits: point.0 & mask,
            depth,
        }
    }

    /// Its first point.
    pub fn first(self) -> Point {
        Point(self.bits)
    }

    /// How often the square was halved for it: the more, the smaller it is.
    pub fn depth(self) -> u8 {
        self.depth
    }

    /// Whether a point lies in it.
    pub fn contains(self, point: Point) -> bool {
        Self::around(point, self.depth) == self
    }

    /// Whether another lies in it, or is the same.
    pub fn covers(self, other: Self) -> bool {
        other.depth >= self.depth && self.contains(other.first())
    }

    /// Its halves; none if it is too small.
    pub fn halves(self) -> Option<[Self; 2]> {
        let depth = self.depth + 1;
        (depth <= Self::MAX_DEPTH).then(|| {
            [0, 1].map(|half| Self {
                bits: self.bits | half << (64 - depth),
                depth,
            })
        })
    }

    /// The zone that it is a half of, unless it is the whole.
    pub fn parent(self) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        Some(Self::around(self.first(), depth))
    }

    /// What is left of it without a part of it.
    pub fn without(self, part: Self) -> Vec<Self> {
        let mut left = Vec::new();
        let mut rest = self;
        while rest != part && rest.covers(part) {
            let Some([one, other]) = rest.halves() else {
                break;
            };
            let (inner, outer) = if one.covers(part) {
                (one, other)
            } else {
                (other, one)
            };
            left.push(outer);
            rest = inner;
        }
        left
    }

    fn ranges(self) -> [Range; 2] {
        let firsts = self.first().coordinates();
        let depths = [self.depth.div_ceil(2), self.depth / 2];
        [0, 1].map(|axis| {
            let width = u32::MAX.checked_shr(depths[axis].into()).unwrap_or(0);
            (firsts[axis], firsts[axis] | width)
        })
    }

    /// Whether the two have a part of an edge in common.
    pub fn is_next_to(self, other: Self) -> bool {
        if self.covers(other) || other.covers(self) {
            return false;
        }
        let (own, its) = (self.ranges(), other.ranges());
        let abut = |axis: usize| {
            own[axis].1.wrapping_add(1) == its[axis].0 || its[axis].1.wrapping_add(1) == own[axis].0
        };
        let overlap = |axis: usize| own[axis].0 <= its[axis].1 && its[axis].0 <= own[axis].1;
        (abut(0) && overlap(1)) || (abut(1) && overlap(0))
    }

    /// The square of the distance from its nearest point to another; 0 for one that lies in it.
    pub fn distance(self, point: Point) -> u128 {
        let coordinates = point.coordinates();
        let ranges = self.ranges();
        let along = |axis: usize| {
            let (at, (first, last)) = (coordinates[axis], ranges[axis]);
            if (first..=last).contains(&at) {
                return 0;
            }
            let gap = first.wrapping_sub(at).min(at.wrapping_sub(last));
            u128::from(gap) * u128::from(gap)
        };
        along(0) + along(1)
    }
}

/// Puts halves together that are both there.
pub fn merge(zones: &mut Vec<Zone>) {
    zones.sort_unstable();
    zones.dedup();
    while let Some(parent) = zones.iter().find_map(|zone| {
        let parent = zone.parent()?;
        let halves = parent.halves()?;
        halves
            .iter()
            .all(|half| zones.contains(half))
            .then_some(parent)
    }) {
        zones.retain(|zone| !parent.covers(*zone));
        zones.push(parent);
    }
    zones.sort_unstable();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_by_hand() {
        // Quarters: 00 is lower left, 01 upper left, 10 lower right, 11 upper right.
        let quarter = |number: u64| Zone::around(Point(number << 62), 2);
        for number in 1..4 {
            let is_next = quarter(0).is_next_to(quarter(number));
            assert_eq!(is_next, number != 3, "{number}");
        }
        assert!(!quarter(0).is_next_to(quarter(0)));
        // The edges of the square are one: of four columns the first and the last touch.
        let column = |bits: u64| Zone::around(Point(bits << 60), 4);
        assert!(column(0b0000).is_next_to(column(0b1010)));
        assert!(!column(0b0000).is_next_to(column(0b1000)));
    }

    fn zones() -> impl Strategy<Value = Zone> {
        (any::<u64>(), 0..=Zone::MAX_DEPTH)
            .prop_map(|(bits, depth)| Zone::around(Point(bits), depth))
    }

    proptest! {
        #[test]
        fn halves_are_next_to_each_other_and_make_the_whole(zone in zones(), point: u64) {
            if let Some([one, other]) = zone.halves() {
                prop_assert!(one.is_next_to(other) && other.is_next_to(one));
                prop_assert_eq!((one.parent(), other.parent()), (Some(zone), Some(zone)));
                let mut both = vec![other, one];
                merge(&mut both);
                prop_assert_eq!(both, [zone]);
                let inside = one.contains(Point(point)) || other.contains(Point(point));
                prop_assert_eq!(inside, zone.contains(Point(point)));
                prop_assert_eq!(zone.distance(Point(point)) == 0, inside);
            }
        }

        #[test]
        fn what_is_left_and_the_part_make_the_whole(zone in zones(), bits: u64, depth in 0u8..20) {
            let depth = (zone.depth() + depth).min(Zone::MAX_DEPTH);
            let inside = zone.first().0 | bits >> zone.depth().min(63);
            let part = Zone::around(Point(if zone.depth() == 0 { bits } else { inside }), depth);
            let mut all = zone.without(part);
            prop_assert!(all.iter().all(|left| !left.covers(part) && !part.covers(*left)));
            all.push(part);
            merge(&mut all);
            prop_assert_eq!(all, [zone]);
        }
    }
}
