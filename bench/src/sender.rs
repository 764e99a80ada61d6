//! The sending side: one Xcast packet against a packet for each destination.
//!
//! Two hosts with one interface and one gateway each, since what takes frames off their links
//! cheapest differs; see [`Kind`]. What is measured is a message: building the packet and sending it
//! into the router's own interface, or sending the payload to everyone by `sendto` or `sendmmsg`;
//! veth delivers before the call returns, so the way to the sink is part of it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use ::tests::{
    daemon::Daemon,
    layout::{GROUP, PROTOCOL},
    namespace::Namespace,
};
use anyhow::{Context as _, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use serde::Serialize;
use xcast_host::{
    CodePoints,
    packet::{Entry, Template},
    raw::Way,
};

use crate::{
    measure::{Effort, Summary, check_interrupt},
    progress::Progress,
    sinks::{Kind, Sinks},
    sys,
};

/// Destinations of a message.
const DESTINATIONS: [usize; 8] = [1, 2, 5, 10, 20, 50, 100, 127];
const PAYLOAD_BYTES: usize = 200;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const INTERFACE: &str = "eth0";
/// Messages to begin with.
const TRIAL: u32 = 100;

/// A way to send, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `xcast`, `sendto`, or `sendmmsg`.
    pub subject: &'static str,
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
struct Host {
    namespace: Namespace,
    sinks: Sinks,
    _far: Namespace,
}

impl Host {
    fn new(label: &str, kind: Kind) -> Result<Self> {
        let namespace = Namespace::new(label)?;
        let far = Namespace::new(&format!("{label}-far"))?;
        namespace.ip_batch(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {}\n\
             link set {INTERFACE} mtu 3000 up\n\
             address add {SOURCE}/24 dev {INTERFACE}\n\
             neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev {INTERFACE}\n",
            far.name()
        ))?;
        far.ip_batch(&format!("link set {INTERFACE} mtu 3000 up\n"))?;
        namespace.ip("route add default via 10.0.0.2")?;
        namespace.set_tx_checksum(INTERFACE, false)?;
        Ok(Self {
            sinks: Sinks::new(&far, &[INTERFACE.to_owned()], kind)?,
            namespace,
            _far: far,
        })
    }

    fn arrived(&self) -> Result<u64> {
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
    way: Way,
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
    to: Vec<SocketAddrV4>,
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
    addresses: Vec<libc::sockaddr_in>,
    payload: Vec<u8>,
}

impl Sender for SendMmsg {
    fn send(&mut self) -> Result<()> {
        let mut vector = libc::iovec {
            iov_base: self.payload.as_mut_ptr().cast(),
            iov_len: self.payload.len(),
        };
        let message = |address: &mut libc::sockaddr_in| {
            // SAFETY: all zeros is a value of this struct of integers and pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            message.msg_hdr.msg_iov = &raw mut vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let mut messages: Vec<_> = self.addresses.iter_mut().map(message).collect();
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
    messages: u32,
    ns: Vec<f64>,
    lost: u64,
}

/// Measures all ways to send, side by side.
///
/// # Errors
///
/// Needs root; or something cannot be sent.
pub fn measure(cpu: usize, effort: Effort, progress: &mut Progress) -> Result<Vec<Row>> {
    progress.show("hosts");
    let router = Host::new("sender", Kind::Xdp)?;
    let configuration = format!(
        "[code_points]\nprotocol = {PROTOCOL}\ngroup = \"{GROUP}\"\n\n[[port]]\ninterface = \"{INTERFACE}\"\n"
    );
    let _daemon = Daemon::start(&router.namespace, &configuration)?;
    let plain = Host::new("sender-udp", Kind::Tc)?;
    let mut contestants = Vec::new();
    for destinations in DESTINATIONS {
        let list: Vec<_> = (0..destinations)
            .map(|index| SocketAddrV4::new(Ipv4Addr::new(11, 0, 0, 1 + index as u8), 5000))
            .collect();
        let mut add = |subject, sender, host, frames_per_message| {
            contestants.push(Contestant {
                subject,
                destinations,
                sender,
                host,
                frames_per_message,
                messages: TRIAL,
                ns: Vec::new(),
                lost: 0,
            });
        };
        let frames = destinations as u64;
        add("xcast", Box::new(xcast(&router, &list)?) as _, 0, 1);
        add("sendto", Box::new(send_to(&plain, &list)?), 1, frames);
        add("sendmmsg", Box::new(send_mmsg(&plain, &list)?), 1, frames);
    }

    let hosts = [router, plain];
    for contestant in &mut contestants {
        let host = &hosts[contestant.host];
        // The first time is for the caches.
        run(host, contestant, cpu)?;
        let elapsed = run(host, contestant, cpu)?;
        let wanted = effort.run.as_secs_f64() / elapsed.as_secs_f64() * f64::from(TRIAL);
        contestant.messages = (wanted as u32).max(TRIAL);
    }
    for round in 1..=effort.rounds {
        progress.show(&format!("round {round} of {}", effort.rounds));
        for contestant in &mut contestants {
            let elapsed = run(&hosts[contestant.host], contestant, cpu)?;
            let ns = elapsed.as_nanos() as f64 / f64::from(contestant.messages);
            contestant.ns.push(ns);
        }
    }
    let row = |contestant: Contestant| {
        Some(Row {
            subject: contestant.subject,
            destinations: contestant.destinations,
            payload_bytes: PAYLOAD_BYTES,
            ns_per_message: Summary::of(&contestant.ns)?,
            delivered: contestant.lost == 0,
        })
    };
    Ok(contestants.into_iter().filter_map(row).collect())
}

/// Sends a contestant's messages and counts what arrives.
fn run(host: &Host, contestant: &mut Contestant, cpu: usize) -> Result<Duration> {
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
    contestant.lost += expected - arrived;
    Ok(elapsed)
}

fn payload() -> Vec<u8> {
    vec![0x5a; PAYLOAD_BYTES]
}

fn xcast(host: &Host, list: &[SocketAddrV4]) -> Result<Xcast> {
    let template = Template {
        code_points: CodePoints::new(PROTOCOL, GROUP)?,
        source: SOURCE.into(),
        to: GROUP.into(),
        ttl: 64,
        dscp: 0,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 4000,
        port_list: false,
    };
    let entry = |to: &SocketAddrV4| Entry {
        address: (*to.ip()).into(),
        port: to.port(),
        dscp: None,
    };
    let way = host.namespace.enter(|| {
        let index = if_nametoindex("xcast0").context("the router has no interface of its own")?;
        // Any addresses will do there.
        Ok(Way::frame(
            index,
            [2, 0, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 2],
            false,
        )?)
    })?;
    Ok(Xcast {
        template,
        entries: list.iter().map(entry).collect(),
        payload: payload(),
        packet: Vec::new(),
        way,
    })
}

fn send_to(host: &Host, list: &[SocketAddrV4]) -> Result<SendTo> {
    Ok(SendTo {
        socket: socket(host)?,
        to: list.to_vec(),
        payload: payload(),
    })
}

fn send_mmsg(host: &Host, list: &[SocketAddrV4]) -> Result<SendMmsg> {
    let address = |to: &SocketAddrV4| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: to.ip().to_bits().to_be(),
        },
        sin_zero: [0; 8],
    };
    Ok(SendMmsg {
        socket: socket(host)?,
        addresses: list.iter().map(address).collect(),
        payload: payload(),
    })
}

fn socket(host: &Host) -> Result<UdpSocket> {
    host.namespace
        .enter(|| UdpSocket::bind((SOURCE, 0)).context("cannot open a socket to send from"))
}
