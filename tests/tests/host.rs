//! The library for applications, with real routers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use tests::bed::Bed;
use tests::daemon::{Counters, PATIENCE};
use tests::family::Family;
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace::{self, Namespace};
use tests::packet;
use tests::tap::Tap;
use xcast_host::envelope::Tag;
use xcast_host::queue::QueueLimits;
use xcast_host::tokio::{CombiningSender, Report};
use xcast_host::{
    CodePoints, Ipv6CodePoints, Message, Options, Probing, Receiver, SendError, Sender, Settings,
    UnicastCause, Uplink,
};
use xtask::testbed::{RouterConfig, Routing, Topology};

/// A testbed with a socket on each of some hosts.
struct Hosts {
    bed: Bed,
    /// What the sender's socket speaks.
    family: Family,
    receivers: Vec<Receiver>,
    to: Vec<SocketAddr>,
}

impl Hosts {
    /// The hosts of that name, with addresses of these families in turn; those of the given number
    /// have opted in to envelopes.
    fn up(
        families: &[Family],
        topology: &Topology,
        config: &RouterConfig,
        names: &[&str],
        opted_in: usize,
    ) -> Result<Self> {
        let mut bed = Bed::up(topology, Routing::Static)?;
        bed.start_routers_with(config)?;
        let (mut receivers, mut to) = (Vec::new(), Vec::new());
        let families = families.iter().copied();
        for ((number, name), family) in names.iter().enumerate().zip(families.clone().cycle()) {
            let node = bed.testbed.node(name)?;
            let address = of_family(family, node.address, node.address6)?;
            let socket = bed.namespace(name)?.enter(|| {
                let socket = UdpSocket::bind((address, 0))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })?;
            to.push(socket.local_addr()?);
            let tag = (number < opted_in).then(Tag::random);
            receivers.push(Receiver::new(socket, tag));
        }
        Ok(Self {
            bed,
            // A socket of IPv6 serves IPv4, too.
            family: families.max().context("no family")?,
            receivers,
            to,
        })
    }

    fn namespace(&self, node: &str) -> Result<Namespace> {
        self.bed.namespace(node)
    }

    /// Every receiver's next message is this one.
    fn receive(&mut self, payload: &[u8]) -> Result<()> {
        for receiver in &mut self.receivers {
            let received = receiver.receive()?.payload;
            ensure!(received == payload, "received {received:?}");
        }
        Ok(())
    }

    /// Counters of a router.
    fn counters(&self, node: &str) -> Result<Counters> {
        Counters::read(&self.namespace(node)?)
    }

    /// A node's address towards a neighbour.
    fn address_of(&self, family: Family, node: &str, peer: &str) -> Result<IpAddr> {
        let interface = self.bed.testbed.interface(node, peer)?;
        of_family(family, interface.address, interface.address6)
    }

    fn address(&self, node: &str, peer: &str) -> Result<IpAddr> {
        self.address_of(self.family, node, peer)
    }

    /// A node's own address.
    fn node(&self, node: &str) -> Result<IpAddr> {
        let node = self.bed.testbed.node(node)?;
        of_family(self.family, node.address, node.address6)
    }

