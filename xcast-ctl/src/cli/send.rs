//! `xcast-ctl send`.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd as _,
    path::PathBuf,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use xcast_common::wire::{FLAG_A, FLAG_D, FLAG_P, FLAG_X};
use xcast_host::{
    CodePoints,
    packet::{Entry, MAX_DSCP, Template},
    raw::Way,
};

use super::{Outcome, print, print_json};
use crate::{
    config::{DATAPATH_SUFFIX, load_code_points},
    control::{self, ControlError, Request, Response},
    kernel::{self, Link, Route},
    report::Destination,
};

/// How long the kernel may take to resolve the first-hop router's link layer address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Send Xcast packets with a UDP payload to a list of destinations
///
/// Where a router runs, packets go into its own interface. Otherwise they go to the first-hop
/// router: the one given with --via, or the gateway on the way to the first destination that has
/// one, addressed to that router's own address. Needs root, or CAP_NET_RAW.
///
/// The code points come from --config, from --protocol and --group, or from the running router.
/// A destination's port goes into the list where ports differ, otherwise into the UDP header.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl send 10.77.3.2:5000 10.77.7.2:5000 10.77.8.2:6000
  xcast-ctl send --via 10.77.0.1 --protocol 253 --group 224.0.0.254 \\
      --payload hello --count 10 --interval 100 10.77.3.2:5000 10.77.7.2:5000@46

EXIT STATUS
  0  every packet was handed to the network
  2  error")]
pub(super) struct Args {
    /// Destinations in their order, each with its UDP port and, if it is to differ, its DSCP
    #[arg(value_name = "ADDRESS:PORT[@DSCP]", required = true, value_parser = entry)]
    destinations: Vec<Entry>,

    /// First-hop router to send to, even if a router runs here
    #[arg(long, value_name = "ADDRESS")]
    via: Option<Ipv4Addr>,

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
    source: Option<Ipv4Addr>,

    /// UDP source port
    #[arg(long, value_name = "PORT", default_value_t = 5058)]
    source_port: u16,

    /// Channel identifier, decimal or hexadecimal with 0x
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    channel: u32,

    /// DSCP of the packet, 0 to 63, and of destinations without their own
    #[arg(long, value_name = "N", default_value_t = 0)]
    dscp: u8,

    /// Time to live
    #[arg(long, value_name = "N", default_value_t = 64)]
    ttl: u8,

    /// Set X: the packet stays Xcast end to end
    #[arg(long)]
    x: bool,

    /// Set A: routers zero what they remove from the list
    #[arg(long)]
    anonymous: bool,

    /// Set P even if all ports are equal
    #[arg(long)]
    port_list: bool,

    /// Text to send; an n in braces, as in the default, becomes the packet's number, from 1
    #[arg(long, value_name = "TEXT", default_value = "xcast {n}", conflicts_with_all = ["file", "size"])]
    payload: String,

    /// Send the content of this file
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    file: Option<PathBuf>,

    /// Send this many zero octets
    #[arg(long, value_name = "OCTETS")]
    size: Option<usize>,

    /// Number of packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,

    /// Milliseconds between packets
    #[arg(long, value_name = "MS", default_value_t = 0)]
    interval: u64,

    /// Take the code points from this configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["protocol", "group"])]
    config: Option<PathBuf>,

    /// IPv4 protocol number of Xcast
    #[arg(long, value_name = "N", requires = "group")]
    protocol: Option<u8>,

    /// The All-Xcast-Routers group
    #[arg(long, value_name = "ADDRESS", requires = "protocol")]
    group: Option<Ipv4Addr>,

    /// Say what was sent as one JSON document
    #[arg(long)]
    json: bool,
}

/// IP destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Group,
    Router,
    Address(Ipv4Addr),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            "router" => Ok(Self::Router),
            _ => text.parse().map(Self::Address).map_err(|_| {
                format!("{text:?} is neither \"group\" nor \"router\" nor an IPv4 address")
            }),
        }
    }
}

fn entry(text: &str) -> Result<Entry, String> {
    let (destination, dscp) = match text.split_once('@') {
        Some((destination, dscp)) => (destination, Some(dscp)),
        None => (text, None),
    };
    let Destination { address, port } = destination.parse()?;
    let Some(port) = port else {
        return Err(format!("{text:?} has no port: write {address}:PORT"));
    };
    let dscp = dscp
        .map(|dscp| {
            let value = dscp.parse().ok().filter(|value| *value <= MAX_DSCP);
            value.ok_or_else(|| format!("{dscp:?} is not a DSCP (0 to {MAX_DSCP})"))
        })
        .transpose()?;
    Ok(Entry {
        address,
        port,
        dscp,
    })
}

fn number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

