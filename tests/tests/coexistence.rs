//! The router beside everything else on the machine: other traffic, its own start and end.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::{self, Daemon, PATIENCE};
use tests::family::Family;
use tests::layout::{self, Layout, interface};
use tests::namespace::{self, Namespace};
use tests::oracle::Branch;
use tests::packet::{self, Ip, protocol};
use tests::rig::{self, Observed, Rig, SOURCE, list};
use tests::tap::Tap;

/// A plain UDP packet from behind port 0 to behind port 2, and as it leaves.
fn plain(payload: &[u8]) -> (Vec<u8>, Observed) {
    let family = Family::under_test();
    let (source, destination) = (family.address(SOURCE), family.address(layout::behind(2, 7)));
    let ip = Ip::new(source, destination, protocol::UDP);
    let segment = packet::udp((source, 1), (destination, 2), payload, None);
    let arrival = packet::ethernet(
        layout::router_mac(0),
        layout::neighbour_mac(0, 2),
        family.ether_type(),
        &ip.emit(&segment),
    );
    let ip = Ip { ttl: 63, ..ip };
    let frame = packet::ethernet(
        layout::neighbour_mac(2, 2),
        layout::router_mac(2),
        family.ether_type(),
        &ip.emit(&segment),
    );
    let branches = vec![Branch { port: 2, frame }];
    let leaving = Observed {
        branches,
        stack: Vec::new(),
    };
    (arrival, leaving)
}

fn three() -> Vec<u8> {
    let destinations = [
        layout::behind(1, 1),
        layout::behind(1, 2),
        layout::behind(2, 1),
    ];
    rig::udp(list(destinations)).frame()
}

#[test]
fn other_packets_are_the_kernels() {
    rig::with(&Layout::default(), |rig| {
        let before = rig.counters()?;
        for len in [0, 1, 100, 1400] {
            let (arrival, leaving) = plain(&vec![len as u8; len]);
            rig::compare(&leaving, &rig.observe(0, &arrival)?)?;
        }
        // An echo request to the router is answered.
        let (source, router) = (rig.ip(SOURCE), rig.ip(layout::router(1)));
        let (echo, protocol, reply) = match rig.family() {
            Family::Ipv4 => (packet::icmp_echo(7, 1, b"ping"), protocol::ICMP, 0),
            Family::Ipv6 => {
                let echo = packet::icmpv6_echo(source, router, 1, b"ping");
                (echo, protocol::ICMPV6, 129)
            }
        };
        rig.drain()?;
        rig.taps[0].send(&packet::ethernet(
            layout::router_mac(0),
            layout::neighbour_mac(0, 2),
            rig.family().ether_type(),
            &Ip::new(source, router, protocol).emit(&echo),
        ))?;
        loop {
            let answer = rig.taps[0].receive(Instant::now() + PATIENCE)?;
            let answer = answer.context("no echo reply")?;
            let answer = Ip::parse(rig.family(), &answer[packet::ETHERNET_LEN..]);
            if answer.is_some_and(|(ip, icmp)| ip.protocol == protocol && icmp[0] == reply) {
                break;
            }
        }
        let counted = rig.counters()?.since(&before);
        ensure!(counted.is_empty(), "{counted:?}");
        Ok(())
    });
}

/// Tagged frames, whatever is in them, reach the kernel as they came.
#[test]
fn vlan_tagged_frames() {
    rig::with(&Layout::default(), |rig| {
        let tap = Tap::open(&rig.router, &interface(0))?;
        let before = rig.counters()?;
        for tag in [[0x81, 0x00, 0x00, 0x05], [0x88, 0xa8, 0xe0, 0x07]] {
            for mut frame in [three(), plain(b"tagged").0] {
                frame.splice(12..12, tag);
                tap.drain()?;
                ensure!(rig.observe(0, &frame)? == Observed::default());
                let seen = tap.take()?.context("the kernel did not get it")?;
                ensure!(seen == frame, "{} instead", packet::hex(&seen));
            }
        }
        let counted = rig.counters()?.since(&before);
        ensure!(counted.is_empty(), "{counted:?}");
        Ok(())
    });
}

/// A flood of ordinary packets between two hosts, with Xcast packets in between.
#[test]
fn unicast_flows_beside_xcast() {
    rig::with(&Layout::default(), |rig| {
        let (arrival, leaving) = plain(b"ordinary");
        let three = three();
        let mut arrivals = vec![(0, &arrival[..]); 20];
        arrivals.insert(10, (0, &three));
        let expected = tests::oracle::expect(&rig.view, 0, &three);
        let mut wanted = Observed {
            branches: expected.branches,
            stack: expected.stack,
        };
        wanted
            .branches
            .extend(vec![leaving.branches[0].clone(); 20]);
        for _ in 0..20 {
            rig::compare(&wanted, &rig.observe_all(&arrivals)?)?;
        }
        Ok(())
    });
}

