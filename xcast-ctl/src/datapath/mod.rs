//! The programs in the kernel and their maps.
//!
//! [`Datapath`] loads the programs and writes what others decide. Its parts:
//!
//! * `object` finds programs and maps in the BPF object.
//! * `tables` is what the programs look up to decide about a packet, with [`routes`] for the route
//!   maps, and `revised` to tell the programs which of their plans still hold.
//! * `tunnels` is what copies get around them in tunnels, and by what it is known what arrives there.
//! * `devices` is the interfaces, `links` has the programs run on them, and `fanouts` the device maps that copies are made
//!   with, off the
//!   fast path.
//! * `handover` is how copies reach the kernel stack, and `foreign` who may be in their way.
//! * `counters` and [`rings`] are what the programs tell.
//! * [`veth`] is the pair through which packets reach the kernel stack, come round once more, or
//!   originate here.
//! * [`generation`] is how programs take over from others without a packet lost, and `proofs` what they learn from them of
//!   gateways; [`pin`] is where that is pinned which has to outlive the process, and `bpffs` finds a place for it.
//! * `bpf` and `mapping` are calls to the kernel that aya lacks.

mod bpf;
pub(crate) mod bpffs;
mod counters;
mod devices;
mod entrances;
mod error;
mod fanouts;
pub(crate) mod foreign;
pub mod generation;
pub(crate) mod handover;
mod links;
mod mapping;
mod object;
pub(crate) mod ownership;
mod pending;
pub mod pin;
mod proofs;
mod revised;
pub mod rings;
pub mod routes;
mod tables;
mod tunnels;
pub mod veth;

use std::{net::IpAddr, sync::Arc, time::Duration};

use aya::{
    maps::{Array, MapData},
    programs::Xdp,
};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use xcast_common::maps::{
    COOKIE_KEYS, CookieKey, EcmpGroup, FanoutKey, NextHop, Port, PortCounters, Settings, Tunnel,
    TunnelCookies, TunnelPeer,
};

use self::{
    counters::Counters,
    devices::Devices,
    entrances::Entrances,
    error::{map, program_error},
    fanouts::Fanouts,
    generation::Generation,
    links::Links,
    object::{duplicate, load_program, map_fd, program, typed},
    proofs::Proofs,
    rings::{DropLog, Misses},
    tables::TableMaps,
    tunnels::TunnelMaps,
};
pub use self::{error::DatapathError, fanouts::Unmade, veth::Macs};

/// The loaded programs and their maps.
pub struct Datapath {
    /// The programs, and where they run.
    links: Links,
    /// The kernel's id of the ingress program.
    ingress_id: u32,
    tables: TableMaps,
    tunnels: TunnelMaps,
    devices: Devices,
    fanouts: Fanouts,
    counters: Counters,
    alive_until: Array<MapData, u64>,
    /// Absent if nothing outlives this process.
    proofs: Option<Proofs>,
    /// Another file descriptor for the device maps' keys, to be pinned.
    subsets: MapData,
    generation: Generation,
    entrances: Entrances,
}

