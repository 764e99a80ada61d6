//! Limits: how much a source may send and have copied, and how much the kernel stack gets.
//!
//! The budgets are shared by all CPUs and written without locks. Two that take from the same one at the same time may
//! count once, so a limit may be exceeded a little, and never by more than there are CPUs.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use xcast_common::{
    family::Family,
    forward::limits::{bucket_of, take},
    maps::{Bucket, Port, Settings},
    wire::frame::View,
};

use crate::maps::{BUCKETS, STACK_BUDGET};

/// A source's budgets, at the time of one packet.
pub struct Account {
    bucket: *mut Bucket,
    now: u64,
}

impl Account {
    /// Opens the account of a packet's source; `None` where nothing is limited.
    #[inline(always)]
    pub fn open<F: Family>(view: View, port: &Port, settings: &Settings) -> Option<Self> {
        if port.packet_ns | port.copy_ns == 0 {
            return None;
        }
        let bucket = BUCKETS.get_ptr_mut(bucket_of::<F>(view, port, settings)?)?;
        Some(Self { bucket, now: now() })
    }

    /// Takes a packet from the budget; whether there was enough.
    #[inline(always)]
    pub fn take_packet(&self, port: &Port) -> bool {
        // SAFETY: an element of a map, which outlives the program.
        let until = unsafe { &raw mut (*self.bucket).packets_until };
        take_from(until, self.now, u64::from(port.packet_ns))
    }

    /// Takes copies from the budget; whether there were enough.
    #[inline(always)]
    pub fn take_copies(&self, port: &Port, copies: u8) -> bool {
        // SAFETY: an element of a map, which outlives the program.
        let until = unsafe { &raw mut (*self.bucket).copies_until };
        take_from(until, self.now, u64::from(copies) * u64::from(port.copy_ns))
    }
}

/// Takes a copy from the budget of the kernel stack; whether there was one left.
#[inline(always)]
pub fn take_for_stack(settings: &Settings) -> bool {
    let price_ns = u64::from(settings.stack_copy_ns);
    if price_ns == 0 {
        return true;
    }
    match STACK_BUDGET.get_ptr_mut(0) {
        Some(until) => take_from(until, now(), price_ns),
        None => true,
    }
}

#[inline(always)]
fn take_from(until: *mut u64, now: u64, price_ns: u64) -> bool {
    if price_ns == 0 {
        return true;
    }
    // SAFETY: callers pass a word of a map; see above about others that write it.
    let next = unsafe { take(until.read_volatile(), now, price_ns) };
    if let Some(next) = next {
        // SAFETY: the same.
        unsafe { until.write_volatile(next) };
    }
    next.is_some()
}

/// The coarse monotonic clock, in nanoseconds: a few milliseconds are nothing to a budget of a second (Linux 5.11).
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing and touches nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}