/// What is lost without any sign of the kernel's is shown as loss: a peer that cannot take XDP
/// frames.
#[test]
fn loss_is_shown() {
    rig::with(&Layout::default(), |rig| {
        rig.check(0, &three())?;
        rig.wires.set_gro(&interface(1), false)?;
        let loss = |rig: &Rig| {
            let stats = daemon::report(&rig.router, &["stats"])?;
            stats["loss"].as_u64().context("stats has no loss")
        };
        let before = loss(rig)?;
        let counters = rig.counters()?;
        // Once a second the router looks, and sends by the stack from then on: rounds in which it
        // has just done so say nothing about loss.
        let mut lost = 0;
        while lost < 5 {
            let seen = rig.observe(0, &three())?;
            if seen.branches.len() == 1 {
                ensure!(seen.branches[0].port == 2, "the other copy is there");
                lost += 1;
                ensure!(loss(rig)? - before == lost, "loss {}", loss(rig)?);
                continue;
            }
            ensure!(seen.branches.len() > 1, "both copies are gone");
            rig.wires.set_gro(&interface(1), true)?;
            rig.eventually(0, &three())?;
            rig.wires.set_gro(&interface(1), false)?;
        }
        let counted = rig.counters()?.since(&counters);
        ensure!(counted["planned"] == counted["sent"] + 5, "{counted:?}");
        // And it is over when the peer can again.
        rig.wires.set_gro(&interface(1), true)?;
        rig.eventually(0, &three())
    });
}

/// Whether the kernel has any XDP program on the port.
fn has_program(rig: &Rig, port: usize) -> Result<bool> {
    let link = rig
        .router
        .ip(&format!("-d link show {}", interface(port)))?;
    Ok(link.contains("prog/xdp"))
}

/// Ended by an administrator, the router leaves an ordinary Linux router behind; started again, it
/// goes on.
#[test]
fn end_and_start_again() {
    rig::with(&Layout::default(), |rig| {
        for _ in 0..2 {
            ensure!(has_program(rig, 0)?);
            rig.check(0, &three())?;
            rig.stop()?;
            for port in 0..4 {
                ensure!(!has_program(rig, port)?, "port {port} has a program left");
            }
            let links = rig.router.ip("link show")?;
            ensure!(!links.contains(rig::STACK_INTERFACE), "{links}");
            let (arrival, leaving) = plain(b"nobody home");
            rig::compare(&leaving, &rig.observe(0, &arrival)?)?;
            ensure!(rig.observe(0, &three())? == Observed::default());
            rig.start_daemon()?;
        }
        Ok(())
    });
}

/// Killed without a chance to clean up, it can be started again as if nothing had happened.
#[test]
fn killed_and_started_again() {
    rig::with(&Layout::default(), |rig| {
        for _ in 0..2 {
            rig.check(0, &three())?;
            rig.kill()?;
            let (arrival, leaving) = plain(b"other traffic flows");
            rig::compare(&leaving, &rig.observe(0, &arrival)?)?;
            rig.start_daemon()?;
            let (arrival, leaving) = plain(b"still");
            rig::compare(&leaving, &rig.observe(0, &arrival)?)?;
        }
        rig.check(0, &three())?;
        // What a killed one leaves behind can also be taken away.
        rig.kill()?;
        for _ in 0..2 {
            let output = daemon::ctl(&rig.router, &["unload"])?;
            ensure!(output.status.success(), "{output:?}");
        }
        let links = rig.router.ip("link show")?;
        ensure!(!links.contains(rig::STACK_INTERFACE), "{links}");
        for port in 0..4 {
            ensure!(!has_program(rig, port)?, "port {port} has a program left");
        }
        rig.start_daemon()?;
        rig.check(0, &three())?;
        Ok(())
    });
}

/// `unload` ends a running router.
#[test]
fn unloaded() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let rig = Rig::start(&Layout::default())?;
        let output = daemon::ctl(&rig.router, &["unload"])?;
        ensure!(output.status.success(), "{output:?}");
        for port in 0..4 {
            ensure!(!has_program(&rig, port)?, "port {port} has a program left");
        }
        let output = daemon::ctl(&rig.router, &["status", "--json"])?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        Ok(())
    };
    test().unwrap();
}

