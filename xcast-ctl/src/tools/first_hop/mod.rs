//! How packets of our own making leave this host: into the own interface of a router that runs
//! here, or over the network to the first-hop router.

mod address;
mod args;
mod code_points;
mod neighbour;
mod relay;
mod way_out;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xcast_host::{CodePoints, RawSocket, relay::message::Cookie};

pub(super) use self::{
    address::{destination, router_addresses, router_in_udp, servable},
    args::FirstHopArgs,
    code_points::CodePointArgs,
    way_out::WayOutArgs,
};
use self::{
    args::{To, Via},
    neighbour::resolve,
};
use crate::{
    config::DATAPATH_SUFFIX,
    control::{self, ControlError, Request},
    kernel,
};

/// How long an interface may take nothing before that is an error.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How packets of one family leave this host.
pub(super) struct FirstHop {
    /// Numbers that mark a packet as Xcast.
    pub(super) code_points: CodePoints,
    /// IP source.
    pub(super) source: IpAddr,
    /// IP destination.
    pub(super) to: IpAddr,
    /// Interface they leave from.
    pub(super) interface: String,
    /// First-hop router they are sent to; none where they go into a router's own interface.
    pub(super) via: Option<IpAddr>,
    link: Link,
}

/// How they get there.
enum Link {
    /// By themselves.
    Raw(RawSocket),
    /// Inside UDP to a relay, behind a cookie.
    Relay { socket: UdpSocket, cookie: Cookie },
}

impl FirstHopArgs {
    /// Finds the first hop of packets to these destinations, one for each family among them, IPv4's
    /// first. `router` is the interface of the router that may run here.
    ///
    /// # Errors
    ///
    /// No code points, no route, no source address, or no privilege.
    pub(super) fn open(&self, router: &str, destinations: &[IpAddr]) -> Result<Vec<FirstHop>> {
        let status = control::ask(router, &Request::Status);
        let running = !matches!(status, Err(ControlError::NotRunning(_)));
        let code_points = self.code_points.code_points_from(status)?;
        let families = [false, true].map(|ipv6| {
            let family = destinations.iter().copied();
            family.filter(|to| to.is_ipv6() == ipv6).collect::<Vec<_>>()
        });
        let alone = families.iter().any(Vec::is_empty);
        for (option, address) in self.addresses() {
            let of_family = &families[usize::from(address.is_ipv6())];
            // A router with an address of IPv6 takes packets of IPv4 as well (RFC 8950).
            let crosses = option == "--via" && address.is_ipv6();
            ensure!(
                !of_family.is_empty() || crosses,
                "{option} {address}: no destination is of this family"
            );
        }
        let families = families.iter().filter(|family| !family.is_empty());
        families
            .map(|family| {
                let args = self.for_family(family[0].is_ipv6(), alone);
                open(&args, router, running, code_points, family)
            })
            .collect()
    }
}

impl FirstHop {
    /// By way of a relay, instead of a first-hop router. `router` is the interface of the router that may run here and knows the
    /// code points.
    ///
    /// # Errors
    ///
    /// No code points, or the relay cannot be used.
    pub(super) fn by_relay(
        relay: SocketAddr,
        code_points: &CodePointArgs,
        router: &str,
    ) -> Result<Self> {
        let code_points = code_points.find(router)?;
        let relay::Way {
            socket,
            cookie,
            source,
        } = relay::prove(relay)?;
        Ok(Self {
            code_points,
            source,
            to: group(code_points, source)?,
            interface: format!("relay {relay}"),
            via: None,
            link: Link::Relay { socket, cookie },
        })
    }

    /// Sends, waiting for room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// What the kernel says, and what to do about it.
    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        loop {
            let (sent, fd) = match &self.link {
                Link::Raw(socket) => (socket.send(packet), socket.as_fd()),
                Link::Relay { socket, cookie } => {
                    let sent = socket.send(&[cookie, packet].concat()).map(|_| ());
                    (sent, socket.as_fd())
                }
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(fd, PollFlags::POLLOUT)];
                    let timeout = PollTimeout::try_from(SEND_TIMEOUT).unwrap_or(PollTimeout::MAX);
                    let ready = poll(&mut polled, timeout)?;
                    ensure!(
                        ready > 0,
                        "{} has taken no packet for {} s",
                        self.interface,
                        SEND_TIMEOUT.as_secs()
                    );
                }
                Err(error) => return Err(explain(error, packet.len(), &self.interface)),
                Ok(()) => return Ok(()),
            }
        }
    }
}

