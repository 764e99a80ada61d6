//! The configured interfaces, and what has become of them.

use std::collections::HashMap;

use tracing::{info, warn};
use xcast_common::{
    forward::limits::price_ns,
    maps::{MAX_PORTS, PORT_FIRST, PORT_GROUP_MAC, Port as PortEntry},
};

use super::sources::{self, KernelPolicy};
use crate::{
    config,
    datapath::Datapath,
    kernel,
    sync::{Edit, KernelEvent, RouteSync, event::Link},
};

/// All configured ports.
pub(super) struct Ports {
    pub(super) ports: Vec<Port>,
    /// Interfaces that exist, by index.
    links: HashMap<u32, Link>,
    /// Links seen in a dump that is under way.
    dump: Option<Vec<u32>>,
}

/// One configured port.
pub(super) struct Port {
    pub(super) interface: String,
    pub(super) group_mac: bool,
    source: config::Source,
    limits: config::Limits,
    pub(super) slot: u8,
    pub(super) attached: Option<Attached>,
    /// Interface for which attaching failed, so that it is not tried, and told, every second.
    failed: Option<Link>,
}

/// A port whose interface exists and runs the program.
pub(super) struct Attached {
    pub(super) link: Link,
    /// The program runs on it.
    pub(super) runs: bool,
    /// The device maps with it were asked for by then; see [`Datapath::is_settled`].
    asked: u64,
    /// The driver can send what XDP redirects to it, and there are device maps with it, so routes may use it.
    transmits: bool,
    /// What the datapath knows of it.
    entry: PortEntry,
    /// What the kernel's own settings say of what arrives there.
    policy: KernelPolicy,
    /// The driver's drops when it was attached.
    drops_before: u64,
}

impl Ports {
    /// Nothing is attached yet.
    ///
    /// A port has the slot that `slot_of` the interface the predecessor had for it, so that it goes on with the same
    /// counters. Others have one whose counters are nobody's, if there is one.
    pub(super) fn new(
        configured: &[config::Port],
        limits: &config::Limits,
        slot_of: impl Fn(&str) -> Option<u8>,
        is_used: impl Fn(u8) -> bool,
    ) -> Self {
        let kept: Vec<_> = configured
            .iter()
            .map(|port| slot_of(&port.interface))
            .collect();
        let mut free: Vec<u8> = (PORT_FIRST..MAX_PORTS as u8)
            .filter(|slot| !kept.contains(&Some(*slot)))
            .collect();
        free.sort_by_key(|slot| is_used(*slot));
        let mut free = free.into_iter();
        let slots = kept
            .into_iter()
            .map_while(|kept| kept.or_else(|| free.next()));
        let ports = slots
            .zip(configured)
            .map(|(slot, port)| Port {
                interface: port.interface.clone(),
                group_mac: port.group_mac,
                source: port.source.clone(),
                limits: port.limits(limits),
                slot,
                attached: None,
                failed: None,
            })
            .collect();
        Self {
            ports,
            links: HashMap::new(),
            dump: None,
        }
    }

    /// The links of the ports that are attached.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        let attached = self.ports.iter().filter_map(|port| port.attached.as_ref());
        attached.map(|attached| &attached.link)
    }

    /// Takes note of links; [`reconcile`](Self::reconcile) acts.
    pub(super) fn note(&mut self, event: &KernelEvent) {
        match event {
            KernelEvent::ResyncBegin => self.dump = Some(Vec::new()),
            KernelEvent::ResyncEnd => {
                if let Some(seen) = self.dump.take() {
                    self.links.retain(|ifindex, _| seen.contains(ifindex));
                }
            }
            KernelEvent::Link(link) => {
                if let Some(seen) = &mut self.dump {
                    seen.push(link.ifindex);
                }
                self.links.insert(link.ifindex, link.clone());
            }
            KernelEvent::LinkRemoved { ifindex } => {
                self.links.remove(ifindex);
            }
            _ => {}
        }
    }

    /// Attaches what appeared, forgets what disappeared, follows what changed. Until `may_run`, ports are only made
    /// known: the programs of a predecessor may run there.
    pub(super) fn reconcile(
        &mut self,
        may_run: bool,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        // A kernel that cannot say is trusted to send.
        let features: Option<HashMap<u32, kernel::XdpFeatures>> = kernel::xdp_features()
            .ok()
            .flatten()
            .map(|list| list.into_iter().collect());
        let transmits = |ifindex: u32| {
            features
                .as_ref()
                .is_none_or(|known| known.get(&ifindex).is_none_or(|f| f.transmit()))
        };
        for port in &mut self.ports {
            let link = self.links.values().find(|link| link.name == port.interface);
            let gone = port
                .attached
                .as_ref()
                .is_some_and(|attached| link.is_none_or(|l| l.ifindex != attached.link.ifindex));
            if gone && let Some(attached) = port.attached.take() {
                info!("port {} is gone", port.interface);
                sync.detach_port(attached.link.ifindex, edits);
                sync.set_arrival(attached.link.ifindex, None, edits);
                if let Err(error) = datapath.remove_device(port.slot, attached.link.ifindex) {
                    warn!("{:#}", anyhow::Error::from(error));
                }
            }
            let Some(link) = link else {
                port.failed = None;
                continue;
            };
            if port.attached.is_none() && port.failed.as_ref() != Some(link) {
                match port.attach(link, datapath, sync) {
                    Ok(()) => {
                        port.failed = None;
                        sync.set_arrival(link.ifindex, Some(port.slot), edits);
                    }
                    Err(error) => {
                        warn!("cannot make {} a port: {error:#}", port.interface);
                        port.failed = Some(link.clone());
                    }
                }
            }
            let copies = port.attached.as_ref();
            let copies = copies.is_some_and(|attached| datapath.is_settled(attached.asked));
            if may_run && copies {
                port.run(link, datapath, sync, edits);
            }
            port.follow(
                link,
                copies && transmits(link.ifindex),
                datapath,
                sync,
                edits,
            );
        }
    }

    /// Brings the ports' sources in step with routes: where gateways are decides who may send.
    pub(super) fn follow_gateways(&mut self, datapath: &mut Datapath, sync: &RouteSync) {
        for port in &mut self.ports {
            port.publish(datapath, sync);
        }
    }

    /// The interface of this name, if it exists.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Number of ports that are attached.
    pub(super) fn attached(&self) -> usize {
        self.ports
            .iter()
            .filter(|port| port.attached.as_ref().is_some_and(|attached| attached.runs))
            .count()
    }

    /// Name of the interface in a slot.
    pub(super) fn name(&self, slot: u8) -> Option<&str> {
        self.ports
            .iter()
            .find(|port| port.slot == slot)
            .map(|port| port.interface.as_str())
    }
}