/// A second router in the same place is refused, and does the first no harm.
#[test]
fn twice_at_once() {
    rig::with_family(Family::Ipv4, &Layout::default(), |rig| {
        rig.check(0, &three())?;
        let config = rig.daemon()?.config();
        let config = config.to_string_lossy();
        let output = daemon::ctl(&rig.router, &["run", "--config", &config])?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(!output.stderr.is_empty());
        rig.check(0, &three())?;
        Ok(())
    });
}

/// An interface of the configuration that comes later becomes a port when it does.
#[test]
fn interface_comes_later() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut rig = Rig::prepare(&Layout::default())?;
        rig.remove_port(2)?;
        rig.start_daemon()?;
        rig.restore_port(2)?;
        rig.eventually(0, &three())?;
        rig.stop()
    };
    test().unwrap();
}

/// Two hosts and a program that sends as programs do: the router is where the packet starts.
#[test]
fn a_program_on_the_router_sends() {
    rig::with(&Layout::default(), |rig| {
        let source = layout::router(3);
        let segment = packet::udp(
            (source, 4000),
            (layout::GROUP, 5000),
            b"from the router itself",
            None,
        );
        let destinations = list([
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::behind(2, 1),
        ]);
        let mut packet = rig::carrying(protocol::UDP, destinations, segment);
        packet.ip.source = source.into();
        // As if it had come in by some port, from somebody who may be this source.
        let mut view = rig.view.clone();
        let own = rig.ip(source);
        view.own.retain(|&address| address != own);
        let expected = tests::oracle::expect(&view, 0, &packet.frame());
        let wanted = Observed {
            branches: expected.branches,
            stack: expected.stack,
        };
        ensure!(wanted.branches.len() == 2);

        let sender = Tap::open(&rig.router, rig::STACK_INTERFACE)?;
        for _ in 0..3 {
            rig.drain()?;
            sender.send(&packet.frame())?;
            std::thread::sleep(Duration::from_millis(100));
            let mut seen = Observed::default();
            for (port, tap) in rig.taps.iter().enumerate() {
                while let Some(frame) = tap.take()? {
                    let ip = Ip::parse(rig.family(), &frame[packet::ETHERNET_LEN..]);
                    // Neighbour discovery goes on beside it.
                    let is_ours = ip.is_some_and(|(ip, _)| ip.protocol != protocol::ICMPV6);
                    if packet::be16(&frame, 12) == Some(rig.family().ether_type()) && is_ours {
                        seen.branches.push(Branch { port, frame });
                    }
                }
            }
            rig::compare(&wanted, &seen)?;
        }
        Ok(())
    });
}

/// `send` and `recv` of the command line, from one end of a router to the other.
#[test]
fn command_line_source_and_sink() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let (a, router, b) = (
            Namespace::new("a")?,
            Namespace::new("router")?,
            Namespace::new("b")?,
        );
        let (name_a, name_b) = (a.name(), b.name());
        router.sysctl("ipv4/ip_forward", "1")?;
        router.ip_batch(&format!(
            "link add p0 type veth peer name p0 netns {name_a}\n\
             link add p1 type veth peer name p0 netns {name_b}\n\
             address add 10.0.0.1/24 dev p0\nlink set p0 up\n\
             address add 10.0.1.1/24 dev p1\nlink set p1 up\n"
        ))?;
        for (namespace, net) in [(&a, 0), (&b, 1)] {
            namespace.ip_batch(&format!(
                "address add 10.0.{net}.2/24 dev p0\nlink set p0 up\n\
                 route add default via 10.0.{net}.1\n"
            ))?;
            namespace.set_gro("p0", true)?;
            namespace.set_tx_checksum("p0", false)?;
        }
        let layout = Layout {
            ports: 2,
            ..Layout::default()
        };
        let daemon = Daemon::start(&router, &layout.configuration())?;
        let socket = b.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5001))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        let (protocol, group) = (layout::PROTOCOL.to_string(), layout::GROUP.to_string());
        let output = daemon::ctl(
            &a,
            &[
                "send",
                "--protocol",
                &protocol,
                "--group",
                &group,
                "--payload",
                "hello",
                "10.0.1.2:5001",
                "10.0.0.1:5002",
            ],
        )?;
        ensure!(output.status.success(), "{output:?}");
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer)?;
        ensure!(&buffer[..len] == b"hello", "{:?}", &buffer[..len]);
        ensure!(from.ip() == Ipv4Addr::new(10, 0, 0, 2), "from {from}");
        ensure!(daemon.stop()?.success());
        Ok(())
    };
    test().unwrap();
}
