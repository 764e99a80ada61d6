//! Tries whether gateways forward the lists they take: the shell around `xcast_overlay::backbone::passage`, which decides.
//!
//! Two echo requests go to a known address behind a gateway, as frames of our own making to the gateway's link-layer
//! address: one inside an Xcast packet, which the gateway has to make into unicast, and an ordinary one. What is answered is seen
//! by a packet socket: the kernel knows nothing of these requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use xcast_common::wire::{eth, transport};
use xcast_host::{
    CodePoints,
    packet::{Entry, Template, icmpv6_checksum, internet_checksum},
};
use xcast_overlay::{
    backbone::passage::{Nonce, Passage, Timing, Verdict},
    runtime::Random,
};

use super::probe::{Gateway, NETWORK_CONTROL, filter, frame, payload_of};
use crate::{
    kernel::PacketSocket,
    sync::{RouteSync, WayTo},
};

/// Begins an echo request's data; the nonce follows.
const MAGIC: [u8; 4] = *b"XcTh";
/// Far enough for any network, and these are few.
const TTL: u8 = 64;
const ICMP: u8 = 1;

/// Gateways under trial, and what lies behind them.
pub(super) struct Trials {
    code_points: CodePoints,
    socket: PacketSocket,
    state: Passage<Gateway, IpAddr>,
    /// Addresses that are known to answer.
    known: Vec<IpAddr>,
    /// Those of them behind each gateway.
    beyond: BTreeMap<Gateway, Vec<IpAddr>>,
    /// Those that did not answer unicast through their gateway either.
    silent: BTreeSet<(Gateway, IpAddr)>,
}

impl Trials {
    /// Opens what trials need, within a tokio runtime; `None` if there is nobody to try them with, or they cannot be made.
    pub(super) fn start(
        code_points: CodePoints,
        known: Vec<IpAddr>,
        random: Random,
    ) -> Option<Self> {
        if known.is_empty() {
            return None;
        }
        let mut filter = filter([ICMP, transport::ICMPV6], MAGIC);
        match PacketSocket::open(&mut filter) {
            Ok(socket) => Some(Self {
                code_points,
                socket,
                state: Passage::new(Timing::default(), random),
                known,
                beyond: BTreeMap::new(),
                silent: BTreeSet::new(),
            }),
            Err(error) => {
                warn!("cannot try whether gateways forward lists: {error}");
                None
            }
        }
    }

    /// Goes by the routes as they are now: which gateway leads to whom. Only those are tried that return probes.
    pub(super) fn follow(&mut self, sync: &RouteSync, returns_probes: impl Fn(Gateway) -> bool) {
        let now = Instant::now();
        self.beyond.clear();
        for &address in &self.known {
            if let Some(gateway) = sync.gateway_towards(address)
                && gateway.1 != address
                && returns_probes(gateway)
            {
                self.beyond.entry(gateway).or_default().push(address);
            }
        }
        let before: Vec<Gateway> = self.state.neighbours().collect();
        for gateway in before {
            if !self.beyond.contains_key(&gateway) {
                self.state.set_beyond(now, gateway, None);
                self.silent.retain(|(other, _)| *other != gateway);
            }
        }
        let gateways: Vec<Gateway> = self.beyond.keys().copied().collect();
        for gateway in gateways {
            self.choose(now, gateway);
        }
    }

    /// Tries a gateway with the first address behind it that has not been silent; if all were, with the one as before.
    fn choose(&mut self, now: Instant, gateway: Gateway) {
        let Some(addresses) = self.beyond.get(&gateway) else {
            return;
        };
        let mut others = addresses.iter().copied();
        let other = others.find(|address| !self.silent.contains(&(gateway, *address)));
        let same = self.state.beyond(gateway);
        let same = same.filter(|address| addresses.contains(address));
        let chosen = other.or(same).or(addresses.first().copied());
        self.state.set_beyond(now, gateway, chosen);
    }

