//! Two sites with an Xcast router each, and two paths between them by routers that know nothing of Xcast.
//!
//! ```text
//!            .- m1 Middle m2 -.
//!  Source - Near              Far - Hosts
//!   a0    p1 '- n1 Second n2 -'  q2   d0
//! ```
//!
//! | link | one end | other end |
//! |---|---|---|
//! | 1 | Near p1, 10.70.1.1 | Source a0, 10.70.1.2 |
//! | 2 | Near p2, 10.70.2.1 | Middle m1, 10.70.2.2 |
//! | 3 | Middle m2, 10.70.3.1 | Far q1, 10.70.3.2 |
//! | 4 | Far q2, 10.70.4.1 | Hosts d0, 10.70.4.2 |
//! | 5 | Near p3, 10.70.5.1 | Second n1, 10.70.5.2 |
//! | 6 | Second n2, 10.70.6.1 | Far q3, 10.70.6.2 |
//!
//! Middle and Second are the kernel's forwarding with a strict reverse path filter, as is usual. Hosts have the addresses
//! 10.81.0.1 to 10.84.0.3, and listen at each. By unicast, Middle leads there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::daemon::{self, Counters, Daemon};
use crate::family::{self, Family};
use crate::layout::{GROUP, PROTOCOL, mac_text};
use crate::namespace::{self, Namespace};
use crate::packet::{self, Destination, Ip, Mac, Packet, Xcast, protocol};
use crate::tap::Tap;
use crate::trio::{SOON, UDP_PORT, code_points, until};

/// The source.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 70, 1, 2);
/// Where hosts listen.
pub const PORT: u16 = 5000;
const SOURCE_PORT: u16 = 4000;
/// The secret of all tunnels.
pub const KEY: &str = "a secret of two routers";

/// A tunnel between the two routers.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Its name.
    pub name: &'static str,
    /// Family of its outer headers.
    pub outer: Family,
    /// Its path: by Middle, or by Second.
    pub by_middle: bool,
    /// `mode` in the configuration.
    pub mode: &'static str,
    /// Which of the prefixes 10.81.0.0/24 to 10.84.0.0/24 Near reaches through it: their second octets.
    pub prefixes: &'static [u8],
    /// The same for Far.
    pub back: &'static [u8],
    /// The kernel's tunnel device beside it, on both routers: then there is a table of routes for lists.
    pub kernel_device: Option<&'static str>,
}

/// The table of routes for lists, where tunnels have kernel devices.
pub const XCAST_TABLE: u32 = 100;

impl Tunnel {
    /// Near's address, and Far's.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        let (near, far) = if self.by_middle {
            (link_address(2, 1), link_address(3, 2))
        } else {
            (link_address(5, 1), link_address(6, 2))
        };
        (self.outer.address(near), self.outer.address(far))
    }
}

/// The two sites.
#[derive(Debug)]
pub struct Sites {
    /// The source's host.
    pub source: Namespace,
    /// The source's router.
    pub near: Namespace,
    /// A router without Xcast.
    pub middle: Namespace,
    /// Another one.
    pub second: Namespace,
    /// The hosts' router.
    pub far: Namespace,
    /// Hosts.
    pub hosts: Namespace,
    /// The source's end of its link.
    pub tap: Tap,
    near_daemon: Option<Daemon>,
    far_daemon: Option<Daemon>,
    sockets: Vec<(IpAddr, UdpSocket)>,
    got: RefCell<BTreeMap<(u32, IpAddr), usize>>,
    sent: Cell<u32>,
}

/// Runs a test with routers that have these tunnels, for packets of one family.
///
/// # Panics
///
/// Where the test fails, or the sites cannot be set up.
#[track_caller]
pub fn with(family: Family, tunnels: &[Tunnel], test: impl Fn(&mut Sites) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    let outcome = family::with(family, || {
        let mut sites = Sites::new().context("set up")?;
        let started = sites.start(tunnels);
        started.and_then(|()| test(&mut sites)).inspect_err(|_| {
            for (name, daemon) in [("Near", &sites.near_daemon), ("Far", &sites.far_daemon)] {
                if let Some(daemon) = daemon {
                    eprintln!("the log of {name}:\n{}", daemon.log());
                }
            }
            if let Ok(rows) = sites.tunnels() {
                eprintln!("tunnels of Near: {rows:#?}");
            }
        })
    });
    if let Err(error) = outcome {
        panic!("{family:?}: {error:#}");
    }
}

