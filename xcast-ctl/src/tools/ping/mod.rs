//! `xcast-ctl ping`.

mod summary;
mod tally;

use std::{
    collections::HashMap,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xcast_host::packet::{Template, max_destinations};

use self::{
    summary::{Line, Summary, Way, render},
    tally::Tally,
};
use crate::{
    output::{Outcome, print, print_answer},
    tools::{
        first_hop::{FirstHop, FirstHopArgs, destination},
        icmp::{self, About, Answer, Echo, Fault},
        probe::{entries, seconds, template},
        receiver::{Event, Receiver},
    },
};

/// Ping many destinations with one packet
///
/// Each round sends one ICMP echo request that lists all destinations, or with --udp one UDP
/// datagram. Routers copy it, and each destination gets an ordinary echo request and answers as it
/// answers ping(8). Shows the round-trip time of each answer, and at the end the loss of each
/// destination. Needs root or CAP_NET_RAW.
///
/// A list of IPv4 and IPv6 addresses is sent as one packet per family. Packets leave this host in
/// the same way as those of xcast-ctl send.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl ping -c 5 10.77.3.2 10.77.7.2 10.77.8.2
  xcast-ctl ping --udp 7 10.77.3.2 10.77.7.2

EXIT STATUS
  0  every destination answered
  1  at least one did not answer at all
  2  error")]
pub(crate) struct Args {
    /// Destinations
    #[arg(value_name = "ADDRESS", required = true, value_parser = destination)]
    destinations: Vec<IpAddr>,

    /// Rounds (default: until interrupted)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    count: Option<u16>,

    /// Seconds between rounds
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,

    /// Seconds to wait for answers to the last round
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    timeout: Duration,

    /// Data in each request, in octets
    #[arg(short, long, value_name = "OCTETS", default_value_t = 56)]
    size: u16,

    /// Send UDP datagrams to this port instead
    ///
    /// An answer from an echo service counts, and so does an ICMP "port unreachable" of the
    /// destination: either way the datagram arrived. For hosts that do not answer ICMP echo
    /// requests.
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    udp: Option<u16>,

    /// DSCP, 0 to 63
    #[arg(long, value_name = "N", default_value_t = 0)]
    dscp: u8,

    /// Time to live
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..))]
    ttl: u8,

    /// Only show the summary
    #[arg(short, long)]
    quiet: bool,

    /// Show the summary as one JSON document, and nothing else
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    first_hop: FirstHopArgs,
}

/// The state of a run.
struct Ping<'a> {
    args: &'a Args,
    /// One for each family in the list.
    probes: Vec<Probe>,
    tallies: HashMap<IpAddr, Tally>,
    packets: u64,
    octets: usize,
}

/// What the packets of one family have in common.
struct Probe {
    first_hop: FirstHop,
    template: Template,
    /// Identifier of echo requests, source port of datagrams.
    identifier: u16,
}

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    for (at, address) in args.destinations.iter().enumerate() {
        ensure!(
            !args.destinations[..at].contains(address),
            "{address} is listed twice: their answers could not be told apart"
        );
    }
    let mut receiver = Receiver::new(&args.destinations)?;
    let mut probes = Vec::new();
    for first_hop in args.first_hop.open(router, &args.destinations)? {
        let mut identifier = std::process::id() as u16;
        if args.udp.is_some() {
            let socket = UdpSocket::bind((first_hop.source, 0))
                .with_context(|| format!("cannot receive answers at {}", first_hop.source))?;
            identifier = socket.local_addr()?.port();
            receiver = receiver.and_datagrams(socket)?;
        }
        let template = Template {
            source_port: identifier,
            ..template(&first_hop, args.ttl, args.dscp)
        };
        probes.push(Probe {
            first_hop,
            template,
            identifier,
        });
    }
    let mut ping = Ping {
        args,
        probes,
        tallies: HashMap::new(),
        packets: 0,
        octets: 0,
    };
    if !args.json {
        print(&format!(
            "ping {} destination{} by {}, {} octets of data\n",
            args.destinations.len(),
            if args.destinations.len() == 1 {
                ""
            } else {
                "s"
            },
            ping.interfaces().join(" and "),
            args.size,
        ))?;
    }
    let mut rounds = 0;
    let mut interrupted = false;
    while !interrupted && args.count.is_none_or(|count| rounds < u64::from(count)) {
        rounds += 1;
        ping.ask(rounds as u16)?;
        let last = args.count.is_some_and(|count| rounds == u64::from(count));
        let wait = if last { args.timeout } else { args.interval };
        interrupted = ping.listen(&receiver, Instant::now() + wait, last)?;
    }
    let summary = ping.summary(rounds);
    print_answer(args.json, &summary, render)?;
    let all = summary.destinations.iter().all(|line| line.received > 0);
    Ok(if all { Outcome::Done } else { Outcome::No })
}

