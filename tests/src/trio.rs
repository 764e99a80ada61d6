//! A router between three ordinary hosts.
//!
//! Hosts A, B and C are Linux hosts on links of their own; R routes between them and runs the router
//! under test. What B and C get of an Xcast packet is compared with what they get of ordinary
//! unicast, which the kernel of R forwards: the router under test may do no worse, and forward
//! nothing that the kernel would not.
//!
//! | host | interface | address | the router's side |
//! |---|---|---|---|
//! | A | a0 | 10.66.1.2/24 | p1, 10.66.1.1 |
//! | B | b0 | 10.66.2.2/24 | p2, 10.66.2.1 |
//! | C | c0 | 10.66.3.2/24 | p3, 10.66.3.1 |
//!
//! Addresses are given for IPv4; [`Family::address`] says what stands for them in IPv6.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde_json::Value;

use crate::daemon::{self, Daemon, Launch};
use crate::family::{self, Family};
use crate::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use crate::namespace::{self, Namespace};
use crate::packet::{self, Destination, Ip, Mac, Packet, Xcast, protocol};
use crate::tap::Tap;

/// Host A, the source.
pub const A: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);
/// Host B.
pub const B: Ipv4Addr = Ipv4Addr::new(10, 66, 2, 2);
/// Host C.
pub const C: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 2);
/// The router on the link of A.
pub const R1: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 1);
/// The router on the link of B.
pub const R2: Ipv4Addr = Ipv4Addr::new(10, 66, 2, 1);
/// The router on the link of C.
pub const R3: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 1);
/// An address that B and C both have, behind whichever of them the router has a route to.
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where hosts listen.
pub const PORT: u16 = 5000;
/// UDP port of Xcast in UDP.
pub const UDP_PORT: u16 = 40000;

const SOURCE_PORT: u16 = 4000;
/// Upper bound for what the kernel needs to find out about a neighbour, with the timers that
/// [`Trio::quick_neighbours`] sets, and for what the router does once a second. It ends tests, and judges none that do well.
pub const SOON: Duration = Duration::from_secs(20);
/// How long a packet may be under way on a busy machine.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// How long to wait for what should not come. Ordinary packets sent meanwhile have long arrived.
const NOT_COMING: Duration = Duration::from_millis(300);

/// A router between three hosts.
#[derive(Debug)]
pub struct Trio {
    /// The family that the test is for.
    pub family: Family,
    /// Host A, the source.
    pub a: Host,
    /// Host B.
    pub b: Host,
    /// Host C.
    pub c: Host,
    /// The router, with a socket that listens like a host's.
    pub r: Host,
    /// What the router is started with.
    pub configuration: String,
    /// The router under test, while it runs.
    pub daemon: Option<Daemon>,
    /// A's end of its link.
    pub tap: Tap,
    /// How long the router may take to be ready.
    pub patience: Duration,
    sent: Cell<u32>,
}

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub namespace: Namespace,
    socket: UdpSocket,
    got: RefCell<BTreeMap<u32, usize>>,
}

impl Host {
    fn new(label: &str) -> Result<Self> {
        let namespace = Namespace::new(label)?;
        for interfaces in ["all", "default"] {
            namespace.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
            // Addresses are there at once.
            namespace.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0")?;
            namespace.sysctl(&format!("ipv6/conf/{interfaces}/router_solicitations"), "0")?;
            // And stay there, as those of IPv4 do.
            let stay = format!("ipv6/conf/{interfaces}/keep_addr_on_down");
            namespace.sysctl(&stay, "1")?;
            namespace.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
        }
        namespace.sysctl("ipv4/icmp_ratelimit", "0")?;
        namespace.sysctl("ipv6/icmp/ratelimit", "0")?;
        let socket = namespace.enter(|| {
            // Of both families.
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            socket.set_nonblocking(true)?;
            // Room for a whole stream: a packet that XDP forwarded takes a page.
            setsockopt(&socket, RcvBufForce, &(64 << 20))?;
            Ok(socket)
        })?;
        Ok(Self {
            namespace,
            socket,
            got: RefCell::default(),
        })
    }

    /// Runs `ip` there, with what stands for IPv4 addresses in the family under test.
    pub fn ip(&self, command: &str) -> Result<String> {
        self.namespace.ip(&Family::under_test().command(command))
    }

