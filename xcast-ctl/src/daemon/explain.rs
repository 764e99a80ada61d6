//! What the router would do with a packet: the datapath's own code, run on a packet made up for
//! the question.

use std::collections::HashMap;

use anyhow::{Result, bail};
use xcast_common::{
    counter,
    ingress::Packet,
    maps::{
        EcmpGroup, MAX_NEXT_HOPS, NEXT_HOP_STACK_MTU, NextHop, NextHopKind, PORT_STACK,
        PortCounters, Settings, SubsetKey,
    },
    plan::{BRANCH_SLOTS, Memory, NONE, Plan, Scratch, Tables, Work, group},
    view::Buffer,
    wire::{
        Be32, FLAG_P, FLAG_X, IPV4_LEN, MAX_DESTINATIONS, VERSION, XCAST_AT, header_words, ipv4,
        transport, xcast,
    },
};

use super::ports::Ports;
use crate::{
    config::Config,
    control::ExplainRequest,
    report::{Branch, Destination, Explain, Form, Path, Skipped, mac_text},
    sync::RouteSync,
};

/// Answers the `explain` verb.
///
/// # Errors
///
/// An empty list, or one that is longer than a packet takes.
pub fn explain(
    request: &ExplainRequest,
    config: &Config,
    sync: &RouteSync,
    ports: &Ports,
    is_installed: impl Fn(&SubsetKey) -> bool,
) -> Result<Explain> {
    let count = request.destinations.len();
    if !(1..=MAX_DESTINATIONS).contains(&count) {
        bail!("{count} destinations; a packet carries 1 to {MAX_DESTINATIONS}");
    }
    let settings = Settings {
        group: Be32::from(config.code_points.group),
        protocol: config.code_points.protocol,
        prune: config.router.prune as u8,
        udp_port: config.udp_port(),
        hash_key: 0,
    };
    let (mut buffer, packet) = packet(request);
    let tables = Snapshot::new(sync, request);
    let mut plan = Plan::boxed();
    let mut counters = PortCounters::default();
    plan.begin(&packet, 0);
    let grouped = group(
        &mut buffer,
        &packet,
        &settings,
        &tables,
        Memory {
            plan: &mut plan,
            scratch: &mut Scratch::boxed(),
            work: &mut Work::boxed(),
        },
        &mut counters,
    );
    if grouped.is_none() {
        bail!("the length {} is too short for the list", packet.total_len);
    }

    let why = |destination: &Destination| sync.lookup(destination.address).why;
    let mut copies = Vec::new();
    for b in 0..plan.branch_count {
        if plan.copy_of(b).is_none() {
            continue;
        }
        copies.push(branch(&plan, b, request, &tables, sync, ports, why));
    }
    Ok(Explain {
        skipped: skipped(&plan, request, &settings, &tables, why),
        path: match plan.copies {
            0 => Path::None,
            1 => Path::Single,
            _ if is_installed(&plan.subset) => Path::Broadcast,
            _ => Path::Recirculate,
        },
        copies,
    })
}

/// A packet with the request's list, as the ingress check would have accepted it.
fn packet(request: &ExplainRequest) -> (Buffer, Packet) {
    let count = request.destinations.len() as u8;
    let with_ports = request.destinations.iter().any(|d| d.port.is_some());
    let flags = if with_ports { FLAG_P } else { 0 } | if request.x { FLAG_X } else { 0 };
    let header_len = 4 * header_words(u32::from(count), flags) as u16;
    let shortest = IPV4_LEN as u16 + header_len + 8;
    let total_len = request.length.unwrap_or(shortest).max(shortest);
    let mut frame = vec![0; XCAST_AT - IPV4_LEN + total_len as usize];
    frame[ipv4::SOURCE..ipv4::SOURCE + 4].copy_from_slice(&request.source.octets());
    frame[xcast::VERSION_FLAGS] = VERSION << 4 | flags;
    frame[xcast::DEST_COUNT] = count;
    frame[xcast::PROTOCOL] = transport::UDP;
    for i in 0..count as usize {
        frame[xcast::BITMAP + i / 8] |= 0x80 >> (i % 8);
    }
    let list = xcast::BITMAP + 4 * (count as usize).div_ceil(32);
    let port_list = list + 4 * count as usize;
    for (i, destination) in request.destinations.iter().enumerate() {
        frame[list + 4 * i..][..4].copy_from_slice(&destination.address.octets());
        if with_ports {
            let port = destination.port.unwrap_or(0).to_be_bytes();
            frame[port_list + 2 * i..][..2].copy_from_slice(&port);
        }
    }
    let packet = Packet {
        total_len,
        header_len,
        dest_count: count,
        flags,
        ttl: 64,
        to_own: false,
    };
    (Buffer::new(&frame), packet)
}

/// What the maps say about one packet's destinations.
struct Snapshot {
    routes: HashMap<Be32, u32>,
    next_hops: HashMap<u32, NextHop>,
    ecmp: HashMap<u16, EcmpGroup>,
}

