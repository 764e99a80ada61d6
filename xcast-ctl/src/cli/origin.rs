//! Where packets of our own making leave this host, and as what.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsFd as _,
    path::PathBuf,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xcast_host::{CodePoints, Ipv6CodePoints, RawSocket};

use crate::{
    config::{DATAPATH_SUFFIX, load_code_points},
    control::{self, ControlError, Request, Response},
    kernel::{self, Link, Route},
};

/// How long the kernel may take to resolve the first-hop router's link layer address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where packets are to leave, and the numbers that mark them as Xcast.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct OriginArgs {
    /// First-hop router to send to, even if a router runs here
    ///
    /// A list with addresses of both families leaves as packets of both: --via, --to and --source
    /// count for the family that their address is of.
    #[arg(long, value_name = "ADDRESS")]
    via: Option<IpAddr>,

    /// Interface to send by
    #[arg(long, value_name = "IF")]
    interface: Option<String>,

    /// IP destination: group, router, or an (anycast) address
    ///
    /// Into the router's own interface packets go to the group unless given otherwise, over the
    /// network to the first-hop router. "router" always means the first-hop router. With any other
    /// destination the packet still goes to that router, in a frame to its link layer address.
    #[arg(long, value_name = "WHERE")]
    to: Option<To>,

    /// Source address (default: the one the kernel would choose)
    #[arg(long, value_name = "ADDRESS")]
    pub(super) source: Option<IpAddr>,

    /// Take the code points from this configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["protocol", "group"])]
    config: Option<PathBuf>,

    /// IPv4 protocol number of Xcast
    #[arg(long, value_name = "N", requires = "group")]
    protocol: Option<u8>,

    /// The All-Xcast-Routers group
    #[arg(long, value_name = "ADDRESS", requires = "protocol")]
    group: Option<Ipv4Addr>,

    /// The All-Xcast-Routers group of IPv6
    #[arg(long, value_name = "ADDRESS", requires_all = ["protocol", "routing_type", "ports_option"])]
    group6: Option<Ipv6Addr>,

    /// Routing type of Xcast6
    #[arg(long, value_name = "N", requires = "group6")]
    routing_type: Option<u8>,

    /// Type of the option of Xcast6 that lists ports, decimal or hexadecimal with 0x
    #[arg(long, value_name = "N", requires = "group6", value_parser = octet)]
    ports_option: Option<u8>,
}

/// IP destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Group,
    Router,
    Address(IpAddr),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            "router" => Ok(Self::Router),
            _ => text.parse().map(Self::Address).map_err(|_| {
                format!("{text:?} is neither \"group\" nor \"router\" nor an IP address")
            }),
        }
    }
}

/// Where packets leave this host, and as what.
pub(super) struct Origin {
    /// Numbers that mark a packet as Xcast.
    pub(super) code_points: CodePoints,
    /// IP source.
    pub(super) source: IpAddr,
    /// IP destination.
    pub(super) to: IpAddr,
    /// Interface they leave by.
    pub(super) interface: String,
    /// First-hop router they are sent to; none where they go into a router's own interface.
    pub(super) via: Option<IpAddr>,
    way: RawSocket,
}

impl OriginArgs {
    /// Finds the way for packets to these destinations, one for each family among them, IPv4's
    /// first; `router` is the interface of the router that may run here.
    ///
    /// # Errors
    ///
    /// No code points, no way, no source address, or no privilege.
    pub(super) fn open(&self, router: &str, destinations: &[IpAddr]) -> Result<Vec<Origin>> {
        let status = control::ask(router, &Request::Status);
        let running = !matches!(status, Err(ControlError::NotRunning(_)));
        let code_points = code_points(self, status)?;
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
                exit(&args, router, running, code_points, family)
            })
            .collect()
    }

    /// What counts for one family only.
    fn addresses(&self) -> impl Iterator<Item = (&'static str, IpAddr)> {
        let to = match self.to {
            Some(To::Address(address)) => Some(address),
            _ => None,
        };
        let options = [("--via", self.via), ("--source", self.source), ("--to", to)];
        options
            .into_iter()
            .filter_map(|(option, address)| Some((option, address?)))
    }

    /// Without what counts for the other family only.
    fn for_family(&self, ipv6: bool) -> Self {
        let here = |address: &IpAddr| address.is_ipv6() == ipv6;
        Self {
            via: self.via.filter(here),
            source: self.source.filter(here),
            to: self.to.filter(|to| match to {
                To::Address(address) => here(address),
                To::Group | To::Router => true,
            }),
            ..self.clone()
        }
    }

    /// The code points alone.
    ///
    /// # Errors
    ///
    /// There are none.
    pub(super) fn code_points(&self, router: &str) -> Result<CodePoints> {
        code_points(self, control::ask(router, &Request::Status))
    }
}

impl Origin {
    /// Sends, waiting for room in the socket's buffer.
    ///
    /// # Errors
    ///
    /// What the kernel says, and what to do about it.
    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        loop {
            match self.way.send(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(self.way.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut polled, PollTimeout::NONE)?;
                }
                Err(error) => return Err(explain(error, packet.len(), &self.interface)),
                Ok(()) => return Ok(()),
            }
        }
    }
}