    /// What sockets are bound to that use any address.
    fn any(&self) -> IpAddr {
        match self.family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

fn of_family(family: Family, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<IpAddr> {
    let address = match family {
        Family::Ipv4 => ipv4.map(IpAddr::V4),
        Family::Ipv6 => ipv6.map(IpAddr::V6),
    };
    address.context("no address")
}

fn code_points() -> Result<CodePoints> {
    let ipv6 = Ipv6CodePoints {
        group: "ff02::114".parse()?,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
    };
    Ok(CodePoints::new(PROTOCOL, GROUP)?.with_ipv6(ipv6)?)
}

/// A native sender that asks often, so that tests need not wait for long.
fn native() -> Result<Settings> {
    Ok(Settings {
        probing: Some(Probing {
            period: Duration::from_millis(100),
            valid_for: PATIENCE,
            ..Probing::default()
        }),
        ..Settings::new(Uplink::native(code_points()?))
    })
}

/// The UDP port of routers that take Xcast inside UDP.
const UDP_PORT: u16 = 4242;

/// Routers that take Xcast inside UDP.
fn with_udp() -> RouterConfig {
    let udp = [("port".to_owned(), i64::from(UDP_PORT).into())];
    RouterConfig {
        udp: Some(udp.into_iter().collect()),
        ..RouterConfig::default()
    }
}

/// A sender inside UDP, to R1, that asks often.
fn in_udp(hosts: &Hosts) -> Result<Settings> {
    // Routers answer as often as they are asked: Linux limits ICMP to one message a second.
    let r1 = hosts.namespace("R1")?;
    r1.sysctl("ipv4/icmp_ratelimit", "0")?;
    r1.sysctl("ipv6/icmp/ratelimit", "0")?;
    let router = SocketAddr::from((hosts.address("R1", "A")?, UDP_PORT));
    Ok(Settings {
        uplink: Uplink::udp(code_points()?, router),
        ..native()?
    })
}

#[track_caller]
fn with(
    topology: &Topology,
    config: &RouterConfig,
    names: &[&str],
    opted_in: usize,
    test: impl Fn(Hosts) -> Result<()>,
) {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        let hosts = Hosts::up(&[family], topology, config, names, opted_in);
        if let Err(error) = hosts.and_then(&test) {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// fig3 with its receivers.
#[track_caller]
fn with_fig3(config: &RouterConfig, test: impl Fn(Hosts) -> Result<()>) {
    with(&Topology::fig3(), config, &["B", "C", "D"], 0, test);
}

/// One packet into the router's own interface; receivers get plain unicast from the sender's
/// socket, and their replies arrive there.
#[test]
fn native_sender_on_a_router() {
    with_fig3(&RouterConfig::default(), |mut hosts| {
        let own = hosts.address("R1", "R2")?;
        let settings = native()?;
        let to = hosts.to.clone();
        let sender = hosts.namespace("R1")?.enter(move || {
            let mut sender = Sender::new(UdpSocket::bind((own, 0))?, settings)?;
            ensure!(sender.wait_for_router(PATIENCE)?, "no answer");
            let sent = sender.send(&to, b"one packet")?;
            ensure!(
                sent.xcast_packets == 1 && sent.unicast_packets == 0,
                "{sent:?}"
            );
            Ok(sender)
        })?;
        let from = sender.socket().local_addr()?;
        sender.socket().set_read_timeout(Some(PATIENCE))?;
        for receiver in &mut hosts.receivers {
            let received = receiver.receive()?;
            ensure!(received.payload == b"one packet" && received.from == from);
            receiver.socket().send_to(b"reply", from)?;
            ensure!(sender.socket().recv(&mut [0; 10])? == 5);
        }
        Ok(())
    });
}

/// Combined and single messages, to receivers that opted in and to one that did not.
#[test]
fn combined_messages() {
    with_lan(&RouterConfig::default(), |mut hosts| {
        let own = hosts.address("R1", "A")?;
        let (settings, messages) = (native()?, Messages::to(&hosts));
        let report = hosts
            .namespace("R1")?
            .enter(|| messages.send(own, settings))?;
        messages.received(&mut hosts, &report)
    });
}

/// The same from a host, inside UDP, without privileges.
#[test]
fn combined_messages_in_udp() {
    with_lan(&with_udp(), |mut hosts| {
        let (settings, messages) = (in_udp(&hosts)?, Messages::to(&hosts));
        let any = hosts.any();
        let before = hosts.counters("R1")?;
        let report = hosts
            .namespace("A")?
            .enter_as_nobody(|| messages.send(any, settings))?;
        messages.received(&mut hosts, &report)?;
        let counted = hosts.counters("R1")?.since(&before);
        let taken = report.sender.probes + report.sender.xcast_packets;
        ensure!(counted["decapsulated"] == taken, "{counted:?} {report:?}");
        Ok(())
    });
}

/// Four hosts on a LAN, three of which have opted in to envelopes.
#[track_caller]
fn with_lan(config: &RouterConfig, test: impl Fn(Hosts) -> Result<()>) {
    let names = ["H1", "H2", "H3", "H4"];
    with(&Topology::lan(4), config, &names, 3, test);
}

/// A message to each, with much in common, and one to all.
struct Messages {
    shared: String,
    each: Vec<(Option<Tag>, SocketAddr, String)>,
}

impl Messages {
    fn to(hosts: &Hosts) -> Self {
        let receivers = hosts.receivers.iter().zip(&hosts.to);
        let own =
            |(receiver, to): (&Receiver, &SocketAddr)| (receiver.tag(), *to, format!(", {to}"));
        Self {
            shared: "x".repeat(200),
            each: receivers.map(own).collect(),
        }
    }

    /// Sends them by a socket bound to `own`.
    fn send(&self, own: IpAddr, settings: Settings) -> Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let socket = UdpSocket::bind((own, 0))?;
            let mut sender = xcast_host::tokio::Sender::new(socket, settings)?;
            ensure!(sender.wait_for_router(PATIENCE).await?, "no answer");
            let sender = CombiningSender::new(sender, QueueLimits::default());
            for (tag, to, own) in &self.each {
                if let Some(tag) = tag {
                    sender.opt_in(*to, *tag).await??;
                }
                let segments = [self.shared.clone().into(), own.clone().into()];
                sender.send(Message::to_one(*to, segments)).await?;
            }
            sender.flush().await?;
            for (_, to, _) in &self.each {
                let message = Message::to_one(*to, ["for all".into()]);
                sender.send(message).await?;
            }
            Ok(sender.close().await?)
        })
    }

    /// Everyone gets what was sent to them, in two packets altogether.
    fn received(&self, hosts: &mut Hosts, report: &Report) -> Result<()> {
        ensure!(
            report.queue.partial == 3 && report.queue.whole == 4,
            "{report:?}"
        );
        ensure!(report.sender.xcast_packets == 2, "{report:?}");
        for (receiver, (tag, _, own)) in hosts.receivers.iter_mut().zip(&self.each) {
            let received = receiver.receive()?;
            let text = format!("{}{own}", self.shared);
            ensure!(received.payload == text.as_bytes() && received.combined == tag.is_some());
            let received = receiver.receive()?;
            ensure!(received.payload == b"for all" && !received.combined);
        }
        Ok(())
    }
}

/// A user without privileges sends one packet inside UDP; everyone gets plain unicast from the
/// sender's own socket, and their replies arrive there.
#[test]
fn unprivileged_sender_in_udp() {
    with_fig3(&with_udp(), |mut hosts| {
        let any = hosts.any();
        let settings = in_udp(&hosts)?;
        let to = hosts.to.clone();
        let link = hosts.bed.testbed.interface("A", "R1")?.name.clone();
        let a = hosts.namespace("A")?;
        let tap = Tap::open_for_sent(&a, &link)?;
        let before = hosts.counters("R1")?;
        let sender = a.enter_as_nobody(move || {
            let mut sender = Sender::new(UdpSocket::bind((any, 0))?, settings)?;
            ensure!(sender.wait_for_router(PATIENCE)?, "no answer");
            let sent = sender.send(&to, b"one packet")?;
            ensure!(
                sent.xcast_packets == 1 && sent.unicast_packets == 0,
                "{sent:?}"
            );
            Ok(sender)
        })?;
        hosts.receive(b"one packet")?;
        let mut on_the_link = Vec::new();
        while let Some(frame) = tap.take()? {
            on_the_link.push(frame);
        }
        on_the_link.retain(|frame| frame.ends_with(b"one packet"));
        ensure!(on_the_link.len() == 1, "{} packets", on_the_link.len());
        let counted = hosts.counters("R1")?.since(&before);
        let taken = sender.statistics().probes + 1;
        ensure!(counted["decapsulated"] == taken, "{counted:?}");

        let port = sender.socket().local_addr()?.port();
        let from = (hosts.node("A")?, port);
        sender.socket().set_read_timeout(Some(PATIENCE))?;
        for receiver in &hosts.receivers {
            receiver.socket().send_to(b"reply", from)?;
            ensure!(sender.socket().recv(&mut [0; 10])? == 5);
        }
        Ok(())
    });
}

/// A list of both families leaves as one packet of each, native and in UDP.
#[test]
fn a_mixed_list() {
    if !namespace::available() {
        return;
    }
    let test = |mut hosts: Hosts| {
        let router = |family| hosts.address_of(family, "R1", "A");
        let (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) = (router(Family::Ipv4)?, router(Family::Ipv6)?)
        else {
            unreachable!("asked for one of each");
        };
        let routers = (
            SocketAddrV4::new(ipv4, UDP_PORT),
            SocketAddrV6::new(ipv6, UDP_PORT, 0, 0),
        );
        let in_udp = Settings {
            uplink: Uplink::udp(code_points()?, routers),
            ..in_udp(&hosts)?
        };
        for (node, settings) in [("R1", native()?), ("A", in_udp)] {
            let to = hosts.to.clone();
            let sender = hosts.namespace(node)?.enter(move || {
                let mut sender = Sender::new(UdpSocket::bind("[::]:0")?, settings)?;
                ensure!(sender.wait_for_router(PATIENCE)?, "no answer");
                let sent = sender.send(&to, b"one each")?;
                ensure!(
                    sent.xcast_packets == 2 && sent.unicast_packets == 0,
                    "{sent:?}"
                );
                Ok(sender)
            })?;
            let port = sender.socket().local_addr()?.port();
            sender.socket().set_read_timeout(Some(PATIENCE))?;
            for receiver in &mut hosts.receivers {
                let received = receiver.receive()?;
                ensure!(received.payload == b"one each", "{received:?}");
                let from = received.from;
                ensure!(from.port() == port, "from {from}");
                receiver.socket().send_to(b"reply", from)?;
                ensure!(sender.socket().recv(&mut [0; 10])? == 5);
            }
        }
        Ok(())
    };
    let names = ["H1", "H2", "H3", "H4"];
    let (lan, config) = (Topology::lan(4), with_udp());
    if let Err(error) = Hosts::up(&Family::ALL, &lan, &config, &names, 0).and_then(test) {
        panic!("{error:#}");
    }
}

/// While there is no router everyone is served by unicast, and the sender says so.
#[test]
fn a_router_in_udp_stops_and_returns() {
    with_fig3(&with_udp(), |mut hosts| {
        let any = hosts.any();
        let settings = in_udp(&hosts)?;
        let (to, a) = (hosts.to.clone(), hosts.namespace("A")?);
        let mut sender = a.enter_as_nobody(move || {
            let socket = UdpSocket::bind((any, 0))?;
            let mut sender = Sender::new(socket, settings)?;
            ensure!(sender.wait_for_router(PATIENCE)?, "no answer");
            Ok(sender)
        })?;
        ensure!(sender.send(&to, b"with it")?.xcast_packets == 1);
        hosts.receive(b"with it")?;

        hosts.bed.testbed.stop_router("R1", Signal::SIGTERM)?;
        // It is a probe that finds out: nothing is lost.
        let deadline = Instant::now() + PATIENCE;
        sender = a.enter_as_nobody(move || {
            while sender.wait_for_router(Duration::ZERO)? {
                ensure!(Instant::now() < deadline, "the sender does not notice");
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(sender)
        })?;
        ensure!(
            sender.router() == Err(UnicastCause::Refused),
            "{:?}",
            sender.router()
        );
        let (sent, mut sender) = {
            let to = to.clone();
            a.enter_as_nobody(move || Ok((sender.send(&to, b"without it")?, sender)))?
        };
        ensure!(
            sent.xcast_packets == 0 && sent.unicast_packets == 3,
            "{sent:?}"
        );
        hosts.receive(b"without it")?;
        let statistics = sender.statistics();
        ensure!(
            statistics.fallbacks() == 3 && statistics.lost == 1,
            "{statistics}"
        );

        let testbed = &mut hosts.bed.testbed;
        testbed.start_router("R1", tests::daemon::program(), &with_udp())?;
        let sent = a.enter_as_nobody(move || {
            ensure!(sender.wait_for_router(PATIENCE)?, "no answer");
            Ok(sender.send(&to, b"with it again")?)
        })?;
        ensure!(
            sent.xcast_packets == 1 && sent.unicast_packets == 0,
            "{sent:?}"
        );
        hosts.receive(b"with it again")
    });
}

/// What claims to be somebody else's is dropped and counted, and nobody gets it.
#[test]
fn a_forged_source_in_udp() {
    with_fig3(&with_udp(), |mut hosts| {
        let router = (hosts.address("R1", "A")?, UDP_PORT);
        let (family, victim) = (hosts.family, hosts.node("B")?);
        let group = family.address(GROUP);
        let port = hosts.to[1].port();
        let address = |to: &SocketAddr| packet::Destination::new(to.ip()).port(port);
        let destinations: Vec<_> = hosts.to[1..].iter().map(address).collect();
        let protocol = match family {
            Family::Ipv4 => PROTOCOL,
            Family::Ipv6 => packet::protocol::ROUTING,
        };
        let from = |source: IpAddr, text: &[u8]| {
            let xcast = packet::Xcast::new(packet::protocol::UDP, destinations.clone());
            let segment = packet::udp((source, 7), (group, port), text, None);
            packet::Ip::new(source, group, protocol).emit(&[xcast.emit(family), segment].concat())
        };
        let own = hosts.node("A")?;
        let packets = [from(victim, b"forged"), from(own, b"honest")];
        let any = hosts.any();
        let before = hosts.counters("R1")?;
        hosts.namespace("A")?.enter_as_nobody(|| {
            let socket = UdpSocket::bind((any, 0))?;
            for packet in packets {
                socket.send_to(&packet, router)?;
            }
            Ok(())
        })?;
        let received = hosts.receivers[1].receive()?;
        ensure!(received.payload == b"honest", "{received:?}");
        let counted = hosts.counters("R1")?.since(&before);
        ensure!(
            counted["drop_udp_source"] == 1 && counted["decapsulated"] == 1,
            "{counted:?}"
        );
        Ok(())
    });
}

/// A router that takes no Xcast inside UDP says so itself, and everyone is served by unicast.
#[test]
fn no_router_for_xcast_in_udp() {
    with_fig3(&RouterConfig::default(), |mut hosts| {
        let router = SocketAddr::from((hosts.address("R1", "A")?, 4000));
        let any = hosts.any();
        let settings = Settings::new(Uplink::udp(code_points()?, router));
        let to = hosts.to.clone();
        let statistics = hosts.namespace("A")?.enter(move || {
            let socket = UdpSocket::bind((any, 0))?;
            let mut sender = Sender::new(socket, settings)?;
            ensure!(!sender.wait_for_router(Duration::from_millis(100))?);
            sender.send(&to, b"to each")?;
            Ok(*sender.statistics())
        })?;
        ensure!(statistics.fallbacks() == 3, "{statistics}");
        for receiver in &mut hosts.receivers {
            ensure!(receiver.receive()?.payload == b"to each");
        }
        Ok(())
    });
}

/// Datagrams for neighbours that do not answer fill the send buffer. A send that does not wait gives
/// back exactly the destinations that are left.
#[test]
fn what_a_full_send_buffer_leaves_comes_back() {
    if !namespace::available() {
        return;
    }
    let run = || {
        let namespace = Namespace::new("full")?;
        namespace.ip_batch(
            "link add here type veth peer name there\nlink set there up\nlink set here up\n\
             addr add 10.0.0.1/24 dev here\n",
        )?;
        let to: Vec<_> = (2..100)
            .map(|host| SocketAddr::from(([10, 0, 0, host], 5000)))
            .collect();
        namespace.enter(|| {
            let socket = UdpSocket::bind("10.0.0.1:0")?;
            setsockopt(&socket, SndBuf, &4096)?;
            let mut sender = Sender::new(&socket, Settings::new(Uplink::Unicast))?;
            let outcome = sender.try_send_with(&Options::default(), &to, &[0; 1000]);
            let Err(SendError::WouldBlock { sent, failed, rest }) = outcome else {
                anyhow::bail!("{outcome:?}");
            };
            let served = sent.unicast_packets;
            ensure!(served > 0 && failed.is_empty(), "{sent:?}, {failed:?}");
            let left: Vec<_> = rest.iter().map(|destination| destination.address).collect();
            ensure!(left == to[served..], "{served} served, {left:?} left");
            Ok(())
        })
    };
    if let Err(error) = run() {
        panic!("{error:?}");
    }
}
