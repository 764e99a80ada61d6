//! Relays: ordinary hosts that serve sources, beside routers that know nothing of Xcast.

mod datapath;
mod network;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use network::{
    Network, PORT, UDP_PORT, forward, host, host4, ip, is_empty, join, nft, node, receive, relay,
    relays, run_ip, sender, until, with,
};
use serde_json::Value;
use tests::daemon::{self, Counters, PATIENCE};
use tests::family::{self, Family};
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace::Namespace;
use tests::packet::{self, Datagram, Destination, Ip, Packet, Xcast, protocol};
use tests::tap::Tap;
use tests::trio::until as eventually;
use xcast_host::relay::{Preference, SourceAddress, Standing};
use xcast_host::{Receiver, Relays, RouterAddresses, Sender, UnicastCause};

const SOURCE: u8 = 1;
const RELAY: u8 = 2;
const RECEIVERS: [u8; 2] = [3, 4];

fn receivers() -> Vec<SocketAddr> {
    RECEIVERS
        .iter()
        .map(|&number| (host(number), PORT).into())
        .collect()
}

/// Sends one message as one Xcast packet.
fn send(sender: &mut Sender, to: &[SocketAddr], payload: &[u8]) -> Result<()> {
    let sent = sender.send(to, payload)?;
    ensure!(
        (sent.xcast_packets, sent.unicast_packets) == (1, 0),
        "{sent:?}"
    );
    Ok(())
}

fn ready(sender: &mut Sender) -> Result<()> {
    let ready = sender.wait_for_router(PATIENCE)?;
    ensure!(ready, "{:?}, {:?}", sender.router(), sender.relays());
    Ok(())
}

fn backbone(node: &Namespace) -> Result<Value> {
    daemon::report(node, &["backbone"])
}

/// One packet on the source's link, whatever the number of receivers; they get plain unicast from the source's own address
/// and port, and their replies arrive there. The copies leave by the link that the packet came by.
#[test]
fn a_host_on_a_stick_serves_sources() {
    with(4, |network| {
        let _relay = network.serve(RELAY, "", "source = \"proven\"")?;
        let sockets = RECEIVERS.map(|number| network.receiver(number));
        let mut sender = network.sender(SOURCE, relays(&[RELAY]))?;
        ready(&mut sender)?;
        let before = Counters::read(network.host(RELAY))?;
        send(&mut sender, &receivers(), b"one packet")?;
        let from = SocketAddr::new(host(SOURCE), sender.socket().local_addr()?.port());
        ensure!(
            sender.seen_from(host(3)) == Some(from),
            "{:?}",
            sender.seen_from(host(3))
        );
        sender.socket().set_read_timeout(Some(PATIENCE))?;
        for socket in sockets {
            let socket = socket?;
            ensure!(receive(&socket)? == (b"one packet".to_vec(), from));
            socket.send_to(b"reply", from)?;
            ensure!(receive(sender.socket())?.0 == b"reply");
        }
        let counted = Counters::read(network.host(RELAY))?.since(&before);
        ensure!(
            counted["decapsulated"] >= 1 && counted["x2u"] >= 2,
            "{counted:?}"
        );
        ensure!(!counted.contains_key("drop_unproven"), "{counted:?}");
        let status = backbone(network.host(RELAY))?;
        ensure!(
            status["relay"]["questions_answered"].as_u64() >= Some(2),
            "{status}"
        );
        Ok(())
    });
}

/// An Xcast packet to the receivers as it goes inside UDP, or by itself.
fn packet_from(source: Ipv4Addr, to_mac: packet::Mac, from_mac: packet::Mac) -> Packet {
    let list = RECEIVERS.map(|number| Destination::new(host4(number)));
    Packet {
        destination_mac: to_mac,
        source_mac: from_mac,
        ip: Ip::new(source, GROUP, PROTOCOL),
        xcast: Xcast::new(protocol::UDP, list.to_vec()),
        segment: packet::udp((source, 4000), (GROUP, PORT), b"unproven", None),
    }
}

/// Octets that a host's interface has received (`rx`) or sent (`tx`).
fn octets(node: &Namespace, way: &str) -> Result<u64> {
    let links: Value = serde_json::from_str(&node.ip("-s -j link show dev h0")?)?;
    let octets = links[0]["stats64"][way]["bytes"].as_u64();
    octets.context("no statistics")
}

fn mac(node: &Namespace, interface: &str) -> Result<packet::Mac> {
    let text = node.ip(&format!("-o link show dev {interface}"))?;
    let word = text
        .split_whitespace()
        .find(|word| word.matches(':').count() == 5);
    let octets = word.context("no link-layer address")?.split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()?;
    octets.try_into().ok().context("six octets")
}