/// The document of `xcast-ctl send --json`.
#[derive(Debug, Serialize)]
struct Sent {
    /// Number of packets.
    packets: u64,
    /// Length of the last one from its IP header on, in octets.
    octets: usize,
    /// Flags of the Xcast header, letters of "AXDP".
    flags: String,
    /// Number of destinations in the list.
    destinations: usize,
    /// IP source.
    source: Ipv4Addr,
    /// IP destination.
    to: Ipv4Addr,
    /// Interface the packets left by.
    interface: String,
    /// First-hop router they were sent to; absent where they went into a router's own interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<Ipv4Addr>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let status = control::ask(router, &Request::Status);
    let running = !matches!(status, Err(ControlError::NotRunning(_)));
    let code_points = code_points(args, status)?;
    let exit = exit(args, router, running, code_points.group)?;
    let template = Template {
        code_points,
        source: exit.source,
        to: exit.to,
        ttl: args.ttl,
        dscp: args.dscp,
        channel: args.channel,
        x: args.x,
        anonymous: args.anonymous,
        source_port: args.source_port,
        port_list: args.port_list,
    };
    let entries = &args.destinations;
    let mut payload = fixed_payload(args)?.unwrap_or_default();
    let mut packet = Vec::new();
    let numbered = args.file.is_none() && args.size.is_none();
    for n in 1..=args.count {
        if numbered {
            payload = args.payload.replace("{n}", &n.to_string()).into_bytes();
        }
        template.emit(entries, &payload, &mut packet)?;
        send(&exit.way, &packet).map_err(|error| explain(error, packet.len(), &exit))?;
        if args.interval > 0 && n < args.count {
            thread::sleep(Duration::from_millis(args.interval));
        }
    }
    let sent = Sent {
        packets: args.count,
        octets: packet.len(),
        flags: letters(template.flags(entries)),
        destinations: entries.len(),
        source: exit.source,
        to: exit.to,
        interface: exit.interface,
        via: exit.via,
    };
    if args.json {
        print_json(&sent)?;
    } else {
        print(&render(&sent))?;
    }
    Ok(Outcome::Done)
}

/// Sends, waiting for room in the socket's buffer.
fn send(way: &Way, packet: &[u8]) -> io::Result<()> {
    loop {
        match way.send(packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(way.as_fd(), PollFlags::POLLOUT)];
                poll(&mut polled, PollTimeout::NONE)?;
            }
            outcome => return outcome,
        }
    }
}

fn code_points(args: &Args, running: Result<Response, ControlError>) -> Result<CodePoints> {
    if let Some(path) = &args.config {
        return Ok(load_code_points(path)?);
    }
    if let (Some(protocol), Some(group)) = (args.protocol, args.group) {
        return Ok(CodePoints::new(protocol, group)?);
    }
    const REMEDY: &str = "give --config FILE, or the network's own --protocol and --group";
    match running {
        Ok(Response::Status(status)) => Ok(CodePoints {
            protocol: status.protocol,
            group: status.group,
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

/// The payload that all packets share; `None` if it is text that may differ.
fn fixed_payload(args: &Args) -> Result<Option<Vec<u8>>> {
    match (&args.file, args.size) {
        (Some(path), _) => fs::read(path)
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display())),
        // One more than fits is enough to be told so.
        (None, size) => Ok(size.map(|size| vec![0; size.min(usize::from(u16::MAX) + 1)])),
    }
}

/// Where packets leave this host, and as what.
struct Exit {
    way: Way,
    source: Ipv4Addr,
    to: Ipv4Addr,
    interface: String,
    via: Option<Ipv4Addr>,
}

fn exit(args: &Args, router: &str, running: bool, group: Ipv4Addr) -> Result<Exit> {
    let links = kernel::links()?;
    let elsewhere = args.via.is_some() || args.interface.is_some() || args.to == Some(To::Router);
    match links.iter().find(|link| link.name == router) {
        Some(own) if !elsewhere => {
            ensure!(
                running,
                "{router} was left behind by a router that was killed: start one, remove it with \
                 xcast-ctl unload, or send over the network with --via"
            );
            exit_to_own_router(args, own, &links, group)
        }
        _ => exit_to_network(args, &links, group),
    }
}

/// Into the running router's own interface.
fn exit_to_own_router(args: &Args, own: &Link, links: &[Link], group: Ipv4Addr) -> Result<Exit> {
    let name = &own.name;
    let peer = links.iter().find(|link| Some(link.ifindex) == own.peer);
    let macs = own.mac.zip(peer.and_then(|peer| peer.mac));
    let (mac, peer_mac) = macs
        .with_context(|| format!("{name} is not one end of a pair with {name}{DATAPATH_SUFFIX}"))?;
    ensure!(own.up, "{name} is down: ip link set {name} up");
    let source = match args.source {
        Some(source) => source,
        None => source_towards(&args.destinations)?,
    };
    let to = match args.to {
        Some(To::Address(address)) => address,
        _ => group,
    };
    Ok(Exit {
        way: Way::frame(own.ifindex, mac, peer_mac).map_err(permission)?,
        source,
        to,
        interface: name.clone(),
        via: None,
    })
}

/// The source address the kernel would use towards the first destination it has a way to,
/// preferring those on other hosts.
fn source_towards(destinations: &[Entry]) -> Result<Ipv4Addr> {
    let mut own = None;
    for entry in destinations {
        let route = kernel::route(entry.address, None)?;
        if let Some(source) = route.and_then(|route| route.source) {
            if source != entry.address {
                return Ok(source);
            }
            own.get_or_insert(source);
        }
    }
    own.context("no route to any of the destinations to take a source address from: give --source")
}

/// Over the network, to the first-hop router.
fn exit_to_network(args: &Args, links: &[Link], group: Ipv4Addr) -> Result<Exit> {
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
        None => first_gateway(&args.destinations, ifindex)?,
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
            let way = Way::route(via, args.interface.as_deref()).map_err(permission)?;
            (via, way)
        }
        To::Group => (group, frame_to(via, route, link)?),
        To::Address(address) => (address, frame_to(via, route, link)?),
    };
    Ok(Exit {
        way,
        source,
        to,
        interface: link.name.clone(),
        via: Some(via),
    })
}

