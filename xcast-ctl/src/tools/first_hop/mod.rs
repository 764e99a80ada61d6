//! How packets of our own making leave this host: into the own interface of a router that runs
//! here, or over the network to the first-hop router.

mod args;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xcast_host::{CodePoints, RawSocket};

pub(super) use self::args::FirstHopArgs;
use self::args::To;
use crate::{
    config::DATAPATH_SUFFIX,
    control::{self, ControlError, Request},
    kernel::{self, Link, Route},
};

/// How long the kernel may take to resolve the first-hop router's link-layer address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

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
    socket: RawSocket,
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
        let code_points = self.code_points_from(status)?;
        let families = [false, true].map(|ipv6| {
            let family = destinations.iter().copied();
            family.filter(|to| to.is_ipv6() == ipv6).collect::<Vec<_>>()
        });
        for (option, address) in self.addresses() {
            ensure!(
                !families[usize::from(address.is_ipv6())].is_empty(),
                "{option} {address}: no destination is of this family"
            );
        }
        let families = families.iter().filter(|family| !family.is_empty());
        families
            .map(|family| {
                let args = self.for_family(family[0].is_ipv6());
                open(&args, router, running, code_points, family)
            })
            .collect()
    }
}

impl FirstHop {
    /// Sends, waiting for room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// What the kernel says, and what to do about it.
    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut polled, PollTimeout::NONE)?;
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
    match links.iter().find(|link| link.name == router) {
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
    own: &Link,
    links: &[Link],
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
        socket: RawSocket::packet(own.ifindex, mac, peer_mac, source.is_ipv6())
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
        if let Some(source) = route.and_then(|route| route.source) {
            if source != address {
                return Ok(source);
            }
            own.get_or_insert(source);
        }
    }
    own.context("no route to any of the destinations to take a source address from: give --source")
}

/// Over the network, to the first-hop router.
fn over_network(
    args: &FirstHopArgs,
    links: &[Link],
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<FirstHop> {
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let ifindex = match &args.interface {
        Some(name) => Some(
            find(name)
                .with_context(|| format!("no interface {name}"))?
                .ifindex,
        ),
        None => None,
    };
    let via = match args.via {
        Some(via) => via,
        None => first_gateway(destinations, ifindex)?,
    };
    let route = kernel::route(via, ifindex)?
        .with_context(|| format!("no route to the first-hop router {via}"))?;
    let link = links
        .iter()
        .find(|link| link.ifindex == route.ifindex)
        .with_context(|| format!("the interface towards {via} has just disappeared"))?;
    if link.loopback {
        bail!("--via {via}: this is an address of this host; give that of the next router");
    }
    let source = args
        .source
        .or(route.source)
        .with_context(|| format!("no source address towards {via}: give --source"))?;
    let (to, socket) = match args.to.unwrap_or(To::Router) {
        To::Router => {
            let socket = RawSocket::ip(via, args.interface.as_deref()).map_err(permission)?;
            (via, socket)
        }
        To::Group => (group(code_points, via)?, frame_to(via, route, link)?),
        To::Address(address) => (address, frame_to(via, route, link)?),
    };
    Ok(FirstHop {
        code_points,
        socket,
        source,
        to,
        interface: link.name.clone(),
        via: Some(via),
    })
}

fn first_gateway(destinations: &[IpAddr], ifindex: Option<u32>) -> Result<IpAddr> {
    for &address in destinations {
        let route = kernel::route(address, ifindex)?;
        if let Some(gateway) = route.and_then(|route| route.gateway) {
            return Ok(gateway);
        }
    }
    bail!("no destination is behind a gateway: give the first-hop router with --via")
}

/// A frame to the router itself, for packets whose IP destination would lead elsewhere.
fn frame_to(via: IpAddr, route: Route, link: &Link) -> Result<RawSocket> {
    let name = &link.name;
    ensure!(
        route.gateway.is_none(),
        "--via {via}: --to needs a router on a link of this host, but this one is behind a gateway"
    );
    let mac = link
        .mac
        .with_context(|| format!("{name} is no Ethernet interface, which --to needs"))?;
    let router_mac = resolve(via, link.ifindex)?.with_context(|| {
        format!("the first-hop router {via} does not answer on {name}: address resolution failed")
    })?;
    RawSocket::packet(link.ifindex, mac, router_mac, via.is_ipv6()).map_err(permission)
}

/// The link-layer address of a neighbour. Makes the kernel resolve it.
fn resolve(address: IpAddr, ifindex: u32) -> Result<Option<[u8; 6]>> {
    let deadline = Instant::now() + RESOLVE_TIMEOUT;
    let mut asked = false;
    loop {
        if let Some(mac) = kernel::neighbour(ifindex, address)? {
            return Ok(Some(mac));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        if !asked {
            // An empty datagram to the discard port; what happens to it does not matter.
            let any = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((any, 0))
                .context("cannot open a socket to resolve a neighbour with")?;
            let _ = socket.send_to(&[], (address, 9));
            asked = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
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
