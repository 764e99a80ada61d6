//! Route changes: how long after the kernel has one until packets go by it, at several rates.
//!
//! Gateways of /24 prefixes (of /48 prefixes of IPv6) are changed by netlink, as `ip route replace` does,
//! and the map that the programs read is watched in memory: it is the very one, found by the daemon's
//! program and mapped.
//! One thread sends and watches, on the CPU that is measured on; the daemon is left the others.

use std::{
    collections::{HashMap, VecDeque},
    fs, hint,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use ::tests::{family::Family, namespace::Namespace};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    maps::{ArrayOfMaps, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use fastrand::Rng;
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;
use xcast_common::{
    maps::lpm::{
        self, BLOCK_ENTRIES, Entry, POOL_BLOCKS, POOL_ENTRIES, ROOT_ENTRIES, ROOT_ENTRIES6, Reader,
        SEGMENT_ENTRIES,
    },
    wire::{Be32, Be128},
};

use crate::{
    family::{named, number},
    generator::Generator,
    measure::check_interrupt,
    progress::Progress,
    site::{self, PORTS},
    subject::router::{Path, Router},
    sys::{self, Mapped},
    table::Routes,
};

/// Changes a second.
const RATES: [u32; 3] = [100, 1000, 10_000];
/// How long each rate is kept up.
const DURATION: Duration = Duration::from_secs(3);
/// Prefixes that are changed in turns.
const PREFIXES: usize = 2000;
/// How long a change may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What changes took at a rate.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `4` or `6`.
    pub family: u8,
    /// Changes a second, as asked for.
    pub rate: u32,
    /// Changes a second, as it came out.
    pub rate_reached: f64,
    /// Routes in the table.
    pub routes: usize,
    /// Changes made.
    pub changes: usize,
    /// Microseconds from before the request until the map said so: of half of them.
    pub p50_us: f64,
    /// Of 99 in a hundred.
    pub p99_us: f64,
    /// Of all.
    pub max_us: f64,
    /// CPU time of the controller, in per cent of one CPU.
    pub controller_cpu_percent: f64,
    /// Resident memory of the controller, in octets.
    pub controller_rss_bytes: u64,
    /// Whether every change came to the map.
    pub delivered: bool,
}

/// Measures all rates on a router with a table of so many routes of a family.
///
/// # Errors
///
/// Needs root; or the router does not follow.
pub fn measure(
    generator: &mut Generator,
    family: Family,
    cpu: usize,
    table: usize,
    progress: &mut Progress,
) -> Result<Vec<Row>> {
    progress.show("starting a router");
    let routes = Rc::new(Routes::internet(family, table, PORTS));
    let router = Router::new(generator, Path::Prepared, Rc::clone(&routes))?;
    // Or the watching thread would not let it run there.
    sys::keep_off(router.pid(), cpu)?;
    // Next-hop ids of two gateways, as the map has them.
    let map = RouteMap::of(router.pid(), family)?;
    let mut rng = Rng::with_seed(1);
    let ids = [0, 1].map(|next_hop| map.lookup(routes.address(next_hop, &mut rng)));
    let mut rows = Vec::new();
    for rate in RATES {
        progress.show(&named(&format!("{rate} changes a second"), family));
        check_interrupt()?;
        rows.push(at_rate(&router, &routes, &map, ids, rate, cpu)?);
    }
    Ok(rows)
}

fn at_rate(
    router: &Router,
    routes: &Routes,
    map: &RouteMap,
    ids: [u32; 2],
    rate: u32,
    cpu: usize,
) -> Result<Row> {
    let family = routes.family();
    let list = routes.list();
    let changed: Vec<_> = list
        .iter()
        .filter(|(prefix, _)| prefix.prefix_len() == routes.usual_length())
        .take(PREFIXES)
        .map(|route| route.0)
        .collect();
    let changes: Vec<_> = (0..2)
        .flat_map(|next_hop| {
            changed.iter().map(move |&prefix| Change {
                address: last_address(prefix),
                request: request(prefix, site::address(family, site::gateway(next_hop))),
                id: ids[next_hop],
            })
        })
        .collect();
    let socket = socket(router.namespace())?;
    // All by the second gateway, so that the first turn is a change too.
    for change in &changes[changed.len()..] {
        send(&socket, &change.request)?;
    }
    complaint(&socket)?;
    let last = changes.last().context("no prefix to change")?;
    let deadline = Instant::now() + PATIENCE;
    while map.lookup(last.address) != last.id {
        ensure!(Instant::now() < deadline, "the router does not follow");
        std::thread::sleep(Duration::from_millis(1));
    }

    let before = cpu_time(router.pid())?;
    let start = Instant::now();
    let count = (f64::from(rate) * DURATION.as_secs_f64()) as usize;
    let latencies = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                sys::pin(cpu)?;
                follow(map, &socket, &changes, rate, count)
            })
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the watching thread panicked")))
    })?;
    let elapsed = start.elapsed();
    let used = cpu_time(router.pid())? - before;
    complaint(&socket)?;

    let mut us: Vec<_> = latencies
        .iter()
        .map(|one| one.as_secs_f64() * 1e6)
        .collect();
    us.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let index = ((us.len() as f64 * share).ceil() as usize).max(1) - 1;
        us.get(index).copied().unwrap_or(f64::NAN)
    };
    Ok(Row {
        family: number(family),
        rate,
        rate_reached: count as f64 / elapsed.as_secs_f64(),
        routes: routes.len(),
        changes: count,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        max_us: quantile(1.0),
        controller_cpu_percent: 100.0 * used.as_secs_f64() / elapsed.as_secs_f64(),
        controller_rss_bytes: router.rss_bytes()?,
        delivered: latencies.len() == count,
    })
}

