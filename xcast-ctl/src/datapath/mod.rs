//! The programs in the kernel and their maps: the shell around what route synchronisation decides.
//!
//! [`Datapath`] loads the programs, writes edits into maps, and attaches ports. [`fanouts`] keeps
//! the device maps that copies are made with, off the fast path. [`pair`] owns the veth pair
//! through which packets reach the kernel stack, come round once more, or originate here. [`routes`]
//! is the route map.

pub mod drops;
pub mod fanouts;
pub mod pair;
pub mod routes;
mod sys;

use std::{
    collections::HashMap,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::Ordering,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, ProgramArray,
        RingBuf,
        lpm_trie::Key,
        xdp::{DevMap, XdpMapError},
    },
    programs::{ProgramError, ProgramFd, Xdp, XdpMode, xdp::XdpLinkId},
};
use ipnet::IpNet;
use thiserror::Error;
use xcast_common::{
    maps::{
        EcmpGroup, FanoutKey, GROUP_PRESETS, MAX_PORTS, NEXT_HOP_STACK_MTU, NextHop, NextHopKind,
        PORT_PLACES, PORT_STACK, PeerSource, Port, PortCounters, PresetFanout, SLOT_GROUPS,
        Settings, counter::Counter, lpm, port_place,
    },
    wire::{Be32, Be128, address::Address},
};

use self::{
    drops::DropLog,
    fanouts::Fanouts,
    routes::{Full, Mapping, Maps, RouteMap},
};

/// The BPF object file, compiled by the build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xcast"));