fn code_points(args: &OriginArgs, running: Result<Response, ControlError>) -> Result<CodePoints> {
    if let Some(path) = &args.config {
        return Ok(load_code_points(path)?);
    }
    if let (Some(protocol), Some(group)) = (args.protocol, args.group) {
        let ipv4 = CodePoints::new(protocol, group)?;
        let ipv6 = (args.group6, args.routing_type, args.ports_option);
        let (Some(group), Some(routing_type), Some(ports_option)) = ipv6 else {
            return Ok(ipv4);
        };
        return Ok(ipv4.with_ipv6(Ipv6CodePoints {
            group,
            routing_type,
            ports_option,
        })?);
    }
    const REMEDY: &str = "give --config FILE, or the network's own --protocol and --group";
    match running {
        Ok(Response::Status(status)) => Ok(CodePoints {
            protocol: status.protocol,
            group: status.group,
            ipv6: status.ipv6.map(Into::into),
        }),
        Ok(_) => bail!("the running router does not tell its code points; {REMEDY}"),
        Err(ControlError::NotRunning(_)) => bail!(
            "no code points: no router runs here to take them from, and they have no defaults; \
             {REMEDY}"
        ),
        Err(error) => Err(error).with_context(|| {
            format!("cannot take the code points from the running router; {REMEDY}")
        }),
    }
}

fn exit(
    args: &OriginArgs,
    router: &str,
    running: bool,
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<Origin> {
    if let Some(family) = destinations.first() {
        // Before anything else fails for want of them.
        group(code_points, *family)?;
    }
    let links = kernel::links()?;
    let elsewhere = args.via.is_some() || args.interface.is_some() || args.to == Some(To::Router);
    match links.iter().find(|link| link.name == router) {
        Some(own) if !elsewhere => {
            ensure!(
                running,
                "{router} was left behind by a router that was killed: start one, remove it with \
                 xcast-ctl unload, or send over the network with --via"
            );
            exit_to_own_router(args, own, &links, code_points, destinations)
        }
        _ => exit_to_network(args, &links, code_points, destinations),
    }
}

/// Into the running router's own interface.
fn exit_to_own_router(
    args: &OriginArgs,
    own: &Link,
    links: &[Link],
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<Origin> {
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
    Ok(Origin {
        code_points,
        way: RawSocket::packet(own.ifindex, mac, peer_mac, source.is_ipv6()).map_err(permission)?,
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

fn octet(text: &str) -> Result<u8, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

/// The source address the kernel would use towards the first destination it has a way to,
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
fn exit_to_network(
    args: &OriginArgs,
    links: &[Link],
    code_points: CodePoints,
    destinations: &[IpAddr],
) -> Result<Origin> {
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
        .with_context(|| format!("the interface towards {via} has just gone away"))?;
    if link.loopback {
        bail!("--via {via}: this is an address of this host; give that of the next router");
    }
    let source = args
        .source
        .or(route.source)
        .with_context(|| format!("no source address towards {via}: give --source"))?;
    let (to, way) = match args.to.unwrap_or(To::Router) {
        To::Router => {
            let way = RawSocket::ip(via, args.interface.as_deref()).map_err(permission)?;
            (via, way)
        }
        To::Group => (group(code_points, via)?, frame_to(via, route, link)?),
        To::Address(address) => (address, frame_to(via, route, link)?),
    };
    Ok(Origin {
        code_points,
        way,
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
    bail!("no destination is behind a gateway: name the first-hop router with --via")
}

/// A frame to the router itself, for packets whose IP destination would lead elsewhere.
fn frame_to(via: IpAddr, route: Route, link: &Link) -> Result<RawSocket> {
    let name = &link.name;
    ensure!(
        route.gateway.is_none(),
        "--via {via}: --to needs a router on a link of this host, and this one is behind a gateway"
    );
    let mac = link
        .mac
        .with_context(|| format!("{name} is no Ethernet interface, which --to needs"))?;
    let router_mac = resolve(via, link.ifindex)?
        .with_context(|| format!("nobody on {name} answers for the first-hop router {via}"))?;
    RawSocket::packet(link.ifindex, mac, router_mac, via.is_ipv6()).map_err(permission)
}

/// The link layer address of a neighbour, which the kernel is made to find out.
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
            "a packet of {octets} octets exceeds the MTU of {interface}: shorten the payload, or \
             split the list over several packets"
        )
    } else {
        format!("cannot send by {interface}")
    };
    anyhow::Error::new(error).context(context)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::report::Status;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: OriginArgs,
    }

    fn args(line: &str) -> OriginArgs {
        Command::try_parse_from(["send"].into_iter().chain(line.split_whitespace()))
            .unwrap()
            .args
    }

    #[test]
    fn code_points_are_never_guessed() {
        let running = || {
            Ok(Response::Status(Status {
                protocol: 254,
                group: "224.0.0.254".parse().unwrap(),
                ..Status::example()
            }))
        };
        let none = || Err(ControlError::NotRunning("xcast/xcast0".into()));
        let given = args("--protocol 253 --group 224.0.0.254");
        assert_eq!(code_points(&given, running()).unwrap().protocol, 253);
        assert_eq!(code_points(&given, none()).unwrap().protocol, 253);
        let silent = args("");
        assert_eq!(code_points(&silent, running()).unwrap().protocol, 254);
        for answer in [
            none(),
            Ok(Response::Stopping),
            Err(ControlError::Router("no".into())),
        ] {
            let error = code_points(&silent, answer).unwrap_err();
            assert!(error.to_string().contains("--protocol"), "{error}");
        }
        let wrong = args("--protocol 17 --group 224.0.0.254");
        assert!(code_points(&wrong, none()).is_err());
        assert!(Command::try_parse_from(["send", "--protocol", "253"]).is_err());
    }

    #[test]
    fn where_to() {
        assert_eq!(args("--to group").to, Some(To::Group));
        let address = To::Address("10.9.9.9".parse().unwrap());
        assert_eq!(args("--to 10.9.9.9").to, Some(address));
        assert!("nowhere".parse::<To>().is_err());
    }
}