/// A thousand sources without a cookie get nothing, whether they send inside UDP or not; with a forged one, or that of
/// another, neither. Questions are answered by as much as was asked, and a source with a cookie is served meanwhile.
#[test]
fn a_thousand_unproven_sources_get_at_most_what_they_sent() {
    with(4, |network| {
        let _relay = network.serve(RELAY, "questions_per_second = 100", "source = \"proven\"")?;
        let sockets = RECEIVERS.map(|number| network.receiver(number));
        let [first, second] = sockets;
        let (first, second) = (first?, second?);
        let mut sender = network.sender(SOURCE, relays(&[RELAY]))?;
        ready(&mut sender)?;
        let to_mac = mac(&network.gateway, "g1")?;
        let from_mac = mac(network.host(SOURCE), "h0")?;
        let tap = Tap::open(network.host(SOURCE), "h0")?;
        let before = Counters::read(network.host(RELAY))?;
        let received_before = octets(network.host(RELAY), "rx")?;
        let sent_before = octets(network.host(RELAY), "tx")?;
        let ignored = || -> Result<u64> {
            let count = backbone(network.host(RELAY))?["relay"]["questions_ignored"].as_u64();
            count.context("no questions_ignored")
        };
        let ignored_before = ignored()?;
        for number in 0..1000u16 {
            let [high, low] = number.to_be_bytes();
            let source = Ipv4Addr::new(10, 80 + high, low, 9);
            let packet = packet_from(source, to_mac, from_mac);
            let bare = Datagram::around(&packet, host4(RELAY), UDP_PORT);
            let mut forged = bare.clone();
            let cookie = [&[1u8, 0, 0, 0][..], &number.to_be_bytes(), &[7; 10]].concat();
            forged.payload = [cookie, bare.payload.clone()].concat();
            let mut question = bare.clone();
            question.payload = vec![0; 80];
            question.payload[0] = 2;
            for datagram in [bare, forged, question] {
                tap.send(&datagram.frame())?;
            }
            // To the relay's own address, by itself.
            let mut native = packet;
            native.ip.destination = host4(RELAY).into();
            tap.send(&native.frame())?;
            // No more at once than a queue of veth holds.
            if number % 40 == 39 {
                let sent = u64::from(number) + 1;
                let counted =
                    || -> Result<_> { Ok(Counters::read(network.host(RELAY))?.since(&before)) };
                let is_counted = || -> Result<bool> {
                    let counted = counted()?;
                    Ok(counted.get("drop_unproven") == Some(&(2 * sent))
                        && counted.get("drop_cookie") == Some(&sent))
                };
                ensure!(
                    eventually(PATIENCE, is_counted)?,
                    "{sent}: {:?}",
                    counted()?
                );
            }
        }
        ensure!(ignored()? > ignored_before, "every question was answered");
        // Nobody got more than was sent in their name: answers are as long as questions, and there is nothing else.
        let [received, sent] = ["rx", "tx"].map(|way| octets(network.host(RELAY), way));
        let (received, sent) = (received? - received_before, sent? - sent_before);
        ensure!(
            sent > 0 && sent < received / 2,
            "{sent} octets sent for {received} received"
        );
        ensure!(
            is_empty(&first)? && is_empty(&second)?,
            "copies of unproven sources"
        );
        // Who has proven itself is served, and was asked for nothing more.
        ready(&mut sender)?;
        send(&mut sender, &receivers(), b"proven")?;
        ensure!(receive(&first)?.0 == b"proven" && receive(&second)?.0 == b"proven");
        Ok(())
    });
}

