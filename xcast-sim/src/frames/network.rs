//! Frames from hosts to hosts.

use std::net::IpAddr;

use xcast_common::{
    family::{self, V4, V6},
    host::{MemoryTables, Outcome, Router},
    maps::{self, Settings, counter::Counter},
    wire::Be16,
};
use xcast_host::{
    CodePoints, Destination, Ipv6CodePoints, Options, PacketLimits, SendError, UnicastCause,
    packet::{PacketError, Template},
    policy::ArrivalOrder,
    split::{Delivery, UplinkState, split},
};

use super::{kernel, table};
use crate::{
    address::{of_host, of_router},
    fanout::{Deployment, Family, Link, Network, Place, Prune, Transmission},
    topology::{HostId, RouterId},
};

/// UDP port at which routers take Xcast packets.
const TUNNEL_PORT: u16 = 4242;
/// Where a tunnel's datagrams come from.
const TUNNEL_SOURCE_PORT: u16 = 49_152;

/// How a host's packets reach the first router that speaks Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// As Xcast packets: the router at the host's link speaks it.
    Native,
    /// Inside UDP, to this router.
    Udp(RouterId),
    /// Not at all: a datagram to each.
    Unicast,
}

/// A frame that reached a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which host.
    pub host: HostId,
    /// The IP packet.
    pub packet: Vec<u8>,
}

/// Why something cannot be simulated with frames.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A router has more links than an Xcast router has ports.
    #[error(
        "router {router} has {links} links, and an Xcast router has {most} ports: take a smaller graph"
    )]
    TooManyLinks {
        /// The router.
        router: RouterId,
        /// How many links it has.
        links: usize,
        /// How many it can have.
        most: usize,
    },
    /// The message cannot be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// There is no such packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A router dropped a packet.
    #[error("router {router} drops a packet: {reason}")]
    Dropped {
        /// The router.
        router: RouterId,
        /// Its counter for that.
        reason: &'static str,
    },
}

/// A network in which frames are forwarded by the code of the XDP programs.
pub struct FrameNetwork<'n, 'g> {
    network: &'n mut Network<'g>,
    family: Family,
    routers: Vec<FrameRouter>,
}

struct FrameRouter {
    /// By port.
    links: Vec<Link>,
    /// What the kernel goes by.
    tables: MemoryTables,
    xcast: Option<Forwarder>,
}

/// A router of one family.
enum Forwarder {
    V4(Box<Router<V4>>),
    V6(Box<Router<V6>>),
}

impl Forwarder {
    fn new(family: Family, settings: Settings, tables: MemoryTables, links: &[Link]) -> Self {
        fn router<F: family::Family>(
            settings: Settings,
            tables: MemoryTables,
            links: &[Link],
        ) -> Box<Router<F>> {
            let mut router = Box::new(Router::new(settings, tables));
            for (place, link) in links.iter().enumerate() {
                router.set_port(table::port(place, *link));
            }
            router
        }
        match family {
            Family::V4 => Self::V4(router(settings, tables, links)),
            Family::V6 => Self::V6(router(settings, tables, links)),
        }
    }

    fn receive(&mut self, slot: u8, frame: &[u8]) -> Outcome {
        match self {
            Self::V4(router) => router.receive(slot, frame),
            Self::V6(router) => router.receive(slot, frame),
        }
    }
}

/// Code points for experiments (RFC 4727).
#[must_use]
pub fn code_points() -> CodePoints {
    CodePoints {
        protocol: 253,
        group: [224, 0, 0, 254].into(),
        ipv6: Some(Ipv6CodePoints {
            group: [0xff02, 0, 0, 0, 0, 0, 0, 0x114].into(),
            routing_type: 253,
            ports_option: 0x5e,
        }),
    }
}

fn settings(prune: Prune) -> Settings {
    let code_points = code_points();
    let mut settings = Settings {
        group: code_points.group.into(),
        protocol: code_points.protocol,
        prune: match prune {
            Prune::Truncate => maps::Prune::Truncate,
            Prune::Bitmap => maps::Prune::Bitmap,
        } as u8,
        udp_port: Be16::new(TUNNEL_PORT),
        hash_key: 1,
        ..Settings::default()
    };
    if let Some(ipv6) = code_points.ipv6 {
        settings = Settings {
            group6: ipv6.group.into(),
            routing_type: ipv6.routing_type,
            ports_option: ipv6.ports_option,
            ipv6: 1,
            ..settings
        };
    }
    settings
}

impl<'n, 'g> FrameNetwork<'n, 'g> {
    /// Routers at all places of a network whose routing has one path for each pair.
    ///
    /// # Errors
    ///
    /// A router has too many links.
    pub fn new(
        network: &'n mut Network<'g>,
        deployment: &Deployment,
        family: Family,
        prune: Prune,
    ) -> Result<Self, FrameError> {
        let mut routers = Vec::new();
        for router in network.routing.graph().routers() {
            let links = table::links(network, router);
            let most = maps::MAX_REAL_PORTS;
            if links.len() > most {
                return Err(FrameError::TooManyLinks {
                    router,
                    links: links.len(),
                    most,
                });
            }
            let tables = table::tables(network, deployment, family, router, &links);
            let xcast = deployment
                .is_capable(router)
                .then(|| Forwarder::new(family, settings(prune), tables.clone(), &links));
            routers.push(FrameRouter {
                links,
                tables,
                xcast,
            });
        }
        Ok(Self {
            network,
            family,
            routers,
        })
    }

