//! Route maps by themselves: what finding a destination's next hop takes.
//!
//! Three maps with the same routes: the router's own (`xcast`), the kernel's `lpm_trie`, and `flat`,
//! a table of all 24-bit prefixes in 64 MiB, as the bound of what one load can do; the first two
//! also with routes of IPv6. Each run of a BPF
//! program looks up 256 addresses; the time of one that only reads them is taken off.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    thread,
    time::Instant,
};

use ::tests::family::Family;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, LpmTrie, Map, MapData, lpm_trie::Key},
    programs::ProgramFd,
};
use fastrand::Rng;
use ipnet::IpNet;
use serde::Serialize;
use xcast_common::maps::lpm::{ROOT_BITS, ROOT_BITS6};
use xcast_ctl::datapath::routes::{Maps, RouteMap};

use crate::{
    family::number,
    measure::{Effort, Summary, check_interrupt},
    programs,
    progress::Progress,
    shared::{MAX_RUNS, ROWS, RUN_ADDRESSES, Tally},
    site::PORTS,
    sys::{self, Mapped},
    table::Routes,
};

/// Routes in the maps, of IPv4 and of IPv6: up to today's tables, and of IPv4 what may come.
const ROUTES: [&[usize]; 2] = [&[10, 10_000, 500_000, 1_000_000], &[10, 10_000, 200_000]];
/// Routes changed to see what a change takes.
const CHANGES: usize = 1000;
/// Different addresses looked up: so many random ones, and so few that they stay in the caches.
pub const RANDOM: usize = RUN_ADDRESSES * MAX_RUNS;
/// As many as a busy router has destinations.
pub const HOT: usize = 1000;
/// Runs over which hot addresses repeat; they are drawn from [`HOT`].
const HOT_RUNS: usize = 64;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-lookup"));

/// A map, and what looking up in it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `4` or `6`.
    pub family: u8,
    /// `xcast`, `lpm_trie`, or `flat`.
    pub map: &'static str,
    /// Routes in it.
    pub routes: usize,
    /// Different addresses that were looked up.
    pub addresses: usize,
    /// Time per address in nanoseconds, without reading it.
    pub ns_per_lookup: Summary,
    /// Memory it takes, in octets; an estimate for the trie, whose nodes nobody counts.
    pub memory_bytes: usize,
    /// Time to fill it, in milliseconds.
    pub fill_ms: f64,
    /// Time to change a /24, or a /48, in microseconds.
    pub change_us: f64,
}

/// Something to look up in.
trait Lookup {
    fn name(&self) -> &'static str;
    fn set(&mut self, prefix: IpNet, next_hop: u32) -> Result<()>;
    /// Makes sure that the programs see all of it.
    fn publish(&mut self) -> Result<()> {
        Ok(())
    }
    fn memory_bytes(&self, routes: usize) -> usize;
}

struct Own(RouteMap);

impl Lookup for Own {
    fn name(&self) -> &'static str {
        "xcast"
    }

    fn set(&mut self, prefix: IpNet, next_hop: u32) -> Result<()> {
        Ok(self.0.set(prefix, Some(next_hop))?)
    }

    fn publish(&mut self) -> Result<()> {
        Ok(self.0.publish()?)
    }

    fn memory_bytes(&self, _routes: usize) -> usize {
        self.0.shared_bytes()
    }
}

enum Kernel {
    Ipv4(LpmTrie<MapData, [u8; 4], u32>),
    Ipv6(LpmTrie<MapData, [u8; 16], u32>),
}

impl Lookup for Kernel {
    fn name(&self) -> &'static str {
        "lpm_trie"
    }

    fn set(&mut self, prefix: IpNet, next_hop: u32) -> Result<()> {
        let len = prefix.prefix_len().into();
        match (self, prefix) {
            (Self::Ipv4(map), IpNet::V4(prefix)) => {
                map.insert(&Key::new(len, prefix.network().octets()), next_hop, 0)?;
            }
            (Self::Ipv6(map), IpNet::V6(prefix)) => {
                map.insert(&Key::new(len, prefix.network().octets()), next_hop, 0)?;
            }
            _ => bail!("{prefix} is of the other family"),
        }
        Ok(())
    }

    /// A node takes 64 octets, with an IPv6 address as well, and there are up to two of them for a route (kernel/bpf/lpm_trie.c).
    fn memory_bytes(&self, routes: usize) -> usize {
        routes * 3 / 2 * 64
    }
}

struct Flat {
    rows: Mapped<[u32; 256]>,
    /// Length of the prefix that each entry is from.
    lengths: Vec<u8>,
}

