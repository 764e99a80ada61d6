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
use super::{
    Outcome,
    icmp::{self, About, Answer, Echo, Event, Fault, Receiver},
    origin::{Origin, OriginArgs},
    ping::{entries, seconds, template},
    print, print_json,
};

/// How much longer than the slowest unicast probe an Xcast probe may take.
const GRACE: Duration = Duration::from_millis(50);

/// Show the tree by which one packet reaches many destinations
///
/// Sends probes with a time to live of 1, 2, and so on: an ordinary echo request to each destination,
/// as traceroute(8) does, and one Xcast packet to all of them. The ordinary ones name the routers. An
/// Xcast router drops an Xcast packet whose time is over without a word, so where an ordinary probe is
/// answered and the Xcast probe is not, in any try, the packet was still one for many ("Xcast", inferred); where
/// both are answered, it had become ordinary unicast ("unicast", measured): also where a router hands it
/// to its kernel, for a host it has not met yet. Both kinds are assumed to take the same way. Needs root, or CAP_NET_RAW.
///
/// Packets leave this host like those of send. Routers limit how often they answer one host: with many
/// destinations some hops may stay unknown ("*") or be taken for Xcast.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl trace 10.77.3.2 10.77.7.2 10.77.8.2

EXIT STATUS
  0  every destination was reached by the Xcast packet
  1  at least one was not
  2  error")]
pub(super) struct Args {
    /// Destinations
    #[arg(value_name = "ADDRESS", required = true)]
    destinations: Vec<IpAddr>,

    /// Most hops
    #[arg(short, long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=254))]
    max_hops: u8,

    /// Seconds to wait for answers to a probe
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,

    /// Tries for hops where an answer is missing
    #[arg(short = 'q', long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    tries: u8,

    /// Show the paths as one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    origin: OriginArgs,
}

/// The document of `xcast-ctl trace --json`.
#[derive(Debug, Serialize)]
struct Trace {
    /// IP source.
    source: IpAddr,
    /// Interface the packets left by.
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
    origin: Origin,
    unicast: Socket,
    targets: Vec<Target>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let ipv6 = args.destinations.iter().any(IpAddr::is_ipv6);
    ensure!(
        args.destinations.iter().all(|to| to.is_ipv6() == ipv6),
        "the list has addresses of both families, one packet has those of one, and the tree of one \
         packet is shown: trace those of IPv4 and those of IPv6 apart"
    );
    let most = max_destinations(ipv6, 0);
    ensure!(
        args.destinations.len() <= most,
        "{} destinations: one packet names {most} at most, and the tree of one packet is shown",
        args.destinations.len()
    );
    for (at, address) in args.destinations.iter().enumerate() {
        ensure!(
            !args.destinations[..at].contains(address),
            "{address} is in the list twice: one answer could not be told from the other"
        );
    }
    let receiver = Receiver::new(&args.destinations)?;
    let mut origins = args.origin.open(router, &args.destinations)?;
    let origin = origins.pop().context("no destination")?;
    let unicast = icmp::socket(ipv6)?;
    let target = |&destination| Target {
        path: Path::new(destination),
        unicast: None,
        xcast: None,
        done: false,
    };
    let mut tracer = Tracer {
        args,
        receiver,
        origin,
        unicast,
        targets: args.destinations.iter().map(target).collect(),
    };
    for hop in 1..=args.max_hops {
        if tracer.targets.iter().all(|target| target.done) || !tracer.look(hop)? {
            break;
        }
    }
    let trace = Trace {
        source: tracer.origin.source,
        interface: tracer.origin.interface.clone(),
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
    /// Asks who is at this distance; false if the user interrupted.
    fn look(&mut self, hop: u8) -> Result<bool> {
        for target in &mut self.targets {
            (target.unicast, target.xcast) = (None, None);
        }
        // That a packet is still Xcast shows by silence, which may also be a lost answer: asked again.
        let open =
            |target: &Target| !target.done && (target.unicast.is_none() || target.xcast.is_none());
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

    /// Sends probes to whoever did not answer yet, and takes the answers. `starts` has when this hop was
    /// asked so far.
    fn probe(&mut self, hop: u8, starts: &mut Vec<Instant>) -> Result<bool> {
        // The two kinds are told apart by their identifiers, hops and tries by their sequence numbers.
        let identifier = (std::process::id() as u16) << 1;
        let sequence = u16::from(hop) << 8 | starts.len() as u16;
        let [unicast, xcast] = [0, 1].map(|kind| Echo {
            identifier: identifier | kind,
            sequence,
        });
        // The router on this host takes one off, for which ordinary packets pay nothing.
        let own = u8::from(self.origin.via.is_none());
        let template = template(&self.origin, hop.saturating_add(own), 0);
        let mut packet = Vec::new();
        let Origin {
            source,
            code_points,
            ..
        } = self.origin;
        let message = icmp::request(xcast, 0, source, code_points);
        let protocol = icmp::protocol(source);
        // Always to all of them: a shorter list would be another packet, which takes another form.
        let listed: Vec<_> = self
            .targets
            .iter()
            .filter(|target| !target.done)
            .map(|target| target.path.destination)
            .collect();
        template.emit_segment(&entries(&listed, 0), protocol, &message, &mut packet)?;

        let start = Instant::now();
        starts.push(start);
        self.origin.send(&packet)?;
        match source {
            IpAddr::V4(_) => self.unicast.set_ttl_v4(hop.into())?,
            IpAddr::V6(_) => self.unicast.set_unicast_hops_v6(hop.into())?,
        }
        // The kernel sees to the checksum of ICMPv6.
        let message = icmp::request(unicast, 0, source, code_points);
        let unanswered = |target: &&Target| !target.done && target.unicast.is_none();
        for target in self.targets.iter().filter(unanswered) {
            let to = SocketAddr::new(target.path.destination, 0);
            // No route is an answer too: the hop stays unknown.
            let _ = self.unicast.send_to(&message, &to.into());
        }
        loop {
            let times = self.targets.iter().filter(|target| !target.done);
            let slowest = times
                .map(|target| target.unicast.map(|seen| seen.time))
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

    /// Takes an answer, if it is one to a try of this hop.
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
        let seen = self.unicast.or(self.xcast);
        let form = match (self.unicast, self.xcast) {
            (_, Some(_)) => Form::Unicast,
            (Some(_), None) => Form::Xcast,
            (None, None) => Form::Unknown,
        };
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
            unreachable: refused,
        });
    }
}
