//! Notes of what leaves, to count it elsewhere.

use std::{
    net::{IpAddr, SocketAddr},
    sync::mpsc::Sender,
    time::{SystemTime, UNIX_EPOCH},
};

use xcast_host::Uplink;

/// A message that left: to one receiver or several, after it was combined with others and before it
/// became packets. A simulator makes of it what crossed each link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Fanout {
    /// When, in microseconds since 1970.
    pub unix_us: u64,
    /// The sender's address.
    pub source: SocketAddr,
    /// To whom, in the order of the list, all of one family.
    pub to: Vec<SocketAddr>,
    /// Length of the payload, in octets.
    pub payload_octets: usize,
    /// How it left, if it was for several.
    pub via: Via,
}

/// How messages to several leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Via {
    /// As a datagram to each.
    Unicast,
    /// As an Xcast packet, by a router on this host.
    Native,
    /// As an Xcast packet inside UDP, to this address of a router.
    Udp(SocketAddr),
}

/// Notes what leaves a socket.
#[derive(Debug)]
pub(super) struct Notes {
    to: Sender<Fanout>,
    source: SocketAddr,
}

impl Notes {
    pub fn new(to: Sender<Fanout>, source: SocketAddr) -> Self {
        Self { to, source }
    }

    /// Notes that a message left to these receivers; `has_router` says of an address whether a router
    /// serves it.
    pub fn note(
        &self,
        to: impl Iterator<Item = SocketAddr>,
        payload_octets: usize,
        uplink: &Uplink,
        has_router: impl Fn(IpAddr) -> bool,
    ) {
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = to.partition(|to| to.ip().to_canonical().is_ipv4());
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_us = since.map_or(0, |since| since.as_micros() as u64);
        for to in [ipv4, ipv6] {
            let Some(first) = to.first() else {
                continue;
            };
            let fanout = Fanout {
                unix_us,
                source: self.source,
                payload_octets,
                via: if has_router(first.ip()) {
                    via(uplink, first.is_ipv6())
                } else {
                    Via::Unicast
                },
                to,
            };
            // Whoever wanted to know may have gone.
            let _ = self.to.send(fanout);
        }
    }
}

fn via(uplink: &Uplink, is_ipv6: bool) -> Via {
    match uplink {
        Uplink::Native { .. } => Via::Native,
        Uplink::Unicast => Via::Unicast,
        // The one that is preferred; which one is used is not known here.
        Uplink::Relays { relays, .. } => {
            let mut list = relays.list.iter();
            let address = list.find_map(|relay| match is_ipv6 {
                false => relay.ipv4.map(SocketAddr::V4),
                true => relay.ipv6.map(SocketAddr::V6),
            });
            address.map_or(Via::Unicast, Via::Udp)
        }
        Uplink::Udp { router, .. } => {
            let address = match is_ipv6 {
                false => router.ipv4.map(SocketAddr::V4),
                true => router.ipv6.map(SocketAddr::V6),
            };
            address.map_or(Via::Unicast, Via::Udp)
        }
    }
}