    /// Waits until an answer comes, or something is due. Nothing is lost if this is cancelled.
    pub(super) async fn wait(trials: Option<&Self>) -> Option<Nonce> {
        let Some(trials) = trials else {
            return future::pending().await;
        };
        let due = trials.state.poll_timeout();
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return None,
                frame = trials.socket.receive() => match frame {
                    Ok(frame) => match nonce_of(&frame) {
                        Some(nonce) => return Some(nonce),
                        None => continue,
                    },
                    Err(error) => {
                        warn!("cannot receive what is answered through gateways: {error}");
                        tokio::time::sleep_until(due.into()).await;
                        return None;
                    }
                },
            }
        }
    }

    /// Goes by an answer, and does what is due; returns the gateways that may count as something else now.
    pub(super) fn advance(&mut self, returned: Option<Nonce>, sync: &RouteSync) -> Vec<Gateway> {
        let now = Instant::now();
        if let Some(nonce) = returned {
            self.state.returned(now, &nonce);
        }
        self.state.handle_timeout(now);
        while let Some(round) = self.state.poll_round() {
            let (ifindex, gateway) = round.neighbour;
            // Without a way neither is answered, and that says nothing.
            let Some(way) = sync.way_to(ifindex, gateway) else {
                continue;
            };
            let requests = [
                request_by_xcast(&self.code_points, &way, round.beyond, &round.xcast),
                request(&way, round.beyond, &round.unicast),
            ];
            for request in requests.into_iter().flatten() {
                if let Err(error) = self.socket.send(ifindex, &frame(&way, &request)) {
                    debug!("cannot try {gateway}: {error}");
                }
            }
        }
        let changed: Vec<Gateway> = std::iter::from_fn(|| self.state.poll_change()).collect();
        for &gateway in &changed {
            if let Some((Verdict::Dark, address)) = self.verdict(gateway) {
                self.silent.insert((gateway, address));
                self.choose(now, gateway);
            }
        }
        changed
    }

    /// What is known of a gateway, and with whom it is tried; `None` if nobody is known behind it.
    pub(super) fn verdict(&self, gateway: Gateway) -> Option<(Verdict, IpAddr)> {
        Some((self.state.verdict(gateway)?, self.state.beyond(gateway)?))
    }
}

/// An echo request inside an Xcast packet with one destination.
fn request_by_xcast(
    code_points: &CodePoints,
    way: &WayTo,
    to: IpAddr,
    nonce: &Nonce,
) -> Option<Vec<u8>> {
    let source = way.source?;
    let group = code_points.group_for(source);
    let template = Template {
        code_points: *code_points,
        source,
        to: group,
        ttl: TTL,
        dscp: NETWORK_CONTROL,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 0,
        port_list: false,
    };
    let entry = Entry {
        address: to,
        port: 0,
        dscp: None,
    };
    let (protocol, echo) = echo(source, group, nonce);
    let mut packet = Vec::new();
    template
        .emit_segment(&[entry], protocol, &echo, &mut packet)
        .ok()?;
    Some(packet)
}

/// The same request as unicast.
fn request(way: &WayTo, to: IpAddr, nonce: &Nonce) -> Option<Vec<u8>> {
    let source = way.source?;
    let (protocol, echo) = echo(source, to, nonce);
    let ds = NETWORK_CONTROL << 2;
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let length = (20 + echo.len()) as u16;
            let mut header = vec![0x45, ds];
            header.extend(length.to_be_bytes());
            // May be fragmented, and has no checksum yet.
            header.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(to.octets());
            let checksum = internet_checksum(&header);
            header[10..12].copy_from_slice(&checksum);
            Some([header, echo].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let mut header = vec![0x60 | ds >> 4, ds << 4, 0, 0];
            header.extend((echo.len() as u16).to_be_bytes());
            header.extend([protocol, TTL]);
            header.extend(source.octets());
            header.extend(to.octets());
            Some([header, echo].concat())
        }
        _ => None,
    }
}