/// Address of an end of a link.
pub fn link_address(link: u8, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 70, link, end)
}

/// Link layer address of an end of a link.
pub fn mac(link: u8, end: u8) -> Mac {
    [2, 0, 0, 70, link, end]
}

/// Three of the hosts' addresses.
pub fn destinations(prefix: u8) -> [Ipv4Addr; 3] {
    [1, 2, 3].map(|last| Ipv4Addr::new(10, prefix, 0, last))
}

/// The cookie of packets from one end of a tunnel to the other: HMAC (RFC 2104) with SHA-256, written out.
pub fn cookie(key: &str, from: IpAddr, to: IpAddr) -> [u8; 8] {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let text = [&b"xcast tunnel cookie 1"[..], &mapped(from), &mapped(to)].concat();
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key.as_bytes());
    let padded = |with: u8| block.map(|octet: u8| octet ^ with).to_vec();
    let inner = Sha256::digest([padded(0x36), text].concat());
    let outer = Sha256::digest([padded(0x5c), inner.to_vec()].concat());
    let mut cookie = [0; 8];
    cookie.copy_from_slice(&outer[..8]);
    cookie
}

/// An IP packet from one end of a tunnel to the other: what is inside, and how it is carried.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The outer header's source and destination.
    pub ends: (IpAddr, IpAddr),
    /// Its DS octet.
    pub ds: u8,
    /// Its TTL.
    pub ttl: u8,
    /// Its flow label, of IPv6.
    pub flow_label: u32,
    /// The source port of UDP, or none for IP in IP.
    pub udp_from: Option<u16>,
    /// What is behind the packet.
    pub cookie: [u8; 8],
    /// The packet inside.
    pub inner: Vec<u8>,
}

impl Carried {
    /// As the router at one end sends it.
    pub fn new(ends: (IpAddr, IpAddr), udp_from: Option<u16>, inner: &[u8]) -> Self {
        Self {
            ends,
            ds: 0,
            ttl: 64,
            flow_label: 0,
            udp_from,
            cookie: cookie(KEY, ends.0, ends.1),
            inner: inner.to_vec(),
        }
    }

    /// The packet.
    pub fn emit(&self) -> Vec<u8> {
        let (from, to) = self.ends;
        let content = [&self.inner[..], &self.cookie].concat();
        let in_ip = if self.inner[0] >> 4 == 4 { 4 } else { 41 };
        let (number, payload) = match self.udp_from {
            Some(port) => {
                let datagram = packet::udp((from, port), (to, UDP_PORT), &content, Some(0));
                (protocol::UDP, datagram)
            }
            None => (in_ip, content),
        };
        let ip = Ip {
            ds: self.ds,
            ttl: self.ttl,
            flow_label: self.flow_label,
            fragment: if from.is_ipv4() { 0x4000 } else { 0 },
            ..Ip::new(from, to, number)
        };
        ip.emit(&payload)
    }

    /// The frame on a link, towards the end with the higher number.
    pub fn frame(&self, link: u8) -> Vec<u8> {
        let ether_type = Family::of(self.ends.0).ether_type();
        packet::ethernet(mac(link, 2), mac(link, 1), ether_type, &self.emit())
    }
}

