//! The sending side: one Xcast packet against a packet for each destination.
//!
//! Two hosts with one interface and one gateway each, since what takes frames off their links
//! cheapest differs; see [`Kind`]. What is measured is a message: building the packet and sending it
//! into the router's own interface, or sending the payload to everyone by `sendto` or `sendmmsg`;
//! veth delivers before the call returns, so the way to the sink is part of it. Every packet is
//! counted where it arrives, and what came of Xcast is compared with what it must be.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use ::tests::{
    daemon::Daemon,
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL, mac_text},
    namespace::Namespace,
    oracle,
    packet::{ethernet, hex},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use serde::Serialize;
use socket2::SockAddr;
use xcast_host::{
    CodePoints, Ipv6CodePoints, RawSocket,
    packet::{Entry, Template},
};

use crate::{
    family::{self, named, number},
    measure::{Effort, Summary, check_interrupt},
    progress::Progress,
    sinks::{Kind, Sinks},
    site::{self, INGRESS_MAC, LAN, SOURCE_MAC},
    sys,
};

/// Destinations of a message; and as many as fit.
const DESTINATIONS: [usize; 7] = [1, 2, 5, 10, 20, 50, 100];
pub const PAYLOAD_BYTES: usize = 200;
/// See [`Family::address`] for what stands for addresses of IPv4.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const INTERFACE: &str = "eth0";
/// Messages to begin with.
const TRIAL: u32 = 100;

/// A way to send, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `xcast`, `sendto`, or `sendmmsg`; a `program`, plain or under `exec`, by its CPU time.
    pub subject: &'static str,
    /// `4` or `6`.
    pub family: u8,
    /// Destinations of a message.
    pub destinations: usize,
    /// Octets of its payload.
    pub payload_bytes: usize,
    /// Time per message in nanoseconds.
    pub ns_per_message: Summary,
    /// Whether every packet arrived.
    pub delivered: bool,
}

/// A host with one interface.
pub struct Host {
    /// Where it is.
    pub namespace: Namespace,
    sinks: Sinks,
    _far: Namespace,
}

impl Host {
    /// A host whose packets are counted in that way.
    ///
    /// # Errors
    ///
    /// Needs root.
    pub fn new(family: Family, label: &str, kind: Kind) -> Result<Self> {
        let namespace = Namespace::new(label)?;
        let far = Namespace::new(&format!("{label}-far"))?;
        family::enable(family, &namespace)?;
        let [source, gateway] = [SOURCE, GATEWAY].map(|address| family.address(address));
        namespace.ip_batch(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {}\n\
             link set {INTERFACE} address {} mtu 3000 up\n\
             {}\
             neighbour replace {gateway} lladdr {} nud permanent dev {INTERFACE}\n",
            far.name(),
            mac_text(site::port_mac(0)),
            family::add_address(source, INTERFACE),
            mac_text(site::gateway_mac(0))
        ))?;
        far.ip_batch(&format!("link set {INTERFACE} mtu 3000 up\n"))?;
        namespace.ip(&format!("route add default via {gateway}"))?;
        namespace.set_tx_checksum(INTERFACE, false)?;
        let mut sinks = Sinks::new(&far, &[INTERFACE.to_owned()], kind)?;
        if family == Family::Ipv6 {
            sinks.settle()?;
        }
        Ok(Self {
            sinks,
            namespace,
            _far: far,
        })
    }

    /// Frames that left it so far.
    pub fn arrived(&self) -> Result<u64> {
        Ok(self.sinks.arrived()?.iter().map(|count| count.frames).sum())
    }
}

/// A way to send messages to a list of destinations.
trait Sender: Send {
    /// Sends one message.
    fn send(&mut self) -> Result<()>;
}

struct Xcast {
    template: Template,
    entries: Vec<Entry>,
    payload: Vec<u8>,
    packet: Vec<u8>,
    way: RawSocket,
}

impl Sender for Xcast {
    fn send(&mut self) -> Result<()> {
        let Self {
            template,
            entries,
            payload,
            packet,
            way,
        } = self;
        template.emit(entries, payload, packet)?;
        Ok(way.send(packet)?)
    }
}

struct SendTo {
    socket: UdpSocket,
    to: Vec<SocketAddr>,
    payload: Vec<u8>,
}

impl Sender for SendTo {
    fn send(&mut self) -> Result<()> {
        for to in &self.to {
            self.socket.send_to(&self.payload, to)?;
        }
        Ok(())
    }
}

