//! What the fast path cannot do is done by the kernel, destination by destination.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::layout::{self, GROUP, Gateways, Layout, PROTOCOL};
use tests::oracle::{Branch, Target};
use tests::packet::{
    self, Destination, ETHER_TYPE_IPV4, ETHERNET_LEN, Ip, Mac, Packet, Xcast, be16, protocol,
};
use tests::rig::{self, COMMON_PORT, Observed, Rig, SOURCE, SOURCE_PORT, list};

const ETHER_TYPE_ARP: u16 = 0x0806;
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The packet a destination of [`rig::udp`] gets, as it leaves by `port` to `mac`.
fn delivered(packet: &Packet, destination: Ipv4Addr, port: usize, mac: Mac) -> Branch {
    let payload = &packet.segment[8..];
    let family = Family::under_test();
    let (source, destination) = (family.address(SOURCE), family.address(destination));
    let (from, to) = ((source, SOURCE_PORT), (destination, COMMON_PORT));
    let ip = Ip {
        ttl: packet.ip.ttl - 1,
        protocol: protocol::UDP,
        source,
        destination,
        ..packet.in_family(family).ip
    };
    let bytes = ip.emit(&packet::udp(from, to, payload, None));
    Branch {
        port,
        frame: packet::ethernet(mac, layout::router_mac(port), family.ether_type(), &bytes),
    }
}

/// Waits for an ARP request for `address` on `port`, and answers it.
fn answer_arp(rig: &Rig, port: usize, address: Ipv4Addr, mac: Mac) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let frame = rig.taps[port].receive(deadline)?;
        let frame = frame.with_context(|| format!("nobody asks for {address}"))?;
        let asked = packet::address(&frame, ETHERNET_LEN + 24);
        if be16(&frame, 12) == Some(ETHER_TYPE_ARP) && asked == Some(address.into()) {
            let router = (layout::router_mac(port), layout::router(port));
            let answer = packet::arp(2, (mac, address), router);
            return rig.taps[port].send(&packet::ethernet(router.0, mac, ETHER_TYPE_ARP, &answer));
        }
    }
}

/// The next IPv4 packet on the wire of `port` that `wanted` likes.
fn next_packet(
    rig: &Rig,
    port: usize,
    wanted: impl Fn(&Ip, &[u8]) -> bool,
) -> Result<(Ip, Vec<u8>)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let frame = rig.taps[port].receive(deadline)?.context("nothing came")?;
        if be16(&frame, 12) == Some(ETHER_TYPE_IPV4)
            && let Some((ip, payload)) = Ip::parse(Family::Ipv4, &frame[ETHERNET_LEN..])
            && wanted(&ip, payload)
        {
            return Ok((ip, payload.to_vec()));
        }
    }
}

/// A host nobody has spoken to: the kernel asks for it and delivers the first packet; the next one
/// is the fast path's.
#[test]
fn unresolved_host() {
    rig::with_family(Family::Ipv4, &Layout::default(), |rig| {
        let (host, mac) = (layout::on_link(1, 200), [2, 0, 0, 0, 0x77, 1]);
        let packet = rig::udp(list([host, layout::behind(2, 1), layout::behind(2, 2)]));
        rig.check(0, &packet.frame())?;
        rig.drain()?;
        rig.taps[0].send(&packet.frame())?;
        answer_arp(rig, 1, host, mac)?;
        let wanted = delivered(&packet, host, 1, mac);
        loop {
            let frame = rig.taps[1].receive(Instant::now() + PATIENCE)?;
            let frame = frame.context("the first packet was lost")?;
            if be16(&frame, 12) == Some(ETHER_TYPE_IPV4) && frame[30..34] == host.octets() {
                ensure!(frame == wanted.frame, "{}", rig::describe(&frame));
                break;
            }
        }
        rig.view.neighbours.push((1, host.into(), mac));
        rig.eventually(0, &packet.frame())
    });
}