/// An echo request with its protocol. The checksum of ICMPv6 covers the IP destination (RFC 4443 section 2.3).
fn echo(source: IpAddr, destination: IpAddr, nonce: &Nonce) -> (u8, Vec<u8>) {
    let (protocol, kind) = match source {
        IpAddr::V4(_) => (ICMP, 8),
        IpAddr::V6(_) => (transport::ICMPV6, 128),
    };
    // Code, checksum, identifier and sequence number are zero: the nonce tells requests apart.
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &MAGIC, nonce].concat();
    let checksum = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            icmpv6_checksum(source, destination, &message)
        }
        _ => internet_checksum(&message),
    };
    message[2..4].copy_from_slice(&checksum);
    (protocol, message)
}

/// The nonce of an echo reply.
fn nonce_of(frame: &[u8]) -> Option<Nonce> {
    let payload = payload_of(frame)?;
    let message = frame.get(frame.len() - payload.len() - 8..)?;
    let ether_type = frame.get(12..14)?.try_into().ok().map(u16::from_be_bytes)?;
    let reply = if ether_type == eth::TYPE_IPV4 { 0 } else { 129 };
    if *message.first()? != reply {
        return None;
    }
    payload.strip_prefix(&MAGIC)?.get(..8)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::probe::tests::passes;
    use xcast_common::wire::ETH_LEN;

    fn way(source: &str) -> WayTo {
        WayTo {
            source: Some(source.parse().unwrap()),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
        }
    }

    #[test]
    fn replies_are_recognised_and_requests_are_not() {
        let filter = filter([ICMP, transport::ICMPV6], MAGIC);
        for (from, to) in [("10.0.0.1", "10.9.0.1"), ("2001:db8::1", "2001:db8:9::1")] {
            let way = way(from);
            let request = request(&way, to.parse().unwrap(), &[7; 8]).unwrap();
            let mut frame = frame(&way, &request);
            assert!(passes(&filter, &frame));
            assert_eq!(nonce_of(&frame), None, "a request");
            let at = frame.len() - 20;
            frame[at] = if from.contains(':') { 129 } else { 0 };
            assert_eq!(nonce_of(&frame), Some([7; 8]));
            assert_eq!(nonce_of(&frame[..frame.len() - 1]), None);
        }
    }

    #[test]
    fn requests_have_right_checksums() {
        let sum = |octets: &[u8]| internet_checksum(octets);
        let way4 = way("10.0.0.1");
        let packet = request(&way4, "10.9.0.1".parse().unwrap(), &[1; 8]).unwrap();
        assert_eq!(packet.len(), 40);
        assert_eq!(sum(&packet[..20]), [0, 0]);
        assert_eq!(sum(&packet[20..]), [0, 0]);
        let (one, two) = ("2001:db8::1", "2001:db8:9::1");
        let packet = request(&way(one), two.parse().unwrap(), &[1; 8]).unwrap();
        let checksum = icmpv6_checksum(one.parse().unwrap(), two.parse().unwrap(), &packet[40..]);
        assert_eq!(checksum, [0, 0]);
        assert_eq!(request(&way4, two.parse().unwrap(), &[1; 8]), None);
    }

    #[test]
    fn by_xcast_it_is_a_packet_with_one_destination() {
        let code_points = CodePoints::new(253, [224, 0, 0, 254].into()).unwrap();
        let way = way("10.0.0.1");
        let packet =
            request_by_xcast(&code_points, &way, "10.9.0.1".parse().unwrap(), &[1; 8]).unwrap();
        assert_eq!((packet[8], packet[9]), (TTL, 253));
        assert_eq!(packet[16..20], [224, 0, 0, 254]);
        let end = packet.len();
        assert_eq!(internet_checksum(&packet[end - 20..]), [0, 0]);
        let filter = filter([ICMP, transport::ICMPV6], MAGIC);
        let frame = frame(&way, &packet);
        assert!(!passes(&filter, &frame));
        assert_eq!(ETH_LEN + packet.len(), frame.len());
    }
}