impl Lookup for Flat {
    fn name(&self) -> &'static str {
        "flat"
    }

    fn set(&mut self, prefix: IpNet, next_hop: u32) -> Result<()> {
        let IpNet::V4(prefix) = prefix else {
            bail!("{prefix}: a table of 24 bits is for IPv4");
        };
        let length = prefix.prefix_len();
        ensure!(length <= 24, "{prefix} is too long for a table of 24 bits");
        let first = (prefix.network().to_bits() >> 8) as usize;
        let rows = self.rows.elements().as_flattened_mut();
        let covered = first..first + (1 << (24 - length));
        let lengths = &mut self.lengths[covered.clone()];
        for (row, longest) in rows[covered].iter_mut().zip(lengths) {
            if *longest <= length {
                *longest = length;
                *row = next_hop;
            }
        }
        Ok(())
    }

    fn memory_bytes(&self, _routes: usize) -> usize {
        ROWS * 256 * size_of::<u32>()
    }
}

/// A loaded object with one of the maps filled.
struct Contestant {
    map: Box<dyn Lookup>,
    routes: usize,
    fill_ms: f64,
    change_us: f64,
    object: Object,
}

/// The BPF side of it.
struct Object {
    addresses: Addresses,
    tally: Array<MapData, Tally>,
    program: ProgramFd,
    nothing: ProgramFd,
    // Owns the programs and the maps.
    _ebpf: Ebpf,
}

/// Rows of addresses, as a family's programs read them.
enum Addresses {
    Ipv4(Mapped<[u32; RUN_ADDRESSES]>),
    Ipv6(Mapped<[u64; RUN_ADDRESSES]>),
}

impl Addresses {
    fn write(&mut self, list: &[u64]) {
        let rows = list.chunks_exact(RUN_ADDRESSES);
        match self {
            Self::Ipv4(mapped) => {
                for (row, addresses) in mapped.elements().iter_mut().zip(rows) {
                    for (word, address) in row.iter_mut().zip(addresses) {
                        *word = *address as u32;
                    }
                }
            }
            Self::Ipv6(mapped) => {
                for (row, addresses) in mapped.elements().iter_mut().zip(rows) {
                    row.copy_from_slice(addresses);
                }
            }
        }
    }
}

/// Measures all maps, side by side.
///
/// # Errors
///
/// Needs root; or a map finds what it should not.
pub fn measure(cpu: usize, effort: Effort, progress: &mut Progress) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let cases = Family::ALL.into_iter().zip(ROUTES);
    for (family, count) in
        cases.flat_map(|(family, counts)| counts.iter().map(move |n| (family, *n)))
    {
        let routes = Routes::internet(family, count, PORTS);
        let mut contestants = Vec::new();
        let names: &[_] = match family {
            Family::Ipv4 => &["xcast", "lpm_trie", "flat"],
            Family::Ipv6 => &["xcast", "lpm_trie"],
        };
        for name in names {
            progress.show(&format!("filling {name} with {count} routes"));
            contestants.push(Contestant::new(name, &routes)?);
            check_interrupt()?;
        }
        for addresses in [RANDOM, HOT] {
            let (list, sum) = addresses_in(&routes, addresses);
            let mut ns = vec![Vec::new(); contestants.len()];
            for round in 0..effort.rounds {
                progress.show(&format!(
                    "{count} routes, {addresses} addresses: round {} of {}",
                    round + 1,
                    effort.rounds
                ));
                for (contestant, ns) in contestants.iter_mut().zip(&mut ns) {
                    check_interrupt()?;
                    ns.push(contestant.round(&list, sum, cpu)?);
                }
            }
            for (contestant, ns) in contestants.iter().zip(&ns) {
                rows.push(Row {
                    family: number(family),
                    map: contestant.map.name(),
                    routes: count,
                    addresses,
                    ns_per_lookup: Summary::of(ns).context("no rounds")?,
                    memory_bytes: contestant.map.memory_bytes(count),
                    fill_ms: contestant.fill_ms,
                    change_us: contestant.change_us,
                });
            }
        }
    }
    Ok(rows)
}