fn open(
    args: &FirstHopArgs,
    router: &str,
    running: bool,
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<FirstHop> {
    if let Some(family) = destinations.first() {
        // First, so that missing code points are what the error is about.
        group(code_points, *family)?;
    }
    let links = kernel::links()?;
    let elsewhere = args.via.is_some() || args.interface.is_some() || args.to == Some(To::Router);
    match links.iter().find(|link| link.is_named(router)) {
        Some(own) if !elsewhere => {
            ensure!(
                running,
                "{router} was left behind by a router that was killed: start a router, remove it with \
                 xcast-ctl unload, or send over the network with --via"
            );
            into_own_router(args, own, &links, code_points, destinations)
        }
        _ => over_network(args, &links, code_points, destinations),
    }
}

/// Into the own interface of the router on this host.
fn into_own_router(
    args: &FirstHopArgs,
    own: &kernel::Link,
    links: &[kernel::Link],
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<FirstHop> {
    let name = &own.name;
    let peer = links.iter().find(|link| Some(link.ifindex) == own.peer);
    let macs = own.mac.zip(peer.and_then(|peer| peer.mac));
    let (mac, peer_mac) = macs
        .with_context(|| format!("{name} is not one end of a pair with {name}{DATAPATH_SUFFIX}"))?;
    ensure!(own.up, "{name} is down: ip link set {name} up");
    let source = match args.source {
        Some(source) => source,
        None => source_towards(destinations)?,
    };
    let to = match args.to {
        Some(To::Address(address)) => address,
        _ => group(code_points, source)?,
    };
    Ok(FirstHop {
        code_points,
        link: RawSocket::packet(own.ifindex, mac, peer_mac, source.is_ipv6())
            .map(Link::Raw)
            .map_err(permission)?,
        source,
        to,
        interface: name.clone(),
        via: None,
    })
}

/// The group in the family of an address.
fn group(code_points: CodePoints, family: IpAddr) -> Result<IpAddr> {
    match family {
        IpAddr::V4(_) => Ok(code_points.group.into()),
        IpAddr::V6(_) => code_points
            .ipv6
            .map(|ipv6| ipv6.group.into())
            .context("no code points of Xcast6: give --group6, --routing-type and --ports-option"),
    }
}

/// The source address the kernel would use towards the first destination it has a route to,
/// preferring those on other hosts.
fn source_towards(destinations: &[IpAddr]) -> Result<IpAddr> {
    let mut own = None;
    for &address in destinations {
        let route = kernel::route(address, None)?;
        if let Some(source) = route.and_then(|route| route.source).filter(is_global) {
            if source != address {
                return Ok(source);
            }
            own.get_or_insert(source);
        }
    }
    own.context("no route to any of the destinations to take a source address from: give --source")
}

/// Whether routers forward packets from this source.
fn is_global(source: &IpAddr) -> bool {
    address::beyond_routers(*source).is_none()
}

/// The way to the first-hop router.
#[derive(Clone, Copy, Debug)]
struct Way {
    router: IpAddr,
    ifindex: u32,
    /// The gateway before it, if it is not on a link of this host.
    gateway: Option<IpAddr>,
    /// Source that the kernel would choose.
    source: Option<IpAddr>,
}

/// Over the network, to the first-hop router.
fn over_network(
    args: &FirstHopArgs,
    links: &[kernel::Link],
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<FirstHop> {
    let find = |name: &str| {
        let link = links.iter().find(|link| link.is_named(name));
        link.map(|link| link.ifindex)
            .with_context(|| format!("no interface {name}"))
    };
    let ifindex = args.interface.as_deref().map(find).transpose()?;
    let way = match &args.via {
        Some(via) => {
            let zone = via.zone.as_deref().map(find).transpose()?;
            ensure!(
                zone.is_none() || ifindex.is_none() || zone == ifindex,
                "--via {}%{} is not on the interface that --interface names",
                via.address,
                via.zone.as_deref().unwrap_or_default()
            );
            way_to(via, zone.or(ifindex), destinations)?
        }
        None => default_way(destinations, ifindex)?,
    };
    let router = way.router;
    let link = links
        .iter()
        .find(|link| link.ifindex == way.ifindex)
        .with_context(|| format!("the interface towards {router} has just disappeared"))?;
    if link.loopback {
        bail!("--via {router}: this is an address of this host; give that of the next router");
    }
    let source = args.source.or(way.source).with_context(|| {
        format!(
            "{} has no address that routers forward packets from (link-local ones are none): give \
             --source",
            link.name
        )
    })?;
    let of_other_family = router.is_ipv6() != source.is_ipv6();
    ensure!(
        !(of_other_family && args.to == Some(To::Router)),
        "--to router: {router} cannot be the destination of a packet from {source}; give --to group"
    );
    let router_mac = router_mac(way, link)?;
    let (to, socket) = match args.to {
        None | Some(To::Router) if !of_other_family => {
            let scope_id = match router {
                IpAddr::V6(address) if address.is_unicast_link_local() => link.ifindex,
                _ => 0,
            };
            let socket = RawSocket::ip(router, scope_id, Some(&link.name));
            (router, socket.map_err(permission)?)
        }
        Some(To::Address(address)) => (address, frame_to(way, link, router_mac, source)?),
        _ => (
            group(code_points, source)?,
            frame_to(way, link, router_mac, source)?,
        ),
    };
    Ok(FirstHop {
        code_points,
        link: Link::Raw(socket),
        source,
        to,
        interface: link.name.clone(),
        via: Some(router),
    })
}

/// The way to the gateway that the kernel would use for the first destination that has one.
fn default_way(destinations: &[IpAddr], ifindex: Option<u32>) -> Result<Way> {
    for &destination in destinations {
        let Some(route) = kernel::route(destination, ifindex)? else {
            continue;
        };
        if let Some(router) = route.gateway {
            return Ok(Way {
                router,
                ifindex: route.ifindex,
                gateway: None,
                source: route.source.filter(is_global),
            });
        }
    }
    bail!("no destination is behind a gateway: give the first-hop router with --via")
}

/// The way to a router that the user names.
fn way_to(via: &Via, ifindex: Option<u32>, destinations: &[IpAddr]) -> Result<Way> {
    let router = via.address;
    let ifindex = match ifindex {
        None if via.is_link_local() => {
            // The interface of a route by way of it, if there is one.
            let way = default_way(destinations, None).ok();
            let way = way.filter(|way| way.router == router);
            Some(way.map(|way| way.ifindex).with_context(|| {
                format!(
                    "--via {router} is a link-local address: name its interface, as in \
                     --via {router}%eth0"
                )
            })?)
        }
        _ => ifindex,
    };
    let route = kernel::route(router, ifindex)?
        .with_context(|| format!("no route to the first-hop router {router}"))?;
    let mut source = route.source.filter(is_global);
    let ipv6 = destinations.iter().any(IpAddr::is_ipv6);
    if source.is_none_or(|source| source.is_ipv6() != ipv6) {
        // Towards the destinations, then.
        source = None;
        for &destination in destinations {
            let route = kernel::route(destination, Some(route.ifindex))?;
            source = source.or(route.and_then(|route| route.source).filter(is_global));
        }
    }
    Ok(Way {
        router,
        ifindex: route.ifindex,
        gateway: route.gateway,
        source,
    })
}

/// The link layer address of the first router, or of the gateway before it; `None` on interfaces
/// without such addresses.
fn router_mac(way: Way, link: &kernel::Link) -> Result<Option<[u8; 6]>> {
    if link.mac.is_none() || link.no_arp {
        return Ok(None);
    }
    let (what, address) = match way.gateway {
        Some(gateway) => ("gateway towards the first-hop router", gateway),
        None => ("first-hop router", way.router),
    };
    let mac = resolve(address, link)?;
    Ok(Some(mac.with_context(|| {
        format!(
            "the {what}, {address}, does not answer on {}: address resolution failed",
            link.name
        )
    })?))
}

/// A frame to the router itself, for packets whose IP destination would lead elsewhere.
fn frame_to(
    way: Way,
    link: &kernel::Link,
    router_mac: Option<[u8; 6]>,
    source: IpAddr,
) -> Result<RawSocket> {
    let router = way.router;
    ensure!(
        way.gateway.is_none(),
        "--via {router}: this router is behind a gateway, but --to, and packets of the other family than \
         its address, need one on a link of this host"
    );
    let macs = link.mac.zip(router_mac);
    let (mac, router_mac) = macs.with_context(|| {
        let name = &link.name;
        format!("{name} has no link layer addresses, which a frame to {router} needs")
    })?;
    RawSocket::packet(link.ifindex, mac, router_mac, source.is_ipv6()).map_err(permission)
}

fn permission(error: io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "raw packets need root, or CAP_NET_RAW",
        _ => "cannot open a socket for raw packets",
    };
    anyhow::Error::new(error).context(remedy)
}

fn explain(error: io::Error, octets: usize, interface: &str) -> anyhow::Error {
    let context = if error.raw_os_error() == Some(libc::EMSGSIZE) {
        format!(
            "a packet of {octets} octets exceeds the MTU of {interface}: send a shorter payload, or \
             to fewer destinations at a time"
        )
    } else {
        format!("cannot send by {interface}")
    };
    anyhow::Error::new(error).context(context)
}
