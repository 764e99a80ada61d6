//! A testbed with many receivers, and programs that run in it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::bed::Bed;
use tests::daemon::{self, PATIENCE};
use tests::family::Family;
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace::Namespace;
use tests::tap::Tap;
use xtask::testbed::topology::Link;
use xtask::testbed::{Ipv6Plan, Role, RouterConfig, Routing, Topology};

/// The UDP port of routers that take Xcast inside UDP.
pub const UDP_PORT: u16 = 4242;

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/preload")
        .join(name)
}

/// `xcast-ctl exec` in a namespace, up to the program. It takes what it is told from its arguments
/// alone.
pub fn exec(namespace: &Namespace, udp: Option<IpAddr>) -> Command {
    let mut command = namespace.command(daemon::program());
    command.arg("exec");
    if let Some(router) = udp {
        let router = SocketAddr::new(router, UDP_PORT).to_string();
        command.args(["--udp", &router]);
        name_code_points(&mut command);
    }
    command
}

/// The same by the interface of a router on the host that cannot be asked for its code points.
pub fn exec_here(namespace: &Namespace) -> Command {
    let mut command = exec(namespace, None);
    name_code_points(&mut command);
    command
}

fn name_code_points(command: &mut Command) {
    let number = PROTOCOL.to_string();
    command.args(["--protocol", &number, "--group", &GROUP.to_string()]);
    command.args(["--group6", "ff02::114", "--routing-type", &number]);
    command.args(["--ports-option", &PORTS_OPTION.to_string()]);
}

/// How what a program sends becomes Xcast packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The program is on A, and its packets go inside UDP to R1.
    InUdp,
    /// The program is on R1, and its packets go into the router's own interface.
    Natively,
}

impl Way {
    /// Where the program is, and the other end of its first link.
    pub fn link(self) -> (&'static str, &'static str) {
        match self {
            Self::InUdp => ("A", "R1"),
            Self::Natively => ("R1", "R2"),
        }
    }
}

