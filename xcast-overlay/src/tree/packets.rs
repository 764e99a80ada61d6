//! How many destinations a packet has room for.

use std::net::SocketAddr;

/// How large packets and their lists may be.
///
/// ```
/// use xcast_overlay::tree::Packets;
///
/// let packets = Packets::default();
/// // The 50 of WO 2007/030742, paragraph 44, is a figure of IPv4.
/// assert_eq!(packets.destinations(false, 1000), 50);
/// assert_eq!(packets.destinations(true, 1000), 22);
/// let in_udp = Packets { in_udp: true, ..packets };
/// assert_eq!(in_udp.destinations(true, 1000), 20);
/// // A datagram that fills the MTU can be sent to one only.
/// assert_eq!(packets.destinations(false, 1472), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// Largest packet in octets, from its outermost IP header on.
    pub mtu_octets: usize,
    /// Whether Xcast packets travel inside UDP to the first router.
    pub in_udp: bool,
    /// Most destinations in one packet, however large the MTU.
    pub max_destinations: usize,
}

impl Default for Packets {
    fn default() -> Self {
        Self {
            mtu_octets: 1500,
            in_udp: false,
            max_destinations: 50,
        }
    }
}

impl Packets {
    /// How many destinations with a port each fit beside a UDP payload of so many octets: at least
    /// one, which needs no list (RFC 5058 section 9).
    pub fn destinations(&self, ipv6: bool, payload_octets: usize) -> usize {
        let outer = match (self.in_udp, ipv6) {
            (false, _) => 0,
            (true, false) => 20 + 8,
            (true, true) => 40 + 8,
        };
        let fits =
            |count: &usize| outer + packet_octets(ipv6, *count) + payload_octets <= self.mtu_octets;
        let most = self.max_destinations.min(if ipv6 { 125 } else { 127 });
        (2..=most).rev().find(fits).unwrap_or(1)
    }

    /// Puts receivers into lists, each for one packet. Those that are next to each other stay so:
    /// in order of their addresses, they share a prefix, and most of their way.
    pub fn lists(&self, to: &[SocketAddr], payload_octets: usize) -> Vec<Vec<SocketAddr>> {
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = to.iter().partition(|to| to.is_ipv4());
        [(false, ipv4), (true, ipv6)]
            .into_iter()
            .flat_map(|(is_ipv6, to)| {
                let size = self.destinations(is_ipv6, payload_octets);
                to.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Headers in front of the payload: IP, Xcast with a port for each destination, UDP (RFC 5058
/// sections 9.2.2 and 9.3.2).
fn packet_octets(ipv6: bool, count: usize) -> usize {
    match ipv6 {
        false => 20 + 4 * (3 + count.div_ceil(32) + count + count.div_ceil(2)) + 8,
        true => 40 + 8 * (3 + count.div_ceil(64) + 2 * count + (4 + 2 * count).div_ceil(8)) + 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_one_family_each_and_lose_nobody() {
        let mut to: Vec<SocketAddr> = (0..120u8).map(|n| ([192, 0, 2, n], 1).into()).collect();
        to.extend((0..30u16).map(|n| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1))));
        let lists = Packets::default().lists(&to, 1000);
        let sizes: Vec<usize> = lists.iter().map(Vec::len).collect();
        assert_eq!(sizes, [50, 50, 20, 22, 8]);
        assert_eq!(lists.concat(), to);
    }
}
