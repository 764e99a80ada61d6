//! The cookie by which a router knows what another one sent through a tunnel.
//!
//! An address alone can be forged by whoever is outside the path. A cookie cannot be guessed without the key; whoever is
//! on the path can read it, and could do more than forge packets. It says from whom to whom, so no router can be given
//! its own packets back.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Length of a cookie, in octets.
pub const LEN: usize = 8;

/// Keeps these cookies apart from whatever else a key is used for.
const PURPOSE: &[u8] = b"xcast tunnel cookie 1";

/// The cookie of packets from one outer address to another: the first octets of an HMAC (RFC 2104) with SHA-256.
///
/// A key of any length will do; one that can be guessed is none.
pub fn cookie(key: &[u8], source: IpAddr, destination: IpAddr) -> [u8; LEN] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; LEN];
    };
    mac.update(PURPOSE);
    for address in [source, destination] {
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        mac.update(&mapped.octets());
    }
    let digest = mac.finalize().into_bytes();
    let mut cookie = [0; LEN];
    cookie.copy_from_slice(&digest[..LEN]);
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_depends_on_the_key_and_on_the_direction() {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let there = cookie(b"secret", a, b);
        assert_eq!(there, cookie(b"secret", a, b));
        assert_ne!(there, cookie(b"secret", b, a));
        assert_ne!(there, cookie(b"secrets", a, b));
    }
}
