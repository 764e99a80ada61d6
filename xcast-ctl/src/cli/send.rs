//! `xcast-ctl send`.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use xcast_common::wire::{FLAG_A, FLAG_D, FLAG_P, FLAG_X};
use xcast_host::{
    Options, RouterAddresses, Sender, SenderStatistics, Settings, Uplink,
    packet::{Entry, MAX_DSCP, Template},
};

use super::{
    Outcome,
    origin::{Origin, OriginArgs},
    print, print_json,
};
use crate::report::Destination;

/// How long a router may take to say that it takes Xcast inside UDP.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Send Xcast packets with a UDP payload to a list of destinations
///
/// Where a router runs, packets go into its own interface. Otherwise they go to the first-hop
/// router: the one given with --via, or the gateway on the way to the first destination that has
/// one, addressed to that router's own address. That needs root, or CAP_NET_RAW. With --udp packets go
/// inside UDP to a router that takes them so, which needs no privilege; without an answer from that
/// router each destination is sent a datagram.
///
/// A list with addresses of IPv4 and of IPv6 leaves as one packet of each.
///
/// The code points come from --config, from --protocol and --group, or from the running router.
/// A destination's port goes into the list where ports differ, otherwise into the UDP header.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl send 10.77.3.2:5000 10.77.7.2:5000 10.77.8.2:6000
  xcast-ctl send --via 10.77.0.1 --protocol 253 --group 224.0.0.254 \\
      --payload hello --count 10 --interval 100 10.77.3.2:5000 10.77.7.2:5000@46
  tail -f log | xcast-ctl send --udp 10.77.0.1:4242 --protocol 253 --group 224.0.0.254 \\
      --file - --lines 10.77.3.2:5000 10.77.7.2:5000

EXIT STATUS
  0  every packet was handed to the network
  2  error")]
pub(super) struct Args {
    /// Destinations in their order, each with its UDP port and, if it is to differ, its DSCP
    #[arg(value_name = "ADDRESS:PORT[@DSCP]", required = true, value_parser = entry)]
    destinations: Vec<Entry>,

    #[command(flatten)]
    origin: OriginArgs,

    /// Send inside UDP to this router; given twice, by its IPv4 and its IPv6 address
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["via", "interface", "to", "port_list"])]
    udp: Vec<SocketAddr>,

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

    /// Send the content of this file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    file: Option<PathBuf>,

    /// Send each line of the file as a packet of its own, as it comes, without the line's end
    #[arg(long, requires = "file", conflicts_with = "count")]
    lines: bool,

    /// Send this many zero octets
    #[arg(long, value_name = "OCTETS")]
    size: Option<usize>,

    /// Number of packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,

    /// Milliseconds between packets
    #[arg(long, value_name = "MS", default_value_t = 0)]
    interval: u64,

    /// Packets a second, at most
    #[arg(long, value_name = "N", conflicts_with = "interval", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Say what was sent as one JSON document
    #[arg(long)]
    json: bool,
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
    /// Number of messages; each is a packet, or several where the list does not fit one.
    packets: u64,
    /// How long it took, in seconds.
    seconds: f64,
    /// Length of the last payload, in octets.
    payload_octets: usize,
    /// Number of destinations in the list.
    destinations: usize,
    /// How they left.
    #[serde(flatten)]
    how: How,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum How {
    Raw {
        /// One for each family in the list.
        ways: Vec<Way>,
    },
    Udp {
        /// The router's addresses.
        routers: Vec<SocketAddr>,
        /// Xcast packets that left.
        xcast_packets: u64,
        /// Datagrams that left instead, since the router did not answer.
        unicast_packets: u64,
    },
}

