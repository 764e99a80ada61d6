//! What the router owns, and how it changes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;
use tracing::warn;
use xcast_common::maps::{PORT_RECIRCULATE, PORT_STACK, PORT_TRUSTED, Port as PortEntry};
use xcast_overlay::backbone::discovery::Nonce;

use super::{
    discovery::Discovery,
    own_interface::{Change, OwnInterface, is_end},
    pending::Pending,
    ports::Ports,
    relay::Relay,
    resolver::Resolver,
    tunnels::{Heard, Tunnels},
    udp_port,
};
use crate::{
    config::Config,
    datapath::{
        Datapath, DatapathError,
        generation::Generation,
        pin,
        veth::{self, VethPair},
    },
    kernel,
    sync::{Edit, KernelEvent, RouteSync, SyncConfig},
};

/// Everything that the event loop acts on.
pub(super) struct Router {
    pub(super) config: Config,
    pub(super) started: Instant,
    /// The maps were in step with the kernel at least once.
    synced: bool,
    /// The device maps of the predecessor were asked for.
    inherited: bool,
    start: Start,
    /// The programs run.
    pub(super) ready: bool,
    /// Dumps after the first one.
    pub(super) resyncs: u64,
    pub(super) datapath: Datapath,
    pub(super) sync: RouteSync,
    pub(super) ports: Ports,
    pub(super) resolver: Resolver,
    pub(super) discovery: Discovery,
    pub(super) tunnels: Tunnels,
    pub(super) relay: Relay,
    /// Edits that could not be carried out.
    pub(super) pending: Pending,
    pub(super) own_interface: OwnInterface,
    /// The router's own veth pair.
    pair: VethPair,
    /// The port entry of the datapath's end of the router's own veth pair.
    stack: PortEntry,
}

/// How far the programs' start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// What the first packet needs is not all there.
    Waits,
    /// The program was asked for on the router's own pair: what a port's new program sends round again has to find
    /// the new one there.
    Pair,
    /// Then on the ports.
    Ports,
}

impl Router {
    /// Loads the programs, and writes what is always in the maps. Nothing is attached until
    /// [`advance`](Self::advance) does so.
    ///
    /// # Errors
    ///
    /// No privilege, or a kernel that refuses the programs.
    pub(super) async fn start(
        config: &Config,
        pair: &VethPair,
        resolver: Resolver,
        generation: Generation,
    ) -> Result<Self> {
        let settings = config.settings([kernel::random()?, 0]);
        let mut relay = Relay::start(config, generation.mark() >> 1)?;
        let slot_of = |name: &str| generation.slot_of(if_nametoindex(name).ok()?);
        let ports = Ports::new(&config.ports, &config.limits, slot_of, |slot| {
            generation.is_used(slot)
        })?;
        let (subsets, macs) = (config.router.subsets, pair.macs);
        // The verifier takes its time.
        let load = move || Datapath::load_generation(&settings, subsets, macs, generation);
        let mut datapath = tokio::task::spawn_blocking(load)
            .await
            .context("the programs were not loaded")??;
        let proven = datapath.proven_gateways();
        datapath.trust_for(config.router.orphan_limit())?;
        relay.write_keys(&mut datapath);
        for peer in config.udp.iter().flat_map(|udp| &udp.peers) {
            for source in &peer.sources {
                datapath.allow_source(peer.address, *source)?;
            }
        }
        for (slot, port) in ports.slots().zip(&config.ports) {
            for prefix in port.source.prefixes() {
                datapath.allow_on_port(slot, *prefix)?;
            }
        }
        let stack = add_pair(&mut datapath, pair)?;
        if let Err(error) = udp_port::keep(config, datapath.generation_mut()) {
            warn!("{error:#}");
        }

        let tunnels = Tunnels::start(config)?;
        let mut tables = SyncConfig::default().tables;
        tables.extend(&config.router.tables);
        let sync = RouteSync::new(SyncConfig {
            gateways: config.router.gateways.clone(),
            anycast: config.router.anycast.clone(),
            tables,
            xcast_table: config.router.xcast_table,
            ipv6: config.code_points.ipv6.is_some(),
            tunnels: tunnels.specs(),
        });
        let mut router = Self {
            config: config.clone(),
            started: Instant::now(),
            synced: false,
            inherited: false,
            start: Start::Waits,
            ready: false,
            resyncs: 0,
            ports,
            datapath,
            sync,
            resolver,
            discovery: Discovery::start(config, proven),
            tunnels,
            relay,
            pending: Pending::default(),
            own_interface: OwnInterface::watch(config, pair)?,
            pair: pair.clone(),
            stack,
        };
        // The entries that are always there, before the first packet.
        let mut edits = Vec::new();
        router.sync.apply_all([], &mut edits);
        router
            .discovery
            .tell_inherited(&mut router.sync, &mut edits);
        router.carry_out(edits);
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
        if events.contains(&KernelEvent::SettingsChanged) {
            self.ports.surveyor.ask();
        }
        let ended = events.contains(&KernelEvent::ResyncEnd);
        for event in &events {
            self.ports.note(event);
            self.discovery.note(event);
            self.tunnels.note(event);
        }
        if events
            .iter()
            .any(|event| self.is_about_own_interface(event))
        {
            self.own_interface.look();
        }
        self.sync.apply_all(events, &mut edits);
        if links_changed && !self.sync.resyncing() {
            self.ports.surveyor.ask();
            self.ports.reconcile(
                self.may_run(),
                &mut self.datapath,
                &mut self.sync,
                &mut edits,
            );
            self.follow_settings(&mut edits);
            self.follow_policy();
        }
        self.ports.follow_gateways(&mut self.datapath, &self.sync);
        self.carry_out(edits);
        if ended {
            self.resyncs += u64::from(self.synced);
            self.synced = true;
        }
    }

