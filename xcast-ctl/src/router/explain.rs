//! What the router would do with a packet: the datapath's own code, run on a packet made up for
//! the question.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use xcast_common::{
    family::{Family, V4, V6},
    forward::{
        ingress::takes,
        plan::{BRANCH_SLOTS, NONE, Plan},
    },
    host::{Buffer, MemoryTables, Router},
    maps::{
        NEXT_HOP_STACK_MTU, NEXT_HOP_STACK_POLICY, NEXT_HOP_STACK_ROOM, NextHop, NextHopKind,
        PORT_STACK, Settings,
        counter::{self, Counter},
    },
    packet::{Packet, Reject},
    wire::{
        Be16, ETH_LEN, FLAG_P, FLAG_X, address::Address as _, frame::Frame as _, transport, udp,
    },
};

use super::ports::Ports;
use crate::{
    config::Config,
    control::ExplainRequest,
    datapath::Datapath,
    report::{Arrival, Branch, Destination, Explain, Form, Path, Skipped, mac_text},
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
    datapath: &Datapath,
) -> Result<Explain> {
    let is_ipv6 = |address: &IpAddr| address.is_ipv6();
    let mut addresses = request.destinations.iter().map(|d| d.address);
    let other = addresses.find(|address| is_ipv6(address) != is_ipv6(&request.source));
    if let Some(other) = other {
        bail!(
            "a packet has one address family: {} and {other} do not go together; ask about each \
             family by itself",
            request.source
        );
    }
    match request.source {
        IpAddr::V4(_) => explain_family::<V4>(request, config, sync, ports, datapath),
        IpAddr::V6(_) if config.code_points.ipv6.is_none() => {
            bail!("this router does not forward Xcast6: code_points.group6 is not configured")
        }
        IpAddr::V6(_) => explain_family::<V6>(request, config, sync, ports, datapath),
    }
}

fn explain_family<F: Family>(
    request: &ExplainRequest,
    config: &Config,
    sync: &RouteSync,
    ports: &Ports,
    datapath: &Datapath,
) -> Result<Explain> {
    let count = request.destinations.len();
    let most = F::MAX_DESTINATIONS;
    if !(1..=most).contains(&count) {
        bail!("{count} destinations; a packet carries 1 to {most}");
    }
    let settings = config.settings([0; 2]);
    let tables = tables(sync, request, datapath);
    if let Some(name) = &request.ingress
        && !ports.ports.iter().any(|port| port.interface == *name)
        && *name != config.router.interface
    {
        bail!("{name} is no port of this router: name one of the configuration");
    }
    let ingress = request.ingress.as_deref();
    let receiver = ingress.map(|name| ports.receiver(name).unwrap_or(name));
    let policy = sync.stack_policy(request.source, receiver);
    let to_stack = policy.is_some();
    let (mut buffer, packet) = packet::<F>(request, to_stack).context("mixed address families")?;
    let mut router = Router::<F>::new(settings, tables.clone());
    if router.decide(&mut buffer, &packet).is_none() {
        bail!("the length {} is too short for the list", packet.total_len);
    }
    let plan = &*router.plan;

    let why = |destination: &Destination| {
        let looked_up = sync.lookup(destination.address).why;
        match &policy {
            Some(policy) => format!("{policy}; without it: {looked_up}"),
            None => looked_up,
        }
    };
    let mut copies = Vec::new();
    for b in 0..plan.branch_count {
        if plan.copy_of(b).is_none() {
            continue;
        }
        copies.push(branch(plan, b, request, &tables, sync, ports, why));
    }
    Ok(Explain {
        skipped: skipped(plan, request, to_stack, &settings, &tables, why),
        path: match plan.copies {
            0 => Path::None,
            1 => Path::Single,
            _ if datapath.has_subset(&plan.fanout) => Path::Broadcast,
            _ => Path::Recirculate,
        },
        copies,
        arrivals: arrivals::<F>(request, config, sync, ports),
    })
}

