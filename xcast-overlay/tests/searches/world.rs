//! What these tests have in common: small networks in debug builds, and addresses by number.

use std::net::SocketAddr;

use xcast_overlay::krpc::Family;
pub use xcast_overlay::memory::{Faults, ROUGH, World};

/// The address of place `at`.
pub fn address(at: usize, ipv6: bool) -> SocketAddr {
    let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    xcast_overlay::memory::address(at, family)
}

/// Debug builds do less.
pub fn size(debug: usize, release: usize) -> usize {
    if cfg!(debug_assertions) {
        debug
    } else {
        release
    }
}