    /// Takes over, once everything is in the maps that the first packet needs: the programs run from here on.
    ///
    /// # Errors
    ///
    /// They cannot be attached to the own pair, or what is pinned cannot be written.
    pub(super) fn advance(&mut self) -> Result<()> {
        if self.ready || !self.synced || !self.datapath.is_settled() {
            return Ok(());
        }
        // What became a port when the last device map was there is in the routes, too.
        self.look_at_ports();
        if !self.inherited {
            self.inherited = true;
            self.datapath.inherit_subsets();
        }
        if !self.datapath.is_settled() {
            return Ok(());
        }
        match self.start {
            Start::Waits => {
                self.start = Start::Pair;
                self.datapath.open()?;
                self.attach_pair()
            }
            Start::Pair => Ok(()),
            Start::Ports if self.ports.are_asked() => Ok(()),
            Start::Ports => {
                self.datapath.commit()?;
                self.ready = true;
                // Some drivers can send only where a program runs.
                self.look_at_ports();
                Ok(())
            }
        }
    }

    fn attach_pair(&mut self) -> Result<()> {
        let (ifindex, interface) = (self.pair.datapath, &self.config.router.interface);
        self.datapath.attach_pair(PORT_STACK, ifindex, interface)
    }

    /// Takes in what drivers did with programs that were asked for.
    ///
    /// # Errors
    ///
    /// The router's own pair does not take them, and did not before.
    pub(super) fn take_attachments(&mut self) -> Result<()> {
        let mut edits = Vec::new();
        let mut pair = Ok(());
        for (slot, result) in self.datapath.take_attachments() {
            if slot == PORT_STACK {
                // What somebody else has put there is looked at again, a second later.
                self.expect_programs();
                pair = result;
                if pair.is_ok() && self.start == Start::Pair {
                    self.start = Start::Ports;
                }
            } else {
                let (datapath, sync) = (&mut self.datapath, &mut self.sync);
                self.ports
                    .note_attachment(slot, result, datapath, sync, &mut edits);
            }
        }
        self.carry_out(edits);
        match pair {
            Err(error) if self.ready => {
                warn!("the router's own interface does not take the programs: {error:#}");
                Ok(())
            }
            pair => pair.with_context(|| {
                format!(
                    "cannot attach to {} and {}",
                    self.config.router.interface,
                    self.config.router.datapath_interface()
                )
            }),
        }
    }