/// What a source proved is of no use to another, nor at another port.
#[test]
fn a_stolen_cookie_is_none() {
    with(4, |network| {
        let _relay = network.serve(RELAY, "", "source = \"proven\"")?;
        let socket = network.receiver(3)?;
        let sent = Tap::open_for_sent(network.host(SOURCE), "h0")?;
        let mut sender = network.sender(SOURCE, relays(&[RELAY]))?;
        ready(&mut sender)?;
        sent.drain()?;
        send(&mut sender, &receivers(), b"mine")?;
        ensure!(receive(&socket)?.0 == b"mine");
        let family = Family::under_test();
        let udp_at = packet::ETHERNET_LEN + family.ip_len();
        let is_packet =
            |frame: &[u8]| frame.get(udp_at + 8) == Some(&1) && frame.ends_with(b"mine");
        let deadline = Instant::now() + PATIENCE;
        let frame = loop {
            let frame = sent.receive(deadline)?.context("the packet was not sent")?;
            if is_packet(&frame) {
                break frame;
            }
        };
        let tap = Tap::open(network.host(SOURCE), "h0")?;
        let before = Counters::read(network.host(RELAY))?;
        let mut other_port = frame.clone();
        other_port[udp_at + 1] ^= 1;
        // The outer checksum is not looked at.
        tap.send(&other_port)?;
        let mut other_hash = frame;
        other_hash[udp_at + 8 + 15] ^= 1;
        tap.send(&other_hash)?;
        let dropped = || -> Result<bool> {
            let counted = Counters::read(network.host(RELAY))?.since(&before);
            Ok(counted.get("drop_cookie") == Some(&2))
        };
        ensure!(eventually(PATIENCE, dropped)?, "stolen cookies are taken");
        ensure!(is_empty(&socket)?);
        Ok(())
    });
}

/// A strict filter between relay and receivers drops copies with the source's address. That is found out, and named; a
/// relay that sends from its own address gets past it, and hands on what is replied.
#[test]
fn strict_reverse_path_filters() {
    with(5, |network| {
        network.filter_strictly()?;
        let witness = 5;
        let _witness = network.serve(witness, "", "source = \"proven\"")?;
        let sockets = RECEIVERS.map(|number| network.receiver(number));
        let tested = || Relays {
            source: SourceAddress::Tested,
            witness: Some(relay(witness).into()),
            ..relays(&[RELAY])
        };
        let daemon = network.serve(RELAY, "", "source = \"proven\"")?;
        let mut sender = network.sender(SOURCE, tested())?;
        until(&mut sender, "the filter is found", |sender| {
            sender.tend();
            Ok(sender.router() == Err(UnicastCause::Filtered))
        })?;
        let sent = sender.send(&receivers(), b"by unicast")?;
        ensure!(
            sent.unicast_packets == 2 && sent.xcast_packets == 0,
            "{sent:?}"
        );
        let says = UnicastCause::Filtered.to_string();
        ensure!(says.contains("rp_filter") && says.contains("BCP 38"));
        let output = ask_relays(network, &[&relay(RELAY).to_string()], witness)?;
        ensure!(output.0 == Some(1), "{output:?}");
        ensure!(
            output.1["relays"][0]["standing"] == "filtered",
            "{output:?}"
        );
        daemon.stop()?;

        let _daemon = network.serve(
            RELAY,
            "relayed_ports = [50000, 50003]",
            "source = \"proven\"",
        )?;
        let mut sender = network.sender(SOURCE, tested())?;
        ready(&mut sender)?;
        until(&mut sender, "the relay's address is used", |sender| {
            Ok(sender
                .seen_from(host(3))
                .is_some_and(|seen| seen.ip() == host(RELAY)))
        })?;
        send(&mut sender, &receivers(), b"by the relay")?;
        let seen = sender.seen_from(host(3)).context("no source")?;
        ensure!((50000..=50003).contains(&seen.port()), "{seen}");
        for (number, socket) in RECEIVERS.into_iter().zip(sockets) {
            let socket = socket?;
            ensure!(receive(&socket)?.0 == b"by unicast");
            ensure!(receive(&socket)? == (b"by the relay".to_vec(), seen));
            socket.send_to(format!("reply of {number}").as_bytes(), seen)?;
            let reply = wait_for_reply(&mut sender)?;
            ensure!(
                reply.from == SocketAddr::new(host(number), PORT),
                "{reply:?}"
            );
            ensure!(
                reply.payload == format!("reply of {number}").as_bytes(),
                "{reply:?}"
            );
        }
        let status = backbone(network.host(RELAY))?;
        let ports = status["relay"]["relayed"].as_array().context("no ports")?;
        ensure!(
            ports.iter().any(|row| row["port"] == seen.port()),
            "{status}"
        );
        Ok(())
    });
}

fn wait_for_reply(sender: &mut Sender) -> Result<xcast_host::Reply> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        sender.tend();
        if let Some(reply) = sender.take_reply() {
            return Ok(reply);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("no reply came")
}

