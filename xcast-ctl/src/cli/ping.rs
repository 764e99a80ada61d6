//! `xcast-ctl ping`.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use xcast_host::packet::{Entry, Template, max_destinations};

use super::{
    Outcome,
    icmp::{self, About, Answer, Echo, Event, Fault, Receiver},
    origin::{Origin, OriginArgs},
    print, print_json,
    table::{Align, Table},
};

/// Ask many destinations with one packet whether they are there
///
/// Each round is one ICMP echo request with all destinations in its list, or one UDP datagram with
/// --udp. Routers make copies of it, and each destination gets an ordinary echo request and answers as
/// to ping(8). Shows the
/// round-trip time of each answer and, in the end, what each destination lost. Needs root, or
/// CAP_NET_RAW.
///
/// A list with addresses of IPv4 and of IPv6 leaves as one packet of each. Packets leave this host like those of send.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl ping -c 5 10.77.3.2 10.77.7.2 10.77.8.2
  xcast-ctl ping --udp 7 10.77.3.2 10.77.7.2

EXIT STATUS
  0  every destination answered
  1  at least one did not answer at all
  2  error")]
pub(super) struct Args {
    /// Destinations
    #[arg(value_name = "ADDRESS", required = true)]
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

    /// Octets of data in each request
    #[arg(short, long, value_name = "OCTETS", default_value_t = 56)]
    size: u16,

    /// Send UDP datagrams to this port instead
    ///
    /// An echo service's answer counts, and so does that nobody has the port: either way the datagram
    /// arrived. For hosts that are asked not to answer ICMP echo requests.
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    udp: Option<u16>,

    /// DSCP, 0 to 63
    #[arg(long, value_name = "N", default_value_t = 0)]
    dscp: u8,

    /// Time to live
    #[arg(long, value_name = "N", default_value_t = 64)]
    ttl: u8,

    /// Only show the summary
    #[arg(short, long)]
    quiet: bool,

    /// Show the summary as one JSON document, and nothing else
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    origin: OriginArgs,
}

/// A time in seconds with a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// What became of the requests to one destination.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    sent: u64,
    received: u64,
    duplicates: u64,
    /// Answers that say why a request did not arrive.
    errors: u64,
    /// What the last of them said, and who.
    last_error: Option<String>,
    /// When the requests left that were not answered yet.
    open: HashMap<u16, Instant>,
    times: Times,
}

/// Round-trip times so far, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    count: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Times {
    fn add(&mut self, seconds: f64) {
        self.min = if self.count == 0.0 {
            seconds
        } else {
            self.min.min(seconds)
        };
        self.max = self.max.max(seconds);
        self.count += 1.0;
        self.sum += seconds;
        self.squares += seconds * seconds;
    }

    /// Least, mean, greatest, and standard deviation, in milliseconds.
    fn in_ms(&self) -> Option<RoundTrip> {
        let mean = self.sum / self.count;
        let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        (self.count > 0.0).then(|| RoundTrip {
            min_ms: ms(self.min),
            avg_ms: ms(mean),
            max_ms: ms(self.max),
            mdev_ms: ms((self.squares / self.count - mean * mean).max(0.0).sqrt()),
        })
    }
}

impl Tally {
    fn ask(&mut self, sequence: u16, now: Instant) {
        self.sent += 1;
        self.open.insert(sequence, now);
    }

    /// The round-trip time of a reply; `None` if this request was answered before.
    fn reply(&mut self, sequence: u16, now: Instant) -> Option<Duration> {
        let Some(since) = self.open.remove(&sequence) else {
            self.duplicates += 1;
            return None;
        };
        let time = now.saturating_duration_since(since);
        self.received += 1;
        self.times.add(time.as_secs_f64());
        Some(time)
    }

    /// The request that an answer without a number is about: the last one that is open.
    fn latest(&self) -> u16 {
        let latest = self.open.iter().max_by_key(|(_, since)| **since);
        latest.map_or(0, |(sequence, _)| *sequence)
    }

    fn error(&mut self, sequence: u16, from: IpAddr, fault: Fault) -> String {
        self.open.remove(&sequence);
        self.errors += 1;
        let text = format!("{} (from {from})", describe(fault));
        self.last_error = Some(text.clone());
        text
    }
}