    /// Its socket, for another thread to read instead of [`count`](Self::count).
    pub fn socket(&self) -> Result<UdpSocket> {
        Ok(self.socket.try_clone()?)
    }

    /// How often a message has come.
    pub fn count(&self, number: u32) -> Result<usize> {
        let mut buffer = [0; 9000];
        let mut got = self.got.borrow_mut();
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((len, _)) => {
                    let bytes = buffer[..len].first_chunk().context("a short message")?;
                    *got.entry(u32::from_be_bytes(*bytes)).or_default() += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("receive"),
            }
        }
        Ok(got.get(&number).copied().unwrap_or(0))
    }

    /// Whether a message comes, once.
    pub fn gets(&self, number: u32) -> Result<bool> {
        let came = until(UNDER_WAY, || Ok(self.count(number)? > 0))?;
        let times = self.count(number)?;
        ensure!(times < 2, "message {number} came {times} times");
        Ok(came)
    }

    /// Whether a message has not come after a moment.
    pub fn misses(&self, number: u32) -> Result<bool> {
        Ok(!until(NOT_COMING, || Ok(self.count(number)? > 0))?)
    }
}

/// Where a message arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At host B.
    B,
    /// At host C.
    C,
    /// At the router itself.
    R,
    /// Nowhere.
    Nowhere,
}

