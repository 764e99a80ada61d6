//! A host whose every frame is seen in the order in which it leaves, and a stand-in for its first
//! router.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::layout::PROTOCOL;
use tests::namespace::Namespace;
use tests::packet::{Ip, Xcast, protocol};
use tests::tap::Tap;

use crate::hosts::{Program, UDP_PORT, exec, exec_here};

const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;
const PROBE_PORT: u16 = 9;
/// What probes say.
const PROBE: &[u8] = b"xcast probe";
/// The host's only interface: its link, and natively the router's own interface as well. So the order
/// of Xcast packets and datagrams is seen.
pub const INTERFACE: &str = "xcast0";

/// Two namespaces: a host, and a stand-in for its first router that only answers probes.
pub struct Wire {
    pub family: Family,
    pub native: bool,
    host: Namespace,
    _router: Namespace,
    tap: Tap,
    /// Answers probes.
    answers: UdpSocket,
    /// Takes what is sent to the router's port.
    _sink: UdpSocket,
}

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub ttl: u8,
    pub ds: u8,
    pub content: Vec<u8>,
}

/// Datagrams in order, by source, destination, and the actor that sent them.
pub type Streams = BTreeMap<(SocketAddr, SocketAddr, u8), Vec<Sent>>;

/// What a program did.
#[derive(Debug, Default, PartialEq)]
pub struct Run {
    pub answers: Vec<String>,
    pub streams: Streams,
    /// Datagrams that shared a packet, by the first octets of their content.
    pub shared: BTreeMap<Vec<u8>, usize>,
    /// The destinations of those.
    pub shared_to: BTreeSet<SocketAddr>,
    /// How often the router was asked whether it is there.
    pub probes: usize,
}

impl Wire {
    pub fn new(family: Family, native: bool) -> Result<Self> {
        let (host, router) = (Namespace::new("host")?, Namespace::new("router")?);
        for namespace in [&host, &router] {
            for interfaces in ["all", "default"] {
                let setting = |name| format!("ipv6/conf/{interfaces}/{name}");
                namespace.sysctl(&setting("disable_ipv6"), "0")?;
                namespace.sysctl(&setting("accept_dad"), "0")?;
                namespace.sysctl(&setting("router_solicitations"), "0")?;
            }
        }
        host.ip(&format!(
            "link add name {INTERFACE} type veth peer name lan netns {}",
            router.name()
        ))?;
        let [own, at] = [1, 2].map(|number| address(family, 9, number));
        // Without DAD an address of IPv6 can be bound to at once.
        let (len, gone, flags) = match family {
            Family::Ipv4 => (24, "10.9.2.0/24", "brd +"),
            Family::Ipv6 => (64, "fd09:2::/64", "nodad"),
        };
        host.ip_batch(&format!(
            "address add {own}/{len} {flags} dev {INTERFACE}\nlink set {INTERFACE} up\n"
        ))?;
        router.ip_batch(&format!(
            "address add {at}/{len} {flags} dev lan\nlink set lan up\n"
        ))?;
        host.ip_batch(&format!(
            "route add default via {at}\nroute add unreachable {gone}\n"
        ))?;
        // Or the first datagrams would wait for it.
        let mac = router.run("cat /sys/class/net/lan/address")?;
        let mac = mac.trim();
        host.ip(&format!(
            "neighbour replace {at} lladdr {mac} nud permanent dev {INTERFACE}"
        ))?;
        let bind = |port| router.enter(|| Ok(UdpSocket::bind((at, port))?));
        Ok(Self {
            tap: Tap::open_for_sent(&host, INTERFACE)?,
            answers: bind(PROBE_PORT)?,
            _sink: bind(UDP_PORT)?,
            family,
            native,
            host,
            _router: router,
        })
    }

    /// The host's address.
    pub fn own(&self) -> IpAddr {
        address(self.family, 9, 1)
    }

    fn router(&self) -> IpAddr {
        address(self.family, 9, 2)
    }

    /// A program at the host, with the library or without.
    pub fn command(&self, with: bool, program: &str) -> Command {
        if !with {
            return self.host.command(program);
        }
        let mut command = self.exec(&[]);
        command.args(["--", program]);
        command
    }

    /// `xcast-ctl exec` with these options, up to the program.
    pub fn exec(&self, options: &[&str]) -> Command {
        let mut command = match self.native {
            true => exec_here(&self.host),
            false => exec(&self.host, Some(self.router())),
        };
        command.args(options);
        command
    }

    /// Runs a program that sends what nobody is interested in ("warm") until a line arrives, and then
    /// what it is about.
    pub fn run(&self, with: bool, command: &mut Command) -> Result<Run> {
        self.run_and(with, command, |_| Ok(()))
    }

