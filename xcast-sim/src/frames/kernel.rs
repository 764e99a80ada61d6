//! What a router's kernel does with a packet that is not for the Xcast router: it goes by the route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;

/// The destination of an IP packet in an Ethernet frame.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    let packet = frame.get(ETHERNET..)?;
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The frame with other link layer addresses.
pub fn readdress(frame: &[u8], to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let packet = frame.get(12..).unwrap_or_default();
    [&to[..], &from[..], packet].concat()
}

/// A frame around an IP packet.
pub fn frame(packet: &[u8], to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let ether_type: [u8; 2] = match packet.first().map(|octet| octet >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    [&to[..], &from[..], &ether_type[..], packet].concat()
}

/// Length of the packet in a frame, in octets.
pub fn packet_octets(frame: &[u8]) -> u32 {
    frame.len().saturating_sub(ETHERNET) as u32
}
