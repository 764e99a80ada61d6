//! A router between bare wires.
//!
//! The router's namespace holds the kernel and the router under test, set up from a
//! [`Layout`]; a second one holds the far ends of its links, where nothing lives but the tests'
//! [`Tap`]s: whatever leaves the router is seen there octet by octet, and nothing answers that the
//! test does not send.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::{Counters, Daemon, PATIENCE};
use crate::family::{self, Family};
use crate::layout::{self, GROUP, Layout, PROTOCOL, interface};
use crate::namespace::{self, Namespace};
use crate::oracle::{self, Branch, Expected, RouterView};
use crate::packet::{
    self, Destination, ETHER_TYPE_IPV4, ETHERNET_LEN, Ip, Mac, Packet, Xcast, be16, hex, protocol,
};
use crate::tap::Tap;

/// How long the wires must be quiet for a test to believe that nothing more comes.
const QUIET: Duration = Duration::from_millis(40);
/// Most copies under way at once: fewer than a veth queue holds.
const UNDER_WAY: usize = 64;
/// The interface by which the router hands packets to the kernel's stack.
pub const STACK_INTERFACE: &str = "xcast0";

/// A router under test and the wires around it.
#[derive(Debug)]
pub struct Rig {
    layout: Layout,
    /// What the router looks like from outside.
    pub view: RouterView,
    /// The router's namespace.
    pub router: Namespace,
    /// The other ends of its links.
    pub wires: Namespace,
    /// A tap on the far end of each port's link.
    pub taps: Vec<Tap>,
    configuration: String,
    daemon: Option<Daemon>,
    stack: Option<Tap>,
}

/// What left the router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Frames on the wires.
    pub branches: Vec<Branch>,
    /// Packets that arrived in the kernel's stack through the router's own interface.
    pub stack: Vec<Vec<u8>>,
}

/// Runs `test` with a router of this layout, for IPv4 and then for IPv6.
///
/// # Panics
///
/// Where the test fails, or the router cannot be set up.
#[track_caller]
pub fn with(layout: &Layout, test: impl Fn(&mut Rig) -> Result<()>) {
    for family in Family::ALL {
        with_family(family, layout, &test);
    }
}

/// The same for one family.
///
/// # Panics
///
/// Where the test fails, or the router cannot be set up.
#[track_caller]
pub fn with_family(family: Family, layout: &Layout, test: impl Fn(&mut Rig) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    let layout = Layout {
        family,
        ..layout.clone()
    };
    let mut rig = match Rig::start(&layout) {
        Ok(rig) => rig,
        Err(error) => panic!("cannot set the router up: {error:#}"),
    };
    if let Err(error) = family::with(family, || test(&mut rig)) {
        panic!("{family:?}: {error:#}");
    }
    if let Err(error) = rig.stop() {
        panic!("{family:?}: the router ended badly: {error:#}");
    }
}

impl Rig {
    /// Sets the namespaces up without starting the router.
    pub fn prepare(layout: &Layout) -> Result<Self> {
        let router = Namespace::new("router")?;
        let wires = Namespace::new("wires")?;
        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        router.sysctl("ipv6/icmp/ratelimit", "0")?;
        // Addresses are there at once.
        for interfaces in ["all", "default"] {
            router.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
            router.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0")?;
        }
        router.sysctl("ipv4/icmp_ratelimit", "0")?;
        for interfaces in ["all", "default"] {
            router.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
        }
        let mut links = String::new();
        let mut ends = String::new();
        for port in 0..layout.ports {
            let (link, end) = link_commands(port, &wires);
            links += &link;
            ends += &end;
        }
        router.ip_batch(&(links + &layout.kernel_commands()))?;
        wires.ip_batch(&ends)?;
        let mut taps = Vec::new();
        for port in 0..layout.ports {
            wires.set_gro(&interface(port), true)?;
            taps.push(Tap::open(&wires, &interface(port))?);
        }
        Ok(Self {
            layout: layout.clone(),
            view: layout.view(),
            router,
            wires,
            taps,
            configuration: layout.configuration(),
            daemon: None,
            stack: None,
        })
    }

    /// Sets everything up and starts the router.
    pub fn start(layout: &Layout) -> Result<Self> {
        let mut rig = Self::prepare(layout)?;
        rig.start_daemon()?;
        Ok(rig)
    }

