//! Cookies by which sources prove that they receive at the address that they send from.

use xcast_common::maps::CookieKey;

use crate::maps::COOKIE_KEYS;

/// Whether this is the hash of the cookie for an address, given in two words, and what is bound to it beside; 0 if not.
///
/// A global function: the kernel verifies it by itself, and does not go on with each case of what it did (Linux 5.6).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xcast_cookie(high: u64, low: u64, bound: u64, hash: u64) -> u32 {
    let epoch = bound as u32;
    let Some(key) = COOKIE_KEYS.get(CookieKey::place(epoch)) else {
        return 0;
    };
    (epoch != 0 && key.epoch == epoch && key.hash_of(high, low, bound) == hash) as u32
}