/// What an ICMP error says.
fn describe(fault: Fault) -> String {
    match fault {
        Fault::TimeExceeded => "time to live exceeded".to_owned(),
        Fault::Unreachable(0) => "network unreachable".to_owned(),
        Fault::Unreachable(1) => "host unreachable".to_owned(),
        Fault::Unreachable(4) => "too long for a link on the way".to_owned(),
        Fault::Unreachable(9 | 10 | 13) => "administratively prohibited".to_owned(),
        Fault::Unreachable(code) => format!("unreachable, code {code}"),
    }
}

/// The document of `xcast-ctl ping --json`.
#[derive(Debug, Serialize)]
struct Summary {
    /// Rounds.
    rounds: u64,
    /// Packets sent; more than rounds where the list does not fit one.
    packets: u64,
    /// Octets of the last packet, from its IP header on.
    octets: usize,
    /// The ways that packets left: one for each family in the list.
    ways: Vec<Way>,
    /// The destinations, as given.
    destinations: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Way {
    /// IP source.
    source: IpAddr,
    /// Interface the packets left by.
    interface: String,
}

#[derive(Debug, Serialize)]
struct Line {
    address: IpAddr,
    sent: u64,
    received: u64,
    duplicates: u64,
    errors: u64,
    loss_percent: f64,
    #[serde(flatten)]
    round_trip: Option<RoundTrip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct RoundTrip {
    min_ms: f64,
    avg_ms: f64,
    max_ms: f64,
    mdev_ms: f64,
}

/// The state of a run.
struct Ping<'a> {
    args: &'a Args,
    /// One for each family in the list.
    exits: Vec<Exit>,
    tallies: HashMap<IpAddr, Tally>,
    packets: u64,
    octets: usize,
}

/// What the packets of one family have in common.
struct Exit {
    origin: Origin,
    template: Template,
    /// Identifier of echo requests, source port of datagrams.
    identifier: u16,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    for (at, address) in args.destinations.iter().enumerate() {
        ensure!(
            !args.destinations[..at].contains(address),
            "{address} is in the list twice: one answer could not be told from the other"
        );
    }
    let mut receiver = Receiver::new(&args.destinations)?;
    let mut exits = Vec::new();
    for origin in args.origin.open(router, &args.destinations)? {
        let mut identifier = std::process::id() as u16;
        if args.udp.is_some() {
            let socket = UdpSocket::bind((origin.source, 0))
                .with_context(|| format!("cannot receive answers at {}", origin.source))?;
            identifier = socket.local_addr()?.port();
            receiver = receiver.and_datagrams(socket)?;
        }
        let template = Template {
            source_port: identifier,
            ..template(&origin, args.ttl, args.dscp)
        };
        exits.push(Exit {
            origin,
            template,
            identifier,
        });
    }
    let mut ping = Ping {
        args,
        exits,
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
    if args.json {
        print_json(&summary)?;
    } else {
        print(&render(&summary))?;
    }
    let all = summary.destinations.iter().all(|line| line.received > 0);
    Ok(if all { Outcome::Done } else { Outcome::No })
}

/// What echo requests have in common.
pub(super) fn template(origin: &Origin, ttl: u8, dscp: u8) -> Template {
    Template {
        code_points: origin.code_points,
        source: origin.source,
        to: origin.to,
        ttl,
        dscp,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 0,
        port_list: false,
    }
}

/// Entries of a list of which only addresses matter.
pub(super) fn entries(addresses: &[IpAddr], port: u16) -> Vec<Entry> {
    let entry = |&address: &IpAddr| Entry {
        address,
        port,
        dscp: None,
    };
    addresses.iter().map(entry).collect()
}

impl Ping<'_> {
    /// Sends one round.
    fn ask(&mut self, sequence: u16) -> Result<()> {
        let mut packet = Vec::new();
        for exit in &self.exits {
            let ipv6 = exit.origin.source.is_ipv6();
            let destinations = self.args.destinations.iter().copied();
            let destinations: Vec<_> = destinations.filter(|to| to.is_ipv6() == ipv6).collect();
            let message = exit.message(self.args, sequence);
            for addresses in destinations.chunks(max_destinations(ipv6, 0)) {
                let entries = entries(addresses, self.args.udp.unwrap_or(0));
                match self.args.udp {
                    None => {
                        let protocol = icmp::protocol(exit.origin.source);
                        exit.template
                            .emit_segment(&entries, protocol, &message, &mut packet)?;
                    }
                    Some(_) => exit.template.emit(&entries, &message, &mut packet)?,
                }
                // Before the packet leaves: the first answer may come before the call returns.
                let now = Instant::now();
                for &address in addresses {
                    self.tallies.entry(address).or_default().ask(sequence, now);
                }
                exit.origin.send(&packet)?;
                self.packets += 1;
                self.octets = packet.len();
            }
        }
        Ok(())
    }

