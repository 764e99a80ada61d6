//! The configured interfaces, and what has become of them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::{info, warn};
use xcast_common::{
    forward::limits::price_ns,
    maps::{MAX_PORTS, PORT_FIRST, PORT_GROUP_MAC, PORT_MORE_MACS, Port as PortEntry},
};

use super::{
    sources::{self, KernelPolicy},
    survey::{Survey, Surveyor},
};
use crate::{
    config,
    datapath::Datapath,
    kernel,
    sync::{Edit, KernelEvent, RouteSync, event::Link},
};

/// Pause before a port that could not be attached is tried again; each further pause is twice as
/// long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// What is wrong with a driver that does not transmit.
const CANNOT_SEND: &str =
    "the driver cannot send XDP frames (a veth peer without GRO or a program?)";

/// All configured ports.
pub(super) struct Ports {
    pub(super) ports: Vec<Port>,
    /// Interfaces that exist, by index.
    links: HashMap<u32, Link>,
    /// Links seen in a dump that is under way.
    dump: Option<Vec<u32>>,
    pub(super) surveyor: Surveyor,
}

/// One configured port.
pub(super) struct Port {
    pub(super) interface: String,
    pub(super) group_mac: bool,
    source: config::Source,
    limits: config::Limits,
    pub(super) slot: u8,
    pub(super) attached: Option<Attached>,
    /// Why it is not attached, where its interface exists.
    failed: Option<Failed>,
}

/// An attempt to attach that failed.
struct Failed {
    /// The interface as it was: if it changes, it is tried again at once.
    link: Link,
    /// The XDP program that was there, likewise.
    program: Option<u32>,
    cause: String,
    attempts: u32,
    /// When it is tried again, whatever has or has not changed.
    again: Instant,
}

/// A port whose interface exists and runs the program.
pub(super) struct Attached {
    pub(super) link: Link,
    /// Further addresses by which it receives.
    macs: Vec<[u8; 6]>,
    program: Program,
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

/// Whether the router's program is on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Nobody has asked for that.
    Absent,
    /// The driver is being asked, since then.
    Asked(Instant),
    /// It runs, since then.
    Runs(Instant),
}

