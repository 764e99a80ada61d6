//! What crossed links.

use std::ops::{Add, AddAssign};

use serde::Serialize;

use crate::fanout::{Link, Transmission};

/// What crossed links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Packets, each counted on each link that it crosses.
    pub links: u64,
    /// Octets, from the IP header on, summed in the same way.
    pub octets: u64,
    /// Packets on hosts' access links, from the hosts.
    pub up_packets: u64,
    /// Octets there.
    pub up_octets: u64,
    /// Packets on hosts' access links, to the hosts.
    pub down_packets: u64,
    /// Octets there.
    pub down_octets: u64,
}

impl Load {
    /// A packet crosses a link.
    pub fn add(&mut self, sent: Transmission) {
        let octets = u64::from(sent.octets);
        self.links += 1;
        self.octets += octets;
        match sent.link {
            Link::Up(_) => {
                self.up_packets += 1;
                self.up_octets += octets;
            }
            Link::Down(_) => {
                self.down_packets += 1;
                self.down_octets += octets;
            }
            Link::Between(_) => {}
        }
    }

    /// A datagram crosses so many links from a host to a host.
    pub fn add_path(&mut self, links: u64, octets: u32) {
        let octets = u64::from(octets);
        *self += Self {
            links,
            octets: links * octets,
            up_packets: 1,
            up_octets: octets,
            down_packets: 1,
            down_octets: octets,
        };
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            links: self.links + other.links,
            octets: self.octets + other.octets,
            up_packets: self.up_packets + other.up_packets,
            up_octets: self.up_octets + other.up_octets,
            down_packets: self.down_packets + other.down_packets,
            down_octets: self.down_octets + other.down_octets,
        }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