impl Sites {
    fn new() -> Result<Self> {
        let [source, near, middle, second, far, hosts] =
            ["source", "near", "middle", "second", "far", "hosts"].map(quiet);
        let (source, near, middle) = (source?, near?, middle?);
        let (second, far, hosts) = (second?, far?, hosts?);
        for router in [&near, &middle, &second, &far] {
            router.sysctl("ipv4/ip_forward", "1")?;
            router.sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        connect(1, (&near, "p1"), (&source, "a0"))?;
        connect(2, (&near, "p2"), (&middle, "m1"))?;
        connect(3, (&middle, "m2"), (&far, "q1"))?;
        connect(4, (&far, "q2"), (&hosts, "d0"))?;
        connect(5, (&near, "p3"), (&second, "n1"))?;
        connect(6, (&second, "n2"), (&far, "q3"))?;
        source.set_tx_checksum("a0", false)?;
        let routes = [
            (&source, &[("0.0.0.0/0", "10.70.1.1")][..]),
            (
                &near,
                &[
                    ("10.70.3.0/24", "10.70.2.2"),
                    ("10.70.4.0/24", "10.70.2.2"),
                    ("10.80.0.0/12", "10.70.2.2"),
                    ("10.70.6.0/24", "10.70.5.2"),
                ],
            ),
            (
                &middle,
                &[
                    ("10.70.1.0/24", "10.70.2.1"),
                    ("10.70.5.0/24", "10.70.2.1"),
                    ("10.70.4.0/24", "10.70.3.2"),
                    ("10.80.0.0/12", "10.70.3.2"),
                    ("10.70.6.0/24", "10.70.3.2"),
                ],
            ),
            (
                &second,
                &[
                    ("10.70.1.0/24", "10.70.5.1"),
                    ("10.70.2.0/24", "10.70.5.1"),
                    ("10.70.3.0/24", "10.70.6.2"),
                    ("10.70.4.0/24", "10.70.6.2"),
                    ("10.80.0.0/12", "10.70.6.2"),
                ],
            ),
            (
                &far,
                &[
                    ("10.70.1.0/24", "10.70.3.1"),
                    ("10.70.2.0/24", "10.70.3.1"),
                    ("10.70.5.0/24", "10.70.6.1"),
                    ("10.80.0.0/12", "10.70.4.2"),
                ],
            ),
            (&hosts, &[("0.0.0.0/0", "10.70.4.1")]),
        ];
        for (namespace, routes) in routes {
            for (to, via) in routes {
                for family in Family::ALL {
                    namespace.ip(&family.command(&format!("route add {to} via {via}")))?;
                }
            }
        }
        let family = Family::under_test();
        let mut sockets = Vec::new();
        for address in (81..85).flat_map(destinations) {
            for family in Family::ALL {
                let (address, len) = (family.address(address), family.prefix_len(32));
                hosts.ip(&format!("address add {address}/{len} dev lo nodad"))?;
            }
            let address = family.address(address);
            let socket = hosts.enter(|| {
                let socket = UdpSocket::bind((address, PORT))?;
                socket.set_nonblocking(true)?;
                setsockopt(&socket, RcvBufForce, &(16 << 20))?;
                Ok(socket)
            })?;
            sockets.push((address, socket));
        }
        Ok(Self {
            tap: Tap::open(&source, "a0")?,
            source,
            near,
            middle,
            second,
            far,
            hosts,
            near_daemon: None,
            far_daemon: None,
            sockets,
            got: RefCell::default(),
            sent: Cell::new(0),
        })
    }

    fn start(&mut self, tunnels: &[Tunnel]) -> Result<()> {
        let (near, far) = (configuration(tunnels, true), configuration(tunnels, false));
        self.far_daemon = Some(Daemon::start(&self.far, &far)?);
        self.near_daemon = Some(Daemon::start(&self.near, &near)?);
        Ok(())
    }

    /// Kills the router of the hosts, and removes what it leaves behind: from there on, Far is a router that knows nothing of
    /// Xcast.
    pub fn kill_far(&mut self) -> Result<()> {
        let daemon = self.far_daemon.take().context("it does not run")?;
        daemon.kill()?;
        ensure!(daemon::ctl(&self.far, &["unload"])?.status.success());
        Ok(())
    }

    /// Gives one of the routers other keys for its tunnels, the one that it sends by and the one that it also accepts, and has it read
    /// its configuration again (SIGHUP). Says whether it has done so.
    pub fn change_keys(
        &self,
        at_near: bool,
        key: &str,
        previous: Option<&str>,
    ) -> Result<impl Fn() -> Result<bool>> {
        let (router, port, daemon) = if at_near {
            (&self.near, "p2", &self.near_daemon)
        } else {
            (&self.far, "q1", &self.far_daemon)
        };
        let daemon = daemon.as_ref().context("it does not run")?;
        let text = fs::read_to_string(daemon.config())?;
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("previous_key"));
        let lines = lines.map(|line| match line.starts_with("key = ") {
            true => {
                let previous = previous.map(|previous| format!("\nprevious_key = \"{previous}\""));
                format!("key = \"{key}\"{}", previous.unwrap_or_default())
            }
            false => line.to_owned(),
        });
        fs::write(daemon.config(), lines.collect::<Vec<_>>().join("\n"))?;
        // Then it is another program that runs.
        let program = move || -> Result<Value> {
            let links = router.ip(&format!("-j link show dev {port}"))?;
            let links: Value = serde_json::from_str(&links)?;
            Ok(links[0]["xdp"]["prog"]["id"].clone())
        };
        let before = program()?;
        ensure!(before.is_u64(), "no program on {port}");
        kill(daemon.pid(), Signal::SIGHUP)?;
        Ok(move || Ok(program()? != before))
    }