    /// What the router was made as.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs `ip` in the router's namespace, with what stands for IPv4 addresses in the command.
    pub fn run(&self, command: &str) -> Result<()> {
        self.router.ip(&self.family().command(command))?;
        Ok(())
    }

    /// Removes the interface of `port`, and everything the kernel knows by it.
    pub fn remove_port(&self, port: usize) -> Result<()> {
        let name = interface(port);
        self.router.ip(&format!("link delete {name}")).map(|_| ())
    }

    /// Makes the interface of `port` anew.
    pub fn restore_port(&mut self, port: usize) -> Result<()> {
        let (link, end) = link_commands(port, &self.wires);
        self.router
            .ip_batch(&(link + &self.layout.port_commands(port)))?;
        self.wires.ip_batch(&end)?;
        self.wires.set_gro(&interface(port), true)?;
        self.taps[port] = Tap::open(&self.wires, &interface(port))?;
        Ok(())
    }

    /// What stands for an IPv4 address in the family that the test is for.
    pub fn ip(&self, address: impl Into<Ipv4Addr>) -> IpAddr {
        self.layout.family.address(address)
    }

    /// The family that the test is for.
    pub fn family(&self) -> Family {
        self.layout.family
    }

    /// Changes the configuration the router will be started with.
    ///
    /// # Panics
    ///
    /// Where `from` is not part of it.
    pub fn configure(&mut self, from: &str, to: &str) {
        assert!(self.configuration.contains(from), "no {from:?} to replace");
        self.configuration = self.configuration.replace(from, to);
    }