    /// Takes away what routers before this one made, and this one does not want. For the time when nobody but this one
    /// forwards.
    pub(super) fn tidy(&mut self, links: &Handle) {
        udp_port::give_back(self.datapath.generation_mut(), Some(&self.config));
        let others = pin::ports_of_others(&self.config.router.interface);
        self.resolver.adopt(self.sync.resolving().collect(), others);
        let mut edits = Vec::new();
        let unused = self.discovery.forget_unused(&mut self.sync, &mut edits);
        self.carry_out(edits);
        for gateway in unused {
            self.datapath.note_proven(gateway, false);
        }
        let (links, end, address) = (links.clone(), self.pair.host, self.config.router.address);
        tokio::spawn(async move {
            if let Err(error) = veth::remove_other_addresses(&links, end, address).await {
                warn!("{error:#}");
            }
        });
    }

    /// Its programs run on the own pair, or are about to.
    pub(super) fn has_begun(&self) -> bool {
        self.start != Start::Waits
    }

    /// Its programs are those that are to run on the own pair.
    pub(super) fn expect_programs(&self) {
        let program = self.datapath.ingress_program_id();
        self.own_interface.expect_program(Some(program));
    }

    /// Ports may run the programs.
    fn may_run(&self) -> bool {
        self.start == Start::Ports
    }

    /// Says that somebody still keeps the tables up to date, and that the UDP port is kept, which others may have
    /// written over.
    pub(super) fn live_on(&mut self) {
        udp_port::keep_on(&self.config, self.datapath.generation_mut());
        if let Err(error) = self.datapath.trust_for(self.config.router.orphan_limit()) {
            warn!("{:#}", anyhow::Error::from(error));
        }
    }

    fn is_about_own_interface(&self, event: &KernelEvent) -> bool {
        let is_end_index = |ifindex| ifindex == self.pair.host || ifindex == self.pair.datapath;
        match event {
            KernelEvent::Link(link) => {
                is_end_index(link.ifindex) || is_end(&self.config, &link.name)
            }
            KernelEvent::LinkRemoved { ifindex } => is_end_index(*ifindex),
            KernelEvent::AddressRemoved(address) => is_end_index(address.ifindex),
            _ => false,
        }
    }

    /// Finds the ports whose drivers can, or cannot any more, send XDP frames.
    pub(super) fn look_at_ports(&mut self) {
        if self.sync.resyncing() {
            return;
        }
        let mut edits = Vec::new();
        self.ports.reconcile(
            self.may_run(),
            &mut self.datapath,
            &mut self.sync,
            &mut edits,
        );
        self.follow_settings(&mut edits);
        self.carry_out(edits);
    }

    /// Looks after what time alone changes: has the kernel probe the neighbours that packets use, and tries
    /// again what failed.
    pub(super) fn tend(&mut self) {
        let used = self.datapath.take_used();
        // What failed comes first: what sync asks for now is newer.
        let mut edits = self.pending.due(self.started.elapsed().as_secs());
        self.sync.tend(&used, &mut edits);
        self.discovery.follow(&self.sync);
        self.carry_out(edits);
        self.relay.tend(&mut self.datapath);
    }

    /// Nothing tells when somebody sets the MTU for IPv6 of an interface, or whether multipath routes mind failed
    /// neighbours, so each survey is looked at.
    fn follow_settings(&mut self, edits: &mut Vec<Edit>) {
        self.sync.apply_all(self.ports.settings(), edits);
    }

    /// Goes on after what somebody did to the own pair.
    pub(super) fn follow_pair(&mut self, change: &Change) {
        match change {
            Change::Replaced(pair) => self.replace_pair(pair),
            Change::Programs => {
                if let Err(error) = self.attach_pair() {
                    warn!("{error:#}");
                }
            }
            Change::HandOver => {
                let interface = &self.config.router.interface;
                if let Err(error) = self.datapath.attach_handover(interface) {
                    warn!("{error:#}");
                }
            }
        }
    }

