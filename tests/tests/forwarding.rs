//! Copies: who gets which, and what is in them.

use anyhow::{Result, ensure};
use std::net::Ipv4Addr;
use tests::family::Family;
use tests::layout::{self, GROUP, Gateways, Layout};
use tests::oracle::Prune;
use tests::packet::{self, Destination, Packet, protocol};
use tests::rig::{self, COMMON_PORT, Rig, SOURCE, SOURCE_PORT, list};

const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

fn layout(prune: Prune) -> Layout {
    Layout {
        prune,
        anycast: vec![ANYCAST],
        ..Layout::default()
    }
}

/// `count` different destinations behind everything that four ports have, each with a port and a DS
/// byte of its own.
fn mixture(count: usize) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for index in 0..count {
        let (port, last) = (index % 4, 10 + index / 4);
        let address = match index % 7 {
            0 | 3 | 6 => layout::behind(port, last),
            1 => layout::behind_plain(port, last),
            2 | 4 => layout::behind_second(port, last),
            _ => layout::host(port, index / 4 % 4),
        };
        let entry = Destination::new(address);
        destinations.push(entry.port(7000 + index as u16).ds((index * 37) as u8));
    }
    destinations
}

/// The packet with flags A, X, D, P as the bits of `flags` say.
fn flagged(flags: u8, destinations: Vec<Destination>) -> Packet {
    let mut packet = match flags & 1 {
        0 => rig::udp(destinations),
        _ => rig::udp_with_ports(destinations),
    };
    packet.xcast.a = flags & 8 != 0;
    packet.xcast.x = flags & 4 != 0;
    packet.xcast.d = flags & 2 != 0;
    packet.ip.ds = 0x2e << 2 | 2;
    packet
}

/// Lists of every length at which something changes in the header, with every combination of flags.
fn every_length_and_flag(rig: &Rig) -> Result<()> {
    for count in [1, 2, 3, 31, 32, 33, 63, 64, 65, 95, 96, 97, 126, 127] {
        let frames: Vec<_> = (0..16)
            .map(|flags| (0, flagged(flags, mixture(count)).frame()))
            .collect();
        rig.check_all(&frames)?;
    }
    Ok(())
}

/// Only destinations with their bit set count.
fn cleared_bits(rig: &Rig) -> Result<()> {
    for count in [2, 33, 65, 127] {
        for keep in [1, 2, 3, 5, 40] {
            let destinations: Vec<_> = mixture(count)
                .into_iter()
                .enumerate()
                .map(|(index, entry)| match index % keep == keep - 1 {
                    true => entry,
                    false => entry.cleared(),
                })
                .collect();
            let frames: Vec<_> = (0..16)
                .map(|flags| (0, flagged(flags, destinations.clone()).frame()))
                .collect();
            rig.check_all(&frames)?;
        }
    }
    Ok(())
}

#[test]
fn truncating() {
    rig::with(&layout(Prune::Truncate), |rig| {
        every_length_and_flag(rig)?;
        cleared_bits(rig)
    });
}

#[test]
fn clearing_bits() {
    rig::with(&layout(Prune::Bitmap), |rig| {
        every_length_and_flag(rig)?;
        cleared_bits(rig)
    });
}

/// Which gateways are believed to speak Xcast decides where copies part.
#[test]
fn gateways_that_speak_xcast() {
    for gateways in [Gateways::All, Gateways::None] {
        let layout = Layout {
            gateways,
            ..layout(Prune::Truncate)
        };
        rig::with(&layout, |rig| {
            for flags in 0..16 {
                rig.check(0, &flagged(flags, mixture(20)).frame())?;
            }
            Ok(())
        });
    }
}

