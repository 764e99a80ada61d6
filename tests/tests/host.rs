//! The library for applications, with real routers.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::bed::Bed;
use tests::daemon::PATIENCE;
use tests::layout::{GROUP, PROTOCOL};
use tests::namespace::{self, Namespace};
use xcast_host::envelope::Tag;
use xcast_host::queue::Limits;
use xcast_host::tokio::CombiningSender;
use xcast_host::{CodePoints, Message, Outlet, Probing, Receiver, Sender, Settings};
use xtask::testbed::{Routing, Topology};

/// A testbed with a socket on each of some hosts.
struct Hosts {
    bed: Bed,
    receivers: Vec<Receiver>,
    to: Vec<SocketAddr>,
}

impl Hosts {
    /// The hosts of that name; those of the given number have opted in to envelopes.
    fn up(topology: &Topology, names: &[&str], opted_in: usize) -> Result<Self> {
        let mut bed = Bed::up(topology, Routing::Static)?;
        bed.start_routers()?;
        let (mut receivers, mut to) = (Vec::new(), Vec::new());
        for (number, name) in names.iter().enumerate() {
            let address = bed.testbed.node(name)?.address.context("no address")?;
            let socket = bed.namespace(name)?.enter(|| {
                let socket = UdpSocket::bind((address, 0))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })?;
            to.push(socket.local_addr()?);
            let tag = (number < opted_in).then(Tag::random);
            receivers.push(Receiver::new(socket, tag));
        }
        Ok(Self { bed, receivers, to })
    }

    fn namespace(&self, node: &str) -> Result<Namespace> {
        self.bed.namespace(node)
    }

    /// The router's address towards a neighbour.
    fn address(&self, node: &str, peer: &str) -> Result<Ipv4Addr> {
        let interface = self.bed.testbed.interface(node, peer)?;
        interface.address.context("no address")
    }
}

fn code_points() -> Result<CodePoints> {
    Ok(CodePoints::new(PROTOCOL, GROUP)?)
}

/// A native sender that asks often, so that tests need not wait for long.
fn native() -> Result<Settings> {
    Ok(Settings {
        probing: Some(Probing {
            period: Duration::from_millis(100),
            valid_for: PATIENCE,
        }),
        ..Settings::new(Outlet::native(code_points()?))
    })
}

#[track_caller]
fn with(
    topology: &Topology,
    names: &[&str],
    opted_in: usize,
    test: impl FnOnce(Hosts) -> Result<()>,
) {
    if !namespace::available() {
        return;
    }
    if let Err(error) = Hosts::up(topology, names, opted_in).and_then(test) {
        panic!("{error:#}");
    }
}

/// One packet into the router's own interface; receivers get plain unicast from the sender's
/// socket, and their replies arrive there.
#[test]
fn native_sender_on_a_router() {
    with(&Topology::fig3(), &["B", "C", "D"], 0, |mut hosts| {
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
    with(
        &Topology::lan(4),
        &["H1", "H2", "H3", "H4"],
        3,
        |mut hosts| {
            let own = hosts.address("R1", "A")?;
            let settings = native()?;
            let shared = "x".repeat(200);
            let messages: Vec<_> = hosts
                .receivers
                .iter()
                .zip(&hosts.to)
                .map(|(receiver, to)| (receiver.tag(), *to, format!("{shared}, {to}")))
                .collect();
            let report = hosts.namespace("R1")?.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let socket = UdpSocket::bind((own, 0))?;
                    let mut sender = xcast_host::tokio::Sender::new(socket, settings)?;
                    ensure!(sender.wait_for_router(PATIENCE).await?, "no answer");
                    let sender = CombiningSender::new(sender, Limits::default());
                    for (tag, to, text) in &messages {
                        if let Some(tag) = tag {
                            sender.opt_in(*to, *tag).await??;
                        }
                        let own = text[shared.len()..].to_owned();
                        let segments = [shared.clone().into(), own.into()];
                        sender.send(Message::to_one(*to, segments)).await?;
                    }
                    sender.flush().await?;
                    for (_, to, _) in &messages {
                        let message = Message::to_one(*to, ["for all".into()]);
                        sender.send(message).await?;
                    }
                    Ok(sender.close().await?)
                })
            })?;
            ensure!(
                report.queue.partial == 3 && report.queue.whole == 4,
                "{report:?}"
            );
            ensure!(report.sender.xcast_packets == 2, "{report:?}");
            for (receiver, (tag, _, text)) in hosts.receivers.iter_mut().zip(&messages) {
                let received = receiver.receive()?;
                ensure!(received.payload == text.as_bytes() && received.combined == tag.is_some());
                let received = receiver.receive()?;
                ensure!(received.payload == b"for all" && !received.combined);
            }
            Ok(())
        },
    );
}

/// A router that takes no Xcast inside UDP says so itself, and everyone is served by unicast.
#[test]
fn no_router_for_xcast_in_udp() {
    with(&Topology::fig3(), &["B", "C", "D"], 0, |mut hosts| {
        let router = (hosts.address("R1", "A")?, 4000).into();
        let settings = Settings::new(Outlet::udp(code_points()?, router));
        let to = hosts.to.clone();
        let statistics = hosts.namespace("A")?.enter(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
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