/// `xcast-ctl backbone --relay` on the source's host: exit status and document.
fn ask_relays(network: &Network, relays: &[&str], witness: u8) -> Result<(Option<i32>, Value)> {
    let (witness, group6) = (relay(witness).to_string(), Family::Ipv6.address(GROUP));
    let numbers = [
        ("--protocol", PROTOCOL.to_string()),
        ("--group", GROUP.to_string()),
        ("--group6", group6.to_string()),
        ("--routing-type", PROTOCOL.to_string()),
        ("--ports-option", PORTS_OPTION.to_string()),
        ("--witness", witness),
    ];
    let mut arguments = vec!["backbone", "--json", "--timeout", "8"];
    for (option, value) in &numbers {
        arguments.extend([option, value.as_str()]);
    }
    for relay in relays {
        arguments.extend(["--relay", relay]);
    }
    let output = daemon::ctl(network.host(SOURCE), &arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout).with_context(|| errors.into_owned())?;
    Ok((output.status.code(), document))
}

/// Where no filter is between relay and receivers, copies with the source's address arrive, whatever is elsewhere.
#[test]
fn a_relay_near_the_receivers_needs_no_relayed_port() {
    // Host 2 is a router of a LAN with the receivers: relay and receivers are neighbours, and no filter is between them.
    with(2, |network| {
        network.filter_strictly()?;
        let lan = network.host(RELAY);
        let receivers: Vec<_> = (11..=12)
            .map(|number| {
                let receiver = node(&format!("r{number}"))?;
                join((lan, &*format!("l{number}")), (&receiver, "h0"), number)?;
                run_ip(
                    &network.gateway,
                    &format!("route add 10.70.{number}.0/24 via 10.70.{RELAY}.2"),
                )?;
                Ok((number, receiver))
            })
            .collect::<Result<_>>()?;
        let ports =
            "source = \"proven\"\n\n[[port]]\ninterface = \"l11\"\n\n[[port]]\ninterface = \"l12\"";
        let _daemon = network.serve(RELAY, "", ports)?;
        let mut sender = network.sender(SOURCE, relays(&[RELAY]))?;
        ready(&mut sender)?;
        let to: Vec<SocketAddr> = receivers
            .iter()
            .map(|(number, _)| (host(*number), PORT).into())
            .collect();
        let sockets = receivers.iter().map(|(number, receiver)| {
            let address = host(*number);
            receiver.enter(move || {
                let socket = UdpSocket::bind((address, PORT))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })
        });
        let sockets = sockets.collect::<Result<Vec<_>>>()?;
        send(&mut sender, &to, b"near")?;
        let port = sender.socket().local_addr()?.port();
        for socket in &sockets {
            ensure!(receive(socket)? == (b"near".to_vec(), (host(SOURCE), port).into()));
        }
        Ok(())
    });
}

/// Behind a NAT, receivers see the NAT's address; with a relayed port, their replies get through it.
#[test]
fn a_source_behind_a_nat() {
    with(4, |network| {
        let nat = network.host(SOURCE);
        forward(nat)?;
        let inside = node("inside")?;
        join((nat, "in0"), (&inside, "h0"), 99)?;
        let family = if Family::under_test() == Family::Ipv4 {
            "ip"
        } else {
            "ip6"
        };
        nft(
            nat,
            &format!(
                "table {family} nat {{ chain postrouting {{ type nat hook postrouting priority srcnat;\n\
                 oifname h0 masquerade\n}}\n}}\n"
            ),
        )?;
        let _daemon = network.serve(
            RELAY,
            "relayed_ports = [50000, 50003]",
            "source = \"proven\"",
        )?;
        let sockets = RECEIVERS.map(|number| network.receiver(number));
        let [first, second] = sockets;
        let (first, second) = (first?, second?);

        let family = Family::under_test();
        inside.enter(|| family::with(family, || behind_a_nat(&inside, [&first, &second])))
    });
}

/// The sender's part, inside the NAT.
fn behind_a_nat(inside: &Namespace, sockets: [&UdpSocket; 2]) -> Result<()> {
    let mut own = sender(inside, relays(&[RELAY]))?;
    ready(&mut own)?;
    send(&mut own, &receivers(), b"by the NAT")?;
    let seen = own.seen_from(host(3)).context("no source")?;
    ensure!(seen.ip() == host(SOURCE), "{seen}");
    ensure!(own.relays()[0].seen == Some(seen), "{:?}", own.relays());
    for socket in sockets {
        ensure!(receive(socket)? == (b"by the NAT".to_vec(), seen));
        // MASQUERADE lets in only who was sent to, and that was the relay.
        socket.send_to(b"lost", seen)?;
    }

    let by_relay = Relays {
        source: SourceAddress::Relayed,
        ..relays(&[RELAY])
    };
    let mut relayed = sender(inside, by_relay)?;
    ready(&mut relayed)?;
    send(&mut relayed, &receivers(), b"by the relay")?;
    let seen = relayed.seen_from(host(3)).context("no source")?;
    ensure!(seen.ip() == host(RELAY), "{seen}");
    ensure!(receive(sockets[0])? == (b"by the relay".to_vec(), seen));
    sockets[0].send_to(b"reply", seen)?;
    let reply = wait_for_reply(&mut relayed)?;
    ensure!(reply.from == SocketAddr::new(host(3), PORT) && reply.payload == b"reply");
    own.tend();
    ensure!(
        own.take_reply().is_none(),
        "a reply to the NAT's address came"
    );
    Ok(())
}

