//! The loop: events in order of time.

use std::{
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use xcast_host::{
    Options, PacketLimits,
    envelope::{Envelope, MAGIC},
    split::UplinkState,
};
use xcast_overlay::runtime::Protocol;

use super::{
    lines::Lines,
    meter::Meter,
    outbox::{Leaving, Outbox, OutboxSettings, tag, uplink_state},
    settings::{Access, WorldSettings},
};
use crate::{
    address,
    events::{Fate, Queue, Time},
    fanout::{
        Deployment, Family, Hop, Message, Network, Packet, PacketFormat, Place, Scheme,
        Transmission,
    },
    topology::{Graph, HostId, RouterId},
};

/// Says which class a message is of, by its sender, its receivers and its payload.
pub type Classify = Box<dyn FnMut(HostId, &[HostId], &Bytes) -> usize>;

/// A message that left a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Time,
    /// Who sent it.
    pub source: HostId,
    /// To whom, in the order of the list.
    pub to: Vec<HostId>,
    /// Length of the payload, in octets.
    pub payload_octets: u32,
}

/// Protocols on the hosts of a network.
pub struct World<'g, P: Protocol> {
    /// What crossed links.
    pub meter: Meter,
    network: Network<'g>,
    scheme: Scheme,
    access: Access,
    outboxes: OutboxSettings,
    lines: Lines,
    nodes: Vec<Option<Node<P>>>,
    /// By router: the nearest that speaks Xcast, for those who send inside UDP.
    nearest: Vec<Option<RouterId>>,
    queue: Queue<Event>,
    start: Instant,
    happened: VecDeque<(HostId, P::Event)>,
    classify: Option<Classify>,
    log: Option<Vec<Sent>>,
    leaving: Vec<Leaving>,
    hops: Vec<Hop>,
}

struct Node<P> {
    protocol: P,
    outbox: Outbox,
    uplink: UplinkState,
    /// When the event comes that wakes it, if there is one.
    wakes: Option<Time>,
}

enum Event {
    /// A timer of a host.
    Wake(HostId),
    /// A packet is at a place.
    Packet(Place, Packet, Rc<Flight>),
}

/// A message in flight.
struct Flight {
    source: HostId,
    payload: Bytes,
    class: usize,
}

impl<'g, P: Protocol> World<'g, P> {
    /// Nobody on the hosts of a network.
    #[must_use]
    pub fn new(network: Network<'g>, settings: WorldSettings) -> Self {
        let graph = network.routing.graph();
        let nearest = match settings.access {
            Access::Udp => nearest_capable(graph, &settings.deployment),
            Access::Native | Access::Unicast => vec![None; graph.router_count()],
        };
        Self {
            meter: Meter::default(),
            nodes: (0..network.hosts.count()).map(|_| None).collect(),
            network,
            scheme: Scheme {
                deployment: settings.deployment,
                prune: settings.prune,
                ecmp_key: settings.ecmp_key,
                format: PacketFormat {
                    family: settings.family,
                    payload_octets: 0,
                    ports: false,
                },
            },
            access: settings.access,
            outboxes: OutboxSettings {
                combining: settings.combining,
                envelopes: settings.envelopes,
                options: Options::default(),
                limits: PacketLimits::default(),
            },
            lines: Lines::new(settings.links, settings.access_links, settings.seed),
            nearest,
            queue: Queue::default(),
            start: Instant::now(),
            happened: VecDeque::new(),
            classify: None,
            log: None,
            leaving: Vec::new(),
            hops: Vec::new(),
        }
    }

