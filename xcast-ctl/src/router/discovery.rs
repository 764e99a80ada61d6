//! Asks gateways whether they speak Xcast: the shell around
//! [`discovery`], which decides.
//!
//! A probe is a frame of our own making, to the gateway's link-layer address. Its list has one entry, the
//! router's own address on that link, so a gateway that speaks Xcast returns it as a UDP datagram from the router to the
//! router. The kernel drops such a datagram (its source is its own), so it is caught by a packet socket, which
//! sees it before. The time to live of 2 keeps anybody but a direct neighbour from returning it.

use std::{
    collections::HashMap,
    future,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracing::{debug, info, warn};
use xcast_common::wire::{ETH_LEN, eth, transport};
use xcast_host::{
    CodePoints,
    packet::{Entry, Template},
};
use xcast_overlay::{
    backbone::discovery::{self, Nonce, Standing, Timing},
    runtime::Random,
};

use crate::{
    config::Config,
    gateways::Gateways,
    kernel::{self, Instruction, PacketSocket},
    report::Neighbor,
    sync::{Edit, GatewayRow, KernelEvent, RouteSync, WayTo, event::Mac},
};

/// Begins a probe's payload; the nonce follows.
const MAGIC: [u8; 4] = *b"XcPg";
/// UDP port that probes go to, if ever a kernel takes one: "discard" (RFC 863).
const DISCARD: u16 = 9;
/// To the gateway and back.
const TTL: u8 = 2;

type Gateway = (u32, IpAddr);

/// Probes of gateways, and what came of them.
pub(super) struct Discovery {
    code_points: CodePoints,
    gateways: Gateways,
    /// Absent if no gateway is to be asked, or none can be.
    asking: Option<Asking>,
}

struct Asking {
    socket: PacketSocket,
    state: discovery::Discovery<Gateway>,
    /// Link-layer addresses as they were last heard.
    macs: HashMap<Gateway, Option<Mac>>,
}

impl Discovery {
    /// Opens what probes need, within a tokio runtime. If that cannot be had, every gateway that nothing is stated
    /// of is served by unicast.
    pub(super) fn start(config: &Config) -> Self {
        let gateways = config.router.gateways.clone();
        let asking = gateways.is_to_discover().then(Asking::start);
        let asking = asking.transpose().unwrap_or_else(|error| {
            warn!("{error:#}");
            None
        });
        Self {
            code_points: config.code_points,
            gateways,
            asking,
        }
    }

    /// From now on, this gateway is asked, unless it is stated what it does.
    pub(super) fn add(&mut self, ifindex: u32, gateway: IpAddr) {
        if self.gateways.stated(gateway).is_none()
            && let Some(asking) = &mut self.asking
        {
            asking.state.add(Instant::now(), (ifindex, gateway));
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

    /// Waits until a probe returns, or something is due. Nothing is lost if this is cancelled.
    pub(super) async fn wait(&self) -> Option<Nonce> {
        let Some(asking) = &self.asking else {
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

    /// Goes by a probe that returned, does what is due, and tells `sync` who speaks Xcast from now on.
    pub(super) fn advance(
        &mut self,
        returned: Option<Nonce>,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let Some(asking) = &mut self.asking else {
            return;
        };
        let now = Instant::now();
        if let Some(nonce) = returned {
            asking.state.returned(now, &nonce);
        }
        asking.state.handle_timeout(now);
        while let Some(probe) = asking.state.poll_probe() {
            let (ifindex, gateway) = probe.neighbour;
            // Without a way it counts as not answered: nothing could be sent there.
            let Some(way) = sync.way_to(ifindex, gateway) else {
                continue;
            };
            let Some(frame) = frame(&self.code_points, gateway, &way, &probe.nonce) else {
                continue;
            };
            if let Err(error) = asking.socket.send(ifindex, &frame) {
                debug!("cannot ask {gateway} whether it speaks Xcast: {error}");
            }
        }
        while let Some((gateway, proven)) = asking.state.poll_change() {
            let (ifindex, address) = gateway;
            let device = sync.link_name(ifindex);
            if proven {
                info!("{address} on {device} speaks Xcast");
            } else {
                info!("{address} on {device} has not proven lately that it speaks Xcast");
            }
            sync.set_proven(gateway, proven, edits);
        }
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
        let xcast = stated.unwrap_or(standing.is_capable());
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
            standing: name.to_owned(),
            why: why.to_owned(),
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
        let mut seed = [0; 32];
        for octets in seed.chunks_exact_mut(8) {
            octets.copy_from_slice(&kernel::random()?.to_ne_bytes());
        }
        let socket = PacketSocket::open(&mut filter()).context(
            "cannot ask gateways whether they speak Xcast, so they get unicast: CAP_NET_RAW is needed, \
             or state it in router.gateways",
        )?;
        Ok(Self {
            socket,
            state: discovery::Discovery::new(Timing::default(), Random::new(seed)),
            macs: HashMap::new(),
        })
    }
}

/// A probe as it is sent; `None` if there is none of this family.
fn frame(code_points: &CodePoints, gateway: IpAddr, way: &WayTo, nonce: &Nonce) -> Option<Vec<u8>> {
    let source = way.source?;
    let template = Template {
        code_points: *code_points,
        source,
        to: code_points.group_for(gateway),
        ttl: TTL,
        // Network control (RFC 4594): what routers say to each other is not dropped first.
        dscp: 48,
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
    let payload = [&MAGIC[..], nonce].concat();
    let packet = template.build(&[own], &payload).ok()?;
    let ether_type = match source {
        IpAddr::V4(_) => eth::TYPE_IPV4,
        IpAddr::V6(_) => eth::TYPE_IPV6,
    };
    Some(
        [
            &way.destination_mac[..],
            &way.source_mac,
            &ether_type.to_be_bytes(),
            &packet,
        ]
        .concat(),
    )
}

/// Where a probe that returned has its payload, in octets from the frame's beginning; IPv4 without options.
const PAYLOAD_IPV4: usize = ETH_LEN + 20 + 8;
const PAYLOAD_IPV6: usize = ETH_LEN + 40 + 8;

/// The nonce of a frame that [`filter`] lets pass.
fn nonce_of(frame: &[u8]) -> Option<Nonce> {
    let ether_type = frame.get(12..14)?.try_into().ok().map(u16::from_be_bytes)?;
    let payload = match ether_type {
        eth::TYPE_IPV4 => frame.get(PAYLOAD_IPV4..)?,
        eth::TYPE_IPV6 => frame.get(PAYLOAD_IPV6..)?,
        _ => return None,
    };
    payload.strip_prefix(&MAGIC)?.get(..8)?.try_into().ok()
}

/// Lets UDP datagrams pass that begin with [`MAGIC`].
fn filter() -> [Instruction; 13] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP: u16 = 0x05;
    const RETURN: u16 = 0x06;
    const UDP: u32 = transport::UDP as u32;
    let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
    // Jumps are relative to the next instruction.
    [
        step(LOAD_HALF, 0, 0, 12),
        step(JUMP_IF_EQUAL, 5, 0, eth::TYPE_IPV6.into()),
        step(JUMP_IF_EQUAL, 0, 9, eth::TYPE_IPV4.into()),
        step(LOAD_BYTE, 0, 0, ETH_LEN as u32 + 9),
        step(JUMP_IF_EQUAL, 0, 7, UDP),
        step(LOAD_WORD, 0, 0, PAYLOAD_IPV4 as u32),
        step(JUMP, 0, 0, 3),
        step(LOAD_BYTE, 0, 0, ETH_LEN as u32 + 6),
        step(JUMP_IF_EQUAL, 0, 3, UDP),
        step(LOAD_WORD, 0, 0, PAYLOAD_IPV6 as u32),
        step(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(MAGIC)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does, for the instructions that it has.
    fn passes(frame: &[u8]) -> bool {
        let program = filter();
        let (mut at, mut loaded) = (0, 0_u32);
        loop {
            let step = program[at];
            at += 1;
            let octets = |count: usize| {
                let from = step.k as usize;
                let octets = frame.get(from..from + count)?;
                Some(
                    octets
                        .iter()
                        .fold(0, |all, octet| all << 8 | u32::from(*octet)),
                )
            };
            let wanted = match step.code {
                0x28 => octets(2),
                0x30 => octets(1),
                0x20 => octets(4),
                0x15 => {
                    at += usize::from(if loaded == step.k { step.jt } else { step.jf });
                    continue;
                }
                0x05 => {
                    at += step.k as usize;
                    continue;
                }
                _ => return step.k != 0,
            };
            // A load behind the end ends the program.
            let Some(octets) = wanted else { return false };
            loaded = octets;
        }
    }

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
        let probe = frame(&code_points, gateway, &way, &[7; 8]).unwrap();
        assert_eq!(probe[..6], way.destination_mac);
        assert_eq!(probe[ETH_LEN + 8], TTL);
        assert_eq!(probe[ETH_LEN + 9], code_points.protocol);
        // The returned datagram is not to be taken for the probe itself.
        assert!(!passes(&probe));
        let nowhere = WayTo {
            source: None,
            ..way
        };
        assert_eq!(frame(&code_points, gateway, &nowhere, &[7; 8]), None);
    }
}
