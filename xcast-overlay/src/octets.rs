//! How long packets are.

use std::net::SocketAddr;

use crate::{
    krpc::Family,
    runtime::{Mode, Transmit, WayOut},
};

/// Octets of a datagram by unicast: IP and UDP headers, and its content.
pub(crate) fn unicast_octets(family: Family, content: usize) -> usize {
    content
        + match family {
            Family::Ipv4 => 20 + 8,
            Family::Ipv6 => 40 + 8,
        }
}

/// Octets on the sender's first link of a message to these receivers that may be one packet: those of an
/// Xcast packet (RFC 5058, 9.2.2 and 9.3.2), or of a datagram to each.
pub(crate) fn shared_octets(to: &[SocketAddr], content: usize, way: WayOut) -> usize {
    let Some(first) = to.first() else { return 0 };
    let family = Family::of(first);
    let alone = unicast_octets(family, content);
    let count = to.len();
    let overhead = match way {
        WayOut::Shared { overhead_octets } if count > 1 => overhead_octets,
        _ => return count * alone,
    };
    let ports_differ = to.iter().any(|address| address.port() != first.port());
    let header = match family {
        Family::Ipv4 => {
            let ports = if ports_differ { count.div_ceil(2) } else { 0 };
            4 * (3 + count.div_ceil(32) + count + ports)
        }
        Family::Ipv6 => {
            let ports = if ports_differ {
                (4 + 2 * count).div_ceil(8)
            } else {
                0
            };
            8 * (3 + count.div_ceil(64) + 2 * count + ports)
        }
    };
    overhead + header + alone
}

/// Octets that a message needs on the sender's first link.
pub(crate) fn sent_octets(transmit: &Transmit, way: WayOut) -> usize {
    let to = &transmit.to;
    let longest = (0..to.len()).map(|at| transmit.datagram(at).len()).max();
    let Some((first, content)) = to.first().zip(longest) else {
        return 0;
    };
    match transmit.mode {
        Mode::Shared => shared_octets(to, content, way),
        Mode::Unicast => to.len() * unicast_octets(Family::of(first), content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_rfc() {
        let ipv4: Vec<SocketAddr> = (1..4).map(|at| ([192, 0, 2, at], 4000).into()).collect();
        // IP 20, Xcast 12 + 4 + 3 x 4, UDP 8.
        let native = WayOut::default();
        assert_eq!(shared_octets(&ipv4, 100, native), 156);
        assert_eq!(shared_octets(&ipv4[..1], 100, native), 128);
        // Inside UDP, with a cookie of 16 octets.
        let in_udp = WayOut::Shared {
            overhead_octets: 28 + 16,
        };
        assert_eq!(shared_octets(&ipv4, 100, in_udp), 200);
        assert_eq!(shared_octets(&ipv4[..1], 100, in_udp), 128);
        assert_eq!(shared_octets(&ipv4, 100, WayOut::Unicast), 3 * 128);
        let ipv6 = |at| ([0x2001, 0xdb8, 0, 0, 0, 0, 0, at], 4000).into();
        let ipv6: Vec<SocketAddr> = (1..4).map(ipv6).collect();
        // IPv6 40, routing header 24 + 8 + 3 x 16, UDP 8.
        assert_eq!(shared_octets(&ipv6, 100, native), 228);
    }
}
