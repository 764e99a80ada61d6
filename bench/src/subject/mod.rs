//! What is compared: the router, and every other way to make copies.
//!
//! A subject makes [`Case`]s: frames to send, and the copies each of them must lead to, octet by
//! octet. [`router`] is what all this is about, [`tunnel`] the same with tunnels, [`rivals`] are BPF
//! programs, [`kernel`] is what the kernel can do by itself.

pub mod kernel;
pub mod rivals;
pub mod router;
pub mod tunnel;

use std::{collections::HashSet, net::IpAddr};

use ::tests::{
    family::Family,
    layout::{GROUP, PROTOCOL},
    packet::{self, Destination, Ip, Packet, Xcast, ethernet, group_mac, protocol},
};
use anyhow::Result;
use fastrand::Rng;
use serde::Serialize;

use crate::{
    generator::BATCH,
    shared::FRAMES,
    sinks::Sinks,
    site::{self, INGRESS_MAC, PORTS, SOURCE, SOURCE_MAC},
    table::Routes,
};

/// Whose next hops a packet's destinations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// One on each port.
    Ports,
    /// All on one port.
    Lan,
}

/// What is sent, by subjects of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Next hops, and so copies of a packet.
    pub copies: usize,
    /// Destinations in its list.
    pub destinations: usize,
    /// Octets of its UDP payload.
    pub payload_bytes: usize,
    /// Where the copies go.
    pub spread: Spread,
    /// Different packets, in turns; each has destinations of its own, drawn at random.
    pub flows: usize,
    /// Packets the generator hands on at a time.
    pub batch: u32,
}

impl Load {
    /// Eight copies to eight destinations of 200 octets, by eight ports.
    pub const HEADLINE: Self = Self {
        copies: 8,
        destinations: 8,
        payload_bytes: 200,
        spread: Spread::Ports,
        flows: FRAMES,
        batch: BATCH,
    };

    /// Lists of destinations, with their next hops: each list by all of the next hops in turn.
    fn lists(&self, routes: &Routes) -> Vec<Vec<(IpAddr, usize)>> {
        let mut rng = Rng::with_seed(self.copies as u64);
        let first = match self.spread {
            Spread::Ports => 0,
            Spread::Lan => PORTS,
        };
        (0..self.flows)
            .map(|_| {
                let mut seen = HashSet::new();
                let mut list = Vec::new();
                while list.len() < self.destinations {
                    let next_hop = first + list.len() % self.copies;
                    let address = routes.address(next_hop, &mut rng);
                    if seen.insert(address) {
                        list.push((address, next_hop));
                    }
                }
                list
            })
            .collect()
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload_bytes).map(|i| i as u8).collect()
    }

    /// Xcast packets to these lists.
    fn xcast_frames(&self, family: Family, lists: &[Vec<(IpAddr, usize)>]) -> Vec<Vec<u8>> {
        let frame = |list: &Vec<_>| self.xcast_frame(family, list);
        lists.iter().map(frame).collect()
    }

    fn xcast_frame(&self, family: Family, list: &[(IpAddr, usize)]) -> Vec<u8> {
        let destinations = list.iter().map(|&(address, _)| Destination::new(address));
        let source = site::address(family, SOURCE);
        let group = family.address(GROUP);
        let marked_by = match family {
            Family::Ipv4 => PROTOCOL,
            Family::Ipv6 => protocol::ROUTING,
        };
        Packet {
            destination_mac: INGRESS_MAC,
            source_mac: SOURCE_MAC,
            ip: Ip::new(source, group, marked_by),
            xcast: Xcast::new(protocol::UDP, destinations.collect()),
            segment: packet::udp((source, 4000), (group, 5000), &self.payload(), None),
        }
        .frame()
    }

    fn udp_frame(&self, destination: IpAddr) -> Vec<u8> {
        let family = Family::of(destination);
        let mac = match destination.is_multicast() {
            true => group_mac(destination),
            false => INGRESS_MAC,
        };
        let source = site::address(family, SOURCE);
        let udp = packet::udp((source, 4000), (destination, 5000), &self.payload(), None);
        let ip = Ip::new(source, destination, protocol::UDP);
        ethernet(mac, SOURCE_MAC, family.ether_type(), &ip.emit(&udp))
    }
}

/// A frame that has to arrive in a sink.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Port whose sink it is.
    pub port: usize,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Frames to send, and what must become of them.
pub struct Case {
    /// Whose case it is.
    pub subject: &'static str,
    /// What its packets are.
    pub family: Family,
    /// What is sent.
    pub load: Load,
    /// Routes in the table.
    pub routes: usize,
    /// The generator's device to send by.
    pub device: u32,
    /// Frames, sent in turns.
    pub frames: Vec<Vec<u8>>,
    /// What each of them leads to.
    pub copies: Vec<Vec<Copy>>,
    /// Frames that do the work of one packet.
    pub frames_per_packet: usize,
}

/// Something that makes copies.
pub trait Subject {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// Its sinks.
    fn sinks(&mut self) -> &mut Sinks;

    /// What to send to have this load carried.
    ///
    /// # Errors
    ///
    /// The subject cannot be set up for it.
    fn case(&mut self, load: Load) -> Result<Case>;

    /// Called before each of its runs: makes it ready for the case.
    ///
    /// # Errors
    ///
    /// What it needs cannot be changed.
    fn select(&mut self, _case: &Case) -> Result<()> {
        Ok(())
    }

    /// How often it has done something slowly so far that it is not to do once it got used to a case.
    ///
    /// # Errors
    ///
    /// It cannot be found out.
    fn detours(&mut self) -> Result<u64> {
        Ok(0)
    }

    /// Called after the last run of all, with the number of all packets sent: what speaks against its
    /// results.
    ///
    /// # Errors
    ///
    /// It cannot be found out.
    fn objection(&mut self, _packets: u64) -> Result<Option<String>> {
        Ok(None)
    }
}