    /// What Near says of its tunnels.
    pub fn tunnels(&self) -> Result<Vec<Value>> {
        let rows = daemon::report(&self.near, &["tunnels"])?;
        Ok(rows.as_array().context("no list")?.clone())
    }

    /// What Near says of a tunnel.
    pub fn tunnel(&self, name: &str) -> Result<Value> {
        let rows = self.tunnels()?;
        let row = rows.iter().find(|row| row["name"] == name);
        row.cloned().with_context(|| format!("no tunnel {name}"))
    }

    /// Waits until what Near says of a tunnel is as wanted.
    pub fn tunnel_is(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let is = until(SOON, || Ok(wanted(&self.tunnel(name)?)))?;
        ensure!(is, "{}", self.tunnel(name)?);
        Ok(())
    }

    /// Waits until a tunnel of Near works in a mode.
    pub fn works(&self, name: &str, mode: &str) -> Result<()> {
        self.tunnel_is(name, |row| row["working"] == true && row["mode"] == mode)
    }

    /// Counters of a router, summed.
    pub fn counters(router: &Namespace) -> Result<Counters> {
        Counters::read(router)
    }

    /// A new number for a message.
    pub fn number(&self) -> u32 {
        self.sent.set(self.sent.get() + 1);
        self.sent.get()
    }

    /// The last number.
    pub fn last_number(&self) -> u32 {
        self.sent.get()
    }

    /// An Xcast packet from the source with a message, with `padding` more octets.
    pub fn packet(&self, to: &[Ipv4Addr], number: u32, padding: usize) -> Packet {
        let payload = [&number.to_be_bytes()[..], &vec![0; padding]].concat();
        Packet {
            destination_mac: mac(1, 1),
            source_mac: mac(1, 2),
            ip: Ip {
                fragment: 0x4000,
                ..Ip::new(SOURCE, GROUP, PROTOCOL)
            },
            xcast: Xcast::new(
                protocol::UDP,
                to.iter().copied().map(Destination::new).collect(),
            ),
            segment: packet::udp((SOURCE, SOURCE_PORT), (GROUP, PORT), &payload, None),
        }
    }

    /// The same as IP packet, after so many routers.
    pub fn inner(&self, packet: &Packet, routers: u8) -> Vec<u8> {
        let mut packet = packet.clone();
        packet.ip.ttl -= routers;
        packet.frame()[packet::ETHERNET_LEN..].to_vec()
    }

    /// Sends a message; returns its number.
    pub fn send(&self, to: &[Ipv4Addr], padding: usize) -> Result<u32> {
        let number = self.number();
        self.tap.send(&self.packet(to, number, padding).frame())?;
        Ok(number)
    }

