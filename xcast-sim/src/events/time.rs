//! Points in simulated time.

use std::ops::{Add, Sub};

/// Nanoseconds since the start of the simulation: enough for 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Milliseconds since the start.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Seconds since the start, for people.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add<u64> for Time {
    type Output = Self;

    /// So many nanoseconds later.
    fn add(self, ns: u64) -> Self {
        Self(self.0 + ns)
    }
}

impl Sub for Time {
    type Output = u64;

    /// Nanoseconds between two points; 0 if the second is later.
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
