//! What sources have used up of their budgets.

/// Buckets; sources whose hashes agree share one.
pub const LIMIT_BUCKETS: u32 = 1 << 16;

/// What one source, or several that share it, has used up; see [`forward::limits`](crate::forward::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Bucket {
    /// Until when its budget of packets is used up, in nanoseconds of the coarse monotonic clock.
    pub packets_until: u64,
    /// The same for copies.
    pub copies_until: u64,
}

const _: () = assert!(size_of::<Bucket>() == 16);