impl Attached {
    /// The program runs on it.
    pub(super) fn runs(&self) -> bool {
        matches!(self.program, Program::Runs(_))
    }
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
    ) -> Result<Self> {
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
        Ok(Self {
            ports,
            links: HashMap::new(),
            dump: None,
            surveyor: Surveyor::start()?,
        })
    }

    /// Settings that routes depend on: the MTUs for IPv6 of the ports that are attached, whether multipath routes
    /// mind failed neighbours, and what policies of IPsec apply to.
    pub(super) fn settings(&self) -> Vec<KernelEvent> {
        let survey = self.surveyor.last();
        let attached = self.ports.iter().filter_map(|port| port.attached.as_ref());
        let mtu = |attached: &Attached| {
            let ifindex = attached.link.ifindex;
            let mtu_bytes = survey.link(ifindex)?.ipv6_mtu?;
            Some(KernelEvent::Ipv6Mtu { ifindex, mtu_bytes })
        };
        let uses_neighbours = survey.multipath_uses_neighbours;
        let uses_neighbours = KernelEvent::MultipathUsesNeighbours(uses_neighbours);
        let ipsec = KernelEvent::Ipsec(survey.ipsec.clone());
        attached
            .filter_map(mtu)
            .chain([uses_neighbours, ipsec])
            .collect()
    }

    /// The slots of the ports, in the order of the configuration.
    pub(super) fn slots(&self) -> impl Iterator<Item = u8> {
        self.ports.iter().map(|port| port.slot)
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
                let mut link = link.clone();
                // A rule goes on with the interface that it found by a name, when that is taken away.
                if let Some(old) = self.links.get(&link.ifindex) {
                    let old = old.alt_names.iter();
                    let gone: Vec<_> = old.filter(|&name| !link.alt_names.contains(name)).collect();
                    link.alt_names.extend(gone.into_iter().cloned());
                }
                self.links.insert(link.ifindex, link);
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
        let survey = self.surveyor.last();
        let ours = datapath.ingress_program_id();
        for port in &mut self.ports {
            let link = self.links.values().find(|link| link.name == port.interface);
            // By another name: the survey knows those.
            let link = link.or_else(|| self.links.get(&survey.named(&port.interface)?));
            if let Some(why) = port.lost(link, &survey, ours)
                && let Some(attached) = port.attached.take()
            {
                warn!("port {}: {why}", port.interface);
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
            if port.attached.is_none() {
                port.try_to_add(link, &survey, datapath, sync, edits);
            }
            let copies = port.attached.as_ref();
            let copies = copies.is_some_and(|attached| datapath.is_settled(attached.asked));
            if may_run && copies {
                port.run(datapath);
            }
            port.follow(link, &survey, copies, datapath, sync, edits);
        }
    }

    /// Goes by what a driver did with the program of the port in this slot.
    pub(super) fn note_attachment(
        &mut self,
        slot: u8,
        result: Result<()>,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let survey = self.surveyor.last();
        if let Some(port) = self.ports.iter_mut().find(|port| port.slot == slot) {
            port.note_attachment(result, &survey, datapath, sync, edits);
        }
    }

    /// Whether any driver is being asked to run the program.
    pub(super) fn are_asked(&self) -> bool {
        let attached = self.ports.iter().filter_map(|port| port.attached.as_ref());
        attached
            .into_iter()
            .any(|attached| matches!(attached.program, Program::Asked(_)))
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
            .filter(|port| port.attached.as_ref().is_some_and(Attached::runs))
            .count()
    }

    /// What the datapath knows of each port that is attached, with the sources that its configuration lists.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, PortEntry, &[IpNet])> {
        self.ports.iter().filter_map(|port| {
            let attached = port.attached.as_ref()?;
            Some((
                port.interface.as_str(),
                attached.entry,
                port.source.prefixes(),
            ))
        })
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
    /// Frames that the driver dropped instead of sending, since the port was attached, given what interfaces
    /// dropped in all.
    pub(super) fn driver_drops(&self, drops: &HashMap<String, u64>) -> Option<u64> {
        let attached = self.attached.as_ref()?;
        let now = drops.get(&attached.link.name).copied().unwrap_or(0);
        Some(now.saturating_sub(attached.drops_before))
    }

    /// Why packets do not arrive by it, or copies do not leave.
    pub(super) fn cause(&self) -> Option<String> {
        match (&self.attached, &self.failed) {
            (Some(attached), _) => match attached.program {
                Program::Asked(since) => Some(format!(
                    "the driver has been taking the XDP program for {} s",
                    since.elapsed().as_secs()
                )),
                _ if attached.transmits => None,
                _ => Some(CANNOT_SEND.to_owned()),
            },
            (None, Some(failed)) => Some(failed.cause.clone()),
            (None, None) => Some("there is no such interface".to_owned()),
        }
    }

    /// Why the port is none any more, if it was one. `ours` is the id of the router's program.
    fn lost(&self, link: Option<&Link>, survey: &Survey, ours: u32) -> Option<String> {
        let attached = self.attached.as_ref()?;
        if link.is_none_or(|link| link.ifindex != attached.link.ifindex) {
            return Some("the interface is gone".to_owned());
        }
        // An answer from before it was attached says nothing.
        match attached.program {
            Program::Runs(since) if survey.asked > since => {}
            _ => return None,
        }
        let program = survey.link(attached.link.ifindex)?.xdp_program;
        (program != Some(ours)).then(|| match program {
            Some(other) => format!("somebody put {} in its place", program_text(other)),
            None => "somebody took the XDP program off".to_owned(),
        })
    }

    /// Makes the interface known, unless that, or attaching, failed a moment ago and nothing has changed.
    fn try_to_add(
        &mut self,
        link: &Link,
        survey: &Survey,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        // What the survey does not know yet, it will soon.
        let Some(surveyed) = survey.link(link.ifindex) else {
            return;
        };
        if let Some(failed) = &self.failed
            && failed.link == *link
            && failed.program == surveyed.xdp_program
            && Instant::now() < failed.again
        {
            return;
        }
        let outcome = match surveyed.obstacle(survey.native(link.ifindex)) {
            Some(obstacle) => Err(anyhow::anyhow!("{obstacle}")),
            None => self.add(link, survey, datapath, sync),
        };
        match outcome {
            Ok(()) => sync.set_arrival(link.ifindex, Some(self.slot), edits),
            Err(error) => self.note_failure(link, survey, &error),
        }
    }

    /// Says why the interface is no port, if that is news, and when it is tried again.
    fn note_failure(&mut self, link: &Link, survey: &Survey, error: &anyhow::Error) {
        let surveyed = survey.link(link.ifindex);
        let program = surveyed.and_then(|surveyed| surveyed.xdp_program);
        let cause = match program {
            Some(other) => format!("{} is attached to it", program_text(other)),
            None => format!("{error:#}"),
        };
        let before = self.failed.as_ref();
        if before.is_none_or(|failed| failed.cause != cause) {
            warn!(
                "cannot make {} a port: {cause}; it is tried again",
                self.interface
            );
        }
        let attempts = match before {
            Some(failed) if failed.link == *link && failed.program == program => {
                failed.attempts + 1
            }
            _ => 1,
        };
        let delay = FIRST_RETRY.saturating_mul(1 << (attempts - 1).min(10));
        self.failed = Some(Failed {
            link: link.clone(),
            program,
            cause,
            attempts,
            again: Instant::now() + delay.min(LAST_RETRY),
        });
    }

    fn entry(&self, link: &Link, policy: KernelPolicy, sync: &RouteSync) -> Option<PortEntry> {
        let sources = sources::modes(&self.source, policy, sync.has_gateway(link.ifindex));
        Some(PortEntry {
            slot: self.slot,
            flags: PORT_MORE_MACS
                | if self.group_mac { PORT_GROUP_MAC } else { 0 }
                | sync.port_flags(link)
                | sync.way_back_flags(
                    policy.want_way_back(sources),
                    policy.exceeds_filter(sources),
                ),
            mac: link.mac?,
            sources,
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

    /// Makes the interface known to the datapath.
    fn add(
        &mut self,
        link: &Link,
        survey: &Survey,
        datapath: &mut Datapath,
        sync: &RouteSync,
    ) -> Result<()> {
        let policy = survey.policy(link.ifindex);
        let policy = policy.context("nothing is known of it yet")?;
        let entry = self
            .entry(link, policy, sync)
            .context("it has no Ethernet address")?;
        datapath.add_device(link.ifindex, entry)?;
        self.attached = Some(Attached {
            link: link.clone(),
            program: Program::Absent,
            macs: Vec::new(),
            asked: datapath.asked(),
            transmits: false,
            entry,
            policy,
            drops_before: kernel::transmit_drops()
                .get(&link.name)
                .copied()
                .unwrap_or(0),
        });
        Ok(())
    }

    /// Asks for the program, now that whatever arrives can be copied.
    fn run(&mut self, datapath: &mut Datapath) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.program == Program::Absent {
            match datapath.attach(self.slot, attached.link.ifindex) {
                Ok(()) => attached.program = Program::Asked(Instant::now()),
                Err(error) => warn!("{}: {error:#}", self.interface),
            }
        }
    }

    /// Goes by what the driver did with the program.
    fn note_attachment(
        &mut self,
        result: Result<()>,
        survey: &Survey,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        match result {
            Ok(()) => {
                info!("port {} attached", self.interface);
                attached.program = Program::Runs(Instant::now());
                self.failed = None;
            }
            Err(error) => {
                let error = error.context(
                    "native XDP did not attach (another program there, an MTU above what one page \
                     holds, or a driver without it; see: xcast-ctl check)",
                );
                let link = attached.link.clone();
                self.attached = None;
                self.note_failure(&link, survey, &error);
                sync.detach_port(link.ifindex, edits);
                sync.set_arrival(link.ifindex, None, edits);
                let _ = datapath.remove_device(self.slot, link.ifindex);
            }
        }
    }

    /// Brings the maps in step with what is now known of the interface.
    fn follow(
        &mut self,
        link: &Link,
        survey: &Survey,
        may_send: bool,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        let macs = survey.further_macs(link.ifindex);
        if attached.macs != macs {
            if let Err(error) = datapath.set_macs(self.slot, &macs) {
                warn!("{:#}", anyhow::Error::from(error));
            }
            attached.macs = macs;
        }
        attached.link = link.clone();
        attached.policy = survey.policy(link.ifindex).unwrap_or(attached.policy);
        self.publish(datapath, sync);
        let Some(attached) = &mut self.attached else {
            return;
        };
        let transmits = may_send && survey.transmits(link.ifindex);
        if attached.transmits != transmits {
            attached.transmits = transmits;
            if transmits {
                sync.attach_port(link.ifindex, self.slot, edits);
            } else {
                warn!(
                    "{}: {CANNOT_SEND}: its traffic takes the kernel stack",
                    self.interface
                );
                sync.detach_port(link.ifindex, edits);
            }
        }
    }
}

/// An XDP program for people: its id, and its name if the kernel tells.
fn program_text(id: u32) -> String {
    match kernel::program_name(id) {
        Some(name) => format!("another XDP program, id {id} ({name}),"),
        None => format!("another XDP program, id {id},"),
    }
}
