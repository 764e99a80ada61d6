//! Routers that go away while a stream is sent through them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tests::daemon::{self, PATIENCE};
use tests::family::Family;
use tests::namespace;
use tests::tap::Tap;

use crate::hosts::{Hosts, PORT, Program, exec, script};

/// Messages before and after the router goes.
const MESSAGES: usize = 200;

/// A stream to 20 receivers in numbered messages.
struct Stream {
    receivers: Vec<UdpSocket>,
    program: Program,
    /// What leaves as Xcast packets, or would.
    tap: Tap,
    /// How often each number has arrived, for each receiver.
    arrived: Vec<BTreeMap<usize, usize>>,
}

impl Stream {
    /// Starts on a node, by a router inside UDP or by the one on the node.
    fn start(hosts: &Hosts, node: &str, udp: Option<IpAddr>) -> Result<Self> {
        let namespace = hosts.bed.namespace(node)?;
        let (peer, link) = match udp {
            Some(_) => ("R1", hosts.bed.testbed.interface(node, "R1")?.name.clone()),
            None => ("R2", "xcast0".to_owned()),
        };
        let tap = Tap::open_for_sent(&namespace, &link)?;
        let mut command: Command = exec(&namespace, udp);
        command.args(["--", "python3"]).arg(script("stream.py"));
        command.args([&hosts.address(node, peer)?.to_string(), &PORT.to_string()]);
        command.arg("0.001");
        command.args(hosts.to.iter().map(|to| to.ip().to_string()));
        let program = Program::start(&mut command)?;
        let receivers = hosts.receivers.iter().map(UdpSocket::try_clone);
        let mut stream = Self {
            receivers: receivers.collect::<io::Result<_>>()?,
            program,
            tap,
            arrived: vec![BTreeMap::new(); hosts.receivers.len()],
        };
        // Until messages share packets, and for a while then.
        let deadline = Instant::now() + PATIENCE;
        let mut shared = 0;
        while shared < MESSAGES {
            ensure!(Instant::now() < deadline, "nothing is shared");
            let Some(frame) = stream.tap.receive(deadline)? else {
                continue;
            };
            // A list of 20 makes a packet longer than a datagram.
            shared += usize::from(number(&frame).is_some() && frame.len() > 220);
            stream.take_in()?;
        }
        Ok(stream)
    }

    /// Takes in what has arrived.
    fn take_in(&mut self) -> Result<()> {
        let mut buffer = [0; 2000];
        for (receiver, arrived) in self.receivers.iter().zip(&mut self.arrived) {
            receiver.set_nonblocking(true)?;
            while let Ok(len) = receiver.recv(&mut buffer) {
                let number = number(&buffer[..len]).context("not of the stream")?;
                *arrived.entry(number).or_default() += 1;
            }
        }
        Ok(())
    }

    fn latest(&self) -> usize {
        let latest = self
            .arrived
            .iter()
            .filter_map(|arrived| arrived.keys().last());
        latest.max().copied().unwrap_or_default()
    }

