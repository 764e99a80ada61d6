//! `xcast-ctl trace`.

mod tree;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use socket2::Socket;
use xcast_host::packet::max_destinations;

use self::tree::{Form, Hop, Path};
use crate::{
    output::{Outcome, print, print_json},
    tools::{
        first_hop::{FirstHop, FirstHopArgs, destination, router_in_udp},
        icmp::{self, About, Answer, Echo, Fault},
        probe::{entries, seconds, template},
        receiver::{self, Event, Receiver},
    },
};

/// How much longer than twice the slowest unicast probe an Xcast probe may take.
const GRACE: Duration = Duration::from_millis(50);

/// Show the tree that one packet takes to many destinations
///
/// For each hop limit from 1 it sends an ordinary echo request to each destination, as
/// traceroute(8) does, and one Xcast packet to all of them. The ordinary probes name the routers.
/// An Xcast router drops an expired Xcast packet silently, so a hop where the ordinary probe is
/// answered and no try of the Xcast probe is, still had an Xcast packet: shown as "Xcast", and
/// inferred. Where the Xcast probe is answered it had become ordinary unicast before it got there:
/// shown as "unicast", and measured. This includes packets that a router handed to its kernel
/// because the next hop was not resolved yet.
///
/// Where the two probes are answered by different nodes, the one of the Xcast probe is shown, marked
/// "not on the ordinary path": the Xcast packet passed routers inside a tunnel and has taken fewer hops, or
/// the paths differ. Hops shown as "Xcast" before it have the names of the ordinary path, and may be others:
/// xcast-ctl explain, on the routers, says where tunnels are.
///
/// With --relay the Xcast packet goes inside UDP to a relay, and what is shown is its way from there. There are
/// no ordinary probes, which would go another way: a hop where nobody answers still had an Xcast packet, or has
/// a silent router.
///
/// Packets leave this host in the same way as those of xcast-ctl send. Needs root or CAP_NET_RAW.
/// Routers limit the rate of their answers to one host: with many destinations some hops may stay
/// unknown ("*"), or be shown as "Xcast" by mistake.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl trace 10.77.3.2 10.77.7.2 10.77.8.2
  xcast-ctl trace --config xcast.toml --relay 198.51.100.1:4242 203.0.113.7 203.0.113.8

EXIT STATUS
  0  the Xcast packet reached every destination
  1  it did not reach at least one
  2  error")]
pub(crate) struct Args {
    /// Destinations
    #[arg(value_name = "ADDRESS", required = true, value_parser = destination)]
    destinations: Vec<IpAddr>,

    /// Largest hop limit to try
    #[arg(short, long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=254))]
    max_hops: u8,

    /// Seconds to wait for answers to a probe
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,

    /// Tries per hop, while an answer is missing
    #[arg(short = 'q', long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    tries: u8,

    /// Send by this relay, after proving this host's address to it
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp, conflicts_with_all = ["via", "interface", "to", "source"])]
    relay: Option<SocketAddr>,

    /// Show the paths as one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    first_hop: FirstHopArgs,
}

/// The document of `xcast-ctl trace --json`.
#[derive(Debug, Serialize)]
struct Trace {
    /// IP source.
    source: IpAddr,
    /// Interface the packets left by, or the relay.
    interface: String,
    /// A path for each destination, as given.
    paths: Vec<Path>,
}

/// The first answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    from: IpAddr,
    time: Duration,
    fault: Option<Fault>,
}

/// A destination while it is traced.
struct Target {
    path: Path,
    /// The answers to this hop's probes.
    unicast: Option<Seen>,
    xcast: Option<Seen>,
    done: bool,
}