    /// Starts the router.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.router, &self.configuration)?);
        self.stack = Some(Tap::open(&self.router, STACK_INTERFACE)?);
        Ok(())
    }

    /// The running router.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the router does not run")
    }

    /// Ends the router without a chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.stack = None;
        self.daemon.take().map_or(Ok(()), Daemon::kill)
    }

    /// Ends the router as an administrator would; it must end well.
    pub fn stop(&mut self) -> Result<()> {
        self.stack = None;
        if let Some(daemon) = self.daemon.take() {
            let status = daemon.stop()?;
            ensure!(
                status.code() == Some(0),
                "exit status after SIGTERM: {status}"
            );
        }
        Ok(())
    }

    /// The router's counters.
    pub fn counters(&self) -> Result<Counters> {
        Counters::read(&self.router)
    }

    /// Sends one frame into `port` and compares everything that comes of it, counters included,
    /// with what the [`oracle`] says; returns that.
    pub fn check(&self, port: usize, frame: &[u8]) -> Result<Expected> {
        let before = self.counters()?;
        let expected = oracle::expect(&self.view, port, frame);
        self.check_all(&[(port, frame.to_vec())])?;
        let mut counted = self.counters()?.since(&before);
        // How often a packet went round, and whether it had a plan already, depends on what was sent before.
        counted.remove("recirculated");
        counted.remove("returned");
        counted.remove("plan_reused");
        let wanted = expected.counters.iter();
        let wanted: BTreeMap<_, _> = wanted.map(|(&name, &n)| (name.to_owned(), n)).collect();
        ensure!(
            counted == wanted,
            "after {}: counted {counted:?} instead of {wanted:?}",
            describe(frame)
        );
        Ok(expected)
    }

    /// Sends frames into their ports, some at a time, and compares everything that comes of them
    /// with what the [`oracle`] says.
    pub fn check_all(&self, arrivals: &[(usize, Vec<u8>)]) -> Result<()> {
        self.drain()?;
        let mut wanted = Observed::default();
        let mut seen = Observed::default();
        let mut under_way = 0;
        for (port, frame) in arrivals {
            let expected = oracle::expect(&self.view, *port, frame);
            let copies = expected.branches.len() + expected.stack.len();
            if under_way > 0 && under_way + copies > UNDER_WAY {
                self.collect(&wanted, &mut seen)?;
                under_way = 0;
            }
            under_way += copies;
            wanted.branches.extend(expected.branches);
            wanted.stack.extend(expected.stack);
            self.taps[*port].send(frame)?;
        }
        self.collect(&wanted, &mut seen)?;
        self.collect_rest(&mut seen)?;
        let result = compare(&wanted, &seen);
        match arrivals {
            [(_, frame)] => result.with_context(|| format!("after {}", describe(frame))),
            _ => result,
        }
    }

    /// Forgets what left the router so far.
    pub fn drain(&self) -> Result<()> {
        self.taps.iter().chain(&self.stack).try_for_each(Tap::drain)
    }

    /// Sends one frame and returns whatever leaves the router until it has been quiet for a moment.
    pub fn observe(&self, port: usize, frame: &[u8]) -> Result<Observed> {
        self.observe_all(&[(port, frame)])
    }

    /// The same with several frames at once.
    pub fn observe_all(&self, arrivals: &[(usize, &[u8])]) -> Result<Observed> {
        self.drain()?;
        for (port, frame) in arrivals {
            self.taps[*port].send(frame)?;
        }
        let mut seen = Observed::default();
        self.collect_rest(&mut seen)?;
        Ok(seen)
    }

    /// Repeats a probe until the router does with it what the oracle says, for changes in the
    /// kernel take their time to get to the router. On the way there, no address may be served twice.
    pub fn eventually(&self, port: usize, frame: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let expected = oracle::expect(&self.view, port, frame);
        let wanted = Observed {
            branches: expected.branches,
            stack: expected.stack,
        };
        loop {
            let seen = self.observe(port, frame)?;
            if let Some((address, _)) = seen.served().iter().find(|entry| *entry.1 > 1) {
                bail!("{address} was served twice: {seen:?}");
            }
            let outcome = compare(&wanted, &seen);
            if outcome.is_ok() || Instant::now() > deadline {
                return outcome;
            }
        }
    }

    /// Waits a second at most for the first copy on any wire, then takes what comes right behind it.
    /// Quicker than [`observe`](Self::observe), for many packets in a row.
    pub fn first_copy(&self) -> Result<Observed> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut seen = Observed::default();
        loop {
            let last_round = !seen.branches.is_empty() || Instant::now() > deadline;
            self.take_branches(&mut seen)?;
            if last_round {
                return Ok(seen);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes what has arrived on the wires.
    fn take_branches(&self, seen: &mut Observed) -> Result<()> {
        for (port, tap) in self.taps.iter().enumerate() {
            while let Some(frame) = tap.take()? {
                if !self.is_noise(&frame) {
                    seen.branches.push(Branch { port, frame });
                }
            }
        }
        Ok(())
    }

    /// Waits for as many frames as are wanted.
    fn collect(&self, wanted: &Observed, seen: &mut Observed) -> Result<()> {
        let deadline = Instant::now() + PATIENCE / 10;
        for (port, tap) in self.taps.iter().enumerate() {
            let on_port =
                |branches: &[Branch]| branches.iter().filter(|branch| branch.port == port).count();
            let mut missing = on_port(&wanted.branches).saturating_sub(on_port(&seen.branches));
            while missing > 0 {
                let Some(frame) = tap.receive(deadline)? else {
                    break;
                };
                if !self.is_noise(&frame) {
                    seen.branches.push(Branch { port, frame });
                    missing -= 1;
                }
            }
        }
        while let Some(tap) = &self.stack
            && seen.stack.len() < wanted.stack.len()
            && let Some(frame) = tap.receive(deadline)?
        {
            self.push_stack(seen, frame);
        }
        Ok(())
    }

    /// Takes what arrives until it has been quiet for a moment.
    fn collect_rest(&self, seen: &mut Observed) -> Result<()> {
        loop {
            let before = seen.branches.len() + seen.stack.len();
            std::thread::sleep(QUIET);
            self.take_branches(seen)?;
            while let Some(tap) = &self.stack
                && let Some(frame) = tap.take()?
            {
                self.push_stack(seen, frame);
            }
            if seen.branches.len() + seen.stack.len() == before {
                return Ok(());
            }
        }
    }

    fn push_stack(&self, seen: &mut Observed, frame: Vec<u8>) {
        if be16(&frame, 12) == Some(self.view.family().ether_type()) {
            seen.stack.push(frame[ETHERNET_LEN..].to_vec());
        }
    }

    /// Frames that the router's kernel sends of its own accord: ARP, neighbour discovery, ICMP.
    fn is_noise(&self, frame: &[u8]) -> bool {
        let family = self.view.family();
        let source = match family {
            Family::Ipv4 => packet::address(frame, ETHERNET_LEN + 12),
            Family::Ipv6 => packet::address6(frame, ETHERNET_LEN + 8),
        };
        let own = |source| {
            let link_local = matches!(source, IpAddr::V6(ipv6) if ipv6.is_unicast_link_local());
            link_local || source.is_unspecified() || self.view.own.contains(&source)
        };
        be16(frame, 12) != Some(family.ether_type()) || source.is_none_or(own)
    }
}

/// The commands that make the link of a port: in the router's namespace, and in that of the wires.
fn link_commands(port: usize, wires: &Namespace) -> (String, String) {
    let (name, other) = (interface(port), wires.name());
    (
        format!("link add {name} type veth peer name {name} netns {other}\n"),
        format!("link set {name} mtu 3000 up\n"),
    )
}

impl Observed {
    /// How often each address was served on the wires: by a packet to it, or by an Xcast packet
    /// with it in the list.
    pub fn served(&self) -> BTreeMap<IpAddr, usize> {
        let mut served = BTreeMap::new();
        for branch in &self.branches {
            let Some((ip, payload)) = parse(&branch.frame) else {
                continue;
            };
            let addresses = match Xcast::parse(ip.family(), payload) {
                Some((xcast, _)) if is_xcast(&ip) => {
                    let valid = xcast.destinations.into_iter().filter(|entry| entry.valid);
                    valid.map(|entry| entry.address).collect()
                }
                _ => vec![ip.destination],
            };
            for address in addresses {
                *served.entry(address).or_default() += 1;
            }
        }
        served
    }
}

/// The IP packet in a frame, and what it carries.
fn parse(frame: &[u8]) -> Option<(Ip, &[u8])> {
    let family = Family::ALL
        .into_iter()
        .find(|family| be16(frame, 12) == Some(family.ether_type()));
    Ip::parse(family?, frame.get(ETHERNET_LEN..)?)
}

fn is_xcast(ip: &Ip) -> bool {
    match ip.family() {
        Family::Ipv4 => ip.protocol == PROTOCOL,
        Family::Ipv6 => ip.protocol == protocol::ROUTING,
    }
}

/// Compares what left the router with what should have, in any order.
pub fn compare(wanted: &Observed, seen: &Observed) -> Result<()> {
    let mut text = String::new();
    let of = |observed: &Observed| {
        let branches = observed.branches.iter();
        let branches = branches.map(|branch| (format!("port {}", branch.port), &branch.frame));
        let stack = observed.stack.iter();
        let mut all: Vec<_> = branches
            .map(|(place, frame)| (place, frame.clone()))
            .chain(stack.map(|packet| {
                let ether_type = match packet.first() {
                    Some(first) if first >> 4 == 6 => Family::Ipv6.ether_type(),
                    _ => ETHER_TYPE_IPV4,
                };
                let frame = packet::ethernet([0; 6], [0; 6], ether_type, packet);
                ("the stack".to_owned(), frame)
            }))
            .collect();
        all.sort();
        all
    };
    let (wanted, seen) = (of(wanted), of(seen));
    for (what, these, those) in [("missing", &wanted, &seen), ("too many", &seen, &wanted)] {
        let mut those = those.clone();
        for entry in these {
            if let Some(at) = those.iter().position(|other| other == entry) {
                those.swap_remove(at);
            } else if text.len() < 8000 {
                let (place, frame) = entry;
                let (words, octets) = (describe(frame), hex(frame));
                writeln!(text, "{what} at {place}: {words}\n{octets}")?;
            }
        }
    }
    ensure!(text.is_empty(), "{text}");
    Ok(())
}

/// A frame in words.
pub fn describe(frame: &[u8]) -> String {
    let mac = |at: usize| {
        let octets = frame.get(at..at + 6).unwrap_or_default();
        let octets: Vec<_> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        octets.join(":")
    };
    let mut text = format!("{} octets {} > {}", frame.len(), mac(6), mac(0));
    let Some((ip, payload)) = parse(frame) else {
        return text;
    };
    let (family, is_xcast) = (ip.family(), is_xcast(&ip));
    let Ip {
        source,
        destination,
        protocol,
        ttl,
        ds,
        ..
    } = ip;
    text += &format!(", {source} > {destination} protocol {protocol} ttl {ttl} ds {ds:#04x}");
    if is_xcast && let Some((xcast, segment)) = Xcast::parse(family, payload) {
        let flags = [
            (xcast.a, 'A'),
            (xcast.x, 'X'),
            (xcast.d, 'D'),
            (xcast.p, 'P'),
        ];
        let flags = flags.into_iter().filter(|flag| flag.0);
        let flags: String = flags.map(|flag| flag.1).collect();
        let entry = |destination: &Destination| {
            let Destination {
                address, port, ds, ..
            } = destination;
            let mark = if destination.valid { "" } else { "-" };
            format!("{mark}{address}:{port}@{ds:#04x}")
        };
        let list: Vec<_> = xcast.destinations.iter().map(entry).collect();
        text += &format!(
            ", Xcast [{flags}] channel {:#x} protocol {} to [{}], then {} octets",
            xcast.channel,
            xcast.protocol,
            list.join(" "),
            segment.len()
        );
    }
    text
}

/// Where packets of [`udp`] come from: behind the gateway of port 0.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
/// Source port of packets of [`udp`].
pub const SOURCE_PORT: u16 = 4000;
/// Destination port of packets of [`udp`] that name none per destination.
pub const COMMON_PORT: u16 = 5000;

/// A UDP packet to `destinations` as the gateway of port 0 passes it on, its checksum made for the
/// group and [`COMMON_PORT`].
pub fn udp(destinations: Vec<Destination>) -> Packet {
    let segment = packet::udp(
        (SOURCE, SOURCE_PORT),
        (GROUP, COMMON_PORT),
        b"the same message to everyone",
        None,
    );
    carrying(protocol::UDP, destinations, segment)
}

/// The same with a port for each destination, the one in the UDP header 0.
pub fn udp_with_ports(destinations: Vec<Destination>) -> Packet {
    let segment = packet::udp(
        (SOURCE, SOURCE_PORT),
        (GROUP, 0),
        b"the same message to everyone",
        None,
    );
    let mut packet = carrying(protocol::UDP, destinations, segment);
    packet.xcast.p = true;
    packet
}

/// A packet with any transport, as the gateway of port 0 passes it on.
pub fn carrying(protocol: u8, destinations: Vec<Destination>, segment: Vec<u8>) -> Packet {
    Packet {
        destination_mac: layout::router_mac(0),
        source_mac: layout::neighbour_mac(0, 2),
        ip: Ip {
            identification: 0x4711,
            fragment: 0x4000,
            ..Ip::new(SOURCE, GROUP, PROTOCOL)
        },
        xcast: Xcast {
            channel: 0x0badcafe,
            ..Xcast::new(protocol, destinations)
        },
        segment,
    }
}

/// Destinations without DS bytes and ports.
pub fn list(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Destination> {
    addresses.into_iter().map(Destination::new).collect()
}

/// The link layer address a frame is for.
pub fn destination_mac(frame: &[u8]) -> Option<Mac> {
    frame.get(..6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without any router under test, the rig is an ordinary Linux router.
    #[test]
    fn kernel_alone_forwards() -> Result<()> {
        if !namespace::available() {
            return Ok(());
        }
        let rig = Rig::prepare(&Layout::default())?;
        let ip = Ip::new(SOURCE, layout::behind(2, 7), protocol::UDP);
        let mut packet = ip.emit(&[7; 20]);
        let frame = |from, to, packet: &[u8]| packet::ethernet(to, from, ETHER_TYPE_IPV4, packet);
        let arrival = frame(layout::neighbour_mac(0, 2), layout::router_mac(0), &packet);
        let seen = rig.observe(0, &arrival)?;
        packet = Ip { ttl: 63, ..ip }.emit(&[7; 20]);
        let wanted = Observed {
            branches: vec![Branch {
                port: 2,
                frame: frame(layout::router_mac(2), layout::neighbour_mac(2, 2), &packet),
            }],
            stack: Vec::new(),
        };
        compare(&wanted, &seen)
    }
}
