//! Where the time of the ingress program goes, and how large the programs are.
//!
//! The router's own program, which hands IPv6 on to a second one, runs on packets that end, or stay
//! cheap, at one stage after another; the difference between two is the stage in between. Nothing
//! leaves: what clones and the copies' own program take shows beside the bare broadcast, which live
//! packets go through.

use std::{
    array,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
};

use ::tests::{
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL},
    namespace::Namespace,
    packet::{self, Destination, Ip, Packet, Xcast, protocol},
};
use anyhow::{Context as _, Result};
use serde::Serialize;
use xcast_common::{
    maps::{
        NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST, PORT_STACK, Port, Settings, SourceMode,
        counter::Counter,
    },
    wire::{Be32, Be128},
};
use xcast_ctl::datapath::{Datapath, Macs};

use crate::{
    family::{named, number},
    measure::{Effort, Summary, check_interrupt},
    progress::Progress,
    sys,
};

/// Numbers of destinations; and as many as fit.
const DESTINATIONS: [usize; 3] = [2, 8, 32];
/// Next hops, by ports of their own.
const NEXT_HOPS: usize = 8;
/// Id of the first next hop.
const FIRST_ID: u32 = 100;
/// What no packet may go to, and the id of its next hop.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const NOWHERE_ID: u32 = 99;
/// Runs per value.
const REPEAT: u32 = 2000;
/// Runs per value where each one takes one off the TTL.
const FEW: u32 = 200;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Secret of the programs' marks, and where packets come from: behind the port that they arrive by.
const MARK: u64 = 0xfedc_ba98_7654_3210;
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE_ID: u32 = 98;
/// What a packet and a copy cost: limits are looked after, and never reached.
const PRICE_NS: u32 = 1;

/// The link layer address of the port that packets arrive by: what a packet has there after a run left its mark, so
/// that the next run takes it. The first octets of a mark are its secret and never change.
fn port_mac(family: Family) -> [u8; 6] {
    let secret = MARK ^ u64::from(number(family));
    let [a, b, c, d, e, f, ..] = secret.to_ne_bytes();
    [a, b, c, d, e, f]
}

/// What a stage takes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub stage: &'static str,
    /// `4` or `6`.
    pub family: u8,
    /// Destinations in the packet's list.
    pub destinations: usize,
    /// Time per packet, in nanoseconds.
    pub ns_per_packet: Summary,
}

/// A program, as the kernel sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it was loaded for: `4`, or `6` beside it.
    pub family: u8,
    /// Instructions that the verifier went through.
    pub verified_instructions: Option<u32>,
    /// Octets of machine code.
    pub jited_bytes: u32,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stages {
    /// The stages.
    pub stages: Vec<Row>,
    /// The programs.
    pub programs: Vec<Program>,
}