/// How the packets of one family left.
#[derive(Debug, Serialize)]
struct Way {
    /// Number of destinations in the list.
    destinations: usize,
    /// Length of the last packet from its IP header on, in octets.
    octets: usize,
    /// Flags of the Xcast header, letters of "AXDP".
    flags: String,
    /// IP source.
    source: IpAddr,
    /// IP destination.
    to: IpAddr,
    /// Interface the packets left by.
    interface: String,
    /// First-hop router they were sent to; absent where they went into a router's own interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<IpAddr>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let mut exit = Exit::open(args, router)?;
    let mut payloads = Payloads::open(args)?;
    let pause = match args.rate {
        Some(rate) => Duration::from_secs(1) / rate,
        None => Duration::from_millis(args.interval),
    };
    let start = Instant::now();
    let mut progress = Progress::new(start, (!args.lines).then_some(args.count));
    let (mut packets, mut next, mut payload_octets) = (0, start, 0);
    while let Some(payload) = payloads.next(packets)? {
        if packets > 0 && !pause.is_zero() {
            // From the plan, not from the last packet: being late once does not lower the rate.
            next += pause;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        exit.send(&args.destinations, payload)?;
        payload_octets = payload.len();
        packets += 1;
        progress.show(packets);
    }
    progress.clear();
    let sent = Sent {
        packets,
        seconds: (start.elapsed().as_secs_f64() * 1e6).round() / 1e6,
        payload_octets,
        destinations: args.destinations.len(),
        how: exit.how(),
    };
    if args.json {
        print_json(&sent)?;
    } else {
        print(&render(&sent))?;
    }
    Ok(Outcome::Done)
}

/// What is sent, packet by packet.
enum Payloads {
    /// The same, so many times.
    Fixed { payload: Vec<u8>, left: u64 },
    /// With the packet's number in it.
    Text {
        text: String,
        payload: Vec<u8>,
        left: u64,
    },
    /// The lines of a file.
    Lines {
        input: Box<dyn io::BufRead>,
        name: String,
        payload: Vec<u8>,
    },
}

impl Payloads {
    fn open(args: &Args) -> Result<Self> {
        let left = args.count;
        let Some(path) = &args.file else {
            return Ok(match args.size {
                // One more than fits is enough to be told so.
                Some(size) => Self::Fixed {
                    payload: vec![0; size.min(usize::from(u16::MAX) + 1)],
                    left,
                },
                None => Self::Text {
                    text: args.payload.clone(),
                    payload: Vec::new(),
                    left,
                },
            });
        };
        let name = path.display().to_string();
        let cannot = || format!("cannot read {name}");
        let mut input: Box<dyn io::BufRead> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(io::BufReader::new(
                fs::File::open(path).with_context(cannot)?,
            ))
        };
        if args.lines {
            let payload = Vec::new();
            return Ok(Self::Lines {
                input,
                name,
                payload,
            });
        }
        let mut payload = Vec::new();
        // As much as is needed to be told that it is too much.
        let mut limited = (&mut input).take(u64::from(u16::MAX) + 1);
        limited.read_to_end(&mut payload).with_context(cannot)?;
        Ok(Self::Fixed { payload, left })
    }

    /// The next payload; `sent` were given before.
    fn next(&mut self, sent: u64) -> Result<Option<&[u8]>> {
        match self {
            Self::Fixed { payload, left } => Ok((sent < *left).then_some(payload)),
            Self::Text {
                text,
                payload,
                left,
            } => {
                *payload = text.replace("{n}", &(sent + 1).to_string()).into_bytes();
                Ok((sent < *left).then_some(payload))
            }
            Self::Lines {
                input,
                name,
                payload,
            } => {
                payload.clear();
                let read = input.read_until(b'\n', payload);
                if read.with_context(|| format!("cannot read {name}"))? == 0 {
                    return Ok(None);
                }
                if payload.last() == Some(&b'\n') {
                    payload.pop();
                }
                Ok(Some(payload))
            }
        }
    }
}

/// The way packets leave.
enum Exit {
    /// One for each family in the list.
    Raw(Vec<Raw>),
    Udp {
        routers: Vec<SocketAddr>,
        sender: Box<Sender>,
    },
}

/// Packets of one family, made here.
struct Raw {
    origin: Origin,
    template: Template,
    entries: Vec<Entry>,
    packet: Vec<u8>,
}

impl Exit {
    fn open(args: &Args, router: &str) -> Result<Self> {
        if !args.udp.is_empty() {
            return Self::open_udp(args, router);
        }
        let entries = &args.destinations;
        let addresses: Vec<_> = entries.iter().map(|entry| entry.address).collect();
        let raw = |origin: Origin| {
            let ipv6 = origin.source.is_ipv6();
            let here = entries.iter().filter(|to| to.address.is_ipv6() == ipv6);
            Raw {
                template: Template {
                    code_points: origin.code_points,
                    source: origin.source,
                    to: origin.to,
                    ttl: args.ttl,
                    dscp: args.dscp,
                    channel: args.channel,
                    x: args.x,
                    anonymous: args.anonymous,
                    source_port: args.source_port,
                    port_list: args.port_list,
                },
                entries: here.copied().collect(),
                origin,
                packet: Vec::new(),
            }
        };
        let origins = args.origin.open(router, &addresses)?;
        Ok(Self::Raw(origins.into_iter().map(raw).collect()))
    }