/// The same by IPv6, with neighbour discovery.
#[test]
fn unresolved_host_ipv6() {
    rig::with_family(Family::Ipv6, &Layout::default(), |rig| {
        let (host, mac) = (layout::on_link(1, 200), [2, 0, 0, 0, 0x77, 1]);
        let packet = rig::udp(list([host, layout::behind(2, 1), layout::behind(2, 2)]));
        rig.check(0, &packet.frame())?;
        rig.drain()?;
        rig.taps[0].send(&packet.frame())?;
        answer_solicitation(rig, 1, rig.ip(host), mac)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = rig.taps[1].receive(deadline)?;
            let frame = frame.context("the first packet was lost")?;
            let to = packet::address6(&frame, ETHERNET_LEN + 24);
            if frame.get(ETHERNET_LEN + 6) == Some(&protocol::UDP) && to == Some(rig.ip(host)) {
                // Plain IPv6: nothing between the IP header and UDP, and a right checksum.
                let (from, to) = (rig.ip(SOURCE), rig.ip(host));
                let datagram = &frame[ETHERNET_LEN + 40..];
                ensure!(packet::transport_checksum(from, to, protocol::UDP, datagram) == 0);
                ensure!(frame.starts_with(&mac));
                break;
            }
        }
        let known = (1, rig.ip(host), mac);
        rig.view.neighbours.push(known);
        rig.eventually(0, &packet.frame())
    });
}

/// Waits until somebody asks for `address` on `port`, as the family does it, and answers.
fn answer(rig: &Rig, port: usize, address: Ipv4Addr, mac: Mac) -> Result<()> {
    match rig.family() {
        Family::Ipv4 => answer_arp(rig, port, address, mac),
        Family::Ipv6 => answer_solicitation(rig, port, rig.ip(address), mac),
    }
}

/// Waits for a neighbour solicitation for `address` on `port`, and answers it (RFC 4861 sections 4.3
/// and 4.4).
fn answer_solicitation(rig: &Rig, port: usize, address: IpAddr, mac: Mac) -> Result<()> {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let frame = rig.taps[port].receive(deadline)?;
        let frame = frame.with_context(|| format!("nobody asks for {address}"))?;
        let icmp = ETHERNET_LEN + 40;
        let asked = packet::address6(&frame, icmp + 8);
        if frame.get(ETHERNET_LEN + 6) != Some(&protocol::ICMPV6)
            || frame.get(icmp) != Some(&SOLICITATION)
            || asked != Some(address)
        {
            continue;
        }
        let asker = packet::address6(&frame, ETHERNET_LEN + 8).context("no source")?;
        // Solicited and override; then the target, and its link layer address as an option.
        let mut advertisement = vec![ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
        advertisement.extend(packet::octets(address));
        advertisement.extend([2, 1]);
        advertisement.extend(mac);
        let checksum = packet::transport_checksum(address, asker, protocol::ICMPV6, &advertisement);
        advertisement[2..4].copy_from_slice(&checksum.to_be_bytes());
        let ip = Ip {
            ttl: 255,
            ..Ip::new(address, asker, protocol::ICMPV6)
        };
        let router = layout::router_mac(port);
        let ether_type = Family::Ipv6.ether_type();
        let answer = packet::ethernet(router, mac, ether_type, &ip.emit(&advertisement));
        return rig.taps[port].send(&answer);
    }
}

/// What cannot be reached by IPv6 is answered by the kernel, quoting plain IPv6; so is what is too big.
#[test]
fn icmpv6_from_the_kernel() {
    let layout = Layout {
        mtu: vec![(2, 1280)],
        ..Layout::default()
    };
    rig::with_family(Family::Ipv6, &layout, |rig| {
        let good = [layout::behind(1, 1), layout::behind(1, 2)];
        let long = vec![0x5a; 1300];
        for (bad, segment, kind) in [
            (NOWHERE, b"short".to_vec(), (1, 0)),
            (layout::behind(2, 1), long, (2, 0)),
        ] {
            let ends = ((SOURCE, SOURCE_PORT), (GROUP, COMMON_PORT));
            let segment = packet::udp(ends.0, ends.1, &segment, None);
            let [first, second] = good;
            let packet = rig::carrying(protocol::UDP, list([first, bad, second]), segment);
            rig.drain()?;
            rig.taps[0].send(&packet.frame())?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let frame = rig.taps[0].receive(deadline)?.context("no answer came")?;
                let icmp = ETHERNET_LEN + 40;
                if frame.get(ETHERNET_LEN + 6) != Some(&protocol::ICMPV6)
                    || frame.get(icmp).is_none_or(|&kind| kind >= 128)
                {
                    continue;
                }
                ensure!(
                    (frame[icmp], frame[icmp + 1]) == kind,
                    "{:?}",
                    &frame[icmp..icmp + 2]
                );
                let quoted = &frame[icmp + 8..];
                ensure!(quoted[6] == protocol::UDP, "quotes protocol {}", quoted[6]);
                ensure!(packet::address6(quoted, 8) == Some(rig.ip(SOURCE)));
                ensure!(packet::address6(quoted, 24) == Some(rig.ip(bad)));
                break;
            }
        }
        Ok(())
    });
}

