//! The configured interfaces, and what has become of them.

use std::collections::HashMap;

use tracing::{info, warn};
use xcast_common::maps::{PORT_FIRST, PORT_GROUP_MAC, Port as PortEntry};

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
    pub(super) slot: u8,
    pub(super) attached: Option<Attached>,
    /// Interface for which attaching failed, so that it is not tried, and told, every second.
    failed: Option<Link>,
}

/// A port whose interface exists and runs the program.
pub(super) struct Attached {
    pub(super) link: Link,
    /// What the port table says.
    entry: PortEntry,
    /// The driver can send what XDP redirects to it, so routes may use it.
    transmits: bool,
    /// The driver's drops when it was attached.
    drops_before: u64,
}

impl Ports {
    /// Nothing is attached yet.
    pub(super) fn new(configured: &[config::Port]) -> Self {
        let ports = (PORT_FIRST..)
            .zip(configured)
            .map(|(slot, port)| Port {
                interface: port.interface.clone(),
                group_mac: port.group_mac,
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

    /// Attaches what appeared, forgets what disappeared, follows what changed.
    pub(super) fn reconcile(
        &mut self,
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
                    Ok(()) => port.failed = None,
                    Err(error) => {
                        warn!("cannot make {} a port: {error:#}", port.interface);
                        port.failed = Some(link.clone());
                    }
                }
            }
            port.follow(link, transmits(link.ifindex), datapath, sync, edits);
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
            .filter(|port| port.attached.is_some())
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

    fn entry(&self, link: &Link, sync: &RouteSync) -> Option<PortEntry> {
        Some(PortEntry {
            slot: self.slot,
            flags: if self.group_mac { PORT_GROUP_MAC } else { 0 } | sync.port_flags(link),
            mac: link.mac?,
            ..PortEntry::default()
        })
    }

    fn attach(
        &mut self,
        link: &Link,
        datapath: &mut Datapath,
        sync: &RouteSync,
    ) -> anyhow::Result<()> {
        let entry = self
            .entry(link, sync)
            .ok_or_else(|| anyhow::anyhow!("it has no Ethernet address"))?;
        datapath.add_device(link.ifindex, entry)?;
        if let Err(error) = datapath.attach(self.slot, link.ifindex) {
            let _ = datapath.remove_device(self.slot, link.ifindex);
            return Err(anyhow::Error::from(error).context(
                "native XDP did not attach (another program there, an MTU above what one page \
                 holds, or a driver without it; see: xcast-ctl check)",
            ));
        }
        info!("port {} attached", self.interface);
        self.attached = Some(Attached {
            link: link.clone(),
            entry,
            transmits: false,
            drops_before: kernel::transmit_drops(&self.interface),
        });
        Ok(())
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
        let entry = self.entry(link, sync);
        let Some(attached) = &mut self.attached else {
            return;
        };
        if let Some(entry) = entry.filter(|entry| *entry != attached.entry) {
            match datapath.update_device(link.ifindex, entry) {
                Ok(()) => attached.entry = entry,
                Err(error) => warn!("{:#}", anyhow::Error::from(error)),
            }
        }
        attached.link = link.clone();
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