    /// The time, as protocols know it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.instant(self.queue.now())
    }

    /// The time since the start.
    #[must_use]
    pub fn time(&self) -> Time {
        self.queue.now()
    }

    /// How many events are to come.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The version of IP.
    #[must_use]
    pub fn family(&self) -> Family {
        self.scheme.format.family
    }

    /// The network.
    pub fn network(&mut self) -> &mut Network<'g> {
        &mut self.network
    }

    /// The protocol on a host, if there is one.
    #[must_use]
    pub fn node(&self, host: HostId) -> Option<&P> {
        let node = self.nodes.get(host as usize)?.as_ref()?;
        Some(&node.protocol)
    }

    /// The hosts that have a protocol.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.is_some())
            .map(|(host, _)| host as HostId)
    }

    /// Puts a protocol on a host, in place of what was there.
    ///
    /// # Panics
    ///
    /// There is no such host.
    pub fn add(&mut self, host: HostId, protocol: P) {
        let router = self.network.hosts.router(host);
        let has_router = self.nearest[router as usize].is_some();
        let source = address::of_host(host, self.family());
        self.nodes[host as usize] = Some(Node {
            protocol,
            outbox: Outbox::default(),
            uplink: uplink_state(source, self.access, has_router),
            wakes: None,
        });
        self.pump(host);
    }

    /// The host is gone, without a word.
    pub fn kill(&mut self, host: HostId) {
        if let Some(node) = self.nodes.get_mut(host as usize) {
            *node = None;
        }
    }

    /// Gives a command to the protocol on a host, if there is one, and takes what comes of it.
    pub fn act<T>(
        &mut self,
        host: HostId,
        command: impl FnOnce(&mut P, Instant) -> T,
    ) -> Option<T> {
        let now = self.now();
        let node = self.nodes.get_mut(host as usize)?.as_mut()?;
        let result = command(&mut node.protocol, now);
        self.pump(host);
        Some(result)
    }

    /// The next thing that a protocol told.
    pub fn poll_event(&mut self) -> Option<(HostId, P::Event)> {
        self.happened.pop_front()
    }

    /// From now on messages are counted by class.
    pub fn classify(&mut self, classify: Option<Classify>) {
        self.classify = classify;
    }

    /// From now on messages are noted; see [`take_log`](Self::take_log).
    pub fn note(&mut self) {
        self.log = Some(Vec::new());
    }

    /// What was noted; nothing more is from now on.
    pub fn take_log(&mut self) -> Vec<Sent> {
        self.log.take().unwrap_or_default()
    }

    /// Goes on for this time.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.queue.now() + time.as_nanos() as u64);
    }

    /// Goes on until this time.
    pub fn run_until(&mut self, end: Time) {
        while let Some((_, event)) = self.queue.pop_until(end) {
            self.handle(event);
        }
    }

    /// Goes on until the next event has been dealt with, or until this time: whether there was one.
    pub fn step(&mut self, end: Time) -> bool {
        let event = self.queue.pop_until(end);
        let there_was = event.is_some();
        if let Some((_, event)) = event {
            self.handle(event);
        }
        there_was
    }

    fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_nanos(time.0)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(host) => self.wake(host),
            Event::Packet(Place::Host(host), _, flight) => self.arrive(host, &flight),
            Event::Packet(at, packet, flight) => self.carry(at, packet, &flight),
        }
    }

    fn wake(&mut self, host: HostId) {
        let (time, now) = (self.queue.now(), self.now());
        let Some(Some(node)) = self.nodes.get_mut(host as usize) else {
            return;
        };
        // Another event was earlier, and this one was not needed any more.
        if node.wakes != Some(time) {
            return;
        }
        node.wakes = None;
        if node.protocol.poll_timeout().is_some_and(|at| at <= now) {
            node.protocol.handle_timeout(now);
        }
        self.pump(host);
    }

    fn arrive(&mut self, host: HostId, flight: &Flight) {
        let now = self.now();
        let from = address::of_host(flight.source, self.family());
        let Some(Some(node)) = self.nodes.get_mut(host as usize) else {
            return;
        };
        let mut payload = flight.payload.clone();
        if payload.starts_with(&MAGIC) {
            let mut message = Vec::new();
            match Envelope::parse(&payload) {
                Ok(envelope) if envelope.extract(tag(host), &mut message) => {
                    payload = message.into();
                }
                _ => return,
            }
        }
        node.protocol.handle(now, from, payload);
        self.pump(host);
    }

    /// Takes from a protocol what it has to say.
    fn pump(&mut self, host: HostId) {
        let now = self.now();
        let mut leaving = std::mem::take(&mut self.leaving);
        if let Some(Some(node)) = self.nodes.get_mut(host as usize) {
            let settings = &self.outboxes;
            while let Some(transmit) = node.protocol.poll_transmit() {
                node.outbox
                    .push(settings, node.uplink, now, transmit, &mut leaving);
            }
            node.outbox.work(settings, node.uplink, now, &mut leaving);
            while let Some(event) = node.protocol.poll_event() {
                self.happened.push_back((host, event));
            }
            let timers = [node.protocol.poll_timeout(), node.outbox.deadline()];
            if let Some(timer) = timers.into_iter().flatten().min() {
                let since = timer.saturating_duration_since(self.start);
                let at = Time(since.as_nanos() as u64).max(self.queue.now());
                if node.wakes.is_none_or(|wakes| at < wakes) {
                    node.wakes = Some(at);
                    self.queue.push(at, Event::Wake(host));
                }
            }
        }
        for packet in leaving.drain(..) {
            self.send(host, packet);
        }
        self.leaving = leaving;
    }

    /// Sends a packet with a list, or a datagram.
    fn send(&mut self, source: HostId, leaving: Leaving) {
        let Leaving { to, payload } = leaving;
        let class = self
            .classify
            .as_mut()
            .map_or(0, |classify| classify(source, &to, &payload));
        self.scheme.format.payload_octets = payload.len() as u32;
        if let Some(log) = &mut self.log {
            log.push(Sent {
                at: self.queue.now(),
                source,
                to: to.clone(),
                payload_octets: payload.len() as u32,
            });
        }
        let own = self.network.hosts.router(source);
        let octets = self.scheme.format.unicast_octets();
        let tally = self.meter.of(class);
        tally.messages += 1;
        tally.receivers += to.len() as u64;
        for host in &to {
            let towards = self
                .network
                .routing
                .towards(self.network.hosts.router(*host));
            tally
                .unicast
                .add_path(u64::from(towards.hops(own)) + 2, octets);
        }
        let message = Message {
            source,
            to: &to,
            via: self.nearest[own as usize],
            flow: source.into(),
        };
        // The sender's own rules have seen to the length of the list.
        let Ok(packet) = message.packet(&self.scheme) else {
            return;
        };
        let flight = Rc::new(Flight {
            source,
            payload,
            class,
        });
        self.carry(Place::Host(source), packet, &flight);
    }

    /// Carries a packet on, from where it is now: to the hosts at once, where packets do not wait for
    /// each other, and else one link further.
    fn carry(&mut self, at: Place, packet: Packet, flight: &Rc<Flight>) {
        self.scheme.format.payload_octets = flight.payload.len() as u32;
        let flow = flight.source.into();
        let is_ordered = self.lines.are_ordered();
        let mut hops = std::mem::take(&mut self.hops);
        let mut packets = vec![(self.queue.now(), at, packet)];
        while let Some((time, at, packet)) = packets.pop() {
            self.network
                .forward(&self.scheme, at, packet, flow, &mut hops);
            for Hop {
                link,
                octets,
                packet,
            } in hops.drain(..)
            {
                self.meter
                    .crossed(flight.class, Transmission { link, octets });
                let graph = self.network.routing.graph();
                match self.lines.send(graph, link, time, octets) {
                    Fate::Lost => self.meter.lost += 1,
                    Fate::Dropped => self.meter.dropped += 1,
                    Fate::Arrives(time) => {
                        let end = self.network.end_of(link);
                        if is_ordered || matches!(end, Place::Host(_)) {
                            let event = Event::Packet(end, packet, Rc::clone(flight));
                            self.queue.push(time, event);
                        } else {
                            packets.push((time, end, packet));
                        }
                    }
                }
            }
        }
        self.hops = hops;
    }
}

/// By router: the nearest one that speaks Xcast, of equally near ones that with the lowest number.
fn nearest_capable(graph: &Graph, deployment: &Deployment) -> Vec<Option<RouterId>> {
    let mut nearest = vec![None; graph.router_count()];
    let mut found: VecDeque<_> = graph
        .routers()
        .filter(|router| deployment.is_capable(*router))
        .collect();
    for router in &found {
        nearest[*router as usize] = Some(*router);
    }
    while let Some(router) = found.pop_front() {
        for neighbour in graph.neighbours(router) {
            if nearest[*neighbour as usize].is_none() {
                nearest[*neighbour as usize] = nearest[router as usize];
                found.push_back(*neighbour);
            }
        }
    }
    nearest
}
