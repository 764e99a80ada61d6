//! Tunnels between routers: what copies get in front and behind, and by what a router knows what it may take out.

use core::{mem::offset_of, net::IpAddr};

use crate::wire::{
    IPV4_LEN,
    endian::{Be16, Be32, Be128},
    ipv6, udp,
};

/// Entries of the tunnel table: outer headers.
pub const MAX_TUNNELS: u32 = 1024;
/// Pairs of addresses that tunnels arrive by.
pub const MAX_TUNNEL_PEERS: u32 = 1024;

/// Length of the cookie behind the packet in a tunnel, in octets.
pub const COOKIE_LEN: usize = 8;

/// TTL or hop limit of outer headers (RFC 1812 section 4.2.2.9 has it configurable; 64 is what the Internet's hosts
/// use).
const OUTER_TTL: u8 = 64;

/// What goes around a packet that leaves inside a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
// Aligned as entries of array maps are.
#[repr(C, align(8))]
pub struct Tunnel {
    /// Source and destination of the outer header: two words of IPv4 and nothing else, or eight of IPv6.
    pub addresses: [Be32; 8],
    /// The cookie, as it lies in memory.
    pub cookie: u64,
    /// Link layer addresses of the gateway towards the other router, and of the port.
    pub macs: [u8; 12],
    /// UDP port of the other router; 0 without a UDP header (IP in IP).
    pub port: Be16,
    /// IP version of the outer header; 0 in an unused entry.
    pub version: u8,
    /// TTL or hop limit of the outer header.
    pub ttl: u8,
}

impl Tunnel {
    /// A tunnel from one address to another, inside UDP to a port, or directly in IP. `None` if the addresses are
    /// not of one family.
    pub fn new(
        source: IpAddr,
        destination: IpAddr,
        port: Option<u16>,
        cookie: [u8; COOKIE_LEN],
        macs: [u8; 12],
    ) -> Option<Self> {
        let mut addresses = [Be32::default(); 8];
        let version = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                addresses[0] = source.into();
                addresses[1] = destination.into();
                4
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let bits = [source.to_bits(), destination.to_bits()];
                for (word, address) in addresses.iter_mut().enumerate() {
                    let shift = 96 - 32 * (word as u32 % 4);
                    *address = Be32::new((bits[word / 4] >> shift) as u32);
                }
                6
            }
            _ => return None,
        };
        Some(Self {
            addresses,
            cookie: u64::from_ne_bytes(cookie),
            macs,
            port: Be16::new(port.unwrap_or(0)),
            version,
            ttl: OUTER_TTL,
        })
    }

    /// Both link layer addresses as they begin a frame, in memory: eight octets and four.
    #[inline(always)]
    pub fn ethernet(&self) -> (u64, u32) {
        let start = core::ptr::from_ref(&self.macs).cast::<u8>();
        // SAFETY: both are within the field, and aligned, by the assertions below; any bits are a number.
        unsafe {
            (
                start.cast::<u64>().read(),
                start.add(8).cast::<u32>().read(),
            )
        }
    }

    /// By how many octets a packet becomes longer.
    pub const fn overhead(is_ipv6: bool, is_udp: bool) -> usize {
        let ip = if is_ipv6 { ipv6::LEN } else { IPV4_LEN };
        let udp = if is_udp { udp::HEADER_LEN } else { 0 };
        ip + udp + COOKIE_LEN
    }
}

/// Outer addresses of what arrives by a tunnel: IPv4 as IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct TunnelPeer {
    /// The other router.
    pub source: Be128,
    /// This one.
    pub destination: Be128,
}

impl TunnelPeer {
    /// What arrives from one address at another.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        let mapped = |address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(address) => address.into(),
        };
        Self {
            source: mapped(source),
            destination: mapped(destination),
        }
    }
}

/// The cookies that a peer's packets may have: that of the key, and that of the key before. As they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TunnelCookies {
    /// Both may be the same.
    pub cookies: [u64; 2],
}

const _: () = {
    assert!(size_of::<Tunnel>() == 56 && offset_of!(Tunnel, macs) == 40);
    assert!(size_of::<TunnelPeer>() == 32 && size_of::<TunnelCookies>() == 16);
};