/// Whether the packet would be taken at each port that it may arrive by.
fn arrivals<F: Family>(
    request: &ExplainRequest,
    config: &Config,
    sync: &RouteSync,
    ports: &Ports,
) -> Vec<Arrival> {
    let Ok(source) = F::Address::try_from(request.source) else {
        return Vec::new();
    };
    let mut tables = MemoryTables::default();
    let id = sync.lookup(request.source).next_hop;
    let host_len = if request.source.is_ipv4() { 32 } else { 128 };
    tables.set_route(request.source, host_len, Some(id));
    add_next_hop(&mut tables, sync, id);
    let is_wanted = |name: &str| {
        request
            .ingress
            .as_deref()
            .is_none_or(|ingress| ingress == name)
    };
    let mut rows = Vec::new();
    for (name, entry, listed) in ports.entries().filter(|(name, ..)| is_wanted(name)) {
        for prefix in listed {
            tables.allow_on_port(entry.slot, prefix.addr(), prefix.prefix_len());
        }
        let refused = match takes::<F>(source, &entry, &tables) {
            Ok(()) | Err(Reject::Pass) => None,
            Err(Reject::Drop(counter)) => Some(format!(
                "{}: {}",
                counter.name(),
                why_refused(counter, config)
            )),
        };
        rows.push(Arrival {
            port: name.to_owned(),
            refused,
        });
    }
    rows
}

/// What a reason to refuse a source means.
fn why_refused(counter: Counter, config: &Config) -> String {
    match counter {
        Counter::DropUnproven => {
            let port = config.udp.as_ref().map_or(0, |udp| udp.port.get());
            format!(
                "only sources that have proven their address are served there, inside UDP to port {port} (xcast-ctl send --relay)"
            )
        }
        Counter::DropReversePath => "the port's `source` does not permit it there".to_owned(),
        Counter::DropSpoofed => "it is an address of this router".to_owned(),
        Counter::DropNoForwarding => "the kernel forwards nothing that arrives there".to_owned(),
        _ => "nobody may have this address".to_owned(),
    }
}

/// A packet with the request's list, as the ingress check would have accepted it.
fn packet<F: Family>(request: &ExplainRequest, to_stack: bool) -> Option<(Buffer, Packet)> {
    let count = request.destinations.len() as u32;
    let with_ports = request.destinations.iter().any(|d| d.port.is_some());
    let flags = if with_ports { FLAG_P } else { 0 } | if request.x { FLAG_X } else { 0 };
    let header_len = F::header_len(count, flags) as u16;
    let shortest = F::IP_LEN as u16 + header_len + udp::HEADER_LEN as u16;
    let total_len = request.length.unwrap_or(shortest).max(shortest);
    let mut frame = Buffer::new(&vec![0; ETH_LEN + total_len as usize]);
    let view = frame.view();
    F::Address::try_from(request.source)
        .ok()?
        .write(view, F::SOURCE)?;
    let list = F::BITMAP + 4 * F::bitmap_words(count) as usize;
    let ports = F::ports_at(count, flags);
    for (i, destination) in request.destinations.iter().enumerate() {
        let bits = F::BITMAP + i / 8;
        view.set_u8(bits, view.u8(bits)? | 0x80 >> (i % 8))?;
        let address = F::Address::try_from(destination.address).ok()?;
        address.write(view, list + F::Address::LEN * i)?;
        if with_ports {
            let port = Be16::new(destination.port.unwrap_or(0));
            view.set_be16(ports + 2 * i, port)?;
        }
    }
    let packet = Packet {
        total_len,
        header_len,
        ext_len: 0,
        dest_count: count as u8,
        flags,
        ttl: 64,
        protocol: transport::UDP,
        to_own: false,
        is_verified: false,
        arrival: PORT_STACK,
        to_stack,
    };
    Some((frame, packet))
}

