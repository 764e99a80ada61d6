//! The programs in the kernel and their maps.
//!
//! [`Datapath`] loads the programs and writes what others decide. Its parts:
//!
//! * `object` finds programs and maps in the BPF object.
//! * `tables` is what the programs look up to decide about a packet, with [`routes`] for the route
//!   maps, and `revised` to tell the programs which of their plans still hold.
//! * `devices` is the interfaces, and `fanouts` the device maps that copies are made with, off the
//!   fast path.
//! * `counters` and [`rings`] are what the programs tell.
//! * [`veth`] is the pair through which packets reach the kernel stack, come round once more, or
//!   originate here.
//! * `bpf` and `mapping` are calls to the kernel that aya lacks.

mod bpf;
mod counters;
mod devices;
mod error;
mod fanouts;
mod mapping;
mod object;
mod revised;
pub mod rings;
pub mod routes;
mod tables;
pub mod veth;

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::Xdp,
};
use ipnet::IpNet;
use xcast_common::maps::{EcmpGroup, FanoutKey, NextHop, Port, PortCounters, Settings};

use self::{
    counters::Counters,
    devices::Devices,
    error::map,
    fanouts::Fanouts,
    object::{duplicate, load_program, map_fd, program, typed},
    rings::{DropLog, Misses},
    tables::TableMaps,
};
pub use self::{error::DatapathError, veth::Macs};

/// The loaded programs and their maps.
pub struct Datapath {
    ebpf: Ebpf,
    tables: TableMaps,
    devices: Devices,
    fanouts: Fanouts,
    counters: Counters,
    /// Forgotten by the kernel when the last program of user space lets go of it.
    _programs: ProgramArray<MapData>,
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
        let mut ebpf = object::open(settings)?;
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
            duplicate(&copy_program)?,
            subsets,
        )?;
        Ok(Self {
            tables: TableMaps::open(&mut ebpf, stack_macs)?,
            devices: Devices::open(&mut ebpf, copy_program)?,
            fanouts,
            counters: Counters::open(&mut ebpf)?,
            _programs: programs,
            ebpf,
        })
    }

    /// Writes a next-hop entry.
    pub fn set_next_hop(&mut self, id: u32, entry: NextHop) -> Result<(), DatapathError> {
        self.tables.set_next_hop(id, entry)
    }

    /// Writes an ECMP group.
    pub fn set_ecmp(&mut self, group: u16, entry: &EcmpGroup) -> Result<(), DatapathError> {
        self.tables.set_ecmp(group, entry)
    }

    /// Adds or changes a route: `None` as the next hop removes it. The programs may see it only
    /// after [`publish_routes`](Self::publish_routes).
    pub fn set_route(&mut self, prefix: IpNet, next_hop: Option<u32>) -> Result<(), DatapathError> {
        self.tables.set_route(prefix, next_hop)
    }

    /// Makes sure that the programs see all routes as they were set.
    pub fn publish_routes(&mut self) -> Result<(), DatapathError> {
        self.tables.publish_routes()
    }

    /// Memory the route maps share with the programs, in octets.
    pub fn route_bytes(&self) -> usize {
        self.tables.route_bytes()
    }

    /// Adds or changes an own or anycast address: `None` as the flags removes it.
    pub fn set_address(
        &mut self,
        address: IpAddr,
        flags: Option<u32>,
    ) -> Result<(), DatapathError> {
        self.tables.set_address(address, flags)
    }

    /// Lets a peer send packets with these sources inside UDP, besides packets of its own. A peer of
    /// one family cannot send sources of the other, so such a pair is ignored.
    ///
    /// # Errors
    ///
    /// There are more than [`MAX_UDP_SOURCES`](xcast_common::maps::MAX_UDP_SOURCES) of a family.
    pub fn allow_source(&mut self, peer: IpAddr, sources: IpNet) -> Result<(), DatapathError> {
        self.tables.allow_source(peer, sources)
    }

    /// Adds or removes sources whose packets policy rules decide about.
    pub fn set_policy_source(
        &mut self,
        sources: IpNet,
        is_there: bool,
    ) -> Result<(), DatapathError> {
        self.tables.set_policy_source(sources, is_there)
    }

    /// Makes an interface known under a slot, so that copies can leave by it: single ones at once,
    /// fan-outs as soon as their device maps are installed in the background.
    pub fn add_device(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        self.devices.add(ifindex, port)?;
        self.fanouts.set_device(port.slot, Some(ifindex));
        Ok(())
    }

    /// Changes what is known of an interface that is a port already.
    pub fn update_device(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        self.devices.update(ifindex, port)
    }

    /// Attaches the ingress program to an interface, in native mode.
    ///
    /// # Errors
    ///
    /// The driver may have no native XDP, another XDP program may be attached already, or the MTU
    /// may be too large for linear frames.
    pub fn attach(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        let program = program(&mut self.ebpf, "xcast")?;
        self.devices.attach(program, slot, ifindex)
    }

    /// Forgets an interface: detaches the program if the interface still exists, and takes its
    /// device out of the maps.
    pub fn remove_device(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        self.devices.detach(program(&mut self.ebpf, "xcast")?, slot);
        self.fanouts.set_device(slot, None);
        self.devices.remove(slot, ifindex)
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

    /// The subsets without a device map that the programs report. Can be taken once, within a tokio
    /// runtime.
    pub fn take_misses(&mut self) -> Result<Misses, DatapathError> {
        Misses::open(&mut self.ebpf)
    }

    /// The programs' log of dropped packets; `None` unless debugging is on. Can be taken once, within
    /// a tokio runtime.
    pub fn take_drop_log(&mut self) -> Option<DropLog> {
        DropLog::open(&mut self.ebpf)
    }

    /// Counters of every slot, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<PortCounters>, DatapathError> {
        self.counters.sum()
    }

    /// A program, for tests that run it on packets of their own.
    pub fn program(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        program(&mut self.ebpf, name)
    }
}