struct Tracer<'a> {
    args: &'a Args,
    receiver: Receiver,
    first_hop: FirstHop,
    unicast: Socket,
    targets: Vec<Target>,
}

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let ipv6 = args.destinations.iter().any(IpAddr::is_ipv6);
    ensure!(
        args.destinations.iter().all(|to| to.is_ipv6() == ipv6),
        "the list has addresses of both families, and one packet carries those of one: trace IPv4 \
         and IPv6 destinations separately"
    );
    let most = max_destinations(ipv6, 0);
    ensure!(
        args.destinations.len() <= most,
        "{} destinations: the tree is that of one packet, which has room for {most}",
        args.destinations.len()
    );
    for (at, address) in args.destinations.iter().enumerate() {
        ensure!(
            !args.destinations[..at].contains(address),
            "{address} is listed twice: their answers could not be told apart"
        );
    }
    let receiver = Receiver::new(&args.destinations)?;
    let first_hop = match args.relay {
        Some(relay) => {
            ensure!(
                relay.is_ipv6() == ipv6,
                "--relay {relay}: the destinations are of the other family, and a relay serves those of its own"
            );
            FirstHop::by_relay(relay, &args.first_hop.code_points, router)?
        }
        None => {
            let mut first_hops = args.first_hop.open(router, &args.destinations)?;
            first_hops.pop().context("no destination")?
        }
    };
    let unicast = receiver::socket(ipv6)?;
    let target = |&destination| Target {
        path: Path::new(destination),
        unicast: None,
        xcast: None,
        done: false,
    };
    let mut tracer = Tracer {
        args,
        receiver,
        first_hop,
        unicast,
        targets: args.destinations.iter().map(target).collect(),
    };
    for hop in 1..=args.max_hops {
        if tracer.targets.iter().all(|target| target.done) || !tracer.look(hop)? {
            break;
        }
    }
    let trace = Trace {
        source: tracer.first_hop.source,
        interface: tracer.first_hop.interface.clone(),
        paths: tracer
            .targets
            .into_iter()
            .map(|target| target.path)
            .collect(),
    };
    if args.json {
        print_json(&trace)?;
    } else {
        let start = format!("{} by {}", trace.source, trace.interface);
        print(&tree::draw(&start, &trace.paths))?;
    }
    let all = trace.paths.iter().all(|path| path.reached);
    Ok(if all { Outcome::Done } else { Outcome::No })
}

