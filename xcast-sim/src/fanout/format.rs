//! How long packets are.

use serde::{Deserialize, Serialize};

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Family {
    /// Xcast4, RFC 5058 section 9.2.
    #[serde(rename = "IPv4")]
    V4,
    /// Xcast6, RFC 5058 section 9.3.
    #[serde(rename = "IPv6")]
    V6,
}

/// UDP datagrams of one length. All lengths are in octets, from the IP header on: what the link
/// layer adds is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PacketFormat {
    /// Version of IP.
    pub family: Family,
    /// Length of the UDP payload, in octets.
    pub payload_octets: u32,
    /// Whether the list has a port for each destination.
    pub ports: bool,
}

/// How long a packet may be on nearly all links.
pub const MTU_OCTETS: u32 = 1500;

const UDP: u32 = 8;

impl PacketFormat {
    /// Length of a unicast packet.
    #[must_use]
    pub fn unicast_octets(&self) -> u32 {
        self.ip_octets() + UDP + self.payload_octets
    }

    /// Length of a packet with a list of `listed` destinations, served or not.
    #[must_use]
    pub fn xcast_octets(&self, listed: u32) -> u32 {
        let header = match self.family {
            // Fixed part, bitmap in words of 32 bits, addresses, ports padded to 4 octets.
            Family::V4 => 12 + 4 * listed.div_ceil(32) + 4 * listed,
            // Routing header: fixed part, bitmap in words of 64 bits, addresses.
            Family::V6 => 24 + 8 * listed.div_ceil(64) + 16 * listed,
        };
        let ports = match (self.ports, self.family) {
            (false, _) => 0,
            (true, Family::V4) => (2 * listed).next_multiple_of(4),
            // Destination options header with one option, padded to 8 octets.
            (true, Family::V6) => (4 + 2 * listed).next_multiple_of(8),
        };
        self.unicast_octets() + header + ports
    }

    /// What a tunnel over UDP adds to a packet.
    #[must_use]
    pub fn tunnel_octets(&self) -> u32 {
        self.ip_octets() + UDP
    }

    /// Most destinations of one packet: 7 bits, or what the IPv6 routing header has room for.
    #[must_use]
    pub fn max_destinations(&self) -> usize {
        match self.family {
            Family::V4 => 127,
            Family::V6 => 125,
        }
    }

    /// Most destinations of one packet of at most so many octets; one needs no list.
    #[must_use]
    pub fn destinations_within(&self, mtu_octets: u32) -> usize {
        let fits = |listed: &usize| self.xcast_octets(*listed as u32) <= mtu_octets;
        let all = 2..=self.max_destinations();
        all.rev().find(fits).unwrap_or(1)
    }

    fn ip_octets(&self) -> u32 {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_by_hand() {
        let mut format = PacketFormat {
            family: Family::V4,
            payload_octets: 100,
            ports: false,
        };
        assert_eq!(format.unicast_octets(), 128);
        assert_eq!(format.xcast_octets(3), 128 + 12 + 4 + 12);
        assert_eq!(format.xcast_octets(33), 128 + 12 + 8 + 132);
        format.ports = true;
        assert_eq!(format.xcast_octets(3), 128 + 12 + 4 + 12 + 8);
        format.family = Family::V6;
        assert_eq!(format.unicast_octets(), 148);
        // 24 + 8 + 48 of the routing header, 4 + 6 in 16 of the ports.
        assert_eq!(format.xcast_octets(3), 148 + 80 + 16);
        assert_eq!(format.tunnel_octets(), 48);
        // 148 + 24 + 8 x 2 + 16 x 72 + 4 + 2 x 72 in 8 x 19.
        assert_eq!(format.destinations_within(1500), 72);
        assert_eq!(format.xcast_octets(72), 1492);
        assert_eq!(format.destinations_within(200), 1);
    }
}
