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
    kernel::{self, Barred},
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

/// What the kernel said of interfaces.
#[derive(Clone, Copy)]
struct Kernel<'a> {
    /// By its messages, by index.
    links: &'a HashMap<u32, Link>,
    /// When it was asked.
    survey: &'a Survey,
}

impl Kernel<'_> {
    /// The interface that what arrives by a port has arrived by, to the kernel.
    fn receiver<'a>(&'a self, port: &'a Link) -> &'a Link {
        let receiver = self.survey.receiver(port.ifindex);
        self.links.get(&receiver).unwrap_or(port)
    }
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
    /// The interface that the kernel takes what arrives by it to have arrived by: the bridge or bond that it is a member
    /// of, or itself.
    receiver: Link,
    /// Why nothing of what it receives arrives there, if so.
    barred: Option<Barred>,
    /// What is on top of it.
    above: Above,
    /// Further addresses by which it receives, as the datapath knows them.
    macs: Vec<[u8; 6]>,
    /// The kernel refused others, and it was said.
    lacks_macs: bool,
    program: Program,
    /// The device maps with it were asked for by then; see [`Datapath::can_copy`].
    asked: u64,
    /// Why there are none, if they could not be made.
    uncopied: Option<String>,
    /// The driver can send what XDP redirects to it, and there are device maps with it, so routes may use it.
    transmits: bool,
    /// What the datapath knows of it.
    entry: PortEntry,
    /// What the kernel's own settings say of what arrives there.
    policy: KernelPolicy,
    /// The driver's drops when it was attached.
    drops_before: u64,
}