/// Copies from the relay's own address pass filters that drop those from the source's; in an envelope they say who the source
/// is, to a receiver that opens envelopes of this relay. To another one they are ordinary datagrams, and replies go straight to
/// the source.
#[test]
fn envelopes_from_the_relays_own_address() {
    with(5, |network| {
        network.filter_strictly()?;
        let _relay = network.serve(RELAY, "envelopes = true", "source = \"proven\"")?;
        let [opening, plain] = RECEIVERS.map(|number| network.receiver(number));
        let (opening, plain) = (opening?, plain?);
        let settings = Relays {
            source: SourceAddress::Enveloped,
            ..relays(&[RELAY])
        };
        let mut sender = network.sender(SOURCE, settings)?;
        ready(&mut sender)?;
        send(&mut sender, &receivers(), b"in an envelope")?;
        ensure!(sender.seen_from(host(3)) == Some(relay(RELAY)));
        let mut receiver = Receiver::new(opening, None).from_relays([relay(RELAY)]);
        let received = receiver.receive()?;
        let from = received.from;
        ensure!(received.payload == b"in an envelope" && received.relay == Some(relay(RELAY)));
        ensure!(sender.relays()[0].seen == Some(from) && from.ip() == host(SOURCE));
        receiver.socket().send_to(b"reply", from)?;
        let reply = wait_for_reply(&mut sender)?;
        ensure!(reply.from == SocketAddr::new(host(3), PORT) && reply.payload == b"reply");
        let (payload, from) = receive(&plain)?;
        ensure!(payload.ends_with(b"in an envelope") && payload.len() == 24 + 14);
        ensure!(from == relay(RELAY));

        // Somebody who is no relay opens nothing by an envelope of their own making.
        let (other, to) = (host(5), host(3));
        network.host(5).enter(|| -> Result<()> {
            let forged = UdpSocket::bind((other, 0))?;
            forged.send_to(&payload, (to, PORT))?;
            Ok(())
        })?;
        let forged = receiver.receive()?;
        ensure!(forged.relay.is_none() && forged.from.ip() == host(5) && forged.payload == payload);

        // What just fits arrives whole: the envelope counts. What does not was sent to each by unicast, without one.
        let most = largest_that_fits(&mut sender)?;
        let whole = loop {
            let received = receiver.receive()?;
            if received.relay.is_some() {
                break received.payload.len();
            }
        };
        ensure!(whole == most, "{whole} octets of {most}");

        // A relay that offers none is not used, and says why.
        let _other = network.serve(5, "", "source = \"proven\"")?;
        let mut refused = network.sender(
            SOURCE,
            Relays {
                source: SourceAddress::Enveloped,
                ..relays(&[5])
            },
        )?;
        until(&mut refused, "no envelopes", |sender| {
            let relays = sender.relays();
            let standing = relays.first().map(|status| status.known.standing);
            Ok(standing == Some(Standing::NotRelayed)
                && sender.router() == Err(UnicastCause::NotRelayed))
        })?;
        Ok(())
    });
}

/// Sources that share the relay's port do not share its limits: one that sends too much keeps no other from its own.
#[test]
fn enveloped_sources_have_limits_of_their_own() {
    with(5, |network| {
        let tables = "[relay]\nenvelopes = true\n\n[limits]\npackets_per_second = 20\n";
        let _relay = network.serve_by(RELAY, tables, "source = \"proven\"")?;
        let sockets = RECEIVERS.map(|number| network.receiver(number));
        let settings = || Relays {
            source: SourceAddress::Enveloped,
            ..relays(&[RELAY])
        };
        let mut greedy = network.sender(SOURCE, settings())?;
        let mut modest = network.sender(5, settings())?;
        ready(&mut greedy)?;
        // Host 5 opens its sockets there.
        let (family, here) = (Family::under_test(), network.host(5));
        here.enter(|| family::with(family, || ready(&mut modest)))?;
        let before = Counters::read(network.host(RELAY))?;
        let limited = || -> Result<u64> {
            let counted = Counters::read(network.host(RELAY))?.since(&before);
            Ok(counted.get("drop_packet_limit").copied().unwrap_or(0))
        };
        let sent = 5;
        for number in 0..400 {
            greedy.send(&receivers(), b"too much")?;
            std::thread::sleep(Duration::from_millis(1));
            if number % 80 == 79 {
                send(&mut modest, &receivers(), b"little")?;
            }
        }
        ensure!(limited()? > 50, "nothing was too much");
        for socket in sockets {
            let socket = socket?;
            let mut came = 0;
            while came < sent {
                came += u32::from(receive(&socket)?.0.ends_with(b"little"));
            }
        }
        Ok(())
    });
}

