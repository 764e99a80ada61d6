//! The cookie in front of an Xcast packet inside UDP, by which a source proves that it receives at the address that it
//! sends from; and the first octets of what relays and sources say to each other at the same port.
//!
//! ```text
//!  0       1       2               4                       8                              16
//! | kind  | 0     | relayed port  | epoch                 | SipHash-2-4                    |
//! ```
//!
//! As a server's cookie of DNS (RFC 9018 section 4): a hash under a key that only relays have, over the address and port
//! that the source was seen at, the epoch of the key, and the port of the relay whose packets the source may send, 0
//! for none. Where there is one, the hash also covers a number of the relay's own, so that no other relay with the same key
//! takes it for one of its ports. An IP packet begins with its version, 4 or 6, so the first octet tells what a datagram is.

/// Length of a cookie, in octets.
pub const LEN: usize = 16;

/// First octet of a cookie.
pub const KIND: u8 = 1;
/// First octet of a source's question, which is for the kernel's stack and the controller behind it.
pub const QUESTION: u8 = 2;
/// First octet of the answer.
pub const ANSWER: u8 = 3;
/// First octet of what a relay hands on to a source: a datagram that came to its relayed port.
pub const REPLY: u8 = 4;

/// From which port of a relay's own address a source wants its packets to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One of the source's own, where what comes back is handed on to it.
    Port,
    /// That of Xcast inside UDP, which all sources share whose messages say in an [envelope](super::origin) who they are from.
    Envelopes,
}

/// Where the relayed port is: 16 bits in network byte order, as all fields here.
pub const RELAYED_PORT: usize = 2;
/// Where the epoch is: 32 bits.
pub const EPOCH: usize = 4;
/// Where the hash is: 64 bits.
pub const HASH: usize = 8;

/// What is hashed beside the address: the source's port, the relayed port, and the epoch.
#[inline(always)]
pub const fn bound(port: u16, relayed_port: u16, epoch: u32) -> u64 {
    (port as u64) << 48 | (relayed_port as u64) << 32 | epoch as u64
}

/// The relayed port in [`bound`].
#[inline(always)]
pub const fn relayed_port(bound: u64) -> u16 {
    (bound >> 32) as u16
}

/// SipHash-2-4 of a message of 24 octets, given as numbers in the order of little-endian octets (Aumasson and
/// Bernstein, "SipHash: a fast short-input PRF", 2012).
#[inline(always)]
pub const fn siphash(key: [u64; 2], message: [u64; 3]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    v = compress(v, message[0]);
    v = compress(v, message[1]);
    v = compress(v, message[2]);
    // The last block has the length in its last octet.
    v = compress(v, 24 << 56);
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn compress(v: [u64; 4], word: u64) -> [u64; 4] {
    let [a, b, c, d] = round(round([v[0], v[1], v[2], v[3] ^ word]));
    [a ^ word, b, c, d]
}

#[inline(always)]
const fn round([a, b, c, d]: [u64; 4]) -> [u64; 4] {
    let (a, c) = (a.wrapping_add(b), c.wrapping_add(d));
    let (b, d) = (b.rotate_left(13) ^ a, d.rotate_left(16) ^ c);
    let a = a.rotate_left(32);
    let (c, a) = (c.wrapping_add(b), a.wrapping_add(d));
    let (b, d) = (b.rotate_left(17) ^ c, d.rotate_left(21) ^ a);
    [a, b, c.rotate_left(32), d]
}

#[cfg(test)]
mod tests {
    #[expect(deprecated, reason = "SipHash-2-4 of an implementation of others")]
    use std::hash::SipHasher;
    use std::hash::{Hash as _, Hasher as _};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_siphash(key in any::<[u64; 2]>(), message in any::<[u64; 3]>()) {
            #[expect(deprecated, reason = "as above")]
            let mut hasher = SipHasher::new_with_keys(key[0], key[1]);
            for word in message {
                word.to_le().hash(&mut hasher);
            }
            prop_assert_eq!(siphash(key, message), hasher.finish());
        }
    }

    #[test]
    fn each_field_is_bound() {
        let bound = bound(0x1234, 0x5678, 0x9abc_def0);
        assert_eq!(bound, 0x1234_5678_9abc_def0);
        assert_eq!(relayed_port(bound), 0x5678);
    }
}