/// Why the datapath could not be set up or changed.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The object file could not be loaded: no privilege, or a kernel without BPF.
    #[error("cannot load the BPF programs' maps (needs root and a kernel with BPF)")]
    Load(#[source] aya::EbpfError),
    /// A program was refused.
    #[error("the kernel refused the BPF program `{name}`")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The object file lacks something: it is not the one this controller was built with.
    #[error("the BPF object has no `{0}`; rebuild xcast-ctl")]
    Missing(&'static str),
    /// A map could not be written.
    #[error("cannot write the BPF map `{map}`")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A device map could not be written.
    #[error("cannot write the BPF device map `{map}`")]
    DeviceMap {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: XdpMapError,
    },
    /// Other interfaces are at all places where this one may be in the port table.
    #[error("no place for interface index {0} in the port table; recreate the interface")]
    PortTableFull(u32),
    /// The route map cannot grow.
    #[error("cannot add a route to the datapath; its destinations follow the next shorter prefix")]
    Routes(#[source] Full),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The loaded programs and their maps.
pub struct Datapath {
    ebpf: Ebpf,
    routes: RouteMap,
    routes6: RouteMap,
    /// `REVISION`.
    revision: Mapping,
    next_hops: Array<MapData, NextHop>,
    ecmp_groups: Array<MapData, EcmpGroup>,
    addresses: BpfHashMap<MapData, Be32, u32>,
    addresses6: BpfHashMap<MapData, Be128, u32>,
    udp_sources: LpmTrie<MapData, PeerSource<Be32>, u32>,
    udp_sources6: LpmTrie<MapData, PeerSource<Be128>, u32>,
    /// Forgotten by the kernel when the last program of user space lets go of it.
    _programs: ProgramArray<MapData>,
    ports: Array<MapData, Port>,
    /// The port table's places in use, with the interface indices there.
    places: HashMap<u32, u32>,
    counters: PerCpuArray<MapData, PortCounters>,
    /// Packets by usual set of ports.
    planned: PerCpuArray<MapData, [u64; GROUP_PRESETS]>,
    devices: DevMap<MapData>,
    devices_fd: OwnedFd,
    attached: HashMap<u8, XdpLinkId>,
    fanouts: Fanouts,
    stack_macs: Macs,
}

/// Link layer addresses of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// Of the receiver.
    pub destination: [u8; 6],
    /// Of the sender.
    pub source: [u8; 6],
}

impl Datapath {
    /// Loads programs and maps. `subsets` is the number of exact subsets of ports to keep device
    /// maps for; `stack_macs` go onto copies for the kernel stack.
    ///
    /// # Errors
    ///
    /// Needs root (CAP_BPF, CAP_NET_ADMIN) and Linux 5.14 or newer.
    pub fn load(
        settings: &Settings,
        subsets: u32,
        stack_macs: Macs,
    ) -> Result<Self, DatapathError> {
        // The kernel removes logging that can never be reached.
        let level = if tracing::enabled!(tracing::Level::DEBUG) {
            aya_log::Level::Debug as u8
        } else {
            0
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("SETTINGS", settings, true)
            .override_global(aya_log::LEVEL, &level, true)
            .load(PROGRAMS)
            .map_err(DatapathError::Load)?;
        // The program in the device maps' entries has to be there before the entries.
        let copy_program = load_program(&mut ebpf, "xcast_copy")?;
        load_program(&mut ebpf, "xcast")?;
        let mut programs: ProgramArray<_> = typed(&mut ebpf, "IPV6")?;
        if settings.ipv6 != 0 {
            let program = load_program(&mut ebpf, "xcast6")?;
            programs.set(0, &program, 0).map_err(map("IPV6"))?;
        }
        let fanouts = Fanouts::start(
            typed(&mut ebpf, "SUBSETS")?,
            map_fd(&ebpf, "FANOUTS")?,
            map_fd(&ebpf, "USUAL")?,
            copy_program,
            subsets,
        )?;
        let devices_fd = map_fd(&ebpf, "DEVICES")?;
        let routes = route_map::<Be32>(&ebpf, "ROUTE_ROOT", "ROUTE_SEGMENTS", "ROUTE_BLOCKS")?;
        let routes6 = route_map::<Be128>(&ebpf, "ROUTE_ROOT6", "ROUTE_SEGMENTS6", "ROUTE_BLOCKS6")?;
        let revision = Mapping::new(map_fd(&ebpf, "REVISION")?.as_fd(), 1).map_err(|source| {
            DatapathError::System {
                what: "cannot map the tables' revision",
                source,
            }
        })?;
        let mut datapath = Self {
            devices_fd,
            routes,
            routes6,
            revision,
            next_hops: typed(&mut ebpf, "NEXT_HOPS")?,
            ecmp_groups: typed(&mut ebpf, "ECMP_GROUPS")?,
            addresses: typed(&mut ebpf, "ADDRESSES")?,
            addresses6: typed(&mut ebpf, "ADDRESSES6")?,
            udp_sources: typed(&mut ebpf, "UDP_SOURCES")?,
            udp_sources6: typed(&mut ebpf, "UDP_SOURCES6")?,
            _programs: programs,
            ports: typed(&mut ebpf, "PORTS")?,
            counters: typed(&mut ebpf, "COUNTERS")?,
            planned: typed(&mut ebpf, "PLANNED")?,
            devices: typed(&mut ebpf, "DEVICES")?,
            attached: HashMap::new(),
            places: HashMap::new(),
            fanouts,
            stack_macs,
            ebpf,
        };
        datapath.set_next_hop(NEXT_HOP_STACK_MTU, NextHop::stack(Counter::StackMtu))?;
        Ok(datapath)
    }

    /// Writes a next-hop entry.
    pub fn set_next_hop(&mut self, id: u32, mut entry: NextHop) -> Result<(), DatapathError> {
        if entry.kind == NextHopKind::Stack as u8 {
            entry.port = PORT_STACK;
            entry.destination_mac = self.stack_macs.destination;
            entry.source_mac = self.stack_macs.source;
        }
        self.change(|this| this.next_hops.set(id, entry, 0).map_err(map("NEXT_HOPS")))
    }

    /// Writes an ECMP group.
    pub fn set_ecmp(&mut self, group: u16, entry: &EcmpGroup) -> Result<(), DatapathError> {
        let done = self.change(|this| this.ecmp_groups.set(u32::from(group), *entry, 0));
        done.map_err(map("ECMP_GROUPS"))
    }

    /// Adds or changes a route: `None` as the next hop removes it. The programs may see it only
    /// after [`publish_routes`](Self::publish_routes).
    pub fn set_route(&mut self, prefix: IpNet, next_hop: Option<u32>) -> Result<(), DatapathError> {
        self.change(|this| {
            let routes = match prefix {
                IpNet::V4(_) => &mut this.routes,
                IpNet::V6(_) => &mut this.routes6,
            };
            routes.set(prefix, next_hop).map_err(DatapathError::Routes)
        })
    }

    /// Makes sure that the programs see all routes as they were set.
    pub fn publish_routes(&mut self) -> Result<(), DatapathError> {
        self.change(|this| {
            let published = [this.routes.publish(), this.routes6.publish()];
            let all: std::io::Result<()> = published.into_iter().collect();
            all.map_err(|source| DatapathError::System {
                what: "cannot put a segment into a route map",
                source,
            })
        })
    }

    /// Changes something that plans are made from, and tells the programs that they know nothing of it any more. While
    /// it is being changed, no plan is used for another packet: it has a port from before, and takes a next
    /// hop's addresses from after.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        self.revise();
        let done = change(self);
        self.revise();
        done
    }

    /// Raises the tables' revision.
    fn revise(&self) {
        // In order with the change on both sides. A processor that reorders loads may all the same let a program see an
        // entry from before and the revision from after; such a plan ends with the next revision, which is at most
        // a second away, since routes are published that often.
        self.revision.words()[0].fetch_add(1, Ordering::SeqCst);
    }

    /// Memory the route map shares with the programs, in octets.
    pub fn route_bytes(&self) -> usize {
        self.routes.shared_bytes() + self.routes6.shared_bytes()
    }

    /// Adds or changes an own or anycast address: `None` as the flags removes it.
    pub fn set_address(
        &mut self,
        address: IpAddr,
        flags: Option<u32>,
    ) -> Result<(), DatapathError> {
        match address {
            IpAddr::V4(address) => {
                set_flags(&mut self.addresses, Be32::from(address), flags).map_err(map("ADDRESSES"))
            }
            IpAddr::V6(address) => set_flags(&mut self.addresses6, Be128::from(address), flags)
                .map_err(map("ADDRESSES6")),
        }
    }

    /// Lets a peer send packets with these sources inside UDP, besides packets of its own. Sources
    /// of the other family than the peer's never come to pass.
    ///
    /// # Errors
    ///
    /// There are more than [`MAX_UDP_SOURCES`](xcast_common::maps::MAX_UDP_SOURCES) of a family.
    pub fn allow_source(&mut self, peer: IpAddr, sources: IpNet) -> Result<(), DatapathError> {
        let len = sources.prefix_len();
        match (peer, sources.network()) {
            (IpAddr::V4(peer), IpAddr::V4(source)) => {
                let key = source_key(Be32::from(peer), Be32::from(source), len);
                self.udp_sources
                    .insert(&key, 1, 0)
                    .map_err(map("UDP_SOURCES"))
            }
            (IpAddr::V6(peer), IpAddr::V6(source)) => {
                let key = source_key(Be128::from(peer), Be128::from(source), len);
                self.udp_sources6
                    .insert(&key, 1, 0)
                    .map_err(map("UDP_SOURCES6"))
            }
            _ => Ok(()),
        }
    }

    /// Makes an interface known under a slot, so that copies can leave by it: single ones at once,
    /// fan-outs as soon as their device maps are installed in the background.
    pub fn add_device(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        let program = program(&mut self.ebpf, "xcast_copy")?;
        let fd = program.fd().map_err(program_error("xcast_copy"))?;
        self.devices
            .set(u32::from(port.slot), ifindex, Some(fd), 0)
            .map_err(|source| DatapathError::DeviceMap {
                map: "DEVICES",
                source,
            })?;
        self.update_device(ifindex, port)?;
        self.fanouts.set_device(port.slot, Some(ifindex));
        Ok(())
    }

    /// Changes what is known of an interface that is a port already.
    pub fn update_device(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        let is = |place: &u32, found| self.places.get(place).copied() == found;
        let mut places = (0..PORT_PLACES).map(|attempt| port_place(ifindex, attempt));
        let place = places
            .clone()
            .find(|place| is(place, Some(ifindex)))
            .or_else(|| places.find(|place| is(place, None)))
            .ok_or(DatapathError::PortTableFull(ifindex))?;
        self.places.insert(place, ifindex);
        let entry = Port { ifindex, ..port };
        self.ports.set(place, entry, 0).map_err(map("PORTS"))
    }

    /// Attaches the ingress program to an interface, in native mode.
    ///
    /// # Errors
    ///
    /// The driver may have no native XDP, another XDP program may be attached already, or the MTU
    /// may be too large for linear frames.
    pub fn attach(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        let link = self
            .program("xcast")?
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .map_err(program_error("xcast"))?;
        self.attached.insert(slot, link);
        Ok(())
    }

    /// Forgets an interface: detaches the program if the interface still exists, and takes its
    /// device out of the maps.
    pub fn remove_device(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        if let Some(link) = self.attached.remove(&slot) {
            // The interface may be gone, and the link with it.
            let _ = self.program("xcast")?.detach(link);
        }
        self.fanouts.set_device(slot, None);
        // The kernel removed the entry itself if the interface is gone.
        let _ = sys::map_delete(self.devices_fd.as_fd(), u32::from(slot));
        let place = self.places.iter().find(|(_, index)| **index == ifindex);
        if let Some((&place, _)) = place {
            self.places.remove(&place);
            self.ports
                .set(place, Port::default(), 0)
                .map_err(map("PORTS"))?;
        }
        Ok(())
    }

    /// Waits until every device map that was asked for so far is in place.
    pub fn wait_for_fanouts(&self) {
        self.fanouts.wait();
    }

    /// Subsets of ports with a device map of their own, beside the usual ones.
    pub fn subsets_installed(&self) -> usize {
        self.fanouts.installed()
    }

    /// Whether copies for this subset are made by one broadcast now.
    pub fn has_subset(&self, key: &FanoutKey) -> bool {
        self.fanouts.has(key)
    }

    /// Asks for device maps of these subsets, in the background.
    pub fn install_subsets(&self, keys: Vec<FanoutKey>) {
        self.fanouts.install(keys);
    }

    /// The ring in which the programs report subsets without a device map. Can be taken once.
    pub fn take_misses(&mut self) -> Result<RingBuf<MapData>, DatapathError> {
        typed(&mut self.ebpf, "MISSES")
    }

    /// The programs' log of dropped packets; `None` unless debugging is on. Can be taken once.
    pub fn take_drop_log(&mut self) -> Option<DropLog> {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return None;
        }
        drops::open(&mut self.ebpf)
            .inspect_err(|error| tracing::debug!("no log of dropped packets: {error}"))
            .ok()
    }

    /// Counters of every slot, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<PortCounters>, DatapathError> {
        let mut all = vec![PortCounters::default(); MAX_PORTS];
        for (slot, sum) in (0..).zip(&mut all) {
            let per_cpu = self.counters.get(&slot, 0).map_err(map("COUNTERS"))?;
            for cpu in per_cpu.iter() {
                for (total, count) in sum.counts.iter_mut().zip(cpu.counts) {
                    *total += count;
                }
            }
        }
        // The programs count the copies of usual sets of ports by set.
        for group in 0..SLOT_GROUPS as u32 {
            let per_cpu = self.planned.get(&group, 0).map_err(map("PLANNED"))?;
            for cpu in per_cpu.iter() {
                for (index, packets) in (0..).zip(cpu).filter(|(_, packets)| **packets != 0) {
                    for slot in PresetFanout::slots_of(group, index) {
                        all[slot].add_index(Counter::Planned as u8, *packets);
                    }
                }
            }
        }
        Ok(all)
    }

    /// A program, for tests that run it on packets of their own.
    pub fn program(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        program(&mut self.ebpf, name)
    }
}