    /// The same, and looks at what has been done so far while the program runs.
    pub fn run_and(
        &self,
        with: bool,
        command: &mut Command,
        mut look: impl FnMut(&Run) -> Result<()>,
    ) -> Result<Run> {
        self.tap.drain()?;
        let mut program = Program::start(command)?;
        let mut run = Run::default();
        // Until datagrams share packets, so that what follows is about that.
        let deadline = Instant::now() + PATIENCE;
        while with && run.shared() < 1000 {
            ensure!(Instant::now() < deadline, "nothing is shared");
            self.look(&mut run, Instant::now() + Duration::from_millis(20))?;
        }
        run = Run::default();
        program.say("go")?;
        let output = std::thread::scope(|scope| {
            let output = scope.spawn(|| program.end());
            while !output.is_finished() {
                self.look(&mut run, Instant::now() + Duration::from_millis(20))?;
                look(&run)?;
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
        let family = self.family;
        if frame.get(12..14) != Some(&family.ether_type().to_be_bytes()) {
            return Ok(true);
        }
        let wrong = || format!("a frame of {} octets", frame.len());
        let (mut ip, rest) = Ip::parse(family, &frame[ETHERNET_LEN..]).with_context(wrong)?;
        let marked = match family {
            Family::Ipv4 => PROTOCOL,
            Family::Ipv6 => protocol::ROUTING,
        };
        if ip.protocol == marked {
            // The router on the host is a hop.
            ip.ttl -= 1;
            self.take_xcast(run, &ip, rest).with_context(wrong)?;
            return Ok(true);
        }
        if ip.protocol != protocol::UDP {
            return Ok(true);
        }
        let (from, to, payload) = udp(&ip, rest).with_context(wrong)?;
        if to == SocketAddr::from((self.router(), UDP_PORT)) {
            let (ip, rest) = Ip::parse(family, payload).with_context(wrong)?;
            self.take_xcast(run, &ip, rest).with_context(wrong)?;
        } else {
            run.note(from, to, &ip, payload);
        }
        Ok(true)
    }

    /// Takes in an Xcast packet from its IP header on.
    fn take_xcast(&self, run: &mut Run, ip: &Ip, rest: &[u8]) -> Result<()> {
        let (list, segment) = Xcast::parse(self.family, rest).context("no list")?;
        let (from, common, payload) = udp(ip, segment).context("no UDP")?;
        for entry in &list.destinations {
            let port = if list.p { entry.port } else { common.port() };
            let to = SocketAddr::new(entry.address, port);
            if payload == PROBE {
                run.probes += 1;
                // In UDP the router's own kernel would answer; natively the probe comes back.
                let to = if self.native { to } else { from };
                self.answers.send_to(PROBE, to)?;
                continue;
            }
            let kind = payload.iter().take_while(|octet| **octet != b' ');
            *run.shared.entry(kind.copied().collect()).or_default() += 1;
            run.shared_to.insert(to);
            run.note(from, to, ip, payload);
        }
        Ok(())
    }
}

impl Run {
    /// Datagrams that shared a packet.
    pub fn shared(&self) -> usize {
        self.shared.values().sum()
    }

    fn note(&mut self, from: SocketAddr, to: SocketAddr, ip: &Ip, content: &[u8]) {
        if content == b"warm" {
            return;
        }
        let actor = content.first().copied().unwrap_or_default();
        let stream = self.streams.entry((from, to, actor)).or_default();
        stream.push(Sent {
            ttl: ip.ttl,
            ds: ip.ds,
            content: content.to_vec(),
        });
    }

    /// Compares what two programs did.
    ///
    /// # Errors
    ///
    /// Says what differs.
    pub fn compare(&self, with: &Self) -> Result<()> {
        for (without, with) in self.answers.iter().zip(&with.answers) {
            ensure!(without == with, "answered\n{with} instead of\n{without}");
        }
        ensure!(
            self.answers.len() == with.answers.len(),
            "answers are missing"
        );
        let shown = |sent: Option<&Sent>| match sent {
            None => "nothing".to_owned(),
            Some(Sent { ttl, ds, content }) => {
                let head = String::from_utf8_lossy(&content[..content.len().min(12)]).into_owned();
                format!("{} octets {head}, TTL {ttl}, DS {ds}", content.len())
            }
        };
        for (way, sent) in &self.streams {
            let other = with.streams.get(way).map_or(&[][..], |other| &other[..]);
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
        let others: Vec<_> = with.streams.keys().collect();
        ensure!(
            self.streams.len() == others.len(),
            "sent to others, too: {others:?} instead of {:?}",
            self.streams.keys()
        );
        Ok(())
    }
}

/// 10.9.NETWORK.NUMBER, or fd09:NETWORK::NUMBER.
fn address(family: Family, network: u8, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 9, network, number).into(),
        Family::Ipv6 => {
            let network = u16::from(network);
            Ipv6Addr::new(0xfd09, network, 0, 0, 0, 0, 0, number.into()).into()
        }
    }
}

/// Source, destination and content of a datagram.
pub fn udp<'a>(ip: &Ip, segment: &'a [u8]) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let port = |at: usize| {
        let octets = [*segment.get(at)?, *segment.get(at + 1)?];
        Some(u16::from_be_bytes(octets))
    };
    let (from, to) = (port(0)?, port(2)?);
    let payload = segment.get(UDP_LEN..)?;
    Some((
        (ip.source, from).into(),
        (ip.destination, to).into(),
        payload,
    ))
}