impl Ping<'_> {
    /// Sends one round.
    fn ask(&mut self, sequence: u16) -> Result<()> {
        let mut packet = Vec::new();
        for probe in &self.probes {
            let ipv6 = probe.first_hop.source.is_ipv6();
            let destinations = self.args.destinations.iter().copied();
            let destinations: Vec<_> = destinations.filter(|to| to.is_ipv6() == ipv6).collect();
            let message = probe.message(self.args, sequence);
            for addresses in destinations.chunks(max_destinations(ipv6, 0)) {
                let entries = entries(addresses, self.args.udp.unwrap_or(0));
                match self.args.udp {
                    None => {
                        let protocol = icmp::protocol(probe.first_hop.source);
                        probe
                            .template
                            .emit_segment(&entries, protocol, &message, &mut packet)?;
                    }
                    Some(_) => probe.template.emit(&entries, &message, &mut packet)?,
                }
                // Before the packet leaves: the first answer may come before the call returns.
                let now = Instant::now();
                for &address in addresses {
                    self.tallies.entry(address).or_default().ask(sequence, now);
                }
                probe.first_hop.send(&packet)?;
                self.packets += 1;
                self.octets = packet.len();
            }
        }
        Ok(())
    }

    /// Names of the interfaces that packets leave by.
    fn interfaces(&self) -> Vec<&str> {
        let names = self
            .probes
            .iter()
            .map(|probe| probe.first_hop.interface.as_str());
        let mut names: Vec<_> = names.collect();
        names.dedup();
        names
    }

    /// Takes answers until the deadline, or with `until_all` until every request is answered. True if
    /// the user interrupted.
    fn listen(&mut self, receiver: &Receiver, deadline: Instant, until_all: bool) -> Result<bool> {
        while !(until_all && self.tallies.values().all(|tally| tally.open.is_empty())) {
            match receiver.wait(deadline)? {
                Event::Answer(answer, now) => self.take(answer, now)?,
                Event::Datagram(from, number, now) => {
                    let number = number.map(|number| number as u16);
                    self.settle(from, number, None, now)?;
                }
                Event::Timeout => break,
                Event::Interrupted => return Ok(true),
            }
        }
        Ok(false)
    }

    fn take(&mut self, answer: Answer, now: Instant) -> Result<()> {
        let (identifier, sequence) = match answer.about {
            About::Echo(echo) => (echo.identifier, Some(echo.sequence)),
            About::Udp(port) => (port, None),
        };
        let is_udp = matches!(answer.about, About::Udp(_));
        let mut probes = self.probes.iter();
        let ours = probes.any(|probe| {
            probe.identifier == identifier
                && probe.first_hop.source.is_ipv6() == answer.destination.is_ipv6()
        });
        if !ours || is_udp != self.args.udp.is_some() {
            return Ok(());
        }
        let fault = answer
            .fault
            .filter(|fault| !(is_udp && *fault == Fault::PORT && answer.from == answer.destination))
            .map(|fault| (answer.from, fault));
        self.settle(answer.destination, sequence, fault, now)
    }

    /// Counts an answer: a reply, or a fault and who reported it.
    fn settle(
        &mut self,
        destination: IpAddr,
        sequence: Option<u16>,
        fault: Option<(IpAddr, Fault)>,
        now: Instant,
    ) -> Result<()> {
        let Some(tally) = self.tallies.get_mut(&destination) else {
            return Ok(());
        };
        let sequence = sequence.unwrap_or_else(|| tally.latest());
        let what = match fault {
            Some((from, fault)) => tally.error(sequence, from, fault),
            None => match tally.reply(sequence, now) {
                Some(time) => format!("time={:.3} ms", time.as_secs_f64() * 1e3),
                None => "duplicate".to_owned(),
            },
        };
        if self.args.quiet || self.args.json {
            return Ok(());
        }
        print(&format!("{destination}: round={sequence} {what}\n")).context("cannot show an answer")
    }

    fn summary(&self, rounds: u64) -> Summary {
        let line = |address: &IpAddr| {
            let tally = self.tallies.get(address).cloned().unwrap_or_default();
            let lost = tally.sent.saturating_sub(tally.received);
            let percent = 100.0 * lost as f64 / tally.sent.max(1) as f64;
            Line {
                address: *address,
                sent: tally.sent,
                received: tally.received,
                duplicates: tally.duplicates,
                errors: tally.errors,
                loss_percent: (percent * 10.0).round() / 10.0,
                round_trip: tally.times.in_ms(),
                last_error: tally.last_error,
            }
        };
        Summary {
            rounds,
            packets: self.packets,
            octets: self.octets,
            ways: self.probes.iter().map(Probe::way).collect(),
            destinations: self.args.destinations.iter().map(line).collect(),
        }
    }
}

impl Probe {
    /// The request of a round.
    fn message(&self, args: &Args, sequence: u16) -> Vec<u8> {
        if args.udp.is_some() {
            // The round's number, which an echo service sends back.
            let mut payload = u32::from(sequence).to_be_bytes().to_vec();
            payload.resize(payload.len().max(args.size.into()), 0);
            return payload;
        }
        let echo = Echo {
            identifier: self.identifier,
            sequence,
        };
        let FirstHop {
            source,
            code_points,
            ..
        } = self.first_hop;
        icmp::request(echo, args.size.into(), source, code_points)
    }

    fn way(&self) -> Way {
        Way {
            source: self.first_hop.source,
            interface: self.first_hop.interface.clone(),
        }
    }
}
