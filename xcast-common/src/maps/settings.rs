//! What a router is configured to do, as far as its programs have to know.

use crate::wire::endian::{Be16, Be32, Be128};

/// Generations of programs that there are at a time: those that forward, and those that take over from them.
pub const GENERATIONS: u32 = 2;
/// Where in `ARRIVALS` the programs of both generations are that take packets out of tunnels.
pub const ARRIVAL_TUNNEL: u32 = 2 * GENERATIONS;
/// Entries of `ARRIVALS`.
pub const ARRIVAL_PROGRAMS: u32 = 3 * GENERATIONS;

/// How a copy's list is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Prune {
    /// Only the copy's own destinations stay in its list.
    #[default]
    Truncate = 0,
    /// The list stays; bits of other branches' destinations are cleared.
    Bitmap = 1,
}

/// What becomes of ICMP requests that are for several destinations (RFC 5058 section 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum IcmpRequests {
    /// They are forwarded like anything else.
    #[default]
    Forward = 0,
    /// They are forwarded if a best route back to their source leaves by the port of arrival.
    Verified = 1,
    /// They are dropped.
    Drop = 2,
}

/// What the programs know from the start: constants to them, set while they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// The All-Xcast-Routers group.
    pub group: Be32,
    /// IPv4 protocol number of Xcast.
    pub protocol: u8,
    /// A [`Prune`].
    pub prune: u8,
    /// UDP port at which Xcast inside UDP is taken; 0 for none.
    pub udp_port: Be16,
    /// Secret of the duplicate check's hash, random per load.
    pub hash_key: u64,
    /// Secret that tells frames on their way to become copies from all others; see
    /// [`forward::mark`](crate::forward::mark), which uses its low 48 bits. The lowest one is the programs'
    /// [generation](Self::generation), the others are random.
    pub mark: u64,
    /// The All-Xcast-Routers group of IPv6.
    pub group6: Be128,
    /// Routing type of Xcast6's routing header.
    pub routing_type: u8,
    /// Type of the option that lists ports.
    pub ports_option: u8,
    /// 1 if Xcast6 is forwarded.
    pub ipv6: u8,
    /// An [`IcmpRequests`].
    pub icmp_requests: u8,
    /// What a copy for the kernel stack costs, in nanoseconds of the router's budget; 0 for nothing.
    pub stack_copy_ns: u32,
    /// 1 if there are tunnels to other routers.
    pub tunnels: u8,
    /// Explicit padding.
    pub reserved: [u8; 7],
}

impl Settings {
    /// 0 or 1: programs that replace others have the other number.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        (self.mark & 1) as u32
    }
}

const _: () = assert!(size_of::<Settings>() == 56);