    /// Sends a message to a list of hosts as a sender with this uplink does; `visit` is told of each
    /// transmission. What arrives at hosts, in the order of the copies.
    ///
    /// # Errors
    ///
    /// The message cannot be sent, or a router drops it.
    pub fn send(
        &mut self,
        source: HostId,
        uplink: Uplink,
        to: &[HostId],
        payload: &[u8],
        visit: &mut impl FnMut(Transmission),
    ) -> Result<Vec<Arrival>, FrameError> {
        let mut arrivals = Vec::new();
        for packet in self.packets(source, uplink, to, payload)? {
            let link = Link::Up(source);
            let to = table::mac(Link::Down(source));
            let frame = kernel::frame(&packet, to, table::mac(link));
            let mut frames = vec![(link, frame)];
            while let Some((link, frame)) = frames.pop() {
                let octets = kernel::packet_octets(&frame);
                visit(Transmission { link, octets });
                match self.network.end_of(link) {
                    Place::Host(host) => arrivals.push(Arrival {
                        host,
                        packet: frame[frame.len() - octets as usize..].to_vec(),
                    }),
                    Place::Router(router) => frames.extend(self.receive(router, link, &frame)?),
                }
            }
        }
        Ok(arrivals)
    }

    /// The IP packets that a message becomes.
    fn packets(
        &self,
        source: HostId,
        uplink: Uplink,
        to: &[HostId],
        payload: &[u8],
    ) -> Result<Vec<Vec<u8>>, FrameError> {
        let from = of_host(source, self.family);
        let options = Options::default();
        let template = Template::new(code_points(), from, &options);
        let state = match uplink {
            Uplink::Native => UplinkState::Up {
                overhead_octets: 0,
                source: from.ip(),
            },
            Uplink::Udp(_) => UplinkState::Up {
                overhead_octets: xcast_host::packet::datagram_overhead(from.is_ipv6()),
                source: from.ip(),
            },
            Uplink::Unicast => UplinkState::Down(UnicastCause::Configured),
        };
        let to: Vec<Destination> = to
            .iter()
            .map(|host| of_host(*host, self.family).into())
            .collect();
        let limits = PacketLimits::default();
        let chunks = split(
            &to,
            payload.len(),
            [state; 2],
            &options,
            &limits,
            &ArrivalOrder,
        )?;
        let mut packets = Vec::new();
        for chunk in chunks {
            let mut packet = Vec::new();
            match chunk.delivery {
                Delivery::Xcast => {
                    template.emit(&chunk.entries, payload, &mut packet)?;
                    if let Uplink::Udp(router) = uplink {
                        packet = self.tunnelled(&template, router, &packet)?;
                    }
                    packets.push(packet);
                }
                Delivery::Unicast(_) => {
                    for entry in &chunk.entries {
                        template.emit_datagram(entry, payload, &mut packet)?;
                        packets.push(packet.clone());
                    }
                }
            }
        }
        Ok(packets)
    }

    fn tunnelled(
        &self,
        template: &Template,
        router: RouterId,
        inner: &[u8],
    ) -> Result<Vec<u8>, PacketError> {
        let outer = Template {
            source_port: TUNNEL_SOURCE_PORT,
            ..template.clone()
        };
        let entry = xcast_host::packet::Entry {
            address: of_router(router, self.family),
            port: TUNNEL_PORT,
            dscp: None,
        };
        let mut packet = Vec::new();
        outer.emit_datagram(&entry, inner, &mut packet)?;
        Ok(packet)
    }

    /// The frames that leave a router because of one that arrives.
    fn receive(
        &mut self,
        at: RouterId,
        arrival: Link,
        frame: &[u8],
    ) -> Result<Vec<(Link, Vec<u8>)>, FrameError> {
        let back = table::reverse(self.network, arrival);
        let router = &mut self.routers[at as usize];
        let place = router.links.iter().position(|link| *link == back);
        let outcome = match (&mut router.xcast, place) {
            (Some(xcast), Some(place)) => xcast.receive(table::slot(place), frame),
            _ => Outcome::Passed,
        };
        match outcome {
            Outcome::Passed => Ok(router.by_kernel(frame).into_iter().collect()),
            Outcome::Dropped(reason) => Err(dropped(at, reason)),
            Outcome::Forwarded(copies) => {
                let copies = copies.into_iter().filter_map(|(slot, frame)| {
                    match table::place(slot).and_then(|place| router.links.get(place)) {
                        Some(link) => Some((*link, frame)),
                        // To the kernel, which goes by the route.
                        None => router.by_kernel(&frame),
                    }
                });
                Ok(copies.collect())
            }
        }
    }
}

impl FrameRouter {
    fn by_kernel(&self, frame: &[u8]) -> Option<(Link, Vec<u8>)> {
        let destination: IpAddr = kernel::destination(frame)?;
        let next_hop = self.tables.next_hop(self.tables.route(destination))?;
        let link = self.links.get(table::place(next_hop.port)?)?;
        let (to, from) = (next_hop.destination_mac, next_hop.source_mac);
        Some((*link, kernel::readdress(frame, to, from)))
    }
}

fn dropped(router: RouterId, reason: Counter) -> FrameError {
    FrameError::Dropped {
        router,
        reason: reason.name(),
    }
}