    /// Names of the interfaces that packets leave by.
    fn interfaces(&self) -> Vec<&str> {
        let names = self.exits.iter().map(|exit| exit.origin.interface.as_str());
        let mut names: Vec<_> = names.collect();
        names.dedup();
        names
    }

    /// Takes answers until the time is over, or all are there and `no_longer` is set. Whether the
    /// user interrupted.
    fn listen(&mut self, receiver: &Receiver, deadline: Instant, no_longer: bool) -> Result<bool> {
        while !(no_longer && self.tallies.values().all(|tally| tally.open.is_empty())) {
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
        let mut exits = self.exits.iter();
        let ours = exits.any(|exit| {
            exit.identifier == identifier
                && exit.origin.source.is_ipv6() == answer.destination.is_ipv6()
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

    /// Takes note of an answer: a reply, or a fault that somebody told of.
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
            ways: self.exits.iter().map(Exit::way).collect(),
            destinations: self.args.destinations.iter().map(line).collect(),
        }
    }
}

impl Exit {
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
        let Origin {
            source,
            code_points,
            ..
        } = self.origin;
        icmp::request(echo, args.size.into(), source, code_points)
    }

    fn way(&self) -> Way {
        Way {
            source: self.origin.source,
            interface: self.origin.interface.clone(),
        }
    }
}

fn render(summary: &Summary) -> String {
    let mut text = format!(
        "\n{} packet{} of {} octets in {} round{}\n",
        summary.packets,
        if summary.packets == 1 { "" } else { "s" },
        summary.octets,
        summary.rounds,
        if summary.rounds == 1 { "" } else { "s" },
    );
    let mut table = Table::new([
        ("destination", Align::Left),
        ("sent", Align::Right),
        ("received", Align::Right),
        ("loss", Align::Right),
        ("min ms", Align::Right),
        ("avg", Align::Right),
        ("max", Align::Right),
        ("mdev", Align::Right),
        ("", Align::Left),
    ]);
    for line in &summary.destinations {
        let ms = |value: fn(RoundTrip) -> f64| {
            line.round_trip
                .map_or_else(|| "-".to_owned(), |times| format!("{:.3}", value(times)))
        };
        let mut remark = Vec::new();
        if line.duplicates > 0 {
            remark.push(format!("{} duplicates", line.duplicates));
        }
        remark.extend(line.last_error.clone());
        table.row([
            line.address.to_string(),
            line.sent.to_string(),
            line.received.to_string(),
            format!("{}%", line.loss_percent),
            ms(|times| times.min_ms),
            ms(|times| times.avg_ms),
            ms(|times| times.max_ms),
            ms(|times| times.mdev_ms),
            remark.join(", "),
        ]);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{table}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_duplicates_and_errors() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let mut tally = Tally::default();
        for sequence in 1..=4 {
            tally.ask(sequence, start);
        }
        assert_eq!(tally.reply(1, later(2)), Some(Duration::from_millis(2)));
        assert_eq!(tally.reply(2, later(4)), Some(Duration::from_millis(4)));
        assert_eq!(tally.reply(2, later(5)), None);
        let router = IpAddr::from([10, 0, 0, 1]);
        let text = tally.error(3, router, Fault::Unreachable(1));
        assert_eq!(text, "host unreachable (from 10.0.0.1)");
        assert_eq!(
            (tally.sent, tally.received, tally.duplicates, tally.errors),
            (4, 2, 1, 1)
        );
        assert_eq!(tally.open.len(), 1);
        let times = tally.times.in_ms().unwrap();
        assert_eq!((times.min_ms, times.avg_ms, times.max_ms), (2.0, 3.0, 4.0));
        assert_eq!(times.mdev_ms, 1.0);
        assert_eq!(Times::default().in_ms(), None);
    }

    #[test]
    fn times_with_a_fraction() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        assert!(seconds("-1").is_err() && seconds("soon").is_err());
    }
}
