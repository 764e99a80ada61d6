//! `xcast-ctl exec`: programs that know nothing of Xcast.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::bed::Bed;
use tests::daemon::{self, PATIENCE};
use tests::family::Family;
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace::{self, Namespace};
use tests::packet::{Ip, Xcast, protocol};
use tests::tap::Tap;
use xtask::testbed::{Link, Role, RouterConfig, Routing, Topology};

/// The UDP port of routers that take Xcast inside UDP.
const UDP_PORT: u16 = 4242;
const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/preload")
        .join(name)
}

/// `xcast-ctl exec` in a namespace, up to the program. It takes what it is told from its arguments
/// alone.
fn exec(namespace: &Namespace, udp: Option<IpAddr>) -> Command {
    let mut command = namespace.command(daemon::program());
    command.arg("exec");
    if let Some(router) = udp {
        let router = SocketAddr::new(router, UDP_PORT).to_string();
        let number = PROTOCOL.to_string();
        command.args(["--udp", &router, "--protocol", &number]);
        command.args(["--group", &GROUP.to_string(), "--group6", "ff02::114"]);
        command.args(["--routing-type", &number]);
        command.args(["--ports-option", &PORTS_OPTION.to_string()]);
    }
    command
}

/// A program with lines that go in and out.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a program")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it has no input any more")?;
        Ok(writeln!(input, "{line}")?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Closes its input, and returns what it still says.
    fn end(mut self) -> Result<String> {
        self.input = None;
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(text)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A and R1, R1 and R2, and many receivers behind R2.
struct Hosts {
    bed: Bed,
    family: Family,
    receivers: Vec<UdpSocket>,
    to: Vec<SocketAddr>,
}

const RECEIVERS: usize = 20;
const PORT: u16 = 7000;

impl Hosts {
    fn up(family: Family) -> Result<Self> {
        let names: Vec<_> = (1..=RECEIVERS).map(|n| format!("H{n}")).collect();
        let hosts = names.iter().map(|name| (name.clone(), Role::Host));
        let mut nodes: Vec<_> = [("A".to_owned(), Role::Host)].into_iter().chain(hosts).collect();
        nodes.extend(["R1", "R2"].map(|name| (name.to_owned(), Role::Router)));
        let mut links = vec![Link::new("A", "R1"), Link::new("R1", "R2")];
        links.extend(names.iter().map(|name| Link::new("R2", name)));
        let topology = Topology::new("fan", nodes, links)?;
        let mut bed = Bed::up(&topology, Routing::Static)?;
        bed.start_routers_with(&RouterConfig {
            udp: Some([("port".to_owned(), i64::from(UDP_PORT).into())].into_iter().collect()),
            ..RouterConfig::default()
        })?;
        let (mut receivers, mut to) = (Vec::new(), Vec::new());
        for name in &names {
            let node = bed.testbed.node(name)?;
            let address = of_family(family, node.address, node.address6)?;
            let socket = bed.namespace(name)?.enter(|| {
                let socket = UdpSocket::bind((address, PORT))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })?;
            to.push(socket.local_addr()?);
            receivers.push(socket);
        }
        Ok(Self {
            bed,
            family,
            receivers,
            to,
        })
    }

    fn address(&self, node: &str, peer: &str) -> Result<IpAddr> {
        let interface = self.bed.testbed.interface(node, peer)?;
        of_family(self.family, interface.address, interface.address6)
    }

    /// What is sent on a link.
    fn tap(&self, node: &str, peer: &str) -> Result<Tap> {
        let name = self.bed.testbed.interface(node, peer)?.name.clone();
        Tap::open_for_sent(&self.bed.namespace(node)?, &name)
    }

    /// Everyone's next message is this one.
    fn receive(&self, message: &str, from: SocketAddr) -> Result<()> {
        let mut buffer = [0; 2000];
        for receiver in &self.receivers {
            let (len, source) = receiver.recv_from(&mut buffer)?;
            let received = &buffer[..len];
            ensure!(received == message.as_bytes(), "received {received:?}");
            ensure!(source == from, "from {source} instead of {from}");
        }
        Ok(())
    }
}

fn of_family(family: Family, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<IpAddr> {
    let address = match family {
        Family::Ipv4 => ipv4.map(IpAddr::V4),
        Family::Ipv6 => ipv6.map(IpAddr::V6),
    };
    address.context("no address")
}

/// Frames that were sent and end with this message.
fn frames(tap: &Tap, message: &str) -> Result<usize> {
    let mut count = 0;
    while let Some(frame) = tap.take()? {
        count += usize::from(frame.ends_with(message.as_bytes()));
    }
    Ok(count)
}

/// A loop of sendto, one of sendmsg, and a single sendmmsg to 20 receivers put one packet on the first
/// link: from a host inside UDP, and from a router natively. Receivers get the same octets from the
/// program's own address and port. Without the router everyone is served one by one.
#[track_caller]
fn one_packet_instead_of_20(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let mut hosts = Hosts::up(family)?;
        let ways = [("A", "R1", true), ("R1", "R2", false)];
        for (node, peer, in_udp) in ways {
            let (own, router) = (hosts.address(node, peer)?, hosts.address("R1", "A")?);
            let tap = hosts.tap(node, peer)?;
            for how in ["loop", "sendmsg", "sendmmsg"] {
                let context = || format!("{how} on {node}");
                let namespace = hosts.bed.namespace(node)?;
                let mut command = exec(&namespace, in_udp.then_some(router));
                command.args(["--", "python3"]).arg(script("fan.py"));
                command.args([how, &own.to_string(), &PORT.to_string()]);
                command.args(hosts.to.iter().map(|to| to.ip().to_string()));
                let mut program = Program::start(&mut command)?;
                let port: u16 = program.line()?.parse().with_context(context)?;
                let mut number = 0;
                let mut send = |program: &mut Program| -> Result<usize> {
                    number += 1;
                    let message = format!("{how} message {number:05} of {node}");
                    program.say(&message)?;
                    hosts.receive(&message, (own, port).into())?;
                    frames(&tap, &message)
                };
                // Unicast until the router has answered and everyone is known.
                let deadline = Instant::now() + PATIENCE;
                ensure!(send(&mut program)? == RECEIVERS, "{}: the first", context());
                while send(&mut program)? != 1 {
                    ensure!(Instant::now() < deadline, "{}: never shared", context());
                    std::thread::sleep(Duration::from_millis(10));
                }
                for _ in 0..20 {
                    let count = send(&mut program)?;
                    ensure!(count == 1, "{}: {count} packets", context());
                }
                program.end().with_context(context)?;
            }
        }
        // Nobody there: the same program, one by one.
        hosts.bed.testbed.stop_router("R1", nix::sys::signal::Signal::SIGTERM)?;
        let namespace = hosts.bed.namespace("A")?;
        let (own, router) = (hosts.address("A", "R1")?, hosts.address("R1", "A")?);
        let mut command = exec(&namespace, Some(router));
        command.args(["--", "python3"]).arg(script("fan.py"));
        command.args(["loop", &own.to_string(), &PORT.to_string()]);
        command.args(hosts.to.iter().map(|to| to.ip().to_string()));
        let mut program = Program::start(&mut command)?;
        let port: u16 = program.line()?.parse()?;
        let tap = hosts.tap("A", "R1")?;
        for number in 0..5 {
            let message = format!("unicast {number}");
            program.say(&message)?;
            hosts.receive(&message, (own, port).into())?;
            ensure!(frames(&tap, &message)? == RECEIVERS, "not one by one");
        }
        program.end()?;
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn one_packet_instead_of_20_ipv4() {
    one_packet_instead_of_20(Family::Ipv4);
}

#[test]
fn one_packet_instead_of_20_ipv6() {
    one_packet_instead_of_20(Family::Ipv6);
}

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
        host.ip(&format!("link add name lan type veth peer name lan netns {}", router.name()))?;
        host.ip_batch(&format!(
            "address add {HOST}/24 brd + dev lan\nlink set lan up\n"
        ))?;
        router.ip_batch(&format!("address add {ROUTER}/24 dev lan\nlink set lan up\n"))?;
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
            self.streams.entry((from, to, actor)).or_default().push(sent);
        }
    }
}

fn udp<'a>(ip: &Ip, segment: &'a [u8]) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let (from, to) = (port(0)?, port(2)?);
    let payload = segment.get(UDP_LEN..)?;
    Some(((ip.source, from).into(), (ip.destination, to).into(), payload))
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
            let (without, with) = (wire.run(false, first, count)?, wire.run(true, first, count)?);
            ensure!(without.shared == 0);
            shared += with.shared;
            compare(&without, &with).with_context(|| format!("sequences from {first}"))?;
        }
        // The comparison was about something.
        ensure!(shared as u64 > sequences, "{shared} datagrams shared packets");
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
    ensure!(without.answers.len() == with.answers.len(), "answers are missing");
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
    ensure!(without.streams.len() == with.streams.len(), "sent to others, too");
    Ok(())
}

/// The program's own exit status and standard streams, and what it is told where nothing can be done.
#[test]
fn the_program_is_what_runs() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let host = Namespace::new("exec")?;
        let run = |program: &[&str]| -> Result<_> {
            let mut command = exec(&host, Some(ROUTER.into()));
            Ok(command.arg("--").args(program).output()?)
        };
        let output = run(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        ensure!(output.status.code() == Some(7), "{output:?}");
        ensure!(output.stdout == b"out\n" && output.stderr == b"err\n", "{output:?}");
        let output = run(&["no-such-program"])?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(stderr.contains("no-such-program") && stderr.lines().count() == 1, "{stderr}");
        // Without a router here or on the network there is nothing to do.
        let output = exec(&host, None).args(["--", "true"]).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && stderr.contains("--protocol"), "{stderr}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}