/// A gateway nobody has spoken to is asked for before the first packet needs it. Until it answers,
/// its destinations are the kernel's; afterwards they share an Xcast copy.
#[test]
fn unresolved_gateway() {
    rig::with(&Layout::default(), |rig| {
        let packet = rig::udp(list([
            layout::behind_silent(1, 1),
            layout::behind_silent(1, 2),
            layout::behind(2, 1),
        ]));
        rig.check(0, &packet.frame())?;
        let (gateway, mac) = (layout::on_link(1, 5), layout::neighbour_mac(1, 5));
        rig.drain()?;
        answer(rig, 1, gateway, mac)?;
        let gateway = rig.ip(gateway);
        for route in &mut rig.view.routes {
            if let Target::Gateway {
                address,
                mac: known,
                ..
            } = &mut route.2
                && *address == gateway
            {
                *known = Some(mac);
            }
        }
        // What the kernel still holds for it comes first.
        std::thread::sleep(Duration::from_millis(100));
        rig.eventually(0, &packet.frame())
    });
}

/// Gateways are kept resolved: one that answers is ready before any packet was sent to it.
#[test]
fn gateways_are_resolved_in_advance() {
    if !tests::namespace::available() {
        return;
    }
    let test = |family| -> Result<()> {
        let mut rig = Rig::prepare(&Layout {
            family,
            ..Layout::default()
        })?;
        rig.start_daemon()?;
        let (gateway, mac) = (layout::on_link(3, 5), layout::neighbour_mac(3, 5));
        answer(&rig, 3, gateway, mac)
    };
    for family in Family::ALL {
        test(family).unwrap();
    }
}

/// The router's own addresses among others: its programs receive, also at TTL 1 and with X set.
#[test]
fn local_and_remote() {
    rig::with(&Layout::default(), |rig| {
        let bind = |address: Ipv4Addr| {
            let address = rig.ip(address);
            rig.router.enter(|| {
                let socket = UdpSocket::bind((address, COMMON_PORT))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })
        };
        let sockets = [bind(layout::router(0))?, bind(layout::router(3))?];
        let packet = rig::udp(list([
            layout::router(0),
            layout::behind(1, 1),
            layout::router(3),
            layout::behind(2, 1),
            layout::behind(2, 2),
        ]));
        for (ttl, x) in [(64, false), (1, false), (64, true), (1, true)] {
            let mut packet = packet.clone();
            packet.ip.ttl = ttl;
            packet.xcast.x = x;
            rig.check(0, &packet.frame())?;
            for socket in &sockets {
                let mut buffer = [0; 2000];
                let (len, from) = socket.recv_from(&mut buffer)?;
                ensure!(buffer[..len] == packet.segment[8..]);
                ensure!(from == (rig.ip(SOURCE), SOURCE_PORT).into(), "from {from}");
                socket.set_nonblocking(true)?;
                ensure!(socket.recv(&mut buffer).is_err(), "delivered twice");
                socket.set_nonblocking(false)?;
            }
        }
        Ok(())
    });
}

/// Strict reverse path filtering elsewhere must not stop what the router hands to the kernel.
#[test]
fn local_with_strict_reverse_path_filter() {
    if !tests::namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut rig = Rig::prepare(&Layout::default())?;
        for interfaces in ["all", "default"] {
            rig.router
                .sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "1")?;
        }
        rig.start_daemon()?;
        let socket = rig.router.enter(|| {
            let socket = UdpSocket::bind((layout::router(2), COMMON_PORT))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        let packet = rig::udp(list([layout::router(2), layout::behind(1, 1)]));
        rig.check(0, &packet.frame())?;
        let mut buffer = [0; 2000];
        let len = socket.recv(&mut buffer)?;
        ensure!(buffer[..len] == packet.segment[8..]);
        rig.stop()
    };
    test().unwrap();
}