impl Snapshot {
    fn new(sync: &RouteSync, request: &ExplainRequest) -> Self {
        let mut snapshot = Self {
            routes: HashMap::new(),
            next_hops: HashMap::new(),
            ecmp: HashMap::new(),
        };
        for destination in &request.destinations {
            let id = sync.lookup(destination.address).next_hop;
            snapshot.routes.insert(Be32::from(destination.address), id);
            let Some(entry) = sync.next_hop(id) else {
                continue;
            };
            snapshot.next_hops.insert(id, entry);
            if let Some(buckets) = sync.ecmp_buckets(id) {
                snapshot.ecmp.insert(entry.ecmp_group, *buckets);
                for &member in &buckets.buckets {
                    if let Some(entry) = sync.next_hop(member) {
                        snapshot.next_hops.insert(member, entry);
                    }
                }
            }
        }
        snapshot
    }
}

impl Tables for Snapshot {
    fn route(&self, address: Be32) -> u32 {
        self.routes.get(&address).copied().unwrap_or(0)
    }

    fn next_hop(&self, id: u32) -> Option<&NextHop> {
        self.next_hops.get(&id)
    }

    fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32> {
        self.ecmp.get(&group)?.buckets.get(bucket as usize).copied()
    }

    fn address_flags(&self, _: Be32) -> u32 {
        0
    }
}

fn branch(
    plan: &Plan,
    b: u8,
    request: &ExplainRequest,
    tables: &Snapshot,
    sync: &RouteSync,
    ports: &Ports,
    why: impl Fn(&Destination) -> String,
) -> Branch {
    let at = b as usize % BRANCH_SLOTS;
    let mut destinations = Vec::new();
    let mut i = plan.branches[at].last;
    while i != NONE {
        destinations.push(request.destinations[i as usize]);
        i = plan.destinations[i as usize].previous;
    }
    destinations.reverse();
    let id = u32::from(plan.branches[at].next_hop);
    let entry = tables.next_hop(id).filter(|_| id < MAX_NEXT_HOPS);
    let to_stack = plan.branches[at].port == PORT_STACK;
    let form = if to_stack {
        Form::Stack
    } else if destinations.len() == 1 && !request.x {
        Form::Unicast
    } else {
        Form::Xcast
    };
    let reason = match form {
        Form::Stack if id == NEXT_HOP_STACK_MTU => ": the copy exceeds the egress MTU".to_owned(),
        Form::Stack => format!(": {}", stack_reason(entry)),
        Form::Xcast | Form::Unicast => String::new(),
    };
    Branch {
        port: if to_stack {
            "kernel stack".to_owned()
        } else {
            ports.name(plan.branches[at].port).unwrap_or("?").to_owned()
        },
        next_hop: sync
            .next_hops()
            .find(|next_hop| next_hop.id == id)
            .and_then(|next_hop| next_hop.address),
        mac: entry
            .filter(|entry| entry.kind == NextHopKind::Forward as u8)
            .map(|entry| mac_text(entry.destination_mac)),
        form,
        why: destinations.first().map(why).unwrap_or_default() + &reason,
        destinations,
    }
}

/// Name of the counter that says why a next hop is the kernel stack.
fn stack_reason(entry: Option<&NextHop>) -> &'static str {
    entry
        .and_then(|entry| counter::NAMES.get(usize::from(entry.reason)).copied())
        .unwrap_or("kernel stack")
}

/// The destinations that are in no branch, and the counter that says why: found by asking about
/// each one alone, since the counters of a whole list do not say which is which.
fn skipped(
    plan: &Plan,
    request: &ExplainRequest,
    settings: &Settings,
    tables: &Snapshot,
    why: impl Fn(&Destination) -> String,
) -> Vec<Skipped> {
    (0..request.destinations.len())
        .filter(|&i| plan.served_by(i).is_none())
        .map(|i| {
            let destination = request.destinations[i];
            let alone = ExplainRequest {
                destinations: vec![destination],
                ..request.clone()
            };
            let (mut buffer, packet) = packet(&alone);
            let mut plan = Plan::boxed();
            let mut counters = PortCounters::default();
            plan.begin(&packet, 0);
            group(
                &mut buffer,
                &packet,
                settings,
                tables,
                Memory {
                    plan: &mut plan,
                    scratch: &mut Scratch::boxed(),
                    work: &mut Work::boxed(),
                },
                &mut counters,
            );
            let reason = counters.counts.iter().position(|&count| count != 0);
            let reason = match reason.and_then(|index| counter::NAMES.get(index)) {
                Some(name) => *name,
                // Alone it would have been served: so it was in the list before.
                None => counter::Counter::SkipDuplicate.name(),
            };
            Skipped {
                destination,
                why: format!("{reason}: {}", why(&destination)),
            }
        })
        .collect()
}