/// X2U per transport protocol; see also the oracle's own tests.
fn transports(rig: &Rig) -> Result<()> {
    let source = (SOURCE, SOURCE_PORT);
    let to = |port| (GROUP, port);
    let odd = b"an odd number of octets";
    // This payload makes the unicast packet to the first destination's checksum come out as zero.
    let first = layout::behind(1, 1);
    let zeroing = |protocol, blank: &[u8]| {
        packet::transport_checksum(SOURCE, first, protocol, blank).to_be_bytes()
    };
    let udp_zero = zeroing(
        protocol::UDP,
        &packet::udp(source, (first, COMMON_PORT), &[0, 0], Some(0)),
    );
    let tcp_zero = zeroing(
        protocol::TCP,
        &packet::tcp(source, (first, COMMON_PORT), 1, &[0, 0], Some(0)),
    );
    for (p, port) in [(false, COMMON_PORT), (true, 0)] {
        let mut segments = vec![
            (protocol::UDP, packet::udp(source, to(port), odd, None)),
            (protocol::UDP, packet::udp(source, to(port), b"", None)),
            (protocol::UDP, packet::udp(source, to(port), odd, Some(0))),
            (
                protocol::UDP,
                packet::udp(source, to(port), odd, Some(0x1234)),
            ),
            (
                protocol::UDP,
                packet::udp(source, to(port), odd, Some(0xffff)),
            ),
            (protocol::TCP, packet::tcp(source, to(port), 9, odd, None)),
            (
                protocol::TCP,
                packet::tcp(source, to(port), 9, odd, Some(0)),
            ),
            (protocol::ICMP, packet::icmp_echo(1, 2, odd)),
            (protocol::DCCP, packet::dccp(source, to(port), odd)),
            (
                protocol::UDP_LITE,
                packet::udp_like(protocol::UDP_LITE, source, to(port), odd, None),
            ),
            (protocol::SCTP, vec![0x5a; 12]),
            (50, vec![0xa5; 24]),
            // Too short for their checksums, or for anything.
            (protocol::UDP, vec![1; 7]),
            (protocol::TCP, vec![1; 17]),
            (protocol::UDP, vec![1; 3]),
            (protocol::UDP, Vec::new()),
        ];
        if !p {
            let udp = packet::udp(source, to(port), &udp_zero, None);
            let tcp = packet::tcp(source, to(port), 1, &tcp_zero, None);
            segments.extend([(protocol::UDP, udp), (protocol::TCP, tcp)]);
        }
        for (protocol, segment) in segments {
            for d in [false, true] {
                let destinations = vec![
                    Destination::new(first).port(6001).ds(0xb8),
                    Destination::new(layout::host(2, 0)).port(6002).ds(0xff),
                    Destination::new(layout::behind_plain(3, 1)).port(0xffff),
                ];
                let mut packet = rig::carrying(protocol, destinations, segment.clone());
                (packet.xcast.p, packet.xcast.d) = (p, d);
                packet.ip.ds = 0x2e << 2 | 3;
                rig.check(0, &packet.frame())?;
            }
        }
    }
    Ok(())
}

#[test]
fn x2u_of_transports() {
    rig::with(&layout(Prune::Truncate), transports_of);
    fn transports_of(rig: &mut Rig) -> Result<()> {
        transports(rig)
    }
}

/// What copies keep of the packet, and what they do not.
#[test]
fn header_fields() {
    rig::with(&layout(Prune::Truncate), |rig| {
        let destinations = [
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::behind(2, 1),
        ];
        let packet = rig::udp(list(destinations));
        let mut changed = Vec::new();
        let mut with = |change: &dyn Fn(&mut Packet)| {
            let mut packet = packet.clone();
            change(&mut packet);
            changed.push(packet);
        };
        with(&|packet| packet.xcast.channel = 0);
        with(&|packet| packet.xcast.channel = 0xffff_ffff);
        with(&|packet| packet.ip.fragment = 0);
        with(&|packet| packet.ip.fragment = 0x8000);
        with(&|packet| packet.ip.identification = 0xffff);
        with(&|packet| packet.ip.ds = 0xff);
        with(&|packet| packet.ip.ttl = 255);
        with(&|packet| packet.ip.ttl = 2);
        with(&|packet| packet.ip.ttl = 1);
        with(&|packet| packet.ip.ttl = 0);
        with(&|packet| packet.xcast.r = true);
        with(&|packet| packet.xcast.reserved = 0xffff);
        with(&|packet| packet.xcast.stray_bits = true);
        with(&|packet| packet.ip.source = Ipv4Addr::new(198, 51, 100, 1).into());
        with(&|packet| {
            (packet.xcast.d, packet.xcast.p, packet.xcast.padding) = (true, true, 0xee);
        });
        for packet in &changed {
            rig.check(0, &packet.frame())?;
        }
        Ok(())
    });
}

/// The group, the router's own addresses and its anycast addresses all mean the router; copies that
/// stay Xcast leave to the group, or they would come back.
#[test]
fn addressed_to_the_router() {
    rig::with(&layout(Prune::Truncate), |rig| {
        let destinations = [
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::behind(2, 1),
        ];
        let mut packet = rig::udp(list(destinations));
        let own = [layout::router(0), layout::router(3), layout::OTHER_ADDRESS];
        for address in own.into_iter().chain([GROUP, ANYCAST]) {
            packet.ip.destination = address.into();
            let expected = rig.check(0, &packet.frame())?;
            ensure!(expected.branches.len() == 2);
        }
        Ok(())
    });
}