fn first_gateway(destinations: &[Entry], ifindex: Option<u32>) -> Result<Ipv4Addr> {
    for entry in destinations {
        let route = kernel::route(entry.address, ifindex)?;
        if let Some(gateway) = route.and_then(|route| route.gateway) {
            return Ok(gateway);
        }
    }
    bail!("no destination is behind a gateway: name the first-hop router with --via")
}

/// A frame to the router itself, for packets whose IP destination would lead elsewhere.
fn frame_to(via: Ipv4Addr, route: Route, link: &Link) -> Result<Way> {
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
    Way::frame(link.ifindex, mac, router_mac).map_err(permission)
}

/// The link layer address of a neighbour, which the kernel is made to find out.
fn resolve(address: Ipv4Addr, ifindex: u32) -> Result<Option<[u8; 6]>> {
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
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
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

fn explain(error: io::Error, octets: usize, exit: &Exit) -> anyhow::Error {
    let interface = &exit.interface;
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

fn letters(flags: u8) -> String {
    [(FLAG_A, 'A'), (FLAG_X, 'X'), (FLAG_D, 'D'), (FLAG_P, 'P')]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn render(sent: &Sent) -> String {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let via = sent
        .via
        .map_or_else(String::new, |via| format!(" via {via}"));
    format!(
        "sent {} packet{} of {} octets from {} to {} destination{} by {}{via}\n",
        sent.packets,
        plural(sent.packets),
        sent.octets,
        sent.source,
        sent.destinations,
        plural(sent.destinations as u64),
        sent.interface,
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::report::Status;

    #[test]
    fn destinations_with_ports_and_dscp() {
        assert_eq!(
            entry("10.0.0.1:5000@46").unwrap(),
            Entry {
                address: "10.0.0.1".parse().unwrap(),
                port: 5000,
                dscp: Some(46),
            }
        );
        assert_eq!(entry("10.0.0.1:5000").unwrap().dscp, None);
        for (text, said) in [
            ("10.0.0.1", "write 10.0.0.1:PORT"),
            ("10.0.0.1:5000@64", "0 to 63"),
            ("b:5000", "not an IPv4 address"),
            ("10.0.0.1:70000", "not a port"),
        ] {
            assert!(entry(text).unwrap_err().contains(said), "{text}");
        }
    }

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
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
        let given = args("--protocol 253 --group 224.0.0.254 10.0.0.1:1");
        assert_eq!(code_points(&given, running()).unwrap().protocol, 253);
        assert_eq!(code_points(&given, none()).unwrap().protocol, 253);
        let silent = args("10.0.0.1:1");
        assert_eq!(code_points(&silent, running()).unwrap().protocol, 254);
        for answer in [
            none(),
            Ok(Response::Stopping),
            Err(ControlError::Router("no".into())),
        ] {
            let error = code_points(&silent, answer).unwrap_err();
            assert!(error.to_string().contains("--protocol"), "{error}");
        }
        let wrong = args("--protocol 17 --group 224.0.0.254 10.0.0.1:1");
        assert!(code_points(&wrong, none()).is_err());
        assert!(Command::try_parse_from(["send", "--protocol", "253", "10.0.0.1:1"]).is_err());
    }

    #[test]
    fn numbers_of_channels() {
        assert_eq!(number("0x10"), Ok(16));
        assert_eq!(number("10"), Ok(10));
        assert!(number("ten").is_err());
    }

    #[test]
    fn where_to() {
        assert_eq!(args("--to group 10.0.0.1:1").to, Some(To::Group));
        let address = To::Address("10.9.9.9".parse().unwrap());
        assert_eq!(args("--to 10.9.9.9 10.0.0.1:1").to, Some(address));
        assert!("nowhere".parse::<To>().is_err());
    }
}
