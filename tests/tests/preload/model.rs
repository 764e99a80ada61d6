//! Random sequences of socket calls, with the library and without.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::packet::{Ip, Xcast, protocol};
use tests::tap::Tap;

use crate::hosts::{Program, UDP_PORT, exec, script};

const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

/// Two namespaces: a host, and a stand-in for its first router that only answers probes. What the host
/// sends is seen in the order in which it leaves, so that order can be compared.
struct Wire {
    host: Namespace,
    tap: Tap,
    /// Answers probes.
    router: UdpSocket,
    /// Takes what is sent to the router's port.
    _sink: UdpSocket,
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 2);
const PROBE_PORT: u16 = 9;

/// A datagram on its way: TTL, DS byte and content.
type Sent = (u8, u8, Vec<u8>);

/// Datagrams in order, by source, destination, and the actor that sent them.
type Streams = BTreeMap<(SocketAddr, SocketAddr, u8), Vec<Sent>>;

/// What a run of the model did.
#[derive(Debug, Default, PartialEq)]
struct Run {
    answers: Vec<String>,
    streams: Streams,
    /// Datagrams that shared a packet.
    shared: usize,
}

impl Wire {
    fn new() -> Result<Self> {
        let (host, router) = (Namespace::new("host")?, Namespace::new("router")?);
        host.ip(&format!(
            "link add name lan type veth peer name lan netns {}",
            router.name()
        ))?;
        host.ip_batch(&format!(
            "address add {HOST}/24 brd + dev lan\nlink set lan up\n"
        ))?;
        router.ip_batch(&format!(
            "address add {ROUTER}/24 dev lan\nlink set lan up\n"
        ))?;
        host.ip_batch(&format!(
            "route add default via {ROUTER}\nroute add unreachable 10.9.2.0/24\n"
        ))?;
        let bind = |port| router.enter(|| Ok(UdpSocket::bind((ROUTER, port))?));
        Ok(Self {
            tap: Tap::open_for_sent(&host, "lan")?,
            router: bind(PROBE_PORT)?,
            _sink: bind(UDP_PORT)?,
            host,
        })
    }

    /// Runs sequences of the model, with the library or without.
    fn run(&self, with: bool, first: u64, count: u64) -> Result<Run> {
        self.tap.drain()?;
        let mut command = match with {
            true => {
                let mut command = exec(&self.host, Some(ROUTER.into()));
                command.args(["--", "python3"]);
                command
            }
            false => self.host.command("python3"),
        };
        command.arg(script("model.py")).arg(HOST.to_string());
        command.args([first.to_string(), count.to_string()]);
        let mut program = Program::start(&mut command)?;
        let mut run = Run::default();
        // Until datagrams share packets, so that most of the sequences are about that.
        let deadline = Instant::now() + PATIENCE;
        while with && run.shared < 1000 {
            ensure!(Instant::now() < deadline, "nothing is shared");
            self.look(&mut run, Instant::now() + Duration::from_millis(20))?;
        }
        run = Run::default();
        program.say("go")?;
        let output = std::thread::scope(|scope| {
            let output = scope.spawn(|| program.end());
            while !output.is_finished() {
                self.look(&mut run, Instant::now() + Duration::from_millis(20))?;
            }
            output.join().expect("no panic")
        })?;
        // Everything that was sent has left by now.
        while self.look(&mut run, Instant::now())? {}
        run.answers = output.lines().map(str::to_owned).collect();
        run.answers.sort();
        Ok(run)
    }

