//! Limits: how much a source may send and have copied, and how much the kernel stack gets.
//!
//! The budgets are shared by all CPUs and written without locks. Two that take from the same one at the same time may
//! count once, so a limit may be exceeded a little, and never by more than one packet's copies for each CPU.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use xcast_common::{
    forward::limits::{STACK_PORT_SHARE, STACK_SOURCE_SHARE, spend, take},
    maps::{PORT_FIRST, PORT_STACK},
};

use crate::maps::{BUCKETS, STACK_BUCKETS, STACK_BUDGETS, is_orphaned, settings_in_place};

/// [`xcast_charge`] for a packet.
pub const PACKET: u32 = 0;
/// [`xcast_charge`] for copies.
pub const COPIES: u32 = 1;

/// Takes a price from a budget of the source with this bucket, at this time; 0 if there was not enough.
///
/// A global function: the kernel verifies it by itself, and does not go on with each case of what it did (Linux 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xcast_charge(bucket: u32, price_ns: u64, of: u32, now: u64) -> u32 {
    if price_ns == 0 {
        return 1;
    }
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket) else {
        return 1;
    };
    // SAFETY: an element of a map, which outlives the program.
    let until = unsafe {
        if of == PACKET {
            &raw mut (*bucket).packets_until
        } else {
            &raw mut (*bucket).copies_until
        }
    };
    take_from(until, now, price_ns) as u32
}

/// Whether the kernel stack takes so many copies from whoever has this bucket and the slot of the port of arrival: 1 if so, else 0.
///
/// It is asked before copies are made: a copy that is dropped where it leaves may be the last of the kernel's bulk queue, which
/// then does not tell the interface that there is something before it (`bq_xmit_all`).
#[inline(always)]
pub fn stack_takes(bucket: u32, arrival: u8, copies: u8) -> u32 {
    xcast_stack_budget(bucket, arrival.into(), copies.into(), ASK)
}

/// Charges for copies that the kernel stack takes.
#[inline(always)]
pub fn charge_stack(bucket: u32, arrival: u8, copies: u8) {
    xcast_stack_budget(bucket, arrival.into(), copies.into(), CHARGE);
}

/// [`xcast_stack_budget`] only looks.
const ASK: u32 = 0;
/// [`xcast_stack_budget`] takes what was found to be there.
const CHARGE: u32 = 1;

/// The budget of the kernel stack has three bounds: of a source, of a port, and of all. So a source leaves something to others,
/// and whoever forges many sources leaves something to those behind other ports. 0 if one of them has not enough for these copies.
///
/// Without a controller for too long, the stack is the way of everything, and no exception that has to be bounded: only
/// the limits of sources count then. What the router's own host sends has no limit.
///
/// A global function, as [`xcast_charge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xcast_stack_budget(bucket: u32, arrival: u32, copies: u32, what: u32) -> u32 {
    let price_ns = u64::from(settings_in_place().stack_copy_ns) * u64::from(copies);
    let now = now();
    if arrival < PORT_FIRST.into() || price_ns == 0 || is_orphaned(now) {
        return 1;
    }
    let shares = [
        (STACK_BUCKETS.get_ptr_mut(bucket), STACK_SOURCE_SHARE),
        (STACK_BUDGETS.get_ptr_mut(arrival), STACK_PORT_SHARE),
        (STACK_BUDGETS.get_ptr_mut(PORT_STACK.into()), 1),
    ];
    for (until, share) in shares {
        let Some(until) = until else { continue };
        // SAFETY: a word of a map; see above about others that write it.
        let value = unsafe { until.read_volatile() };
        if what == CHARGE {
            let value = spend(value, now, price_ns * share);
            // SAFETY: the same.
            unsafe { until.write_volatile(value) };
        } else if take(value, now, price_ns * share).is_none() {
            return 0;
        }
    }
    1
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
pub fn now() -> u64 {
    // SAFETY: takes nothing and touches nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}