/// Waits for a condition; false if it does not come true in time.
pub fn until(patience: Duration, condition: impl Fn() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a test with the router running, for IPv4 and then for IPv6.
///
/// # Panics
///
/// Where the test fails, or the router cannot be set up.
#[track_caller]
pub fn with(test: impl Fn(&mut Trio) -> Result<()>) {
    for family in Family::ALL {
        with_family(family, &test);
    }
}

/// The same for one family.
///
/// # Panics
///
/// Where the test fails, or the router cannot be set up.
#[track_caller]
pub fn with_family(family: Family, test: impl Fn(&mut Trio) -> Result<()>) {
    before_start(family, |trio| {
        trio.start()?;
        test(trio)
    });
}

/// The same for both families, but the test itself starts the router.
///
/// # Panics
///
/// Where the test fails, or the hosts cannot be set up.
#[track_caller]
pub fn before(test: impl Fn(&mut Trio) -> Result<()>) {
    for family in Family::ALL {
        before_start(family, &test);
    }
}

/// The same for one family.
///
/// # Panics
///
/// Where the test fails, or the hosts cannot be set up.
#[track_caller]
pub fn before_start(family: Family, test: impl Fn(&mut Trio) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    let outcome = family::with(family, || {
        let mut trio = Trio::new(family).context("set up")?;
        test(&mut trio).inspect_err(|_| {
            if let Some(daemon) = &trio.daemon {
                eprintln!("the router's log:\n{}", daemon.log());
            }
        })
    });
    if let Err(error) = outcome {
        panic!("{family:?}: {error:#}");
    }
}

/// Link layer address of the router's port on the link of host `host`, 1 to 3.
pub fn port_mac(host: u8) -> Mac {
    [2, 0, 0, 0, 0x66, host]
}

/// Link layer address of host `host`.
pub fn host_mac(host: u8) -> Mac {
    [2, 0, 0, 1, 0x66, host]
}

impl Trio {
    /// Sets the hosts up, for the family that the caller is in ([`family::with`]). No router runs yet.
    pub fn new(family: Family) -> Result<Self> {
        let hosts = ["a", "b", "c"].map(Host::new);
        let [a, b, c] = hosts;
        let (a, b, c, r) = (a?, b?, c?, Host::new("r")?);
        r.namespace.sysctl("ipv4/ip_forward", "1")?;
        r.namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
        for (number, host) in [(1, &a), (2, &b), (3, &c)] {
            connect(number, host, &r)?;
        }
        for host in [&b, &c] {
            for family in Family::ALL {
                let (behind, len) = (family.address(BEHIND), family.prefix_len(32));
                host.namespace
                    .ip(&format!("address add {behind}/{len} dev lo"))?;
            }
        }
        Ok(Self {
            family,
            tap: Tap::open(&a.namespace, "a0")?,
            a,
            b,
            c,
            r,
            configuration: configuration(&["p1", "p2", "p3"]),
            daemon: None,
            patience: daemon::PATIENCE,
            sent: Cell::new(0),
        })
    }

    /// Makes port p3 and its link again, after it was removed.
    pub fn restore_p3(&self) -> Result<()> {
        connect(3, &self.c, &self.r)
    }

    /// Starts the router.
    pub fn start(&mut self) -> Result<()> {
        self.launch(Launch {
            patience: self.patience,
            ..Launch::default()
        })
    }

    /// Starts the router in another way than the ordinary one.
    pub fn launch(&mut self, launch: Launch<'_>) -> Result<()> {
        let daemon = Daemon::launch(&self.r.namespace, &self.configuration, launch)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Says something else in the configuration, before the router starts.
    pub fn configure(&mut self, old: &str, new: &str) -> Result<()> {
        ensure!(self.configuration.contains(old), "{old}: not configured");
        self.configuration = self.configuration.replace(old, new);
        Ok(())
    }

    /// Has B forward, as a router does.
    pub fn make_b_a_router(&self) -> Result<()> {
        self.b.namespace.sysctl("ipv4/ip_forward", "1")?;
        self.b.namespace.sysctl("ipv6/conf/all/forwarding", "1")
    }

    /// What is behind B or C goes to B; by table 100, which no rule names yet, it goes to C.
    pub fn two_tables(&self) -> Result<()> {
        self.resolve()?;
        self.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        self.r
            .ip("route add 10.99.0.0/16 via 10.66.3.2 table 100")?;
        self.goes(Way::B, A, BEHIND).context("without a rule")
    }

    /// Whether the router's kernel can do what this command of `ip` wants. Where it lacks the driver, that is said as
    /// the reason why `what` is not tested.
    pub fn kernel_can(&self, what: &str, command: &str) -> Result<bool> {
        let Err(error) = self.r.namespace.ip(command) else {
            return Ok(true);
        };
        let text = format!("{error:#}");
        let lacks = ["Unknown device type", "not supported"];
        ensure!(lacks.iter().any(|lack| text.contains(lack)), "{text}");
        namespace::skipped(&format!("{what}: this kernel cannot `ip {command}`"));
        Ok(false)
    }

    /// Puts the ports of A and C into a VRF with table 100. False, with a message, where the kernel has none.
    pub fn vrf(&self) -> Result<bool> {
        if !self.kernel_can("VRFs", "link add red type vrf table 100")? {
            return Ok(false);
        }
        self.r.ip("link set red up")?;
        self.r.ip("link set p1 master red")?;
        self.r.ip("link set p3 master red")?;
        Ok(true)
    }

    /// `ip rule` of the family under test.
    pub fn rule(&self, command: &str) -> Result<()> {
        let command = self.family.command(&format!("rule {command}"));
        let command = match command.strip_prefix("-6 ") {
            None if self.family == Family::Ipv6 => format!("-6 {command}"),
            _ => command,
        };
        self.r.namespace.ip(&command).map(drop)
    }

    /// The datagrams of a packet to these hosts arrive; the router's own addresses are hosts, too.
    pub fn serves(&self, destinations: &[Ipv4Addr]) -> Result<()> {
        for &destination in destinations {
            let host = match destination {
                A => &self.a,
                B => &self.b,
                C => &self.c,
                _ => &self.r,
            };
            let reached = self.is_reached(host, destinations)?;
            ensure!(reached, "{destination} gets nothing");
        }
        Ok(())
    }

    /// The running router.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the router does not run")
    }

    /// Makes the router's kernel quick to doubt and to probe its neighbours: 1 second instead of 5, then
    /// 3 probes in 0.6 seconds instead of 3.
    pub fn quick_neighbours(&self) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            for port in ["p1", "p2", "p3"] {
                let neigh = format!("{family}/neigh/{port}");
                let r = &self.r.namespace;
                r.sysctl(&format!("{neigh}/delay_first_probe_time"), "1")?;
                r.sysctl(&format!("{neigh}/retrans_time_ms"), "200")?;
                r.sysctl(&format!("{neigh}/base_reachable_time_ms"), "2000")?;
            }
        }
        Ok(())
    }

    /// Makes the router's kernel know the link layer address of the hosts, as it does after traffic.
    pub fn resolve(&self) -> Result<()> {
        for (number, host) in [(1, A), (2, B), (3, C)] {
            let mac = crate::layout::mac_text(host_mac(number));
            self.r.ip(&format!(
                "neigh replace {host} dev p{number} lladdr {mac} nud reachable"
            ))?;
        }
        Ok(())
    }

    /// The state and flags of a neighbour of the router, as `ip` prints them.
    pub fn neighbour(&self, address: Ipv4Addr) -> Result<String> {
        self.r.ip(&format!("neigh show {address}"))
    }

    /// Sends an Xcast packet with a new number from A to `destinations`; returns the number.
    pub fn send(&self, destinations: &[Ipv4Addr]) -> Result<u32> {
        self.send_from(A, destinations)
    }

    /// The same with any source address.
    pub fn send_from(&self, source: Ipv4Addr, destinations: &[Ipv4Addr]) -> Result<u32> {
        self.send_padded(source, destinations, 0)
    }

    /// The same with `padding` more octets of payload.
    pub fn send_padded(
        &self,
        source: Ipv4Addr,
        destinations: &[Ipv4Addr],
        padding: usize,
    ) -> Result<u32> {
        let number = self.number();
        let packet = self.packet(source, destinations, number, padding);
        self.tap.send(&packet.frame())?;
        Ok(number)
    }

    /// The packet that [`send_padded`](Self::send_padded) sends.
    pub fn packet(
        &self,
        source: Ipv4Addr,
        destinations: &[Ipv4Addr],
        number: u32,
        padding: usize,
    ) -> Packet {
        xcast(source, destinations, number, padding)
    }

    /// Sends one ordinary datagram to the router, for its kernel to forward; returns its number.
    pub fn unicast(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Result<u32> {
        self.unicast_padded(source, destination, 0, 0)
    }

    /// The same with a DS byte, and `padding` more octets of payload.
    pub fn unicast_padded(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        ds: u8,
        padding: usize,
    ) -> Result<u32> {
        let number = self.number();
        let frame = datagram(self.family, source, destination, number, ds, padding);
        self.tap.send(&frame)?;
        Ok(number)
    }

    /// Which way a message went, once it has arrived; nowhere if it has not after a moment.
    pub fn way(&self, number: u32) -> Result<Way> {
        let deadline = Instant::now() + NOT_COMING;
        loop {
            for (way, host) in [(Way::B, &self.b), (Way::C, &self.c), (Way::R, &self.r)] {
                if host.count(number)? > 0 {
                    return Ok(way);
                }
            }
            if Instant::now() > deadline {
                return Ok(Way::Nowhere);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Both the kernel's unicast and Xcast go this way from `source` to `destination`, the latter as
    /// soon as the router has heard of the last change.
    pub fn goes(&self, way: Way, source: Ipv4Addr, destination: Ipv4Addr) -> Result<()> {
        self.goes_with_ds(way, source, destination, 0)
    }

    /// The same for packets with a DS byte.
    pub fn goes_with_ds(
        &self,
        way: Way,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        ds: u8,
    ) -> Result<()> {
        let unicast = || Ok(self.way(self.unicast_padded(source, destination, ds, 0)?)? == way);
        ensure!(until(SOON, unicast)?, "unicast does not go to {way:?}");
        let xcast = || {
            let number = self.number();
            let mut packet = self.packet(source, &[destination, A], number, 0);
            packet.ip.ds = ds;
            self.tap.send(&packet.frame())?;
            self.way(number)
        };
        // Twice, for what was forwarded while the router was about to hear of the change.
        let twice = || Ok(xcast()? == way && xcast()? == way);
        let agree = until(SOON / 2, twice)?;
        ensure!(agree, "unicast goes to {way:?}, Xcast to {:?}", xcast()?);
        Ok(())
    }

    /// Sends Xcast packets to `destinations` until `host` gets one.
    pub fn is_reached(&self, host: &Host, destinations: &[Ipv4Addr]) -> Result<bool> {
        self.is_reached_by(host, || self.send(destinations))
    }

    /// The same with ordinary datagrams to one destination.
    pub fn is_reached_by_unicast(&self, host: &Host, destination: Ipv4Addr) -> Result<bool> {
        self.is_reached_by(host, || self.unicast(A, destination))
    }

    /// Whether `host` gets one of the messages that `send` goes on to send ten times a second.
    pub fn is_reached_by(&self, host: &Host, send: impl Fn() -> Result<u32>) -> Result<bool> {
        let first = self.sent.get() + 1;
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            send()?;
            let came = || -> Result<bool> {
                for number in first..=self.sent.get() {
                    if host.count(number)? > 0 {
                        return Ok(true);
                    }
                }
                Ok(false)
            };
            if until(Duration::from_millis(100), came)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What stands for an address in the family under test.
    pub fn address(&self, address: Ipv4Addr) -> IpAddr {
        self.family.address(address)
    }

    /// The ICMP message of the router that quotes a datagram to `destination`, if one comes: its type and code.
    pub fn icmp_about(&self, destination: Ipv4Addr, deadline: Instant) -> Result<Option<(u8, u8)>> {
        let wanted = self.address(destination);
        while let Some(frame) = self.tap.receive(deadline)? {
            let Some((ip, icmp)) = frame
                .get(packet::ETHERNET_LEN..)
                .and_then(|bytes| Ip::parse(self.family, bytes))
            else {
                continue;
            };
            let is_icmp = matches!(ip.protocol, protocol::ICMP | protocol::ICMPV6);
            let quoted = match self.family {
                Family::Ipv4 => packet::address(icmp, 8 + 16),
                Family::Ipv6 => packet::address6(icmp, 8 + 24),
            };
            if is_icmp && quoted == Some(wanted) && ip.destination == self.address(A) {
                return Ok(Some((icmp[0], icmp[1])));
            }
        }
        Ok(None)
    }

    /// Loads rules of a packet filter on the router.
    pub fn nft(&self, rules: &str) -> Result<()> {
        // It wants the end of a chain to be the end of a line.
        let rules = rules.replace("; }", ";\n}\n");
        let mut command = self.r.namespace.command("nft");
        namespace::run(command.args(["-f", "-"]), &rules).map(|_| ())
    }

    /// What `xcast-ctl check` finds wrong.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let directory = tempfile::TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        std::fs::write(&config, &self.configuration)?;
        let config = config.to_string_lossy();
        let output = daemon::ctl(&self.r.namespace, &["check", "--json", "--config", &config])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("check: {}: {errors}", output.status))?;
        let findings = report["findings"].as_array().context("no findings")?;
        let text =
            |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        let findings = findings
            .iter()
            .filter(|finding| finding["severity"] != "ok");
        Ok(findings
            .map(|finding| Finding {
                check: text(finding, "check"),
                interface: text(finding, "interface"),
                what: text(finding, "what"),
                remedy: text(finding, "remedy"),
            })
            .collect())
    }

    /// What it finds wrong that it did not find `before`.
    pub fn check_since(&self, before: &[Finding]) -> Result<Vec<Finding>> {
        let now = self.check()?;
        Ok(now
            .into_iter()
            .filter(|finding| !before.contains(finding))
            .collect())
    }

    /// The row of a port in `xcast-ctl ports`.
    pub fn port(&self, name: &str) -> Result<Value> {
        let rows = daemon::report(&self.r.namespace, &["ports"])?;
        let rows = rows.as_array().context("no list of ports")?;
        let row = rows.iter().find(|row| row["name"] == name);
        row.cloned().with_context(|| format!("no port {name}"))
    }

    /// A new number for a message.
    pub fn number(&self) -> u32 {
        self.numbers(1).start
    }

    /// New numbers for so many messages.
    pub fn numbers(&self, count: u32) -> Range<u32> {
        let first = self.sent.get() + 1;
        self.sent.set(self.sent.get() + count);
        first..first + count
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        // What a router leaves behind on purpose lives longer than its namespace.
        self.daemon = None;
        let _ = daemon::ctl(&self.r.namespace, &["unload"]);
    }
}

/// Something that `xcast-ctl check` finds wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the check.
    pub check: String,
    /// The interface it is about, if any.
    pub interface: String,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// Whether any of these words is in it, in small letters.
    pub fn mentions(&self, words: &[&str]) -> bool {
        let Self {
            check,
            interface,
            what,
            remedy,
        } = self;
        let text = format!("{check} {interface} {what} {remedy}").to_lowercase();
        words.iter().any(|word| text.contains(word))
    }
}

/// Whether any finding mentions any of these words, and says what to do.
pub fn named(findings: &[Finding], words: &[&str]) -> bool {
    let mut findings = findings.iter();
    findings.any(|finding| finding.mentions(words) && !finding.remedy.is_empty())
}

/// A configuration with these ports.
pub fn configuration(ports: &[&str]) -> String {
    let mut text = format!(
        "{}\n[router]\ngateways = \"none\"\n\n[udp]\nport = {UDP_PORT}\n",
        code_points()
    );
    for port in ports {
        text += &format!("\n[[port]]\ninterface = \"{port}\"\n");
    }
    text
}

/// The code points of a configuration.
pub fn code_points() -> String {
    let group6 = Family::Ipv6.address(GROUP);
    format!(
        "[code_points]\nprotocol = {PROTOCOL}\ngroup = \"{GROUP}\"\ngroup6 = \"{group6}\"\n\
         routing_type = {PROTOCOL}\nports_option = {PORTS_OPTION}\n"
    )
}

/// Makes the link between host `number` (1 to 3) and the router, with everything on it.
fn connect(number: u8, host: &Host, router: &Host) -> Result<()> {
    let port = format!("p{number}");
    let name = ["a0", "b0", "c0"][usize::from(number) - 1];
    let [at_port, at_host] = [port_mac(number), host_mac(number)].map(crate::layout::mac_text);
    let mut commands = format!(
        "link add {port} address {at_port} type veth peer name {name} address {at_host} netns {}\n\
         link set {port} up\n",
        host.namespace.name()
    );
    let mut at_host = format!("link set {name} up\n");
    for family in Family::ALL {
        let address = |last| family.address(Ipv4Addr::new(10, 66, number, last));
        let (len, nodad) = match family {
            Family::Ipv4 => (24, ""),
            Family::Ipv6 => (family.prefix_len(24), " nodad"),
        };
        commands += &format!("address add {}/{len} dev {port}{nodad}\n", address(1));
        at_host += &format!("address add {}/{len} dev {name}{nodad}\n", address(2));
        at_host += &format!("route add default via {}\n", address(1));
    }
    router.namespace.ip_batch(&commands)?;
    host.namespace.ip_batch(&at_host)?;
    host.namespace.set_gro(name, true)?;
    host.namespace.set_tx_checksum(name, false)?;
    router.namespace.set_gro(&port, true)
}

/// An Xcast packet from A, with a message that has this number, and `padding` more octets of payload.
pub fn xcast(source: Ipv4Addr, destinations: &[Ipv4Addr], number: u32, padding: usize) -> Packet {
    let payload = payload(number, padding);
    Packet {
        destination_mac: port_mac(1),
        source_mac: host_mac(1),
        ip: Ip {
            // As Linux sends it: not to be fragmented.
            fragment: 0x4000,
            ..Ip::new(source, GROUP, PROTOCOL)
        },
        xcast: Xcast::new(
            protocol::UDP,
            destinations.iter().copied().map(Destination::new).collect(),
        ),
        segment: packet::udp((source, SOURCE_PORT), (GROUP, PORT), &payload, None),
    }
}

/// The frame of an ordinary datagram from A with such a message, with a DS byte.
pub fn datagram(
    family: Family,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    number: u32,
    ds: u8,
    padding: usize,
) -> Vec<u8> {
    let (source, destination) = (family.address(source), family.address(destination));
    let ip = Ip {
        ds,
        // As Linux sends it: not to be fragmented.
        fragment: match family {
            Family::Ipv4 => 0x4000,
            Family::Ipv6 => 0,
        },
        ..Ip::new(source, destination, protocol::UDP)
    };
    let payload = payload(number, padding);
    let segment = packet::udp((source, SOURCE_PORT), (destination, PORT), &payload, None);
    let packet = ip.emit(&segment);
    packet::ethernet(port_mac(1), host_mac(1), family.ether_type(), &packet)
}

fn payload(number: u32, padding: usize) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vec![0; padding]].concat()
}