/// What the maps say about one packet's destinations.
fn tables(sync: &RouteSync, request: &ExplainRequest, datapath: &Datapath) -> MemoryTables {
    let mut tables = MemoryTables::default();
    if let Some(entry) = sync.next_hop(NEXT_HOP_STACK_POLICY) {
        tables.set_next_hop(NEXT_HOP_STACK_POLICY, entry);
    }
    for destination in &request.destinations {
        let address = destination.address;
        if datapath.lacks_room(address) {
            let len = if address.is_ipv4() { 32 } else { 128 };
            tables.set_route(address, len, Some(NEXT_HOP_STACK_ROOM));
            tables.set_next_hop(NEXT_HOP_STACK_ROOM, NextHop::stack(Counter::StackNoRoom));
            continue;
        }
        let id = sync.lookup(address).next_hop;
        tables.set_route(address, if address.is_ipv4() { 32 } else { 128 }, Some(id));
        add_next_hop(&mut tables, sync, id);
    }
    tables
}

/// Adds a next hop, and the members of its group.
fn add_next_hop(tables: &mut MemoryTables, sync: &RouteSync, id: u32) {
    let Some(entry) = sync.next_hop(id) else {
        return;
    };
    tables.set_next_hop(id, entry);
    if let Some(buckets) = sync.ecmp_buckets(id) {
        tables.set_ecmp(entry.group_or_tunnel, *buckets);
        for &member in &buckets.buckets {
            if let Some(entry) = sync.next_hop(member) {
                tables.set_next_hop(member, entry);
            }
        }
    }
}

fn branch<F: Family>(
    plan: &Plan<F>,
    b: u8,
    request: &ExplainRequest,
    tables: &MemoryTables,
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
    let entry = tables.next_hop(id).filter(|_| id != NEXT_HOP_STACK_MTU);
    let to_stack = plan.branches[at].port == PORT_STACK;
    let in_tunnel = entry.is_some_and(|entry| {
        let flags = if request.x { FLAG_X } else { 0 };
        entry.in_tunnel(destinations.len() as u8, flags).holds()
    });
    let tunnel = sync
        .tunnel_of_next_hop(id)
        .filter(|_| in_tunnel && !to_stack);
    let mac = match tunnel {
        Some((_, outer)) => outer.ok().map(|outer| outer.entry.destination_mac),
        None => entry
            .filter(|entry| entry.kind == NextHopKind::Forward as u8)
            .map(|entry| entry.destination_mac),
    };
    let form = if to_stack {
        Form::Stack
    } else if destinations.len() == 1 && !request.x && !in_tunnel {
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
        next_hop: match tunnel {
            Some((spec, _)) => Some(spec.remote),
            None => sync.next_hop_address(sync.without_tunnel(id)),
        },
        mac: mac.map(mac_text),
        tunnel: tunnel.map(|(spec, _)| spec.name.clone()),
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
fn skipped<F: Family>(
    plan: &Plan<F>,
    request: &ExplainRequest,
    to_stack: bool,
    settings: &Settings,
    tables: &MemoryTables,
    why: impl Fn(&Destination) -> String,
) -> Vec<Skipped> {
    (0..request.destinations.len())
        .filter(|&i| plan.served_by(i).is_none())
        .filter_map(|i| {
            let destination = request.destinations[i];
            let alone = ExplainRequest {
                destinations: vec![destination],
                ..request.clone()
            };
            let (mut buffer, packet) = packet::<F>(&alone, to_stack)?;
            let mut router = Router::<F>::new(*settings, tables.clone());
            let counters = router.decide(&mut buffer, &packet)?;
            let reason = counters.counts.iter().position(|&count| count != 0);
            let reason = match reason.and_then(|index| counter::NAMES.get(index)) {
                Some(name) => *name,
                // Alone it would have been served: so it was in the list before.
                None => Counter::SkipDuplicate.name(),
            };
            Some(Skipped {
                destination,
                why: format!("{reason}: {}", why(&destination)),
            })
        })
        .collect()
}