/// Sends the longest message that leaves as one packet, on links with an MTU of 1500; returns its length.
fn largest_that_fits(sender: &mut Sender) -> Result<usize> {
    let most = (1200..1500).rev().find_map(|len| {
        let sent = sender.send(&receivers(), &vec![7; len]).ok()?;
        (sent.xcast_packets == 1 && sent.unicast_packets == 0).then_some(len)
    });
    most.context("nothing fits")
}

/// What `trace` and `explain` say where a relay is the way: the hops behind it, and whose packets it takes.
#[test]
fn the_way_through_a_relay_is_shown() {
    with(4, |network| {
        let _relay = network.serve(RELAY, "", "source = \"proven\"")?;
        let (to, via) = (
            RECEIVERS.map(|number| host(number).to_string()),
            relay(RELAY),
        );
        let config = tempfile::NamedTempFile::new()?;
        std::fs::write(
            config.path(),
            format!(
                "{}[[port]]\ninterface = \"h0\"\n",
                tests::trio::code_points()
            ),
        )?;
        let config = config.path().to_str().context("no name")?;
        let via = via.to_string();
        let trace = ["trace", "--config", config, "--relay", &via, &to[0], &to[1]];
        let document = daemon::report(network.host(SOURCE), &trace)?;
        ensure!(document["source"] == host(SOURCE).to_string(), "{document}");
        for (path, to) in document["paths"]
            .as_array()
            .context("no paths")?
            .iter()
            .zip(&to)
        {
            ensure!(path["reached"] == true, "{document}");
            let hops = path["hops"].as_array().context("no hops")?;
            // Kernels answer from their address towards the source, or where the packet arrived.
            let gateway =
                [SOURCE, RELAY].map(|link| ip(Ipv4Addr::new(10, 70, link, 1)).to_string());
            let addresses: Vec<_> = hops
                .iter()
                .filter_map(|hop| hop["address"].as_str())
                .collect();
            ensure!(
                matches!(addresses[..], [first, last] if gateway.iter().any(|own| own == first) && last == to),
                "{document}"
            );
            ensure!(
                hops.iter().all(|hop| hop["form"] == "unicast"),
                "{document}"
            );
        }
        let from = host(SOURCE).to_string();
        let document = daemon::report(network.host(RELAY), &["explain", &from, &to[0], &to[1]])?;
        let refused = document["arrivals"][0]["refused"].as_str();
        ensure!(
            refused.is_some_and(|why| why.starts_with("drop_unproven") && why.contains("4242")),
            "{document}"
        );
        // Nobody answers at another port.
        let nobody = SocketAddr::new(host(RELAY), 4243).to_string();
        let trace = ["trace", "--config", config, "--relay", &nobody, &to[0]];
        let output = daemon::ctl(network.host(SOURCE), &trace)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains("is no relay"),
            "{said}"
        );
        Ok(())
    });
}

/// No router at all: one of the receivers serves the others, as far as its quota goes.
#[test]
fn hosts_only() {
    with(4, |network| {
        // Receiver 2 opts in.
        let tables = "[relay]\n\n[limits]\ncopies_per_second = 40\n";
        let _daemon = network.serve_by(RELAY, tables, "source = \"proven\"")?;
        let all = [RELAY, 3, 4];
        let sockets = all.map(|number| network.receiver(number));
        let mut sender = network.sender(SOURCE, relays(&[RELAY]))?;
        ready(&mut sender)?;
        let to: Vec<SocketAddr> = all
            .iter()
            .map(|&number| (host(number), PORT).into())
            .collect();
        send(&mut sender, &to, b"to all")?;
        let mut receivers = Vec::new();
        for socket in sockets {
            let socket = socket?;
            let (payload, from) = receive(&socket)?;
            ensure!(payload == b"to all" && from.ip() == host(SOURCE), "{from}");
            receivers.push(socket);
        }
        // More than the host has opted in for is not copied.
        let before = Counters::read(network.host(RELAY))?;
        let began = Instant::now();
        for _ in 0..60 {
            sender.send(&to, b"too much")?;
        }
        let limited = || -> Result<bool> {
            let counted = Counters::read(network.host(RELAY))?.since(&before);
            Ok(counted.contains_key("drop_copy_limit"))
        };
        ensure!(eventually(PATIENCE, limited)?, "the quota does not hold");
        let counted = Counters::read(network.host(RELAY))?.since(&before);
        let copies = counted.get("planned").copied().unwrap_or(0);
        // What had gathered in a second, one list that was under way, and what came since. Questions have copies, too.
        let most = 40.0 + 3.0 + 40.0 * began.elapsed().as_secs_f64();
        ensure!(copies as f64 <= most, "{most} allowed, {counted:?}");
        Ok(())
    });
}