    /// Takes in what was sent next; whether there was anything.
    fn look(&self, run: &mut Run, deadline: Instant) -> Result<bool> {
        let Some(frame) = self.tap.receive(deadline)? else {
            return Ok(false);
        };
        if frame.get(12..14) != Some(&[8, 0]) {
            return Ok(true);
        }
        let wrong = || format!("a frame of {} octets", frame.len());
        let (ip, segment) = Ip::parse(Family::Ipv4, &frame[ETHERNET_LEN..]).with_context(wrong)?;
        if ip.protocol != protocol::UDP {
            return Ok(true);
        }
        let (from, to, payload) = udp(&ip, segment).with_context(wrong)?;
        if to != SocketAddr::from((ROUTER, UDP_PORT)) {
            run.note(from, to, (ip.ttl, ip.ds, payload.to_vec()));
            return Ok(true);
        }
        let (ip, rest) = Ip::parse(Family::Ipv4, payload).with_context(wrong)?;
        let (list, segment) = Xcast::parse(Family::Ipv4, rest).with_context(wrong)?;
        let (from, common, payload) = udp(&ip, segment).with_context(wrong)?;
        for entry in &list.destinations {
            let port = if list.p { entry.port } else { common.port() };
            let to = SocketAddr::new(entry.address, port);
            if to == SocketAddr::from((ROUTER, PROBE_PORT)) {
                self.router.send_to(b"here", from)?;
                continue;
            }
            run.shared += 1;
            run.note(from, to, (ip.ttl, ip.ds, payload.to_vec()));
        }
        Ok(true)
    }
}

impl Run {
    fn note(&mut self, from: SocketAddr, to: SocketAddr, sent: Sent) {
        if sent.2 != b"warm" {
            let actor = sent.2.first().copied().unwrap_or_default();
            self.streams
                .entry((from, to, actor))
                .or_default()
                .push(sent);
        }
    }
}

fn udp<'a>(ip: &Ip, segment: &'a [u8]) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let port = |at: usize| {
        Some(u16::from_be_bytes([
            *segment.get(at)?,
            *segment.get(at + 1)?,
        ]))
    };
    let (from, to) = (port(0)?, port(2)?);
    let payload = segment.get(UDP_LEN..)?;
    Some((
        (ip.source, from).into(),
        (ip.destination, to).into(),
        payload,
    ))
}

/// Random sequences of socket calls, threads and forks, with the library and without: calls answer the
/// same, and every destination gets the same octets from the same source, in the same order, with the
/// same TTL and DS byte.
///
/// `XCAST_MODEL` is the number of sequences; 100000 are some minutes.
#[test]
fn programs_and_receivers_notice_nothing() {
    if !namespace::available() {
        return;
    }
    let sequences = std::env::var("XCAST_MODEL").ok();
    let sequences: u64 = sequences.map_or(1000, |number| number.parse().expect("a number"));
    let test = || {
        let wire = Wire::new()?;
        let mut shared = 0;
        let each = 5000;
        for first in (0..sequences).step_by(each as usize) {
            let count = each.min(sequences - first);
            let (without, with) = (
                wire.run(false, first, count)?,
                wire.run(true, first, count)?,
            );
            ensure!(without.shared == 0);
            shared += with.shared;
            compare(&without, &with).with_context(|| format!("sequences from {first}"))?;
        }
        // The comparison was about something.
        ensure!(
            shared as u64 > sequences,
            "{shared} datagrams shared packets"
        );
        println!("{sequences} sequences, {shared} datagrams shared packets");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

fn compare(without: &Run, with: &Run) -> Result<()> {
    for (without, with) in without.answers.iter().zip(&with.answers) {
        ensure!(without == with, "answered\n{with} instead of\n{without}");
    }
    ensure!(
        without.answers.len() == with.answers.len(),
        "answers are missing"
    );
    let shown = |sent: Option<&Sent>| match sent {
        None => "nothing".to_owned(),
        Some((ttl, ds, content)) => {
            let head = String::from_utf8_lossy(&content[..content.len().min(4)]).into_owned();
            format!("{} octets {head}, TTL {ttl}, DS {ds}", content.len())
        }
    };
    let others: HashMap<_, _> = with.streams.iter().collect();
    for (way, sent) in &without.streams {
        let other = others.get(way).map_or(&[][..], |other| &other[..]);
        for place in 0..sent.len().max(other.len()) {
            let (sent, other) = (sent.get(place), other.get(place));
            ensure!(
                sent == other,
                "{way:?}, datagram {place}: {} instead of {}",
                shown(other),
                shown(sent)
            );
        }
    }
    ensure!(
        without.streams.len() == with.streams.len(),
        "sent to others, too"
    );
    Ok(())
}