/// Loads a program and returns a file descriptor for it.
fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, DatapathError> {
    let program = program(ebpf, name)?;
    program.load().map_err(program_error(name))?;
    let fd = program.fd().map_err(program_error(name))?;
    fd.try_clone().map_err(|source| DatapathError::System {
        what: "cannot duplicate a program's file descriptor",
        source,
    })
}

/// A map of the object file, with its types.
fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    let found = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    T::try_from(found).map_err(map(name))
}

/// The route map that lies in these maps.
fn route_map<A: lpm::Key>(
    ebpf: &Ebpf,
    root: &'static str,
    segments: &'static str,
    blocks: &'static str,
) -> Result<RouteMap, DatapathError> {
    let root = map_fd(ebpf, root)?;
    let maps = Maps {
        root: root.as_fd(),
        segments: map_fd(ebpf, segments)?,
        blocks: map_fd(ebpf, blocks)?,
    };
    RouteMap::new(maps, A::ROOT_BITS).map_err(|source| DatapathError::System {
        what: "cannot map a route map",
        source,
    })
}

/// A file descriptor of a map, for what aya has no call for.
fn map_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let (Map::Array(data) | Map::ArrayOfMaps(data) | Map::DevMap(data)) =
        ebpf.map(name).ok_or(DatapathError::Missing(name))?
    else {
        return Err(DatapathError::Missing(name));
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::System {
            what: "cannot duplicate a map's file descriptor",
            source,
        })
}

fn map(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { map: name, source }
}

fn program_error(name: &'static str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::Program { name, source }
}

fn source_key<A: Address>(peer: A, source: A, prefix_len: u8) -> Key<PeerSource<A>>
where
    PeerSource<A>: aya::Pod,
{
    let bits = PeerSource::<A>::PEER_BITS + u32::from(prefix_len);
    Key::new(bits, PeerSource { peer, source })
}

fn set_flags<A: aya::Pod>(
    addresses: &mut BpfHashMap<MapData, A, u32>,
    address: A,
    flags: Option<u32>,
) -> Result<(), MapError> {
    match flags {
        Some(flags) => addresses.insert(address, flags, 0),
        None => ignore_missing(addresses.remove(&address)),
    }
}

/// What is not there need not be removed.
fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(DatapathError::Missing(name))?
        .try_into()
        .map_err(program_error(name))
}
