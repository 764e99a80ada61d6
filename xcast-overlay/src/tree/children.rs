//! The children of a member.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{message::MAX_NAMED, packets::Packets};
use crate::runtime::Random;

/// A room depth that stands for no room.
pub(super) const NO_ROOM: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    /// The token that it has chosen.
    pub token: u64,
    pub heard: Instant,
    /// The next message that it can deliver, as far as is known.
    pub next: u64,
    /// It is behind, and gets only what it asks for.
    pub paused: bool,
    /// Depth at which there is room at it, or below.
    pub room_depth: u8,
}

impl Child {
    /// One that has just come.
    pub fn new(now: Instant, token: u64) -> Self {
        Self {
            token,
            heard: now,
            next: 0,
            paused: false,
            room_depth: NO_ROOM,
        }
    }
}

/// Children in order of their addresses: those next to each other share a packet.
#[derive(Clone, Debug)]
pub(super) struct Children {
    pub all: BTreeMap<SocketAddr, Child>,
    /// Whom the last beat named last.
    named: Option<SocketAddr>,
    packets: Packets,
    most_packets: usize,
    datagram_octets: usize,
}

impl Children {
    /// At most as many as `most_packets` packets with datagrams of this size have room for.
    pub fn new(packets: Packets, most_packets: usize, datagram_octets: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            named: None,
            packets,
            most_packets,
            datagram_octets,
        }
    }

    /// How many more there may be of a family.
    pub fn room(&self, ipv6: bool) -> usize {
        let count = |ipv6| {
            self.all
                .keys()
                .filter(|child| child.is_ipv6() == ipv6)
                .count()
        };
        let size = |ipv6| self.packets.destinations(ipv6, self.datagram_octets);
        let others = count(!ipv6).div_ceil(size(!ipv6));
        (self.most_packets.saturating_sub(others) * size(ipv6)).saturating_sub(count(ipv6))
    }

    /// Lists for packets with datagrams of this size, to those that get the stream, or to all.
    pub fn lists(
        &self,
        octets: usize,
        stream: bool,
        but: Option<SocketAddr>,
    ) -> Vec<Vec<SocketAddr>> {
        let to: Vec<SocketAddr> = self
            .all
            .iter()
            .filter(|(address, child)| !(stream && child.paused) && Some(**address) != but)
            .map(|(address, _)| *address)
            .collect();
        self.packets.lists(&to, octets)
    }

    /// Those whom the next beat names: each child in its turn.
    pub fn name_next(&mut self) -> Vec<SocketAddr> {
        let all = || self.all.keys().copied();
        let is_after = |address: &SocketAddr| self.named.is_none_or(|last| *address > last);
        let next = all().filter(is_after).chain(all());
        let next: Vec<_> = next.take(MAX_NAMED.min(self.all.len())).collect();
        self.named = next.last().copied();
        next
    }

    /// Depth of the member next to the source, below this one, that has room.
    pub fn room_depth(&self) -> u8 {
        let depths = self.all.values().map(|child| child.room_depth);
        depths.min().unwrap_or(NO_ROOM)
    }

    /// Some that the asker at this address may like: those near it, those with room, and chance.
    pub fn some_for(&self, asker: SocketAddr, random: &mut Random) -> Vec<SocketAddr> {
        let mut all: Vec<(&SocketAddr, &Child)> = self.all.iter().collect();
        random.choose(&mut all, self.all.len());
        let others = all.iter().filter(|(address, _)| **address != asker);
        let mut near: Vec<_> = others.clone().collect();
        near.sort_by_key(|(address, _)| std::cmp::Reverse(common_bits(address.ip(), asker.ip())));
        let mut roomy: Vec<_> = others.clone().collect();
        roomy.sort_by_key(|(_, child)| child.room_depth);
        let mut some: Vec<SocketAddr> = Vec::new();
        for (list, most) in [(near, 3), (roomy, 6), (others.collect(), MAX_NAMED)] {
            for (address, _) in list {
                if some.len() < most && !some.contains(address) {
                    some.push(**address);
                }
            }
        }
        some
    }
}

/// How many leading bits two addresses share: none of different families.
pub(super) fn common_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}