impl Datapath {
    /// The same as [`load_generation`](Self::load_generation) for programs that nobody takes over, and whose tables are
    /// trusted for ever.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn load(
        settings: &Settings,
        subsets: u32,
        stack_macs: Macs,
    ) -> Result<Self, DatapathError> {
        let generation = Generation::alone(settings.mark);
        let mut datapath = Self::load_generation(settings, subsets, stack_macs, generation)?;
        datapath.trust_for(None)?;
        datapath.open()?;
        Ok(datapath)
    }

    /// Loads programs and maps. `subsets` is the number of exact subsets of ports to keep device
    /// maps for; `stack_macs` go onto copies for the kernel stack.
    ///
    /// # Errors
    ///
    /// Needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN) and Linux 5.18 or newer.
    pub fn load_generation(
        settings: &Settings,
        subsets: u32,
        stack_macs: Macs,
        generation: Generation,
    ) -> Result<Self, DatapathError> {
        let settings = Settings {
            mark: generation.mark(),
            ..*settings
        };
        let mut ebpf = object::open(&settings, &generation.shared_maps())?;
        // The program in the device maps' entries has to be there before the entries.
        let copy_program = load_program(&mut ebpf, "xcast_copy")?;
        let entrances = Entrances::load(&mut ebpf, &settings, &copy_program)?;
        let info = program(&mut ebpf, "xcast")?.info();
        let ingress_id = info.map_err(program_error("xcast"))?.id();
        handover::load(&mut ebpf)?;
        let keys = MapData::from_fd(map_fd(&ebpf, "SUBSETS")?).map_err(map("SUBSETS"))?;
        let fanouts = Fanouts::start(
            typed(&mut ebpf, "SUBSETS")?,
            map_fd(&ebpf, "FANOUTS")?,
            map_fd(&ebpf, "USUAL")?,
            duplicate(&copy_program)?,
            subsets,
        )?;
        let tables = TableMaps::open(&mut ebpf, stack_macs)?;
        let devices = Devices::open(&mut ebpf, copy_program)?;
        let counters = Counters::open(&mut ebpf)?;
        let alive_until = typed(&mut ebpf, "ALIVE_UNTIL")?;
        Ok(Self {
            tunnels: TunnelMaps::open(&mut ebpf)?,
            links: Links::new(ebpf, generation.pins(), fanouts.settling()),
            ingress_id,
            tables,
            devices,
            fanouts,
            counters,
            alive_until,
            proofs: generation.pins().and_then(|pins| Proofs::open(&pins)),
            subsets: keys,
            generation,
            entrances,
        })
    }

    /// Makes the programs known to those of the predecessor, right before the first of them is attached.
    ///
    /// # Errors
    ///
    /// The kernel refuses to write the tables of programs.
    pub fn open(&mut self) -> Result<(), DatapathError> {
        self.entrances.open()
    }

    /// Trusts the tables for so long; `None` for ever. Afterwards the programs hand everything to the
    /// kernel stack.
    ///
    /// # Errors
    ///
    /// The kernel refuses to write the map.
    pub fn trust_for(&mut self, time: Option<Duration>) -> Result<(), DatapathError> {
        let until = match time {
            None => u64::MAX,
            Some(time) => now_ns()?.saturating_add(time.as_nanos().try_into().unwrap_or(u64::MAX)),
        };
        if let Some(proofs) = &mut self.proofs {
            proofs.trust_until(until);
        }
        self.alive_until
            .set(0, until, 0)
            .map_err(map("ALIVE_UNTIL"))
    }

    /// Gateways that count as proven for the generation before this one. To be asked before
    /// [`trust_for`](Self::trust_for).
    pub fn proven_gateways(&self) -> Vec<(u32, IpAddr)> {
        let now = now_ns().unwrap_or(u64::MAX);
        let proofs = self.proofs.as_ref();
        proofs.map_or_else(Vec::new, |proofs| proofs.read(now))
    }

    /// Notes for the next generation that a gateway counts as proven, or does no longer.
    pub fn note_proven(&mut self, gateway: (u32, IpAddr), is_proven: bool) {
        if let Some(proofs) = &mut self.proofs {
            proofs.note(gateway, is_proven);
        }
    }

    /// The generation that this is.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The same, to note something for the next one.
    pub fn generation_mut(&mut self) -> &mut Generation {
        &mut self.generation
    }

    /// Has the device maps made that the predecessor had.
    pub fn inherit_subsets(&mut self) {
        let subsets = self.generation.inherited_subsets();
        if !subsets.is_empty() {
            self.fanouts.install(subsets);
        }
    }

    /// Number of times that device maps were asked for.
    pub fn asked(&self) -> u64 {
        self.fanouts.asked()
    }

    /// Whether all device maps are in place that were asked for so far.
    pub fn is_settled(&self) -> bool {
        self.fanouts.done() >= self.asked() && self.fanouts.unmade().is_none()
    }

    /// Whether the device maps of a port are in place that were asked for by then.
    pub fn can_copy(&self, slot: u8, asked: u64) -> bool {
        self.fanouts.done() >= asked && !self.fanouts.lacks(slot)
    }

    /// The device maps that could not be made, and are tried again.
    pub fn unmade(&self) -> Option<Unmade> {
        self.fanouts.unmade()
    }

    /// Waits until every device map that was asked for so far is in place.
    pub fn wait_for_fanouts(&self) {
        while !self.is_settled() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What tells when device maps are in place, or something has become of an attachment.
    pub fn settling(&self) -> Arc<Notify> {
        self.fanouts.settling()
    }

    /// Makes this the generation that the next one takes over from. Everything is attached by now.
    ///
    /// # Errors
    ///
    /// The pinned maps cannot be written.
    pub fn commit(&mut self) -> anyhow::Result<()> {
        self.generation
            .commit(&self.links.attached(), &self.subsets)
    }

    /// Takes all that is pinned away: forwarding ends with this.
    pub fn end(mut self) {
        self.links.stop();
        self.generation.end();
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

    /// The ids of next hops that packets used since this was last asked.
    pub fn take_used(&mut self) -> Vec<u32> {
        self.tables.take_used()
    }

    /// Whether an address goes to the stack because its route map is full.
    pub fn lacks_room(&self, address: IpAddr) -> bool {
        self.tables.lacks_room(address)
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

    /// Writes the outer headers of a tunnel.
    pub fn set_tunnel(&mut self, index: u16, tunnel: Tunnel) -> Result<(), DatapathError> {
        self.tunnels.set(index, tunnel)
    }

    /// Takes what arrives by a tunnel with these cookies; `None` for none of it any more.
    pub fn set_tunnel_peer(
        &mut self,
        peer: TunnelPeer,
        cookies: Option<TunnelCookies>,
    ) -> Result<(), DatapathError> {
        self.tunnels.set_peer(peer, cookies)
    }

    /// Lists sources for the port with this slot: where its mode is
    /// [`SourceMode::Prefixes`](xcast_common::maps::SourceMode::Prefixes), only they may arrive by it.
    ///
    /// # Errors
    ///
    /// There are more than [`MAX_PORT_SOURCES`](xcast_common::maps::MAX_PORT_SOURCES) of a family.
    pub fn allow_on_port(&mut self, slot: u8, sources: IpNet) -> Result<(), DatapathError> {
        self.tables.allow_on_port(slot, sources)
    }

    /// Writes the keys of the cookies by which sources prove their address, in the order of their
    /// [places](CookieKey::place).
    ///
    /// # Errors
    ///
    /// The kernel refuses to write the map.
    pub fn set_cookie_keys(
        &mut self,
        keys: &[CookieKey; COOKIE_KEYS],
    ) -> Result<(), DatapathError> {
        self.tables.set_cookie_keys(keys)
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

    /// Sets the further link layer addresses by which a port receives: those of virtual routers on top
    /// of it, or of the bridge or bond it is a member of. Its entry has to have
    /// [`PORT_MORE_MACS`](xcast_common::maps::PORT_MORE_MACS).
    ///
    /// # Errors
    ///
    /// There are too many of all ports
    /// ([`MAX_PORT_MACS`](xcast_common::maps::MAX_PORT_MACS)).
    pub fn set_macs(&mut self, slot: u8, macs: &[[u8; 6]]) -> Result<(), DatapathError> {
        self.devices.set_macs(slot, macs)
    }

    /// Asks for the ingress program on a port's interface, in native mode. A driver takes its time:
    /// [`take_attachments`](Self::take_attachments) tells what became of it.
    ///
    /// # Errors
    ///
    /// There is no thread to do it.
    pub fn attach(&mut self, slot: u8, ifindex: u32) -> anyhow::Result<()> {
        self.links.attach(slot, ifindex, None)
    }

    /// The same for the datapath's end of the router's own pair, in this slot. What its programs send to `interface`, the
    /// host's end, arrives from then on by the port that its packet arrived by.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn attach_pair(&mut self, slot: u8, ifindex: u32, interface: &str) -> anyhow::Result<()> {
        self.links.attach(slot, ifindex, Some(interface.to_owned()))
    }

    /// Asks once more for the way of copies that arrive on `interface`, the host's end of the router's own pair.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn attach_handover(&mut self, interface: &str) -> anyhow::Result<()> {
        self.links.hand_over(interface)
    }

    /// What became of the programs that were asked for, by slot. The driver may have no native XDP, another XDP
    /// program may be attached already, the MTU may be too large for linear frames; or the kernel has no `clsact`
    /// or `bpf` in its traffic control.
    pub fn take_attachments(&mut self) -> Vec<(u8, anyhow::Result<()>)> {
        self.links.take_outcomes()
    }

    /// The kernel's id of the program that [`attach`](Self::attach) attaches.
    pub fn ingress_program_id(&self) -> u32 {
        self.ingress_id
    }

    /// Forgets an interface: has the program detached if the interface still exists, and takes its
    /// device out of the maps.
    pub fn remove_device(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        self.links.detach(slot);
        self.fanouts.set_device(slot, None);
        self.devices.remove(slot, ifindex)
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
        Misses::open(&mut self.links.programs())
    }

    /// The programs' log of dropped packets; `None` unless debugging is on. Can be taken once.
    pub fn take_drop_log(&mut self) -> Option<DropLog> {
        DropLog::open(&mut self.links.programs())
    }

    /// Counters of every slot, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<PortCounters>, DatapathError> {
        self.counters.sum()
    }

    /// A program, for tests that run it on packets of their own.
    ///
    /// # Errors
    ///
    /// There is no such program, or the programs are with the thread that attaches them.
    pub fn program(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        let programs = self.links.programs_mut();
        program(programs.ok_or(DatapathError::Missing(name))?, name)
    }
}