/// One copy per next hop, not per port; an address on the link is its own next hop.
#[test]
fn next_hops_on_one_port() {
    rig::with(&layout(Prune::Truncate), |rig| {
        let destinations = vec![
            layout::behind(1, 1),
            layout::behind_second(1, 1),
            layout::behind(1, 2),
            layout::behind_second(1, 2),
            layout::behind_plain(1, 1),
            layout::behind_plain(1, 2),
            layout::on_link(1, 2),
            layout::on_link(1, 3),
            layout::host(1, 0),
            layout::host(1, 1),
        ];
        let expected = rig.check(0, &rig::udp(list(destinations.clone())).frame())?;
        ensure!(expected.branches.len() == 8);
        // And back the way it came.
        let mut packet = rig::udp(list(destinations));
        packet.destination_mac = layout::router_mac(1);
        packet.source_mac = layout::neighbour_mac(1, 2);
        rig.check(1, &packet.frame())?;
        Ok(())
    });
}

/// What is named twice is delivered once, where this router delivers.
#[test]
fn repeated_destinations() {
    rig::with(&layout(Prune::Truncate), |rig| {
        let host = Destination::new(layout::host(1, 0));
        let behind = Destination::new(layout::behind_plain(2, 1));
        for entry in [host, behind] {
            let expected = rig.check(0, &rig::udp(vec![entry; 127]).frame())?;
            ensure!(expected.branches.len() == 1);
            // The first entry's DS byte wins.
            let twice = vec![entry.port(1).ds(0xb8), entry.port(1).ds(0x20)];
            let mut packet = rig::udp_with_ports(twice);
            packet.xcast.d = true;
            let expected = rig.check(0, &packet.frame())?;
            ensure!(expected.branches.len() == 1);
            // Another port is another destination.
            let packet = rig::udp_with_ports(vec![entry.port(1), entry.port(2), entry.port(1)]);
            let expected = rig.check(0, &packet.frame())?;
            ensure!(expected.branches.len() == 2);
        }
        let mixed = [host, behind, host, behind, behind, host];
        rig.check(0, &rig::udp(mixed.to_vec()).frame())?;
        let mut packet = rig::udp(mixed.to_vec());
        packet.xcast.x = true;
        rig.check(0, &packet.frame())?;
        Ok(())
    });
}

/// What can never be a destination is skipped; the others are served.
#[test]
fn never_a_destination() {
    rig::with(&layout(Prune::Truncate), |rig| {
        for never in [
            [224, 0, 0, 1],
            [239, 255, 255, 255],
            [240, 0, 0, 1],
            [255, 255, 255, 255],
            [127, 0, 0, 1],
            [127, 9, 9, 9],
            [169, 254, 0, 1],
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [10, 0, 1, 255],
        ] {
            // IPv6 has no broadcast.
            if rig.family() == Family::Ipv6 && never[3] == 255 && never[0] == 10 {
                continue;
            }
            let destinations = [layout::behind(1, 1), never.into(), layout::behind(2, 1)];
            let expected = rig.check(0, &rig::udp(list(destinations)).frame())?;
            ensure!(expected.counters["skip_never"] == 1);
        }
        Ok(())
    });
}

/// A source that is the group's member on the LAN: frames to the group's MAC are for the port that
/// is told to take them, and for no other.
#[test]
fn group_mac_address() {
    let layout = Layout {
        group_mac: vec![1],
        ..layout(Prune::Truncate)
    };
    rig::with(&layout, |rig| {
        let mut packet = rig::udp(list([layout::behind(2, 1), layout::behind(3, 1)]));
        packet.destination_mac = packet::group_mac(GROUP);
        let expected = rig.check(1, &packet.frame())?;
        ensure!(expected.branches.len() == 2);
        let expected = rig.check(0, &packet.frame())?;
        ensure!(expected.untouched);
        // To its own MAC both take it.
        for port in [0, 1] {
            packet.destination_mac = layout::router_mac(port);
            rig.check(port, &packet.frame())?;
        }
        Ok(())
    });
}

/// Octets behind the IP packet are not part of it.
#[test]
fn trailing_octets() {
    rig::with(&layout(Prune::Truncate), |rig| {
        let destinations = [
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::host(2, 0),
        ];
        let frame = rig::udp(list(destinations)).frame();
        let padded = [&frame[..], &[0xee; 17]].concat();
        let seen = rig.observe(0, &padded)?;
        let mut cut = seen.clone();
        for branch in &mut cut.branches {
            let total_len = packet::be16(&branch.frame, 16).unwrap_or(0);
            branch.frame.truncate(14 + usize::from(total_len));
        }
        let wanted = tests::oracle::expect(&rig.view, 0, &frame);
        let wanted = rig::Observed {
            branches: wanted.branches,
            stack: wanted.stack,
        };
        rig::compare(&wanted, &cut)
    });
}