/// A stage, and what ends a packet there.
type Step = (&'static str, fn(&mut Packet));

/// The packets, each of which gets one stage further than the one before. None of them finds a plan that it can go
/// by, since some destination is skipped in all that get so far.
const STEPS: [Step; 5] = [
    // Not Xcast: the kernel's entry into the program, and the first look.
    ("enter", |packet| packet.ip.protocol = protocol::UDP),
    // All checks up to the last one, the checksum over the list.
    ("parse", |packet| packet.xcast.checksum = Some(0x1234)),
    // Looked up, but no destination counts.
    ("look up", |packet| {
        for destination in &mut packet.xcast.destinations {
            destination.valid = false;
        }
        skip_one(packet);
    }),
    // Grouped, but no copy may leave.
    ("group", |packet| {
        packet.ip.ttl = 1;
        skip_one(packet);
    }),
    // A run leaves its mark in the frame, and must leave all else as it is, for the next one.
    ("send", |packet| {
        packet.xcast.x = true;
        skip_one(packet);
    }),
];
/// Which of them gets no further than the checks.
const PARSE: usize = 1;

/// Puts one more destination into the list, to which no packet may go; where there is hardly room, in place of the last
/// one.
fn skip_one(packet: &mut Packet) {
    let list = &mut packet.xcast.destinations;
    if list.len() >= 100 {
        list.pop();
    }
    list.push(Destination::new(NOWHERE));
}

/// Measures all stages of a family.
///
/// # Errors
///
/// Needs root.
pub fn measure(
    family: Family,
    cpu: usize,
    effort: Effort,
    progress: &mut Progress,
) -> Result<Stages> {
    let namespace = Namespace::new("stages")?;
    namespace.enter(|| {
        sys::pin(cpu)?;
        let mut datapath = router(family)?;
        let mut stages = Vec::new();
        for destinations in DESTINATIONS.into_iter().chain([family.most_destinations()]) {
            let frames = STEPS.map(|(_, change)| frame(family, destinations, NEXT_HOPS, change));
            let one_next_hop = [1, 255].map(|ttl| {
                frame(family, destinations, 1, |packet: &mut Packet| {
                    packet.ip.ttl = ttl;
                })
            });
            let mut values: [Vec<f64>; STEPS.len()] = array::from_fn(|_| Vec::new());
            // With a plan from the run before: what it takes in place of looking up, grouping and sending.
            let same_list = frame(family, destinations, NEXT_HOPS, |packet: &mut Packet| {
                packet.xcast.x = true;
            });
            let mut again = Vec::new();
            let mut rewrite = Vec::new();
            for round in 0..effort.rounds {
                check_interrupt()?;
                progress.show(&format!(
                    "{}: round {} of {}",
                    named(&format!("{destinations} destinations"), family),
                    round + 1,
                    effort.rounds
                ));
                let mut before = 0.0;
                let mut totals = [0.0; STEPS.len()];
                for ((frame, values), total) in frames.iter().zip(&mut values).zip(&mut totals) {
                    *total = run(&mut datapath, frame, REPEAT)?;
                    values.push(*total - before);
                    before = *total;
                }
                again.push(run(&mut datapath, &same_list, REPEAT)? - totals[PARSE]);
                let [group, all] = &one_next_hop;
                let group = run(&mut datapath, group, FEW)?;
                rewrite.push(run(&mut datapath, all, FEW)? - group);
            }
            let names = STEPS.iter().map(|(name, _)| *name);
            for (stage, values) in names
                .chain(["same list", "truncate"])
                .zip(values.iter().chain([&again, &rewrite]))
            {
                stages.extend(Summary::of(values).map(|ns_per_packet| Row {
                    stage,
                    family: number(family),
                    destinations,
                    ns_per_packet,
                }));
            }
        }
        let ingress = match family {
            Family::Ipv4 => "xcast",
            Family::Ipv6 => "xcast6",
        };
        let programs = [ingress, "xcast_copy"].map(|name| {
            let info = datapath.program(name)?.info()?;
            Ok(Program {
                name,
                family: number(family),
                verified_instructions: info.verified_instruction_count(),
                jited_bytes: info.size_jitted(),
            })
        });
        Ok(Stages {
            stages,
            programs: programs.into_iter().collect::<Result<_>>()?,
        })
    })
}

/// The programs, with routes to all next hops; ports are the loopback, which nothing arrives on.
fn router(family: Family) -> Result<Datapath> {
    let mut settings = Settings {
        group: Be32::from(GROUP),
        protocol: PROTOCOL,
        hash_key: 0x1234_5678_9abc_def1,
        mark: MARK,
        ..Settings::default()
    };
    if let IpAddr::V6(group) = family.address(GROUP) {
        settings.group6 = Be128::from(group);
        settings.routing_type = PROTOCOL;
        settings.ports_option = PORTS_OPTION;
        settings.ipv6 = 1;
    }
    let macs = Macs {
        destination: MAC,
        source: MAC,
    };
    let mut datapath = Datapath::load(&settings, 1024, macs)?;
    let slots = [PORT_STACK].into_iter().chain(PORT_FIRST..);
    // Packets arrive by the last one, which has sources and limits as a port towards hosts has by default.
    let mut arrival = Port::default();
    for slot in slots.take(1 + NEXT_HOPS) {
        arrival = Port {
            slot,
            mac: port_mac(family),
            sources: [SourceMode::Strict as u8; 2],
            packet_ns: PRICE_NS,
            copy_ns: PRICE_NS,
            ..Port::default()
        };
        datapath.add_device(1, arrival)?;
    }
    let host = NextHop {
        egress: arrival.slot,
        ..NextHop::stack(Counter::StackNoNeighbour)
    };
    datapath.set_next_hop(SOURCE_ID, host)?;
    datapath.set_route(family.prefix(SOURCE, 24), Some(SOURCE_ID))?;
    for number in 0..NEXT_HOPS as u8 {
        let next_hop = NextHop {
            kind: NextHopKind::Forward as u8,
            port: PORT_FIRST + number,
            flags: NEXT_HOP_XCAST,
            mtu_bytes: 1500,
            // A copy that leaves at once arrives again in the next run.
            destination_mac: port_mac(family),
            source_mac: MAC,
            ..NextHop::default()
        };
        let id = FIRST_ID + u32::from(number);
        datapath.set_next_hop(id, next_hop)?;
        let prefix = family.prefix([10, number, 0, 0], 16);
        datapath.set_route(prefix, Some(id))?;
    }
    let skip = NextHop {
        kind: NextHopKind::Skip as u8,
        reason: Counter::SkipBlackhole as u8,
        ..NextHop::default()
    };
    datapath.set_next_hop(NOWHERE_ID, skip)?;
    datapath.set_route(family.prefix(NOWHERE, 16), Some(NOWHERE_ID))?;
    datapath.publish_routes()?;
    datapath.wait_for_fanouts();
    Ok(datapath)
}

/// An Xcast packet to so many destinations, behind so many next hops in turns.
fn frame(
    family: Family,
    destinations: usize,
    next_hops: usize,
    change: impl FnOnce(&mut Packet),
) -> Vec<u8> {
    let list = (0..destinations).map(|number| {
        let next_hop = (number % next_hops) as u8;
        Destination::new(Ipv4Addr::new(10, next_hop, 0, number as u8 + 1))
    });
    let mut packet = Packet {
        destination_mac: port_mac(family),
        source_mac: MAC,
        ip: Ip::new(SOURCE, GROUP, PROTOCOL),
        xcast: Xcast::new(protocol::UDP, list.collect()),
        segment: packet::udp((SOURCE, 4000), (GROUP, 5000), &[0; 200], None),
    };
    change(&mut packet);
    packet.in_family(family).frame()
}

fn run(datapath: &mut Datapath, frame: &[u8], repeat: u32) -> Result<f64> {
    let program = datapath.program("xcast")?;
    let program = program.fd().context("the program is not loaded")?;
    let ns = sys::run_dry(program.as_fd(), frame, repeat).context("cannot run the program")?;
    Ok(f64::from(ns))
}
