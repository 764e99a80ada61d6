//! Bad packets: each kind dropped and counted under its own name, and none does any harm.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use tests::family::Family;
use tests::layout::{self, GROUP, Layout, PROTOCOL};
use tests::oracle;
use tests::packet::{ETHERNET_LEN, IPV4_LEN, Packet, protocol};
use tests::rig::{self, Rig, list};

fn good() -> Packet {
    let destinations = [
        layout::behind(1, 1),
        layout::behind(2, 1),
        layout::behind(3, 1),
    ];
    let mut packet = rig::udp(list(destinations));
    (packet.xcast.d, packet.xcast.p) = (true, true);
    packet
}

/// Sends a frame that must be dropped for one reason, twice, and sees that a good one still passes.
fn dropped(rig: &Rig, frame: &[u8], counter: &'static str) -> Result<()> {
    let expected = oracle::expect(&rig.view, 0, frame);
    ensure!(
        expected.counters == [(counter, 1)].into(),
        "the test wants {counter}, the oracle says {:?}",
        expected.counters
    );
    for _ in 0..2 {
        rig.check(0, frame).context(counter)?;
    }
    rig.check(0, &good().frame())
        .with_context(|| format!("after {counter}"))?;
    Ok(())
}

/// The IPv6 header has no length, checksum and options that could be wrong, and there is no broadcast.
fn exists_in_ipv6(counter: &str, packet: &Packet) -> bool {
    let version_only = packet.ip.version_ihl.is_some_and(|octet| octet >> 4 == 6);
    let broadcast = packet.ip.source == layout::on_link(2, 255);
    !version_only && !broadcast && !["drop_ip_checksum", "drop_ip_options"].contains(&counter)
}