struct SendMmsg {
    socket: UdpSocket,
    addresses: Vec<SockAddr>,
    payload: Vec<u8>,
}

impl Sender for SendMmsg {
    fn send(&mut self) -> Result<()> {
        let mut vector = libc::iovec {
            iov_base: self.payload.as_mut_ptr().cast(),
            iov_len: self.payload.len(),
        };
        let message = |address: &SockAddr| {
            // SAFETY: all zeros is a value of this struct of integers and pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            // The kernel only reads it.
            message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = address.len();
            message.msg_hdr.msg_iov = &raw mut vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let mut messages: Vec<_> = self.addresses.iter().map(message).collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: every pointer in the messages is to a live buffer of the length beside it.
            let count = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    0,
                )
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            sent += count;
        }
        Ok(())
    }
}

/// One row in the making.
struct Contestant {
    subject: &'static str,
    destinations: usize,
    sender: Box<dyn Sender>,
    /// Index of its host.
    host: usize,
    frames_per_message: u64,
    /// The frame that a message leads to, where it is known octet by octet.
    wanted: Option<Vec<u8>>,
    messages: u32,
    ns: Vec<f64>,
    lost: u64,
}

/// Measures all ways to send packets of a family, side by side.
///
/// # Errors
///
/// Needs root; or something cannot be sent.
pub fn measure(
    family: Family,
    cpu: usize,
    effort: Effort,
    progress: &mut Progress,
) -> Result<Vec<Row>> {
    progress.show("hosts");
    let router = Host::new(family, "sender", Kind::Xdp)?;
    let _daemon = self::router(family, &router)?;
    let plain = Host::new(family, "sender-udp", Kind::Tc)?;
    let mut contestants = Vec::new();
    for destinations in DESTINATIONS.into_iter().chain([family.most_destinations()]) {
        let list = list(family, destinations);
        let mut add = |subject, sender, host, frames_per_message, wanted| {
            contestants.push(Contestant {
                subject,
                destinations,
                sender,
                host,
                frames_per_message,
                wanted,
                messages: TRIAL,
                ns: Vec::new(),
                lost: 0,
            });
        };
        let frames = destinations as u64;
        let xcast = xcast(family, &router, &list)?;
        let wanted = Some(wanted(family, &xcast, &list)?);
        add("xcast", Box::new(xcast) as _, 0, 1, wanted);
        add(
            "sendto",
            Box::new(send_to(family, &plain, &list)?),
            1,
            frames,
            None,
        );
        add(
            "sendmmsg",
            Box::new(send_mmsg(family, &plain, &list)?),
            1,
            frames,
            None,
        );
    }

    let mut hosts = [router, plain];
    for contestant in &mut contestants {
        let host = &mut hosts[contestant.host];
        // The first time is for the caches.
        run(host, contestant, cpu)?;
        let elapsed = run(host, contestant, cpu)?;
        let wanted = effort.run.as_secs_f64() / elapsed.as_secs_f64() * f64::from(TRIAL);
        contestant.messages = (wanted as u32).max(TRIAL);
    }
    for round in 1..=effort.rounds {
        let rounds = format!("round {round} of {}", effort.rounds);
        progress.show(&named(&rounds, family));
        for contestant in &mut contestants {
            let elapsed = run(&mut hosts[contestant.host], contestant, cpu)?;
            let ns = elapsed.as_nanos() as f64 / f64::from(contestant.messages);
            contestant.ns.push(ns);
        }
    }
    let row = |contestant: Contestant| {
        Some(Row {
            subject: contestant.subject,
            family: number(family),
            destinations: contestant.destinations,
            payload_bytes: PAYLOAD_BYTES,
            ns_per_message: Summary::of(&contestant.ns)?,
            delivered: contestant.lost == 0,
        })
    };
    Ok(contestants.into_iter().filter_map(row).collect())
}

/// The router at a host, without limits.
///
/// # Errors
///
/// It does not start.
pub fn router(family: Family, host: &Host) -> Result<Daemon> {
    let code_points = site::code_points(family);
    let limits = site::UNREACHED_LIMITS;
    let configuration = format!(
        "{code_points}{limits}\n[router]\ngateways = \"all\"\n\n[[port]]\ninterface = \"{INTERFACE}\"\n"
    );
    Daemon::start(&host.namespace, &configuration)
}

