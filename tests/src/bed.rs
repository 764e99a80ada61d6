//! Numbered messages through whole networks.
//!
//! A [`Bed`] is a testbed of several routers with unmodified hosts. One host sends numbered messages
//! as Xcast packets; the others are ordinary UDP sockets, and what each of them got, and how often,
//! is what these tests are about.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::testbed::{Ipv6Plan, Options, RouterConfig, Routing, Testbed, Topology};

use crate::daemon::{self, PATIENCE};
use crate::family::Family;
use crate::layout::{GROUP, PROTOCOL};
use crate::namespace::Namespace;
use crate::packet::{self, Datagram, Destination, Ip, Mac, Packet, Xcast, protocol};
use crate::tap::Tap;

const SOURCE_PORT: u16 = 4000;
const FIRST_PORT: u16 = 5000;
/// What ordinary messages begin with.
const PLAIN: &[u8] = b"plain";

/// A testbed with its source and receivers.
#[derive(Debug)]
pub struct Bed {
    /// The testbed.
    pub testbed: Testbed,
    source: Source,
    receivers: Vec<Receiver>,
    /// A host that sends in place of the source, too.
    relay: Option<IpAddr>,
    sent: u32,
}

#[derive(Debug)]
struct Source {
    tap: Tap,
    socket: UdpSocket,
    address: IpAddr,
    mac: Mac,
    gateway_mac: Mac,
}

/// How the source hands its packets over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To all Xcast routers on its link.
    Group,
    /// To a router by its address, wherever it is (RFC 5058 section 11.5).
    Router(IpAddr),
    /// The same inside UDP.
    Udp(IpAddr, u16),
}

/// A UDP socket on a host, and what it received so far.
#[derive(Debug)]
pub struct Receiver {
    /// The host.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// How often each message came.
    pub messages: BTreeMap<u32, usize>,
    /// The ordinary messages that came.
    pub plain: BTreeSet<u32>,
    port: u16,
    socket: UdpSocket,
}

impl Bed {
    /// Raises a topology, for the family that the test is for: A is the source, behind router R1; all other hosts receive, each on a
    /// port of its own.
    pub fn up(topology: &Topology, routing: Routing) -> Result<Self> {
        Self::up_with(topology, routing, Ipv6Plan::default())
    }