#[test]
fn every_reason_has_its_counter() {
    type Change = fn(&mut Packet);
    let cases: &[(&'static str, Change)] = &[
        ("drop_ip_header", |packet| {
            packet.ip.version_ihl = Some(0x65);
        }),
        ("drop_ip_header", |packet| {
            packet.ip.version_ihl = Some(0x05);
        }),
        ("drop_ip_header", |packet| {
            packet.ip.version_ihl = Some(0x44);
        }),
        ("drop_ip_header", |packet| {
            packet.ip.version_ihl = Some(0x40);
        }),
        ("drop_ip_checksum", |packet| {
            packet.ip.checksum = Some(0xbad);
        }),
        ("drop_ip_checksum", |packet| packet.ip.checksum = Some(0)),
        ("drop_ip_options", |packet| packet.ip.options = vec![1; 4]),
        ("drop_ip_options", |packet| packet.ip.options = vec![1; 40]),
        ("drop_fragment", |packet| packet.ip.fragment = 0x2000),
        ("drop_fragment", |packet| packet.ip.fragment = 0x0001),
        ("drop_fragment", |packet| packet.ip.fragment = 0x1fff),
        ("drop_fragment", |packet| packet.ip.fragment = 0x6000),
        ("drop_truncated", |packet| packet.ip.total_len = Some(20)),
        ("drop_truncated", |packet| packet.ip.total_len = Some(31)),
        ("drop_truncated", |packet| packet.ip.total_len = Some(19)),
        ("drop_truncated", |packet| packet.ip.total_len = Some(0)),
        ("drop_truncated", |packet| {
            packet.ip.total_len = Some(0xffff);
        }),
        ("drop_version", |packet| packet.xcast.version = 0),
        ("drop_version", |packet| packet.xcast.version = 2),
        ("drop_version", |packet| packet.xcast.version = 15),
        ("drop_length", |packet| packet.xcast.len_words = Some(0)),
        ("drop_length", |packet| packet.xcast.len_words = Some(9)),
        ("drop_length", |packet| packet.xcast.len_words = Some(11)),
        ("drop_length", |packet| packet.xcast.len_words = Some(255)),
        // One more or fewer destination still fits the same words of DS bytes, not of addresses.
        ("drop_length", |packet| packet.xcast.count = Some(2)),
        ("drop_length", |packet| packet.xcast.count = Some(4)),
        ("drop_length", |packet| packet.xcast.count = Some(127)),
        ("drop_no_destinations", |packet| {
            packet.xcast.destinations.clear();
        }),
        ("drop_no_destinations", |packet| {
            packet.xcast.count = Some(0);
        }),
        ("drop_checksum", |packet| packet.xcast.checksum = Some(1)),
        ("drop_checksum", |packet| packet.xcast.checksum = Some(0)),
        ("drop_nested", |packet| packet.xcast.protocol = PROTOCOL),
        ("drop_source", |packet| {
            packet.ip.source = [224, 0, 0, 9].into();
        }),
        ("drop_source", |packet| packet.ip.source = GROUP.into()),
        ("drop_source", |packet| {
            packet.ip.source = Ipv4Addr::BROADCAST.into();
        }),
        ("drop_source", |packet| {
            packet.ip.source = Ipv4Addr::LOCALHOST.into();
        }),
        ("drop_source", |packet| {
            packet.ip.source = Ipv4Addr::UNSPECIFIED.into();
        }),
        ("drop_source", |packet| {
            packet.ip.source = layout::on_link(2, 255).into();
        }),
        ("drop_spoofed", |packet| {
            packet.ip.source = layout::router(0).into();
        }),
        ("drop_spoofed", |packet| {
            packet.ip.source = layout::router(2).into();
        }),
        ("drop_spoofed", |packet| {
            packet.ip.source = layout::OTHER_ADDRESS.into();
        }),
    ];
    rig::with(&Layout::default(), |rig| {
        for (counter, change) in cases {
            let mut packet = good();
            change(&mut packet);
            if rig.family() == Family::Ipv6 && !exists_in_ipv6(counter, &packet) {
                continue;
            }
            dropped(rig, &packet.frame(), counter)?;
        }
        // The Xcast header is longer than the packet, though its own fields agree.
        let mut packet = good();
        let family = rig.family();
        let header = packet.in_family(family).xcast.emit(family);
        packet.ip.total_len = Some((family.ip_len() + header.len() - 1) as u16);
        dropped(rig, &packet.frame(), "drop_truncated")?;
        // Every bit of the header counts for its checksum.
        let good = good();
        let header = good.in_family(family).xcast.emit(family);
        let covered = match family {
            Family::Ipv4 => header.len(),
            // HdrExtLen: the checksum of Xcast6 is that of the routing header.
            Family::Ipv6 => 8 * (usize::from(header[1]) + 1),
        };
        for octet in 0..covered {
            if (family, octet) == (Family::Ipv6, 2) {
                // Another routing type is not Xcast.
                continue;
            }
            let mut frame = good.frame();
            frame[ETHERNET_LEN + family.ip_len() + octet] ^= 0x10;
            let before = rig.counters()?;
            let seen = rig.observe(0, &frame)?;
            ensure!(seen == rig::Observed::default(), "octet {octet} changed");
            let counted = rig.counters()?.since(&before);
            let reason = match (family, octet) {
                (Family::Ipv4, 0) | (Family::Ipv6, 4) => "drop_version",
                (Family::Ipv4, 1 | 9) | (Family::Ipv6, 1 | 5) => "drop_length",
                (Family::Ipv6, 3) => "drop_segments_left",
                _ => "drop_checksum",
            };
            ensure!(
                counted == [(reason.to_owned(), 1)].into(),
                "octet {octet} changed: {counted:?}"
            );
        }
        Ok(())
    });
}

/// A frame cut short anywhere leads to nothing but a counter, or is not recognised at all.
#[test]
fn truncated_frames() {
    rig::with(&Layout::default(), |rig| {
        let mut longest = good();
        longest.xcast.destinations = list((0..127).map(|last| layout::behind(last % 4, last)));
        for packet in [good(), longest] {
            let frame = packet.frame();
            let lengths = (ETHERNET_LEN..frame.len()).filter(|len| *len < 120 || len % 41 == 0);
            for len in lengths {
                // Once as it stands, once with an IP length that agrees with what is left.
                let cut = frame[..len].to_vec();
                let mut agreeing = packet.clone();
                agreeing.ip.total_len = Some((len - ETHERNET_LEN) as u16);
                let agreeing = agreeing.frame()[..len].to_vec();
                rig.check_all(&[(0, cut), (0, agreeing)])
                    .with_context(|| format!("cut to {len} of {} octets", frame.len()))?;
            }
        }
        rig.check(0, &good().frame())?;
        Ok(())
    });
}

/// Random octets after the IPv4 header, and random changes of a good packet.
#[test]
fn random_octets() {
    rig::with_family(Family::Ipv4, &Layout::default(), |rig| {
        // A fixed sequence (xorshift), so that a failure can be repeated.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let before = rig.counters()?;
        let mut frames = Vec::new();
        for _ in 0..400 {
            let good = good();
            let len = (random() % 300) as usize;
            let payload: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            frames.push((
                0,
                tests::packet::ethernet(
                    good.destination_mac,
                    good.source_mac,
                    tests::packet::ETHER_TYPE_IPV4,
                    &good.ip.emit(&payload),
                ),
            ));
            let mut frame = good.frame();
            for _ in 0..=random() % 4 {
                let at = ETHERNET_LEN + IPV4_LEN + (random() % 60) as usize;
                if let Some(octet) = frame.get_mut(at) {
                    *octet = random() as u8;
                }
            }
            frames.push((0, frame));
        }
        rig.check_all(&frames)?;
        let counted = rig.counters()?.since(&before);
        let received: u64 = counted
            .iter()
            .filter(|(name, _)| name.starts_with("drop_") || *name == "received")
            .map(|(_, count)| count)
            .sum();
        ensure!(received == 800, "800 packets were sent: {counted:?}");
        rig.check(0, &good().frame())?;
        Ok(())
    });
}

/// A packet whose list has no valid destination left is well formed, and nobody's.
#[test]
fn nothing_left_to_do() {
    rig::with(&Layout::default(), |rig| {
        let mut packet = good();
        for destination in &mut packet.xcast.destinations {
            destination.valid = false;
        }
        rig.check(0, &packet.frame())?;
        Ok(())
    });
}

/// What is not for this router is none of its business, well formed or not.
#[test]
fn others_packets_are_untouched() {
    rig::with(&Layout::default(), |rig| {
        let before = rig.counters()?;
        let mut packets = Vec::new();
        let mut with = |change: &dyn Fn(&mut Packet)| {
            let mut packet = good();
            change(&mut packet);
            packets.push(packet.frame());
        };
        with(&|packet| packet.destination_mac = [2, 9, 9, 9, 9, 9]);
        with(&|packet| packet.destination_mac = [0xff; 6]);
        with(&|packet| packet.destination_mac = layout::router_mac(1));
        with(&|packet| packet.ip.protocol = PROTOCOL - 1);
        with(&|packet| packet.ip.protocol = protocol::UDP);
        with(&|packet| packet.ip.destination = [224, 0, 0, 253].into());
        let tap = tests::tap::Tap::open(&rig.router, &layout::interface(0))?;
        for frame in packets {
            tap.drain()?;
            ensure!(rig.observe(0, &frame)? == rig::Observed::default());
            let seen = tap.take()?.context("the kernel did not get it")?;
            ensure!(seen == frame, "the kernel got it changed");
        }
        let counted = rig.counters()?.since(&before);
        ensure!(counted.is_empty(), "{counted:?}");
        // To somebody else behind this router: the kernel forwards it as any other packet.
        let mut packet = good();
        packet.ip.destination = layout::behind(2, 77).into();
        let seen = rig.observe(0, &packet.frame())?;
        packet.ip.ttl -= 1;
        packet.destination_mac = layout::neighbour_mac(2, 2);
        packet.source_mac = layout::router_mac(2);
        let wanted = rig::Observed {
            branches: vec![oracle::Branch {
                port: 2,
                frame: packet.frame(),
            }],
            stack: Vec::new(),
        };
        rig::compare(&wanted, &seen)
    });
}
