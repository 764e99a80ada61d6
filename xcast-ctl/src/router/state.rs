//! What the router owns, and how it changes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use tracing::warn;
use xcast_common::maps::{PORT_RECIRCULATE, PORT_STACK, PORT_TRUSTED, Port as PortEntry};

use super::{ports::Ports, resolver::Resolver};
use crate::{
    config::Config,
    datapath::{Datapath, DatapathError, veth::VethPair},
    kernel,
    sync::{Edit, KernelEvent, RouteSync, SyncConfig},
};

/// Everything that the event loop acts on.
pub(super) struct Router {
    pub(super) config: Config,
    pub(super) started: Instant,
    /// The maps were in step with the kernel at least once.
    pub(super) ready: bool,
    /// Dumps after the first one.
    pub(super) resyncs: u64,
    pub(super) datapath: Datapath,
    pub(super) sync: RouteSync,
    pub(super) ports: Ports,
    pub(super) resolver: Resolver,
    /// The datapath's end of the router's own veth pair, and its port entry.
    stack: (u32, PortEntry),
}

impl Router {
    /// Loads the programs, writes what is always in the maps, and attaches to the router's own veth
    /// pair.
    ///
    /// # Errors
    ///
    /// No privilege, or a kernel that refuses the programs.
    pub(super) fn start(config: &Config, pair: &VethPair, resolver: Resolver) -> Result<Self> {
        let settings = config.settings([kernel::random()?, kernel::random()?]);
        let mut datapath = Datapath::load(&settings, config.router.subsets, pair.macs)?;
        for peer in config.udp.iter().flat_map(|udp| &udp.peers) {
            for source in &peer.sources {
                datapath.allow_source(peer.address, *source)?;
            }
        }
        let port = |slot, flags, mac| PortEntry {
            slot,
            flags,
            mac,
            ..PortEntry::default()
        };
        let recirculate = port(PORT_RECIRCULATE, 0, pair.macs.destination);
        datapath.add_device(pair.host, recirculate)?;
        let stack = port(PORT_STACK, PORT_TRUSTED, pair.macs.source);
        datapath.add_device(pair.datapath, stack)?;

        let mut tables = SyncConfig::default().tables;
        tables.extend(&config.router.tables);
        let sync = RouteSync::new(SyncConfig {
            gateways: config.router.gateways.clone(),
            anycast: config.router.anycast.clone(),
            tables,
            ipv6: config.code_points.ipv6.is_some(),
        });
        let mut router = Self {
            config: config.clone(),
            started: Instant::now(),
            ready: false,
            resyncs: 0,
            ports: Ports::new(&config.ports),
            datapath,
            sync,
            resolver,
            stack: (pair.datapath, stack),
        };
        // The entries that are always there, before the first packet.
        let mut edits = Vec::new();
        router.sync.apply_all([], &mut edits);
        router.carry_out(edits);
        router
            .datapath
            .attach(PORT_STACK, pair.datapath)
            .with_context(|| format!("cannot attach to {}", config.router.datapath_interface()))?;
        Ok(router)
    }

    /// Turns kernel events into edits and carries them out. Ports come and go with their links.
    pub(super) fn take_in(&mut self, events: Vec<KernelEvent>) {
        let mut edits = Vec::new();
        let links_changed = events.iter().any(|event| {
            matches!(
                event,
                KernelEvent::Link(_)
                    | KernelEvent::LinkRemoved { .. }
                    | KernelEvent::Rule { .. }
                    | KernelEvent::RuleRemoved(_)
                    | KernelEvent::ResyncEnd
            )
        });
        let ended = events.contains(&KernelEvent::ResyncEnd);
        for event in &events {
            self.ports.note(event);
        }
        self.sync.apply_all(events, &mut edits);
        if links_changed && !self.sync.resyncing() {
            self.ports
                .reconcile(&mut self.datapath, &mut self.sync, &mut edits);
            self.follow_policy();
        }
        self.carry_out(edits);
        if ended {
            self.resyncs += u64::from(self.ready);
            self.ready = true;
        }
    }

    /// Finds the ports whose drivers can, or cannot any more, send XDP frames.
    pub(super) fn look_at_ports(&mut self) {
        if self.sync.resyncing() {
            return;
        }
        let mut edits = Vec::new();
        self.ports
            .reconcile(&mut self.datapath, &mut self.sync, &mut edits);
        self.carry_out(edits);
    }

    /// Brings what policy rules say about packets of this host, which come by the router's own interface, into
    /// the port table.
    fn follow_policy(&mut self) {
        let Some(link) = self.ports.link(&self.config.router.interface) else {
            return;
        };
        let (ifindex, old) = self.stack;
        let flags = PORT_TRUSTED | self.sync.port_flags(link);
        if flags == old.flags {
            return;
        }
        let entry = PortEntry { flags, ..old };
        match self.datapath.update_device(ifindex, entry) {
            Ok(()) => self.stack.1 = entry,
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }

    fn carry_out(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            if let Err(error) = self.carry_out_one(&edit) {
                warn!("{:#}; affected: {edit:?}", anyhow::Error::from(error));
            }
        }
        if let Err(error) = self.datapath.publish_routes() {
            warn!("{:#}; it is tried again", anyhow::Error::from(error));
        }
    }

    fn carry_out_one(&mut self, edit: &Edit) -> Result<(), DatapathError> {
        match *edit {
            Edit::NextHop { id, entry } => self.datapath.set_next_hop(id, entry),
            Edit::Ecmp { group, ref buckets } => self.datapath.set_ecmp(group, buckets),
            Edit::Route { prefix, next_hop } => self.datapath.set_route(prefix, Some(next_hop)),
            Edit::RemoveRoute { prefix } => self.datapath.set_route(prefix, None),
            Edit::OwnAddress { address, flags } => self.datapath.set_address(address, Some(flags)),
            Edit::RemoveOwnAddress { address } => self.datapath.set_address(address, None),
            Edit::PolicySource { source, is_there } => {
                self.datapath.set_policy_source(source, is_there)
            }
            Edit::Resolve { ifindex, gateway } => {
                self.resolver.resolve(ifindex, gateway);
                Ok(())
            }
            Edit::Release { ifindex, gateway } => {
                self.resolver.release(ifindex, gateway);
                Ok(())
            }
        }
    }
}