impl Tracer<'_> {
    /// Finds out who is at this distance; false if the user interrupted.
    fn look(&mut self, hop: u8) -> Result<bool> {
        for target in &mut self.targets {
            (target.unicast, target.xcast) = (None, None);
        }
        // Silence means that the packet is still Xcast, or that an answer was lost: ask again.
        let is_compared = self.args.relay.is_none();
        let open = |target: &Target| {
            !target.done && (is_compared && target.unicast.is_none() || target.xcast.is_none())
        };
        let mut starts = Vec::new();
        while starts.len() < self.args.tries.into() && self.targets.iter().any(open) {
            if !self.probe(hop, &mut starts)? {
                return Ok(false);
            }
        }
        for target in &mut self.targets {
            if !target.done {
                target.take_hop(hop);
            }
        }
        Ok(true)
    }

    /// One try for a hop: sends probes to whoever did not answer yet, and takes the answers. `starts`
    /// has the time of each try so far. False if the user interrupted.
    fn probe(&mut self, hop: u8, starts: &mut Vec<Instant>) -> Result<bool> {
        // The two kinds are told apart by their identifiers, hops and tries by their sequence numbers.
        let identifier = (std::process::id() as u16) << 1;
        let sequence = u16::from(hop) << 8 | starts.len() as u16;
        let [unicast, xcast] = [0, 1].map(|kind| Echo {
            identifier: identifier | kind,
            sequence,
        });
        // A router on this host, and a relay, take one off the hop limit of Xcast packets only.
        let own = u8::from(self.first_hop.via.is_none());
        let template = template(&self.first_hop, hop.saturating_add(own), 0);
        let mut packet = Vec::new();
        let FirstHop {
            source,
            code_points,
            ..
        } = self.first_hop;
        let message = icmp::request(xcast, 0, source, code_points);
        let protocol = icmp::protocol(source);
        // Always the whole list: routers may make something else of a shorter one.
        let listed: Vec<_> = self
            .targets
            .iter()
            .filter(|target| !target.done)
            .map(|target| target.path.destination)
            .collect();
        template.emit_segment(&entries(&listed, 0), protocol, &message, &mut packet)?;

        let start = Instant::now();
        starts.push(start);
        self.first_hop.send(&packet)?;
        match source {
            IpAddr::V4(_) => self.unicast.set_ttl_v4(hop.into())?,
            IpAddr::V6(_) => self.unicast.set_unicast_hops_v6(hop.into())?,
        }
        // The kernel fills in the checksum of ICMPv6.
        let message = icmp::request(unicast, 0, source, code_points);
        let is_compared = self.args.relay.is_none();
        let unanswered = |target: &&Target| is_compared && !target.done && target.unicast.is_none();
        for target in self.targets.iter().filter(unanswered) {
            let to = SocketAddr::new(target.path.destination, 0);
            // Without a route the hop stays unknown.
            let _ = self.unicast.send_to(&message, &to.into());
        }
        loop {
            let times = self.targets.iter().filter(|target| !target.done);
            let known = |target: &Target| {
                if is_compared {
                    target.unicast
                } else {
                    target.xcast
                }
            };
            let slowest = times
                .map(|target| known(target).map(|seen| seen.time))
                .collect::<Option<Vec<_>>>()
                .and_then(|times| times.into_iter().max());
            let patience = slowest.map_or(self.args.timeout, |slowest| {
                self.args.timeout.min(2 * slowest + GRACE)
            });
            match self.receiver.wait(start + patience)? {
                Event::Answer(answer, now) => self.take(answer, identifier, hop, starts, now),
                Event::Datagram(..) => {}
                Event::Timeout => return Ok(true),
                Event::Interrupted => return Ok(false),
            }
        }
    }

    /// Takes an answer, if it belongs to a try of this hop.
    fn take(&mut self, answer: Answer, identifier: u16, hop: u8, starts: &[Instant], now: Instant) {
        let About::Echo(echo) = answer.about else {
            return;
        };
        let [of_hop, attempt] = echo.sequence.to_be_bytes();
        let start = starts.get(usize::from(attempt)).filter(|_| of_hop == hop);
        let mut targets = self.targets.iter_mut();
        let target = targets.find(|target| target.path.destination == answer.destination);
        let (Some(start), Some(target)) = (start, target) else {
            return;
        };
        let seen = Seen {
            from: answer.from,
            time: now - *start,
            fault: answer.fault,
        };
        match echo.identifier ^ identifier {
            0 => _ = target.unicast.get_or_insert(seen),
            1 => _ = target.xcast.get_or_insert(seen),
            _ => {}
        }
    }
}

impl Target {
    /// Adds a hop to the path, from what was seen of it.
    fn take_hop(&mut self, ttl: u8) {
        let seen = self.xcast.or(self.unicast);
        let form = match (self.unicast, self.xcast) {
            (_, Some(_)) => Form::Unicast,
            (Some(_), None) => Form::Xcast,
            (None, None) => Form::Unknown,
        };
        let is_apart = self
            .xcast
            .zip(self.unicast)
            .is_some_and(|(xcast, unicast)| xcast.from != unicast.from);
        let arrived = |seen: Option<Seen>| {
            seen.is_some_and(|seen| seen.fault.is_none() && seen.from == self.path.destination)
        };
        self.path.reached = arrived(self.xcast);
        let refused = seen.is_some_and(|seen| matches!(seen.fault, Some(Fault::Unreachable(_))));
        self.done = self.path.reached || arrived(self.unicast) || refused;
        self.path.hops.push(Hop {
            ttl,
            address: seen.map(|seen| seen.from),
            rtt_ms: seen.map(|seen| (seen.time.as_secs_f64() * 1e6).round() / 1e3),
            form,
            apart: is_apart,
            unreachable: refused,
        });
    }
}