    fn open_udp(args: &Args, own_router: &str) -> Result<Self> {
        let mut router = RouterAddresses::default();
        for &address in &args.udp {
            let twice = match address {
                SocketAddr::V4(address) => router.ipv4.replace(address).is_some(),
                SocketAddr::V6(address) => router.ipv6.replace(address).is_some(),
            };
            ensure!(!twice, "--udp {address}: give one address of each family");
        }
        // A socket of IPv6 serves IPv4, too.
        let destinations = args.destinations.iter().map(|entry| entry.address);
        let ipv6 = router.ipv6.is_some() || destinations.into_iter().any(|to| to.is_ipv6());
        let any: IpAddr = match ipv6 {
            false => Ipv4Addr::UNSPECIFIED.into(),
            true => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = SocketAddr::new(args.origin.source.unwrap_or(any), args.source_port);
        let socket = UdpSocket::bind(local).with_context(|| format!("cannot send from {local}"))?;
        let uplink = Uplink::udp(args.origin.code_points(own_router)?, router);
        let settings = Settings {
            options: Options {
                ttl: args.ttl,
                dscp: args.dscp,
                channel: args.channel,
                stay_xcast: args.x,
                anonymous: args.anonymous,
            },
            ..Settings::new(uplink)
        };
        let mut sender = Sender::new(socket, settings)?;
        if !sender.wait_for_router(ROUTER_TIMEOUT)? {
            let why = sender.router().err();
            let why = why.map_or_else(String::new, |cause| format!(" ({cause})"));
            // Nobody may be reading.
            let _ = writeln!(
                io::stderr(),
                "xcast-ctl: no answer from {}{why}; sending unicast to each destination",
                listed(&args.udp)
            );
        }
        Ok(Self::Udp {
            routers: args.udp.clone(),
            sender: Box::new(sender),
        })
    }

    fn send(&mut self, entries: &[Entry], payload: &[u8]) -> Result<()> {
        match self {
            Self::Raw(ways) => {
                // All of them first: what is wrong with one is no reason to send half.
                for way in ways.iter_mut() {
                    way.template.emit(&way.entries, payload, &mut way.packet)?;
                }
                ways.iter().try_for_each(|way| way.origin.send(&way.packet))
            }
            Self::Udp { sender, .. } => {
                let destinations: Vec<_> = entries.iter().map(destination).collect();
                sender.send(&destinations, payload)?;
                Ok(())
            }
        }
    }

    /// What became of all of it.
    fn how(self) -> How {
        match self {
            Self::Raw(ways) => How::Raw {
                ways: ways.into_iter().map(Way::from).collect(),
            },
            Self::Udp { routers, sender } => {
                let SenderStatistics {
                    xcast_packets,
                    unicast_packets,
                    ..
                } = *sender.statistics();
                How::Udp {
                    routers,
                    xcast_packets,
                    unicast_packets,
                }
            }
        }
    }
}

impl From<Raw> for Way {
    fn from(raw: Raw) -> Self {
        Self {
            destinations: raw.entries.len(),
            octets: raw.packet.len(),
            flags: letters(raw.template.flags(&raw.entries)),
            source: raw.origin.source,
            to: raw.origin.to,
            interface: raw.origin.interface,
            via: raw.origin.via,
        }
    }
}

/// "a and b".
fn listed(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" and ")
}

fn destination(entry: &Entry) -> xcast_host::Destination {
    let address = SocketAddr::from((entry.address, entry.port));
    match entry.dscp {
        Some(dscp) => xcast_host::Destination::with_dscp(address, dscp),
        None => address.into(),
    }
}

/// Says on a terminal, once a second, how far it is.
struct Progress {
    wanted: bool,
    shown: Instant,
    start: Instant,
    all: Option<u64>,
    written: bool,
}

impl Progress {
    fn new(start: Instant, all: Option<u64>) -> Self {
        Self {
            wanted: io::stderr().is_terminal(),
            shown: start,
            start,
            all,
            written: false,
        }
    }

    fn show(&mut self, packets: u64) {
        if !self.wanted || self.shown.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.shown = Instant::now();
        self.written = true;
        let rate = packets as f64 / self.start.elapsed().as_secs_f64();
        let of = self
            .all
            .map_or_else(String::new, |all| format!(" of {all}"));
        // A terminal that went away is no reason to stop.
        let _ = write!(io::stderr(), "\r{packets}{of} packets, {rate:.0}/s\x1b[K");
    }

    fn clear(&self) {
        if self.written {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
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
    let mut text = format!("sent {} packet{}", sent.packets, plural(sent.packets));
    let destinations = |count: usize| format!("{count} destination{}", plural(count as u64));
    text += &match &sent.how {
        How::Raw { ways } => {
            let way = |way: &Way| {
                let via = way
                    .via
                    .map_or_else(String::new, |via| format!(" via {via}"));
                format!(
                    " of {} octets from {} to {} by {}{via}",
                    way.octets,
                    way.source,
                    destinations(way.destinations),
                    way.interface
                )
            };
            let ways: Vec<_> = ways.iter().map(way).collect();
            ways.join(", and as many")
        }
        How::Udp {
            routers,
            xcast_packets,
            unicast_packets,
        } => format!(
            " to {}: {xcast_packets} inside UDP by {}, {unicast_packets} as unicast",
            destinations(sent.destinations),
            listed(routers),
        ),
    };
    if sent.packets > 1 && sent.seconds > 0.0 {
        let rate = sent.packets as f64 / sent.seconds;
        text += &format!(" in {:.3} s, {rate:.0}/s", sent.seconds);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("b:5000", "is not an IP address"),
            ("10.0.0.1:70000", "not a port"),
        ] {
            assert!(entry(text).unwrap_err().contains(said), "{text}");
        }
    }

    #[test]
    fn numbers_of_channels() {
        assert_eq!(number("0x10"), Ok(16));
        assert_eq!(number("10"), Ok(10));
        assert!(number("ten").is_err());
    }
}