/// Receives numbered messages up to the last one, and makes sure that each came once and from the source, but for those that may
/// be lost, of which some have to be: otherwise nothing ended.
fn only_lost(socket: &UdpSocket, last: u32, may_be: RangeInclusive<u32>) -> Result<()> {
    let mut seen = BTreeMap::<u32, u32>::new();
    while !seen.contains_key(&last) {
        let (payload, from) = receive(socket).with_context(|| format!("{seen:?}"))?;
        ensure!(from.ip() == host(SOURCE));
        let number = payload.as_slice().try_into().map(u32::from_be_bytes)?;
        *seen.entry(number).or_default() += 1;
    }
    ensure!(
        seen.values().all(|&times| times == 1),
        "something came twice: {seen:?}"
    );
    let lost: Vec<u32> = (1..=last)
        .filter(|number| !seen.contains_key(number))
        .collect();
    ensure!(
        !lost.is_empty() && lost.iter().all(|number| may_be.contains(number)),
        "lost {lost:?}, and may be {may_be:?}"
    );
    Ok(())
}

/// Two relays with one anycast address: when one dies and the route changes, the other goes on, and nobody gets
/// anything twice. Their cookies are the same.
#[test]
fn anycast_relays() {
    with(5, |network| {
        const ANYCAST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
        let other = 5;
        let secret = tempfile::NamedTempFile::new()?;
        std::fs::write(secret.path(), "00112233445566778899aabbccddeeff\n")?;
        let settings = format!("secret_file = {:?}", secret.path());
        let towards = |number: u8| {
            run_ip(
                &network.gateway,
                &format!("route replace {ANYCAST}/32 via 10.70.{number}.2"),
            )
        };
        let mut daemons = Vec::new();
        for number in [RELAY, other] {
            run_ip(
                network.host(number),
                &format!("address add {ANYCAST}/32 dev lo"),
            )?;
            daemons.push(network.serve(number, &settings, "source = \"proven\"")?);
        }
        towards(RELAY)?;
        let sockets = [network.receiver(3)?, network.receiver(4)?];
        let list = Relays {
            list: vec![SocketAddr::new(ip(ANYCAST), UDP_PORT).into()],
            ..relays(&[])
        };
        let mut sender = network.sender(SOURCE, list)?;
        ready(&mut sender)?;
        let instance = |sender: &Sender| sender.relays()[0].known.instance;
        let first = instance(&sender);
        let mut number = 0u32;
        let mut stream = |sender: &mut Sender, count: u32| -> Result<u32> {
            for _ in 0..count {
                number += 1;
                sender.send(&receivers(), &number.to_be_bytes())?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(number)
        };
        let before = stream(&mut sender, 50)?;
        // The one in use dies, with its datapath; then the routes change.
        daemons.remove(0).stop()?;
        stream(&mut sender, 20)?;
        towards(other)?;
        until(&mut sender, "the other answers", |sender| {
            Ok(instance(sender).is_some() && instance(sender) != first && sender.router().is_ok())
        })?;
        let gap_ends = stream(&mut sender, 1)? - 1;
        stream(&mut sender, 50)?;
        // Back to another one while both live, in the middle of a stream: nothing is lost, and nothing comes twice.
        daemons.push(network.serve(RELAY, &settings, "source = \"proven\"")?);
        towards(RELAY)?;
        let last = stream(&mut sender, 50)?;
        for socket in &sockets {
            only_lost(socket, last, before + 1..=gap_ends).with_context(|| {
                let stats = daemon::report(network.host(RELAY), &["stats"]);
                format!("{:?}; {stats:?}", sender.relays())
            })?;
        }
        Ok(())
    });
}

/// A relay that has too much to do says so, and one that has ended no longer answers: the next one is taken. What was sent to one
/// that had ended until that was noticed is lost, and nothing comes twice.
#[test]
fn the_next_relay_is_taken() {
    with(6, |network| {
        let (second, third) = (5, 6);
        // Any copy is too much for the first.
        let _busy = network.serve(
            RELAY,
            "capacity_copies_per_second = 1",
            "source = \"proven\"",
        )?;
        let ends = network.serve(second, "", "source = \"proven\"")?;
        let _stays = network.serve(third, "", "source = \"proven\"")?;
        let sockets = [network.receiver(3)?, network.receiver(4)?];
        let mut sender = network.sender(SOURCE, relays(&[RELAY, second, third]))?;
        ready(&mut sender)?;
        let used =
            |sender: &Sender, place: usize| sender.relays()[place].known.standing == Standing::Used;
        let mut number = 0u32;
        let mut stream = |sender: &mut Sender, is_so: &dyn Fn(&Sender) -> bool| -> Result<u32> {
            let deadline = Instant::now() + PATIENCE;
            while !is_so(sender) {
                ensure!(Instant::now() < deadline, "{:?}", sender.relays());
                number += 1;
                sender.send(&receivers(), &number.to_be_bytes())?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(number)
        };
        let before = stream(&mut sender, &|sender| used(sender, 1))?;
        ends.stop()?;
        let noticed = stream(&mut sender, &|sender| used(sender, 2))?;
        let end = Instant::now() + Duration::from_millis(200);
        let last = stream(&mut sender, &|_| Instant::now() > end)?;
        for socket in &sockets {
            only_lost(socket, last, before + 1..=noticed)?;
        }
        Ok(())
    });
}

/// Both of two relays that work are measured, and one of them is used.
#[test]
fn the_nearest_relay_is_measured() {
    with(5, |network| {
        let other = 5;
        let _one = network.serve(RELAY, "", "source = \"proven\"")?;
        let _other = network.serve(other, "", "source = \"proven\"")?;
        let mut nearest = network.sender(
            SOURCE,
            Relays {
                preference: Preference::Nearest,
                ..relays(&[RELAY, other])
            },
        )?;
        until(
            &mut nearest,
            "both are measured, and one is used",
            |sender| {
                let relays = sender.relays();
                let is = |standing| {
                    relays
                        .iter()
                        .filter(|relay| relay.known.standing == standing)
                        .count()
                };
                let all = relays.iter().all(|relay| relay.known.round_trip.is_some());
                Ok(all && is(Standing::Used) == 1 && is(Standing::Ready) == 1)
            },
        )
    });
}

/// A relay that is killed goes on forwarding for those who have a cookie, and the next one takes that cookie, too.
#[test]
fn cookies_outlive_a_relay_that_is_killed() {
    with(4, |network| {
        let daemon = network.serve(RELAY, "", "source = \"proven\"")?;
        let socket = network.receiver(3)?;
        let mut list = relays(&[RELAY]);
        // An answer counts until the end of the test.
        list.timing.hold = Duration::from_secs(100);
        let mut sender = network.sender(SOURCE, list)?;
        ready(&mut sender)?;
        let options = xcast_host::Options::default();
        let mut send = |payload: &[u8]| -> Result<()> {
            // Without asking anybody.
            let sent = sender.try_send_with(&options, &receivers(), payload)?;
            ensure!(sent.xcast_packets == 1, "{sent:?}");
            ensure!(receive(&socket)?.0 == payload);
            Ok(())
        };
        send(b"before")?;
        daemon.kill()?;
        send(b"meanwhile")?;
        let _daemon = network.serve(RELAY, "", "source = \"proven\"")?;
        send(b"after")
    });
}

/// Errors of a list that cannot work name what is missing.
#[test]
fn lists_that_cannot_work_are_refused() {
    with(1, |network| {
        let refused = |relays: Relays| match network.sender(1, relays) {
            Ok(_) => anyhow::bail!("taken"),
            Err(error) => Ok(format!("{error:#}")),
        };
        let empty = refused(relays(&[]))?;
        ensure!(empty.contains("at least one"), "{empty}");
        let nameless = refused(Relays::new([RouterAddresses::default()]))?;
        ensure!(nameless.contains("an address of each"), "{nameless}");
        let no_witness = refused(Relays {
            source: SourceAddress::Tested,
            ..relays(&[2])
        })?;
        ensure!(no_witness.contains("witness"), "{no_witness}");
        Ok(())
    });
}