    /// Goes on for a while, and ends. Returns the numbers that did not arrive everywhere.
    ///
    /// # Errors
    ///
    /// A message arrived twice somewhere, or messages after the event did not go on.
    fn end(mut self) -> Result<Vec<usize>> {
        let deadline = Instant::now() + PATIENCE;
        let enough = self.latest() + MESSAGES;
        while self.latest() < enough {
            ensure!(Instant::now() < deadline, "the stream does not go on");
            self.take_in()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        let Self {
            receivers,
            program,
            mut arrived,
            ..
        } = self;
        let count: usize = program.end()?.trim().parse()?;
        // What was sent last was sent by unicast, in order: nothing comes after it.
        for (receiver, arrived) in receivers.iter().zip(&mut arrived) {
            receiver.set_nonblocking(false)?;
            let mut buffer = [0; 2000];
            while !arrived.contains_key(&(count - 1)) {
                let len = receiver.recv(&mut buffer).context("the last message")?;
                let number = number(&buffer[..len]).context("not of the stream")?;
                *arrived.entry(number).or_default() += 1;
            }
        }
        let twice = arrived.iter().flatten().filter(|(_, times)| **times > 1);
        let twice: Vec<_> = twice.map(|(number, _)| *number).collect();
        ensure!(twice.is_empty(), "arrived twice: {twice:?}");
        let is_missing = |number: &usize| arrived.iter().any(|it| !it.contains_key(number));
        Ok((0..count).filter(is_missing).collect())
    }
}

/// The number of a message, wherever it ends the octets.
fn number(octets: &[u8]) -> Option<usize> {
    let text = octets.get(octets.len().checked_sub(117)?..)?;
    let text = text.strip_prefix(b"stream ")?.get(..10)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[track_caller]
fn streams_survive_the_router(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let mut hosts = Hosts::up(family)?;
        for receiver in &hosts.receivers {
            setsockopt(receiver, RcvBufForce, &(8 << 20))?;
        }
        let near = hosts.address("R1", "A")?;
        let far = hosts.address("R2", "R1")?;
        let end = |what: &str, stream: Stream| -> Result<Vec<usize>> {
            let missing = stream.end().with_context(|| what.to_owned())?;
            println!("{family:?}, {what}: missing {missing:?}");
            Ok(missing)
        };

        // The sender loses its route to the router, though not to receivers.
        let namespace = hosts.bed.namespace("A")?;
        let stream = Stream::start(&hosts, "A", Some(far))?;
        namespace.ip(&format!("route add unreachable {far}"))?;
        ensure!(end("no route", stream)?.is_empty());
        namespace.ip(&format!("route del unreachable {far}"))?;

        // Somebody on the way loses it, and says so by ICMP.
        let namespace = hosts.bed.namespace("R1")?;
        let stream = Stream::start(&hosts, "A", Some(far))?;
        namespace.ip(&format!("route add unreachable {far}"))?;
        ensure!(end("no route on the way", stream)?.is_empty());
        namespace.ip(&format!("route del unreachable {far}"))?;

        // The router ends: its host's kernel refuses what it does not take any more.
        let stream = Stream::start(&hosts, "A", Some(near))?;
        hosts.bed.testbed.stop_router("R1", Signal::SIGTERM)?;
        in_flight(&end("ended", stream)?)?;
        hosts.start_router("R1")?;

        // The same at a sender on its host.
        let stream = Stream::start(&hosts, "R1", None)?;
        hosts.bed.testbed.stop_router("R1", Signal::SIGTERM)?;
        in_flight(&end("ended here", stream)?)?;
        hosts.start_router("R1")?;

        // The router is killed, which nobody notices, until what it left is removed.
        let stream = Stream::start(&hosts, "R1", None)?;
        hosts.bed.testbed.stop_router("R1", Signal::SIGKILL)?;
        daemon::ctl(&hosts.bed.namespace("R1")?, &["unload"])?;
        in_flight(&end("killed and removed", stream)?)?;
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

/// What was in the router when it ended is lost, and nothing else: a few messages in a row.
fn in_flight(missing: &[usize]) -> Result<()> {
    let in_a_row = missing.windows(2).all(|pair| pair[1] == pair[0] + 1);
    ensure!(missing.len() <= 20 && in_a_row, "missing {missing:?}");
    Ok(())
}

#[test]
fn streams_survive_the_router_ipv4() {
    streams_survive_the_router(Family::Ipv4);
}

#[test]
fn streams_survive_the_router_ipv6() {
    streams_survive_the_router(Family::Ipv6);
}

/// A router that falls silent, so that nobody says that it is gone: what is sent within 3 seconds of its
/// latest answer is lost, at most a message each millisecond.
#[track_caller]
fn a_silent_router(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let hosts = Hosts::up(family)?;
        let far = hosts.address("R2", "R1")?;
        let namespace = hosts.bed.namespace("R1")?;
        let stream = Stream::start(&hosts, "A", Some(far))?;
        namespace.ip(&format!("route add blackhole {far}"))?;
        let missing = stream.end()?;
        let in_a_row = missing.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let count = missing.len();
        ensure!(in_a_row && count > 0, "missing {missing:?}");
        ensure!(count <= 3000, "{count} messages are missing");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn a_silent_router_ipv4() {
    a_silent_router(Family::Ipv4);
}

#[test]
fn a_silent_router_ipv6() {
    a_silent_router(Family::Ipv6);
}