/// The time by the clock that the programs read.
fn now_ns() -> Result<u64, DatapathError> {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|errno| DatapathError::System {
            what: "cannot read the clock",
            source: errno.into(),
        })?;
    Ok(Duration::from(now)
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use xcast_common::maps::PORT_FIRST;

    use super::*;

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "it does not come true");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// An interface that goes while its device maps are made: nothing counts as settled, which is what taking over waits
    /// for, and the others have theirs all the same.
    #[test]
    fn device_maps_of_an_interface_that_is_gone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let settings = Settings::default();
        let datapath = Datapath::load(&settings, 16, Macs::default()).unwrap();
        let (loopback, nobody) = (1, 0x7fff_ffff);
        let [there, gone] = [PORT_FIRST, PORT_FIRST + 1];
        datapath.fanouts.set_device(gone, Some(nobody));
        datapath.fanouts.set_device(there, Some(loopback));
        let asked = datapath.asked();
        until(|| datapath.can_copy(there, asked));
        assert!(!datapath.is_settled() && !datapath.can_copy(gone, asked));
        assert_eq!(datapath.unmade().unwrap().slots, [gone]);
        until(|| datapath.unmade().is_some_and(|unmade| unmade.attempts > 2));
        datapath.fanouts.set_device(gone, None);
        until(|| datapath.is_settled());
        assert_eq!(datapath.unmade(), None);
    }
}
