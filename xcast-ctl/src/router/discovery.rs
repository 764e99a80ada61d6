//! Asks gateways whether they speak Xcast: the shell around
//! [`discovery`], which decides.
//!
//! A probe is a frame of our own making, to the gateway's link-layer address. Its list has one entry, the
//! router's own address on that link, so a gateway that speaks Xcast returns it as a UDP datagram from the router to the
//! router. The kernel drops such a datagram (its source is its own), so it is caught by a packet socket, which
//! sees it before. The time to live of 2 keeps anybody but a direct neighbour from returning it.

use std::{
    collections::{HashMap, HashSet},
    future,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracing::{debug, info, warn};
use xcast_common::wire::transport;
use xcast_host::{
    CodePoints,
    packet::{Entry, Template},
};
use xcast_overlay::{
    backbone::{
        discovery::{self, Nonce, Standing, Timing},
        passage::Verdict,
    },
    runtime::Random,
};

use super::{
    passage::Trials,
    probe::{Gateway, NETWORK_CONTROL, filter, frame, payload_of},
};
use crate::{
    config::Config,
    gateways::Gateways,
    kernel::{self, PacketSocket},
    report::Neighbor,
    sync::{Edit, GatewayRow, KernelEvent, RouteSync, WayTo, event::Mac},
};

/// Begins a probe's payload; the nonce follows.
const MAGIC: [u8; 4] = *b"XcPg";
/// UDP port that probes go to, if ever a kernel takes one: "discard" (RFC 863).
const DISCARD: u16 = 9;
/// To the gateway and back.
const TTL: u8 = 2;

/// Probes of gateways, and what came of them.
pub(super) struct Discovery {
    code_points: CodePoints,
    gateways: Gateways,
    /// Absent if no gateway is to be asked, or none can be.
    asking: Option<Asking>,
    /// Absent if nobody is known behind gateways.
    trials: Option<Trials>,
    /// Gateways that `sync` was told to send lists to.
    told: HashSet<Gateway>,
    /// Those of the predecessor's that no route has led to yet.
    inherited: HashSet<Gateway>,
    /// Those of the predecessor's of which nothing else is known yet than that it sent them lists.
    trusted: HashSet<Gateway>,
}

struct Asking {
    socket: PacketSocket,
    state: discovery::Discovery<Gateway>,
    /// Link-layer addresses as they were last heard.
    macs: HashMap<Gateway, Option<Mac>>,
}

impl Discovery {
    /// Opens what probes need, within a tokio runtime. If that cannot be had, every gateway that nothing is stated
    /// of is served by unicast. Those that are `proven` for the predecessor get its lists already, and go on to: they have
    /// as long to prove it again as a proof holds.
    pub(super) fn start(config: &Config, proven: Vec<Gateway>) -> Self {
        let gateways = config.router.gateways.clone();
        let asking = gateways.is_to_discover().then(Asking::start);
        let asking = asking.transpose().unwrap_or_else(|error| {
            warn!("{error:#}");
            None
        });
        let remotes = config.tunnels.iter().map(|tunnel| tunnel.remote);
        let known = config.router.probe_through.iter().copied();
        let known: Vec<IpAddr> = known.chain(remotes).collect();
        let proven: HashSet<Gateway> = match &asking {
            Some(_) => proven.into_iter().collect(),
            None => HashSet::new(),
        };
        let trials = asking.as_ref().and_then(|_| {
            let random = random().ok()?;
            Trials::start(config.code_points, known, random)
        });
        Self {
            code_points: config.code_points,
            gateways,
            trials,
            told: proven.clone(),
            trusted: proven.clone(),
            inherited: proven,
            asking,
        }
    }

    /// Tells `sync` who got the predecessor's lists, before it knows any route.
    pub(super) fn tell_inherited(&self, sync: &mut RouteSync, edits: &mut Vec<Edit>) {
        for gateway in &self.inherited {
            sync.set_proven(*gateway, true, edits);
        }
    }

    /// Forgets of what the predecessor had proven what no route leads to; to be called once routes are known. Returns what it
    /// is.
    pub(super) fn forget_unused(
        &mut self,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) -> Vec<Gateway> {
        let unused: Vec<Gateway> = self.inherited.drain().collect();
        for gateway in &unused {
            self.told.remove(gateway);
            self.trusted.remove(gateway);
            sync.set_proven(*gateway, false, edits);
        }
        unused
    }

    /// From now on, this gateway is asked, unless it is stated what it does.
    pub(super) fn add(&mut self, ifindex: u32, gateway: IpAddr) {
        let key = (ifindex, gateway);
        if self.gateways.stated(gateway).is_none()
            && let Some(asking) = &mut self.asking
        {
            match self.inherited.remove(&key) {
                true => asking.state.add_proven(Instant::now(), key),
                false => asking.state.add(Instant::now(), key),
            }
        }
    }

    /// Asks this gateway no more.
    pub(super) fn remove(&mut self, ifindex: u32, gateway: IpAddr) {
        if let Some(asking) = &mut self.asking {
            asking.state.remove((ifindex, gateway));
            asking.macs.remove(&(ifindex, gateway));
        }
    }

    /// A gateway whose link-layer address became known, or is another one, is asked at once.
    pub(super) fn note(&mut self, event: &KernelEvent) {
        let (Some(asking), KernelEvent::Neighbour(neighbour)) = (&mut self.asking, event) else {
            return;
        };
        let gateway = (neighbour.ifindex, neighbour.address);
        let mac = neighbour.resolved();
        if asking.state.is_asked(gateway)
            && asking.macs.insert(gateway, mac) != Some(mac)
            && mac.is_some()
        {
            asking.state.hurry(Instant::now(), gateway);
        }
    }

    /// Goes by the routes as they are now; to be called every second or so.
    pub(super) fn follow(&mut self, sync: &RouteSync) {
        if let (Some(trials), Some(asking)) = (&mut self.trials, &self.asking) {
            trials.follow(sync, |gateway| asking.state.is_capable(gateway));
        }
    }

    /// Waits until a probe returns, or something is due. Nothing is lost if this is cancelled.
    pub(super) async fn wait(&self) -> Option<Nonce> {
        tokio::select! {
            returned = Asking::wait(self.asking.as_ref()) => returned,
            returned = Trials::wait(self.trials.as_ref()) => returned,
        }
    }

    /// Goes by a probe that returned, does what is due, and tells `sync` who is to get lists from now on. Returns of whom
    /// that is news, and whether they are.
    pub(super) fn advance(
        &mut self,
        returned: Option<Nonce>,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) -> Vec<(Gateway, bool)> {
        let Some(asking) = &mut self.asking else {
            return Vec::new();
        };
        let mut changed = asking.advance(returned, &self.code_points, sync);
        if let Some(trials) = &mut self.trials {
            // Before anybody counts who returned its first probe.
            trials.follow(sync, |gateway| asking.state.is_capable(gateway));
            changed.extend(trials.advance(returned, sync));
        }
        let mut news = Vec::new();
        for gateway in changed {
            self.doubt(gateway);
            let speaks = self.speaks(gateway);
            let told = match speaks {
                true => !self.told.insert(gateway),
                false => self.told.remove(&gateway),
            };
            if told == speaks {
                continue;
            }
            let (ifindex, address) = gateway;
            let device = sync.link_name(ifindex);
            if speaks {
                info!("{address} on {device} speaks Xcast");
            } else {
                info!(
                    "{address} on {device} has not proven lately that it speaks Xcast and forwards it"
                );
            }
            sync.set_proven(gateway, speaks, edits);
            news.push((gateway, speaks));
        }
        news
    }

    /// Ends the trust in what the predecessor knew, if something else is known by now.
    fn doubt(&mut self, gateway: Gateway) {
        let returns = |asking: &Asking| asking.state.is_capable(gateway);
        let is_tried = self.trials.as_ref().is_some_and(|trials| {
            let verdict = trials.verdict(gateway);
            verdict.is_some_and(|(verdict, _)| verdict != Verdict::Untried)
        });
        if is_tried || !self.asking.as_ref().is_some_and(returns) {
            self.trusted.remove(&gateway);
        }
    }

    /// The gateway returns probes, and forwards them as far as that can be tried.
    fn speaks(&self, gateway: Gateway) -> bool {
        let returns = |asking: &Asking| asking.state.is_capable(gateway);
        let verdict = self
            .trials
            .as_ref()
            .and_then(|trials| trials.verdict(gateway));
        self.asking.as_ref().is_some_and(returns)
            && verdict.is_none_or(|(verdict, _)| {
                verdict.allows_lists()
                    || verdict == Verdict::Untried && self.trusted.contains(&gateway)
            })
    }

    /// For the `neighbors` verb.
    pub(super) fn report(&self, sync: &RouteSync) -> Vec<Neighbor> {
        let asked: HashMap<_, _> = self
            .asking
            .iter()
            .flat_map(|asking| asking.state.neighbours(Instant::now()))
            .map(|neighbour| (neighbour.neighbour, neighbour))
            .collect();
        let row = |gateway: GatewayRow| {
            let known = asked.get(&(gateway.ifindex, gateway.address)).copied();
            let way = sync.way_to(gateway.ifindex, gateway.address);
            self.row(gateway, way, known)
        };
        sync.gateways().into_iter().map(row).collect()
    }

    fn row(
        &self,
        gateway: GatewayRow,
        way: Option<WayTo>,
        known: Option<discovery::Neighbour<Gateway>>,
    ) -> Neighbor {
        let stated = self.gateways.stated(gateway.address);
        let standing = known.map_or(Standing::New, |known| known.standing);
        let key = (gateway.ifindex, gateway.address);
        let xcast = stated.unwrap_or_else(|| self.speaks(key));
        let verdict = self.trials.as_ref().and_then(|trials| trials.verdict(key));
        let tried = match (stated, standing, verdict) {
            (None, Standing::Proven, Some((Verdict::Untried, beyond))) => Some((
                "on trial",
                format!(
                    "it returns probes; whether it forwards lists to {beyond} is being found out"
                ),
            )),
            (None, Standing::Proven, Some((Verdict::Swallows, beyond))) => Some((
                "swallows",
                format!(
                    "it returns probes, but forwards none to {beyond}, which unicast through it reaches"
                ),
            )),
            (None, Standing::Proven, Some((Verdict::Forwards, beyond))) => Some((
                "proven",
                format!("it returns probes, and forwards them to {beyond}"),
            )),
            (None, Standing::Proven, Some((Verdict::Dark, beyond))) => Some((
                "proven",
                format!(
                    "it returns probes; {beyond} behind it answers no pings, so that forwarding is not tried"
                ),
            )),
            _ => None,
        };
        let (name, why) = match (stated, standing) {
            (Some(true), _) => ("stated", "the configuration says that it speaks Xcast"),
            (Some(false), _) => ("stated", "the configuration says that it does not"),
            (None, Standing::Proven) => ("proven", "it returns probes"),
            (None, _) if !gateway.is_resolved => {
                ("new", "the kernel does not know its link-layer address")
            }
            (None, _) if way.is_some_and(|way| way.source.is_none()) => (
                "new",
                "this router has no address that it could return a probe to",
            ),
            (None, Standing::New) if self.asking.is_none() => {
                ("new", "this router cannot ask: CAP_NET_RAW is needed")
            }
            (None, Standing::New) => ("new", "it was not asked yet"),
            (None, Standing::Silent) => ("silent", "it never returned a probe"),
            (None, Standing::Lost) => ("lost", "it returned probes, but no more"),
            (None, Standing::OnTrial) => ("on trial", "it begins to return probes again"),
        };
        let known = known.as_ref();
        Neighbor {
            device: gateway.device,
            address: gateway.address,
            xcast,
            standing: tried.as_ref().map_or(name, |(name, _)| name).to_owned(),
            why: tried.map_or_else(|| why.to_owned(), |(_, why)| why),
            round_trip_us: known
                .and_then(|known| known.round_trip)
                .map(|time| time.as_micros().try_into().unwrap_or(u64::MAX)),
            proven_ms_ago: known
                .and_then(|known| known.proven_ago)
                .map(|time| time.as_millis().try_into().unwrap_or(u64::MAX)),
            probes_sent: known.map_or(0, |known| known.sent),
            probes_returned: known.map_or(0, |known| known.returned),
            losses: known.map_or(0, |known| known.losses),
        }
    }
}

impl Asking {
    fn start() -> Result<Self> {
        let random = random()?;
        let socket = PacketSocket::open(&mut filter([transport::UDP; 2], MAGIC)).context(
            "cannot ask gateways whether they speak Xcast, so they get unicast: CAP_NET_RAW is needed, \
             or state it in router.gateways",
        )?;
        Ok(Self {
            socket,
            state: discovery::Discovery::new(Timing::default(), random),
            macs: HashMap::new(),
        })
    }

    /// Waits until a probe returns, or something is due. Nothing is lost if this is cancelled.
    async fn wait(asking: Option<&Self>) -> Option<Nonce> {
        let Some(asking) = asking else {
            return future::pending().await;
        };
        let due = asking.state.poll_timeout();
        // A moment that never comes, unless there is one.
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return None,
                frame = asking.socket.receive() => match frame {
                    Ok(frame) => match nonce_of(&frame) {
                        Some(nonce) => return Some(nonce),
                        None => continue,
                    },
                    Err(error) => {
                        warn!("cannot receive what gateways return: {error}");
                        tokio::time::sleep_until(due.into()).await;
                        return None;
                    }
                },
            }
        }
    }

    /// Goes by a probe that returned, and sends what is due; returns the gateways that may count as something else now.
    fn advance(
        &mut self,
        returned: Option<Nonce>,
        code_points: &CodePoints,
        sync: &RouteSync,
    ) -> Vec<Gateway> {
        let now = Instant::now();
        if let Some(nonce) = returned {
            self.state.returned(now, &nonce);
        }
        self.state.handle_timeout(now);
        while let Some(due) = self.state.poll_probe() {
            let (ifindex, gateway) = due.neighbour;
            // Without a way it counts as not answered: nothing could be sent there.
            let Some(way) = sync.way_to(ifindex, gateway) else {
                continue;
            };
            let Some(packet) = probe(code_points, gateway, &way, &due.nonce) else {
                continue;
            };
            if let Err(error) = self.socket.send(ifindex, &frame(&way, &packet)) {
                debug!("cannot ask {gateway} whether it speaks Xcast: {error}");
            }
        }
        let changes = std::iter::from_fn(|| self.state.poll_change());
        changes.map(|(gateway, _)| gateway).collect()
    }
}