/// The source hears about the destination that cannot be reached, and about no other.
#[test]
fn icmp_for_what_cannot_be_reached() {
    rig::with_family(Family::Ipv4, &Layout::default(), |rig| {
        for (bad, code) in [
            (NOWHERE, 0),                     // network unreachable
            (Ipv4Addr::new(10, 4, 0, 1), 1),  // `unreachable`
            (Ipv4Addr::new(10, 4, 1, 1), 13), // `prohibit`
        ] {
            let good = [layout::behind(1, 1), layout::behind(1, 2)];
            let packet = rig::udp(list([good[0], bad, good[1]]));
            // Once only: the kernel sends few of these to one host.
            rig.drain()?;
            rig.taps[0].send(&packet.frame())?;
            let is_icmp = |ip: &Ip, _: &[u8]| ip.protocol == protocol::ICMP;
            let (ip, icmp) = next_packet(rig, 0, is_icmp)?;
            ensure!(ip.destination == SOURCE, "told {}", ip.destination);
            ensure!(
                icmp[..2] == [3, code],
                "{bad}: type and code {:?}",
                &icmp[..2]
            );
            // It quotes the unicast packet, so that the sender knows whom it is about.
            let quoted = &icmp[8..];
            ensure!(packet::address(quoted, 12) == Some(SOURCE.into()));
            ensure!(packet::address(quoted, 16) == Some(bad.into()));
            ensure!(quoted[9] == protocol::UDP);
            let (_, copy) = next_packet(rig, 1, |ip, _| ip.protocol == PROTOCOL)?;
            let (xcast, _) = Xcast::parse(Family::Ipv4, &copy).context("not Xcast")?;
            ensure!(xcast.destinations == list(good));
            std::thread::sleep(Duration::from_millis(50));
            while let Some(frame) = rig.taps[0].take()? {
                ensure!(frame[23] != protocol::ICMP, "{}", rig::describe(&frame));
            }
        }
        // A blackhole is silent.
        let packet = rig::udp(list([Ipv4Addr::new(10, 3, 0, 1), layout::behind(1, 1)]));
        let expected = rig.check(0, &packet.frame())?;
        ensure!(expected.counters["skip_blackhole"] == 1);
        rig.drain()?;
        rig.taps[0].send(&packet.frame())?;
        std::thread::sleep(Duration::from_millis(50));
        while let Some(frame) = rig.taps[0].take()? {
            ensure!(frame[23] != protocol::ICMP, "{}", rig::describe(&frame));
        }
        Ok(())
    });
}

/// A route by an interface that the router was not told to use is the kernel's.
#[test]
fn interface_that_is_not_a_port() {
    rig::with(&Layout::default(), |rig| {
        let packet = rig::udp(list([Ipv4Addr::new(10, 7, 0, 9), layout::behind(1, 1)]));
        let expected = rig.check(0, &packet.frame())?;
        ensure!(expected.counters["stack_no_port"] == 1);
        Ok(())
    });
}

/// An MTU that IPv6 can have, too.
fn narrow(mtu: usize) -> Layout {
    Layout {
        mtu: vec![(1, mtu)],
        gateways: Gateways::List,
        ..Layout::default()
    }
}

fn long(destinations: Vec<Destination>, payload_len: usize, df: bool) -> Packet {
    let payload: Vec<u8> = (0..payload_len).map(|octet| octet as u8).collect();
    let segment = packet::udp((SOURCE, SOURCE_PORT), (GROUP, COMMON_PORT), &payload, None);
    let mut packet = rig::carrying(protocol::UDP, destinations, segment);
    packet.ip.fragment = if df { 0x4000 } else { 0 };
    packet
}

/// What does not fit in one piece the kernel fragments, or refuses with the MTU in its answer.
#[test]
fn egress_mtu_too_small() {
    rig::with_family(Family::Ipv4, &narrow(600), |rig| {
        let destinations = [
            layout::host(1, 0),
            layout::behind(2, 1),
            layout::behind(2, 2),
        ];
        let packet = long(list(destinations), 1000, false);
        rig.drain()?;
        let before = rig.counters()?;
        rig.taps[0].send(&packet.frame())?;
        let mut whole = Vec::new();
        loop {
            let to_host = |ip: &Ip, _: &[u8]| ip.destination == destinations[0];
            let (ip, piece) = next_packet(rig, 1, to_host)?;
            ensure!(ip.total_len <= Some(600));
            ensure!(ip.identification == packet.ip.identification && ip.ttl == 63);
            let offset = usize::from(ip.fragment & 0x1fff) * 8;
            ensure!(offset == whole.len(), "fragments out of order");
            whole.extend(piece);
            if ip.fragment & 0x2000 == 0 {
                break;
            }
        }
        let (from, to) = ((SOURCE, SOURCE_PORT), (destinations[0], COMMON_PORT));
        ensure!(whole == packet::udp(from, to, &packet.segment[8..], None));
        let counted = rig.counters()?.since(&before);
        ensure!(counted.get("stack_mtu") == Some(&1), "{counted:?}");

        let packet = long(list(destinations), 1000, true);
        rig.drain()?;
        rig.taps[0].send(&packet.frame())?;
        let is_icmp = |ip: &Ip, _: &[u8]| ip.protocol == protocol::ICMP;
        let (ip, icmp) = next_packet(rig, 0, is_icmp)?;
        ensure!(ip.destination == SOURCE);
        ensure!(icmp[..2] == [3, 4], "type and code {:?}", &icmp[..2]);
        ensure!(
            be16(&icmp, 6) == Some(600),
            "told an MTU of {:?}",
            be16(&icmp, 6)
        );
        ensure!(packet::address(&icmp[8..], 16) == Some(destinations[0].into()));
        Ok(())
    });
}