/// The interfaces on top of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Above {
    /// Those that packets belong to which arrive by the port, by index.
    interfaces: Vec<u32>,
    /// Their addresses, where they are not the port's.
    macs: Vec<[u8; 6]>,
    /// Names of those whose frames are not taken: something else is set for them than for the port.
    refused: Vec<String>,
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
            let kernel = Kernel {
                links: &self.links,
                survey: &survey,
            };
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
                port.try_to_add(link, &kernel, datapath, sync, edits);
            }
            let copies = port.can_copy(datapath);
            if may_run && copies {
                port.run(datapath);
            }
            port.follow(link, &kernel, copies, datapath, sync, edits);
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

    /// Name of the interface by which what arrives by a port arrives, to the kernel.
    pub(super) fn receiver(&self, port: &str) -> Option<&str> {
        let mut ports = self.ports.iter();
        let port = ports.find(|candidate| candidate.interface == port)?;
        Some(port.attached.as_ref()?.receiver.name.as_str())
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
                _ if let Some(barred) = attached.barred => Some(left_to_kernel(barred)),
                _ if attached.transmits => None,
                _ if attached.uncopied.is_some() => attached.uncopied.clone(),
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
        kernel: &Kernel<'_>,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let survey = kernel.survey;
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
            None => self.add(link, kernel, datapath, sync),
        };
        match outcome {
            Ok(()) => self.tell_arrival(sync, edits),
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

    /// Tells where packets belong that arrive by it.
    fn tell_arrival(&self, sync: &mut RouteSync, edits: &mut Vec<Edit>) {
        if let Some(Attached { link, above, .. }) = &self.attached {
            let arrival = (self.slot, above.interfaces.clone());
            sync.set_arrival(link.ifindex, Some(arrival), edits);
        }
    }

    /// What is on top of it. The datapath does for each frame what the kernel does at the port's receiver. What else
    /// gets some of its frames, by an address of its own, and may be more careful with them, keeps them.
    fn above(
        &self,
        link: &Link,
        policy: KernelPolicy,
        kernel: &Kernel<'_>,
        sync: &RouteSync,
    ) -> Above {
        let survey = kernel.survey;
        let receiver = kernel.receiver(link);
        let mut above = Above::default();
        for upper in survey.above(link.ifindex) {
            let ifindex = survey.receiver(upper.link.ifindex);
            // What one of the two does not know yet, it soon will.
            let Some((other, of_other)) = kernel.links.get(&ifindex).zip(survey.policy(ifindex))
            else {
                continue;
            };
            let is_alike = ifindex == receiver.ifindex
                || !sync.is_in_rules(receiver)
                    && !sync.is_in_rules(other)
                    && survey.vrf(receiver) == survey.vrf(other)
                    && of_other.takes_all_of(&policy, &self.source);
            if !is_alike {
                above.refused.push(upper.link.name.clone());
                continue;
            }
            if upper.is_sure {
                above.interfaces.push(upper.link.ifindex);
            }
            if upper.link.up && upper.link.mac != link.mac {
                above.macs.extend(upper.link.mac);
            }
        }
        above.macs.sort_unstable();
        above.macs.dedup();
        above
    }

    fn entry(&self, attached: &Attached, sync: &RouteSync) -> Option<PortEntry> {
        let Attached {
            link,
            receiver,
            barred,
            above,
            policy,
            ..
        } = attached;
        if barred.is_some() {
            // No frame is for it, and what claims to be for no address at all is not taken, either.
            return Some(PortEntry {
                slot: self.slot,
                sources: sources::CLOSED,
                ..PortEntry::default()
            });
        }
        let mut interfaces = above.interfaces.iter().chain([&link.ifindex]);
        let has_gateway = interfaces.any(|&interface| sync.has_gateway(interface));
        let sources = sources::modes(&self.source, *policy, has_gateway);
        Some(PortEntry {
            slot: self.slot,
            flags: PORT_MORE_MACS
                | if self.group_mac { PORT_GROUP_MAC } else { 0 }
                | sync.port_flags(receiver)
                | sync.way_back_flags(
                    policy.want_way_back(sources),
                    policy.exceeds_filter(sources),
                ),
            mac: link.mac?,
            receiver: receiver.ifindex,
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
        let Some(entry) = self.entry(attached, sync) else {
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
        kernel: &Kernel<'_>,
        datapath: &mut Datapath,
        sync: &RouteSync,
    ) -> Result<()> {
        let receiver = kernel.receiver(link);
        let policy = kernel.survey.policy(receiver.ifindex);
        let policy = policy.context("nothing is known of it yet")?;
        let mut attached = Attached {
            link: link.clone(),
            receiver: receiver.clone(),
            barred: kernel.survey.barred(link.ifindex),
            above: self.above(link, policy, kernel, sync),
            program: Program::Absent,
            macs: Vec::new(),
            lacks_macs: false,
            asked: 0,
            uncopied: None,
            transmits: false,
            entry: PortEntry::default(),
            policy,
            drops_before: kernel::transmit_drops()
                .get(&link.name)
                .copied()
                .unwrap_or(0),
        };
        let entry = self.entry(&attached, sync);
        attached.entry = entry.context("it has no Ethernet address")?;
        datapath.add_device(link.ifindex, attached.entry)?;
        attached.asked = datapath.asked();
        self.attached = Some(attached);
        Ok(())
    }

    /// Whether copies can be made for it. If not for ever, notes why.
    fn can_copy(&mut self, datapath: &Datapath) -> bool {
        let Some(attached) = &mut self.attached else {
            return false;
        };
        let unmade = datapath.unmade();
        let unmade = unmade.filter(|unmade| unmade.slots.contains(&self.slot));
        attached.uncopied = unmade.map(|unmade| {
            format!(
                "there are no device maps to copy with ({}); they are tried again",
                unmade.error
            )
        });
        datapath.can_copy(self.slot, attached.asked)
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
        kernel: &Kernel<'_>,
        may_send: bool,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let survey = kernel.survey;
        let Some(attached) = &mut self.attached else {
            return;
        };
        let receiver = kernel.receiver(link);
        let policy = survey.policy(receiver.ifindex);
        attached.policy = policy.unwrap_or(attached.policy);
        attached.link = link.clone();
        attached.receiver = receiver.clone();
        let barred = survey.barred(link.ifindex);
        if attached.barred != barred {
            attached.barred = barred;
            match barred {
                Some(barred) => warn!("{}: {}", self.interface, left_to_kernel(barred)),
                None => info!("{}: its bridge or bond takes what arrives", self.interface),
            }
        }
        let policy = attached.policy;
        let above = self.above(link, policy, kernel, sync);
        self.follow_above(above, datapath, sync, edits);
        self.publish(datapath, sync);
        let Some(attached) = &mut self.attached else {
            return;
        };
        let may_send = may_send && !barred.is_some_and(Barred::sends_nothing);
        let transmits = may_send && survey.transmits(link.ifindex);
        if attached.transmits != transmits {
            attached.transmits = transmits;
            if transmits {
                sync.attach_port(link.ifindex, self.slot, edits);
            } else {
                let why = match (barred, &attached.uncopied) {
                    (Some(barred), _) => barred.to_string(),
                    (None, Some(uncopied)) => uncopied.clone(),
                    (None, None) => CANNOT_SEND.to_owned(),
                };
                warn!(
                    "{}: {why}: its traffic takes the kernel stack",
                    self.interface
                );
                sync.detach_port(link.ifindex, edits);
            }
        }
    }
}

impl Port {
    /// Goes by what is on top of it now.
    fn follow_above(
        &mut self,
        above: Above,
        datapath: &mut Datapath,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.macs != above.macs {
            match datapath.set_macs(self.slot, &above.macs) {
                Ok(()) => {
                    attached.macs.clone_from(&above.macs);
                    attached.lacks_macs = false;
                }
                // It is tried again with the next survey.
                Err(error) => {
                    if !std::mem::replace(&mut attached.lacks_macs, true) {
                        warn!(
                            "{:#}: frames to some addresses of {} go to the kernel; it is tried again",
                            anyhow::Error::from(error),
                            attached.link.name
                        );
                    }
                }
            }
        }
        let is_new = |name: &&String| !attached.above.refused.contains(name);
        for name in above.refused.iter().filter(is_new) {
            warn!(
                "{}: frames to {name} stay with the kernel: other rules or settings apply there (see: xcast-ctl check)",
                self.interface
            );
        }
        let before = std::mem::replace(&mut attached.above, above);
        if before.interfaces != attached.above.interfaces {
            self.tell_arrival(sync, edits);
        }
    }
}

/// What becomes of what arrives by a port that is barred.
fn left_to_kernel(barred: Barred) -> String {
    format!("{barred}: what arrives is left to the kernel")
}

/// An XDP program for people: its id, and its name if the kernel tells.
fn program_text(id: u32) -> String {
    match kernel::program_name(id) {
        Some(name) => format!("another XDP program, id {id} ({name}),"),
        None => format!("another XDP program, id {id},"),
    }
}