/// A program with lines that go in and out.
pub struct Program {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(command: &mut Command) -> Result<Self> {
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

    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it has no input any more")?;
        Ok(writeln!(input, "{line}")?)
    }

    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Closes its input, and returns what it still says.
    pub fn end(mut self) -> Result<String> {
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
pub struct Hosts {
    pub bed: Bed,
    pub family: Family,
    pub receivers: Vec<UdpSocket>,
    pub to: Vec<SocketAddr>,
}

pub const RECEIVERS: usize = 20;
pub const PORT: u16 = 7000;

/// Routers that take Xcast inside UDP.
fn config() -> RouterConfig {
    let port = ("port".to_owned(), i64::from(UDP_PORT).into());
    RouterConfig {
        udp: Some([port].into_iter().collect()),
        ..RouterConfig::default()
    }
}

impl Hosts {
    pub fn up(family: Family) -> Result<Self> {
        Self::with(family, RECEIVERS)
    }

    /// With so many receivers, H1 and so on.
    pub fn with(family: Family, receivers: usize) -> Result<Self> {
        let names: Vec<_> = (1..=receivers).map(|n| format!("H{n}")).collect();
        let hosts = names.iter().map(|name| (name.clone(), Role::Host));
        let mut nodes: Vec<_> = [("A".to_owned(), Role::Host)]
            .into_iter()
            .chain(hosts)
            .collect();
        nodes.extend(["R1", "R2"].map(|name| (name.to_owned(), Role::Router)));
        let mut links = vec![Link::new("A", "R1"), Link::new("R1", "R2")];
        links.extend(names.iter().map(|name| Link::new("R2", name)));
        let topology = Topology::new("fan", nodes, links)?;
        // By IPv6 receivers are in networks of their own, with the same number in each; and their
        // addresses are global, as Transmission wants them.
        let ipv6 = Ipv6Plan::own_networks(Ipv4Addr::new(198, 18, 0, 0));
        let mut bed = Bed::up_with(&topology, Routing::Static, ipv6)?;
        bed.start_routers_with(&config())?;
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

    /// Starts the router of a node again.
    pub fn start_router(&mut self, node: &str) -> Result<()> {
        let testbed = &mut self.bed.testbed;
        testbed.start_router(node, daemon::program(), &config())
    }

    pub fn address(&self, node: &str, peer: &str) -> Result<IpAddr> {
        let interface = self.bed.testbed.interface(node, peer)?;
        of_family(self.family, interface.address, interface.address6)
    }

    /// The namespace of a program.
    pub fn namespace(&self, way: Way) -> Result<Namespace> {
        self.bed.namespace(way.link().0)
    }

    /// The address of a program.
    pub fn own(&self, way: Way) -> Result<IpAddr> {
        let (node, peer) = way.link();
        self.address(node, peer)
    }

    /// The router that takes a program's packets inside UDP.
    pub fn router(&self, way: Way) -> Result<Option<IpAddr>> {
        match way {
            Way::InUdp => self.address("R1", "A").map(Some),
            Way::Natively => Ok(None),
        }
    }

    /// `xcast-ctl exec`, up to the program.
    pub fn exec(&self, way: Way) -> Result<Command> {
        Ok(exec(&self.namespace(way)?, self.router(way)?))
    }

    /// A program, under `exec` or not.
    pub fn command(&self, way: Way, with: bool, program: &str) -> Result<Command> {
        if !with {
            return Ok(self.namespace(way)?.command(program));
        }
        let mut command = self.exec(way)?;
        command.args(["--", program]);
        Ok(command)
    }

    /// What a program's host sends. What a router sends by XDP is seen nowhere else on its host than
    /// where it went in.
    pub fn taps(&self, way: Way) -> Result<Vec<Tap>> {
        let (node, peer) = way.link();
        let mut taps = vec![self.tap(node, peer)?];
        if way == Way::Natively {
            taps.push(Tap::open_for_sent(&self.namespace(way)?, "xcast0")?);
        }
        Ok(taps)
    }

    /// How many packets have left by a program's first link, as its interface counts them.
    pub fn packets(&self, way: Way) -> Result<u64> {
        let (node, peer) = way.link();
        let link = &self.bed.testbed.interface(node, peer)?.name;
        let path = format!("/sys/class/net/{link}/statistics/tx_packets");
        let count = self.namespace(way)?.run(&format!("cat {path}"))?;
        Ok(count.trim().parse()?)
    }

    /// What is sent on a link.
    pub fn tap(&self, node: &str, peer: &str) -> Result<Tap> {
        let name = self.bed.testbed.interface(node, peer)?.name.clone();
        Tap::open_for_sent(&self.bed.namespace(node)?, &name)
    }

    /// Everyone's next message is this one.
    pub fn receive(&self, message: &str, from: SocketAddr) -> Result<()> {
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

pub fn of_family(family: Family, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<IpAddr> {
    let address = match family {
        Family::Ipv4 => ipv4.map(IpAddr::V4),
        Family::Ipv6 => ipv6.map(IpAddr::V6),
    };
    address.context("no address")
}

/// Frames that were sent and end with this message.
pub fn frames(tap: &Tap, message: &str) -> Result<usize> {
    let mut count = 0;
    while let Some(frame) = tap.take()? {
        count += usize::from(frame.ends_with(message.as_bytes()));
    }
    Ok(count)
}

/// Programs that do not outlive the test.
#[derive(Default)]
pub struct Running(pub Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Does a test inside UDP and natively.
#[track_caller]
pub fn both_ways(family: Family, test: impl Fn(Way) -> Result<()>) {
    for way in [Way::InUdp, Way::Natively] {
        if let Err(error) = test(way) {
            panic!("{family:?}, {way:?}: {error:#}");
        }
    }
}