/// Numbers that nobody can guess.
fn random() -> Result<Random> {
    let mut seed = [0; 32];
    for octets in seed.chunks_exact_mut(8) {
        octets.copy_from_slice(&kernel::random()?.to_ne_bytes());
    }
    Ok(Random::new(seed))
}

/// A probe as it is sent; `None` if there is none of this family.
fn probe(code_points: &CodePoints, gateway: IpAddr, way: &WayTo, nonce: &Nonce) -> Option<Vec<u8>> {
    let source = way.source?;
    let template = Template {
        code_points: *code_points,
        source,
        to: code_points.group_for(gateway),
        ttl: TTL,
        dscp: NETWORK_CONTROL,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: DISCARD,
        port_list: false,
    };
    let own = Entry {
        address: source,
        port: DISCARD,
        dscp: None,
    };
    template.build(&[own], &[&MAGIC[..], nonce].concat()).ok()
}

/// The nonce of a frame that a [`filter`] lets pass.
fn nonce_of(frame: &[u8]) -> Option<Nonce> {
    let payload = payload_of(frame)?;
    payload.strip_prefix(&MAGIC)?.get(..8)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::probe::tests::passes;
    use xcast_common::wire::{ETH_LEN, eth};

    /// A datagram as a gateway returns it.
    fn returned(source: IpAddr, payload: &[u8]) -> Vec<u8> {
        let length = 8 + payload.len() as u8;
        let (ether_type, mut header) = match source {
            IpAddr::V4(_) => (eth::TYPE_IPV4, vec![0; 20]),
            IpAddr::V6(_) => (eth::TYPE_IPV6, vec![0; 40]),
        };
        header[if source.is_ipv4() { 9 } else { 6 }] = transport::UDP;
        let udp = [0, 9, 0, 9, 0, length, 0, 0];
        [
            &[0; 12][..],
            &ether_type.to_be_bytes(),
            &header,
            &udp,
            payload,
        ]
        .concat()
    }

    #[test]
    fn probes_that_return_are_recognised_and_nothing_else() {
        let filter = filter([transport::UDP; 2], MAGIC);
        let passes = |frame: &[u8]| passes(&filter, frame);
        let nonce = [1, 2, 3, 4, 5, 6, 7, 8];
        for source in ["10.0.0.1", "2001:db8::1"] {
            let source = source.parse().unwrap();
            let frame = returned(source, &[&MAGIC[..], &nonce].concat());
            assert!(passes(&frame));
            assert_eq!(nonce_of(&frame), Some(nonce));
            assert_eq!(nonce_of(&frame[..frame.len() - 1]), None);
            assert!(!passes(&returned(source, b"somebody else's")));
            assert!(!passes(&frame[..30]));
            let mut tcp = frame;
            tcp[if source.is_ipv4() { 23 } else { 20 }] = 6;
            assert!(!passes(&tcp));
        }
        assert!(!passes(&[]));
        assert_eq!(nonce_of(&[]), None);
    }

    #[test]
    fn a_probe_is_an_xcast_packet_to_its_sender() {
        let code_points = CodePoints {
            protocol: 253,
            group: [224, 0, 0, 254].into(),
            ipv6: None,
        };
        let way = WayTo {
            source: Some("10.0.0.1".parse().unwrap()),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
        };
        let gateway = "10.0.0.2".parse().unwrap();
        let probe = frame(&way, &probe(&code_points, gateway, &way, &[7; 8]).unwrap());
        assert_eq!(probe[..6], way.destination_mac);
        assert_eq!(probe[ETH_LEN + 8], TTL);
        assert_eq!(probe[ETH_LEN + 9], code_points.protocol);
        // The returned datagram is not to be taken for the probe itself.
        assert!(!passes(&filter([transport::UDP; 2], MAGIC), &probe));
        let nowhere = WayTo {
            source: None,
            ..way
        };
        assert_eq!(super::probe(&code_points, gateway, &nowhere, &[7; 8]), None);
    }
}