    /// Goes on with a pair that was made instead of one that somebody removed.
    fn replace_pair(&mut self, pair: &VethPair) {
        let result = self.datapath.remove_device(PORT_STACK, self.pair.datapath);
        let result = result.and(
            self.datapath
                .remove_device(PORT_RECIRCULATE, self.pair.host),
        );
        let result = result
            .and_then(|()| add_pair(&mut self.datapath, pair))
            .map(|stack| self.stack = stack)
            .map_err(anyhow::Error::from);
        self.pair = pair.clone();
        let result = result.and_then(|()| match self.start {
            Start::Waits => Ok(()),
            Start::Pair | Start::Ports => self.attach_pair(),
        });
        if let Err(error) = result {
            warn!("cannot use the router's own interface that was made anew: {error:#}");
        }
    }

    /// Brings what policy rules say about packets of this host, which come by the router's own interface, into
    /// the port table.
    fn follow_policy(&mut self) {
        let Some(link) = self.ports.link(&self.config.router.interface) else {
            return;
        };
        let flags = PORT_TRUSTED | self.sync.port_flags(link);
        if flags == self.stack.flags {
            return;
        }
        let entry = PortEntry {
            flags,
            ..self.stack
        };
        match self.datapath.update_device(self.pair.datapath, entry) {
            Ok(()) => self.stack = entry,
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }

    /// Sends the probes that are due, and goes by what those that returned tell.
    pub(super) fn discover(&mut self, returned: Option<Nonce>) {
        let mut edits = Vec::new();
        let news = self.discovery.advance(returned, &mut self.sync, &mut edits);
        self.carry_out(edits);
        for (gateway, is_proven) in news {
            self.datapath.note_proven(gateway, is_proven);
        }
    }

    /// Sends the probes of tunnels that are due, and goes by what was heard of them.
    pub(super) fn tend_tunnels(&mut self, heard: Option<Heard>) {
        let mut edits = Vec::new();
        self.tunnels.advance(heard, &mut self.sync, &mut edits);
        self.carry_out(edits);
    }

    fn carry_out(&mut self, edits: Vec<Edit>) {
        let now = self.started.elapsed().as_secs();
        let (mut failed, mut makes_room) = (0_usize, false);
        for edit in edits {
            let result = self.carry_out_one(&edit);
            makes_room |= matches!(
                edit,
                Edit::RemoveRoute { .. } | Edit::RemoveOwnAddress { .. }
            );
            let error = result.err();
            let error = error.map(|error| format!("{:#}", anyhow::Error::from(error)));
            let told = error.clone().unwrap_or_default();
            if self.pending.note(&edit, error, now) {
                failed += 1;
                if failed == 1 {
                    warn!("{told}; it is tried again; affected: {edit:?}");
                }
            }
        }
        if failed > 1 {
            warn!(
                "{failed} changes failed, of which this was the first; `xcast-ctl status` counts them"
            );
        }
        if makes_room {
            self.pending.hurry(now);
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
                self.discovery.add(ifindex, gateway);
                Ok(())
            }
            Edit::Tunnel {
                tunnel,
                local,
                macs,
            } => self.tunnels.write(tunnel, local, macs, &mut self.datapath),
            Edit::ResolveRemote { ifindex, address } => {
                self.resolver.resolve(ifindex, address);
                Ok(())
            }
            Edit::Use { ref neighbours } => {
                self.resolver.note_use(neighbours);
                Ok(())
            }
            Edit::Release { ifindex, gateway } => {
                self.resolver.release(ifindex, gateway);
                self.discovery.remove(ifindex, gateway);
                Ok(())
            }
        }
    }
}

/// Makes both ends of the router's own pair known; returns the port entry of the datapath's end.
fn add_pair(datapath: &mut Datapath, pair: &VethPair) -> Result<PortEntry, DatapathError> {
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
    Ok(stack)
}