    /// How often a message has come to an address.
    pub fn count(&self, number: u32, at: Ipv4Addr) -> Result<usize> {
        let mut buffer = [0; 9000];
        let mut got = self.got.borrow_mut();
        for (address, socket) in &self.sockets {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((len, _)) => {
                        let bytes = buffer[..len].first_chunk().context("a short message")?;
                        let number = u32::from_be_bytes(*bytes);
                        *got.entry((number, *address)).or_default() += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("receive"),
                }
            }
        }
        let at = Family::under_test().address(at);
        Ok(got.get(&(number, at)).copied().unwrap_or(0))
    }

    /// Waits until a message has come to each of these, and makes sure that it came once.
    pub fn arrives(&self, number: u32, at: &[Ipv4Addr]) -> Result<()> {
        for &address in at {
            let came = until(SOON, || Ok(self.count(number, address)? > 0))?;
            ensure!(came, "message {number} never came to {address}");
        }
        std::thread::sleep(Duration::from_millis(30));
        for &address in at {
            let times = self.count(number, address)?;
            ensure!(
                times == 1,
                "message {number} came {times} times to {address}"
            );
        }
        Ok(())
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        // What routers leave behind on purpose lives longer than their namespaces.
        self.near_daemon = None;
        self.far_daemon = None;
        for router in [&self.near, &self.far] {
            let _ = daemon::ctl(router, &["unload"]);
        }
    }
}

fn quiet(label: &str) -> Result<Namespace> {
    let namespace = Namespace::new(label)?;
    for interfaces in ["all", "default"] {
        namespace.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
        namespace.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0")?;
        namespace.sysctl(&format!("ipv6/conf/{interfaces}/router_solicitations"), "0")?;
        namespace.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "1")?;
    }
    namespace.sysctl("ipv4/icmp_ratelimit", "0")?;
    namespace.sysctl("ipv6/icmp/ratelimit", "0")?;
    Ok(namespace)
}

fn connect(link: u8, one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    let (at_one, at_other) = (mac_text(mac(link, 1)), mac_text(mac(link, 2)));
    one.0.ip(&format!(
        "link add {} address {at_one} type veth peer name {} address {at_other} netns {}",
        one.1,
        other.1,
        other.0.name()
    ))?;
    for (end, (namespace, name)) in [(1, one), (2, other)] {
        let mut commands = format!("link set {name} up\n");
        for family in Family::ALL {
            let address = family.address(link_address(link, end));
            let len = family.prefix_len(24);
            let nodad = if family == Family::Ipv6 { " nodad" } else { "" };
            let _ = writeln!(commands, "address add {address}/{len} dev {name}{nodad}");
        }
        namespace.ip_batch(&commands)?;
        namespace.set_gro(name, true)?;
    }
    Ok(())
}

fn configuration(tunnels: &[Tunnel], is_near: bool) -> String {
    let mut text = format!("{}\n[udp]\nport = {UDP_PORT}\n", code_points());
    if tunnels.iter().any(|tunnel| tunnel.kernel_device.is_some()) {
        let _ = write!(text, "\n[router]\nxcast_table = {XCAST_TABLE}\n");
    }
    let ports = if is_near {
        ["p1", "p2", "p3"]
    } else {
        ["q1", "q2", "q3"]
    };
    for port in ports {
        let _ = write!(text, "\n[[port]]\ninterface = \"{port}\"\n");
    }
    for tunnel in tunnels {
        let (near, far) = tunnel.ends();
        let (local, remote) = if is_near { (near, far) } else { (far, near) };
        let prefixes = if is_near {
            tunnel.prefixes
        } else {
            tunnel.back
        };
        let prefixes: Vec<String> = prefixes
            .iter()
            .flat_map(|prefix| Family::ALL.map(|family| family.prefix([10, *prefix, 0, 0], 24)))
            .map(|prefix| format!("\"{prefix}\""))
            .collect();
        let _ = write!(
            text,
            "\n[[tunnel]]\nname = \"{}\"\nremote = \"{remote}\"\nlocal = \"{local}\"\nmode = \"{}\"\n\
             key = \"{KEY}\"\ndestinations = [{}]\n",
            tunnel.name,
            tunnel.mode,
            prefixes.join(", ")
        );
        if let Some(device) = tunnel.kernel_device {
            let _ = writeln!(text, "kernel_device = \"{device}\"");
        }
    }
    text
}