impl Contestant {
    fn new(name: &str, set: &Routes) -> Result<Self> {
        let ipv6 = set.family() == Family::Ipv6;
        let own = |name: &str| match ipv6 {
            false => name.to_owned(),
            true => format!("{name}6"),
        };
        let mut loader = EbpfLoader::new();
        if name != "flat" {
            loader.map_max_entries("FLAT", 1);
        }
        loader.map_max_entries(if ipv6 { "LOOKED_UP" } else { "LOOKED_UP6" }, 1);
        let mut ebpf = loader
            .load(PROGRAMS)
            .context("cannot load the look-up programs (needs root)")?;
        // Before any map is taken out, or the programs could not refer to it.
        let program = programs::xdp(&mut ebpf, &own(name))?.fd()?.try_clone()?;
        let nothing = programs::xdp(&mut ebpf, &own("nothing"))?
            .fd()?
            .try_clone()?;
        let mut map: Box<dyn Lookup> = match name {
            "xcast" => {
                let root = programs::array(&mut ebpf, &own("ROUTE_ROOT"))?;
                let outer = |name| match ebpf.map(&own(name)) {
                    Some(Map::ArrayOfMaps(maps)) => Ok(maps.fd().as_fd().try_clone_to_owned()?),
                    _ => anyhow::bail!("the BPF object has no map {name}"),
                };
                let maps = Maps {
                    root: root.fd().as_fd(),
                    segments: outer("ROUTE_SEGMENTS")?,
                    blocks: outer("ROUTE_BLOCKS")?,
                };
                let root_bits = match ipv6 {
                    false => ROOT_BITS,
                    true => ROOT_BITS6,
                };
                Box::new(Own(RouteMap::new(maps, root_bits)?))
            }
            "lpm_trie" => Box::new(match ipv6 {
                false => Kernel::Ipv4(programs::map(&mut ebpf, "LPM")?),
                true => Kernel::Ipv6(programs::map(&mut ebpf, "LPM6")?),
            }),
            _ => Box::new(Flat {
                rows: Mapped::new(programs::array(&mut ebpf, "FLAT")?.fd(), ROWS)?,
                lengths: vec![0; ROWS * 256],
            }),
        };
        let looked_up = programs::array(&mut ebpf, &own("LOOKED_UP"))?;
        let addresses = match ipv6 {
            false => Addresses::Ipv4(Mapped::new(looked_up.fd(), MAX_RUNS)?),
            true => Addresses::Ipv6(Mapped::new(looked_up.fd(), MAX_RUNS)?),
        };
        let routes = set.list();
        let start = Instant::now();
        for &(prefix, next_hop) in &routes {
            map.set(prefix, id(next_hop))?;
        }
        map.publish()?;
        let fill_ms = start.elapsed().as_secs_f64() * 1e3;
        let long = |route: &&(IpNet, usize)| route.0.prefix_len() == set.usual_length();
        let changed: Vec<_> = routes.iter().filter(long).take(CHANGES).collect();
        let start = Instant::now();
        // To somewhere else, and back.
        for shift in [1, 0] {
            for &&(prefix, next_hop) in &changed {
                map.set(prefix, id(next_hop) + shift)?;
            }
        }
        let change_us = start.elapsed().as_secs_f64() * 1e6 / (2 * changed.len().max(1)) as f64;
        Ok(Self {
            map,
            routes: routes.len(),
            fill_ms,
            change_us,
            object: Object {
                addresses,
                tally: programs::map(&mut ebpf, "TALLY")?,
                program,
                nothing,
                _ebpf: ebpf,
            },
        })
    }

    /// Time per address, in nanoseconds; `sum` is that of the next-hop ids of all addresses.
    fn round(&mut self, list: &[u64], sum: u64, cpu: usize) -> Result<f64> {
        let object = &mut self.object;
        let runs = list.len() / RUN_ADDRESSES;
        object.addresses.write(list);
        let tally = Tally {
            runs: runs as u32,
            ..Tally::default()
        };
        let mut time = |program: &ProgramFd| {
            object.tally.set(0, tally, 0)?;
            // The addresses that all are to be found, and as often as makes a few milliseconds.
            let repeat = (MAX_RUNS / runs * runs) as u32;
            let ns = run(program.as_fd(), repeat, cpu)?;
            Ok::<_, anyhow::Error>((f64::from(ns), object.tally.get(&0, 0)?, repeat))
        };
        let (floor, ..) = time(&object.nothing)?;
        let (ns, found, repeat) = time(&object.program)?;
        let expected = sum * (repeat as usize / runs) as u64;
        ensure!(
            found.sum == expected,
            "{} with {} routes found other next hops than it should",
            self.map.name(),
            self.routes
        );
        Ok((ns - floor) / RUN_ADDRESSES as f64)
    }
}

fn run(program: BorrowedFd<'_>, repeat: u32, cpu: usize) -> Result<u32> {
    // A thread of its own, since children would inherit its CPU and priority.
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            sys::pin(cpu)?;
            sys::run_dry(program, &[0; 64], repeat).context("cannot run a look-up program")
        });
        run.join()
            .unwrap_or_else(|_| Err(anyhow!("the look-up thread panicked")))
    })
}

/// Next-hop id of a route; 0 is no route.
fn id(next_hop: usize) -> u32 {
    next_hop as u32 + 1
}

/// Random addresses that have a route, whole rows of them, of IPv6 their first 64 bits; and the sum of
/// their next-hop ids.
fn addresses_in(routes: &Routes, different: usize) -> (Vec<u64>, u64) {
    let mut rng = Rng::with_seed(different as u64);
    let draw = |rng: &mut Rng| {
        let (address, next_hop) = routes.any_address(rng);
        let first = match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        (first, next_hop)
    };
    let list: Vec<_> = match different {
        RANDOM => (0..RANDOM).map(|_| draw(&mut rng)).collect(),
        _ => {
            let hot: Vec<_> = (0..different).map(|_| draw(&mut rng)).collect();
            (0..HOT_RUNS * RUN_ADDRESSES)
                .map(|_| hot[rng.usize(..hot.len())])
                .collect()
        }
    };
    let sum = list
        .iter()
        .filter_map(|&(_, next_hop)| next_hop.map(id))
        .map(u64::from)
        .sum();
    let addresses = list.into_iter().map(|(address, _)| address);
    (addresses.collect(), sum)
}
