//! An envelope with the origin of a message: what comes before it where a relay sends it from its own address, for receivers
//! that open such envelopes.
//!
//! ```text
//!  0                               4       5       6               8                              24
//! | f8 58 63 65                   | 2     | 0     | port          | address                       | the message
//! ```
//!
//! Port and address are those that the relay saw the source at, in network byte order; an IPv4 address is written as
//! ::ffff:192.0.2.1. The relay's datapath compares them with the packet that it takes the message from, so a source cannot
//! name another. The first four octets are those of all envelopes, and no text in UTF-8 begins with them.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// First octets of every envelope.
pub const MAGIC: [u8; 4] = [0xf8, b'X', b'c', b'e'];
/// The octet after them: an envelope with an origin.
pub const FORM: u8 = 2;
/// Octets before the message.
pub const LEN: usize = 24;

/// Where the port is.
pub const PORT: usize = 6;
/// Where the address is.
pub const ADDRESS: usize = 8;

/// What comes before a message from this source.
pub fn encode(source: SocketAddr) -> [u8; LEN] {
    let address = match source.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut octets = [0; LEN];
    octets[..4].copy_from_slice(&MAGIC);
    octets[4] = FORM;
    octets[PORT..ADDRESS].copy_from_slice(&source.port().to_be_bytes());
    octets[ADDRESS..].copy_from_slice(&address.octets());
    octets
}

/// The source and the message; `None` if it is no such envelope.
pub fn decode(octets: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (head, message) = octets.split_first_chunk::<LEN>()?;
    if head[..4] != MAGIC || head[4..PORT] != [FORM, 0] {
        return None;
    }
    let port = u16::from_be_bytes([head[PORT], head[PORT + 1]]);
    let address = head[ADDRESS..].first_chunk::<16>()?;
    let address = Ipv6Addr::from(*address).to_canonical();
    Some((SocketAddr::new(address, port), message))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_read_as_written(source: SocketAddr, message: Vec<u8>) {
            let mapped = SocketAddr::new(source.ip().to_canonical(), source.port());
            let octets = [&encode(source)[..], &message].concat();
            prop_assert_eq!(decode(&octets), Some((mapped, &message[..])));
            prop_assert_eq!(decode(&octets[..LEN - 1]), None);
        }

        #[test]
        fn anything_is_taken(octets: Vec<u8>) {
            if let Some((_, message)) = decode(&octets) {
                prop_assert_eq!(message.len() + LEN, octets.len());
            }
        }
    }
}