/// An Xcast copy can be too long where each of its destinations' unicast packets is not: the kernel
/// forwards them. One octet less, and it is a copy again.
#[test]
fn list_too_long_for_the_mtu() {
    rig::with(&narrow(1300), |rig| {
        let destinations = [layout::behind(1, 1), layout::behind(1, 2)];
        let headers = match rig.family() {
            // IP 20, Xcast 24, UDP 8.
            Family::Ipv4 => 52,
            // IP 40, routing header 8 + 16 + 8 + 32, UDP 8.
            Family::Ipv6 => 112,
        };
        let fits = long(list(destinations), 1300 - headers, true);
        let expected = rig.check(0, &fits.frame())?;
        ensure!(expected.branches.len() == 1);
        let too_long = long(list(destinations), 1301 - headers, true);
        let expected = tests::oracle::expect(&rig.view, 0, &too_long.frame());
        ensure!(expected.stack.len() == 2);
        let mac = layout::neighbour_mac(1, 2);
        let mut wanted = Observed {
            branches: destinations
                .map(|destination| delivered(&too_long, destination, 1, mac))
                .to_vec(),
            stack: expected.stack,
        };
        loop {
            let before = rig.counters()?;
            let seen = rig.observe(0, &too_long.frame())?;
            let counted = rig.counters()?.since(&before);
            if counted.contains_key("recirculated") {
                // Going round, the packet gets shorter, until what is left of it fits.
                wanted.stack.clone_from(&seen.stack);
            } else {
                wanted.stack = tests::oracle::expect(&rig.view, 0, &too_long.frame()).stack;
                ensure!(counted.get("stack_mtu") == Some(&2), "{counted:?}");
            }
            rig::compare(&wanted, &seen).with_context(|| format!("{counted:?}"))?;
            if !counted.contains_key("recirculated") {
                break;
            }
        }
        // With X it must stay Xcast, and so cannot be served at all.
        let mut must_stay = too_long;
        must_stay.xcast.x = true;
        let expected = rig.check(0, &must_stay.frame())?;
        ensure!(expected.counters["skip_x_mtu"] == 2);
        Ok(())
    });
}

/// X: what cannot stay Xcast is dropped and counted, each reason by its name.
#[test]
fn x_bit() {
    rig::with(&Layout::default(), |rig| {
        let mut packet = rig::udp(list([
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::behind(2, 1),
            layout::host(3, 0),
            layout::behind_plain(1, 1),
            layout::behind_plain(1, 2),
            NOWHERE,
            layout::on_link(1, 201),
            layout::behind_silent(1, 1),
            Ipv4Addr::new(10, 4, 0, 1),
            Ipv4Addr::new(10, 3, 0, 1),
            Ipv4Addr::new(10, 7, 0, 9),
        ]));
        packet.xcast.x = true;
        let expected = rig.check(0, &packet.frame())?;
        ensure!(expected.counters["skip_x_incapable"] == 2);
        ensure!(expected.counters["skip_x_stack"] == 5);
        ensure!(expected.branches.len() == 3 && expected.stack.is_empty());
        Ok(())
    });
}

/// TTL counts for copies on wires only.
#[test]
fn ttl() {
    rig::with(&Layout::default(), |rig| {
        for ttl in [0, 1, 2] {
            let mut packet = rig::udp(list([
                layout::behind(1, 1),
                layout::host(2, 0),
                layout::router(3),
            ]));
            packet.ip.ttl = ttl;
            rig.check(0, &packet.frame())?;
        }
        Ok(())
    });
}