/// An address that a prefix decides about: longer ones tend to be at its beginning.
fn last_address(prefix: IpNet) -> IpAddr {
    prefix.broadcast()
}

/// A change to make.
struct Change {
    address: IpAddr,
    request: Vec<u8>,
    /// What the map says when it is made.
    id: u32,
}

/// Makes changes at a rate and waits for each; returns how long those took that came, in the order
/// they were made.
fn follow(
    map: &RouteMap,
    socket: &Socket,
    changes: &[Change],
    rate: u32,
    count: usize,
) -> Result<Vec<Duration>> {
    let interval = Duration::from_secs(1) / rate;
    let start = Instant::now();
    let mut under_way = VecDeque::new();
    let mut latencies = Vec::with_capacity(count);
    let mut made = 0;
    loop {
        let now = Instant::now();
        if made < count && now >= start + interval * made as u32 {
            let change = &changes[made % changes.len()];
            send(socket, &change.request)?;
            under_way.push_back((now, change));
            made += 1;
        }
        // The router makes them in the order it is told, so only the next one needs watching.
        while let Some(&(since, change)) = under_way.front() {
            if map.lookup(change.address) != change.id {
                if since.elapsed() > PATIENCE {
                    return Ok(latencies);
                }
                break;
            }
            latencies.push(since.elapsed());
            under_way.pop_front();
        }
        if made == count && under_way.is_empty() {
            return Ok(latencies);
        }
        hint::spin_loop();
    }
}

/// The route map of a running router, mapped into this process.
struct RouteMap {
    root: Mapped<u32>,
    segments: HashMap<u32, Mapped<u32>>,
    pools: HashMap<u32, Mapped<u32>>,
}

// SAFETY: the mappings belong to the value and are only read, word by word.
unsafe impl Sync for RouteMap {}

impl RouteMap {
    fn of(pid: Pid, family: Family) -> Result<Self> {
        // The kernel keeps 15 octets of a name.
        let (program, names, root_entries) = match family {
            Family::Ipv4 => (
                "xcast",
                ["ROUTE_ROOT", "ROUTE_SEGMENTS", "ROUTE_BLOCKS"],
                ROOT_ENTRIES,
            ),
            Family::Ipv6 => (
                "xcast6",
                ["ROUTE_ROOT6", "ROUTE_SEGMENTS6", "ROUTE_BLOCKS6"],
                ROOT_ENTRIES6,
            ),
        };
        let [root, segments, pools] = names.map(|name| find_map(pid, program, name));
        Ok(Self {
            root: Mapped::new(MapData::from_id(root?)?.fd(), root_entries)?,
            segments: inner_maps(segments?, SEGMENT_ENTRIES)?,
            pools: inner_maps(pools?, POOL_ENTRIES)?,
        })
    }

    fn lookup(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => lpm::lookup(self, Be32::from(address)),
            IpAddr::V6(address) => lpm::lookup(self, Be128::from(address)),
        }
    }
}

impl Reader for RouteMap {
    fn root(&self, index: u32) -> Option<Entry> {
        self.root.read(index as usize).map(Entry::from_word)
    }

    fn segment(&self, segment: u32, index: u32) -> Option<Entry> {
        let segment = self.segments.get(&segment)?;
        segment.read(index as usize).map(Entry::from_word)
    }

    fn entry(&self, block: u32, index: u32) -> Option<Entry> {
        let pool = self.pools.get(&(block / POOL_BLOCKS as u32))?;
        let first = block as usize % POOL_BLOCKS * BLOCK_ENTRIES;
        pool.read(first + index as usize).map(Entry::from_word)
    }
}

/// The arrays in a map of maps, mapped.
fn inner_maps(id: u32, words: usize) -> Result<HashMap<u32, Mapped<u32>>> {
    let outer: ArrayOfMaps<MapData> = Map::from_map_data(MapData::from_id(id)?)?.try_into()?;
    let mut maps = HashMap::new();
    for index in 0..outer.len() {
        if let Ok(map) = outer.get(&index, 0) {
            maps.insert(index, Mapped::new(map.fd(), words)?);
        }
    }
    Ok(maps)
}

/// Id of a map of one of a router's programs.
fn find_map(pid: Pid, program: &str, name: &str) -> Result<u32> {
    let mut held = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        held.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    for loaded in loaded_programs() {
        let loaded = loaded?;
        if !held.contains(&loaded.id()) || loaded.name_as_str() != Some(program) {
            continue;
        }
        let ids = loaded.map_ids()?;
        for id in ids.context("this kernel does not tell a program's maps")? {
            if MapInfo::from_id(id)?.name_as_str() == Some(name) {
                return Ok(id);
            }
        }
    }
    bail!("process {pid} has no program {program} with a map {name}")
}

/// `ip route replace PREFIX via GATEWAY`, as a netlink message.
fn request(prefix: IpNet, gateway: IpAddr) -> Vec<u8> {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: match prefix {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        },
        destination_prefix_length: prefix.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let address = |address| match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    route.attributes = vec![
        RouteAttribute::Destination(address(prefix.network())),
        RouteAttribute::Gateway(address(gateway)),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::NewRoute(route));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn socket(namespace: &Namespace) -> Result<Socket> {
    namespace.enter(|| {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    })
}

fn send(socket: &Socket, request: &[u8]) -> Result<()> {
    socket.send(request, 0).context("cannot change a route")?;
    Ok(())
}

/// An error if the kernel refused any of the requests, which were sent without asking for an answer.
fn complaint(socket: &Socket) -> Result<()> {
    match socket.recv_from_full() {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("the kernel refused to change a route"),
    }
}

/// CPU time that a process has used.
fn cpu_time(pid: Pid) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, a name in parentheses, may contain anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second))
}