    /// The same, with addresses of IPv6 of this plan.
    pub fn up_with(topology: &Topology, routing: Routing, ipv6: Ipv6Plan) -> Result<Self> {
        let family = Family::under_test();
        let any = match family {
            Family::Ipv4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let options = Options {
            routing,
            ipv6,
            quiet: true,
            ..Options::named(&format!("xct-{}-{number}", std::process::id()))
        };
        let testbed = Testbed::up(topology, &options)?;
        let node = testbed.node("A")?;
        let interface = testbed.interface("A", "R1")?;
        let namespace = Namespace::of(&node.namespace);
        let source = Source {
            tap: Tap::open(&namespace, &interface.name)?,
            socket: namespace.enter(|| Ok(UdpSocket::bind((any, 0))?))?,
            address: match family {
                Family::Ipv4 => interface.address.map(IpAddr::from),
                Family::Ipv6 => interface.address6.map(IpAddr::from),
            }
            .context("A has no address")?,
            mac: interface.mac.0,
            gateway_mac: testbed.interface("R1", "A")?.mac.0,
        };
        let mut receivers = Vec::new();
        let hosts = testbed.plan().with_role(xtask::testbed::Role::Host);
        for (node, port) in hosts.filter(|node| node.name != "A").zip(FIRST_PORT..) {
            let address = match family {
                Family::Ipv4 => node.address.map(IpAddr::from),
                Family::Ipv6 => node.address6.map(IpAddr::from),
            };
            let address = address.context("a host without address")?;
            let socket = Namespace::of(&node.namespace).enter(|| {
                let socket = UdpSocket::bind((any, port))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })?;
            receivers.push(Receiver {
                name: node.name.clone(),
                address,
                messages: BTreeMap::new(),
                plain: BTreeSet::new(),
                port,
                socket,
            });
        }
        Ok(Self {
            testbed,
            source,
            receivers,
            relay: None,
            sent: 0,
        })
    }

    /// Starts the router under test on every router.
    pub fn start_routers(&mut self) -> Result<()> {
        self.start_routers_with(&RouterConfig::default())
    }

    /// Starts the router under test on every router, with this configuration.
    pub fn start_routers_with(&mut self, config: &RouterConfig) -> Result<()> {
        self.testbed.start_routers(daemon::program(), config)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> Result<Namespace> {
        Ok(Namespace::of(&self.testbed.node(node)?.namespace))
    }

    /// The host of that name.
    pub fn receiver(&self, name: &str) -> Result<&Receiver> {
        let mut receivers = self.receivers.iter();
        let found = receivers.find(|receiver| receiver.name == name);
        found.with_context(|| format!("no receiver {name}"))
    }

    /// Whether the host of that name has received message `number`.
    pub fn has(&self, name: &str, number: u32) -> bool {
        let receiver = self.receiver(name);
        receiver.is_ok_and(|receiver| receiver.messages.contains_key(&number))
    }

    /// Sends the next message to all receivers, in one Xcast packet; `flow` chooses the source port.
    /// Returns its number.
    pub fn send(&mut self, flow: u16) -> Result<u32> {
        self.send_to(To::Group, flow)
    }

    /// The same, handed over in a certain way.
    pub fn send_to(&mut self, to: To, flow: u16) -> Result<u32> {
        self.sent += 1;
        let Source {
            address,
            mac,
            gateway_mac,
            ..
        } = self.source;
        let family = Family::of(address);
        // The checksum of what is inside is made for the group, whoever the packet is sent to.
        let group = family.address(GROUP);
        let destination = match to {
            To::Router(router) => router,
            To::Group | To::Udp(..) => group,
        };
        let protocol = match family {
            Family::Ipv4 => PROTOCOL,
            Family::Ipv6 => protocol::ROUTING,
        };
        let from = (address, SOURCE_PORT + flow);
        let entry = |receiver: &Receiver| Destination::new(receiver.address).port(receiver.port);
        let destinations = self.receivers.iter().map(entry).collect();
        let packet = Packet {
            destination_mac: gateway_mac,
            source_mac: mac,
            ip: Ip::new(address, destination, protocol),
            xcast: Xcast {
                p: true,
                ..Xcast::new(protocol::UDP, destinations)
            },
            segment: packet::udp(from, (group, 0), &self.sent.to_be_bytes(), None),
        };
        let frame = match to {
            To::Group | To::Router(_) => packet.frame(),
            To::Udp(router, port) => Datagram::around(&packet, router, port).frame(),
        };
        self.source.tap.send(&frame)?;
        Ok(self.sent)
    }

    /// From now on, messages may come from this address, if any, besides the source's.
    pub fn expect_from(&mut self, relay: Option<IpAddr>) {
        self.relay = relay;
    }

    /// A number for a message that the test sends by itself, and where all receivers listen.
    pub fn next_message(&mut self) -> (u32, Vec<SocketAddr>) {
        self.sent += 1;
        let receivers = self.receivers.iter();
        let addresses = receivers.map(|receiver| (receiver.address, receiver.port).into());
        (self.sent, addresses.collect())
    }

    /// Sends an ordinary UDP message with a number to one receiver.
    pub fn send_plain(&self, name: &str, number: u32) -> Result<()> {
        let receiver = self.receiver(name)?;
        let bytes = [PLAIN, &number.to_be_bytes()].concat();
        let to = (receiver.address, receiver.port);
        self.source.socket.send_to(&bytes, to).context("send")?;
        Ok(())
    }

    /// Takes in what has arrived.
    ///
    /// # Errors
    ///
    /// Somebody received a message twice, or something that was not sent.
    pub fn collect(&mut self) -> Result<()> {
        let (source, relay, sent) = (self.source.address, self.relay, self.sent);
        for receiver in &mut self.receivers {
            let mut buffer = [0; 100];
            loop {
                let (len, from) = match receiver.socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                let name = &receiver.name;
                let is_expected = from.ip() == source || Some(from.ip()) == relay;
                ensure!(is_expected, "{name} received from {from}");
                let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes);
                if let Some(bytes) = buffer[..len].strip_prefix(PLAIN) {
                    receiver.plain.insert(number(bytes)?);
                    continue;
                }
                let number = number(&buffer[..len]);
                let number = number.with_context(|| format!("{name} received {len} octets"))?;
                ensure!((1..=sent).contains(&number), "{name} received {number}");
                let times = receiver.messages.entry(number).or_default();
                *times += 1;
                ensure!(*times == 1, "{name} received message {number} twice");
            }
        }
        Ok(())
    }

    /// Waits until everyone has received message `number`.
    pub fn delivered(&mut self, number: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.collect()?;
            let lacks = |receiver: &&Receiver| !receiver.messages.contains_key(&number);
            let Some(lacking) = self.receivers.iter().find(lacks) else {
                return Ok(());
            };
            ensure!(
                Instant::now() < deadline,
                "{} never received message {number}",
                lacking.name
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends messages one after the other, and waits for each to arrive everywhere. Afterwards
    /// nothing more may come.
    pub fn send_and_receive(&mut self, count: u32) -> Result<()> {
        self.send_and_receive_by(To::Group, count)
    }

    /// The same, handed over in a certain way.
    pub fn send_and_receive_by(&mut self, to: To, count: u32) -> Result<()> {
        for _ in 0..count {
            let number = self.send_to(to, 0)?;
            self.delivered(number)?;
        }
        std::thread::sleep(Duration::from_millis(100));
        self.collect()
    }
}