impl Port {
    /// Frames that the driver dropped instead of sending, since the port was attached.
    pub(super) fn driver_drops(&self) -> Option<u64> {
        let attached = self.attached.as_ref()?;
        Some(kernel::transmit_drops(&self.interface).saturating_sub(attached.drops_before))
    }

    fn entry(&self, link: &Link, policy: KernelPolicy, sync: &RouteSync) -> Option<PortEntry> {
        Some(PortEntry {
            slot: self.slot,
            flags: if self.group_mac { PORT_GROUP_MAC } else { 0 } | sync.port_flags(link),
            mac: link.mac?,
            sources: sources::modes(&self.source, policy, sync.has_gateway(link.ifindex)),
            packet_ns: price_ns(self.limits.packets_per_second),
            copy_ns: price_ns(self.limits.copies_per_second),
            ..PortEntry::default()
        })
    }

    /// Writes what the datapath knows of the port, if it is something else now.
    fn publish(&mut self, datapath: &mut Datapath, sync: &RouteSync) {
        let Some(attached) = &self.attached else {
            return;
        };
        let Some(entry) = self.entry(&attached.link, attached.policy, sync) else {
            return;
        };
        if entry == attached.entry {
            return;
        }
        // What could not be written is tried again.
        match datapath.update_device(attached.link.ifindex, entry) {
            Ok(()) => {
                if let Some(attached) = &mut self.attached {
                    attached.entry = entry;
                }
            }
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }

    fn attach(
        &mut self,
        link: &Link,
        datapath: &mut Datapath,
        sync: &RouteSync,
    ) -> anyhow::Result<()> {
        let policy = KernelPolicy::read(&link.name);
        let entry = self
            .entry(link, policy, sync)
            .ok_or_else(|| anyhow::anyhow!("it has no Ethernet address"))?;
        datapath.add_device(link.ifindex, entry)?;
        self.attached = Some(Attached {
            link: link.clone(),
            runs: false,
            asked: datapath.asked(),
            transmits: false,
            entry,
            policy,
            drops_before: kernel::transmit_drops(&self.interface),
        });
        Ok(())
    }

    /// Has the program run, now that whatever arrives can be copied.
    fn run(
        &mut self,
        link: &Link,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.runs {
            return;
        }
        match datapath.attach(self.slot, link.ifindex) {
            Ok(()) => {
                info!("port {} attached", self.interface);
                attached.runs = true;
            }
            Err(error) => {
                let error = error.context(
                    "native XDP did not attach (another program there, an MTU above what one page \
                     holds, or a driver without it; see: xcast-ctl check)",
                );
                warn!("cannot make {} a port: {error:#}", self.interface);
                sync.detach_port(link.ifindex, edits);
                let _ = datapath.remove_device(self.slot, link.ifindex);
                self.attached = None;
                self.failed = Some(link.clone());
            }
        }
    }

    /// Brings the maps in step with what is now known of the interface.
    fn follow(
        &mut self,
        link: &Link,
        transmits: bool,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        attached.link = link.clone();
        // The kernel tells nobody of most of these settings.
        attached.policy = KernelPolicy::read(&link.name);
        self.publish(datapath, sync);
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.transmits != transmits {
            attached.transmits = transmits;
            if transmits {
                sync.attach_port(link.ifindex, self.slot, edits);
            } else {
                warn!(
                    "{} cannot send XDP frames (a veth peer without GRO or a program?): \
                     its traffic takes the kernel stack",
                    self.interface
                );
                sync.detach_port(link.ifindex, edits);
            }
        }
    }
}