/// Destinations of a message.
pub fn list(family: Family, destinations: usize) -> Vec<SocketAddr> {
    let address = |index| family.address([11, 0, 0, 1 + index as u8]);
    let list = (0..destinations).map(|index| SocketAddr::new(address(index), 5000));
    list.collect()
}

/// Sends a contestant's messages and counts what arrives.
fn run(host: &mut Host, contestant: &mut Contestant, cpu: usize) -> Result<Duration> {
    check_interrupt()?;
    let before = host.arrived()?;
    let messages = contestant.messages;
    let sender = &mut contestant.sender;
    // A thread of its own, since children would inherit its CPU and priority.
    let elapsed = thread::scope(|scope| {
        let run = scope.spawn(|| {
            sys::pin(cpu)?;
            let start = Instant::now();
            for _ in 0..messages {
                sender.send()?;
            }
            Ok(start.elapsed())
        });
        run.join()
            .unwrap_or_else(|_| Err(anyhow!("the sending thread panicked")))
    })?;
    let expected = u64::from(messages) * contestant.frames_per_message;
    let mut arrived = host.arrived()? - before;
    if arrived < expected {
        thread::sleep(Duration::from_millis(100));
        arrived = host.arrived()? - before;
    }
    ensure!(
        arrived <= expected,
        "{} sent {arrived} packets instead of {expected}",
        contestant.subject
    );
    for frame in host.sinks.take_samples()?.values() {
        ensure!(
            contestant
                .wanted
                .as_ref()
                .is_none_or(|wanted| wanted == frame),
            "{} sent what it should not have:\n{}",
            contestant.subject,
            hex(frame)
        );
    }
    contestant.lost += expected - arrived;
    Ok(elapsed)
}

fn payload() -> Vec<u8> {
    vec![0x5a; PAYLOAD_BYTES]
}

fn xcast(family: Family, host: &Host, list: &[SocketAddr]) -> Result<Xcast> {
    let group = family.address(GROUP);
    let mut code_points = CodePoints::new(PROTOCOL, GROUP)?;
    if let IpAddr::V6(group) = group {
        code_points = code_points.with_ipv6(Ipv6CodePoints {
            group,
            routing_type: PROTOCOL,
            ports_option: PORTS_OPTION,
        })?;
    }
    let template = Template {
        code_points,
        source: family.address(SOURCE),
        to: group,
        ttl: 64,
        dscp: 0,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 4000,
        port_list: false,
    };
    let entry = |to: &SocketAddr| Entry {
        address: to.ip(),
        port: to.port(),
        dscp: None,
    };
    let way = host.namespace.enter(|| {
        let index = if_nametoindex("xcast0").context("the router has no interface of its own")?;
        // Any addresses will do there.
        let ipv6 = family == Family::Ipv6;
        Ok(RawSocket::packet(index, SOURCE_MAC, INGRESS_MAC, ipv6)?)
    })?;
    Ok(Xcast {
        template,
        entries: list.iter().map(entry).collect(),
        payload: payload(),
        packet: Vec::new(),
        way,
    })
}

/// The copy that the router must make of a message. The host's link is that of the first next hop
/// at a [`site`], as far as a copy shows it.
fn wanted(family: Family, xcast: &Xcast, list: &[SocketAddr]) -> Result<Vec<u8>> {
    let packet = xcast.template.build(&xcast.entries, &xcast.payload)?;
    let frame = ethernet(INGRESS_MAC, SOURCE_MAC, family.ether_type(), &packet);
    let next_hops: Vec<_> = list.iter().map(|to| (to.ip(), 0)).collect();
    let mut expected = oracle::expect(&site::view(family, &next_hops), LAN + 1, &frame);
    let copy = expected
        .branches
        .pop()
        .filter(|_| expected.branches.is_empty());
    Ok(copy
        .context("a message leads to another number of copies than one")?
        .frame)
}

fn send_to(family: Family, host: &Host, list: &[SocketAddr]) -> Result<SendTo> {
    Ok(SendTo {
        socket: socket(family, host)?,
        to: list.to_vec(),
        payload: payload(),
    })
}

fn send_mmsg(family: Family, host: &Host, list: &[SocketAddr]) -> Result<SendMmsg> {
    Ok(SendMmsg {
        socket: socket(family, host)?,
        addresses: list.iter().map(|&to| to.into()).collect(),
        payload: payload(),
    })
}

fn socket(family: Family, host: &Host) -> Result<UdpSocket> {
    host.namespace.enter(|| {
        UdpSocket::bind((family.address(SOURCE), 0)).context("cannot open a socket to send from")
    })
}
